"""Celery, prefork."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from celery import Celery, chord, group

from benchmarks import work
from benchmarks.peers.base import CanvasPeer

PREFETCH: Final = 128

app = Celery("bench", broker=work.REDIS_URL, backend=work.REDIS_URL if work.RESULTS else None)
app.conf.update(
    task_ignore_result=not work.RESULTS,
    worker_prefetch_multiplier=PREFETCH,
    broker_connection_retry_on_startup=True,
)
tasks = {name: app.task(name=f"tasks.{name}")(function) for name, function in work.WORK.items()}
tick = tasks["tick"]
add = app.task(name="tasks.add")(work.add)
total = app.task(name="tasks.total")(work.total)


def worker(pool: str, concurrency: int) -> list[str]:
    """Return the command line of one worker."""
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.peers.celery", "worker"]
    return [*command, "--pool", pool, "--concurrency", str(concurrency), *quiet]


class CeleryPeer(CanvasPeer):
    """Celery with the settings of its optimizing guide for many short tasks."""

    name: ClassVar[str] = "celery"
    tasks: ClassVar[Mapping[str, Any]] = tasks
    tick, add, total, group, chord = tick, add, total, group, chord
    packages: ClassVar[tuple[str, ...]] = ("celery", "kombu", "redis")
    settings: ClassVar[str] = (
        f"prefork; prefetch multiplier {PREFETCH} (user guide, Optimizing: many short tasks), results off unless read; "
        "no gossip, mingle or heartbeat; results: Redis backend, pushed"
    )
    on_kill: ClassVar[str] = (
        "the running ones are lost (acknowledged early, its default), prefetched ones come back after 1 h"
    )

    def workers(self, processes: int, concurrency: int) -> list[list[str]]:
        """Return one prefork worker; where tasks are to overlap in a process, it has as many processes more."""
        return [worker("prefork", processes * max(concurrency, 1))]


PEER: Final = CeleryPeer()
