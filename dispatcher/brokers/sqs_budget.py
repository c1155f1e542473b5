"""What a queue gives a message before SQS gives it up: receipts and seconds, as configured or as the queue says."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from dispatcher import aws
from dispatcher.brokers.base import Delivery
from dispatcher.brokers.sqs_batches import Calls
from dispatcher.brokers.sqs_queues import LOST_MAX_RECEIVE_COUNT, MAX_RECEIVE_COUNT, is_lost
from dispatcher.clock import Clock
from dispatcher.exceptions import OperationalError
from dispatcher.quotas import SQS_DEFAULT_RETENTION, SQS_MAX_RETENTION
from dispatcher.security import home_queue

logger = logging.getLogger("dispatcher.worker")

#: Seconds until a queue that was out of reach is asked again: the messages of a batch wait for it once, not each.
ASK_AGAIN: Final = 5.0

_ASKED: Final = ["RedrivePolicy", "MessageRetentionPeriod"]


class Budget(NamedTuple):
    """The receipts after which a queue moves a message away, `None` for any number, and the seconds it is kept."""

    receipts: int | None
    seconds: float


class Budgets:
    """The budgets of a broker's queues.

    A queue is asked once, when a message is about to go back to it, unless both figures are options of the broker; one
    that is out of reach is asked again later.
    """

    def __init__(self, calls: Calls, options: Mapping[str, Any], clock: Clock) -> None:
        self._calls = calls
        self._clock = clock
        self._receipts: int | None = int(options["max_receive_count"]) if "max_receive_count" in options else None
        self._seconds: float | None = options.get("message_retention")
        self._known: dict[str, Budget] = {}
        #: queue -> what it is taken for, and until when by the monotonic clock
        self._supposed: dict[str, tuple[Budget, float]] = {}

    def of(self, queue: str) -> Budget:
        """Return a queue's budget; what can be neither read nor is configured is as in the template."""
        known = self._known.get(queue)
        if known is not None:
            return known
        held = self._supposed.get(queue)
        if held is not None and self._clock.monotonic() < held[1]:
            return held[0]
        lost = is_lost(queue)
        receipts, seconds = (None, None) if lost else (self._receipts, self._seconds)
        if receipts is not None and seconds is not None:
            budget = Budget(receipts, seconds)
        else:
            supposed = Budget(
                receipts or (LOST_MAX_RECEIVE_COUNT if lost else MAX_RECEIVE_COUNT),
                seconds or ((SQS_DEFAULT_RETENTION + SQS_MAX_RETENTION) / 2 if lost else SQS_DEFAULT_RETENTION),
            )
            try:
                asked = self._ask(queue)
            except OperationalError as error:
                logger.warning(
                    "queue %s does not say what it gives a message, so it is taken for %s receipts and %.0f s; say it "
                    "by the options max_receive_count and message_retention: %s", queue, *supposed, error,
                )  # fmt: skip
                if not isinstance(error, aws.ServiceError) or not error.code:
                    self._supposed[queue] = supposed, self._clock.monotonic() + ASK_AGAIN
                    return supposed
                asked = supposed
            budget = Budget(receipts or asked.receipts, seconds or asked.seconds)
        self._known[queue] = budget
        return budget

    def _ask(self, queue: str) -> Budget:
        answer = self._calls.call(queue, "get_queue_attributes", AttributeNames=_ASKED)
        attributes = answer.get("Attributes", {})
        policy = json.loads(attributes.get("RedrivePolicy") or "{}")
        receipts = int(policy["maxReceiveCount"]) if policy.get("maxReceiveCount") else None
        return Budget(receipts, float(attributes.get("MessageRetentionPeriod", SQS_DEFAULT_RETENTION)))

    def spent(self, delivery: Delivery, now: float) -> float:
        """Return the share of its queue's budget that a message has used up; see `Broker.budget_spent`."""
        receipts, seconds = self.of(delivery.queue)
        share = 0.0
        if receipts is not None:
            # Receives may be counted on from the queue that a lost message was moved from.
            before = self.of(home_queue(delivery.queue)).receipts or 0 if is_lost(delivery.queue) else 0
            share = max(0, delivery.receive_count - before) / max(1, receipts - before)
        return share if delivery.sent_at is None else max(share, (now - delivery.sent_at) / seconds)
