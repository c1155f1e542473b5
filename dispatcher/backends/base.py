"""The result backend port: one record per task, written on conditions that hold under duplicates.

A record is a few columns that conditions look at (`TaskRecord`) and an opaque text, ``data``, with everything else. A
`Write` applies only to the state it was decided on; an adapter's whole duty is to decide that atomically. The locks of
unique tasks are such rows too (`dispatcher.backends.locks`).
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any, Final

from dispatcher.backends.joins import Join
from dispatcher.clock import SYSTEM, Clock
from dispatcher.exceptions import TimeoutError

MICROSECONDS: Final = 1_000_000


class Revocation(IntEnum):
    """What somebody asked of a task that is not wanted any more."""

    NONE = 0
    #: no worker starts it any more
    FLAG = 1
    #: its run is ended besides, by SIGTERM or by SIGKILL
    TERM = 2
    KILL = 3

    def after(self, earlier: int) -> int:
        """Return what holds once this is asked after ``earlier``: a mere flag takes no termination back."""
        return max(self, earlier) if self is Revocation.FLAG else int(self)


@dataclasses.dataclass(slots=True)
class TaskRecord:
    """What is known about a task; times are epoch seconds.

    ``gen`` and ``retries`` say which attempt the record speaks of; ``final`` closes that generation, which is -1 where
    the message could not be read: it comes before any that can. ``starts`` counts
    recorded starts without an outcome; ``started_at`` is when the last start was recorded. ``not_before`` is when a
    retry is due. ``data`` is JSON text (result, traceback …). ``revoked`` is a `Revocation`.
    """

    id: str
    status: str
    gen: int = 0
    retries: int = 0
    final: bool = False
    token: str = ""
    starts: int = 0
    revoked: int = Revocation.NONE
    not_before: float | None = None
    data: str = ""
    started_at: float | None = None


@dataclasses.dataclass(slots=True)
class Write:
    """A new state of a record and the attempt it was decided on.

    It applies if there is no record, or the record is of an older generation, or it is of the same generation, not
    final, and its ``retries`` equal ``attempt``; with ``only_start`` no start of that attempt may be recorded either.
    The record's ``revoked`` survives. ``token`` names the run: the same write repeated is recognised by it.
    ``expires_at`` (epoch seconds) is when the row may go. ``exists`` says what the caller has seen, where it has
    looked: it decides nothing, but a right guess saves DynamoDB a call. ``removal`` is what
    `dispatcher.brokers.base.Broker.removals` says of the task's message, which goes as the write takes effect.
    """

    id: str
    status: str
    gen: int
    attempt: int
    retries: int
    final: bool
    token: str
    expires_at: float
    starts: int = 0
    not_before: float | None = None
    data: str = ""
    exists: bool | None = None
    started_at: float | None = None
    only_start: bool = False
    removal: Any = None

    def applies_to(self, record: TaskRecord | None) -> bool:
        """Say whether this write may replace the record."""
        if record is None or record.gen < self.gen:
            return True
        if self.only_start and record.starts:
            return False
        return record.gen == self.gen and not record.final and record.retries == self.attempt

    def stands_in(self, record: TaskRecord) -> bool:
        """Say whether the record is what this very write made of it: the store repeated the write."""
        mine = (self.token, self.gen, self.retries, self.final, self.status)
        return bool(self.token) and (record.token, record.gen, record.retries, record.final, record.status) == mine

    def record(self, revoked: int = Revocation.NONE) -> TaskRecord:
        """Return the record as it is once the write has been applied."""
        return TaskRecord(
            id=self.id, status=self.status, gen=self.gen, retries=self.retries, final=self.final, token=self.token,
            starts=self.starts, revoked=revoked, not_before=self.not_before, data=self.data,
            started_at=self.started_at,
        )  # fmt: skip


def slots_until(first: int, step: int, count: int, latest: int | None) -> int:
    """Return how many of ``count`` slots, ``step`` apart from ``first`` on, are not after ``latest``."""
    return count if latest is None else max(0, min(count, (latest - first) // step + 1))


class ResultBackend(ABC):
    """Keeps the records of tasks."""

    #: whether other processes see the records
    shared: bool = True
    #: whether `wait` is woken by the end of the task, rather than that it asks again and again
    tells_of_ends: bool = False
    #: the largest ``data`` in bytes, `None` for no limit
    max_data: int | None = None
    #: where the records are, as `dispatcher.brokers.base.Broker.bring_records` and `together` take it, `None` for
    #: nowhere that a broker knows
    store: Any = None

    def __init__(self, url: str, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        self.url = url
        self.options = dict(options or {})
        self.clock = clock

    def describe(self) -> str:
        """Name the backend for people, without credentials."""
        return self.url.split("://", 1)[0]

    def open(self) -> None:  # noqa: B027 - most have nothing to prepare
        """Prepare for use as far as that needs no connection, so that a start pays for it and not the first task."""

    def read(self, ids: Sequence[str]) -> dict[str, TaskRecord]:
        """Return the records that exist, by id, as of now; one round trip per 100 where the store allows it."""
        return self._read(list(dict.fromkeys(ids))) if ids else {}

    def read_unbrought(self, ids: Sequence[str], brought: Mapping[str, bytes | None]) -> dict[str, TaskRecord]:
        """Return records as `read`, but for those whose values, or that there are none, came with their deliveries."""
        return self.read(ids)

    def write(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        """Apply writes; return for each `None` where it took effect, else the record that stood against it.

        A write that finds itself already applied (the store repeated it) counts as having taken effect. Several writes
        of one task in one call are applied in their order. Raises `OperationalError` where the store cannot be reached:
        then any of them may or may not have been applied, and repeating them is safe.
        """
        if not writes:
            return []
        losers = self._write(writes)
        return [
            None if loser is not None and write.stands_in(loser) else loser
            for write, loser in zip(writes, losers, strict=True)
        ]

    def reserve(
        self, bucket: str, count: int, interval: float, burst: int = 1, latest: float | None = None
    ) -> list[float]:
        """Reserve the next ``count`` slots of a rate limit; return their times, in epoch seconds and in order.

        A bucket hands out a slot every ``interval`` seconds, to all who share the store. One that was not asked for a
        while has up to ``burst`` slots for now, whose times may have passed. Slots after ``latest`` are not taken: then
        fewer are returned. A reservation whose caller dies, or that the network repeats, is lost.

        The generic cell rate algorithm: all there is to a bucket is when its next slot is. "Now" is our own clock, as
        everywhere: a worker whose clock is fast takes slots early by as much, and none twice.
        Raises `OperationalError` where the store cannot be reached or is too busy.
        """
        step = round(interval * MICROSECONDS)
        floor = int(self.clock.time() * MICROSECONDS) - (burst - 1) * step
        bound = None if latest is None else int(latest * MICROSECONDS)
        first, taken = self._take_slots(bucket, floor, step, count, bound)
        return [(first + number * step) / MICROSECONDS for number in range(taken)]

    @abstractmethod
    def _take_slots(self, bucket: str, floor: int, step: int, count: int, latest: int | None) -> tuple[int, int]:
        """Take the bucket's next slots, not before ``floor``, atomically; return the first and how many.

        They are ``step`` apart, and as many as `slots_until` says. Times are in microseconds since the epoch.
        """

    def write_together(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        """Apply writes of a few different rows all or none; answers as `write`, and if anything stood, nothing applied.

        Raises `OperationalError` where the store cannot be reached: then all of them or none may have been applied, and
        repeating them is safe.
        """
        losers = self._write_together(writes)
        if any(loser is not None and write.stands_in(loser) for write, loser in zip(writes, losers, strict=True)):
            return [None] * len(writes)  # all of it was applied before, and the store repeated it
        return losers

    @abstractmethod
    def _read(self, ids: Sequence[str]) -> dict[str, TaskRecord]:
        """Read records by unique ids, strongly consistent; rows past their ``expires_at`` are absent."""

    @abstractmethod
    def _write(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        """Apply each write where `Write.applies_to` holds, atomically per record; return the records that stood."""

    @abstractmethod
    def _write_together(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        """Apply writes of different rows in one transaction, or none of them; return the records that stood."""

    @abstractmethod
    def revoke(self, ids: Sequence[str], expires_at: float, revocation: Revocation = Revocation.FLAG) -> None:
        """Set ``revoked`` to ``revocation.after`` what it was, making a PENDING record of generation 0 where none is.

        The row lives at least until ``expires_at``.
        """

    @abstractmethod
    def forget(self, ids: Sequence[str]) -> None:
        """Remove records."""

    @abstractmethod
    def open_join(self, join: Join, expires_at: float) -> None:
        """Keep a join before the first of its members is sent; one that is there already stays as it is."""

    @abstractmethod
    def mark_joined(
        self, join_id: str, members: Sequence[int], size: int, expires_at: float, ids: Sequence[str] = ()
    ) -> Join | None:
        """Mark members as done, each once or more often; return the join if all of its are, else `None`.

        What is kept of it lives at least until ``expires_at``. Where `prolong_join` had it live longer, the records
        ``ids`` do as well. Raises `JoinMissing`, at the latest for the last member.
        """

    @abstractmethod
    def prolong_join(self, join_id: str, expires_at: float) -> None:
        """Have what is kept of a join live at least until ``expires_at``; nothing is done for one that is gone."""

    @abstractmethod
    def prolong(self, ids: Sequence[str], expires_at: float) -> None:
        """Have the records that there are of tasks live at least until ``expires_at``."""

    @abstractmethod
    def close_join(self, join_id: str, *, fired: bool = False, failed: str = "") -> Join:
        """Note that a join has fired, or because of what it failed first; return it as it was before.

        Raises `JoinMissing`.
        """

    @abstractmethod
    def read_joins(self, ids: Sequence[str]) -> dict[str, Join]:
        """Return the joins that exist, by id, with their ``until``; one round trip per 100 where the store allows."""

    def wait(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float | None = None,
        on_interval: Callable[[], None] | None = None,
    ) -> TaskRecord:
        """Return the task's record once it is final; polls at growing intervals, 5 ms to ``interval`` (default 0.5 s).

        Raises `dispatcher.exceptions.TimeoutError` after ``timeout`` seconds.
        """
        longest = 0.5 if interval is None else max(0.001, interval)
        pause = min(0.005, longest)
        deadline = None if timeout is None else self.clock.monotonic() + timeout
        while True:
            record = self.read([task_id]).get(task_id)
            if record is not None and record.final:
                return record
            if on_interval is not None:
                on_interval()
            left = None if deadline is None else deadline - self.clock.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"task {task_id} had no result after {timeout:g} s")
            self.clock.sleep(pause if left is None else min(pause, left))
            pause = min(pause * 1.5, longest)

    @abstractmethod
    def close(self) -> None:
        """Close connections; the backend opens new ones when it is used again."""
