"""What an event source mapping hands to a function, and how it reads the answer."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from typing import Any

Message = Mapping[str, Any]


def record_of(message: Message, arn: str, region: str) -> dict[str, Any]:
    """Return a received message as a record of an event.

    https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html
    """
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": dict(message.get("Attributes", {})),
        "messageAttributes": {
            name: _attribute(value) for name, value in message.get("MessageAttributes", {}).items()
        },
        "md5OfBody": message.get("MD5OfBody", ""),
        "eventSource": "aws:sqs",
        "eventSourceARN": arn,
        "awsRegion": region,
    }  # fmt: skip


def _attribute(value: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"stringListValues": [], "binaryListValues": [], "dataType": value.get("DataType", "")}
    if "StringValue" in value:
        made["stringValue"] = value["StringValue"]
    if "BinaryValue" in value:
        made["binaryValue"] = base64.b64encode(value["BinaryValue"]).decode()
    return made


def failed_ids(response: Any, known: Collection[str]) -> set[str] | None:
    """Return the message ids that a partial batch response reports; `None` when the whole batch counts as failed.

    https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html#services-sqs-batchfailurereporting
    """
    if response in (None, ""):
        return set()
    if not isinstance(response, dict):
        return None
    failures = response.get("batchItemFailures")
    if failures is None:
        return set()
    if not isinstance(failures, list):
        return None
    reported: list[Any] = [failure.get("itemIdentifier") if isinstance(failure, dict) else None for failure in failures]
    usable = all(isinstance(name, str) and name in known for name in reported)
    return set(reported) if usable else None
