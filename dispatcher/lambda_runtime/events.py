"""SQS events: which messages a batch has, and each of them as a delivery.

https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html shows an event.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from dispatcher.brokers.base import Delivery

SOURCE: Final = "aws:sqs"

Record = Mapping[str, Any]


def records_of(event: Any) -> list[Record]:
    """Return the SQS messages of an event; what is none, or could not be reported by an id, is left out."""
    records = event.get("Records") if isinstance(event, dict) else None
    if not isinstance(records, list):
        return []
    return [record for record in records if _is_message(record)]


def _is_message(record: Any) -> bool:
    if not isinstance(record, dict) or record.get("eventSource") != SOURCE:
        return False
    message_id = record.get("messageId")
    return isinstance(message_id, str) and message_id != ""


def delivery_of(record: Record, queue: str, now: float) -> Delivery:
    """Return a message as a delivery of a queue; ``now`` is when the batch arrived, in epoch seconds.

    What the record lacks, or has in a wrong form, is as if the broker kept no such figure.
    """
    attributes = record.get("attributes")
    system: Mapping[str, Any] = attributes if isinstance(attributes, dict) else {}
    sent, first = _milliseconds(system, "SentTimestamp"), _milliseconds(system, "ApproximateFirstReceiveTimestamp")
    count = max(1, _whole(system.get("ApproximateReceiveCount")) or 1)
    group = system.get("MessageGroupId")
    body = record.get("body")
    # A message received for the first time is invisible since then: a batching window lies in between.
    more: dict[str, Any] = {"received_at": first if count == 1 and first is not None and first < now else now}
    if record.get("messageAttributes"):
        more["message_attributes"] = message_attributes_of(record["messageAttributes"])
    return Delivery(
        queue,
        body if isinstance(body, str) else "",
        record.get("receiptHandle") or "",
        count,
        record["messageId"],
        sent,
        group if isinstance(group, str) and group else None,
        more,
    )


def deliveries_of(records: Sequence[Record], queue_of: Callable[[str], str], now: float) -> list[Delivery]:
    """Return the messages of a batch as deliveries, in their order."""
    return [delivery_of(record, queue_of(str(record.get("eventSourceARN", ""))), now) for record in records]


def message_attributes_of(attributes: Any) -> dict[str, str | bytes]:
    """Return message attributes as plain values: texts and numbers as texts, binary ones as bytes."""
    values: dict[str, str | bytes] = {}
    for name, attribute in attributes.items() if isinstance(attributes, dict) else ():
        if not isinstance(attribute, dict):
            continue
        text, binary = attribute.get("stringValue"), attribute.get("binaryValue")
        if isinstance(text, str):
            values[name] = text
        elif isinstance(binary, str):
            try:
                values[name] = base64.b64decode(binary, validate=True)
            except (binascii.Error, ValueError):
                continue
    return values


def _milliseconds(system: Mapping[str, Any], name: str) -> float | None:
    value = _whole(system.get(name))
    return None if value is None else value / 1000


def _whole(value: Any) -> int | None:
    # Event JSON has numbers as texts. isdecimal() and the length keep int() from raising.
    if isinstance(value, str) and len(value) <= 18 and value.isdecimal():
        return int(value)
    return value if type(value) is int and 0 <= value < 10**18 else None
