"""A walk over a dead-letter queue: SQS shows messages only by leasing them, so each is leased until the walk ends."""

from __future__ import annotations

import email.utils
import hashlib
import warnings
from collections.abc import Generator, Mapping
from typing import Any, Final

from dispatcher import aws
from dispatcher.brokers.base import DeadLetter, Delivery, Outgoing
from dispatcher.brokers.sqs_batches import Calls, delivery_of
from dispatcher.brokers.sqs_letters import reason_of
from dispatcher.brokers.sqs_queues import is_fifo
from dispatcher.clock import Clock
from dispatcher.exceptions import DispatcherWarning
from dispatcher.quotas import SQS_MAX_BATCH, SQS_MAX_VISIBILITY

COUNTERS: Final = [
    "ApproximateNumberOfMessages", "ApproximateNumberOfMessagesDelayed", "ApproximateNumberOfMessagesNotVisible",
]  # fmt: skip
SYSTEM_ATTRIBUTES: Final = ["ApproximateReceiveCount", "SentTimestamp", "MessageGroupId"]
#: Seconds of a walk's leases: at least, and for each letter there is; ten letters take up to three calls.
_SHORTEST_LEASE: Final = 60
_LEASE_PER_LETTER: Final = 0.05
#: Receives in a row that bring nothing but what was seen before, or came after the start, until a walk ends.
_MAX_STALE: Final = 3


class Walk:
    """One walk over the dead letters of ``queue``; `held` are the leases to give free when it is over."""

    def __init__(self, calls: Calls, clock: Clock, queue: str, dead: str) -> None:
        self._calls = calls
        self._clock = clock
        self._queue = queue
        self._dead = dead
        self._leases: dict[str, Delivery] = {}
        self._seen = 0

    def pages(self) -> Generator[list[DeadLetter], None, None]:
        """Yield up to ten letters at a time, until SQS shows no more of those that were there at the start."""
        answer = self._calls.call(self._dead, "get_queue_attributes", AttributeNames=COUNTERS)
        waiting = int(answer["Attributes"].get(COUNTERS[0], 0))
        started = _server_time(answer, self._clock)
        lease = min(max(_SHORTEST_LEASE, int(waiting * _LEASE_PER_LETTER)), SQS_MAX_VISIBILITY)
        stale = 0
        while stale < _MAX_STALE:
            messages = self._receive(lease, 1 if waiting or self._seen else 0)
            if not messages:
                break
            page = [letter for message in messages if (letter := self._lease(message, started)) is not None]
            stale = 0 if page else stale + 1
            if page:
                self._seen += len(page)
                yield page
                self._leases = {id: lease for id, lease in self._leases.items() if lease.receipt is not None}
        if is_fifo(self._dead) and self._seen < waiting:
            _warn(
                f"about {waiting - self._seen} dead letters of {self._queue} could not be seen: SQS shows no more of a "
                "message group while its first ones are kept; redrive or remove those"
            )

    def held(self) -> list[Delivery]:
        """Return what is still leased and was not removed."""
        return [lease for lease in self._leases.values() if lease.receipt is not None]

    def _receive(self, lease: int, wait: int) -> list[Mapping[str, Any]]:
        try:
            answer = self._calls.call(
                self._dead,
                "receive_message",
                MaxNumberOfMessages=SQS_MAX_BATCH,
                WaitTimeSeconds=wait,
                VisibilityTimeout=lease,
                MessageSystemAttributeNames=SYSTEM_ATTRIBUTES,
                MessageAttributeNames=["All"],
            )
        except aws.ServiceError as error:
            if not error.code.endswith("OverLimit"):
                raise
            _warn(
                f"not all dead letters of {self._queue} could be seen: SQS leases no more than 120,000 messages of a "
                "queue at once; redrive or remove some, then look again"
            )
            return []
        messages: list[Mapping[str, Any]] = answer.get("Messages", [])
        return messages

    def _lease(self, message: Mapping[str, Any], started: float) -> DeadLetter | None:
        """Keep a message's lease; return its letter if it is one to be shown."""
        delivery = delivery_of(self._dead, message, self._clock.time())
        body, delivery.body = str(delivery.body), ""  # a walk holds many leases
        known = self._leases.get(delivery.message_id)
        if known is not None:
            known.receipt = delivery.receipt
            return None
        self._leases[delivery.message_id] = delivery
        at = delivery.sent_at or 0.0
        if at > started:
            return None
        reason = reason_of(message.get("MessageAttributes", {}))
        return DeadLetter(self._queue, body, reason, at, delivery.message_id, delivery.group_id, receipt=delivery)


def message_of(letter: DeadLetter) -> Outgoing:
    """Return the message that a dead letter is sent as again.

    On a FIFO queue it is deduplicated as this very letter: sent twice it comes once, but the same body that died, was
    redriven and died again is another letter.
    """
    deduplication_id = None
    if is_fifo(letter.queue):
        deduplication_id = hashlib.sha256(f"{letter.message_id}/{letter.body}".encode()).hexdigest()
    return Outgoing(
        letter.queue, letter.body, letter.message_id, group_id=letter.group_id, deduplication_id=deduplication_id
    )


def _server_time(answer: Mapping[str, Any], clock: Clock) -> float:
    """Return the end of the second in which SQS answered: letters are timed by its clock, which may not be ours."""
    text = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    if text is None:
        return clock.time()
    return email.utils.parsedate_to_datetime(text).timestamp() + 1.0


def _warn(message: str) -> None:
    warnings.warn(message, DispatcherWarning, stacklevel=3)
