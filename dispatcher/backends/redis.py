"""Records in Redis: one string per task, conditional writes in one script, and waiting that the server ends.

A record is kept as ``revoked gen retries final starts times len(status) len(token)`` and, after one more space,
status, token and data without anything between them; ``times`` is when a retry is due and, after a comma, when a run
was started, as far as there are any. `docs/redis.md` describes keys and guarantees.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from dispatcher.backends import redis_scripts as scripts
from dispatcher.backends.base import Revocation, TaskRecord, Write
from dispatcher.backends.redis_joins import RedisJoins
from dispatcher.clock import SYSTEM, Clock
from dispatcher.exceptions import TimeoutError
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
from dispatcher.states import PENDING

#: The longest wait for a push, in seconds; then we look again, as a restarted server has forgotten who waits.
_WATCH: Final = 1.0
#: How long the server remembers who waits, in milliseconds; it is told again at each look.
_REMEMBERED: Final = 10_000
#: Records and bytes of data that go to the server in one command.
_BATCH: Final = 500
_BATCH_BYTES: Final = 4_000_000


class RedisBackend(RedisJoins):
    """A result backend on one Redis (6.2 or later) or Valkey server; options as in `dispatcher.redis_settings`."""

    tells_of_ends = True

    def __init__(self, url: str, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        super().__init__(url, options, clock)
        self._settings = parse(url, self.options)
        self._connections = RedisConnections(self._settings, clock)
        # The braces keep a record and what belongs to it together on one node of a cluster.
        self.store = RecordStore(self._settings.server, f"{self._settings.key_prefix}task:{{", "}")
        #: how many connections were opened when a wait last saw its script answered; before that, as many as never are
        self._looked = -1

    def describe(self) -> str:
        """Name the backend for people, without credentials."""
        return f"Redis at {self._settings.address}"

    def _key(self, task_id: str) -> str:
        return f"{self.store.before}{task_id}{self.store.after}"

    def _read(self, ids: Sequence[str]) -> dict[str, TaskRecord]:
        records = {}
        for batch in _cut(ids):
            values = self._connections.call("MGET", *map(self._key, batch))
            records.update({id: _load(id, value) for id, value in zip(batch, values, strict=True) if value is not None})
        return records

    def read_unbrought(self, ids: Sequence[str], brought: Mapping[str, bytes | None]) -> dict[str, TaskRecord]:
        """Return records, asking for those alone that did not come with their deliveries."""
        records = self.read([id for id in ids if id not in brought])
        records.update({id: _load(id, value) for id in ids if (value := brought.get(id)) is not None})
        return records

    def _write(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        return [loser for batch in _batches(writes) for loser in self._conditional(scripts.WRITE, batch)]

    def _write_together(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        return self._conditional(scripts.WRITE_TOGETHER, writes)

    def _conditional(self, script: Script, writes: Sequence[Write]) -> list[TaskRecord | None]:
        _, start, end = self.store
        keys = [f"{start}{write.id}{end}" for write in writes]
        arguments: list[str] = []
        for write in writes:
            kind = "start" if write.only_start else "1" if write.final else "0"
            expiry = f"{max(1, int(write.expires_at * 1000))}"
            arguments += (f"{write.gen} {write.attempt} {kind}", expiry, _dump(write))
        if any(write.removal for write in writes):
            script = scripts.WRITE_AND_REMOVE
            # A key that is none of ours, such as no name at all, is one that the user may have no permission for.
            removals = [write.removal or Removal(key, "", b"") for key, write in zip(keys, writes, strict=True)]
            keys += [removal.stream for removal in removals]
            arguments += [removal.id.decode() for removal in removals]
            arguments += [removal.group for removal in removals]
        (reply,) = self._connections.run([script.call(keys, arguments)])
        return [None if value is None else _load(write.id, value) for write, value in zip(writes, reply, strict=True)]

    def _take_slots(self, bucket: str, floor: int, step: int, count: int, latest: int | None) -> tuple[int, int]:
        key = f"{self._settings.key_prefix}rate:{{{bucket}}}"
        bound = "" if latest is None else latest
        (reply,) = self._connections.run([scripts.TAKE_SLOTS.call((key,), (floor, step, count, bound))])
        return int(reply[0]), int(reply[1])

    def revoke(self, ids: Sequence[str], expires_at: float, revocation: Revocation = Revocation.FLAG) -> None:
        """Say that tasks are not wanted any more; see `ResultBackend.revoke`."""
        unknown = _dump(TaskRecord("", PENDING), int(revocation))
        for batch in _cut(ids):
            keys = [self._key(task_id) for task_id in batch]
            self._connections.run([scripts.REVOKE.call(keys, (max(1, int(expires_at * 1000)), unknown))])

    def forget(self, ids: Sequence[str]) -> None:
        """Remove records."""
        for batch in _cut(ids):
            self._connections.call("UNLINK", *map(self._key, batch))

    def wait(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float | None = None,
        on_interval: Callable[[], None] | None = None,
    ) -> TaskRecord:
        """Return the task's record once it is final; the write that makes it final wakes us.

        ``on_interval`` is called every ``interval`` seconds (default 0.5) meanwhile. Raises
        `dispatcher.exceptions.TimeoutError` after ``timeout`` seconds.
        """
        pause = _WATCH if on_interval is None else min(_WATCH, 0.5 if interval is None else max(0.001, interval))
        pause = min(pause, self._settings.longest_block)
        deadline = math.inf if timeout is None else self.clock.monotonic() + timeout
        key = self._key(task_id)
        inbox = f"{key}:inbox:{os.urandom(16).hex()}"
        while True:
            left = deadline - self.clock.monotonic()
            # One write does for looking and for blocking, unless something is to happen in between. Behind a script
            # that a new server may not know yet, nothing must block.
            at_once = on_interval is None and left > 0 and self._looked == self._connections.opened
            watch = scripts.WATCH.call((key, inbox), (_REMEMBERED,))
            if not at_once:
                (found,) = self._connections.run([watch])
                self._looked = self._connections.opened
                if found is not None:
                    return _load(task_id, found)
                if on_interval is not None:
                    on_interval()
                left = deadline - self.clock.monotonic()
                if left <= 0:
                    raise TimeoutError(f"task {task_id} had no result after {timeout:g} s")
            seconds = f"{max(min(pause, left), 0.001):.3f}"
            if at_once:
                found = self._look_and_block(watch, inbox, key, seconds)
            else:
                found = self._block(inbox, seconds)
            if found is not None:
                return _load(task_id, found)

    def _look_and_block(self, watch: Command, inbox: str, key: str, seconds: str) -> bytes | None:
        """Return a record that is final, or becomes so; both in one write where there is no record yet."""
        # A record is no list, so its key keeps BLPOP from blocking. Where it is final the look has found it, whatever
        # became of BLPOP; where it is not, the inbox has to be waited for alone.
        block = Command(pack("BLPOP", inbox, key, seconds))
        found, pushed = self._connections.send([watch, block])
        if isinstance(found, bytes):
            return found
        if isinstance(found, ResponseError):
            raise to_error(found, self._settings.address)
        if isinstance(pushed, ResponseError):
            if str(pushed).startswith("WRONGTYPE"):
                return self._block(inbox, seconds)
            raise to_error(pushed, self._settings.address)
        return None if pushed is None else bytes(pushed[1])

    def _block(self, inbox: str, seconds: str) -> bytes | None:
        """Return the record that is put into an inbox."""
        pushed = self._connections.call("BLPOP", inbox, seconds)
        return None if pushed is None else bytes(pushed[1])

    def close(self) -> None:
        """Close connections; the backend opens new ones when it is used again."""
        self._connections.close()


def _dump(record: TaskRecord | Write, revoked: int = 0) -> str:
    times = "-" if record.not_before is None else repr(record.not_before)
    if record.started_at is not None:
        times += f",{record.started_at!r}"
    return (
        f"{revoked} {record.gen} {record.retries} {'1' if record.final else '0'} {record.starts} {times} "
        f"{len(record.status)} {len(record.token)} {record.status}{record.token}{record.data}"
    )


def _load(task_id: str, value: bytes) -> TaskRecord:
    revoked, gen, retries, final, starts, times, status, token, rest = value.decode().split(" ", 8)
    not_before, _, started_at = times.partition(",")
    status_end = int(status)
    token_end = status_end + int(token)
    return TaskRecord(
        id=task_id,
        status=rest[:status_end],
        gen=int(gen),
        retries=int(retries),
        final=final == "1",
        token=rest[status_end:token_end],
        starts=int(starts),
        revoked=int(revoked),
        not_before=None if not_before == "-" else float(not_before),
        data=rest[token_end:],
        started_at=float(started_at) if started_at else None,
    )


def _cut(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH))


def _batches(writes: Sequence[Write]) -> list[list[Write]]:
    """Cut into runs that are good to send in one command; a script holds up everybody else while it runs."""
    batches: list[list[Write]] = [[]]
    size = 0
    for write in writes:
        size += len(write.data)
        if batches[-1] and (len(batches[-1]) >= _BATCH or size > _BATCH_BYTES):
            batches.append([])
            size = len(write.data)
        batches[-1].append(write)
    return batches
