"""Our own redis-server may be stopped, killed, paused and started again at the same address."""

import socket
from collections.abc import Iterator

import pytest
import redis

from dispatcher.local import processes
from tests.emulation.redis_server import RedisFailed, RedisServer


@pytest.fixture
def durable(redis_executable: str) -> Iterator[RedisServer]:
    """A server that keeps every write."""
    with RedisServer(redis_executable, options={"appendonly": "yes", "appendfsync": "always"}) as server:
        yield server


def test_shared_server_answers_on_port_and_socket(redis_server: RedisServer) -> None:
    """The session's server is reachable by its URL and by its Unix socket."""
    with (
        redis.Redis.from_url(redis_server.url) as by_port,
        redis.Redis(unix_socket_path=str(redis_server.socket_path)) as by_path,
    ):
        assert by_port.ping()
        assert by_path.ping()


def test_durable_server_keeps_data_across_kill_and_restart(durable: RedisServer) -> None:
    """With appendonly, data survives SIGKILL and an orderly restart; port and URL stay."""
    url = durable.url
    with redis.Redis.from_url(url) as client:
        client.set("key", "value")
        durable.kill()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        durable.start()
        assert client.get("key") == b"value"
        durable.restart()
        assert client.get("key") == b"value"
    assert durable.url == url


def test_plain_server_forgets(redis_executable: str) -> None:
    """Without options nothing is stored."""
    with RedisServer(redis_executable) as server, redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
        server.restart()
        assert client.get("key") is None


def test_paused_server_hangs_until_resumed(durable: RedisServer) -> None:
    """A paused server accepts connections and answers nothing."""
    durable.pause()
    with socket.create_connection(("127.0.0.1", durable.port)) as connection:
        connection.sendall(b"PING\r\n")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(16)
        durable.resume()
        connection.settimeout(10)
        assert connection.recv(16) == b"+PONG\r\n"


def test_close_leaves_nothing(redis_executable: str) -> None:
    """A paused server can be closed; its process and its directory are gone."""
    server = RedisServer(redis_executable).start()
    pid, directory = server.pid, server.socket_path.parent
    server.pause()
    server.close()
    assert pid is not None
    assert not processes.command(pid)
    assert not directory.exists()


def test_server_that_cannot_start_says_why(redis_executable: str) -> None:
    """A wrong option is reported with the server's own words."""
    server = RedisServer(redis_executable, options={"no-such-option": "1"})
    with pytest.raises(RedisFailed, match="no-such-option"):
        server.start()
    server.close()
