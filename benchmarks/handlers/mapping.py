"""What an event source mapping does: batches of ten from a queue to a handler, and what it is done with deleted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from benchmarks.handlers.run import context
from dispatcher.lambda_runtime.batches import Worker

BATCH_SIZE: Final = 10


def work_off(worker: Worker, sqs: Any, url: str, queue: str) -> None:
    """Hand all messages of a queue to a worker; raises SystemExit where it hands one back."""
    while messages := sqs.receive_message(
        QueueUrl=url, MaxNumberOfMessages=BATCH_SIZE, MessageSystemAttributeNames=["All"]
    ).get("Messages"):
        answer = worker({"Records": [record_of(each, queue) for each in messages]}, context())
        if answer["batchItemFailures"]:
            raise SystemExit(f"error: {len(answer['batchItemFailures'])} messages were handed back")
        entries = [{"Id": each["MessageId"], "ReceiptHandle": each["ReceiptHandle"]} for each in messages]
        sqs.delete_message_batch(QueueUrl=url, Entries=entries)


def record_of(message: Mapping[str, Any], queue: str) -> dict[str, Any]:
    """Return a message of a queue as an event has it."""
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:us-east-1:000000000000:{queue}",
        "awsRegion": "us-east-1",
    }
