"""Arq."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final

from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import func

from benchmarks import work
from benchmarks.peers.base import CALL_TIMEOUT, AsyncPeer, script
from benchmarks.work import arguments

#: Seconds between two looks for tasks or results; its default is 0.5.
POLL: Final = 0.001
CONCURRENCY: Final = int(os.environ.get("BENCH_ARQ_CONCURRENCY") or 100)

#: Two lines a job are its default.
LOGGING: Final = {"version": 1, "loggers": {"arq": {"level": "WARNING"}}}
REDIS: Final = RedisSettings.from_dsn(work.REDIS_URL)


def in_context(function: Callable[..., Awaitable[None]]) -> Any:
    """Return a coroutine function that takes the job's context first, as arq calls it."""

    async def run(_context: dict[Any, Any], *arguments: Any) -> None:
        await function(*arguments)

    return run


async def add(_context: dict[Any, Any], a: int, b: int) -> int:
    """Return the sum."""
    return await work.add_async(a, b)


class WorkerSettings:
    """What the arq command reads."""

    functions: ClassVar[list[Any]] = [
        *(func(in_context(each), name=f"tasks.{name}", keep_result=0) for name, each in work.ASYNC_WORK.items()),
        func(add, name="tasks.add"),
    ]
    redis_settings = REDIS
    max_jobs = CONCURRENCY
    poll_delay = POLL


class Arq(AsyncPeer):
    """Arq with a short poll, one command a process."""

    name: ClassVar[str] = "arq"
    packages: ClassVar[tuple[str, ...]] = ("arq", "redis")
    settings: ClassVar[str] = (
        f"max_jobs {CONCURRENCY} unless the row says otherwise, poll_delay {POLL * 1000} ms, keep_result 0 unless "
        "read, quiet"
    )
    on_kill: ClassVar[str] = "run again when their in-progress key expires"

    def __init__(self) -> None:
        self._pool: Any = None

    def workers(self, processes: int, concurrency: int) -> list[list[str]]:
        """Return one command a process."""
        logging = ["--custom-log-dict", "benchmarks.peers.arq.LOGGING"]
        return [[script("arq"), "benchmarks.peers.arq.WorkerSettings", *logging]] * processes

    def variables(self, concurrency: int) -> dict[str, str]:
        """Return the concurrency, which is a setting of the worker's module."""
        return {"BENCH_ARQ_CONCURRENCY": str(concurrency or CONCURRENCY)}

    async def open(self) -> None:
        """Connect."""
        self._pool = await create_pool(REDIS)

    async def close(self) -> None:
        """Disconnect."""
        await self._pool.aclose()

    async def send(self) -> None:
        """Send one no-op."""
        await self._pool.enqueue_job("tasks.tick")

    async def send_work(self, work: str) -> None:
        """Send one task of a kind of work, with its arguments."""
        await self._pool.enqueue_job(f"tasks.{work}", *arguments(work))

    async def call(self) -> int:
        """Send an addition and return its result."""
        job = await self._pool.enqueue_job("tasks.add", 1, 2)
        result: int = await job.result(timeout=CALL_TIMEOUT, poll_delay=POLL)
        return result

    async def add(self) -> None:
        """Send the addition."""
        await self._pool.enqueue_job("tasks.add", 1, 2)


PEER: Final = Arq()
