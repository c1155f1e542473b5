"""Time as a dependency, so that tests can move it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the package asks of time; seconds as floats."""

    def time(self) -> float:
        """Return the wall clock: seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Return a clock that never goes back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let this much time pass."""
        ...


class SystemClock:
    """The machine's own clock."""

    # `time` comes last: from there on the name means the method, not the module.
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)
    time = staticmethod(time.time)


class ManualClock:
    """A clock that moves only when told to; sleeping moves it."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now

    def time(self) -> float:
        """Return the pretended wall clock."""
        return self._now

    def monotonic(self) -> float:
        """Return the pretended wall clock, which never goes back."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Move the clock."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self._now += max(0.0, seconds)


SYSTEM: Clock = SystemClock()
