"""The broker port: how bodies reach a queue, are leased to a worker, and are settled.

An adapter fills the hooks whose names start with an underscore; this base owns checks and error wording. Every adapter
is safe to use from several threads, opens its connections on first use, and opens new ones after a fork.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from dispatcher.clock import SYSTEM, Clock
from dispatcher.exceptions import MessageTooLarge, SendError, UnsupportedOption


class Outgoing(NamedTuple):
    """A body on its way to a queue; ``delay`` in seconds, ``id`` the task's id (for errors and deduplication)."""

    queue: str
    body: str
    id: str
    delay: float = 0.0
    priority: int | None = None
    group_id: str | None = None
    deduplication_id: str | None = None

    def __repr__(self) -> str:
        return f"<Outgoing: {self.id} to {self.queue}>"


@dataclasses.dataclass(slots=True, eq=False)
class Delivery:
    """One receipt of a message: its body, the receipt that settles it, and how often it was handed out.

    ``receive_count`` is a transport figure: time-outs and hand-backs raise it. ``sent_at`` is in epoch seconds.
    """

    queue: str
    body: str | bytes = dataclasses.field(repr=False)  # arguments may be sensitive
    receipt: Any
    receive_count: int = 1
    message_id: str = ""
    sent_at: float | None = None
    group_id: str | None = None
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    #: what the store of records had of some tasks, by id, after the lease was taken; good for one admission
    brought: Mapping[str, bytes | None] | None = dataclasses.field(default=None, repr=False)
    #: when the lease began at the earliest, on the broker's monotonic clock; `None` for just now
    leased_at: float | None = None

    @property
    def order(self) -> str | None:
        """The message group whose order must be kept, on FIFO queues; the groups of fair queues have no order."""
        return self.group_id if self.group_id is not None and self.queue.endswith(".fifo") else None


class Settlement(NamedTuple):
    """What becomes of a delivery.

    ``ack`` removes it; ``release`` makes it visible again after ``delay`` seconds; ``dead`` moves it to the queue's
    dead letters with ``reason`` (texts: ``reason``, ``task``, ``task_id``, ``exception``, ``retries``, ``traceback``),
    as ``body`` if given.
    """

    delivery: Delivery
    action: Literal["ack", "release", "dead"]
    delay: float = 0.0
    reason: Mapping[str, str] | None = None
    body: str | None = None

    def __repr__(self) -> str:
        return f"<Settlement: {self.action} of {self.delivery!r}>"


#: carries out settlements
Settle = Callable[[Sequence[Settlement]], None]
Answer = TypeVar("Answer")


class Together(Protocol):
    """Runs a function in one transaction, gives it what settles as a part of that, and returns what it returns."""

    def __call__(self, work: Callable[[Settle], Answer]) -> Answer:
        """Run the function; raises `OperationalError`."""
        ...


class DeadLetter(NamedTuple):
    """A message that will not be run again by itself; ``at`` is when it died, in epoch seconds.

    ``receipt`` is what `Broker.redrive` and `Broker.remove_dead_letters` know it by.
    """

    queue: str
    body: str
    reason: Mapping[str, str]
    at: float
    message_id: str
    group_id: str | None = None
    receipt: Any = None

    def __repr__(self) -> str:
        return f"<DeadLetter: {self.message_id} of {self.queue}>"


class QueueCounts(NamedTuple):
    """How many messages a queue holds; approximate on SQS."""

    ready: int
    delayed: int
    in_flight: int
    dead: int


@dataclasses.dataclass(frozen=True)
class BrokerFeatures:
    """What a transport can do; `None` means no limit."""

    #: the longest delay of a message when it is sent, in seconds
    max_delay: float | None = None
    #: the longest delay of a release, in seconds, counted from the first receipt
    max_release: float | None = None
    #: the largest body, in bytes of UTF-8
    max_body: int | None = None
    #: how many messages are taken together or not at all, as far as a producer that dies is concerned
    at_once: int | None = None
    #: after how many receipts the queue moves a message away by itself
    max_receives: int | None = None
    #: how long the queue keeps a message, in seconds
    retention: float | None = None
    #: whether messages of one queue can overtake others by priority
    priorities: bool = True
    #: whether ``group_id`` and ``deduplication_id`` mean something
    groups: bool = False
    #: whether one message can be with two workers at a time, so that settling it for one settles it for both
    doubles: bool = False
    #: whether other processes see the messages
    shared: bool = True
    #: whether calls that bring nothing are paid for
    charged: bool = False


