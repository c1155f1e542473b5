"""Watch: who is told which runs are under way, and what an ended run leaves to whoever settles in its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from dispatcher.execution.run import Outcome, Run


class Watch(Protocol):
    """Notes the progress of a batch where it outlives the process that makes it."""

    def started(self, run: Run) -> None:
        """Note that user code of a run is about to start."""
        ...

    def ended(self, run: Run) -> bool:
        """Note that a run is decided; return false where that must be written before user code starts again."""
        ...


@dataclasses.dataclass(slots=True)
class Decided:
    """A run that was decided and perhaps not recorded: the outcome, and the attempt it was decided on.

    ``extras`` are what the run has put on its request: results of tasks it has sent, the last state it gave itself.
    """

    outcome: Outcome
    attempt: int
    retries: int
    extras: Mapping[str, Any] = dataclasses.field(default_factory=dict)
