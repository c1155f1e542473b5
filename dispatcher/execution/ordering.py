"""The order of FIFO message groups: a message that stays in its queue holds up those behind it in its group."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dispatcher.execution.admission import suspect
from dispatcher.execution.run import SUCCESS, Run


class Groups:
    """The members of a batch's FIFO groups, in their order."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._members: dict[str, list[Run]] = {}
        for run in runs:
            order = run.delivery.order if run.delivery.group_id is not None else None
            if order is not None:
                self._members.setdefault(order, []).append(run)

    def __bool__(self) -> bool:
        return bool(self._members)

    def in_turn(self, runs: list[Run]) -> list[Run]:
        """Return the runs with suspects at the end, and behind them what must not overtake them."""
        if not self._members:
            for run in runs:
                if not run.plain:
                    break
            else:
                return runs
        late: list[Run] = []
        soon: list[Run] = []
        held: set[str] = set()
        for run in runs:
            order = run.delivery.order
            if suspect(run) or order in held:
                late.append(run)
                if order is not None:
                    held.add(order)
            else:
                soon.append(run)
        return soon + late

    def await_settling(self, run: Run, pending: Collection[Run]) -> bool:
        """Say whether an earlier member of the run's group is decided but not settled, so that it may yet go back."""
        return any(each in pending and not _is_done(each) for each in self._before(run))

    def hold_up(self, run: Run) -> bool:
        """Say whether an earlier member of the run's group stays in the queue."""
        return any(not _is_done(each) for each in self._before(run))

    def _before(self, run: Run) -> list[Run]:
        order = run.delivery.order
        if order is None:
            return []
        members = self._members[order]
        return members[: members.index(run)]


def _is_done(run: Run) -> bool:
    """Say whether a run's message is out of the queue for good, or nothing can keep it there."""
    if run.settlement is not None:
        return run.settlement.action != "release"
    return run.outcome is not None and run.outcome.kind is SUCCESS and run.lean
