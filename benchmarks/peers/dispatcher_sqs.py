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
    """Dispatcher with what Celery has on SQS: no results, no revoking, a call of ``delay`` for each task."""

    name: ClassVar[str] = "dispatcher_sqs"
    packages: ClassVar[tuple[str, ...]] = ("boto3",)
    settings: ClassVar[str] = "prefork, the defaults; tasks without results that cannot be revoked; sent by delay()"
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

    def send_addition(self) -> None:
        """Refuse: sizes are compared on Redis."""
        raise NotImplementedError("no row asks for this")


PEER: Final = DispatcherSqs()
