"""A model of SQS's standard and FIFO queues, as much of it as the adapter asks for, by an injected clock."""

from __future__ import annotations

import dataclasses
import itertools
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from dispatcher.clock import Clock
from tests.fault.harness.injector import Injector

Parameters = Mapping[str, Any]
_URL = "http://127.0.0.1:9/000000000000/"
#: Seconds in which a FIFO queue swallows a message that it has seen.
_DEDUPLICATED = 300.0
_ARN = "arn:aws:sqs:us-east-1:000000000000:"


class ServiceFault(Exception):
    """The service refuses a call with this code."""

    def __init__(self, code: str, message: str = "refused", status: int = 400, **fields: Any) -> None:
        super().__init__(code)
        self.code, self.message, self.status, self.fields = code, message, status, fields


@dataclasses.dataclass(eq=False)
class _Stored:
    id: str
    body: str
    attributes: Mapping[str, Any]
    sent_at: float
    visible_at: float
    group: str | None = None
    receives: int = 0
    first_received: float = 0.0
    receipts: list[str] = dataclasses.field(default_factory=list)
    #: whether a copy stays behind when it is deleted
    returns: bool = False


@dataclasses.dataclass
class _Queue:
    name: str
    attributes: dict[str, str]
    messages: dict[str, _Stored] = dataclasses.field(default_factory=dict)
    #: of a FIFO queue: when a deduplication id of a group was last sent, and as which message
    sent: dict[tuple[str, str], tuple[float, str]] = dataclasses.field(default_factory=dict)

    @property
    def fifo(self) -> bool:
        return self.name.endswith(".fifo")


