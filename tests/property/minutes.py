"""Every minute of some years in a zone, and two languages that pick among them: crontab's and EventBridge's.

Written from the documentation of both, apart from the code under test. A set of minutes is one large integer, whose
bit n stands for the n-th minute after `START`; so both languages are evaluated for each minute of the years, and fast.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import groupby
from zoneinfo import ZoneInfo

START = datetime(2027, 1, 1, tzinfo=UTC)
END = datetime(2029, 1, 1, tzinfo=UTC)  # one year is a leap year
MINUTES = int((END - START).total_seconds()) // 60
#: Offsets change on quarters of hours only, in these years.
BLOCK = 15


@dataclass(frozen=True)
class Calendar:
    """What the wall clock of a zone shows: for each value of each field its minutes, and those it shows first."""

    minute: dict[int, int]
    hour: dict[int, int]
    day: dict[int, int]
    month: dict[int, int]
    weekday: dict[int, int]  # Sunday is 0
    length: dict[int, int]  # how far into its month a day is: 1 to 7 is week 1, 8 to 14 week 2
    first_showing: int

    def pick(self, field: str, values: Iterable[int]) -> int:
        """Return the minutes in which the field shows one of the values."""
        table: dict[int, int] = getattr(self, field)
        found = 0
        for value in values:
            found |= table.get(value, 0)
        return found


@cache
def calendar(zone: str) -> Calendar:
    """Return the calendar of a zone."""
    walls = []
    latest = datetime(1, 1, 1)  # noqa: DTZ001
    place = ZoneInfo(zone)
    for number in range(MINUTES // BLOCK):
        wall = (START + timedelta(minutes=BLOCK * number)).astimezone(place).replace(tzinfo=None)
        walls.append((wall, wall > latest))
        latest = max(latest, wall)

    def blocks(values: Iterable[int]) -> dict[int, int]:
        runs = [(value, BLOCK * len(list(same))) for value, same in groupby(values)]
        return {
            value: _bits(("1" if found == value else "0") * length for found, length in runs)
            for value in sorted({value for value, _ in runs})
        }

    quarters = blocks(wall.minute for wall, _ in walls)
    return Calendar(
        minute={
            quarter + offset: minutes & _bits(["0" * offset + "1" + "0" * (BLOCK - offset - 1)] * len(walls))
            for quarter, minutes in quarters.items()
            for offset in range(BLOCK)
        },
        hour=blocks(wall.hour for wall, _ in walls),
        day=blocks(wall.day for wall, _ in walls),
        month=blocks(wall.month for wall, _ in walls),
        weekday=blocks(wall.isoweekday() % 7 for wall, _ in walls),
        length=blocks((wall.day + 6) // 7 for wall, _ in walls),
        first_showing=blocks(int(first) for _, first in walls)[1],
    )


def _bits(texts: Iterable[str]) -> int:
    return int("".join(texts)[::-1], 2)


def moments(minutes: int, zone: str = "UTC") -> Iterator[datetime]:
    """Yield the minutes of a set, in order, in a zone."""
    place = ZoneInfo(zone)
    text = bin(minutes)[:1:-1]
    number = text.find("1")
    while number >= 0:
        yield (START + timedelta(minutes=number)).astimezone(place)
        number = text.find("1", number + 1)


# -- crontab: the five sets of values, all of which must match; a time shown twice counts once


def crontab_minutes(
    zone: str, minute: set[int], hour: set[int], weekday: set[int], day: set[int], month: set[int]
) -> int:
    """Return the minutes at which a crontab with these sets of values is due."""
    clock = calendar(zone)
    return (
        clock.pick("minute", minute)
        & clock.pick("hour", hour)
        & clock.pick("weekday", weekday)
        & clock.pick("day", day)
        & clock.pick("month", month)
        & clock.first_showing
    )


# -- EventBridge: cron(minutes hours day-of-month month day-of-week year)

_NAMES = {name: number for number, name in enumerate(["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"], 1)}
_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 1, 7))


def eventbridge_minutes(expression: str, zone: str | None) -> int:
    """Return the minutes at which EventBridge fires a cron expression, in UTC or, with Scheduler, in a zone."""
    match = re.fullmatch(r"cron\((\S+) (\S+) (\S+) (\S+) (\S+) (\S+)\)", expression)
    assert match, expression
    *texts, year = match.groups()
    assert year == "*", expression
    assert (texts[2] == "?") != (texts[4] == "?"), f"one of both days must be ?: {expression}"
    clock = calendar(zone or "UTC")
    found = clock.first_showing
    for (field, low, high), text in zip(_FIELDS, texts, strict=True):
        if text == "?":
            continue
        if "#" in text:
            assert field == "weekday", expression
            weekday, week = map(int, text.split("#"))  # more than one is not valid
            found &= clock.pick("weekday", [weekday - 1]) & clock.pick("length", [week])
            continue
        values = {value for part in text.split(",") for value in _aws_part(field, part, low, high)}
        found &= clock.pick(field, {value - 1 for value in values} if field == "weekday" else values)
    return found


def _aws_part(field: str, part: str, low: int, high: int) -> range:
    if part == "*":
        return range(low, high + 1)
    if "/" in part:
        assert field != "weekday", "the day of week takes no steps"
        start, step = map(int, part.split("/"))
        assert low <= start <= high, part
        return range(start, high + 1, step)
    first, _, last = part.partition("-")
    begin, end = (_NAMES[text] if text in _NAMES else int(text) for text in (first, last or first))
    assert low <= begin <= end <= high, part
    return range(begin, end + 1)
