"""Queues in Redis Streams: one stream per queue and priority in use, leases kept by a consumer group.

Sending is one ``XADD``, receiving one ``XREADGROUP`` that the server answers as soon as there is a message, acking one
write. Everything rarer (delays, releases, ended leases, dead letters) is a script, so a message is always somewhere.
`docs/redis.md` describes keys and guarantees.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import socket
import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from dispatcher.brokers import redis_scripts as scripts
from dispatcher.brokers.base import Broker, BrokerFeatures, DeadLetter, Delivery, Outgoing, QueueCounts, Settlement
from dispatcher.brokers.redis_entries import dead_letter_of, deliveries_of
from dispatcher.brokers.redis_queues import GROUP, Queue
from dispatcher.brokers.redis_reads import BlockingRead, hand_over
from dispatcher.clock import SYSTEM, Clock
from dispatcher.exceptions import OperationalError, UnsupportedOption
from dispatcher.redis_connection import (
    Command,
    RecordStore,
    RedisConnections,
    Removal,
    ResponseError,
    Script,
    pack,
    to_error,
)
from dispatcher.redis_settings import parse

logger = logging.getLogger("dispatcher.worker")
PRIORITIES: Final = range(10)
#: How often a worker, busy or idle, looks for delayed messages that are due and for new priority levels, in seconds.
#: So a delayed message is at most this late, plus the 0.1 s an idle server takes to notice that a blocked read is over.
TURN: Final = 0.15
#: A worker that holds no lease and has not asked for messages for so long is taken off the server's list, in seconds.
SILENCE: Final = 60.0
#: Commands and bytes that go to the server in one write.
_BATCH: Final = 1_000
_BATCH_BYTES: Final = 1_000_000
#: Waits, each of some streams and a limit, whose commands are kept packed.
_KEPT_READS: Final = 200
#: How long after the end of its wait a reply may be read whose records are believed, in seconds. A process that stood
#: still meanwhile may have lost its leases to others who ran the tasks. A server is 0.1 s late by itself.
_LATE: Final = 0.25
#: Messages that are removed one by one with their records, at most; more go by two commands for all of them.
_REMOVED: Final = 8
#: Dead letters of a walk that are read at once.
_PAGE: Final = 100


class RedisBroker(Broker):
    """A broker on one Redis (6.2 or later) or Valkey server; options are those of `dispatcher.redis_settings`.

    Priorities are 0 to 9; 0 is the most urgent and the default.
    """

    features = BrokerFeatures()

    def __init__(self, url: str, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        super().__init__(url, options, clock)
        self._settings = parse(url, self.options)
        self.visibility_timeout = self._settings.visibility_timeout or type(self).visibility_timeout
        self._connections = RedisConnections(self._settings, clock)
        self._queues: dict[str, Queue] = {}
        self._records: RecordStore | None = None
        self._reads: dict[tuple[str, int, tuple[str, ...]], BlockingRead] = {}
        #: by stream, the newest message that this process leased, before which nothing new comes
        self._newest: dict[str, bytes] = {}
        self._registry = f"{self._settings.key_prefix}queues"
        #: the streams that were made known to the server, and which connection was the latest then
        self._registered: tuple[int, set[tuple[str, int]]] = 0, set()
        #: by process, because a fork takes this object along
        self._names: dict[int, str] = {}

    def describe(self) -> str:
        """Name the broker for people, without credentials."""
        return f"Redis at {self._settings.address}"

    def bring_records(self, store: Any) -> None:
        """Have deliveries come with their tasks' records where both are on one server; see `Broker.bring_records`."""
        if isinstance(store, RecordStore) and store.server == self._settings.server:
            self._records = store

    def _check(self, message: Outgoing) -> None:
        if message.priority is None and message.group_id is None:
            return  # lengths and delays have no limits here
        super()._check(message)
        if message.priority is not None and message.priority not in PRIORITIES:
            raise UnsupportedOption(
                f"priority={message.priority} cannot work: "
                f"{self.describe()} has priorities from 0 (the most urgent) to 9"
            )

    # Sending

    def _send(self, messages: Sequence[Outgoing]) -> Mapping[str, str]:
        failures: dict[str, str] = {}
        for batch in _batches(messages):
            replies = self._add(batch)
            for message, reply in zip(batch, replies, strict=True):
                if isinstance(reply, ResponseError):
                    failures[message.id] = str(to_error(reply, self._settings.address))
        return failures

    def _add(self, messages: Sequence[Outgoing]) -> list[Any]:
        """Put messages into their streams, or aside until they are due, in one write; return the server's replies."""
        opened, registered = self._registered
        if opened != self._connections.opened:  # after a reconnection the server may be a new one
            opened, registered = self._registered = self._connections.opened, set()
        starts: dict[tuple[str, int], bytes] = {}
        additions = []
        delayed = False
        for name, body, _, delay, priority, _, _ in messages:
            stream = (name, priority or 0)
            if (start := starts.get(stream)) is None:
                start = starts[stream] = self._queue(name).addition(stream[1])
            content = body.encode()
            additions.append(b"%b$%d\r\n%b\r\n" % (start, len(content), content))
            delayed = delayed or delay > 0
        new = starts.keys() - registered
        if not new and not delayed:
            replies = self._connections.execute(b"".join(additions), len(messages))
            if opened != self._connections.opened:  # that was the reconnection
                self._connections.send([command for stream in starts for command in self._registration(*stream)])
            return replies
        registrations = [command for stream in new for command in self._registration(*stream)]
        commands = [
            self._postponement(message) if message.delay > 0 else Command(addition)
            for message, addition in zip(messages, additions, strict=True)
        ]
        replies = self._connections.send([*registrations, *commands])
        split = len(registrations)
        if all(_took_effect(reply) for reply in replies[:split]):
            registered |= new
        return replies[split:]

    def _postponement(self, message: Outgoing) -> Command:
        queue, level = self._queue(message.queue), str(message.priority or 0)
        return scripts.DELAY.call(
            queue.keys, (GROUP, _milliseconds(message.delay), uuid.uuid4().hex, level, message.body)
        )

    def _registration(self, name: str, priority: int) -> Iterator[Command]:
        """Make known that a queue and a level exist; make the group, which a worker cannot where memory is short."""
        queue, level = self._queue(name), str(priority)
        yield Command(pack("XGROUP", "CREATE", queue.stream(level), GROUP, "0", "MKSTREAM"))
        yield Command(pack("SADD", self._registry, self._settings.queue_name_prefix + name))
        if priority:
            yield Command(pack("SADD", queue.keys[3], level))
            queue.turn = 0.0

    # Receiving

    def receive(self, queues: Sequence[str], limit: int, wait: float = 0.0) -> list[Delivery]:
        """Lease messages; see `Broker.receive`. A waiting call is answered as soon as a message is there."""
        return self.settle_and_receive((), queues, limit, wait)

    def settle_and_receive(
        self, settlements: Sequence[Settlement], queues: Sequence[str], limit: int, wait: float = 0.0
    ) -> list[Delivery]:
        """Settle in the same write as the first command that leases messages."""
        before = self._settling(settlements)
        if not queues or limit <= 0:
            self._settle(before)
            return []
        known = [self._queue(name) for name in queues]
        deadline = self.clock.monotonic() + wait
        if wait > 0 and self._is_between_turns(known) and (taken := self._block(known, limit, wait, before)):
            return taken
        while True:
            taken = []
            for queue in known:
                try:
                    taken += self._take(queue, limit - len(taken), before)
                except OperationalError:
                    if not taken:
                        raise
                    break  # the next call meets it again: what is leased must not wait until its lease ends
                if len(taken) >= limit:
                    break
            left = deadline - self.clock.monotonic()
            if taken or left <= 0:
                return taken
            if taken := self._block(known, limit, left, before):
                return taken

    def _is_between_turns(self, queues: Sequence[Queue]) -> bool:
        """Say whether nothing but new messages is to be looked for, few enough to need no order among the queues."""
        now = self.clock.monotonic()
        return all(not queue.full and not queue.levels and now < queue.turn for queue in queues)

    def _take(self, queue: Queue, limit: int, before: list[Command]) -> list[Delivery]:
        """Lease what can be had at once: one command where the queue is busy, else all that a turn consists of."""
        now = self.clock.monotonic()
        if queue.full and not queue.levels and now < queue.turn:
            command = pack(
                "XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", limit, "STREAMS", queue.keys[0], ">"
            )  # fmt: skip
            if reply := self._read([Command(command)], before)[0]:
                taken = self._deliveries(queue, [("0", id, 1, fields) for id, fields in reply[0][1]], now)
                queue.full = len(taken) >= limit
                return taken
        self._settle(before)
        return self._turn(queue, limit, now)

    def _turn(self, queue: Queue, limit: int, now: float) -> list[Delivery]:
        """Move what is due, take over ended leases, lease messages by priority; in one script."""
        look = not queue.full or now >= queue.next_look
        due, levels, entries = self._run(
            scripts.RECEIVE, queue.name, self._consumer, limit, int(look), _milliseconds(SILENCE)
        )
        if look:
            queue.next_look = now + min(4 * TURN, self.visibility_timeout / 4)
        queue.levels = levels.decode().replace("0", "")
        queue.turn = now + (TURN if due < 0 else min(TURN, due / 1000))
        queue.full = len(entries) >= limit
        return self._deliveries(queue, [(level.decode(), *entry) for level, *entry in entries], now)

    def _block(self, queues: Sequence[Queue], limit: int, left: float, before: list[Command]) -> list[Delivery]:
        """Wait for a new message of any of the queues, for a turn at most."""
        now = self.clock.monotonic()
        due = min([queue.turn for queue in queues]) - now
        pause = min(left, self._settings.longest_block, max(due, 0.001))
        streams = {queue.stream(level): (queue, level) for queue in queues for level in f"0{queue.levels}"}
        replies, *records = self._read(self._wait_of(tuple(streams), limit, pause), before)
        waited = self.clock.monotonic() - now
        taken: list[Delivery] = []
        for name, entries in replies or ():
            stream = name.decode()
            queue, level = streams[stream]
            taken += self._deliveries(queue, [(level, id, 1, fields) for id, fields in entries], now)
            queue.full = len(entries) >= limit
            self._newest[stream] = entries[-1][0]
        if waited < min(pause + _LATE, self.visibility_timeout):
            for reply in records:
                hand_over(reply, taken)
        if len(taken) > limit:  # each stream may give as many
            with contextlib.suppress(OperationalError):  # the rest comes when its leases end
                self.settle([Settlement(delivery, "release") for delivery in taken[limit:]])
        return taken[:limit]

    def _wait_of(self, streams: tuple[str, ...], limit: int, pause: float) -> Iterable[Command]:
        """Return the commands that wait for messages of streams, and read their tasks' records."""
        key = (self._consumer, limit, streams)
        read = self._reads.get(key)
        if read is None:
            if len(self._reads) >= _KEPT_READS:
                self._reads.clear()
            read = self._reads[key] = BlockingRead(self._consumer, streams, limit, self._records)
        return read.commands(_milliseconds(pause), self._newest)

    def _read(self, commands: Iterable[Command], before: list[Command]) -> list[Any]:
        """Return the replies to commands of which the first leases messages, in one write with those ``before``.

        The first is nothing where a stream was removed, which the next turn makes anew. ``before`` is done then. Where
        one of those is refused that is an error only if nothing was leased, because what was would be lost until its
        lease ends.
        """
        owed = len(before)
        replies = self._connections.send([*before, *commands])
        settled, (leased, *others) = replies[:owed], replies[owed:]
        before.clear()
        if isinstance(leased, ResponseError):
            leased = None
        for each in settled:
            if isinstance(each, ResponseError):
                error = to_error(each, self._settings.address)
                if not leased:
                    raise error
                logger.warning("messages that are done with come again: %s", error)
        return [leased, *others]

    def _deliveries(
        self, queue: Queue, entries: Sequence[tuple[str, bytes, int, list[bytes]]], now: float
    ) -> list[Delivery]:
        return deliveries_of(queue.name, entries, self._consumer, now, self.visibility_timeout)

    # Settling

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Carry out what was decided; see `Broker.settle`."""
        self._settle(self._settling(settlements))

    def _settle(self, commands: list[Command]) -> None:
        if commands:
            self._connections.run(commands)
            commands.clear()

    def _settling(self, settlements: Sequence[Settlement]) -> list[Command]:
        """Return the commands that carry out what was decided."""
        now = self.clock.monotonic()
        acks: dict[tuple[str, str], list[bytes]] = {}
        others: dict[str, list[str | bytes | int]] = {}
        for settlement in settlements:
            delivery, receipt = settlement.delivery, settlement.delivery.receipt
            if settlement.action == "ack" and receipt.is_sure(now):
                acks.setdefault((delivery.queue, receipt.level), []).append(receipt.id)
            else:
                others.setdefault(delivery.queue, []).extend(_step(settlement))
        commands: list[Command] = []
        for (name, level), ids in acks.items():
            commands += self._queue(name).acks(level, ids)
        for name, steps in others.items():
            commands.append(scripts.SETTLE.call(self._queue(name).keys, (GROUP, *steps)))
        return commands

    def removals(self, deliveries: Sequence[Delivery], store: Any) -> Sequence[Removal | None]:
        """Return what a backend on this server removes a few messages by; see `Broker.removals`."""
        if store is None or store is not self._records or len(deliveries) > _REMOVED:
            return ()
        now = self.clock.monotonic()
        return [
            Removal(self._queue(delivery.queue).stream(delivery.receipt.level), GROUP, delivery.receipt.id)
            if delivery.receipt.is_sure(now) else None
            for delivery in deliveries
        ]  # fmt: skip

    def extend(self, deliveries: Sequence[Delivery], seconds: float) -> None:
        """Lease deliveries for this much longer, counted from now."""
        until = self.clock.monotonic() + seconds
        steps: dict[str, list[str | bytes | int]] = {}
        for delivery in deliveries:
            receipt = delivery.receipt
            steps.setdefault(delivery.queue, []).extend((receipt.level, receipt.id, receipt.consumer, receipt.receipts))
        for name, values in steps.items():
            self._run(scripts.EXTEND, name, _milliseconds(seconds), *values)
        for delivery in deliveries:
            delivery.receipt = delivery.receipt._replace(until=until, extended=True)

    # Looking at queues

    def counts(self, queue: str) -> QueueCounts:
        """Count a queue's messages."""
        return QueueCounts(*self._run(scripts.COUNT, queue))

    def purge(self, queue: str) -> int:
        """Remove every message of a queue that is not leased; return how many."""
        removed = 0
        while some := self._run(scripts.PURGE, queue, _BATCH):
            removed += some
        return removed

    def dead_letters(self, queue: str, limit: int = 100) -> list[DeadLetter]:
        """Show the newest dead letters of a queue, without removing them."""
        entries = self._connections.call("XREVRANGE", self._queue(queue).keys[4], "+", "-", "COUNT", limit)
        return [dead_letter_of(queue, *entry) for entry in entries]

    def walk_dead_letters(self, queue: str) -> Generator[list[DeadLetter], None, None]:
        """Yield the dead letters that a queue has now, in pages, oldest first; see `Broker.walk_dead_letters`."""
        key = self._queue(queue).keys[4]
        newest = self._connections.call("XREVRANGE", key, "+", "-", "COUNT", 1)
        start, last = b"-", newest[0][0] if newest else b"-"
        while entries := self._connections.call("XRANGE", key, start, last, "COUNT", _PAGE):
            yield [dead_letter_of(queue, *entry) for entry in entries]
            start = b"(" + entries[-1][0]

    def redrive(self, letters: Sequence[DeadLetter]) -> int:
        """Send dead letters back to their queue; see `Broker.redrive`."""
        by_queue = _receipts(letters)
        return sum(int(self._run(scripts.REDRIVE, queue, *ids)) for queue, ids in by_queue.items())

    def remove_dead_letters(self, letters: Sequence[DeadLetter]) -> int:
        """Remove dead letters for good; return how many there were."""
        by_queue = _receipts(letters)
        return sum(
            int(self._connections.call("XDEL", self._queue(queue).keys[4], *by_queue[queue])) for queue in by_queue
        )

    def queues(self) -> list[str]:
        """Name the queues that messages were sent to."""
        prefix = self._settings.queue_name_prefix
        names = [name.decode() for name in self._connections.call("SMEMBERS", self._registry)]
        return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))

    def close(self) -> None:
        """Close connections; the broker opens new ones when it is used again."""
        self._connections.close()

    def _run(self, script: Script, queue: str, *arguments: str | bytes | int) -> Any:
        return self._connections.run([script.call(self._queue(queue).keys, (GROUP, *arguments))])[0]

    def _queue(self, name: str) -> Queue:
        queue = self._queues.get(name)
        if queue is None:
            settings = self._settings
            queue = self._queues[name] = Queue.of(name, settings.key_prefix, settings.queue_name_prefix)
        return queue

    @property
    def _consumer(self) -> str:
        """The name under which this process holds leases; it starts with their length, which others go by.

        Threads that ask for the first time at once get the same one: leases under another could not be released.
        """
        pid = os.getpid()
        name = self._names.get(pid)
        if name is None:
            name = self._names.setdefault(pid, f"{socket.gethostname()}-{pid}-{uuid.uuid4().hex[:8]}")
        return f"{_milliseconds(self.visibility_timeout)}-{name}"


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _took_effect(reply: Any) -> bool:
    return not isinstance(reply, ResponseError) or str(reply).startswith("BUSYGROUP")


