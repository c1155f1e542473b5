"""Where MiniStack's SQS differs from the service in ways that a task queue notices, corrected in place.

Installed by `tests.emulation.ministack` inside MiniStack's process; everything here touches MiniStack's private names,
which is why its version is pinned exactly.
"""

import functools
import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

MAX_DELAY_SECONDS = 900
MAX_VISIBILITY_SECONDS = 43_200
MAX_ATTRIBUTES = 10
MAX_BATCH_BYTES = 1_048_576
"""All: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html"""

_PROMPT_SECONDS = 0.3
"""A duplicate comes this soon at the latest: at-least-once delivery makes no promise, and tests should not wait."""

_P = ParamSpec("_P")
_R = TypeVar("_R")
Queue = dict[str, Any]
Message = dict[str, Any]
Parameters = dict[str, Any]


class SqsCorrections:
    """Corrections and, on request, the disorder and the duplicates that standard queues are allowed.

    `duplicates` is the share of messages that come too early (before their visibility timeout ends) and, independently,
    the share of deletions that are confirmed and do not last; each happens at most once to a message. `shuffle` hands
    messages out in random order. FIFO queues keep order and uniqueness.
    """

    def __init__(self, sqs: Any, *, duplicates: float = 0.0, shuffle: bool = False) -> None:
        self.sqs = sqs
        self.duplicates = duplicates
        self.shuffle = shuffle
        # HTTP requests and the event source mappings' threads replace the same lists of messages; without one lock
        # around both, a message sent at the wrong moment is gone.
        self.lock = threading.RLock()
        self._collect = sqs._collect_msgs
        self._delete_for_mapping = sqs._delete_messages_for_esm

    def install(self) -> None:
        """Replace MiniStack's functions by the corrected ones."""
        sqs = self.sqs
        sqs._queues_lock = self.lock
        sqs._dlq_sweep = self._locked(self.sweep)
        sqs._collect_msgs = self._locked(self.collect)
        sqs._expire_retained = self._locked(sqs._expire_retained)
        sqs._delete_messages_for_esm = self._locked(self.delete_for_mapping)
        sqs._act_send_message = self._locked(self.checked_send(sqs._act_send_message))
        replaced = {
            "SendMessage": sqs._act_send_message,
            "SendMessageBatch": self.checked_send_batch(sqs._act_send_message_batch),
            "DeleteMessage": self.forgiving_delete(sqs._act_delete_message),
            "DeleteMessageBatch": self.forgiving_delete_batch(sqs._act_delete_message_batch),
            "ChangeMessageVisibility": self.checked_change(sqs._act_change_visibility),
            "ChangeMessageVisibilityBatch": self.checked_change_batch(sqs._act_change_visibility_batch),
        }
        for action, handler in {**sqs._HANDLERS, **replaced}.items():
            if action != "ReceiveMessage":  # a coroutine; the steps that it consists of are locked
                sqs._HANDLERS[action] = self._locked(handler)

    def lock_producer(self, module: Any, name: str) -> None:
        """Put a function of another service that adds messages to queues under the same lock."""
        setattr(module, name, self._locked(getattr(module, name)))

    def _locked(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def locked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with self.lock:
                return function(*args, **kwargs)

        return locked

    # Receiving

    def collect(self, queue: Queue, limit: int, visibility: int) -> list[Message]:
        """Receive up to `limit` messages."""
        if self.shuffle and not queue["is_fifo"]:
            random.shuffle(queue["messages"])
        received: list[Message] = self._collect(queue, limit, visibility)
        issued = queue.setdefault("issued_handles", set())
        for message in received:
            issued.add(message["receipt_handle"])
            message["received_at"] = time.time()
            if not queue["is_fifo"] and self._strikes(message, "came_early"):
                message["visible_at"] = time.time() + random.uniform(0, _PROMPT_SECONDS)
                self._repeat_uncounted(message)
        return received

    def sweep(self, queue: Queue) -> None:
        """Move messages that were received too often to the dead-letter queue.

        The redrive policy counts receives from this queue; the count that consumers see goes on across queues.
        """
        sqs = self.sqs
        policy = json.loads(queue["attributes"].get("RedrivePolicy") or "{}")
        target: Queue | None = sqs._queue_by_arn(policy["deadLetterTargetArn"]) if policy else None
        if target is None:
            return
        now = time.time()
        limit = int(policy["maxReceiveCount"])
        kept = []
        for message in queue["messages"]:
            if message["visible_at"] > now or message["receive_count"] - message.get("uncounted", 0) < limit:
                kept.append(message)
                continue
            moved = {**message, "receipt_handle": None, "visible_at": now, "uncounted": message["receive_count"]}
            moved["sys"] = {**message["sys"], "DeadLetterQueueSourceArn": queue["attributes"]["QueueArn"]}
            if target["is_fifo"]:
                moved["enqueued_at"] = now
            target["messages"].append(moved)
            sqs.esm_wake.set()
        queue["messages"] = kept

    # Sending, deleting, changing visibility

    def checked_send(self, send: Callable[[Parameters, str], Any]) -> Callable[[Parameters, str], Any]:
        """Refuse delays, attributes and sizes that the service refuses."""

        def checked(data: Parameters, url: str) -> Any:
            queue = self.sqs._get_q(data.get("QueueUrl", url))
            delay = int(data.get("DelaySeconds") or 0)
            if not 0 <= delay <= MAX_DELAY_SECONDS:
                reason = f"Reason: DelaySeconds must be >= 0 and <= {MAX_DELAY_SECONDS}."
                raise self._invalid(f"Value {delay} for parameter DelaySeconds is invalid. {reason}")
            if data.get("MessageDeduplicationId") and not queue["is_fifo"]:
                reason = "Reason: The request include parameter that is not valid for this queue type."
                value = data["MessageDeduplicationId"]
                raise self._invalid(f"Value {value} for parameter MessageDeduplicationId is invalid. {reason}")
            attributes = len(data.get("MessageAttributes") or {})
            if attributes > MAX_ATTRIBUTES:
                counts = f"Number of message attributes [{attributes}] exceeds the allowed maximum [{MAX_ATTRIBUTES}]."
                raise self._invalid(counts)
            limit = int(queue["attributes"]["MaximumMessageSize"])
            if _size(data) > limit:
                reason = f"Reason: Message must be shorter than {limit} bytes."
                raise self._invalid(f"One or more parameters are invalid. {reason}")
            return send(data, url)

        return checked

    def checked_send_batch(self, send: Callable[[Parameters, str], Any]) -> Callable[[Parameters, str], Any]:
        """Count attributes, too, towards the size of a batch."""

        def checked(data: Parameters, url: str) -> Any:
            size = sum(_size(entry) for entry in data.get("Entries", []))
            if size > MAX_BATCH_BYTES:
                limit = f"Batch requests cannot be longer than {MAX_BATCH_BYTES} bytes."
                raise self.sqs._Err("BatchRequestTooLong", f"{limit} You have sent {size} bytes.")
            return send(data, url)

        return checked

    def delete_for_mapping(self, url: str, handles: set[str]) -> None:
        """Delete what an event source mapping has processed."""
        queue = self.sqs._get_q(url)
        self._delete_for_mapping(url, {handle for handle in handles if not self._survives(queue, handle)})

    def forgiving_delete(self, delete: Callable[[Parameters, str], Any]) -> Callable[[Parameters, str], Any]:
        """Confirm a deletion by a handle that was replaced or used before, as the service does."""

        def forgiving(data: Parameters, url: str) -> Any:
            queue = self.sqs._get_q(data.get("QueueUrl", url))
            handle = data.get("ReceiptHandle", "")
            if self._survives(queue, handle) or self._is_stale(queue, handle):
                return {}
            return delete(data, url)

        return forgiving

    def forgiving_delete_batch(self, delete: Callable[[Parameters, str], Any]) -> Callable[[Parameters, str], Any]:
        """The same for a batch."""

        def forgiving(data: Parameters, url: str) -> Any:
            queue = self.sqs._get_q(data.get("QueueUrl", url))
            handles = [entry.get("ReceiptHandle", "") for entry in data.get("Entries", [])]
            confirmed = {h for h in handles if self._survives(queue, h) or self._is_stale(queue, h)}
            if not confirmed:
                return delete(data, url)
            self.sqs._validate_batch_entries(data["Entries"], "DeleteMessageBatchRequestEntry")
            answer: Parameters = {"Successful": [], "Failed": []}
            rest = [entry for entry in data["Entries"] if entry.get("ReceiptHandle") not in confirmed]
            if rest:
                answer = delete({**data, "Entries": rest}, url)
            done = [{"Id": entry["Id"]} for entry in data["Entries"] if entry.get("ReceiptHandle") in confirmed]
            return {"Successful": answer["Successful"] + done, "Failed": answer["Failed"]}

        return forgiving

    def checked_change(self, change: Callable[[Parameters, str], Any]) -> Callable[[Parameters, str], Any]:
        """Refuse what the service refuses: more than 12 h after the receipt, and handles that are not current."""

        def checked(data: Parameters, url: str) -> Any:
            queue = self.sqs._get_q(data.get("QueueUrl", url))
            refusal = self._refusal(queue, data)
            if refusal is not None:
                raise refusal
            return change(data, url)

        return checked

    def checked_change_batch(self, change: Callable[[Parameters, str], Any]) -> Callable[[Parameters, str], Any]:
        """The same for a batch, entry by entry."""

        def checked(data: Parameters, url: str) -> Any:
            queue = self.sqs._get_q(data.get("QueueUrl", url))
            self.sqs._validate_batch_entries(data.get("Entries", []), "ChangeMessageVisibilityBatchRequestEntry")
            refused = {entry["Id"]: self._refusal(queue, entry) for entry in data["Entries"]}
            good = [entry for entry in data["Entries"] if refused[entry["Id"]] is None]
            answer = change({**data, "Entries": good}, url) if good else {"Successful": [], "Failed": []}
            failed = [
                {"Id": name, "Code": error.code, "Message": error.message, "SenderFault": True}
                for name, error in refused.items()
                if error is not None
            ]
            return {"Successful": answer["Successful"], "Failed": answer["Failed"] + failed}

        return checked

    def _refusal(self, queue: Queue, data: Parameters) -> Any | None:
        seconds = int(data.get("VisibilityTimeout", 30))
        handle = data.get("ReceiptHandle", "")
        if not 0 <= seconds <= MAX_VISIBILITY_SECONDS:
            bounds = f"Reason: Must be between 0 and {MAX_VISIBILITY_SECONDS}."
            return self._invalid(f"Value {seconds} for parameter VisibilityTimeout is invalid. {bounds}")
        message = _held(queue, handle)
        if message is None:
            if not self._is_stale(queue, handle):
                return None  # never issued: MiniStack's own ReceiptHandleIsInvalid
            reason = "Reason: Message does not exist or is not available for visibility timeout change."
            return self._invalid(f"Value {handle} for parameter ReceiptHandle is invalid. {reason}")
        if time.time() + seconds > message["received_at"] + MAX_VISIBILITY_SECONDS + 1:
            bounds = f"Total VisibilityTimeout for the message is beyond the limit [{MAX_VISIBILITY_SECONDS} seconds]."
            return self._invalid(f"Value {seconds} for parameter VisibilityTimeout is invalid. Reason: {bounds}")
        return None

    def _invalid(self, message: str) -> Any:
        return self.sqs._Err("InvalidParameterValue", message)

    def _is_stale(self, queue: Queue, handle: str) -> bool:
        """Whether `handle` was given out by this queue and holds no message any more."""
        return handle in queue.get("issued_handles", ()) and _held(queue, handle) is None

    # Duplicates

    def _strikes(self, message: Message, how: str) -> bool:
        if self.duplicates <= random.random() or how in message:
            return False
        message[how] = True
        return True

    def _survives(self, queue: Queue, handle: str) -> bool:
        """Whether chaos lets the message outlive its deletion; it then comes again soon, by another handle."""
        message = _held(queue, handle)
        if message is None or queue["is_fifo"] or not self._strikes(message, "survived"):
            return False
        message["receipt_handle"] = None
        message["visible_at"] = time.time() + random.uniform(0, _PROMPT_SECONDS)
        self._repeat_uncounted(message)
        return True

    def _repeat_uncounted(self, message: Message) -> None:
        """Keep a duplicate from driving its message towards the dead-letter queue; half of them do not even show."""
        if random.random() < 0.5:
            message["receive_count"] -= 1
        else:
            message["uncounted"] = message.get("uncounted", 0) + 1


def _held(queue: Queue, handle: str) -> Message | None:
    """The message that `handle` is the current receipt of."""
    return next((message for message in queue["messages"] if handle and message["receipt_handle"] == handle), None)


def _size(data: Parameters) -> int:
    """Bytes that count towards the limits: the body, and name, type and value of every attribute."""
    size = len((data.get("MessageBody") or "").encode())
    for name, attribute in (data.get("MessageAttributes") or {}).items():
        # A binary value arrives in base64.
        value = len(attribute.get("StringValue", "").encode()) + len(attribute.get("BinaryValue", "")) * 3 // 4
        size += len(name.encode()) + len(attribute.get("DataType", "")) + value
    return size
