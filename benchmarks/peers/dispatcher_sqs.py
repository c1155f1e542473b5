"""The library of this repository with its local worker on SQS."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from benchmarks import work
from benchmarks.peers.base import DelayPeer
from dispatcher import Dispatcher

app = Dispatcher("bench", broker="sqs://")
tasks = {
    name: app.task(name=f"tasks.{name}", ignore_result=True, revocable=False)(function)
    for name, function in work.WORK.items()
}


class DispatcherSqs(DelayPeer):
    """Dispatcher with what Celery has on SQS: no results, no revoking, a call of ``delay`` for each task."""

    name: ClassVar[str] = "dispatcher_sqs"
    tasks: ClassVar[Mapping[str, Any]] = tasks
    tick = tasks["tick"]
    packages: ClassVar[tuple[str, ...]] = ("boto3",)
    settings: ClassVar[str] = "prefork, the defaults; tasks without results that cannot be revoked; sent by delay()"
    on_kill: ClassVar[str] = "received again when their visibility timeout ends"

    def workers(self, processes: int, concurrency: int) -> list[list[str]]:
        """Return one prefork worker."""
        pool = ["--pool", "prefork", "--concurrency", str(processes), "--loglevel", "WARNING"]
        return [[sys.executable, "-m", "dispatcher", "-A", "benchmarks.peers.dispatcher_sqs:app", "worker", *pool]]


PEER: Final = DispatcherSqs()
