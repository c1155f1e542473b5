"""SQS as the model has it: queues, receipts, visibility, redrive, groups, and a count of what is called.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html
"""

from __future__ import annotations

import json
import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

from benchmarks.scale import facts
from benchmarks.scale.timeline import Timeline

REGION: Final = "us-east-1"
ACCOUNT: Final = "000000000000"
_ADDRESS: Final = f"https://sqs.{REGION}.amazonaws.com"
#: What is billed as one request. https://aws.amazon.com/sqs/pricing/
_REQUEST: Final = 65_536


def url_of(name: str) -> str:
    """Return the URL of a queue."""
    return f"{_ADDRESS}/{ACCOUNT}/{name}"


class Message:
    """A message in a queue; ``hidden_until`` counts while it is in flight."""

    __slots__ = ("body", "first_received", "group", "hidden_until", "id", "receives", "sent")

    def __init__(self, number: int, body: str, group: str | None, sent: float) -> None:
        self.id = str(number)
        self.body = body
        self.group = group
        self.sent = sent
        self.receives = 0
        self.first_received = sent
        self.hidden_until = 0.0

    @property
    def receipt(self) -> str:
        """The handle of its last receipt."""
        return f"{self.id}/{self.receives}"

    def record(self, arn: str) -> dict[str, Any]:
        """Return the message as a mapping hands it to a function."""
        system = {
            "ApproximateReceiveCount": str(self.receives),
            "SentTimestamp": str(int(self.sent * 1000)),
            "ApproximateFirstReceiveTimestamp": str(int(self.first_received * 1000)),
        }
        if self.group is not None:
            system["MessageGroupId"] = self.group
        return {
            "messageId": self.id,
            "receiptHandle": self.receipt,
            "body": self.body,
            "attributes": system,
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "eventSourceARN": arn,
            "awsRegion": REGION,
        }


