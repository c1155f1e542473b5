"""SAQ."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from saq import Queue

from benchmarks import work
from benchmarks.peers.base import CALL_TIMEOUT, AsyncPeer, script

CONCURRENCY: Final = 10
#: Seconds between two looks for a result; its default is 0.5.
POLL: Final = 0.0005

queue = Queue.from_url(work.REDIS_URL, name="bench")


async def tick(_context: dict[str, Any]) -> None:
    """Count this run."""
    await work.tick_async()


async def add(_context: dict[str, Any], *, a: int, b: int) -> int:
    """Return the sum."""
    return await work.add_async(a, b)


settings: Final = {
    "queue": queue,
    "functions": [("tasks.tick", tick), ("tasks.add", add)],
    "concurrency": CONCURRENCY,
}


class Saq(AsyncPeer):
    """SAQ with async tasks; it passes arguments by name only."""

    name: ClassVar[str] = "saq"
    packages: ClassVar[tuple[str, ...]] = ("saq", "redis")
    settings: ClassVar[str] = (
        f"concurrency {CONCURRENCY} a process (default), job records dropped at once; "
        f"results: polled every {POLL * 1000} ms"
    )
    on_kill: ClassVar[str] = "found by the sweeper"

    def workers(self, processes: int) -> list[list[str]]:
        """Return one master with its worker processes."""
        return [[script("saq"), "benchmarks.peers.saq.settings", "--workers", str(processes), "--quiet"]]

    async def open(self) -> None:
        """Connect."""
        await queue.connect()

    async def close(self) -> None:
        """Disconnect."""
        await queue.disconnect()

    async def send(self) -> None:
        """Send one no-op."""
        await queue.enqueue("tasks.tick", ttl=-1)

    async def call(self) -> int:
        """Send an addition and return its result."""
        result: int = await queue.apply("tasks.add", timeout=CALL_TIMEOUT, poll_interval=POLL, a=1, b=2)
        return result

    async def add(self) -> None:
        """Send the addition."""
        await queue.enqueue("tasks.add", a=1, b=2)


PEER: Final = Saq()
