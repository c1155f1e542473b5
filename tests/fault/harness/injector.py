"""Faults drawn from a seed, and the gate that every call to a store passes."""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")

#: How likely each fault is wherever it can strike; a call has several that could.
RATES: Mapping[str, float] = {
    # the worker, at every call to a store and inside runs
    "killed before": 0.004, "killed after": 0.006, "killed in a run": 0.006, "killed in an answer": 0.01,
    "overtaken": 0.05, "stalled": 0.004,
    # AWS
    "throttled": 0.03, "server error": 0.02, "refused": 0.01, "reset": 0.01, "lost answer": 0.02,
    "half-failed batch": 0.06, "entry applied and failed": 0.02, "twin": 0.04, "undeleted": 0.01, "old receipt": 0.5,
    "disorder": 0.3,
    # Redis
    "cut before": 0.01, "cut in a command": 0.01, "cut in a reply": 0.01, "swallowed reply": 0.015, "dribble": 0.01,
    "hang": 0.001, "full": 0.005,
    # SQLite
    "locked": 0.01, "disk full": 0.02, "disk error": 0.01, "disk error after commit": 0.015,
}  # fmt: skip

#: What comes in no spells.
_STEADY = frozenset({
    "killed before", "killed after", "killed in a run", "killed in an answer", "overtaken", "stalled", "disorder",
    "old receipt",
})  # fmt: skip


class Killed(BaseException):
    """The process that made a call is dead."""


class Injector:
    """Draws faults; ``scale`` makes all of them likelier or, at 0, impossible."""

    def __init__(self, seed: int, scale: float = 1.0) -> None:
        self.random = random.Random(seed)
        self.scale = scale
        #: Faults of stores come in spells: how much likelier they are at the moment.
        self.spell = 1.0
        self.counts: Counter[str] = Counter()
        self._calm = 0

    @contextlib.contextmanager
    def calm(self) -> Iterator[None]:
        """Let nothing go wrong for a while: the harness itself looks at the stores."""
        self._calm += 1
        try:
            yield
        finally:
            self._calm -= 1

    @property
    def is_calm(self) -> bool:
        """Whether nothing goes wrong at the moment."""
        return self._calm > 0 or threading.current_thread().name == "dispatcher-leases"

    def draw(self, *kinds: str) -> str | None:
        """Return the fault that strikes, if any does."""
        if self.is_calm:
            return None
        chance = self.random.random()
        for kind in kinds:
            spell = 1.0 if kind in _STEADY else self.spell
            chance -= RATES[kind] * self.scale * spell
            if chance < 0:
                self.counts[kind] += 1
                return kind
        return None

    def some(self, items: Sequence[_Item]) -> list[bool]:
        """Choose some of the items, one at least."""
        chosen = [self.random.random() < 0.5 for _ in items]
        if not any(chosen):
            chosen[self.random.randrange(len(items))] = True
        return chosen


class Gate:
    """What every call to a store passes, before it and after it took effect: there its caller may die or be overtaken.

    ``overtake`` lets another worker run meanwhile.
    """

    def __init__(self, injector: Injector, overtake: Callable[[], None], dead: Callable[[], bool]) -> None:
        self._injector = injector
        self._overtake = overtake
        self._dead = dead
        self.kill: Callable[[], None] = lambda: None
        #: told of each fault that a caller gets to feel
        self.felt: Callable[[str], None] = lambda kind: None

    def before(self) -> None:
        """A call is about to be made."""
        self._live()
        self._strike("killed before", "overtaken")

    def after(self) -> None:
        """A call took effect; its caller has not heard of it yet."""
        self._live()
        self._strike("killed after", "overtaken")

    def inside(self) -> None:
        """A task's code runs."""
        self._live()
        self._strike("killed in a run", "overtaken")

    def draw(self, *kinds: str) -> str | None:
        """Draw a fault that the caller gets to feel."""
        kind = self._injector.draw(*kinds)
        if kind is not None:
            self.felt(kind)
        return kind

    def _live(self) -> None:
        if self._dead() and not self._injector.is_calm:
            raise Killed

    def _strike(self, *kinds: str) -> None:
        kind = self._injector.draw(*kinds)
        if kind == "overtaken":
            self._overtake()
        elif kind is not None:
            self.kill()
            raise Killed(kind)
