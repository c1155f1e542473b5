"""Lost messages: what becomes of a message that the transport gave up because nobody settled it.

SQS moves such a message from ``q`` to ``q-lost`` and says nothing of why. The record tells: one that is done is
settled, one that waits or never started is sent to its queue once more, one that may still run is left alone for that
long, and what is left was started and never ended: its task fails, so that nobody waits for it for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from dispatcher.backends.base import TaskRecord
from dispatcher.brokers.base import Delivery
from dispatcher.exceptions import WorkerLostError
from dispatcher.execution import admission, invocation, renewal
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from dispatcher.execution.run import ROUNDS_HEADER, Kind, Outcome, Run
from dispatcher.message import Message
from dispatcher.security import home_queue

logger = logging.getLogger("dispatcher.worker")

#: After so many rounds a message that never started is given up; one takes a hundred receipts, hours on Lambda.
MAX_ROUNDS: Final = 10
#: How long the second of two copies in one batch waits for what is decided on the first, in seconds.
_AFTER_COPY: Final = 60.0


def process(env: Environment, deliveries: Sequence[Delivery]) -> list[Run]:
    """Decide on deliveries of lost queues, record, send what follows and settle; return the runs, settled."""
    runs = [Run(delivery) for delivery in deliveries]
    for delivery in deliveries:
        # Whether or not receives are counted on from the first queue, this is no first delivery.
        delivery.receive_count = max(2, delivery.receive_count)
    admission.decode(env, runs)
    homeward = _decide_all(env, runs)
    for run in runs:
        if run.outcome is not None and run.outcome.kind is Kind.FAILURE:
            invocation.tell_unrun(env, run)
    _send_home(env, [run for run in runs if run in homeward or _has_stayed_long(env, run)])
    Executor(env).finish(runs)
    return runs


def _decide_all(env: Environment, runs: Sequence[Run]) -> list[Run]:
    """Give each run its outcome; return those that have nothing to wait for here and go back to their own queue."""
    known = [run for run in runs if run.message is not None]
    if not admission.read_records(env, known):
        return []
    now, seen, homeward = env.clock.time(), set[str](), list[Run]()
    for run in known:
        if run.outcome is not None and run.outcome.kind is Kind.UNREADABLE:
            admission.catch_up(run)
        elif run.id in seen:
            run.outcome = Outcome(Kind.HANDED_BACK, delay=_AFTER_COPY)
        elif run.outcome is None or run.outcome.kind is Kind.FAILURE:
            decided = admission.decide_by_record(env, run, now) or run.outcome
            started = run.record is not None and run.message is not None and _was_started(run.record, run.message)
            if decided is None and started:
                decided = _end_of_started(env, run, now)
            elif decided is None and _rounds(run) > MAX_ROUNDS:
                decided = _never_started(run)
            elif decided is None or decided.kind in (Kind.HANDED_BACK, Kind.DEFERRED):
                homeward.append(run)
                decided = Outcome(Kind.HANDED_BACK, delay=decided.delay if decided is not None else 0.0)
            run.outcome = decided
            seen.add(run.id)
    return homeward


def _was_started(record: TaskRecord, message: Message) -> bool:
    return record.gen == message.gen and (record.starts > 0 or record.started_at is not None)


def _never_started(run: Run) -> Outcome:
    return _failure(
        f"{_named(run)} was lost {_rounds(run)} times in a row and never started: either the function is throttled all "
        "the time, or it dies before it can start a task"
    )


def _end_of_started(env: Environment, run: Run, now: float) -> Outcome:
    """Return the failure of a task that was started and has no outcome, or a wait for as long as it may still run."""
    message, started = run.message, run.record
    assert message is not None and run.task is not None and started is not None
    when = ""
    if started.started_at is not None:
        limit = message.time_limit or run.task.time_limit or 0.0
        left = started.started_at + max(limit, env.app.conf.lost_after) - now
        if left > 0:
            return Outcome(Kind.HANDED_BACK, delay=left)
        when = f", the last time at {datetime.fromtimestamp(started.started_at, UTC).isoformat(' ', 'seconds')},"
    return _failure(
        f"{_named(run)} was received {run.delivery.receive_count} times, started{when} and never ended: "
        "its worker timed out or crashed"
    )


def _named(run: Run) -> str:
    return f"{run.message.task}[{run.id}]" if run.message is not None else run.id


def _failure(text: str) -> Outcome:
    error = WorkerLostError(text)
    return Outcome(Kind.FAILURE, error=error, traceback=str(error))


def _rounds(run: Run) -> int:
    """Return how often the message was lost in a row before any run of it, this time included."""
    assert run.message is not None
    before = run.message.headers.get(ROUNDS_HEADER, 0)
    ran = run.record is not None and run.record.gen == run.message.gen and run.record.retries > 0
    return 1 if ran or not isinstance(before, int) else before + 1


def _has_stayed_long(env: Environment, run: Run) -> bool:
    """Say whether a message that has to wait here must not do so any longer: this queue would give it up too."""
    outcome = run.outcome
    if outcome is None or outcome.kind is not Kind.HANDED_BACK or run.message is None:
        return False
    return env.transport.budget_spent(run.delivery) >= renewal.RENEW_AT


def _send_home(env: Environment, runs: Sequence[Run]) -> None:
    """Send messages to their own queues, as they are and of the same generation; one that cannot be sent waits here."""
    copies = []
    for run in runs:
        message, outcome = run.message, run.outcome
        assert message is not None and outcome is not None
        headers = {**message.headers, ROUNDS_HEADER: _rounds(run)}
        copies.append((run, message.replace(headers=headers), home_queue(run.delivery.queue), outcome.delay))
    wrong = renewal.send_on(env, copies)
    for run, _, queue, delay in copies:
        count = run.delivery.receive_count
        if (error := wrong.get(run)) is not None:
            logger.warning("lost message %s cannot be sent to %s again, it waits: %s", run.id, queue, error)
            assert run.outcome is not None
            run.outcome.delay = max(delay, env.backoff(count))
        else:
            logger.warning("sent lost message %s to %s again after %d receipts", run.id, queue, count)
