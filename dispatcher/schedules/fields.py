"""The fields of a crontab: text, numbers or several of them, read into the set of values they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from dispatcher.exceptions import DispatcherError


class ParseException(DispatcherError, ValueError):
    """A crontab cannot be read; the message names the field and the part."""


class Field(NamedTuple):
    """What one field may hold: values from ``low`` to ``high``, and names that count from ``low``."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

MINUTE_FIELD = Field("minute", 0, 59)
HOUR_FIELD = Field("hour", 0, 23)
WEEKDAY_FIELD = Field("day_of_week", 0, 6, WEEKDAYS)
DAY_FIELD = Field("day_of_month", 1, 31)
MONTH_FIELD = Field("month_of_year", 1, 12, MONTHS)


def parse(field: Field, spec: Any) -> frozenset[int]:
    """Return the values of a field: text such as ``*``, ``5``, ``mon-fri``, ``*/15``, ``1,20-30/2``, or numbers.

    Sunday may be written 7 as well. Raises `ParseException`.
    """
    found = frozenset(_values(field, spec))
    wrong = sorted(value for value in found if not field.low <= value <= field.high)
    if wrong or not found:
        shown = ", ".join(map(str, wrong)) or "nothing"
        raise ParseException(f"{field.name}: {shown} is not within {field.low} to {field.high}")
    return found


def as_text(spec: Any) -> str:
    """Return a field as crontab text."""
    if isinstance(spec, str | int):
        return str(spec)
    return ",".join(map(str, sorted(spec, key=lambda value: (isinstance(value, str), value))))


class crontab_parser:  # noqa: N801 - Celery's name
    """Reads the text of one field that has ``max_`` values from ``min_`` on, as `crontab` does."""

    ParseException = ParseException

    def __init__(self, max_: int = 60, min_: int = 0) -> None:
        names = {7: WEEKDAYS, 12: MONTHS}.get(max_, ())
        self._field = Field("crontab", min_, min_ + max_ - 1, names)

    def parse(self, spec: str) -> set[int]:
        """Return the values that the text means. Raises `ParseException`."""
        return set(parse(self._field, spec))


def _values(field: Field, spec: Any) -> Iterable[int]:
    if isinstance(spec, bool):
        raise ParseException(f"{field.name}: {spec!r} is no crontab field")
    if isinstance(spec, int):
        return (_sunday(field, spec),)
    if isinstance(spec, str):
        return [value for part in spec.split(",") for value in _part(field, part.strip())]
    if isinstance(spec, Iterable):
        return [value for item in spec for value in _values(field, item)]
    raise ParseException(f"{field.name}: {spec!r} is no crontab field; use text, a number, or several numbers")


_PART = re.compile(r"(\*|[a-z]+|\d+)(?:-([a-z]+|\d+))?(?:/(\d+))?", re.IGNORECASE | re.ASCII)


def _part(field: Field, part: str) -> Iterable[int]:
    match = _PART.fullmatch(part)
    if match is None:
        raise ParseException(
            f"{field.name}: cannot read {part!r}; use *, a number, a range such as 1-5, or a step such as */15"
        )
    begin, end, step_text = match.groups()
    step = int(step_text) if step_text else 1
    if step == 0:
        raise ParseException(f"{field.name}: the step of {part!r} is 0")
    if begin == "*":
        if end is not None:
            raise ParseException(f"{field.name}: cannot read {part!r}; * is a range already")
        return range(field.low, field.high + 1, step)
    start = _number(field, begin)
    if end is None:
        # A number with a step runs to the end of the field: 3/15 is 3, 18, 33, 48.
        return range(start, field.high + 1, step) if step_text else (_sunday(field, start),)
    stop = _number(field, end)
    if stop < start:  # a range over the end of the field: fri-mon
        return [*range(start, field.high + 1), *range(field.low, stop + 1)][::step]
    return [_sunday(field, value) for value in range(start, stop + 1, step)]


def _sunday(field: Field, value: int) -> int:
    return 0 if field.names is WEEKDAYS and value == 7 else value


def _number(field: Field, text: str) -> int:
    if text.isdigit():
        return int(text)
    for index, known in enumerate(field.names):
        if len(text) >= 3 and text.lower()[:3] == known:
            return index + field.low
    names = f"one of {', '.join(field.names)}" if field.names else "known"
    raise ParseException(f"{field.name}: {text!r} is neither a number nor {names}")