def _step(settlement: Settlement) -> tuple[str | bytes | int, ...]:
    """Return the arguments of `scripts.SETTLE` for one settlement."""
    delivery, receipt, body = settlement.delivery, settlement.delivery.receipt, settlement.body
    delay = _milliseconds(settlement.delay) if settlement.delay > 0 else 0
    reason = json.dumps(dict(settlement.reason or {})) if settlement.action == "dead" else ""
    return (
        settlement.action, receipt.level, receipt.id, receipt.consumer, receipt.receipts,
        delivery.receive_count, delay, reason, "0" if body is None else "1", body or "",
    )  # fmt: skip


def _receipts(letters: Sequence[DeadLetter]) -> dict[str, list[bytes]]:
    by_queue: dict[str, list[bytes]] = {}
    for letter in letters:
        by_queue.setdefault(letter.queue, []).append(letter.receipt)
    return by_queue


def _batches(messages: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    """Cut into runs that are good to send in one write."""
    if len(messages) == 1:
        yield messages
        return
    sizes = itertools.accumulate(len(message.body) for message in messages)
    start, sent = 0, 0
    for number, size in enumerate(sizes):
        if number - start >= _BATCH or (size - sent > _BATCH_BYTES and number > start):
            yield messages[start:number]
            start, sent = number, size - len(messages[number].body)
    yield messages[start:]
