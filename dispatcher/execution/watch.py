"""Watch: who is told which runs are under way, and what an ended run leaves to whoever settles in its place."""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from dispatcher.execution.run import Outcome, Run


class Watch(Protocol):
    """Notes the progress of a batch where it outlives the process that makes it."""

    def started(self, run: Run) -> None:
        """Note that user code of a run is about to start."""
        ...

    def ended(self, run: Run) -> bool:
        """Note that a run is decided; return false where that must be written before user code starts again."""
        ...

    def entered(self, run: Run) -> None:
        """Note that the event loop has entered a run's coroutine, one of several that are under way."""
        ...

    def left(self) -> None:
        """Note that the event loop has left the coroutine: whatever happens next, that one waits."""
        ...


class Watched(Coroutine[Any, Any, Any]):
    """A run's coroutine that tells a `Watch` when it is entered and left."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], watch: Watch, run: Run) -> None:
        self._coroutine = coroutine
        self._watch = watch
        self._run = run

    def send(self, value: Any) -> Any:
        """Go on with the coroutine."""
        self._watch.entered(self._run)
        try:
            return self._coroutine.send(value)
        finally:
            self._watch.left()

    def throw(self, *error: Any) -> Any:
        """Raise in the coroutine."""
        self._watch.entered(self._run)
        try:
            return self._coroutine.throw(*error)
        finally:
            self._watch.left()

    def close(self) -> None:
        """Close the coroutine."""
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def __iter__(self) -> Watched:
        return self


class Decided(NamedTuple):
    """A run that was decided and perhaps not recorded: the outcome, and the attempt it was decided on.

    ``extras`` are what the run has put on its request: results of tasks it has sent, the last state it gave itself.
    """

    outcome: Outcome
    attempt: int
    retries: int
    extras: Mapping[str, Any] = MappingProxyType({})
