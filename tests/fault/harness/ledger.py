"""What happened in a run, as it happened: starts, outcomes that became durable, and what must never be seen."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from dispatcher.backends.base import TaskRecord


@dataclasses.dataclass(eq=False)
class Batch:
    """One batch of a worker: when it began and ended, by the count of events, and whether anything disturbed it."""

    begun: int
    ended: int | None = None
    #: its worker died, stood still, or felt a fault
    disturbed: bool = False
    #: it was under way when its worker died
    killed: bool = False
    starts: int = 0

    def beside(self, other: Batch) -> bool:
        """Say whether two batches were under way at the same time."""
        first, last = sorted((self, other), key=lambda batch: batch.begun)
        return first.ended is None or first.ended > last.begun


@dataclasses.dataclass(frozen=True)
class Start:
    """A run that began."""

    gen: int
    retries: int
    batch: Batch


class Ledger:
    """The events of a run; what is wrong is described in its lists."""

    def __init__(self) -> None:
        self.now = 0
        self.starts: defaultdict[str, list[Start]] = defaultdict(list)
        self.closed: dict[str, TaskRecord] = {}
        #: when each was first seen final; a batch that was under way by then may not have seen it
        self._closed_at: dict[str, int] = {}
        self.reruns = 0
        self.kills_with_runs = 0
        #: runs that a death, a fault or a duplicate leaves open to be repeated
        self.exposed = 0
        self.late: list[str] = []
        self.unexcused: list[str] = []
        self.regressed: list[str] = []

    def begin(self, records: Mapping[str, TaskRecord]) -> Batch:
        """Note that a worker takes a batch; ``records`` are as they are at this moment."""
        self.look(records)
        self.now += 1
        return Batch(self.now)

    def end(self, batch: Batch) -> None:
        """Note that a batch is over."""
        self.now += 1
        batch.ended = self.now
        if batch.disturbed:
            self.exposed += batch.starts
        if batch.killed:
            self.kills_with_runs += 1

    def start(self, request: Any, batch: Batch, repeats: bool) -> None:
        """Note that a task's code begins to run in a batch; one that ``repeats`` may do so at any time."""
        task_id, this = request.id, Start(request.gen, request.retries, batch)
        closed = self.closed.get(task_id)
        known = closed is not None and self._closed_at[task_id] < batch.begun
        if closed is not None and known and closed.gen >= this.gen and not repeats:
            self.late.append(f"{task_id} gen {this.gen} attempt {this.retries}: {closed.status} was recorded before")
        earlier = [s for s in self.starts[task_id] if (s.gen, s.retries) == (this.gen, this.retries)]
        self.starts[task_id].append(this)
        batch.starts += 1
        if earlier and not repeats:
            self.reruns += 1
            if not any(start.batch.disturbed or start.batch.beside(batch) for start in earlier):
                self.unexcused.append(f"{task_id} gen {this.gen} attempt {this.retries}")
            elif not any(start.batch.disturbed for start in earlier):
                self.exposed += 1  # two copies at the same time

    def look(self, records: Mapping[str, TaskRecord]) -> None:
        """Compare records with what they were: nothing final may change."""
        for task_id, record in records.items():
            known = self.closed.get(task_id)
            if known is None:
                if record.final:
                    self.closed[task_id] = record
                    self._closed_at[task_id] = self.now
            elif (record.status, record.gen, record.data, record.final) != (known.status, known.gen, known.data, True):
                newer = record.gen > known.gen
                self.regressed.append(f"{task_id}: {known} became {record}" + (" (newer)" if newer else ""))
                self.closed[task_id] = record

    def forget(self, ids: Iterable[str]) -> None:
        """Drop what is known of tasks that were judged."""
        for task_id in ids:
            self.starts.pop(task_id, None)
            self.closed.pop(task_id, None)
