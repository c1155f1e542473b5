"""The event source mapping: receives batches from a queue, invokes the function, deletes what it is done with.

Lambda's own, as far as it is documented, for any endpoint that has SQS:
https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from dispatcher import aws
from dispatcher.aws import ServiceError
from dispatcher.local.events import failed_ids, record_of
from dispatcher.local.functions import Environments, MappedFunction
from dispatcher.local.sandbox import Invocation

#: Seconds that a mapping pauses after a failed invocation, so that a broken function does not spin.
BACKOFF_SECONDS: Final = 1.0
_RECEIVE_LIMIT: Final = 10
_WAIT_SECONDS: Final = 2
_LOOK_SECONDS: Final = 0.1

logger = logging.getLogger("dispatcher.local")

Message = Mapping[str, Any]


class EventSourceMapping:
    """Feeds one function from one queue, in threads of its own, until it is stopped.

    ``failed`` is told of each invocation that failed, ``complain`` of a queue that cannot be read.
    """

    def __init__(
        self,
        sqs: Any,
        function: MappedFunction,
        environments: Environments,
        *,
        region: str,
        failed: Callable[[Invocation], None],
        complain: Callable[[str], None],
    ) -> None:
        self.function = function
        self.environments = environments
        self._sqs = sqs
        self._region = region
        self._failed = failed
        self._complain = complain
        self._stopping = threading.Event()
        self._open = threading.Event()
        self._open.set()
        self._free = threading.Semaphore(function.concurrency)
        self._rest_until = 0.0
        self._threads = ThreadPoolExecutor(function.concurrency, thread_name_prefix=function.name)
        self._poller = threading.Thread(target=self._poll, name=f"{function.name}-poller", daemon=True)

    def start(self) -> None:
        """Begin to read the queue."""
        self._poller.start()

    def pause(self) -> None:
        """Take no more batches until `resume`; those under way go on."""
        self._open.clear()

    def resume(self) -> None:
        """Take batches again."""
        self._open.set()

    def stop(self) -> None:
        """Take no more batches; returns at once."""
        self._stopping.set()
        self._open.set()

    def join(self) -> None:
        """Wait until the poller and its batches have ended; `stop` and close the environments before."""
        self._poller.join()
        self._threads.shutdown()

    def _poll(self) -> None:
        while not self._stopping.is_set():
            self._open.wait()
            rest = self._rest_until - time.monotonic()
            if rest > 0:
                self._stopping.wait(rest)
                continue
            if not self._free.acquire(timeout=_LOOK_SECONDS):
                continue
            batch: list[Message] = []
            try:
                if self._takes():
                    batch = self._batch()
                if batch and not self._takes():  # paused or stopped while it waited for messages
                    self._give_back(batch)
                    batch = []
            except ServiceError as error:
                if not self._stopping.is_set():
                    self._complain(str(error))
                self._stopping.wait(BACKOFF_SECONDS)
            if not batch:
                self._free.release()
            else:
                self._threads.submit(self._process, batch)

    def _takes(self) -> bool:
        return self._open.is_set() and not self._stopping.is_set()

    def _batch(self) -> list[Message]:
        """Receive until the batch is full, or its window over, or the queue empty where there is no window."""
        size, window = self.function.batch_size, self.function.window
        batch = self._receive(min(size, _RECEIVE_LIMIT), _WAIT_SECONDS)
        until = time.monotonic() + window
        while batch and len(batch) < size and not self._stopping.is_set() and time.monotonic() < until:
            left = max(0.0, until - time.monotonic())
            batch += self._receive(min(size - len(batch), _RECEIVE_LIMIT), min(_WAIT_SECONDS, int(left)))
        return batch

    def _receive(self, size: int, wait: int) -> list[Message]:
        answer = aws.call(
            self._sqs, "receive_message", self.function.queue_url,
            QueueUrl=self.function.queue_url, MaxNumberOfMessages=size, WaitTimeSeconds=wait,
            AttributeNames=["All"], MessageAttributeNames=["All"],
        )  # fmt: skip
        return list(answer.get("Messages", ()))

    def _process(self, batch: Sequence[Message]) -> None:
        try:
            self._hand_over(batch)
        except (ServiceError, RuntimeError) as error:
            if not self._stopping.is_set():
                self._complain(str(error))
        finally:
            self._free.release()

    def _hand_over(self, batch: Sequence[Message]) -> None:
        try:
            records = [record_of(message, self.function.queue_arn, self._region) for message in batch]
            invocation = self.environments.invoke({"Records": records})
            known = {message["MessageId"] for message in batch}
            failed = None if invocation.failed else failed_ids(_answer(invocation), known)
            if failed is None:
                self._rest_until = time.monotonic() + BACKOFF_SECONDS
                if not self._stopping.is_set():
                    self._failed(invocation)
            else:
                self._delete([message for message in batch if message["MessageId"] not in failed])
        except (ServiceError, RuntimeError):
            raise
        except Exception:  # nobody looks at what a thread of the pool raises
            logger.exception("%s: a batch cannot be handed over; its messages go back", self.function.name)
            self._rest_until = time.monotonic() + BACKOFF_SECONDS
            self._give_back(batch)

    def _give_back(self, messages: Sequence[Message]) -> None:
        for some in aws.chunks(messages, _RECEIVE_LIMIT):
            entries = [
                {"Id": str(n), "ReceiptHandle": each["ReceiptHandle"], "VisibilityTimeout": 0}
                for n, each in enumerate(some)
            ]
            url = self.function.queue_url
            aws.call(self._sqs, "change_message_visibility_batch", url, QueueUrl=url, Entries=entries)

    def _delete(self, messages: Sequence[Message]) -> None:
        for some in aws.chunks(messages, _RECEIVE_LIMIT):
            entries = [{"Id": str(n), "ReceiptHandle": each["ReceiptHandle"]} for n, each in enumerate(some)]
            url = self.function.queue_url
            aws.call(self._sqs, "delete_message_batch", url, QueueUrl=url, Entries=entries)


def _answer(invocation: Invocation) -> Any:
    try:
        return invocation.json()
    except ValueError:
        return invocation.payload.decode(errors="replace")
