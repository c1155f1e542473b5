"""How fast worker processes drain tasks that do something: compute, wait, or carry a payload; and a large backlog."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from benchmarks.bench import Bench
from benchmarks.rows.drain import drain
from benchmarks.rows.row import BARE, OURS, QUICK_PEERS, REDIS_PEERS, Row, Sample

#: Tasks at once in each of the two processes where tasks wait.
WAITING: Final = 10


def _row(
    name: str, title: str, method: str, measure: Callable[[Bench, str], Sample], *limit: str, budget: float = 60.0
) -> Row:
    return Row(
        name=name,
        title=title,
        unit="tasks/s",
        better="higher",
        method=method,
        contenders=(OURS, *REDIS_PEERS, *limit),
        quick=(OURS, *QUICK_PEERS),
        bars=(),
        measure=measure,
        budget=budget,
    )


def _drain_work(bench: Bench, peer: str, work: str, concurrency: int = 0) -> Sample:
    return drain(bench, peer, bench.scale.working, work, concurrency)


def _drain_large(bench: Bench, peer: str) -> Sample:
    return drain(bench, peer, bench.scale.large_backlog)


CPU: Final = _row(
    "cpu",
    "Tasks of 1 ms CPU drained on Redis, 2 processes",
    "As the no-ops, but each task computes for a millisecond of its thread's CPU time first: two processes cannot do "
    "more than 2,000 a second.",
    partial(_drain_work, work="spin"),
)
IO: Final = _row(
    "io",
    "Tasks of 10 ms I/O drained on Redis, 20 at once",
    f"As the no-ops, but each task waits for 10 ms first, and {WAITING} tasks are in flight in each of the two "
    "processes: threads with ours, Celery's threads pool, Dramatiq and Huey, coroutines with Taskiq, SAQ and arq. "
    "Celery's prefork pool and RQ have one task a process, so they get 20 processes. Twenty at once cannot do more "
    "than 2,000 a second.",
    partial(_drain_work, work="wait", concurrency=WAITING),
)
PAYLOAD: Final = _row(
    "payload",
    "Tasks with 100 KB of payload drained on Redis, 2 processes",
    "As the no-ops, but each task has one argument, a text of 100,000 hexadecimal digits, and counts only if it came "
    "whole.",
    partial(_drain_work, work="carry"),
)
BACKLOG: Final = _row(
    "backlog",
    "Drain rate of a backlog of 100,000 on Redis, 2 processes",
    "The no-ops again, with 100,000 of them waiting (5,000 in a quick run). The window of a few seconds ends before a "
    "slow library is through.",
    _drain_large,
    BARE,
    budget=200.0,
)
