"""Calls to SQS in batches: entries, how they are split into calls, and entries that fail alone."""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from dispatcher import aws, aws_bounds
from dispatcher.brokers.base import Delivery, Outgoing, Settlement
from dispatcher.brokers.sqs_letters import attributes_of, is_legal_body, size_of, size_of_attributes
from dispatcher.brokers.sqs_queues import Queues, is_fifo, is_missing
from dispatcher.clock import Clock
from dispatcher.exceptions import MessageTooLarge, OperationalError, UnsupportedOption
from dispatcher.quotas import SQS_MAX_BATCH, SQS_MAX_GROUP_ID_CHARS, SQS_MAX_MESSAGE_BYTES

#: Tries of the entries of a batch that failed through no fault of theirs.
BATCH_ATTEMPTS: Final = 5
#: The group of messages on a FIFO queue that name none, as in Celery: they all keep one order.
DEFAULT_GROUP: Final = "default"
_GROUP_ID: Final = re.compile(rf"[!-~]{{1,{SQS_MAX_GROUP_ID_CHARS}}}")
#: Failures that may pass although SQS calls them the sender's.
_PASSING: Final = ("Throttl", "OverLimit", "Unavailable", "InternalError")

Entry = dict[str, Any]


class Job(NamedTuple):
    """Batches of one operation on one queue, to be called one after the other."""

    queue: str
    operation: str
    batches: Sequence[Sequence[Entry]]


class Outcome(NamedTuple):
    """The entries of a job that failed for good, and those that an error kept from being tried."""

    failed: list[tuple[Entry, Mapping[str, Any]]]
    unsent: list[Entry]
    error: OperationalError | None


class Calls:
    """Calls about the queues of one broker."""

    def __init__(self, queues: Queues, clock: Clock) -> None:
        self._queues = queues
        self._clock = clock

    def call(self, queue: str, operation: str, **parameters: Any) -> Any:
        """Call SQS about a queue, looking its URL up anew if the queue has been made anew."""
        client, target, url = self._queues.client(queue), f"queue {queue}", self._queues.url(queue)
        try:
            return aws.call(client, operation, target, QueueUrl=url, **parameters)
        except aws.ServiceError as error:
            if not is_missing(error) or not self._queues.forget(queue, url):
                raise
        return aws.call(client, operation, target, QueueUrl=self._queues.url(queue), **parameters)

    def run(self, job: Job) -> Outcome:
        """Call the batches of a job, up to an error that concerns them all."""
        failed: list[tuple[Entry, Mapping[str, Any]]] = []
        for number, batch in enumerate(job.batches):
            try:
                failed += self._batch(job, batch)
            except OperationalError as error:
                return Outcome(failed, [entry for rest in job.batches[number:] for entry in rest], error)
        return Outcome(failed, [], None)

    def _batch(self, job: Job, batch: Sequence[Entry]) -> list[tuple[Entry, Mapping[str, Any]]]:
        """Call a batch operation, again for entries whose failure may pass; return those that failed for good."""
        lost: list[tuple[Entry, Mapping[str, Any]]] = []
        for attempt in range(1, BATCH_ATTEMPTS + 1):
            answer = self.call(job.queue, job.operation, Entries=batch)
            failures = {failed["Id"]: failed for failed in answer.get("Failed", ())}
            pause = random.uniform(0.0, 0.1 * 2**attempt)
            once_more = attempt < BATCH_ATTEMPTS and pause < aws_bounds.time_left("sqs")
            again = [entry for entry in batch if once_more and _is_passing(failures.get(entry["Id"]))]
            passing = {entry["Id"] for entry in again}
            lost += [
                (entry, failures[entry["Id"]])
                for entry in batch
                if entry["Id"] in failures and entry["Id"] not in passing
            ]
            if not again:
                break
            batch = again
            self._clock.sleep(pause)
        return lost


