"""What the entries of streams say: messages, new ones and those that come again, and dead letters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dispatcher.brokers.base import DeadLetter, Delivery


class Receipt(NamedTuple):
    """What settles a delivery: it is good for one lease."""

    level: str
    id: bytes
    consumer: str
    #: how often the message was received under this id, as the server counts
    receipts: int
    #: until when, on the monotonic clock, nobody else can hold the lease
    until: float
    extended: bool = False


def deliveries_of(
    queue: str, entries: Iterable[tuple[str, bytes, int, list[bytes]]], consumer: str, until: float
) -> list[Delivery]:
    """Return the messages that a consumer has leased; an entry is priority, id, receipts under this id, and fields."""
    taken = []
    for level, id, count, fields in entries:
        message_id, earlier, sent = id.decode(), 0, id
        if len(fields) > 2:
            extra = dict(zip(fields[::2], fields[1::2], strict=True))
            message_id, earlier, sent = extra[b"i"].decode(), int(extra[b"n"]), extra[b"t"]
        receipt = Receipt(level, id, consumer, count, until)
        sent_at = int(sent.partition(b"-")[0]) / 1000
        taken.append(Delivery(queue, fields[1].decode(), receipt, earlier + count, message_id, sent_at))
    return taken


def dead_letter_of(queue: str, id: bytes, fields: Sequence[bytes]) -> DeadLetter:
    """Return a dead letter of a queue."""
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    at = int(id.partition(b"-")[0]) / 1000
    return DeadLetter(queue, values[b"b"].decode(), json.loads(values[b"r"]), at, values[b"i"].decode(), receipt=id)