class Broker(ABC):
    """A place that keeps messages until they are settled."""

    features: BrokerFeatures = BrokerFeatures()
    #: how long a delivery is leased, in seconds, before another worker may get it
    visibility_timeout: float = 60.0
    #: how long an idle consumer waits in one `receive`, in seconds; a shutdown waits as long
    poll_wait: float = 1.0

    def __init__(self, url: str, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        self.url = url
        self.options = dict(options or {})
        self.clock = clock

    def open(self) -> None:  # noqa: B027 - most have nothing to prepare
        """Prepare for use as far as that needs no connection, so that a start pays for it and not the first task."""

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Put messages on their queues.

        Raises `MessageTooLarge` and `UnsupportedOption` before anything is sent, `SendError` naming the ids that were
        not accepted, and `OperationalError` where the broker cannot be reached.
        """
        for message in messages:
            self._check(message)
        failures = self._send(messages)
        if failures:
            first = next(iter(failures.items()))
            if len(messages) == 1:
                raise SendError(f"the message of task {first[0]} was not accepted: {first[1]}", failures)
            raise SendError(
                f"{len(failures)} of {len(messages)} messages were not accepted by {self.describe()}; "
                f"the first: {first[0]}: {first[1]}",
                failures,
            )

    def check(self, messages: Sequence[Outgoing]) -> None:
        """Raise what `send` raises for messages that no broker of this kind takes, without sending any."""
        for message in messages:
            self._check(message)

    def bring_records(self, store: Any) -> None:  # noqa: B027 - most have another store than the result backend
        """Have deliveries come with their tasks' records where one round trip gets both; see `Delivery.brought`.

        ``store`` is what `dispatcher.backends.base.ResultBackend.store` says; one that is not ours changes nothing.
        """

    def longest_delay(self, queue: str) -> float | None:
        """Return the longest delay a message may be sent with to this queue, in seconds; `None` for any.

        Whoever sends with a longer one keeps the ETA in the message and lets admission release it until due.
        """
        return self.features.max_delay

    def largest_body(self, queue: str, delay: float) -> int | None:
        """Return the largest body that a message may have that is sent to a queue with a delay, in bytes."""
        return self.features.max_body

    def bring_forward(self, task_ids: Sequence[str]) -> None:  # noqa: B027 - most keep every message in its queue
        """Put the messages of tasks on their queues now that wait for their time elsewhere, as far as they are found.

        They are not due yet, and wait for their ETA in the queue unless their task is revoked.
        """

    def retention_of(self, queue: str) -> float | None:
        """Return how long a queue keeps a message, in seconds; `None` for ever."""
        return self.features.retention

    def lost_queues(self, queues: Sequence[str]) -> list[str]:
        """Name the queues that the transport moves messages of these to when it gives them up.

        What they hold is for whoever decides on lost messages, beside these queues' own consumers.
        """
        return []

    def budget_spent(self, delivery: Delivery) -> float:
        """Return the share of its receipts or of its time in the queue that a message has used up, whichever is more.

        At 1 the transport gives the message up: it moves or drops it.
        """
        most, kept = self.features.max_receives, self.features.retention
        by_receipts = delivery.receive_count / most if most is not None else 0.0
        if kept is None or delivery.sent_at is None:
            return by_receipts
        return max(by_receipts, (self.clock.time() - delivery.sent_at) / kept)

    def _check(self, message: Outgoing) -> None:
        limits = self.features
        if message.delay > 0:
            longest = self.longest_delay(message.queue)
            if longest is not None and message.delay > longest:
                raise UnsupportedOption(
                    f"a delay of {message.delay:g} s is over the {longest:g} s that {self.describe()} can do"
                )
        if message.priority is not None and not limits.priorities:
            raise UnsupportedOption(
                f"priority={message.priority} cannot work: {self.describe()} has no priorities; "
                "route urgent tasks to a queue of their own instead"
            )
        if message.group_id is not None and not limits.groups:
            raise UnsupportedOption(
                f"MessageGroupId={message.group_id!r} cannot work: {self.describe()} has no message groups; SQS has"
            )
        # Counting bytes costs; a body is ASCII JSON, so its length is its size.
        largest = limits.max_body if message.delay <= 0 else self.largest_body(message.queue, message.delay)
        if largest is not None and len(message.body) > largest:
            delayed = "" if largest == limits.max_body else " with this delay"
            raise MessageTooLarge(
                f"the message of task {message.id} has {len(message.body):,} bytes, over the {largest:,} that "
                f"{self.describe()} takes{delayed}; pass a reference to the data instead"
            )

    def describe(self) -> str:
        """Name the broker for people, without credentials."""
        return self.url.split("://", 1)[0]

    @abstractmethod
    def _send(self, messages: Sequence[Outgoing]) -> Mapping[str, str]:
        """Send all; return the reasons of those not accepted by task id; raise `OperationalError` if out of reach."""

    @abstractmethod
    def receive(self, queues: Sequence[str], limit: int, wait: float = 0.0) -> list[Delivery]:
        """Lease up to ``limit`` messages, in the order of ``queues``, waiting up to ``wait`` seconds for the first.

        Messages whose lease ran out come again with a higher receive count.
        """

    @abstractmethod
    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Carry out what was decided; a delivery whose lease ran out meanwhile is left alone, without an error."""

    def settle_and_receive(
        self, settlements: Sequence[Settlement], queues: Sequence[str], limit: int, wait: float = 0.0
    ) -> list[Delivery]:
        """Settle, then receive: what a consumer does between two batches, in one round trip where the adapter can.

        After an error the settlements may or may not have been carried out; repeating them is safe.
        """
        if settlements:
            self.settle(settlements)
        return self.receive(queues, limit, wait)

    def together(self, store: Any) -> Together | None:
        """Return what runs a function in one transaction of this broker and a result backend.

        It is `None` where ``store``, which `dispatcher.backends.base.ResultBackend.store` says, is not where messages
        are. What the backend writes in the function, and what is settled by the `Settle` that the function is given,
        takes effect at its end: all or nothing. Raises `OperationalError`.
        """
        return None

    def removals(self, deliveries: Sequence[Delivery], store: Any) -> Sequence[Any]:
        """Return for each delivery what a backend's write acknowledges it by (`Write.removal`), or `None` for some.

        Nothing at all where ``store``, as above, is not where messages are, or has a better way for so many.
        """
        return ()

    @abstractmethod
    def extend(self, deliveries: Sequence[Delivery], seconds: float) -> None:
        """Lease deliveries for this much longer, counted from now."""

    @abstractmethod
    def counts(self, queue: str) -> QueueCounts:
        """Count a queue's messages."""

    @abstractmethod
    def purge(self, queue: str) -> int:
        """Remove every message of a queue that is not leased; return how many."""

    @abstractmethod
    def dead_letters(self, queue: str, limit: int = 100) -> list[DeadLetter]:
        """Show the newest dead letters of a queue, without removing them."""

    @abstractmethod
    def walk_dead_letters(self, queue: str) -> Generator[list[DeadLetter], None, None]:
        """Yield the dead letters that a queue has now, in pages, so that any number of them fits into memory.

        Each page may be redriven or removed before the next is asked for; what dies meanwhile is left out. Close the
        iterator (`contextlib.closing`) when done with it: a store that leases what it shows then gives it free.
        """

    @abstractmethod
    def redrive(self, letters: Sequence[DeadLetter]) -> int:
        """Send dead letters of a walk back to their queue, as they are, and remove them; return how many.

        They are new messages to the transport: receive counts and ages start again. Each is sent before it is removed,
        so an error or a crash in between leaves it in both places and never in none; those that were sent are removed
        before an `OperationalError` is raised for the others. A letter that is gone already is not sent, on SQS as far
        as the walk's lease lasts.
        """

    @abstractmethod
    def remove_dead_letters(self, letters: Sequence[DeadLetter]) -> int:
        """Remove dead letters of a walk for good; return how many there were."""

    @abstractmethod
    def queues(self) -> list[str]:
        """Name the queues that exist or hold messages, without their dead-letter queues."""

    @abstractmethod
    def close(self) -> None:
        """Close connections; the broker opens new ones when it is used again."""
