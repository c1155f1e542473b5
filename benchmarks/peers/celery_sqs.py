"""Celery and kombu on SQS."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from celery import Celery

from benchmarks import work
from benchmarks.peers.base import DelayPeer

PREFETCH: Final = 128

app = Celery("bench", broker="sqs://")
app.conf.update(
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "region": os.environ.get("AWS_DEFAULT_REGION", ""),
        "predefined_queues": {"celery": {"url": os.environ.get("BENCH_QUEUE_URL", "")}},
    },
    worker_enable_remote_control=False,
    worker_prefetch_multiplier=PREFETCH,
)
tasks = {name: app.task(name=f"tasks.{name}")(function) for name, function in work.WORK.items()}


class CelerySqs(DelayPeer):
    """Celery with the settings of its page on SQS."""

    name: ClassVar[str] = "celery_sqs"
    tasks: ClassVar[Mapping[str, Any]] = tasks
    tick = tasks["tick"]
    packages: ClassVar[tuple[str, ...]] = ("celery", "kombu", "pycurl", "boto3")
    settings: ClassVar[str] = (
        "prefork; predefined_queues, so that it lists no queues; no remote control, which SQS has none of; prefetch "
        f"multiplier {PREFETCH} (with its default, 4, it waits a second after every eight tasks); long polls of 10 s, "
        "its default; results off"
    )
    on_kill: ClassVar[str] = (
        "the running ones are lost (acknowledged early, its default), prefetched ones come back after the visibility "
        "timeout"
    )

    def workers(self, processes: int, concurrency: int) -> list[list[str]]:
        """Return one prefork worker."""
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
        pool = ["--pool", "prefork", "--concurrency", str(processes)]
        return [[sys.executable, "-m", "celery", "-A", "benchmarks.peers.celery_sqs", "worker", *pool, *quiet]]


PEER: Final = CelerySqs()
