"""What the entries of streams say: messages, new ones and those that come again, and dead letters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from dispatcher.brokers.base import DeadLetter, Delivery

#: The fields of a message that comes again: body, receipts before, its first id, when it was sent.
_AGAIN: Final = [b"b", b"n", b"i", b"t"]
_NUMBER: Final = re.compile(rb"\d{1,15}")


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

    def is_sure(self, now: float) -> bool:
        """Say whether the lease is ours and of the usual length, so that the message may go without a look at it."""
        return now < self.until and not self.extended


def deliveries_of(
    queue: str, entries: Iterable[tuple[str, bytes, int, list[bytes]]], consumer: str, leased_at: float, seconds: float
) -> list[Delivery]:
    """Return the messages that a consumer has leased for so many seconds.

    An entry is priority, id, receipts under this id, and fields.

    What another program put into a stream is a message as well, with its first field's value for a body, lest it come
    again and again: whoever reads that finds it no message of ours.
    """
    taken, until = [], leased_at + seconds
    for level, id, count, fields in entries:
        message_id, earlier, sent = id.decode(), 0, id
        if len(fields) > 2 and fields[::2] == _AGAIN and all(map(_NUMBER.fullmatch, (fields[3], fields[7]))):
            message_id, earlier, sent = _text(fields[5]), int(fields[3]), fields[7]
        receipt = Receipt(level, id, consumer, count, until)
        sent_at = int(sent.partition(b"-")[0]) / 1000
        taken.append(
            Delivery(queue, _text(fields[1]), receipt, earlier + count, message_id, sent_at, leased_at=leased_at)
        )
    return taken


def dead_letter_of(queue: str, id: bytes, fields: Sequence[bytes]) -> DeadLetter:
    """Return a dead letter of a queue."""
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    at = int(id.partition(b"-")[0]) / 1000
    return DeadLetter(queue, _text(values[b"b"]), json.loads(values[b"r"]), at, _text(values[b"i"]), receipt=id)


def _text(value: bytes) -> str:
    """Return a text; what is not UTF-8 becomes one that is no JSON."""
    return value.decode("utf-8", "backslashreplace")
