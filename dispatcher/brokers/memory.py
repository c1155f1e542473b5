"""A broker inside one process, for tests and for apps whose worker threads live beside the producer."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from dispatcher.brokers.base import (
    Broker,
    BrokerFeatures,
    DeadLetter,
    Delivery,
    Outgoing,
    QueueCounts,
    Settlement,
)
from dispatcher.clock import SYSTEM, Clock
from dispatcher.memory_store import MemoryStore
from dispatcher.utils.options import check_options, seconds_option

_READY: Final = 0
_DELAYED: Final = 1
_LEASED: Final = 2
_GONE: Final = 3
#: how much that no longer holds a small queue's heaps may have
_STALE: Final = 64
#: how many dead letters a page of a walk has
_PAGE: Final = 100


class _Dead(NamedTuple):
    """A dead letter, and the priority of its message."""

    letter: DeadLetter
    priority: int


class _Entry:
    """A message in the store; ``lease`` is the receive count whose receipt is valid, 0 for none."""

    __slots__ = ("body", "due", "lease", "number", "priority", "receives", "sent_at", "state")

    def __init__(self, number: int, body: str, priority: int, sent_at: float) -> None:
        self.number = number
        self.body = body
        self.priority = priority
        self.sent_at = sent_at
        self.state = _GONE
        self.due = 0.0
        self.receives = 0
        self.lease = 0

    def __lt__(self, other: _Entry) -> bool:
        # Heaps come to this where they hold an entry twice.
        return self.number < other.number


class _Queue:
    """The messages of one queue.

    Entries stay in the heaps when their state changes; what no longer holds is skipped when it comes to the top, and
    thrown out once there is more of it than of what holds: a lease may last long after its message is gone.
    """

    def __init__(self) -> None:
        self.entries: dict[int, _Entry] = {}
        self.ready: list[tuple[int, int, _Entry]] = []
        self.waiting: list[tuple[float, int, _Entry]] = []
        #: by the number of the message, in the order they died in
        self.dead: dict[int, _Dead] = {}

    def make_ready(self, entry: _Entry) -> None:
        entry.state = _READY
        heapq.heappush(self.ready, (entry.priority, entry.number, entry))

    def hold(self, entry: _Entry, state: int, due: float) -> None:
        entry.state, entry.due = state, due
        heapq.heappush(self.waiting, (due, entry.number, entry))
        self._throw_out()

    def remove(self, entry: _Entry) -> None:
        entry.state = _GONE
        del self.entries[entry.number]
        self._throw_out()

    def _throw_out(self) -> None:
        most = 2 * len(self.entries) + _STALE
        if len(self.waiting) > most:
            self.waiting = [each for each in self.waiting if _holds(each)]
            heapq.heapify(self.waiting)
        if len(self.ready) > most:
            self.ready = [each for each in self.ready if each[2].state == _READY]
            heapq.heapify(self.ready)

    def wake(self, now: float) -> None:
        """Make ready what is due; afterwards the top of ``waiting`` lies in the future."""
        while self.waiting and self.waiting[0][0] <= now:
            each = heapq.heappop(self.waiting)
            if _holds(each):
                self.make_ready(each[2])

    def next_ready(self) -> _Entry | None:
        while self.ready:
            entry = heapq.heappop(self.ready)[2]
            if entry.state == _READY:
                return entry
        return None


def _holds(waiting: tuple[float, int, _Entry]) -> bool:
    """Say whether an entry still waits for this moment."""
    due, _, entry = waiting
    return entry.state in (_DELAYED, _LEASED) and entry.due == due


class _Store(MemoryStore):
    """The queues that brokers of one name share; every access holds ``changed``."""

    def __init__(self) -> None:
        super().__init__()
        self.queues: dict[str, _Queue] = {}
        self.numbers = itertools.count(1)

    def queue(self, name: str) -> _Queue:
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = _Queue()
        return queue


class MemoryBroker(Broker):
    """Keeps messages in this process; brokers of one URL, ``memory://name``, share them until the process ends.

    Priorities are whole numbers, 0 is the default and the most urgent, as with Celery's Redis transport; messages of
    one priority keep the order they were sent in. Delays have no limit. Option: ``visibility_timeout`` in seconds.
    """

    features = BrokerFeatures(shared=False)

    def __init__(self, url: str, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        super().__init__(url, options, clock)
        check_options("the memory broker", self.options, ["visibility_timeout"])
        self.visibility_timeout = seconds_option(
            "the memory broker", self.options, "visibility_timeout", self.visibility_timeout
        )
        self._store = _Store.at(url)

    def _send(self, messages: Sequence[Outgoing]) -> Mapping[str, str]:
        store, now = self._store, self.clock.time()
        with store.changed:
            for message in messages:
                queue = store.queue(message.queue)
                entry = _Entry(next(store.numbers), message.body, message.priority or 0, now)
                queue.entries[entry.number] = entry
                if message.delay > 0:
                    queue.hold(entry, _DELAYED, now + message.delay)
                else:
                    queue.make_ready(entry)
            store.changed.notify_all()
        return {}

    def receive(self, queues: Sequence[str], limit: int, wait: float = 0.0) -> list[Delivery]:
        """Lease up to ``limit`` messages; see `Broker.receive`.

        A clock other than the system's cannot wake a waiting thread, so the wait is spent by its ``sleep``.
        """
        store = self._store
        deadline = self.clock.monotonic() + wait
        while True:
            with store.changed:
                deliveries = self._lease(queues, limit)
                left = deadline - self.clock.monotonic()
                if deliveries or left <= 0:
                    return deliveries
                pause = min([left, *(due - self.clock.time() for due in self._next_due(queues))])
                if self.clock is SYSTEM:
                    store.changed.wait(pause)
                    continue
            self.clock.sleep(pause)

    def _lease(self, queues: Sequence[str], limit: int) -> list[Delivery]:
        now, leased_at = self.clock.time(), self.clock.monotonic()
        deliveries: list[Delivery] = []
        for name in queues:
            queue = self._store.queues.get(name)
            if queue is None:
                continue
            queue.wake(now)
            while len(deliveries) < limit and (entry := queue.next_ready()) is not None:
                entry.receives += 1
                entry.lease = entry.receives
                queue.hold(entry, _LEASED, now + self.visibility_timeout)
                deliveries.append(
                    Delivery(
                        queue=name,
                        body=entry.body,
                        receipt=(entry.number, entry.lease),
                        receive_count=entry.receives,
                        message_id=str(entry.number),
                        sent_at=entry.sent_at,
                        leased_at=leased_at,
                    )
                )
        return deliveries

    def _next_due(self, queues: Sequence[str]) -> list[float]:
        found = (self._store.queues.get(name) for name in queues)
        return [queue.waiting[0][0] for queue in found if queue is not None and queue.waiting]

    def _leased(self, delivery: Delivery) -> tuple[_Queue, _Entry] | None:
        """Find the delivery's message, unless it is settled or leased to somebody else."""
        number, lease = delivery.receipt
        queue = self._store.queues.get(delivery.queue)
        entry = queue.entries.get(number) if queue is not None else None
        return (queue, entry) if queue is not None and entry is not None and entry.lease == lease else None

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Carry out what was decided; see `Broker.settle`."""
        with self._store.changed:
            now = self.clock.time()
            for settlement in settlements:
                found = self._leased(settlement.delivery)
                if found is not None:
                    self._settle_one(*found, settlement, now)
            self._store.changed.notify_all()

    @staticmethod
    def _settle_one(queue: _Queue, entry: _Entry, settlement: Settlement, now: float) -> None:
        if settlement.action == "release":
            entry.lease = 0
            if settlement.delay > 0:
                queue.hold(entry, _DELAYED, now + settlement.delay)
            else:
                queue.make_ready(entry)
            return
        queue.remove(entry)
        if settlement.action == "dead":
            body = entry.body if settlement.body is None else settlement.body
            name, reason = settlement.delivery.queue, dict(settlement.reason or {})
            letter = DeadLetter(name, body, reason, now, str(entry.number), receipt=entry.number)
            queue.dead[entry.number] = _Dead(letter, entry.priority)

    def extend(self, deliveries: Sequence[Delivery], seconds: float) -> None:
        """Lease deliveries for this much longer; see `Broker.extend`."""
        with self._store.changed:
            due = self.clock.time() + seconds
            for found in filter(None, map(self._leased, deliveries)):
                found[0].hold(found[1], _LEASED, due)

    def counts(self, queue: str) -> QueueCounts:
        """Count a queue's messages exactly."""
        with self._store.changed:
            found = self._store.queues.get(queue)
            if found is None:
                return QueueCounts(0, 0, 0, 0)
            found.wake(self.clock.time())
            states = [entry.state for entry in found.entries.values()]
            return QueueCounts(states.count(_READY), states.count(_DELAYED), states.count(_LEASED), len(found.dead))

    def purge(self, queue: str) -> int:
        """Remove every message of a queue that is not leased; return how many."""
        with self._store.changed:
            found = self._store.queues.get(queue)
            if found is None:
                return 0
            found.wake(self.clock.time())
            unleased = [entry for entry in found.entries.values() if entry.state != _LEASED]
            for entry in unleased:
                found.remove(entry)
            return len(unleased)

    def dead_letters(self, queue: str, limit: int = 100) -> list[DeadLetter]:
        """Show the newest dead letters of a queue, without removing them."""
        with self._store.changed:
            found = self._store.queues.get(queue)
            newest = reversed(found.dead.values()) if found is not None else ()
            return [dead.letter for dead in itertools.islice(newest, limit)]

    def walk_dead_letters(self, queue: str) -> Generator[list[DeadLetter], None, None]:
        """Yield the dead letters that a queue has now, in pages, oldest first; see `Broker.walk_dead_letters`."""
        with self._store.changed:
            found = self._store.queues.get(queue)
            letters = [dead.letter for dead in found.dead.values()] if found is not None else []
        for start in range(0, len(letters), _PAGE):
            yield letters[start : start + _PAGE]

    def redrive(self, letters: Sequence[DeadLetter]) -> int:
        """Send dead letters back to their queue; see `Broker.redrive`."""
        with self._store.changed:
            now, found = self.clock.time(), self._take_dead(letters)
            for queue, dead in found:
                entry = _Entry(next(self._store.numbers), dead.letter.body, dead.priority, now)
                queue.entries[entry.number] = entry
                queue.make_ready(entry)
            self._store.changed.notify_all()
            return len(found)

    def remove_dead_letters(self, letters: Sequence[DeadLetter]) -> int:
        """Remove dead letters for good; return how many there were."""
        with self._store.changed:
            return len(self._take_dead(letters))

    def _take_dead(self, letters: Sequence[DeadLetter]) -> list[tuple[_Queue, _Dead]]:
        queues = ((self._store.queues.get(letter.queue), letter.receipt) for letter in letters)
        taken = [(queue, queue.dead.pop(number, None)) for queue, number in queues if queue is not None]
        return [(queue, dead) for queue, dead in taken if dead is not None]

    def queues(self) -> list[str]:
        """Name the queues that were ever sent to."""
        with self._store.changed:
            return sorted(self._store.queues)

    def close(self) -> None:
        """Do nothing: there is no connection, and the messages belong to the process."""
