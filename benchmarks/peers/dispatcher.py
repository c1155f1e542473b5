"""The library of this repository."""

from __future__ import annotations

import sys
from typing import ClassVar, Final

from benchmarks import work
from benchmarks.peers.base import CALL_TIMEOUT, CanvasPeer, SyncPeer
from benchmarks.work import arguments
from dispatcher import Dispatcher, chord, group

app = Dispatcher("bench", broker=work.REDIS_URL, backend=work.REDIS_URL, task_ignore_result=not work.RESULTS)
tasks = {name: app.task(name=f"tasks.{name}")(function) for name, function in work.WORK.items()}
tick = tasks["tick"]
add = app.task(name="tasks.add")(work.add)
total = app.task(name="tasks.total")(work.total)


def worker(pool: str, concurrency: int) -> list[str]:
    """Return the command line of one worker."""
    command = [sys.executable, "-m", "dispatcher", "-A", "benchmarks.peers.dispatcher:app", "worker"]
    return [*command, "--pool", pool, "--concurrency", str(concurrency), "--loglevel", "WARNING"]


class DispatcherPeer(CanvasPeer, SyncPeer):
    """Dispatcher at its defaults but for the results."""

    name: ClassVar[str] = "dispatcher"
    add, total, group, chord = add, total, group, chord
    packages: ClassVar[tuple[str, ...]] = ("redis",)
    settings: ClassVar[str] = (
        "the defaults: prefork, or threads where tasks overlap in a process; results off unless read, then on the "
        "Redis backend, pushed"
    )
    on_kill: ClassVar[str] = "run again when their lease ends"

    def workers(self, processes: int, concurrency: int) -> list[list[str]]:
        """Return one prefork worker; where tasks are to overlap in a process, a worker with threads for each."""
        if concurrency < 2:
            return [worker("prefork", processes)]
        return [worker("threads", concurrency)] * processes

    def send(self) -> None:
        """Send one no-op."""
        tick.delay()

    def send_many(self, count: int) -> None:
        """Send no-ops in one call."""
        app.send_many([tick.s() for _ in range(count)])

    def send_work(self, work: str) -> None:
        """Send one task of a kind of work, with its arguments."""
        tasks[work].delay(*arguments(work))

    def call(self) -> int:
        """Send an addition and return its result."""
        result: int = add.delay(1, 2).get(timeout=CALL_TIMEOUT)
        return result

    def send_addition(self) -> None:
        """Send the addition."""
        add.delay(1, 2)


PEER: Final = DispatcherPeer()
