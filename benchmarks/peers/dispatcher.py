"""The library of this repository."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from benchmarks import work
from benchmarks.peers.base import CanvasPeer
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


class DispatcherPeer(CanvasPeer):
    """Dispatcher at its defaults but for the results."""

    name: ClassVar[str] = "dispatcher"
    tasks: ClassVar[Mapping[str, Any]] = tasks
    tick, add, total, group, chord = tick, add, total, group, chord
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

    def send_many(self, count: int) -> None:
        """Send no-ops in one call."""
        app.send_many([tick.s() for _ in range(count)])


PEER: Final = DispatcherPeer()
