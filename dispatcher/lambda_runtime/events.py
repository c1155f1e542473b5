"""SQS events: which messages a batch has, and each of them as a delivery.

https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html shows an event.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
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
    count: int
    sent: float | None
    first: float | None
    try:
        # As AWS sends them: whole numbers as texts.
        body, receipt, system, extras = _members(record)
        received, sent_at, first_at = _times(system)
        count, sent, first = int(received), int(sent_at) / 1000, int(first_at) / 1000
        right = 0 < count < _ABSURD and 0 <= sent < _ABSURD and 0 <= first < _ABSURD and type(body) is str
    except (KeyError, ValueError, TypeError, OverflowError):
        right = False
    if not right:
        body, receipt, extras = record.get("body"), record.get("receiptHandle"), record.get("messageAttributes")
        body = body if isinstance(body, str) else ""
        system = record.get("attributes")
        if not isinstance(system, dict):
            system = {}
        count, sent, first = _figures(system)
    # A message received for the first time is invisible since then: a batching window lies in between.
    more: dict[str, Any] = {"received_at": first if count == 1 and first is not None and first < now else now}
    if extras:
        more["message_attributes"] = message_attributes_of(extras)
    group = system.get("MessageGroupId")
    if group is not None and (not isinstance(group, str) or not group):
        group = None
    return Delivery(queue, body, receipt or "", count, record["messageId"], sent, group, more)


#: What each record of an event has, and each record's attributes.
_members: Final = itemgetter("body", "receiptHandle", "attributes", "messageAttributes")
_times: Final = itemgetter("ApproximateReceiveCount", "SentTimestamp", "ApproximateFirstReceiveTimestamp")


def _figures(system: Mapping[str, Any]) -> tuple[int, float | None, float | None]:
    """Return the receive count, and the times of sending and of the first receipt in epoch seconds, as far as right."""
    return (
        int(_number(system.get("ApproximateReceiveCount")) or 1),
        _seconds(_number(system.get("SentTimestamp"))),
        _seconds(_number(system.get("ApproximateFirstReceiveTimestamp"))),
    )


def deliveries_of(records: Sequence[Record], queue_of: Callable[[str], str], now: float) -> list[Delivery]:
    """Return the messages of a batch as deliveries, in their order."""
    deliveries: list[Delivery] = []
    source: Any = records  # which is no ARN
    queue = ""
    for record in records:
        arn = record.get("eventSourceARN", "")
        if arn is not source and arn != source:  # mostly all come from one queue
            source, queue = arn, queue_of(str(arn))
        deliveries.append(delivery_of(record, queue, now))
    return deliveries


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