def check(message: Outgoing) -> None:
    """Raise `UnsupportedOption` or `MessageTooLarge` for a message that SQS does not take."""
    for name, value in (("MessageGroupId", message.group_id), ("MessageDeduplicationId", message.deduplication_id)):
        if value is not None and not _GROUP_ID.fullmatch(value):
            raise UnsupportedOption(
                f"{name}={value[:200]!r} cannot work: SQS takes 1 to {SQS_MAX_GROUP_ID_CHARS} ASCII letters, "
                "digits and punctuation"
            )
    if message.body.isascii() and message.body.isprintable() and message.body:
        return
    if not is_legal_body(message.body):
        raise UnsupportedOption(
            f"the body of task {message.id} is empty or has control characters or lone surrogates, "
            "which SQS does not take"
        )
    if size_of(message.body) > SQS_MAX_MESSAGE_BYTES:
        raise MessageTooLarge(
            f"the message of task {message.id} has {size_of(message.body):,} bytes, over the "
            f"{SQS_MAX_MESSAGE_BYTES:,} that SQS takes; pass a reference to the data instead"
        )


def entry_of(number: str, message: Outgoing) -> Entry:
    """Return the entry of SendMessageBatch for a message."""
    entry: Entry = {"Id": number, "MessageBody": message.body}
    if message.delay > 0:
        entry["DelaySeconds"] = math.ceil(message.delay)
    if is_fifo(message.queue):
        entry["MessageGroupId"] = message.group_id or DEFAULT_GROUP
        # By the body, as content-based deduplication: an id alone would swallow the task's next generation.
        entry["MessageDeduplicationId"] = message.deduplication_id or _digest(message.body)
    elif message.group_id is not None:
        entry["MessageGroupId"] = message.group_id
    return entry


def letter_of(number: str, settlement: Settlement) -> Entry:
    """Return the entry of SendMessageBatch for a dead letter."""
    delivery = settlement.delivery
    body = delivery.body if settlement.body is None else settlement.body
    text = body if isinstance(body, str) else body.decode(errors="replace")
    entry: Entry = {"Id": number, "MessageBody": text}
    attributes = attributes_of(settlement.reason or {}, SQS_MAX_MESSAGE_BYTES - size_of(text))
    if attributes:
        entry["MessageAttributes"] = attributes
    if is_fifo(delivery.queue):
        entry["MessageGroupId"] = delivery.group_id or DEFAULT_GROUP
        entry["MessageDeduplicationId"] = _digest(f"{delivery.message_id}/{text}")
    elif delivery.group_id is not None:
        entry["MessageGroupId"] = delivery.group_id
    return entry


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def jobs_of(operation: str, entries: Sequence[tuple[str, Entry]]) -> list[Job]:
    """Sort entries into jobs: one per batch of a standard queue, one for all of a FIFO queue, to keep their order."""
    by_queue: dict[str, list[Entry]] = {}
    for queue, entry in entries:
        by_queue.setdefault(queue, []).append(entry)
    jobs: list[Job] = []
    for queue, of_queue in by_queue.items():
        batches = list(_batches(of_queue))
        jobs += [Job(queue, operation, batches)] if is_fifo(queue) else [Job(queue, operation, [b]) for b in batches]
    return jobs


def _batches(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Cut entries into batches of ten and of what a batch may weigh."""
    batch: list[Entry] = []
    weight = 0
    for entry in entries:
        size = size_of(entry.get("MessageBody", "")) + size_of_attributes(entry.get("MessageAttributes", {}))
        if batch and (len(batch) == SQS_MAX_BATCH or weight + size > SQS_MAX_MESSAGE_BYTES):
            yield batch
            batch, weight = [], 0
        batch.append(entry)
        weight += size
    if batch:
        yield batch


def delivery_of(queue: str, message: Mapping[str, Any], now: float, leased_at: float | None = None) -> Delivery:
    """Read a message that was received now."""
    system = message.get("Attributes", {})
    sent = system.get("SentTimestamp")
    return Delivery(
        queue=queue,
        body=message.get("Body", ""),
        receipt=message["ReceiptHandle"],
        receive_count=int(system.get("ApproximateReceiveCount", 1)),
        message_id=message["MessageId"],
        sent_at=None if sent is None else int(sent) / 1000,
        group_id=system.get("MessageGroupId"),
        attributes={"received_at": now},
        leased_at=leased_at,
    )


def _is_passing(failed: Mapping[str, Any] | None) -> bool:
    """Say whether an entry failed for a reason that may pass."""
    if failed is None:
        return False
    return not failed.get("SenderFault") or any(word in str(failed["Code"]) for word in _PASSING)


def failure_of(failed: Mapping[str, Any]) -> str:
    """Say why an entry failed."""
    return f"{failed['Code']}: {failed.get('Message', '')}".rstrip(": ")