class Queue:
    """One queue; ``arrived`` is called whenever messages become visible."""

    def __init__(self, name: str, timeline: Timeline, visibility: float, max_receives: int) -> None:
        self.name = name
        self.url = url_of(name)
        self.arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"
        self.fifo = name.endswith(".fifo")
        self.visibility = visibility
        self.max_receives = max_receives
        self.in_flight: dict[str, Message] = {}
        self.most_in_flight = 0
        self.given_up = 0
        self.delayed = 0
        self.arrived: Callable[[], None] = lambda: None
        self._timeline = timeline
        self._ready: deque[Message] = deque()
        self._groups: dict[str, deque[Message]] = {}
        self._open_groups: deque[str] = deque()
        self._held: Counter[str] = Counter()

    @property
    def ready(self) -> int:
        """How many messages could be received now; of a FIFO queue, how many groups have some."""
        return len(self._open_groups) if self.fifo else len(self._ready)

    @property
    def empty(self) -> bool:
        """Whether the queue has no message left, whatever its state."""
        return not (self._ready or self.in_flight or self.delayed or any(self._groups.values()))

    def put(self, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Take messages that are visible after a delay."""
        self.delayed += len(messages)
        self._timeline.after(delay, lambda: self._show(messages))

    def _show(self, messages: Sequence[Message]) -> None:
        self.delayed -= len(messages)
        for message in messages:
            if not self.fifo:
                self._ready.append(message)
                continue
            name = message.group or ""
            group = self._groups.setdefault(name, deque())
            group.append(message)
            if len(group) == 1 and not self._held[name]:
                self._open_groups.append(name)
        self.arrived()

    def take(self, limit: int) -> list[Message]:
        """Receive up to so many messages; none while too many are in flight.

        Of a FIFO queue as many of a group as there are, and then of the next one.
        """
        taken: list[Message] = []
        limit = min(limit, facts.IN_FLIGHT - len(self.in_flight))
        while len(taken) < limit and (source := self._source()):
            while source and len(taken) < limit:
                message = source.popleft()
                if message.receives >= self.max_receives:
                    self.given_up += 1
                else:
                    self._receive(message)
                    taken.append(message)
        self.most_in_flight = max(self.most_in_flight, len(self.in_flight))
        return taken

    def _source(self) -> deque[Message] | None:
        if not self.fifo:
            return self._ready
        return self._groups[self._open_groups.popleft()] if self._open_groups else None

    def _receive(self, message: Message) -> None:
        now = self._timeline.now
        message.receives += 1
        if message.receives == 1:
            message.first_received = now
        message.hidden_until = now + self.visibility
        self.in_flight[message.id] = message
        if self.fifo:
            self._held[message.group or ""] += 1

    def change(self, message_id: str, seconds: float) -> None:
        """Set how long from now a message in flight stays hidden."""
        message = self.in_flight.get(message_id)
        if message is not None:
            message.hidden_until = self._timeline.now + seconds

    def delete(self, messages: Sequence[Message]) -> None:
        """Remove messages that were received."""
        for message in messages:
            self._drop(message)
        if self.fifo:
            self.arrived()

    def give_back(self, messages: Sequence[Message]) -> None:
        """Leave messages to come again when they are no longer hidden."""
        for message in messages:
            self._timeline.at(max(self._timeline.now, message.hidden_until), partial(self._return, message))

    def _return(self, message: Message) -> None:
        if self.fifo:
            self._groups[message.group or ""].appendleft(message)
        else:
            self._ready.append(message)
        self._drop(message)
        self.arrived()

    def _drop(self, message: Message) -> None:
        """Have a message in flight no more; a group goes on once none of its messages is."""
        del self.in_flight[message.id]
        if self.fifo:
            name = message.group or ""
            self._held[name] -= 1
            if not self._held[name] and self._groups[name]:
                self._open_groups.append(name)


class SQS:
    """A botocore client of SQS, as far as the producer and the handler call it."""

    def __init__(self, timeline: Timeline, names: Sequence[str], visibility: float, max_receives: int) -> None:
        self.calls: Counter[str] = Counter()
        #: as they are billed
        self.requests = 0
        self.queues = {name: Queue(name, timeline, visibility, max_receives) for name in names}
        self.meta = SimpleNamespace(
            endpoint_url=_ADDRESS, region_name=REGION, partition="aws",
            service_model=SimpleNamespace(service_name="sqs"),
            config=SimpleNamespace(connect_timeout=1, read_timeout=3),
        )  # fmt: skip
        self._timeline = timeline
        self._by_url = {queue.url: queue for queue in self.queues.values()}
        self._number = 0

    def count(self, operation: str, size: int = 0) -> None:
        """Count a call with so many bytes of messages."""
        self.calls[operation] += 1
        self.requests += max(1, math.ceil(size / _REQUEST))

    def send_message_batch(self, QueueUrl: str, Entries: Sequence[Any]) -> dict[str, Any]:  # noqa: N803
        """Take messages."""
        queue = self._by_url[QueueUrl]
        self.count("SendMessageBatch", sum(len(entry["MessageBody"]) for entry in Entries))
        self._timeline.sleep(facts.SQS_LATENCY)
        by_delay: dict[float, list[Message]] = {}
        for entry in Entries:
            self._number += 1
            message = Message(self._number, entry["MessageBody"], entry.get("MessageGroupId"), self._timeline.now)
            by_delay.setdefault(float(entry.get("DelaySeconds", 0)), []).append(message)
        for delay, messages in by_delay.items():
            queue.put(messages, delay)
        return {"Successful": [{"Id": entry["Id"]} for entry in Entries]}

    def change_message_visibility_batch(self, QueueUrl: str, Entries: Sequence[Any]) -> dict[str, Any]:  # noqa: N803
        """Change how long messages stay hidden."""
        queue = self._by_url[QueueUrl]
        self.count("ChangeMessageVisibilityBatch")
        self._timeline.sleep(facts.SQS_LATENCY)
        for entry in Entries:
            queue.change(entry["ReceiptHandle"].partition("/")[0], entry["VisibilityTimeout"])
        return {"Successful": [{"Id": entry["Id"]} for entry in Entries]}

    def get_queue_attributes(self, QueueUrl: str, AttributeNames: Sequence[str]) -> dict[str, Any]:  # noqa: N803
        """Say what a queue gives a message."""
        queue = self._by_url[QueueUrl]
        self.count("GetQueueAttributes")
        self._timeline.sleep(facts.SQS_LATENCY)
        policy = {"deadLetterTargetArn": f"{queue.arn}-lost", "maxReceiveCount": queue.max_receives}
        return {"Attributes": {"RedrivePolicy": json.dumps(policy), "MessageRetentionPeriod": "345600"}}
