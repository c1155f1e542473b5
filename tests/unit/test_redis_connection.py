"""How commands are packed and error replies explained; what needs a server is tested in contract and fault."""

from __future__ import annotations

import hashlib
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, ResponseError

from dispatcher.clock import ManualClock
from dispatcher.exceptions import OperationalError
from dispatcher.redis_connection import RedisConnections, Script, pack, to_error
from dispatcher.redis_settings import parse


def test_a_command_is_packed_as_the_server_reads_it() -> None:
    """Lengths are in bytes; numbers are written out; text is UTF-8."""
    assert pack("SET", "é", b"\r\n", 12) == b"*4\r\n$3\r\nSET\r\n$2\r\n\xc3\xa9\r\n$2\r\n\r\n\r\n$2\r\n12\r\n"


def test_a_script_is_called_by_its_digest() -> None:
    """Keys are counted, arguments follow."""
    text = "return 1"
    digest = hashlib.sha1(text.encode()).hexdigest()
    script = Script(text)
    command = script.call(("k1", "k2"), ("a", 3))
    assert command.packed == pack("EVALSHA", digest, 2, "k1", "k2", "a", 3)
    assert command.script is script
    assert script.load == pack("SCRIPT", "LOAD", text)


class Jumping(ManualClock):
    """A clock by which every look at it takes four seconds."""

    def monotonic(self) -> float:
        """Return the time, four seconds later than before."""
        self.advance(4.0)
        return super().monotonic()


@pytest.mark.parametrize(("clock", "tries"), [(ManualClock(), 4), (Jumping(), 2)])
def test_tries_that_take_long_are_not_repeated_for_ever(clock: ManualClock, tries: int, free_port: int) -> None:
    """As often as the settings say, unless the tries themselves take much longer than the pauses between them."""
    connections = RedisConnections(parse(f"redis://127.0.0.1:{free_port}", {"max_retries": 3}), clock)
    with pytest.raises(OperationalError, match=f"cannot be reached after {tries} tries: .*is its URL right"):
        connections.call("PING")


@pytest.mark.parametrize(
    ("reply", "remedy"),
    [
        (OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "raise maxmemory"),
        (ReadOnlyError("You can't write against a read only replica."), "name the primary"),
        (NoPermissionError("this user has no permissions"), "lacks a permission"),
        (ResponseError("The user executing the script can't run this command"), "lacks a permission"),
        (ResponseError("MISCONF Redis is configured to save RDB snapshots"), "cannot save to disk"),
        (ResponseError("WRONGTYPE Operation against a key"), "global_keyprefix"),
        (ResponseError("NOREPLICAS Not enough good replicas to write."), "min-replicas-to-write"),
        (ResponseError("MOVED 5061 10.0.0.2:6379"), "Redis Cluster"),
        (ResponseError("something else"), "something else"),
    ],
)
def test_an_error_reply_says_what_to_do(reply: ResponseError, remedy: str) -> None:
    """The error names the server, the remedy and the reply."""
    error = to_error(reply, "h:1/0")
    assert isinstance(error, OperationalError)
    assert "h:1/0" in str(error)
    assert remedy in str(error)
    assert str(reply) in str(error)


@contextmanager
def server_that_says(*replies: str) -> Iterator[str]:
    """Answer the first command of each connection with the next of these replies; yield the URL."""
    left = iter(replies)

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(next(left).encode() + b"\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield "redis://{}:{}".format(*server.server_address[:2])
        finally:
            server.shutdown()
            thread.join()


#: What 6.2.14 wrote, but for the digest.
ENDED = "-ERR Error running script (call to f_d229f9cd64): @user_script:55: "


@pytest.mark.parametrize(
    ("reply", "remedy"),
    [
        (ENDED + "@user_script: 55: -OOM command not allowed when used memory > 'maxmemory'.", "raise maxmemory"),
        (ENDED + "@user_script: 55: -NOREPLICAS Not enough good replicas to write.", "min-replicas-to-write"),
        (ENDED + "@user_script: 55: The user executing the script can't run this command", "lacks a permission"),
        (ENDED + "WRONGTYPE Operation against a key holding the wrong kind of value", "global_keyprefix"),
        ("-ERR ACL failure in script: User default has no permissions to run 'zadd'", "lacks a permission"),
    ],
)
def test_what_ends_a_script_is_told_as_of_a_command(reply: str, remedy: str) -> None:
    """Redis before 7 wraps it, and later ones give lacking permissions a code of their own."""
    with server_that_says(reply) as url, pytest.raises(OperationalError, match=remedy):
        RedisConnections(parse(url, {}), ManualClock()).run([Script("return 1").call((), ())])


def test_a_script_on_a_demoted_server_is_repeated_on_a_new_connection() -> None:
    """After a fail-over the address leads elsewhere, also where the refusal is wrapped as Redis before 7 does."""
    refused = ENDED + "@user_script: 55: -READONLY You can't write against a read only replica."
    with server_that_says(refused, "+OK") as url:
        connections = RedisConnections(parse(url, {}), ManualClock())
        assert connections.run([Script("return 1").call((), ())]) == [b"OK"]
        assert connections.opened == 2
        connections.close()
