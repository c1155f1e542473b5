"""A broker in one SQLite file: any number of threads and processes of one machine, and nothing to install."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Final

from dispatcher import sqlite_store
from dispatcher.brokers.base import (
    Answer,
    Broker,
    BrokerFeatures,
    DeadLetter,
    Delivery,
    Outgoing,
    QueueCounts,
    Settle,
    Settlement,
    Together,
)
from dispatcher.clock import SYSTEM, Clock
from dispatcher.sqlite_schema import NEXT_ID
from dispatcher.utils.options import check_options, seconds_option

_READY: Final = 0
_DELAYED: Final = 1
_LEASED: Final = 2

_INSERT: Final = f"""
    INSERT INTO messages (id, queue, state, rank, priority, receives, lease, sent_at, body)
    VALUES ({NEXT_ID}, ?, ?, ?, ?, 0, 0, ?, ?)
"""
_ANYTHING: Final = """
    SELECT EXISTS (SELECT 1 FROM messages WHERE queue = :queue AND state = 0)
        OR EXISTS (SELECT 1 FROM messages WHERE queue = :queue AND state = 1 AND rank <= :now)
        OR EXISTS (SELECT 1 FROM messages WHERE queue = :queue AND state = 2 AND rank <= :now)
"""
_NEXT_DUE: Final = """
    SELECT min(due) FROM (
        SELECT min(rank) AS due FROM messages WHERE queue = :queue AND state = 1
        UNION ALL SELECT min(rank) FROM messages WHERE queue = :queue AND state = 2
    )
"""
_WAKE: Final = """
    UPDATE messages SET state = 0, rank = priority WHERE id IN (
        SELECT id FROM messages WHERE queue = ? AND state = ? AND rank <= ? ORDER BY rank LIMIT ?
    )
"""
_NEXT: Final = """
    SELECT id, receives + 1, sent_at, body FROM messages WHERE queue = ? AND state = 0 ORDER BY rank, id LIMIT ?
"""
_LEASE: Final = "UPDATE messages SET state = 2, rank = ?, receives = ?, lease = ? WHERE id = ?"
_ACK: Final = "DELETE FROM messages WHERE id = ? AND lease = ?"
_EXTEND: Final = "UPDATE messages SET state = 2, rank = ? WHERE id = ? AND lease = ?"
_RELEASE: Final = "UPDATE messages SET state = 0, rank = priority, lease = 0 WHERE id = ? AND lease = ?"
_RELEASE_LATER: Final = "UPDATE messages SET state = 1, rank = ?, lease = 0 WHERE id = ? AND lease = ?"
_BURY: Final = """
    INSERT INTO dead_letters (queue, message, died_at, reason, body, priority)
    SELECT queue, id, ?, ?, coalesce(?, body), priority FROM messages WHERE id = ? AND lease = ?
"""
_COUNTS: Final = """
    SELECT
        (SELECT count(*) FROM messages WHERE queue = :queue AND state = 0)
            + (SELECT count(*) FROM messages WHERE queue = :queue AND state IN (1, 2) AND rank <= :now),
        (SELECT count(*) FROM messages WHERE queue = :queue AND state = 1 AND rank > :now),
        (SELECT count(*) FROM messages WHERE queue = :queue AND state = 2 AND rank > :now),
        (SELECT count(*) FROM dead_letters WHERE queue = :queue)
"""
_PURGE: Final = """
    DELETE FROM messages WHERE id IN (
        SELECT id FROM messages WHERE queue = :queue AND state IN (0, 1)
        UNION ALL SELECT id FROM messages WHERE queue = :queue AND state = 2 AND rank <= :now
        LIMIT :step
    )
"""
_SHOW_DEAD: Final = """
    SELECT body, reason, died_at, message, id FROM dead_letters WHERE queue = ? ORDER BY id DESC LIMIT ?
"""
_NEXT_DEAD: Final = """
    SELECT body, reason, died_at, message, id FROM dead_letters WHERE queue = ? AND id > ? AND id <= ?
    ORDER BY id LIMIT ?
"""
_LAST_DEAD: Final = "SELECT coalesce(max(id), 0) FROM dead_letters WHERE queue = ?"
_REDRIVE: Final = f"""
    INSERT INTO messages (id, queue, state, rank, priority, receives, lease, sent_at, body)
    SELECT {NEXT_ID}, queue, 0, priority, priority, 0, 0, ?, body FROM dead_letters WHERE id = ? AND message = ?
