"""A redis-server of our own: loopback, free port, nothing on disk."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import redis

from benchmarks.backlogs import DATABASES
from benchmarks.environment import variables
from benchmarks.processes import Child

_START_TIMEOUT: Final = 10.0
#: Seconds after which the server is stopped: longer than all rows take.
_LIMIT: Final = 4 * 3600


@dataclass(frozen=True)
class RedisServer:
    """A running server."""

    url: str
    pid: int


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """Run a redis-server without persistence for the length of the block."""
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("error: redis-server is not on the PATH; install it (on Debian: apt-get install redis-server)")
    port = _free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--loglevel", "warning"]
    server = Child([program, *options, "--databases", str(DATABASES)], variables(), _LIMIT)
    url = f"redis://127.0.0.1:{port}/0"
    try:
        _wait_until_ready(server, url)
        yield RedisServer(url, server.pids()[0])
    finally:
        server.stop()


def _wait_until_ready(server: Child, url: str) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    with redis.Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                if not server.running or time.monotonic() > deadline:
                    raise SystemExit(f"error: redis-server did not start:\n{server.output()}") from None
                time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
