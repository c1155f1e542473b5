"""A result backend inside one process, for tests and for apps whose worker threads live beside the producer."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from dispatcher.backends.base import ResultBackend, Revocation, TaskRecord, Write, slots_until
from dispatcher.backends.joins import Join, JoinMissing
from dispatcher.clock import SYSTEM, Clock
from dispatcher.exceptions import TimeoutError
from dispatcher.memory_store import MemoryStore
from dispatcher.states import PENDING
from dispatcher.utils.options import check_options

#: More rows than a write can add, so that expired rows cannot pile up, and few enough to go unnoticed.
_SWEEP: Final = 10
#: How many lives that no row has any more a small store may remember.
_STALE: Final = 64


class _Store(MemoryStore):
    """The records that backends of one name share; every access holds ``changed``."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, tuple[TaskRecord, float]] = {}
        #: the next slot of each rate limit
        self.slots: dict[str, int] = {}
        #: joins with the members that are done and when they may go
        self.joins: dict[str, tuple[Join, set[int], float]] = {}
        #: an entry for each life a row was given, so that the oldest is found without a search; those that a row has no
        #: more are thrown out once they are the most
        self.expiries: list[tuple[float, str]] = []

    def get(self, task_id: str, now: float) -> TaskRecord | None:
        row = self.rows.get(task_id)
        return row[0] if row is not None and row[1] > now else None

    def put(self, record: TaskRecord, expires_at: float) -> None:
        self.rows[record.id] = (record, expires_at)
        heapq.heappush(self.expiries, (expires_at, record.id))
        self._throw_out()

    def forget(self, task_id: str) -> None:
        if self.rows.pop(task_id, None) is not None:
            self._throw_out()

    def _throw_out(self) -> None:
        if len(self.expiries) > 2 * len(self.rows) + _STALE:
            self.expiries = [(expires_at, task_id) for task_id, (_, expires_at) in self.rows.items()]
            heapq.heapify(self.expiries)

    def apply(self, write: Write, record: TaskRecord | None) -> None:
        revoked = Revocation.NONE if record is None else record.revoked
        # The flag has to outlive the message, so it keeps the longer of the two lives.
        life = max(write.expires_at, self.rows[write.id][1]) if revoked else write.expires_at
        self.put(write.record(revoked), life)

    def sweep(self, now: float, limit: int) -> None:
        while limit > 0 and self.expiries and self.expiries[0][0] <= now:
            task_id = heapq.heappop(self.expiries)[1]
            row = self.rows.get(task_id)
            if row is not None and row[1] <= now:
                del self.rows[task_id]
            limit -= 1


