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
#: No receive count and no time in epoch seconds is as large.
_ABSURD: Final = 10**12

Record = Mapping[str, Any]


def records_of(event: Any) -> list[Record]:
    """Return the SQS messages of an event; what is none, or could not be reported by an id, is left out."""
    records = event.get("Records") if isinstance(event, dict) else None
    if not isinstance(records, list):
        return []
    return [
        record
        for record in records
        if isinstance(record, dict)
        and record.get("eventSource") == SOURCE
        and (message_id := record.get("messageId"))
        and isinstance(message_id, str)
    ]


def delivery_of(record: Record, queue: str, now: float) -> Delivery:
    """Return a message as a delivery of a queue; ``now`` is when the batch arrived, in epoch seconds.

    What the record lacks, or has in a wrong form, is as if the broker kept no such figure.
    """
    system = record.get("attributes")
    if not isinstance(system, dict):
        system = {}
    count: int
    sent: float | None
    first: float | None
    try:
        # As AWS sends them: whole numbers as texts.
        count = int(system["ApproximateReceiveCount"])
        sent, first = int(system["SentTimestamp"]) / 1000, int(system["ApproximateFirstReceiveTimestamp"]) / 1000
        right = 0 < count < _ABSURD and 0 <= sent < _ABSURD and 0 <= first < _ABSURD
    except (KeyError, ValueError, TypeError, OverflowError):
        right = False
    if not right:
        count, sent, first = _figures(system)
    # A message received for the first time is invisible since then: a batching window lies in between.
    more: dict[str, Any] = {"received_at": first if count == 1 and first is not None and first < now else now}
    if record.get("messageAttributes"):
        more["message_attributes"] = message_attributes_of(record["messageAttributes"])
    body, group = record.get("body"), system.get("MessageGroupId")
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


def _figures(system: Mapping[str, Any]) -> tuple[int, float | None, float | None]:
    """Return the receive count, and the times of sending and of the first receipt in epoch seconds, as far as right."""
    return (
        int(_number(system.get("ApproximateReceiveCount")) or 1),
        _seconds(_number(system.get("SentTimestamp"))),
        _seconds(_number(system.get("ApproximateFirstReceiveTimestamp"))),
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


def _number(value: Any) -> int | None:
    try:
        number = int(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return number if 0 <= number < _ABSURD * 1000 else None


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
