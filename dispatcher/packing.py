"""Packing: from a call to what goes on the broker: its body, signed, no larger than it may be, and its delay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dispatcher.brokers.base import Broker, Outgoing
from dispatcher.exceptions import EncodeError, MessageTooLarge, UnsupportedOption
from dispatcher.message import Message, encode
from dispatcher.sensitive import raise_discreetly

if TYPE_CHECKING:
    from dispatcher.payloads import Parcels, PayloadStore

#: What EventBridge Scheduler would replace in a message that it keeps, and how JSON spells it so that it stays.
#: https://docs.aws.amazon.com/scheduler/latest/UserGuide/managing-schedule-context-attributes.html
_PLACEHOLDER: Final = "<aws.scheduler."
_SPELT_OUT: Final = r"\u003caws.scheduler."


class Call(NamedTuple):
    """A message ready to go, its queue, how many seconds it is held back; whether another task stands for its call."""

    message: Message
    queue: str
    delay: float
    duplicate: bool = False


class Packed(NamedTuple):
    """Calls as they go on the broker: packed and checked, so that only the broker can still refuse them."""

    calls: Sequence[Call]
    outgoing: Sequence[Outgoing]


class Packer:
    """Packs calls with an app's settings; ``seal`` signs a body for a queue, where signing keys are configured."""

    def __init__(
        self, conf: Any, seal: Callable[[str, str], str] | None, payloads: Callable[[], PayloadStore | None]
    ) -> None:
        self._conf = conf
        self._seal = seal
        self._readable: int = conf.max_message_bytes
        self._payloads = payloads if conf.payload_bucket is not None else None

    def pack(self, broker: Broker, calls: Sequence[Call]) -> list[Outgoing]:
        """Return what goes on a broker, after arguments that are too large for it went to the payload store.

        Raises `MessageTooLarge`, `UnsupportedOption` for a delay that cannot be kept, `EncodeError`, and
        `OperationalError` where the store is out of reach.
        """
        parcels = self._parcels(broker) if self._payloads is not None else None
        limit = broker.features.max_body
        outgoing = [self._outgoing(broker, call, limit, parcels) for call in calls]
        if parcels is not None:
            parcels.store()
        return outgoing

    def _parcels(self, broker: Broker) -> Parcels | None:
        from dispatcher.payloads import Parcels

        store = self._payloads() if self._payloads is not None else None
        conf, limit = self._conf, broker.features.max_body
        return None if store is None else Parcels(store, limit, conf.payload_threshold, conf.max_message_bytes)

    def _outgoing(self, broker: Broker, call: Call, limit: int | None, parcels: Parcels | None) -> Outgoing:
        message, queue, delay, _ = call
        if delay > 0:
            limit = broker.largest_body(queue, delay)
        try:
            body = encode(message) if parcels is None else parcels.body_of(message, limit)
        except EncodeError as error:
            raise_discreetly(error, message.args, message.kwargs, message.sensitive)
        if len(body) > self._readable:
            from dispatcher.payloads import check_size

            check_size(f"the message of task {message.id} has", len(body), self._readable)
        if delay > 0:
            delay = self._held(broker, queue, delay)
            body = body.replace(_PLACEHOLDER, _SPELT_OUT)
        if self._seal is not None:
            body = self._seal(body, queue)
        if limit is not None and len(body) > limit:
            remedy = (
                "set payload_bucket to keep arguments in S3, or pass a reference to the data instead"
                if parcels is None
                else "links and headers travel in the message itself; pass a reference to their data instead"
            )
            whose = f"{broker.describe()} takes" + ("" if limit == broker.features.max_body else " with this delay")
            raise MessageTooLarge(
                f"the message of task {message.id} has {len(body):,} bytes, over the {limit:,} that {whose}; {remedy}"
            )
        deduplication = _deduplication_of(message) if queue.endswith(".fifo") else message.deduplication_id
        return Outgoing(queue, body, message.id, delay, message.priority, message.group_id, deduplication)

    def _held(self, broker: Broker, queue: str, delay: float) -> float:
        """Return for how long the broker holds a message back; what is left of its ETA it waits in its queue."""
        longest = broker.longest_delay(queue)
        if longest is not None:
            return min(delay, longest)  # it is signed anew where it waits
        if self._seal is not None and delay > self._conf.signing_max_age:
            raise UnsupportedOption(
                f"a delay of {delay:,.0f} s cannot work: the message would be older than a signature may be; "
                f"raise signing_max_age, now {self._conf.signing_max_age:,.0f} s, where messages are read"
            )
        return delay


def _deduplication_of(message: Message) -> str:
    """Return what a FIFO queue tells repetitions of a message by."""
    own = f"{message.deduplication_id or message.id}:{message.gen}"
    # Of two attempts that publish, the record chooses, not the queue.
    return own if message.handover is None else f"{own}:{message.handover}"