class MemoryBackend(ResultBackend):
    """Keeps records in this process; backends of one URL, ``memory://name``, share them until the process ends.

    With ``own`` the backend shares them with nobody, and they go with it.
    """

    shared = False

    def __init__(
        self, url: str, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM, *, own: bool = False
    ) -> None:
        super().__init__(url, options, clock)
        check_options("the memory backend", self.options, [])
        self._store = _Store() if own else _Store.at(url)

    def _read(self, ids: Sequence[str]) -> dict[str, TaskRecord]:
        now = self.clock.time()
        with self._store.changed:
            found = ((task_id, self._store.get(task_id, now)) for task_id in ids)
            return {task_id: dataclasses.replace(record) for task_id, record in found if record is not None}

    def _write(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        store, now = self._store, self.clock.time()
        losers: list[TaskRecord | None] = []
        with store.changed:
            for write in writes:
                record = store.get(write.id, now)
                if record is not None and not write.applies_to(record):
                    losers.append(dataclasses.replace(record))
                    continue
                losers.append(None)
                store.apply(write, record)
            store.sweep(now, _SWEEP + len(writes))
            store.changed.notify_all()
        return losers

    def _write_together(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        store, now = self._store, self.clock.time()
        with store.changed:
            standing = [store.get(write.id, now) for write in writes]
            pairs = list(zip(writes, standing, strict=True))
            losers = [dataclasses.replace(record) if record is not None and not write.applies_to(record) else None
                      for write, record in pairs]  # fmt: skip
            if not any(losers):
                for write, record in pairs:
                    store.apply(write, record)
                store.sweep(now, _SWEEP + len(writes))
                store.changed.notify_all()
        return losers

    def _take_slots(self, bucket: str, floor: int, step: int, count: int, latest: int | None) -> tuple[int, int]:
        with self._store.changed:
            first = max(self._store.slots.get(bucket, floor), floor)
            taken = slots_until(first, step, count, latest)
            if taken:
                self._store.slots[bucket] = first + taken * step
        return first, taken

    def revoke(self, ids: Sequence[str], expires_at: float, revocation: Revocation = Revocation.FLAG) -> None:
        """Say that tasks are not wanted any more; see `ResultBackend.revoke`."""
        store, now = self._store, self.clock.time()
        with store.changed:
            for task_id in ids:
                record = store.get(task_id, now)
                if record is None:
                    store.put(TaskRecord(task_id, PENDING, revoked=revocation), expires_at)
                else:
                    life = max(expires_at, store.rows[task_id][1])
                    store.put(dataclasses.replace(record, revoked=revocation.after(record.revoked)), life)
            store.changed.notify_all()

    def forget(self, ids: Sequence[str]) -> None:
        """Remove records."""
        with self._store.changed:
            for task_id in ids:
                self._store.forget(task_id)

    def open_join(self, join: Join, expires_at: float) -> None:
        """Keep a join."""
        now = self.clock.time()
        with self._store.changed:
            joins = self._store.joins
            # The oldest come first, and most of them expire first.
            for old in [id for id in itertools.islice(joins, _SWEEP) if joins[id][2] <= now]:
                del joins[old]
            if join.id not in joins or joins[join.id][2] <= now:
                joins[join.id] = dataclasses.replace(join), set(), expires_at

    def mark_joined(
        self, join_id: str, members: Sequence[int], size: int, expires_at: float, ids: Sequence[str] = ()
    ) -> Join | None:
        """Mark members as done."""
        with self._store.changed:
            join, done, life = self._join(join_id)
            done.update(members)
            self._store.joins[join_id] = join, done, max(life, expires_at)
            if life > expires_at:
                self._prolong(ids, life)
            return dataclasses.replace(join) if len(done) >= size else None

    def prolong_join(self, join_id: str, expires_at: float) -> None:
        """Have a join live longer."""
        with self._store.changed:
            found = self._store.joins.get(join_id)
            if found is not None and self.clock.time() < found[2] < expires_at:
                self._store.joins[join_id] = found[0], found[1], expires_at

    def prolong(self, ids: Sequence[str], expires_at: float) -> None:
        """Have records live longer."""
        with self._store.changed:
            self._prolong(ids, expires_at)

    def _prolong(self, ids: Sequence[str], expires_at: float) -> None:
        now = self.clock.time()
        for task_id in ids:
            record, life = self._store.rows.get(task_id, (None, 0.0))
            if record is not None and now < life < expires_at:
                self._store.put(record, expires_at)

    def close_join(self, join_id: str, *, fired: bool = False, failed: str = "") -> Join:
        """Set flags of a join."""
        with self._store.changed:
            join, done, life = self._join(join_id)
            closed = dataclasses.replace(join, fired=join.fired or fired, failed=join.failed or failed)
            self._store.joins[join_id] = closed, done, life
            return join

    def read_joins(self, ids: Sequence[str]) -> dict[str, Join]:
        """Return joins."""
        with self._store.changed:
            now, joins = self.clock.time(), self._store.joins
            alive = {id: joins[id] for id in ids if id in joins and joins[id][2] > now}
            return {id: dataclasses.replace(join, until=life) for id, (join, _, life) in alive.items()}

    def _join(self, join_id: str) -> tuple[Join, set[int], float]:
        found = self._store.joins.get(join_id)
        if found is None or found[2] <= self.clock.time():
            raise JoinMissing(join_id)
        return found

    def wait(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float | None = None,
        on_interval: Callable[[], None] | None = None,
    ) -> TaskRecord:
        """Return the task's record once it is final, as soon as it is written; see `ResultBackend.wait`."""
        if self.clock is not SYSTEM:
            return super().wait(task_id, timeout, interval, on_interval)
        longest = 0.5 if interval is None else max(0.001, interval)
        deadline = None if timeout is None else self.clock.monotonic() + timeout
        while True:
            with self._store.changed:
                record = self._store.get(task_id, self.clock.time())
                if record is not None and record.final:
                    return dataclasses.replace(record)
                left = longest if deadline is None else deadline - self.clock.monotonic()
                if left <= 0:
                    raise TimeoutError(f"task {task_id} had no result after {timeout:g} s")
                self._store.changed.wait(min(left, longest))
            if on_interval is not None:
                on_interval()

    def close(self) -> None:
        """Do nothing: there is no connection, and the records belong to the process."""
