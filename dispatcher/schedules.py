"""Schedules: when a periodic task is due, as values; under Celery's names, arguments and meaning."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from dispatcher.exceptions import DispatcherError

_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
#: Leap years repeat within eight years at the longest (1896 to 1904); a crontab with no date in that span has none.
_SEARCH_DAYS = 8 * 366 + 1


class ParseException(DispatcherError):
    """A crontab field cannot be read; the message names the field and the part."""


class schedule:  # noqa: N801 - Celery's name
    """Due every ``run_every``: a `timedelta` or a number of seconds."""

    def __init__(self, run_every: timedelta | float, relative: bool = False) -> None:
        if isinstance(run_every, int | float) and not isinstance(run_every, bool):
            run_every = timedelta(seconds=run_every)
        if not isinstance(run_every, timedelta) or run_every <= timedelta(0):
            raise ValueError(f"run_every must be a time span over 0, not {run_every!r}")
        self.run_every = run_every
        self.relative = relative

    @property
    def seconds(self) -> float:
        """The span in seconds."""
        return self.run_every.total_seconds()

    human_seconds = property(lambda self: f"{self.seconds:g} s")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, schedule):
            return self.run_every == other.run_every
        return self.run_every == other if isinstance(other, timedelta) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.run_every)

    def __repr__(self) -> str:
        return f"<freq: {self.human_seconds}>"


class crontab:  # noqa: N801 - Celery's name
    """Due at the minutes that match every field; mind the order of arguments, which is not crontab(5)'s.

    A field is ``*``, a number, a name, a range, a step (``*/15``), a comma-separated list of these, or numbers. Day of
    month and day of week must *both* match, as in Celery. Raises `ParseException`.
    """

    def __init__(
        self,
        minute: Any = "*",
        hour: Any = "*",
        day_of_week: Any = "*",
        day_of_month: Any = "*",
        month_of_year: Any = "*",
    ) -> None:
        self._fields = (minute, hour, day_of_week, day_of_month, month_of_year)
        self.minute = _parse("minute", minute, 0, 59)
        self.hour = _parse("hour", hour, 0, 23)
        self.day_of_week = frozenset(day % 7 for day in _parse("day_of_week", day_of_week, 0, 7, _WEEKDAYS, 0))
        self.day_of_month = _parse("day_of_month", day_of_month, 1, 31)
        self.month_of_year = _parse("month_of_year", month_of_year, 1, 12, _MONTHS, 1)

    @classmethod
    def from_string(cls, text: str) -> crontab:
        """Read the five fields of crontab(5): minute, hour, day of month, month, day of week."""
        parts = text.split()
        if len(parts) != 5:
            raise ParseException(f"a crontab has five fields, not {len(parts)}: {text!r}")
        minute, hour, day_of_month, month_of_year, day_of_week = parts
        return cls(minute, hour, day_of_week, day_of_month, month_of_year)

    def matches(self, moment: datetime) -> bool:
        """Say whether the minute of this moment, in its own zone, is due."""
        return moment.hour in self.hour and moment.minute in self.minute and self._matches_date(moment)

    def _matches_date(self, day: datetime) -> bool:
        return (
            day.month in self.month_of_year
            and day.day in self.day_of_month
            and (day.weekday() + 1) % 7 in self.day_of_week
        )

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first matching minute after a moment by the wall clock of its zone; `None` if there is none."""
        start = moment.replace(second=0, microsecond=0) + timedelta(minutes=1)
        day = start.replace(hour=0, minute=0)
        for _ in range(_SEARCH_DAYS):
            if self._matches_date(day):
                for hour in sorted(self.hour):
                    for minute in sorted(self.minute):
                        found = day.replace(hour=hour, minute=minute)
                        if found >= start:
                            return found
            day += timedelta(days=1)
        return None

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, crontab) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[frozenset[int], ...]:
        return self.minute, self.hour, self.day_of_week, self.day_of_month, self.month_of_year

    def __repr__(self) -> str:
        minute, hour, day_of_week, day_of_month, month = (_shown(field) for field in self._fields)
        return f"<crontab: {minute} {hour} {day_of_month} {month} {day_of_week} (m/h/dM/MY/d)>"

    def __reduce__(self) -> Any:
        return type(self), self._fields


def _shown(field: Any) -> str:
    return str(field) if isinstance(field, str | int) else ",".join(map(str, field))


def _parse(name: str, field: Any, low: int, high: int, names: tuple[str, ...] = (), first: int = 0) -> frozenset[int]:
    if isinstance(field, bool):
        raise ParseException(f"{name}: {field!r} is no crontab field")
    if isinstance(field, int):
        values: Iterable[Any] = (field,)
    elif isinstance(field, str):
        values = [value for part in field.split(",") for value in _part(name, part.strip(), low, high, names, first)]
    elif isinstance(field, Iterable):
        values = [value for item in field for value in _parse(name, item, low, high, names, first)]
    else:
        raise ParseException(f"{name}: {field!r} is no crontab field; use text, a number, or several numbers")
    found = frozenset(values)
    wrong = sorted(value for value in found if not low <= value <= high)
    if wrong or not found:
        raise ParseException(f"{name}: {', '.join(map(str, wrong)) or 'nothing'} is not within {low} to {high}")
    return found


_PART = re.compile(r"(\*|[a-z]+|\d+)(?:-([a-z]+|\d+))?(?:/(\d+))?", re.IGNORECASE | re.ASCII)


def _part(name: str, part: str, low: int, high: int, names: tuple[str, ...], first: int) -> Iterable[int]:
    match = _PART.fullmatch(part)
    if match is None:
        raise ParseException(
            f"{name}: cannot read {part!r}; use *, a number, a range such as 1-5, or a step such as */15"
        )
    begin, end, step_text = match.groups()
    step = int(step_text) if step_text else 1
    if step == 0:
        raise ParseException(f"{name}: the step of {part!r} is 0")
    if begin == "*":
        if end is not None:
            raise ParseException(f"{name}: cannot read {part!r}; * is a range already")
        return range(low, (6 if name == "day_of_week" else high) + 1, step)
    start = _number(name, begin, names, first)
    if end is None:
        # A number with a step runs to the end of the field: 3/15 is 3, 18, 33, 48.
        return range(start, high + 1, step) if step_text else (start,)
    stop = _number(name, end, names, first)
    if stop < start:  # a range over the end of the field: fri-mon
        return [*range(start, high + 1), *range(low, stop + 1)][::step]
    return range(start, stop + 1, step)


def _number(name: str, text: str, names: tuple[str, ...], first: int) -> int:
    if text.isdigit():
        return int(text)
    for index, known in enumerate(names):
        if text.lower()[:3] == known and len(text) >= 3:
            return index + first
    raise ParseException(
        f"{name}: {text!r} is neither a number nor {'one of ' + ', '.join(names) if names else 'known'}"
    )
