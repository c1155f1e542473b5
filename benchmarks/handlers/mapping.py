"""What an event source mapping does: batches of ten from a queue to a handler, and what it is done with deleted."""

from __future__ import annotations

from typing import Any

from benchmarks.handlers.run import context
from dispatcher.lambda_runtime.batches import Worker
from dispatcher.local.events import record_of
from dispatcher.quotas import SQS_MAX_BATCH


def work_off(worker: Worker, sqs: Any, url: str, queue: str) -> None:
    """Hand all messages of a queue to a worker; raises SystemExit where it hands one back."""
    arn = f"arn:aws:sqs:us-east-1:000000000000:{queue}"
    while messages := sqs.receive_message(
        QueueUrl=url, MaxNumberOfMessages=SQS_MAX_BATCH, MessageSystemAttributeNames=["All"]
    ).get("Messages"):
        answer = worker({"Records": [record_of(each, arn, "us-east-1") for each in messages]}, context())
        if answer["batchItemFailures"]:
            raise SystemExit(f"error: {len(answer['batchItemFailures'])} messages were handed back")
        entries = [{"Id": each["MessageId"], "ReceiptHandle": each["ReceiptHandle"]} for each in messages]
        sqs.delete_message_batch(QueueUrl=url, Entries=entries)
