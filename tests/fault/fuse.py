"""Stores that die at a chosen point: before a call, or after it took effect, and with them whatever called."""

import dataclasses
import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
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


class _FusedBroker:
    """What makes a broker of any kind pass the fuse."""

    fuse = Fuse()

    def _send(self, messages: Sequence[Outgoing]) -> Mapping[str, str]:
        send: Any = super()._send  # type: ignore[misc]
        failures: Mapping[str, str] = self.fuse.around("send", lambda: send(messages))
        return failures

    def settle(self, settlements: Sequence[Settlement]) -> None:
        settle: Any = super().settle  # type: ignore[misc]
        self.fuse.around("settle", lambda: settle(settlements))


class _FusedBackend:
    """What makes a backend of any kind pass the fuse."""

    fuse = Fuse()

    def _read(self, ids: Sequence[str]) -> dict[str, TaskRecord]:
        read: Any = super()._read  # type: ignore[misc]
        records: dict[str, TaskRecord] = self.fuse.around("read", lambda: read(ids))
        return records

    def _write(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        write: Any = super()._write  # type: ignore[misc]
        stood: list[TaskRecord | None] = self.fuse.around("write", lambda: write(writes))
        return stood

    def open_join(self, join: Join, expires_at: float) -> None:
        open_join: Any = super().open_join  # type: ignore[misc]
        self.fuse.around("open_join", lambda: open_join(join, expires_at))

    def mark_joined(
        self, join_id: str, members: Sequence[int], size: int, expires_at: float, ids: Sequence[str] = ()
    ) -> Join | None:
        mark: Any = super().mark_joined  # type: ignore[misc]
        join: Join | None = self.fuse.around("mark_joined", lambda: mark(join_id, members, size, expires_at, ids))
        return join

    def prolong_join(self, join_id: str, expires_at: float) -> None:
        prolong_join: Any = super().prolong_join  # type: ignore[misc]
        self.fuse.around("prolong_join", lambda: prolong_join(join_id, expires_at))

    def prolong(self, ids: Sequence[str], expires_at: float) -> None:
        prolong: Any = super().prolong  # type: ignore[misc]
        self.fuse.around("prolong", lambda: prolong(ids, expires_at))

    def close_join(self, join_id: str, *, fired: bool = False, failed: str = "") -> Join:
        close: Any = super().close_join  # type: ignore[misc]
        join: Join = self.fuse.around("close_join", lambda: close(join_id, fired=fired, failed=failed))
        return join


class _MemoryBroker(_FusedBroker, MemoryBroker):
    pass


class _MemoryBackend(_FusedBackend, MemoryBackend):
    pass


class _SQLiteBroker(_FusedBroker, SQLiteBroker):
    pass


class _SQLiteBackend(_FusedBackend, SQLiteBackend):
    pass


@dataclasses.dataclass(frozen=True)
class MortalStores:
    """The classes of a broker and a backend that pass a fuse, and addresses for them: each a store of its own."""

    broker: type[Any]
    backend: type[Any]
    stem: str
    _numbers: Iterator[int] = dataclasses.field(default_factory=itertools.count)

    def new_url(self) -> str:
        """Return the address of a store that is still empty."""
        return f"{self.stem}{next(self._numbers)}"


def memory_stores() -> MortalStores:
    """Return stores in memory."""
    return MortalStores(_MemoryBroker, _MemoryBackend, f"memory://{uuid.uuid4()}-")


def sqlite_stores(directory: Path) -> MortalStores:
    """Return stores in files of a directory."""
    return MortalStores(_SQLiteBroker, _SQLiteBackend, f"sqlite:///{directory}/store")
