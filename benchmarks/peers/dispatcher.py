"""The library of this repository."""

from __future__ import annotations

import sys
from typing import ClassVar, Final

from benchmarks import work
from benchmarks.peers.base import CALL_TIMEOUT, CanvasPeer, SyncPeer
from dispatcher import Dispatcher, chord, group

app = Dispatcher("bench", broker=work.REDIS_URL, backend=work.REDIS_URL, task_ignore_result=not work.RESULTS)
tick = app.task(name="tasks.tick")(work.tick)
add = app.task(name="tasks.add")(work.add)
total = app.task(name="tasks.total")(work.total)


class DispatcherPeer(CanvasPeer, SyncPeer):
    """Dispatcher at its defaults but for the results."""

    name: ClassVar[str] = "dispatcher"
    add, total, group, chord = add, total, group, chord
    packages: ClassVar[tuple[str, ...]] = ("redis",)
    settings: ClassVar[str] = "prefork, the defaults; results off unless read, then on the Redis backend, pushed"
    on_kill: ClassVar[str] = "run again when their lease ends"

    def workers(self, processes: int) -> list[list[str]]:
        """Return one prefork worker."""
        pool = ["--pool", "prefork", "--concurrency", str(processes), "--loglevel", "WARNING"]
        return [[sys.executable, "-m", "dispatcher", "-A", "benchmarks.peers.dispatcher:app", "worker", *pool]]

    def send(self) -> None:
        """Send one no-op."""
        tick.delay()

    def send_many(self, count: int) -> None:
        """Send no-ops in one call."""
        app.send_many([tick.s() for _ in range(count)])

    def call(self) -> int:
        """Send an addition and return its result."""
        result: int = add.delay(1, 2).get(timeout=CALL_TIMEOUT)
        return result

    def send_addition(self) -> None:
        """Send the addition."""
        add.delay(1, 2)


PEER: Final = DispatcherPeer()
