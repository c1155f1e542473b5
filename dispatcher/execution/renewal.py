"""Renewal: a message that has used up half of its transport budget is published anew before the queue gives it up.

Receipts and age are the transport's figures: hand-backs, throttles and long waits use them up without any fault of the
task. SQS moves a message away after ``maxReceiveCount`` receipts and drops it after its retention.
"""

from __future__ import annotations

import logging

from dispatcher import states
from dispatcher.brokers.base import Delivery
from dispatcher.exceptions import BackendError, OperationalError
from dispatcher.execution.environment import Environment
from dispatcher.execution.recording import write_of
from dispatcher.execution.run import Kind, Outcome, Run

logger = logging.getLogger("dispatcher.worker")

#: The share of a budget at which a message is renewed, and at which it is even if its record could not be read: then
#: the new message may not know of all its retries.
RENEW_AT, RENEW_BLINDLY_AT = 0.5, 0.8


def longest_wait(env: Environment, delivery: Delivery) -> float | None:
    """Return the longest release of a delivery, in seconds: what the transport can, and in time for its renewal."""
    longest, kept = env.transport.longest_release(delivery), env.transport.retention
    if kept is None or delivery.sent_at is None:
        return longest
    left = RENEW_AT * kept - (env.clock.time() - delivery.sent_at)
    if left <= 0:
        return longest
    return left if longest is None else min(longest, left)


def is_due(env: Environment, run: Run) -> bool:
    """Say whether a delivery that would go back to its queue has used up so much of its budget that it must not."""
    outcome, message = run.outcome, run.message
    if outcome is None or message is None or run.task is None or run.settled_early:
        return False
    if outcome.kind is not Kind.HANDED_BACK and outcome.kind is not Kind.RETRY:
        return False
    return env.transport.budget_spent(run.delivery) >= (RENEW_BLINDLY_AT if run.unread else RENEW_AT)


def renew(env: Environment, run: Run) -> None:
    """Publish the next generation of a message that waits, and drop this delivery; no retry is counted.

    Where it cannot be sent the delivery goes back after all, and is renewed the next time.
    """
    outcome, message = run.outcome, run.message
    assert outcome is not None
    assert message is not None
    now = env.clock.time()
    due = round(now + outcome.delay, 3) if outcome.delay > 0 else None
    following = message.replace(gen=message.gen + 1, retries=run.retries, eta=due)
    try:
        env.app.publish(following, run.delivery.queue, outcome.delay)
    except OperationalError as error:
        logger.warning("%s cannot be renewed, it goes back: %s", run.id, error)
        return
    logger.info("renewed %s after %d receipts", run.id, run.delivery.receive_count)
    run.message = following
    try:
        _record(env, run, now)
    except (OperationalError, BackendError) as error:
        # The new message takes over all the same; only a duplicate of the old one could still run beside it.
        logger.warning("the renewal of %s cannot be recorded: %s", run.id, error)
    run.outcome = Outcome(Kind.SUPERSEDED)


def _record(env: Environment, run: Run, now: float) -> None:
    """Let the record know of the new generation, so that duplicates of the old message do not run."""
    record = run.record
    write = write_of(env, run, record.status if record is not None else states.PENDING, now)
    if record is not None:
        write.data, write.starts = record.data, record.starts
    env.backend.write([write])
