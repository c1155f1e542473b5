"""Where MiniStack's event source mappings differ from the service's, corrected in place: SQS to Lambda.

https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html
"""

import threading
import time
from typing import Any

from dispatcher.local.events import failed_ids as judged

BACKOFF_SECONDS = 1.0
"""Pause of a mapping after a failed invocation, so that a broken function does not spin."""

MAX_BATCH = 10_000
MAX_BATCH_FIFO = 10
"""https://docs.aws.amazon.com/lambda/latest/api/API_CreateEventSourceMapping.html"""

_RECEIVE_LIMIT = 10
_IDLE_SECONDS = 0.1
"""How late a mapping may notice that a message has become visible; MiniStack looks once a second."""

Mapping = dict[str, Any]
Message = dict[str, Any]


class MappingCorrections:
    """Validation at creation, the batching window, and the judgement of partial batch responses."""

    def __init__(self, lambda_service: Any, sqs: Any) -> None:
        self.lambda_service = lambda_service
        self.sqs = sqs
        self._create = lambda_service._create_esm
        self._receive = sqs._receive_messages_for_esm

    def install(self) -> None:
        """Replace MiniStack's functions by the corrected ones."""
        self.lambda_service._esm_wake = _PromptWake(self.lambda_service._esm_wake)
        self.lambda_service._create_esm = self.create
        self.lambda_service._run_sqs_batch = self.run_batch
        self.sqs._receive_messages_for_esm = self.receive

    def create(self, request: Mapping) -> Any:
        """CreateEventSourceMapping, with the refusals that users meet first."""
        refusal = self._refusal(request) if ":sqs:" in request.get("EventSourceArn", "") else None
        return self.lambda_service._invalid_parameter_value(refusal) if refusal else self._create(request)

    def _refusal(self, request: Mapping) -> str | None:
        arn = request["EventSourceArn"]
        queue = self.sqs._queue_by_arn(arn)
        if queue is None:
            return (
                "Error occurred while ReceiveMessage. SQS Error Code: AWS.SimpleQueueService.NonExistentQueue. "
                "SQS Error Message: The specified queue does not exist."
            )
        name, qualifier, error = self.lambda_service._resolve_existing_esm_function(request.get("FunctionName", ""))
        if error is None:
            _, configuration = self.lambda_service._get_func_record_for_qualifier(name, qualifier)
            timeout = int(configuration.get("Timeout", 3))
            visibility = int(queue["attributes"]["VisibilityTimeout"])
            if visibility < timeout:
                return (
                    f"Queue visibility timeout: {visibility} seconds is less than Function timeout: {timeout} seconds"
                )
        size = int(request.get("BatchSize") or 10)
        window = int(request.get("MaximumBatchingWindowInSeconds") or 0)
        if size > (MAX_BATCH_FIFO if queue["is_fifo"] else MAX_BATCH):
            return f"Batch size {size} is invalid for this event source"
        if queue["is_fifo"] and window:
            return "Batching window is not supported for FIFO queues"
        if size > _RECEIVE_LIMIT and window < 1:
            return (
                "Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than "
                f"{_RECEIVE_LIMIT}"
            )
        return None

    def receive(self, url: str, size: int) -> list[Message]:
        """Receive one batch; with a window, none until it is full or its oldest message has waited that long."""
        queue = self.sqs._get_q(url)
        window = self._window(queue)
        if window and not _window_is_over(queue, int(size), window):
            return []
        batch: list[Message] = self._receive(url, min(int(size), _RECEIVE_LIMIT))
        while batch and window and len(batch) < int(size):
            more = self._receive(url, min(int(size) - len(batch), _RECEIVE_LIMIT))
            if not more:
                break
            batch += more
        return batch

    def _window(self, queue: dict[str, Any]) -> int:
        arn = queue["attributes"]["QueueArn"]
        mappings = (mapping for _, _, mapping in self.lambda_service._iter_all_esms())
        return max(
            (int(m.get("MaximumBatchingWindowInSeconds") or 0) for m in mappings if m["EventSourceArn"] == arn),
            default=0,
        )

    def run_batch(
        self, mapping: Mapping, function: Any, event: Any, batch: list[Message], url: str, queue_name: str
    ) -> None:
        """Invoke the function with a batch and delete what it did not report as failed."""
        sources = {message["id"]: message["sys"].get("DeadLetterQueueSourceArn") for message in batch}
        for record in event["Records"]:
            if sources[record["messageId"]]:
                record["attributes"]["DeadLetterQueueSourceArn"] = sources[record["messageId"]]
        result = self.lambda_service._execute_function(function, event)
        failed = None if result.get("error") else failed_ids(result.get("body"), mapping, batch)
        if failed is None:
            mapping["LastProcessingResult"] = "PROBLEM: Function call failed"
            self.lambda_service._esm_backoff_until[mapping["UUID"]] = time.time() + BACKOFF_SECONDS
            self.lambda_service.logger.warning(
                "ESM: %s failed a batch of %d from %s: %r\n%s",
                mapping["FunctionName"], len(batch), queue_name, result.get("body"), result.get("log", ""),
            )  # fmt: skip
            return
        mapping["LastProcessingResult"] = "OK"
        self.lambda_service._esm_backoff_until.pop(mapping["UUID"], None)
        # By the handles of this delivery: a message that was received again meanwhile has another one by now.
        handles = {record["messageId"]: record["receiptHandle"] for record in event["Records"]}
        filtered_out = {message["receipt_handle"] for message in batch if message["id"] not in handles}
        done = {handle for name, handle in handles.items() if name not in failed}
        self.sqs._delete_messages_for_esm(url, done | filtered_out)


class _PromptWake:
    """The event that the mappings' poller sleeps on, with a shorter sleep."""

    def __init__(self, event: threading.Event) -> None:
        self.set, self.clear = event.set, event.clear
        self._wait = event.wait

    def wait(self, timeout: float) -> bool:
        return self._wait(min(timeout, _IDLE_SECONDS))


def failed_ids(response: Any, mapping: Mapping, batch: list[Message]) -> set[str] | None:
    """Message ids that count as failed; None for the whole batch."""
    if "ReportBatchItemFailures" not in mapping.get("FunctionResponseTypes", []):
        return set()
    return judged(response, {message["id"] for message in batch})


def _window_is_over(queue: dict[str, Any], size: int, window: int) -> bool:
    now = time.time()
    visible = [message for message in queue["messages"] if message["visible_at"] <= now]
    if not visible or len(visible) >= size:
        return True
    oldest: float = min(max(message["sent_at"], message["visible_at"]) for message in visible)
    return now - oldest >= window