"""
# Ids of dead letters come again, those of messages do not: the receipt of a letter that is gone fits no other one.
_REMOVE_DEAD: Final = "DELETE FROM dead_letters WHERE id = ? AND message = ?"

#: how many due messages one receive makes ready at most, so that a million delays ending at once hold nobody up
_WAKE_STEP: Final = 1000
#: how many messages one transaction of a purge removes, so that others get a turn
_PURGE_STEP: Final = 5000
#: how many dead letters a page of a walk has
_PAGE: Final = 100


class SQLiteBroker(Broker):
    """Keeps messages in a file on a local disk, ``sqlite:///relative.db`` or ``sqlite:////absolute/path.db``.

    Priorities are whole numbers, 0 is the default and the most urgent, as with Celery's Redis transport; messages of
    one priority keep the order they were sent in, released ones included. Delays have no limit. A process that is
    killed at any point loses nothing. Options: ``visibility_timeout`` in seconds, and those of
    `dispatcher.sqlite_store.open_store`. Raises `ImproperlyConfigured` for a path that cannot work and
    `OperationalError` when the file fails; both name it.
    """

    features = BrokerFeatures()

    def __init__(self, url: str, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        super().__init__(url, options, clock)
        check_options("the SQLite broker", self.options, ["visibility_timeout", *sqlite_store.OPTIONS])
        self.visibility_timeout = seconds_option(
            "the SQLite broker", self.options, "visibility_timeout", self.visibility_timeout
        )
        self._store = sqlite_store.open_store(url, self.options)

    def describe(self) -> str:
        """Name the file."""
        return f"sqlite:///{self._store.path}"

    def _send(self, messages: Sequence[Outgoing]) -> Mapping[str, str]:
        now = self.clock.time()

        def work(connection: sqlite3.Connection) -> None:
            ids = {name: self._number(connection, name) for name in {message.queue for message in messages}}
            connection.executemany(_INSERT, (_row(message, ids[message.queue], now) for message in messages))

        if messages:
            self._store.write(work)
        return {}

    def _number(self, connection: sqlite3.Connection, queue: str) -> int:
        """Return a queue's number, in the transaction that it may be new in."""
        number = self._store.queue_id(queue)
        if number is None:
            number = connection.execute("INSERT INTO queues (name) VALUES (?)", (queue,)).lastrowid
        assert number is not None
        return number

    def receive(self, queues: Sequence[str], limit: int, wait: float = 0.0) -> list[Delivery]:
        """Lease up to ``limit`` messages; see `Broker.receive`.

        While it waits it notices another thread's message at once and another process's within 0.2 to 50 ms.
        """
        if limit < 1 or not queues:
            return []
        deadline = self.clock.monotonic() + wait
        while True:
            seen = self._store.version()
            deliveries = self._lease(queues, limit)
            left = deadline - self.clock.monotonic()
            if deliveries or left <= 0:
                return deliveries
            pause = min([left, *(due - self.clock.time() for due in self._next_due(queues))])
            self._store.wait(seen, pause, self.clock)

    def _lease(self, queues: Sequence[str], limit: int) -> list[Delivery]:
        now = self.clock.time()
        known = [(name, number) for name in queues if (number := self._store.queue_id(name)) is not None]
        # Looking first keeps idle workers from queueing for the write lock.
        if not any(self._store.read(_ANYTHING, {"queue": number, "now": now})[0][0] for _, number in known):
            return []

        def work(connection: sqlite3.Connection) -> list[Delivery]:
            now, leased_at = self.clock.time(), self.clock.monotonic()  # others may have locked the file for long
            deliveries: list[Delivery] = []
            for name, number in known:
                for state in (_DELAYED, _LEASED):
                    connection.execute(_WAKE, (number, state, now, _WAKE_STEP))
                rows = connection.execute(_NEXT, (number, limit - len(deliveries))).fetchall()
                due = now + self.visibility_timeout
                connection.executemany(_LEASE, [(due, count, count, row) for row, count, _, _ in rows])
                deliveries += [
                    Delivery(name, body, (row, count), count, str(row), sent_at, leased_at=leased_at)
                    for row, count, sent_at, body in rows
                ]
                if len(deliveries) == limit:
                    break
            return deliveries

        return self._store.write(work, passing=True)

    def _next_due(self, queues: Sequence[str]) -> list[float]:
        numbers = filter(None, map(self._store.queue_id, queues))
        found = (self._store.read(_NEXT_DUE, {"queue": number})[0][0] for number in numbers)
        return [due for due in found if due is not None]

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Carry out what was decided in one transaction; see `Broker.settle`.

        A receipt whose lease ended still counts as long as nobody else got the message: the work is done either way.
        """
        now = self.clock.time()
        acks, releases, later, dead = [], [], [], []
        for delivery, action, delay, reason, body in settlements:
            if action == "ack":
                acks.append(delivery.receipt)
            elif action == "dead":
                acks.append(delivery.receipt)
                dead.append((now, json.dumps(dict(reason or {})), body, *delivery.receipt))
            elif delay > 0:
                later.append((now + delay, *delivery.receipt))
            else:
                releases.append(delivery.receipt)

        def work(connection: sqlite3.Connection) -> None:
            # Burying comes first: it copies the rows that the acks then remove.
            for sql, rows in ((_BURY, dead), (_ACK, acks), (_RELEASE, releases), (_RELEASE_LATER, later)):
                if rows:
                    connection.executemany(sql, rows)

        if settlements:
            self._store.write(work)

    def together(self, store: Any) -> Together | None:
        """Return a transaction where records are in the same file, by one connection; see `Broker.together`."""
        return self._together if store is self._store else None

    def _together(self, work: Callable[[Settle], Answer]) -> Answer:
        return self._store.transaction(lambda: work(self.settle))

    def extend(self, deliveries: Sequence[Delivery], seconds: float) -> None:
        """Lease deliveries for this much longer; see `Broker.extend`."""
        due = self.clock.time() + seconds
        rows = [(due, *delivery.receipt) for delivery in deliveries]
        if rows:
            self._store.write(lambda connection: connection.executemany(_EXTEND, rows), passing=True)

    def counts(self, queue: str) -> QueueCounts:
        """Count a queue's messages exactly; costs time in proportion to them (about 30 ms a million)."""
        number = self._store.queue_id(queue)
        if number is None:
            return QueueCounts(0, 0, 0, 0)
        return QueueCounts(*self._store.read(_COUNTS, {"queue": number, "now": self.clock.time()})[0])

    def purge(self, queue: str) -> int:
        """Remove every message of a queue that is not leased; return how many."""
        number = self._store.queue_id(queue)
        if number is None:
            return 0
        parameters = {"queue": number, "now": self.clock.time(), "step": _PURGE_STEP}

        def work(connection: sqlite3.Connection) -> int:
            return connection.execute(_PURGE, parameters).rowcount

        removed = 0
        while step := self._store.write(work):
            removed += step
        return removed

    def dead_letters(self, queue: str, limit: int = 100) -> list[DeadLetter]:
        """Show the newest dead letters of a queue, without removing them."""
        number = self._store.queue_id(queue)
        return [_letter(queue, row) for row in self._store.read(_SHOW_DEAD, (number, limit))]

    def walk_dead_letters(self, queue: str) -> Generator[list[DeadLetter], None, None]:
        """Yield the dead letters that a queue has now, in pages, oldest first; see `Broker.walk_dead_letters`."""
        number = self._store.queue_id(queue)
        ((last,),) = self._store.read(_LAST_DEAD, (number,))
        seen = 0
        while rows := self._store.read(_NEXT_DEAD, (number, seen, last, _PAGE)):
            seen = rows[-1][-1]
            yield [_letter(queue, row) for row in rows]

    def redrive(self, letters: Sequence[DeadLetter]) -> int:
        """Send dead letters back to their queue in one transaction; see `Broker.redrive`."""
        now, receipts = self.clock.time(), [letter.receipt for letter in letters]

        def work(connection: sqlite3.Connection) -> int:
            connection.executemany(_REDRIVE, [(now, *receipt) for receipt in receipts])
            return connection.executemany(_REMOVE_DEAD, receipts).rowcount

        return self._store.write(work) if receipts else 0

    def remove_dead_letters(self, letters: Sequence[DeadLetter]) -> int:
        """Remove dead letters for good; return how many there were."""
        receipts = [letter.receipt for letter in letters]
        if not receipts:
            return 0
        return self._store.write(lambda connection: connection.executemany(_REMOVE_DEAD, receipts).rowcount)

    def queues(self) -> list[str]:
        """Name the queues that were ever sent to."""
        return [name for (name,) in self._store.read("SELECT name FROM queues ORDER BY name")]

    def close(self) -> None:
        """Close this process's connection to the file; the next use opens another."""
        self._store.close()


def _letter(queue: str, row: sqlite_store.Row) -> DeadLetter:
    body, reason, at, message, number = row
    return DeadLetter(queue, body, json.loads(reason), at, str(message), receipt=(number, message))


def _row(message: Outgoing, queue: int, now: float) -> tuple[Any, ...]:
    priority = message.priority or 0
    if message.delay > 0:
        return queue, _DELAYED, now + message.delay, priority, now, message.body
    return queue, _READY, priority, priority, now, message.body
