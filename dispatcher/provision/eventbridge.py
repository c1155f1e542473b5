"""Schedules in the languages of EventBridge: rules, which know UTC only, and EventBridge Scheduler, which knows zones.

Sources: https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-scheduled-rule-pattern.html and
https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Literal
from zoneinfo import ZoneInfo

from dispatcher.clock import zone_of
from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.schedules import crontab, maybe_schedule, schedule, solar

_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_UTC_NAMES = frozenset({"utc", "etc/utc", "gmt", "etc/gmt"})
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
# A cron of every minute, not a rate, whose firings keep the second at which the rule was made.
_EVERY_MINUTE = "cron(* * * * ? *)"


class Untranslatable(ImproperlyConfigured):
    """EventBridge has no way to fire this schedule; ``reason`` says why and what to use instead."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Translation:
    """How EventBridge fires a schedule.

    ``kind`` says which of the two, ``timezone`` is the zone of a Scheduler schedule and `None` for a rule. ``exact`` is
    false where the expression fires more often than the schedule, for ``reason``: then, and where ``every`` gives an
    interval in seconds that needs several runs in a minute, each firing starts what `BaseSchedule.runs_in_minute`
    answers for its minute in the zone of the app, which may be nothing.
    """

    kind: Literal["rule", "scheduler"]
    expression: str
    timezone: str | None = None
    exact: bool = True
    every: float | None = None
    reason: str = ""


def translate(value: Any, timezone: str | tzinfo | None = "UTC") -> Translation:
    """Return how EventBridge fires a schedule (or a number of seconds, or a timedelta) of an app in this zone.

    Crontabs in UTC become rules, others Scheduler schedules; intervals are the same in every zone. The firings are
    exactly the runs of the schedule, or include them where `Translation.exact` is false. Raises `Untranslatable`.
    """
    found = maybe_schedule(value)
    zone = _zone_name(timezone)
    if type(found) is crontab:
        return _crontab(found, zone)
    if type(found) is schedule:
        return _interval(found, zone)
    if type(found) is solar:
        return _solar(found)
    raise Untranslatable(
        f"{value!r} decides in Python when it is due, which EventBridge cannot ask; use crontab, schedule or solar, "
        "or run this entry with `dispatcher beat`"
    )


def _zone_name(timezone: str | tzinfo | None) -> str:
    name = timezone if isinstance(timezone, str) else getattr(timezone, "key", None)
    if timezone is None or timezone is UTC or (name and name.lower() in _UTC_NAMES):
        return "UTC"
    if not name:
        raise Untranslatable(f"the zone {timezone!r} has no IANA name, which EventBridge needs; use ZoneInfo or a name")
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise Untranslatable(f"{name!r} is not an IANA time zone known here; see the tzdata package") from error
    return name


def _in_zone(expression: str, zone: str, exact: bool = True, reason: str = "") -> Translation:
    if zone == "UTC":
        return Translation("rule", expression, exact=exact, reason=reason)
    return Translation("scheduler", expression, zone, exact=exact, reason=reason)


# -- crontabs


def _crontab(cron: crontab, zone: str) -> Translation:
    days, weekdays, exact = _days(cron)
    fields = (
        _field(cron.minute, 0, 59),
        _field(cron.hour, 0, 23),
        days,
        _field(cron.month_of_year, 1, 12),
        weekdays,
        "*",
    )
    reason = "" if exact else "EventBridge takes a day of month or a day of week, not both; the worker checks the other"
    return _in_zone(f"cron({' '.join(fields)})", zone, exact, reason)


def _days(cron: crontab) -> tuple[str, str, bool]:
    """Return day of month, day of week and whether they say it all; one of the two must be ``?``."""
    if len(cron.day_of_week) == 7:
        return _field(cron.day_of_month, 1, 31), "?", True
    if len(cron.day_of_month) == 31:
        return "?", _weekdays(cron.day_of_week), True
    if len(cron.day_of_week) == 1:
        (weekday,) = cron.day_of_week
        for nth in range(1, 6):
            if cron.day_of_month == set(range(7 * nth - 6, min(7 * nth, 31) + 1)):
                return "?", f"{weekday + 1}#{nth}", True
    if len(cron.day_of_week) / 7 < len(cron.day_of_month) / 31:  # the rarer one fires less in vain
        return "?", _weekdays(cron.day_of_week), False
    return _field(cron.day_of_month, 1, 31), "?", False


def _weekdays(values: Collection[int]) -> str:
    return ",".join(
        _WEEKDAYS[first] if first == last else f"{_WEEKDAYS[first]}-{_WEEKDAYS[last]}" for first, last in _runs(values)
    )


