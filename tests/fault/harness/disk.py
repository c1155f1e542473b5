"""The faults of SQLite's file: locked by somebody else, a full disk, errors of the disk before and after a commit.

Locks and full disks are real ones: another connection takes the lock, the file may not grow. They are put in between
the adapter and the sqlite3 module.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any

from tests.fault.harness.injector import Gate

_connect = sqlite3.connect
_UNLIMITED = 1_073_741_823


class _Connection(sqlite3.Connection):
    disk: Disk

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql.startswith("BEGIN IMMEDIATE"):
            return self.disk.begin(self, lambda: super(_Connection, self).execute(sql))
        if sql.startswith("COMMIT") and self.in_transaction:
            return self.disk.commit(self, lambda: super(_Connection, self).execute(sql))
        if sql.lstrip().startswith("SELECT") and not self.in_transaction:
            self.disk.gate.before()
        self.disk.fail()
        return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        self.disk.fail()
        return super().executemany(sql, parameters)


class Disk:
    """One file's faults; `installed` puts them in."""

    def __init__(self, path: str, gate: Gate) -> None:
        self.path = path
        self.gate = gate
        self._rival: sqlite3.Connection | None = None

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Let every connection that is opened meanwhile have these faults."""
        sqlite3.connect = self._open  # type: ignore[assignment]
        try:
            yield
        finally:
            sqlite3.connect = _connect
            if self._rival is not None:
                self._rival.close()

    def _open(self, *args: Any, **options: Any) -> sqlite3.Connection:
        connection: _Connection = _connect(*args, factory=_Connection, **options)
        connection.disk = self
        return connection

    def fail(self) -> None:
        """Let a statement fail because of the disk."""
        if self.gate.draw("disk error"):
            raise _error(sqlite3.SQLITE_IOERR, "disk I/O error")

    def begin(self, connection: sqlite3.Connection, call: Any) -> Any:
        """Begin a transaction, perhaps while somebody else holds the lock, or with a disk that is full."""
        self.gate.before()
        if self.gate.draw("locked") and (rival := self._lock()) is not None:
            try:
                return call()
            finally:
                rival.execute("ROLLBACK")
        try:
            cursor = call()
        except sqlite3.OperationalError:  # a worker that was overtaken holds the lock
            self.gate.felt("locked")
            raise
        limit = _UNLIMITED
        if self.gate.draw("disk full"):
            ((limit,),) = sqlite3.Connection.execute(connection, "PRAGMA page_count").fetchall()
        sqlite3.Connection.execute(connection, f"PRAGMA max_page_count = {limit}")
        return cursor

    def commit(self, connection: sqlite3.Connection, call: Any) -> Any:
        """Commit; whether it took effect may stay unknown."""
        self.gate.before()
        cursor = call()
        self.gate.after()
        if self.gate.draw("disk error after commit"):
            raise _error(sqlite3.SQLITE_IOERR, "disk I/O error")
        return cursor

    def _lock(self) -> sqlite3.Connection | None:
        if self._rival is None:
            self._rival = _connect(self.path, timeout=0.0, isolation_level=None, check_same_thread=False)
        try:
            self._rival.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return None  # it is locked already, by a worker that was overtaken
        return self._rival


def _error(code: int, text: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error
