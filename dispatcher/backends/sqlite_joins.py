"""Joins in SQLite: a row for what is known of each, and one for every member that is done."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from dispatcher import sqlite_store
from dispatcher.backends.base import ResultBackend
from dispatcher.backends.joins import Join, JoinMissing

_OPEN: Final = """
    INSERT INTO joins (id, size, body, expires_at) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING
"""
_READ: Final = "SELECT size, body, fired, failed, done, expires_at FROM joins WHERE id = ?"
_MARK: Final = "INSERT INTO join_members (join_id, member) VALUES (?, ?) ON CONFLICT DO NOTHING"
_COUNT: Final = "UPDATE joins SET done = done + ?, expires_at = max(expires_at, ?) WHERE id = ?"
#: The column of the failure is of whole numbers, 0 for none: a prefix keeps what it was because of a text.
_CLOSE: Final = """
    UPDATE joins SET fired = max(fired, :fired),
        failed = CASE WHEN :failed = '' OR failed <> 0 THEN failed ELSE 'by ' || :failed END
    WHERE id = :id
"""
_READ_MANY: Final = "SELECT id, size, body, fired, failed, expires_at FROM joins WHERE expires_at > ? AND id IN"
_PROLONG_JOIN: Final = "UPDATE joins SET expires_at = :until WHERE id = :id AND expires_at < :until"
_PROLONG: Final = """
    UPDATE records SET expires_at = :until WHERE id = :id AND expires_at > :now AND expires_at < :until
"""
_CHUNK: Final = 500
_EXPIRED: Final = "SELECT id FROM joins WHERE expires_at <= ? ORDER BY expires_at LIMIT 10"


class SQLiteJoins(ResultBackend):
    """The part of the SQLite backend that keeps joins."""

    store: sqlite_store.Store

    def open_join(self, join: Join, expires_at: float) -> None:
        """Keep a join, and remove some that have expired."""

        def work(connection: sqlite3.Connection) -> None:
            for (old,) in connection.execute(_EXPIRED, (self.clock.time(),)).fetchall():
                connection.execute("DELETE FROM joins WHERE id = ?", (old,))
                connection.execute("DELETE FROM join_members WHERE join_id = ?", (old,))
            connection.execute(_OPEN, (join.id, join.size, join.body, expires_at))

        self.store.write(work)

    def mark_joined(
        self, join_id: str, members: Sequence[int], size: int, expires_at: float, ids: Sequence[str] = ()
    ) -> Join | None:
        """Mark members as done."""

        def work(connection: sqlite3.Connection) -> Join | None:
            fresh = sum(max(0, connection.execute(_MARK, (join_id, index)).rowcount) for index in members)
            connection.execute(_COUNT, (fresh, expires_at, join_id))
            join, done = _read(connection, join_id)
            if join.until > expires_at:
                self._prolong(connection, ids, join.until)
            return join if done >= size else None

        return self.store.write(work)

    def prolong_join(self, join_id: str, expires_at: float) -> None:
        """Have a join live longer."""
        self.store.write(lambda connection: connection.execute(_PROLONG_JOIN, {"until": expires_at, "id": join_id}))

    def prolong(self, ids: Sequence[str], expires_at: float) -> None:
        """Have records live longer."""
        if ids:
            self.store.write(lambda connection: self._prolong(connection, ids, expires_at))

    def _prolong(self, connection: sqlite3.Connection, ids: Sequence[str], expires_at: float) -> None:
        now = self.clock.time()
        connection.executemany(_PROLONG, [{"until": expires_at, "id": task_id, "now": now} for task_id in ids])

    def close_join(self, join_id: str, *, fired: bool = False, failed: str = "") -> Join:
        """Set flags of a join."""

        def work(connection: sqlite3.Connection) -> Join:
            join, _ = _read(connection, join_id)
            connection.execute(_CLOSE, {"fired": fired, "failed": failed, "id": join_id})
            return join

        return self.store.write(work)

    def read_joins(self, ids: Sequence[str]) -> dict[str, Join]:
        """Return joins."""
        found: dict[str, Join] = {}
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            rows = self.store.read(f"{_READ_MANY} ({', '.join('?' * len(chunk))})", [self.clock.time(), *chunk])
            found.update((row[0], Join(row[0], row[1], row[2], bool(row[3]), _cause(row[4]), row[5])) for row in rows)
        return found


def _read(connection: sqlite3.Connection, join_id: str) -> tuple[Join, int]:
    row = connection.execute(_READ, (join_id,)).fetchone()
    if row is None:
        raise JoinMissing(join_id)
    size, body, fired, failed, done, until = row
    return Join(join_id, size, body, bool(fired), _cause(failed), until), done


def _cause(failed: int | str) -> str:
    return failed.removeprefix("by ") if isinstance(failed, str) else ""
