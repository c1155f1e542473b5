"""How an idle worker waits: one write that blocks until there is a message, and has its task's record come with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from dispatcher.brokers.base import Delivery
from dispatcher.brokers.redis_queues import GROUP
from dispatcher.brokers.redis_scripts import RECORDS
from dispatcher.redis_connection import Command, RecordStore, pack_start, pack_value, pack_values

#: Records that come with the messages of a stream, at most. Those of a larger batch are read in a round trip of their
#: own, which is little beside so many runs.
_MOST: Final = 8


class BlockingRead:
    """The commands of a wait, packed but for what differs from one to the next.

    The records are looked up after the messages were leased, by a command that the server runs before it answers.
    """

    def __init__(self, consumer: str, streams: Sequence[str], limit: int, store: RecordStore | None) -> None:
        self._start = pack_start(
            2 + 2 * len(streams), "XREADGROUP", "GROUP", GROUP, consumer, "COUNT", limit, "BLOCK"
        )  # fmt: skip
        self._end = pack_values(["STREAMS", *streams, *(">" for _ in streams)])
        self._streams = streams
        self._records = b""
        if store is not None:
            arguments = (GROUP, consumer, _MOST, store.before, store.after)
            self._records = RECORDS.start(len(streams), streams, arguments)

    def commands(self, milliseconds: int, newest: Mapping[str, bytes]) -> Iterable[Command]:
        """Return the commands that wait for so long; ``newest`` are messages after which the awaited ones come."""
        read = Command(b"%b%b%b" % (self._start, pack_value(b"%d" % milliseconds), self._end))
        if not self._records:
            return (read,)
        after = [pack_value(newest.get(stream, b"0")) for stream in self._streams]
        return read, Command(self._records + b"".join(after), RECORDS)


def hand_over(reply: Any, deliveries: Iterable[Delivery]) -> None:
    """Put the records that a reply tells of to the deliveries that were leased.

    An error tells of none: whoever reads these records meets it again, and knows what it means.
    """
    if isinstance(reply, list) and reply[0]:
        brought = dict(zip([id.decode() for id in reply[0]], reply[1], strict=True))
        for delivery in deliveries:
            delivery.brought = brought
