"""Huey."""

from __future__ import annotations

from typing import ClassVar, Final

from huey import RedisHuey

from benchmarks import work
from benchmarks.peers.base import CALL_TIMEOUT, SyncPeer, script

huey = RedisHuey("bench", url=work.REDIS_URL, results=work.RESULTS, notify_result=work.RESULTS)
tick = huey.task(name="tasks.tick")(work.tick)
add = huey.task(name="tasks.add")(work.add)


class Huey(SyncPeer):
    """Huey with process workers."""

    name: ClassVar[str] = "huey"
    packages: ClassVar[tuple[str, ...]] = ("huey", "redis")
    settings: ClassVar[str] = (
        "process workers, blocking pop (default), no periodic tasks, quiet; results: notify_result"
    )
    on_kill: ClassVar[str] = "lost (popped before they run)"

    def workers(self, processes: int) -> list[list[str]]:
        """Return one consumer with its worker processes."""
        options = ["--workers", str(processes), "--worker-type", "process", "--no-periodic", "--quiet"]
        return [[script("huey_consumer"), "benchmarks.peers.huey.huey", *options]]

    def send(self) -> None:
        """Send one no-op."""
        tick()

    def call(self) -> int:
        """Send an addition and return its result."""
        result: int = add(1, 2).get(blocking=True, timeout=CALL_TIMEOUT)
        return result

    def send_addition(self) -> None:
        """Send the addition."""
        add(1, 2)


PEER: Final = Huey()
