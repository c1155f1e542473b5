"""Renewal: a message that cannot wait in its delivery any longer is sent once more, and the old copy acknowledged.

Receipts and age are the transport's figures: hand-backs, throttles and long waits use them up without any fault of the
task. SQS moves a message away after ``maxReceiveCount`` receipts and drops it after its retention; it hides none for
more than 12 hours. The new copy is the same message of the same generation, so that whatever the record says holds for
it as well: what is recorded comes first, and a crash in between leaves both copies, of which one finds the outcome.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

from dispatcher.brokers.base import Delivery
from dispatcher.exceptions import USER_ERRORS, MessageTooLarge
from dispatcher.execution.environment import Environment
from dispatcher.execution.recording import goes_back
from dispatcher.execution.run import ROUNDS_HEADER, Kind, Run
from dispatcher.message import Message

if TYPE_CHECKING:
    from dispatcher.outbox import Outbox

logger = logging.getLogger("dispatcher.worker")

#: The share of its budget at which a message is renewed; later on FIFO queues, where it loses its place by that.
RENEW_AT, RENEW_ORDERED_AT = 0.5, 0.8

#: A message that waits longer than this for its slot in a rate limit is sent once more with a delay, in seconds. What
#: is hidden counts as in flight, of which a queue of SQS has 120,000; what is delayed does not. So no more of them are
#: in flight than the limit lets start in this time. On FIFO queues, where a message has no delay of its own, it waits.
#: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-queues.html
LONG_DEFERRAL = 60.0

#: A delay, in seconds, for which no message is kept outside of its queue.
_NEVER_SCHEDULED = 60.0


def longest_wait(env: Environment, delivery: Delivery) -> float | None:
    """Return the longest release of a delivery, in seconds: what the transport can, and in time for its renewal."""
    longest, kept = env.transport.longest_release(delivery), env.transport.retention_of(delivery)
    if kept is None or delivery.sent_at is None:
        return longest
    left = RENEW_AT * kept - (env.clock.time() - delivery.sent_at)
    if left <= 0:
        return longest
    return left if longest is None else min(longest, left)


def renew(env: Environment, runs: Sequence[Run]) -> None:
    """Send on the messages among these that go back to their queue and have waited too long, or must wait too long.

    One that cannot be sent on goes back after all.
    """
    waits = [(run, delay) for run in runs if (delay := _waits(env, run)) is not None]
    if not waits:
        return
    copies = []
    for run, delay in waits:
        assert run.message is not None
        copies.append((run, _found_again(run.message), run.delivery.queue, delay))
    wrong = send_on(env, copies)
    for run, _ in waits:
        if run in wrong:
            logger.warning("%s cannot be renewed, it goes back: %s", run.id, wrong[run])
        else:
            logger.info("renewed %s after %d receipts", run.id, run.delivery.receive_count)


def _waits(env: Environment, run: Run) -> float | None:
    """Return for how long a message that must be renewed waits, in seconds; `None` for one that need not be."""
    outcome, delivery = run.outcome, run.delivery
    if outcome is None or run.message is None or run.task is None or run.sent_on or not run.ours:
        return None
    if outcome.kind is not Kind.RETRY and not goes_back(outcome):
        return None
    if run.fired is not None and outcome.kind is Kind.RETRY:
        # A firing says neither task nor arguments, and its entry may change until then.
        return outcome.delay
    ordered = delivery.order is not None
    if env.transport.budget_spent(delivery) >= (RENEW_ORDERED_AT if ordered else RENEW_AT):
        return outcome.delay
    longest = longest_wait(env, delivery)
    if longest is None:
        return None
    if outcome.kind is Kind.DEFERRED and not ordered:
        longest = min(longest, LONG_DEFERRAL)
    return outcome.delay if outcome.kind in (Kind.RETRY, Kind.DEFERRED) and outcome.delay > longest else None


def _found_again(message: Message) -> Message:
    """Return a message that a worker has in hand without the count of how often it was lost."""
    if ROUNDS_HEADER not in message.headers:
        return message
    return message.replace(headers={name: value for name, value in message.headers.items() if name != ROUNDS_HEADER})


def send_on(env: Environment, copies: Sequence[tuple[Run, Message, str, float]]) -> Mapping[Hashable, BaseException]:
    """Send messages of runs to a queue once more, together; return why runs were not `sent_on`.

    Each is given with its queue and its delay in seconds. It stays of the same generation, with the retries that are
    recorded.
    """
    outbox = env.app.outbox()
    for run, message, queue, delay in copies:
        outbox.owner = run
        try:
            publish_later(env, outbox, _copy(env, run, message, delay), queue, delay)
        except USER_ERRORS as error:  # of receivers of `before_task_publish`, say
            outbox.refuse(error)
    outbox.send()
    for run, *_ in copies:
        run.sent_on = run not in outbox.refused
    return outbox.refused


def _copy(env: Environment, run: Run, message: Message, delay: float) -> Message:
    now = env.clock.time()
    following = message.replace(
        retries=run.write.retries if run.write is not None else max(run.retries, message.retries),
        eta=round(now + delay, 3) if delay > 0 else None,
    )
    if run.delivery.order is not None:
        # A FIFO queue swallows what it has seen within five minutes.
        following = following.replace(deduplication_id=f"{message.id}~{int(now * 1000)}")
    return following


def publish_later(env: Environment, outbox: Outbox, message: Message, queue: str, delay: float) -> None:
    """Put the message of a task that has begun into an outbox; one too large for elsewhere waits in its queue."""
    try:
        env.app.publish(message, queue, delay, outbox)
    except MessageTooLarge:
        if delay <= _NEVER_SCHEDULED:
            raise
        env.app.publish(message, queue, _NEVER_SCHEDULED, outbox)
