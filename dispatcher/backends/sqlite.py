"""A result backend in one SQLite file: any number of threads and processes of one machine, and nothing to install."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from dispatcher import sqlite_store
from dispatcher.backends.base import Revocation, TaskRecord, Write, slots_until
from dispatcher.backends.sqlite_joins import SQLiteJoins
from dispatcher.clock import SYSTEM, Clock
from dispatcher.exceptions import TimeoutError
from dispatcher.states import PENDING
from dispatcher.utils.options import check_options

_COLUMNS: Final = "id, status, gen, retries, final, token, starts, revoked, not_before, started_at, data, expires_at"
_PUT: Final = f"""
    INSERT INTO records ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET
        status = excluded.status, gen = excluded.gen, retries = excluded.retries, final = excluded.final,
        token = excluded.token, starts = excluded.starts, revoked = excluded.revoked,
        not_before = excluded.not_before, started_at = excluded.started_at,
        data = excluded.data, expires_at = excluded.expires_at
"""
_FORGET: Final = "DELETE FROM records WHERE id = ?"
_SWEEP: Final = """
    DELETE FROM records WHERE rowid IN (SELECT rowid FROM records WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)
"""
_NEXT_SLOT: Final = "SELECT next FROM rates WHERE bucket = ?"
_PUT_SLOT: Final = "INSERT INTO rates (bucket, next) VALUES (?, ?) ON CONFLICT DO UPDATE SET next = excluded.next"
#: ids in one query; SQLite allows 999 parameters at least
_CHUNK: Final = 500
#: More rows than a write can add, so that expired rows cannot pile up, and few enough to go unnoticed.
_SWEEP_STEP: Final = 10

Query = Callable[[str, Sequence[Any]], Iterable[sqlite_store.Row]]
#: a record and when its row may go
Life = tuple[TaskRecord, float]


class SQLiteBackend(SQLiteJoins):
    """Keeps records in a file on a local disk, ``sqlite:///relative.db`` or ``sqlite:////absolute/path.db``.

    It may be the broker's file. Options: those of `dispatcher.sqlite_store.open_store`. Raises `ImproperlyConfigured`
    for a path that cannot work and `OperationalError` when the file fails; both name it.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        super().__init__(url, options, clock)
        check_options("the SQLite backend", self.options, sqlite_store.OPTIONS)
        self.store = sqlite_store.open_store(url, self.options)

    def describe(self) -> str:
        """Name the file."""
        return f"sqlite:///{self.store.path}"

    def _read(self, ids: Sequence[str]) -> dict[str, TaskRecord]:
        return {task_id: record for task_id, (record, _) in self._load(self.store.read, ids).items()}

    def _load(self, query: Query, ids: Sequence[str]) -> dict[str, Life]:
        """Return the records that have not expired."""
        now = self.clock.time()
        found: dict[str, Life] = {}
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            marks = ", ".join("?" * len(chunk))
            sql = f"SELECT {_COLUMNS} FROM records WHERE id IN ({marks}) AND expires_at > ?"
            for row in query(sql, [*chunk, now]):
                found[row[0]] = (_record(row), row[-1])
        return found

    def _write(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        return self._apply(writes, together=False)

    def _write_together(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        return self._apply(writes, together=True)

    def _apply(self, writes: Sequence[Write], together: bool) -> list[TaskRecord | None]:
        def work(connection: sqlite3.Connection) -> list[TaskRecord | None]:
            current = self._load(connection.execute, list({write.id: None for write in writes}))
            changed: dict[str, Life] = {}
            losers: list[TaskRecord | None] = []
            for write in writes:
                record, life = current.get(write.id, (None, 0.0))
                if not write.applies_to(record):
                    losers.append(record)
                    continue
                losers.append(None)
                revoked = Revocation.NONE if record is None else record.revoked
                # The flag has to outlive the message, so it keeps the longer of the two lives.
                expires_at = max(life, write.expires_at) if revoked else write.expires_at
                current[write.id] = changed[write.id] = (write.record(revoked), expires_at)
            if together and any(losers):
                return losers
            connection.executemany(_PUT, map(_row, changed.values()))
            connection.execute(_SWEEP, (self.clock.time(), _SWEEP_STEP + len(writes)))
            return losers

        return self.store.write(work)

    def _take_slots(self, bucket: str, floor: int, step: int, count: int, latest: int | None) -> tuple[int, int]:
        def work(connection: sqlite3.Connection) -> tuple[int, int]:
            row = connection.execute(_NEXT_SLOT, (bucket,)).fetchone()
            first = floor if row is None else max(row[0], floor)
            taken = slots_until(first, step, count, latest)
            if taken:
                connection.execute(_PUT_SLOT, (bucket, first + taken * step))
            return first, taken

        return self.store.write(work)

    def revoke(self, ids: Sequence[str], expires_at: float, revocation: Revocation = Revocation.FLAG) -> None:
        """Say that tasks are not wanted any more; see `ResultBackend.revoke`."""
        unique = list(dict.fromkeys(ids))

        def work(connection: sqlite3.Connection) -> None:
            current = self._load(connection.execute, unique)
            for task_id in unique:
                record, life = current.get(task_id, (TaskRecord(task_id, PENDING), 0.0))
                revoked = revocation.after(record.revoked)
                current[task_id] = (dataclasses.replace(record, revoked=revoked), max(life, expires_at))
            connection.executemany(_PUT, map(_row, current.values()))

        if unique:
            self.store.write(work)

    def forget(self, ids: Sequence[str]) -> None:
        """Remove records."""
        if ids:
            self.store.write(lambda connection: connection.executemany(_FORGET, [(task_id,) for task_id in ids]))

    def wait(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float | None = None,
        on_interval: Callable[[], None] | None = None,
    ) -> TaskRecord:
        """Return the task's record once it is final; see `ResultBackend.wait`.

        A write by this process is noticed at once, one by another process within 0.2 to 50 ms.
        """
        longest = 0.5 if interval is None else max(0.001, interval)
        deadline = None if timeout is None else self.clock.monotonic() + timeout
        while True:
            seen = self.store.version()
            record = self.read([task_id]).get(task_id)
            if record is not None and record.final:
                return record
            if on_interval is not None:
                on_interval()
            left = longest if deadline is None else deadline - self.clock.monotonic()
            if left <= 0:
                raise TimeoutError(f"task {task_id} had no result after {timeout:g} s")
            self.store.wait(seen, min(left, longest), self.clock)

    def close(self) -> None:
        """Close this process's connection to the file; the next use opens another."""
        self.store.close()


def _record(row: sqlite_store.Row) -> TaskRecord:
    task_id, status, gen, retries, final, token, starts, revoked, not_before, started_at, data, _ = row
    return TaskRecord(task_id, status, gen, retries, bool(final), token, starts, revoked, not_before, data, started_at)


def _row(life: Life) -> sqlite_store.Row:
    record, expires_at = life
    return (
        record.id, record.status, record.gen, record.retries, record.final, record.token, record.starts,
        record.revoked, record.not_before, record.started_at, record.data, expires_at,
    )  # fmt: skip