class Sqs:
    """The service: hands out in any order, at times twice, and forgets a deletion at times, if its injector says so."""

    def __init__(self, clock: Clock, injector: Injector) -> None:
        self.clock = clock
        self.injector = injector
        self.queues: dict[str, _Queue] = {}
        #: bodies of messages that were handed out twice at the same time, or came back
        self.doubled: set[str] = set()
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._receipts: dict[str, tuple[_Queue, _Stored]] = {}
        batch = {"SendMessageBatch": self._send, "DeleteMessageBatch": self._delete,
                 "ChangeMessageVisibilityBatch": self._change}  # fmt: skip
        self._operations: dict[str, Callable[[Parameters], Any]] = {
            "CreateQueue": self._create, "GetQueueUrl": self._url_of, "GetQueueAttributes": self._attributes_of,
            "ReceiveMessage": self._receive, "PurgeQueue": self._purge, "ListQueues": self._list,
            **{name: lambda p, apply=apply: self._each(p, apply) for name, apply in batch.items()},
        }  # fmt: skip

    def __call__(self, operation: str, parameters: Parameters) -> Any:
        """Carry out a call; raises `ServiceFault`."""
        with self._lock:
            return self._operations[operation](parameters)

    # Queues

    def _queue(self, parameters: Parameters) -> _Queue:
        name = parameters["QueueUrl"].rsplit("/", 1)[1]
        if name not in self.queues:
            raise ServiceFault("AWS.SimpleQueueService.NonExistentQueue")
        return self.queues[name]

    def _create(self, parameters: Parameters) -> Any:
        name, attributes = parameters["QueueName"], dict(parameters.get("Attributes", {}))
        queue = self.queues.setdefault(name, _Queue(name, attributes))
        if queue.attributes != attributes:
            raise ServiceFault("QueueNameExists")
        return {"QueueUrl": _URL + name}

    def _url_of(self, parameters: Parameters) -> Any:
        url = _URL + parameters["QueueName"]
        self._queue({"QueueUrl": url})
        return {"QueueUrl": url}

    def _list(self, parameters: Parameters) -> Any:
        prefix = parameters.get("QueueNamePrefix", "")
        return {"QueueUrls": [_URL + name for name in self.queues if name.startswith(prefix)]}

    def _attributes_of(self, parameters: Parameters) -> Any:
        queue, now = self._queue(parameters), self.clock.time()
        hidden = [message for message in queue.messages.values() if message.visible_at > now]
        delayed = sum(1 for message in hidden if not message.receives)
        figures = {
            "QueueArn": _ARN + queue.name,
            "ApproximateNumberOfMessages": str(len(queue.messages) - len(hidden)),
            "ApproximateNumberOfMessagesDelayed": str(delayed),
            "ApproximateNumberOfMessagesNotVisible": str(len(hidden) - delayed),
            **queue.attributes,
        }
        return {"Attributes": {name: figures[name] for name in parameters["AttributeNames"] if name in figures}}

    def _purge(self, parameters: Parameters) -> Any:
        self._queue(parameters).messages.clear()
        return {}

    # Messages

    def _each(self, parameters: Parameters, apply: Callable[[_Queue, Parameters], Mapping[str, Any]]) -> Any:
        queue, done, failed = self._queue(parameters), [], []
        for entry in parameters["Entries"]:
            try:
                done.append({"Id": entry["Id"], **apply(queue, entry)})
            except ServiceFault as fault:
                failed.append({"Id": entry["Id"], "Code": fault.code, "Message": fault.message, "SenderFault": True})
        return {"Successful": done, "Failed": failed}

    def _send(self, queue: _Queue, entry: Parameters) -> Mapping[str, Any]:
        now = self.clock.time()
        number = f"m{next(self._numbers)}"
        if queue.fifo:
            if "DelaySeconds" in entry:
                raise ServiceFault("InvalidParameterValue", "FIFO queues take no delay of a message")
            key = entry["MessageGroupId"], entry["MessageDeduplicationId"]
            at, known = queue.sent.get(key, (float("-inf"), ""))
            if now - at < _DEDUPLICATED:
                return {"MessageId": known}
            queue.sent[key] = now, number
        queue.messages[number] = _Stored(
            number, entry["MessageBody"], entry.get("MessageAttributes", {}), now,
            now + entry.get("DelaySeconds", 0), entry.get("MessageGroupId"),
        )  # fmt: skip
        return {"MessageId": number}

    def _receive(self, parameters: Parameters) -> Any:
        queue, wait = self._queue(parameters), parameters.get("WaitTimeSeconds", 0)
        ready = self._ready(queue)
        if not ready and wait:
            due = min((message.visible_at for message in queue.messages.values()), default=float("inf"))
            self.clock.sleep(min(wait, max(0.0, due - self.clock.time())))
            ready = self._ready(queue)
        if len(ready) > 1 and not queue.fifo and self.injector.draw("disorder"):
            self.injector.random.shuffle(ready)
        timeout = parameters.get("VisibilityTimeout", int(queue.attributes.get("VisibilityTimeout", 30)))
        taken = [self._hand_out(queue, message, timeout) for message in ready[: parameters["MaxNumberOfMessages"]]]
        return {"Messages": taken} if taken else {}

    def _ready(self, queue: _Queue) -> list[_Stored]:
        now = self.clock.time()
        hidden = {message.group for message in queue.messages.values() if message.visible_at > now}
        held = hidden if queue.fifo else set()  # the group of a hidden message waits for it
        ready = [each for each in queue.messages.values() if each.visible_at <= now and each.group not in held]
        policy = json.loads(queue.attributes.get("RedrivePolicy", "{}"))
        for message in list(ready) if policy else []:
            if message.receives >= policy["maxReceiveCount"]:
                ready.remove(message)
                del queue.messages[message.id]
                message.receives = 0
                self.queues[policy["deadLetterTargetArn"].rsplit(":", 1)[1]].messages[message.id] = message
        return ready

    def _hand_out(self, queue: _Queue, message: _Stored, timeout: int) -> Mapping[str, Any]:
        now, twin = self.clock.time(), not queue.fifo and self.injector.draw("twin") is not None
        receipt = f"r{next(self._numbers)}"
        message.receives += 1
        message.first_received = message.first_received or now
        message.receipts.append(receipt)
        self._receipts[receipt] = queue, message
        shown = message.receives
        if twin:  # another of the servers that keep the message has not heard of this receipt
            self.doubled.add(message.body)
            message.receives -= 1
        else:
            message.visible_at = now + timeout
        system = {
            "ApproximateReceiveCount": str(shown), "SentTimestamp": str(int(message.sent_at * 1000)),
            "ApproximateFirstReceiveTimestamp": str(int(message.first_received * 1000)),
        }  # fmt: skip
        if message.group is not None:
            system["MessageGroupId"] = message.group
        answer = {"MessageId": message.id, "ReceiptHandle": receipt, "Body": message.body, "Attributes": system}
        return answer | ({"MessageAttributes": message.attributes} if message.attributes else {})

    def _delete(self, queue: _Queue, entry: Parameters) -> Mapping[str, Any]:
        _, message = self._held(entry)
        if self._is_old(message, entry):
            return {}  # the answer is the same
        if message.id in queue.messages and not queue.fifo and self.injector.draw("undeleted"):
            self.doubled.add(message.body)
            message.visible_at = self.clock.time()
            return {}
        queue.messages.pop(message.id, None)
        return {}

    def _change(self, queue: _Queue, entry: Parameters) -> Mapping[str, Any]:
        _, message = self._held(entry)
        now = self.clock.time()
        if message.id not in queue.messages:
            raise ServiceFault("InvalidParameterValue", "the message does not exist")
        if message.visible_at <= now or self._is_old(message, entry):
            raise ServiceFault("AWS.SimpleQueueService.MessageNotInflight")
        message.visible_at = now + entry["VisibilityTimeout"]
        return {}

    def _is_old(self, message: _Stored, entry: Parameters) -> bool:
        """Say whether a receipt is good no more: one of an earlier receive may work or not."""
        return entry["ReceiptHandle"] != message.receipts[-1] and self.injector.draw("old receipt") is None

    def _held(self, entry: Parameters) -> tuple[_Queue, _Stored]:
        found = self._receipts.get(entry["ReceiptHandle"])
        if found is None:
            raise ServiceFault("ReceiptHandleIsInvalid")
        return found
