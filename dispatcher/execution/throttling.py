"""Step 2, last part: a run whose task has a rate limit takes a slot of it, or waits for one.

A message over the limit reserves the next slot once: its record says when that is, and the delivery goes back until
then, with no retry counted. The slot is its own, and it does not ask again when it comes in time. One that comes much
too late (`Rate.lateness`) asks again, so that a fleet that was away does not start at once what it missed, and so does
one that finds another limit.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from dispatcher.backends.meta import slot_of
from dispatcher.exceptions import BackendError, ImproperlyConfigured, OperationalError, TaskRevokedError
from dispatcher.execution.environment import Environment
from dispatcher.execution.run import Kind, Outcome, Run
from dispatcher.message import Message
from dispatcher.rates import Rate
from dispatcher.task import Task

logger = logging.getLogger("dispatcher.worker")
#: Lines on what became of messages, which Lambda leaves out unless asked: each is billed.
outcomes = logging.getLogger("dispatcher.task.outcome")

#: How long before a message expires its slot has to be, in seconds, and at most as a share of the time it has left. One
#: that came back too late for its slot would have wasted it, and under more load than the limit allows all would.
RETURN_TIME, RETURN_SHARE = 5.0, 0.2


def throttle(env: Environment, runs: Sequence[Run]) -> None:
    """Decide which of the runs that are about to start have to wait; one call for those of a task."""
    groups: dict[tuple[Task[Any, Any], bool], list[Run]] = {}
    for run in runs:
        message, task = run.message, run.task
        if run.outcome is not None or message is None or task is None or task._rate is None:
            continue
        if not _holds_slot(env, run, message, task._rate):
            # Those that expire are apart: the others take slots however late these are.
            groups.setdefault((task, message.expires is not None), []).append(run)
    if env.eager:
        return
    for (task, _), group in sorted(groups.items(), key=lambda item: not item[0][1]):  # those that expire come first
        assert task._rate is not None
        if task.rate_limit_scope == "worker":
            _ask_worker(env, task, task._rate, group)
        else:
            _ask_backend(env, task, task._rate, group)
        _tell(task, group)


def _holds_slot(env: Environment, run: Run, message: Message, rate: Rate) -> bool:
    """Say whether the run is in time for a slot that its message has reserved."""
    record = run.record
    if record is None or record.not_before is None or record.gen != message.gen:
        return False
    return slot_of(record.data) == rate.interval and env.clock.time() - record.not_before <= rate.lateness


def _ask_backend(env: Environment, task: Task[Any, Any], rate: Rate, runs: list[Run]) -> None:
    runs.sort(key=_expires)
    expires = _expires(runs[-1])
    left = expires - env.clock.time()
    latest = None if expires == math.inf else expires - min(RETURN_TIME, RETURN_SHARE * left)
    try:
        slots = env.backend.reserve(rate.bucket(task.name), len(runs), rate.interval, rate.burst, latest)
    except (OperationalError, BackendError) as error:
        logger.error("no slot of the rate limit of %s can be had, %d messages go back: %s", task.name, len(runs), error)
        for run in runs:
            run.outcome = Outcome(Kind.HANDED_BACK, delay=env.backoff(run.delivery.receive_count))
        return
    now = env.clock.time()
    for run, slot in zip(runs, [*slots, *[math.inf] * (len(runs) - len(slots))], strict=True):
        if slot >= _expires(run):
            too_late = f"expired: its rate limit, {task.rate_limit}, has no slot for it in time"
            run.outcome = Outcome(Kind.REVOKED, error=TaskRevokedError(too_late))
        elif slot > now:
            run.outcome = Outcome(Kind.DEFERRED, delay=slot - now, slot=slot)


def _ask_worker(env: Environment, task: Task[Any, Any], rate: Rate, runs: Sequence[Run]) -> None:
    if env.worker_rates is None:
        raise ImproperlyConfigured(f"task {task.name}: rate_limit_scope='worker' can be kept by a local worker only")
    for run, delay in zip(runs, env.worker_rates.take(task.name, rate, len(runs)), strict=True):
        if delay > 0:
            run.outcome = Outcome(Kind.DEFERRED, delay=delay)


def _expires(run: Run) -> float:
    assert run.message is not None
    return math.inf if run.message.expires is None else run.message.expires


def _tell(task: Task[Any, Any], runs: Sequence[Run]) -> None:
    waits = [run.outcome.delay for run in runs if run.outcome is not None and run.outcome.kind is Kind.DEFERRED]
    if waits:
        outcomes.info(
            "%d of %d messages of %s wait for its rate limit, %s, the last for %.1f s",
            len(waits), len(runs), task.name, task.rate_limit, max(waits),
        )  # fmt: skip
