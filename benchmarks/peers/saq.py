"""SAQ."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final

from saq import Queue

from benchmarks import work
from benchmarks.peers.base import CALL_TIMEOUT, AsyncPeer, script
from benchmarks.work import arguments

#: Tasks at once in a process; SAQ's own default is 10.
CONCURRENCY: Final = int(os.environ.get("BENCH_SAQ_CONCURRENCY") or 10)
#: Seconds between two looks for a result; its default is 0.5.
POLL: Final = 0.0005

queue = Queue.from_url(work.REDIS_URL, name="bench")


def in_context(function: Callable[..., Awaitable[None]]) -> Any:
    """Return a coroutine function that takes the job's context first, as SAQ calls it."""

    async def run(_context: dict[str, Any], **arguments: Any) -> None:
        await function(**arguments)

    return run


async def add(_context: dict[str, Any], *, a: int, b: int) -> int:
    """Return the sum."""
    return await work.add_async(a, b)


settings: Final = {
    "queue": queue,
    "functions": [
        *((f"tasks.{name}", in_context(function)) for name, function in work.ASYNC_WORK.items()),
        ("tasks.add", add),
    ],
    "concurrency": CONCURRENCY,
}


class Saq(AsyncPeer):
    """SAQ with async tasks; it passes arguments by name only."""

    name: ClassVar[str] = "saq"
    packages: ClassVar[tuple[str, ...]] = ("saq", "redis")
    settings: ClassVar[str] = (
        f"concurrency {CONCURRENCY} a process (default) unless the row says otherwise, job records dropped at once; "
        f"results: polled every {POLL * 1000} ms"
    )
    on_kill: ClassVar[str] = "found by the sweeper"

    def workers(self, processes: int, concurrency: int) -> list[list[str]]:
        """Return one master with its worker processes."""
        return [[script("saq"), "benchmarks.peers.saq.settings", "--workers", str(processes), "--quiet"]]

    def variables(self, concurrency: int) -> dict[str, str]:
        """Return the concurrency, which is a setting of the worker's module."""
        return {"BENCH_SAQ_CONCURRENCY": str(concurrency or CONCURRENCY)}

    async def open(self) -> None:
        """Connect."""
        await queue.connect()

    async def close(self) -> None:
        """Disconnect."""
        await queue.disconnect()

    async def send(self) -> None:
        """Send one no-op."""
        await queue.enqueue("tasks.tick", ttl=-1)

    async def send_work(self, work: str) -> None:
        """Send one task of a kind of work, with its arguments by name."""
        await queue.enqueue(f"tasks.{work}", ttl=-1, **dict(zip(("payload",), arguments(work), strict=False)))

    async def call(self) -> int:
        """Send an addition and return its result."""
        result: int = await queue.apply("tasks.add", timeout=CALL_TIMEOUT, poll_interval=POLL, a=1, b=2)
        return result

    async def add(self) -> None:
        """Send the addition."""
        await queue.enqueue("tasks.add", a=1, b=2)


PEER: Final = Saq()
