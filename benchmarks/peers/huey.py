"""Huey."""

from __future__ import annotations

from typing import ClassVar, Final

from huey import RedisHuey, chord, group

from benchmarks import work
from benchmarks.peers.base import CALL_TIMEOUT, CHORD_TIMEOUT, SyncPeer, script
from benchmarks.work import arguments

huey = RedisHuey("bench", url=work.REDIS_URL, results=work.RESULTS, notify_result=work.RESULTS)
tasks = {name: huey.task(name=f"tasks.{name}")(function) for name, function in work.WORK.items()}
tick = tasks["tick"]
add = huey.task(name="tasks.add")(work.add)
total = huey.task(name="tasks.total")(work.total)


def consumer(kind: str, workers: int) -> list[str]:
    """Return the command line of one consumer."""
    options = ["--workers", str(workers), "--worker-type", kind, "--no-periodic", "--quiet"]
    return [script("huey_consumer"), "benchmarks.peers.huey.huey", *options]


class Huey(SyncPeer):
    """Huey with process workers."""

    name: ClassVar[str] = "huey"
    packages: ClassVar[tuple[str, ...]] = ("huey", "redis")
    settings: ClassVar[str] = (
        "process workers (threads where tasks are to overlap in a process), blocking pop (default), no periodic tasks, "
        "quiet; results: notify_result"
    )
    on_kill: ClassVar[str] = "lost (popped before they run)"

    def workers(self, processes: int, concurrency: int) -> list[list[str]]:
        """Return one consumer with its worker processes, or a consumer with threads for each process."""
        if concurrency < 2:
            return [consumer("process", processes)]
        return [consumer("thread", concurrency)] * processes

    def send(self) -> None:
        """Send one no-op."""
        tick()

    def send_work(self, work: str) -> None:
        """Send one task of a kind of work, with its arguments."""
        tasks[work](*arguments(work))

    def call(self) -> int:
        """Send an addition and return its result."""
        result: int = add(1, 2).get(blocking=True, timeout=CALL_TIMEOUT)
        return result

    def send_group(self, size: int) -> None:
        """Send a group of additions."""
        huey.enqueue(group([add.s(n, 1) for n in range(size)]))

    def sum_chord(self, size: int) -> int:
        """Send a chord of additions and return the sum that its callback made of their results."""
        sent = huey.enqueue(chord([add.s(n, 1) for n in range(size)], total.s()))
        result: int = sent.get(blocking=True, timeout=CHORD_TIMEOUT)
        return result

    def send_addition(self) -> None:
        """Send the addition."""
        add(1, 2)


PEER: Final = Huey()
