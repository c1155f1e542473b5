"""What is known of a workflow at one moment: a tree of tasks and groups with their states."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from dispatcher import states

_FAILED = frozenset({states.FAILURE, states.REVOKED, states.REJECTED})


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A task, or a group of ``size`` results with the members that are known of it.

    ``name`` is `None` where nothing says it, ``error`` a failed task's exception unless that is in a payload store,
    ``date_done`` in epoch seconds. ``repeats`` says that the error is that of a task before, because of which this one
    did not run. ``branches`` are what follows beside the next of the line: callbacks, and tasks that it sent. A line is
    tasks and groups of which each follows the one before.
    """

    id: str
    name: str | None
    state: str
    finished: bool = False
    error: BaseException | None = None
    date_done: float | None = None
    repeats: bool = False
    size: int | None = None
    members: tuple[Line, ...] = ()
    branches: tuple[Line, ...] = ()

    @property
    def is_group(self) -> bool:
        """Whether it is a group."""
        return self.size is not None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data; the error as text."""
        plain: dict[str, Any] = {"id": self.id, "name": self.name, "state": self.state}
        if self.error is not None:
            plain["error"] = repr(self.error)
        if self.size is not None:
            plain.update(size=self.size, members=_plain(self.members))
        if self.branches:
            plain["branches"] = _plain(self.branches)
        return plain


Line = tuple[Node, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Workflow:
    """The state of a workflow when it was read; ``lines`` are what nothing is known to come before.

    ``id`` is what was asked for. ``complete`` is false where the limit of tasks to read was reached.
    """

    id: str
    lines: tuple[Line, ...]
    complete: bool = True

    def nodes(self) -> Iterator[Node]:
        """Yield all tasks and groups, what comes before before what follows."""
        waiting = [iter(line) for line in reversed(self.lines)]
        while waiting:
            node = next(waiting[-1], None)
            if node is None:
                waiting.pop()
                continue
            yield node
            waiting.extend(iter(line) for line in reversed((*node.members, *node.branches)))

    def tasks(self) -> Iterator[Node]:
        """Yield all tasks."""
        return (node for node in self.nodes() if not node.is_group)

    def find(self, id: str) -> Node | None:
        """Return the task or group of this id, `None` if it is not here."""
        return next((node for node in self.nodes() if node.id == id), None)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many tasks there are of each state; members of groups that are only counted are PENDING."""
        counts: dict[str, int] = {}
        for node in self.nodes():
            if not node.is_group:
                counts[node.state] = counts.get(node.state, 0) + 1
            elif node.size and not node.members:
                counts[states.PENDING] = counts.get(states.PENDING, 0) + node.size
        return MappingProxyType(counts)

    @property
    def total(self) -> int:
        """How many tasks are known to belong to it; more may become known."""
        return sum(self.counts.values())

    @property
    def done(self) -> int:
        """How many of its tasks are finished, failed ones included."""
        return sum(node.finished for node in self.tasks())

    @property
    def progress(self) -> float:
        """``done / total``, from 0 to 1."""
        return self.done / self.total if self.total else 1.0

    @property
    def finished(self) -> bool:
        """Whether all that is known of it is finished."""
        return self.done == self.total

    @property
    def failure(self) -> Node | None:
        """The task that failed first, `None` if none did."""
        failed = [node for node in self.tasks() if node.finished and node.state in _FAILED]
        return min(failed, key=lambda node: (node.repeats, node.date_done or 0.0), default=None)

    @property
    def error(self) -> BaseException | None:
        """The exception of the task that failed first."""
        return None if self.failure is None else self.failure.error

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, as ``dispatcher graph --json`` prints it."""
        failure = self.failure
        return {
            "id": self.id,
            "done": self.done,
            "total": self.total,
            "states": dict(self.counts),
            "failure": None if failure is None else failure.to_dict(),
            "complete": self.complete,
            "lines": _plain(self.lines),
        }


def _plain(lines: tuple[Line, ...]) -> list[list[dict[str, Any]]]:
    return [[node.to_dict() for node in line] for line in lines]