def _field(values: Collection[int], low: int, high: int) -> str:
    ordered = sorted(values)
    if len(ordered) == high - low + 1:
        return "*"
    first, last = ordered[0], ordered[-1]
    if len(ordered) > 2:
        step = ordered[1] - first
        if step > 1 and last + step > high and ordered == list(range(first, high + 1, step)):
            return f"{first}/{step}"
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in _runs(ordered))


def _runs(values: Collection[int]) -> Iterator[tuple[int, int]]:
    """Yield first and last of each run of neighbours."""
    ordered = sorted(values)
    first = ordered[0]
    for value, following in zip(ordered, [*ordered[1:], None], strict=True):
        if following != value + 1:
            yield first, value
            if following is not None:
                first = following


# -- intervals


def _interval(interval: schedule, zone: str) -> Translation:
    if interval.run_every % timedelta(seconds=1):
        raise Untranslatable(
            f"every {interval.seconds:g} s: SQS delays messages by whole seconds; use a whole number of seconds"
        )
    seconds = int(interval.seconds)
    if interval.resolution == _DAY:
        return _midnights(seconds // _DAY, zone)
    if interval.resolution == _HOUR:
        return _hours(seconds // _HOUR, zone)
    if interval.resolution == _MINUTE:
        seconds -= seconds % _MINUTE
    if seconds % _MINUTE == 0:
        return _minutes(seconds // _MINUTE)
    if seconds < _MINUTE:
        return Translation("rule", _EVERY_MINUTE, every=seconds)
    return Translation("rule", _EVERY_MINUTE, exact=False, every=seconds, reason="EventBridge counts in whole minutes")


def _minutes(count: int) -> Translation:
    """Multiples of a span since 1970, in UTC: what a rate would count from the moment at which its rule was made."""
    tick = math.gcd(count, _DAY // _MINUTE)
    if tick % 60:
        tick = math.gcd(tick, 60)
    if tick < 60:
        expression = _EVERY_MINUTE if tick == 1 else f"cron(0/{tick} * * * ? *)"
    else:
        hours = {1: "*", 24: "0"}.get(tick // 60, f"0/{tick // 60}")
        expression = f"cron(0 {hours} * * ? *)"
    reason = (
        ""
        if tick == count
        else f"EventBridge begins to count anew each hour or day, so it cannot count {count} minutes; the worker does"
    )
    return Translation("rule", expression, exact=tick == count, reason=reason)


def _midnights(count: int, zone: str) -> Translation:
    if count == 1:
        return _in_zone("cron(0 0 * * ? *)", zone)
    reason = f"EventBridge cannot count to {count} midnights; the worker does"
    return _in_zone("cron(0 0 * * ? *)", zone, False, reason)


def _hours(count: int, zone: str) -> Translation:
    """Full hours in real time: in UTC, at the minute at which the zone's clock shows them."""
    minutes = _minutes_of_full_hours(zone_of(zone))
    if len(minutes) > 1:
        raise Untranslatable(
            f"full hours in {zone}, which changes its clock by part of an hour, are no steady beat; use relative=False"
        )
    exact = 24 % count == 0
    hours = f"0/{count}" if exact and count > 1 else "*"
    reason = "" if exact else f"EventBridge cannot count {count} full hours; the worker does"
    return Translation("rule", f"cron({minutes.pop()} {hours} * * ? *)", exact=exact, reason=reason)


def _minutes_of_full_hours(zone: tzinfo) -> set[int]:
    months = (datetime(year, month, 1, tzinfo=UTC) for year in range(2026, 2038) for month in range(1, 13))
    offsets = {month.astimezone(zone).utcoffset() or timedelta(0) for month in months}
    return {int(-offset.total_seconds()) % _HOUR // _MINUTE for offset in offsets}


# -- the sun


def _solar(event: solar) -> Translation:
    """Every minute of the hours, in UTC, that the event falls into in some part of the year."""
    hours: set[int] = set(range(24))
    if abs(event.lat) <= 60:  # further out an event moves through the day too fast for one year to show it all
        hours = set()
        found = event.next_after(datetime(2026, 1, 1, tzinfo=UTC))
        while found is not None and found.year == 2026:
            # Half an hour is more than such an event moves from one year to the next.
            hours |= {(found + timedelta(minutes=margin)).hour for margin in (-30, 0, 30)}
            found = event.next_after(found)
    expression = f"cron(* {_field(hours, 0, 23)} * * ? *)"
    return Translation("rule", expression, exact=False, reason="EventBridge does not know the sun; the worker does")
