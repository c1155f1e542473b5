"""An app, its queue on the AWS-shaped endpoint, and an event source mapping worked by hand: one batch at a time."""

import time
import uuid
from collections.abc import Callable
from typing import Any

from dispatcher import Dispatcher
from dispatcher.lambda_runtime.batches import Worker
from tests.emulation.endpoint import AwsEndpoint, unique_name

VISIBILITY = 300
"""Seconds; longer than any test, so that what is visible earlier was made so."""


class Context:
    """What the runtime client passes beside the event; ``seconds`` are left until the invocation ends."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.aws_request_id = str(uuid.uuid4())
        self.function_name = "worker"
        self.memory_limit_in_mb = "512"
        self.invoked_function_arn = "arn:aws:lambda:us-east-1:000000000000:function:worker"
        self._ends = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        """Return what is left, never less than nothing."""
        return max(0, int((self._ends - time.monotonic()) * 1000))


class Lab:
    """One queue with dead letters, the app that uses it, and the worker."""

    def __init__(self, aws: AwsEndpoint, *, fifo: bool = False, **settings: Any) -> None:
        self.aws = aws
        self.sqs = aws.client("sqs")
        self.queue = "default.fifo" if fifo else "default"
        suffix = ".fifo" if fifo else ""
        name = unique_name("lab")
        self.dead_url = aws.create_queue(f"{name}-dead{suffix}")
        self.url = aws.create_queue(
            name + suffix, dead_letter_queue=self.dead_url, max_receive_count=50, visibility_timeout=VISIBILITY
        )
        self.arn = aws.queue_arn(self.url)
        dead = "default-dead.fifo" if fifo else "default-dead"
        self.urls = {self.queue: self.url, dead: self.dead_url}
        transport: dict[str, Any] = {"predefined_queues": {queue: {"url": url} for queue, url in self.urls.items()}}
        self.app = Dispatcher(
            name,
            broker="sqs://",
            backend=f"dynamodb://{aws.create_table(name, sort_key='sk')}",
            broker_transport_options=transport,
            task_default_queue=self.queue,
            set_as_current=False,
            **settings,
        )
        self.worker = Worker(lambda: self.app)

    def task(self, function: Callable[..., Any] | None = None, **options: Any) -> Any:
        """Register a task."""
        options.setdefault("name", f"lab.{uuid.uuid4().hex[:6]}" if function is None else f"lab.{function.__name__}")
        return self.app.task(**options)(function) if function is not None else self.app.task(**options)

    def take(self, limit: int = 10) -> dict[str, Any]:
        """Receive what is visible and return it as the event that a mapping would send."""
        answer = self.sqs.receive_message(
            QueueUrl=self.url,
            MaxNumberOfMessages=limit,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        return {"Records": [self._record(message) for message in answer.get("Messages", [])]}

    def _record(self, message: dict[str, Any]) -> dict[str, Any]:
        return {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": message["Attributes"],
            "messageAttributes": {},
            "md5OfBody": message["MD5OfBody"],
            "eventSource": "aws:sqs",
            "eventSourceARN": self.arn,
            "awsRegion": "us-east-1",
        }

    def invoke(self, event: dict[str, Any] | None = None, context: Any = None) -> list[str]:
        """Run a batch (what is visible) and delete what was not reported; return the reported message ids.

        Fails where a mapping would take the answer for a failure of the whole batch.
        """
        event = self.take() if event is None else event
        answer = self.worker(event, context or Context())
        reported = checked(answer, event)
        for record in event["Records"]:
            if record["messageId"] not in reported:
                self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=record["receiptHandle"])
        return reported

    def depth(self) -> dict[str, int]:
        """Count the queue's messages: visible, in_flight, delayed."""
        return self.aws.queue_depth(self.url)

    def dead_letters(self) -> list[dict[str, Any]]:
        """Receive the dead letters, attributes included."""
        answer = self.sqs.receive_message(QueueUrl=self.dead_url, MaxNumberOfMessages=10, MessageAttributeNames=["All"])
        return list(answer.get("Messages", []))


MakeLab = Callable[..., Lab]


def checked(answer: Any, event: Any) -> list[str]:
    """Return the reported ids of an answer that a mapping would accept: known ones, each once."""
    assert isinstance(answer, dict)
    assert list(answer) == ["batchItemFailures"]
    assert all(list(item) == ["itemIdentifier"] for item in answer["batchItemFailures"])
    reported = [item["itemIdentifier"] for item in answer["batchItemFailures"]]
    records = event.get("Records") if isinstance(event, dict) else None
    known = [
        record.get("messageId") for record in records or [] if isinstance(record, dict)
    ] if isinstance(records, list) else []  # fmt: skip
    assert len(set(reported)) == len(reported)
    assert all(name in known for name in reported)
    return reported
