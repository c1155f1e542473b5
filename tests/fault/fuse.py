"""Stores that die at a chosen point: before a call, or after it took effect, and with them whatever called."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dispatcher.backends.base import TaskRecord, Write
from dispatcher.backends.joins import Join
from dispatcher.backends.memory import MemoryBackend
from dispatcher.backends.sqlite import SQLiteBackend
from dispatcher.brokers.base import Outgoing, Settlement
from dispatcher.brokers.memory import MemoryBroker
from dispatcher.brokers.sqlite import SQLiteBroker
from dispatcher.exceptions import OperationalError


class Killed(BaseException):
    """The process is dead."""


class Fuse:
    """Counts what the executor asks of the stores, and blows at one point: before a call, or after it took effect."""

    def __init__(self, at: int | None = None, kills: bool = True) -> None:
        self.at = at
        self.kills = kills
        self.points = 0
        self.dead = False
        self.where = ""

    def around(self, name: str, call: Callable[[], Any]) -> Any:
        self.reach(f"before {name}")
        value = call()
        self.reach(f"after {name}")
        return value

    def reach(self, name: str) -> None:
        if self.dead:
            raise Killed(self.where)
        point, self.points = self.points, self.points + 1
        if point == self.at:
            self.where = name
            if self.kills:
                self.dead = True
                raise Killed(name)
            raise OperationalError(f"out of reach {name}")


class MortalBroker(MemoryBroker):
    """A memory broker whose calls pass the fuse."""

    fuse = Fuse()

    def _send(self, messages: Sequence[Outgoing]) -> Mapping[str, str]:
        failures: Mapping[str, str] = self.fuse.around("send", lambda: super(MortalBroker, self)._send(messages))
        return failures

    def settle(self, settlements: Sequence[Settlement]) -> None:
        self.fuse.around("settle", lambda: super(MortalBroker, self).settle(settlements))


class MortalBackend(MemoryBackend):
    """A memory backend whose calls pass the fuse."""

    fuse = Fuse()

    def _read(self, ids: Sequence[str]) -> dict[str, TaskRecord]:
        records: dict[str, TaskRecord] = self.fuse.around("read", lambda: super(MortalBackend, self)._read(ids))
        return records

    def _write(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        stood: list[TaskRecord | None] = self.fuse.around("write", lambda: super(MortalBackend, self)._write(writes))
        return stood

    def open_join(self, join: Join, expires_at: float) -> None:
        self.fuse.around("open_join", lambda: super(MortalBackend, self).open_join(join, expires_at))

    def mark_joined(self, join_id: str, index: int, size: int, expires_at: float) -> Join | None:
        def mark() -> Join | None:
            return super(MortalBackend, self).mark_joined(join_id, index, size, expires_at)

        join: Join | None = self.fuse.around("mark_joined", mark)
        return join

    def close_join(self, join_id: str, *, fired: bool = False, failed: bool = False) -> Join:
        def close() -> Join:
            return super(MortalBackend, self).close_join(join_id, fired=fired, failed=failed)

        join: Join = self.fuse.around("close_join", close)
        return join


class MortalSQLiteBroker(SQLiteBroker):
    """An SQLite broker whose calls pass the fuse."""

    fuse = Fuse()

    def _send(self, messages: Sequence[Outgoing]) -> Mapping[str, str]:
        failures: Mapping[str, str] = self.fuse.around("send", lambda: super(MortalSQLiteBroker, self)._send(messages))
        return failures

    def settle(self, settlements: Sequence[Settlement]) -> None:
        self.fuse.around("settle", lambda: super(MortalSQLiteBroker, self).settle(settlements))


class MortalSQLiteBackend(SQLiteBackend):
    """An SQLite backend whose calls pass the fuse."""

    fuse = Fuse()

    def _read(self, ids: Sequence[str]) -> dict[str, TaskRecord]:
        records: dict[str, TaskRecord] = self.fuse.around("read", lambda: super(MortalSQLiteBackend, self)._read(ids))
        return records

    def _write(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        stood: list[TaskRecord | None] = self.fuse.around(
            "write", lambda: super(MortalSQLiteBackend, self)._write(writes)
        )
        return stood

    def open_join(self, join: Join, expires_at: float) -> None:
        self.fuse.around("open_join", lambda: super(MortalSQLiteBackend, self).open_join(join, expires_at))

    def mark_joined(self, join_id: str, index: int, size: int, expires_at: float) -> Join | None:
        def mark() -> Join | None:
            return super(MortalSQLiteBackend, self).mark_joined(join_id, index, size, expires_at)

        join: Join | None = self.fuse.around("mark_joined", mark)
        return join

    def close_join(self, join_id: str, *, fired: bool = False, failed: bool = False) -> Join:
        def close() -> Join:
            return super(MortalSQLiteBackend, self).close_join(join_id, fired=fired, failed=failed)

        join: Join = self.fuse.around("close_join", close)
        return join
