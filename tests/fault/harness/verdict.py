"""What must not have happened in a run: everything counted here but the figures at the end ought to be nothing."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dispatcher import states
from dispatcher.backends.base import TaskRecord
from dispatcher.brokers.base import DeadLetter
from tests.fault.harness.ledger import Ledger
from tests.fault.harness.plan import ANY, Call, End
from tests.fault.violations import Violations


@dataclasses.dataclass
class Verdict(Violations):
    """The counts of a run."""

    #: a dead letter of a task that ended well, or one without a reason: the transport gave a healthy message up
    buried: list[str] = dataclasses.field(default_factory=list)
    #: a second run of an attempt that no death, fault or duplicate explains
    unexcused: list[str] = dataclasses.field(default_factory=list)

    tasks: int = 0
    runs: int = 0
    reruns: int = 0
    #: runs in hand at deaths and faults, and copies handed out at the same time: no fewer than the re-runs
    exposed: int = 0
    kills: int = 0
    faults: Counter[str] = dataclasses.field(default_factory=Counter)

    def __str__(self) -> str:
        counts = ", ".join(
            f"{len(getattr(self, field.name))} {field.name}" for field in dataclasses.fields(self)
            if isinstance(getattr(self, field.name), list)
        )  # fmt: skip
        faults = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.items()))
        return (
            f"{self.tasks} tasks, {self.runs} runs, {self.reruns} re-runs of {self.exposed} exposed, "
            f"{self.kills} deaths\n  {counts}\n  {faults}"
        )

    def judge(
        self, calls: Sequence[Call], records: Mapping[str, TaskRecord], letters: Sequence[DeadLetter], ledger: Ledger,
        value_of: Any, doubled: set[str],
    ) -> None:  # fmt: skip
        """Compare how the tasks of a wave ended with the plan."""
        reasons: dict[str, set[str]] = {}
        for letter in letters:
            reasons.setdefault(letter.reason.get("task_id") or letter.body, set()).add(letter.reason.get("reason", "?"))
        for call in calls:
            for task_id, end in call.ends.items():
                self.tasks += 1
                self.runs += len(ledger.starts[task_id])
                if call.body is None:
                    self._judge_end(f"{task_id} ({call.kind})", end, records.get(task_id), ledger, task_id, value_of)
                found = reasons.pop(call.body or task_id, set())
                self._judge_letter(f"{task_id} ({call.kind})", end, found, any(task_id in body for body in doubled))
        planned = {task_id for call in calls for task_id in call.ends}
        self.doubled += [f"{task_id}: {starts}" for task_id, starts in ledger.starts.items()
                         if starts and task_id not in planned]  # fmt: skip
        self.buried += [f"{found}: {reason}" for found, reason in reasons.items()]

    def _judge_end(
        self, name: str, end: End, record: TaskRecord | None, ledger: Ledger, task_id: str, value_of: Any
    ) -> None:
        if end.once:
            self._judge_once(name, end, record, len(ledger.starts[task_id]), value_of)
            return
        attempts = {start.retries for start in ledger.starts[task_id]}
        if attempts != set(range(end.attempts)):
            kind = self.lost if len(attempts) < end.attempts else self.wrong
            kind.append(f"{name}: of {end.attempts} attempts {sorted(attempts)} ran")
        if not end.status:
            return
        if record is None or not record.final:
            self.lost.append(f"{name}: {record}")
        elif record.status != end.status or (end.value is not ANY and value_of(record) != end.value):
            self.wrong.append(f"{name}: {record.status} {value_of(record)!r}, not {end}")

    def _judge_once(self, name: str, end: End, record: TaskRecord | None, starts: int, value_of: Any) -> None:
        """Judge a task that runs once at most: it ends well, or as lost with its worker."""
        if starts > 1:
            self.unexcused.append(f"{name}: {starts} runs of a task that runs once")
        if record is None or not record.final:
            self.lost.append(f"{name}: {record}")
        elif (record.status, value_of(record)) not in ((end.status, end.value), (states.FAILURE, "WorkerLostError")):
            self.wrong.append(f"{name}: {record.status} {value_of(record)!r}")
        elif record.status == end.status and not starts:
            self.wrong.append(f"{name}: {record.status} without a run")

    def _judge_letter(self, name: str, end: End, found: set[str], doubled: bool) -> None:
        if end.once:
            return
        if end.letter is None and found:
            self.buried.append(f"{name}: {found}")
        elif end.letter is not None and not found and not doubled:
            self.unburied.append(f"{name}: no dead letter")
        elif end.letter is not None and found - {end.letter}:
            self.buried.append(f"{name}: {found}, not {end.letter}")
