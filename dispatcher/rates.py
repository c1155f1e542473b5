"""Rate limits of tasks: what ``rate_limit="100/m"`` means, as slots at which runs may start."""

from __future__ import annotations

import math
from typing import Final, Literal, NamedTuple

Scope = Literal["global", "worker"]

#: Starts come in groups of as many as this time allows, in seconds, and of one where that is less: a limit of 100/s
#: lets 10 messages of a batch start together instead of hiding each for 10 ms, and exceeds itself by a tenth at most.
BURST_SECONDS: Final = 0.1
#: How late a message may come for its slot, in seconds, or by how many slots. A queue hides messages for whole seconds
#: and hands them out when it can; but what a fleet missed while it was down must not start all at once.
LATENESS: Final = 60.0

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}
_MOST: Final = 1e6


class Rate(NamedTuple):
    """A rate: one start every ``interval`` seconds, up to ``burst`` at a time."""

    interval: float
    burst: int

    @property
    def lateness(self) -> float:
        """How long after its time a slot can still be used, in seconds."""
        return max(LATENESS, self.interval)

    def bucket(self, name: str) -> str:
        """Return the name of what a task's slots are counted in.

        Another rate counts anew: what the old one has given away far into the future is of no concern to it.
        """
        return f"{name}@{self.interval:.6f}"


def parse(limit: object) -> Rate | None:
    """Return the rate of a limit in Celery's syntax: starts per second, or ``"10/s"``, ``"100/m"``, ``"0.5/h"``.

    `None`, 0 and ``"0/m"`` are no limit. Raises `ValueError` with a phrase that continues "rate_limit …".
    """
    if limit is None:
        return None
    count, period = _read(limit)
    if not count:
        return None
    per_second = count / period
    if per_second > _MOST:
        raise ValueError(f"must be at most {_MOST:,.0f} starts a second, not {limit!r}; leave it out for no limit")
    # Microseconds: backends count slots in whole numbers.
    return Rate(round(1e6 / per_second) / 1e6, max(1, math.floor(per_second * BURST_SECONDS)))


def _read(limit: object) -> tuple[float, int]:
    """Return how many starts in how many seconds."""
    if isinstance(limit, int | float) and not isinstance(limit, bool):
        count, unit = float(limit), "s"
    elif isinstance(limit, str):
        text, slash, unit = (part.strip() for part in limit.partition("/"))
        try:
            count = float(text)
        except ValueError:
            raise _mismatch(limit) from None
        unit = unit if slash else "s"
    else:
        raise _mismatch(limit)
    if unit not in _SECONDS or not math.isfinite(count) or count < 0:
        raise _mismatch(limit)
    return count, _SECONDS[unit]


def _mismatch(limit: object) -> ValueError:
    return ValueError(f'must be starts per second, or text such as "10/s", "100/m" or "1000/h", not {limit!r}')
