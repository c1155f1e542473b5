"""Time as a dependency, so that tests can move it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, tzinfo
from typing import Any, Final, Protocol

#: What is later has no date in some time zone, in epoch seconds: the last day of the year 9999.
LATEST: Final = 253_402_214_400.0


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


def zone_of(timezone: Any) -> tzinfo:
    """Return the zone that the setting ``timezone`` means: a zone, the name of one, or UTC where it is unset."""
    if isinstance(timezone, tzinfo):
        named = getattr(timezone, "zone", None)  # of pytz, whose zones no datetime takes as they are
        return zone_of(named) if isinstance(named, str) else timezone
    if not timezone or timezone.upper() == "UTC":
        return UTC
    from zoneinfo import ZoneInfo

    return ZoneInfo(timezone)


def timestamp(moment: datetime, timezone: Any) -> float:
    """Return the epoch seconds of a datetime; a naive one is read in the zone that the setting ``timezone`` means."""
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=zone_of(timezone))).timestamp()
