"""The library of this repository with its local worker on SQS."""

from __future__ import annotations

import sys
from typing import ClassVar, Final

from benchmarks import work
from benchmarks.peers.base import SyncPeer
from benchmarks.work import arguments
from dispatcher import Dispatcher

app = Dispatcher("bench", broker="sqs://", task_ignore_result=True)
tasks = {
    name: app.task(name=f"tasks.{name}", ignore_result=True, revocable=False)(function)
    for name, function in work.WORK.items()
}


class DispatcherSqs(SyncPeer):
    """Dispatcher as one would use it for few calls: lean tasks, sent with `send_many`; the worker at its defaults."""

    name: ClassVar[str] = "dispatcher_sqs"
    packages: ClassVar[tuple[str, ...]] = ("boto3",)
    settings: ClassVar[str] = (
        "prefork, the defaults; lean tasks (ignore_result, not revocable); sent with send_many, a thousand at a time"
    )
    on_kill: ClassVar[str] = "received again when their visibility timeout ends"

    def workers(self, processes: int, concurrency: int) -> list[list[str]]:
        """Return one prefork worker."""
        pool = ["--pool", "prefork", "--concurrency", str(processes), "--loglevel", "WARNING"]
        return [[sys.executable, "-m", "dispatcher", "-A", "benchmarks.peers.dispatcher_sqs:app", "worker", *pool]]

    def send(self) -> None:
        """Send one no-op."""
        tasks["tick"].delay()

    def send_work(self, work: str) -> None:
        """Send one task of a kind of work, with its arguments."""
        tasks[work].delay(*arguments(work))

    def send_many(self, count: int) -> None:
        """Send no-ops in one call."""
        app.send_many([tasks["tick"].s() for _ in range(count)])

    def send_addition(self) -> None:
        """Refuse: sizes are compared on Redis."""
        raise NotImplementedError("no row asks for this")


PEER: Final = DispatcherSqs()
