"""EventBridge fires when the schedule is due: compared minute by minute over two years, in zones that change clocks."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from itertools import islice, pairwise
from typing import NoReturn
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dispatcher.provision.eventbridge import Untranslatable, translate
from dispatcher.schedules import BaseSchedule, crontab, schedule, solar
from tests.property.minutes import (
    END,
    MINUTES,
    START,
    crontab_minutes,
    eventbridge_minutes,
    moments,
)

# Both hemispheres, clocks that change at midnight, by half an hour, or never, and offsets of quarters of an hour.
ZONES = ("UTC", "Europe/Berlin", "America/Santiago", "Australia/Lord_Howe", "Asia/Kathmandu")
EXAMPLES = int(os.environ.get("DISPATCHER_TEST_SCHEDULES", "100"))

#: https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutRule.html; that of Scheduler is the same.
LONGEST_EXPRESSION = 256

Spec = tuple[str, frozenset[int]]


@st.composite
def parts(draw: st.DrawFn, low: int, high: int) -> Spec:
    """One part of a field as text, with the values that crontab gives it."""
    first, last = draw(st.integers(low, high)), draw(st.integers(low, high))
    step = draw(st.integers(1, 9))
    onward = [*range(first, last + 1)] if first <= last else [*range(first, high + 1), *range(low, last + 1)]
    found: Spec = draw(
        st.sampled_from(
            [
                ("*", frozenset(range(low, high + 1))),
                (str(first), frozenset({first})),
                (f"*/{step}", frozenset(range(low, high + 1, step))),
                (f"{first}-{last}", frozenset(onward)),
                (f"{first}-{last}/{step}", frozenset(onward[::step])),
            ]
        )
    )
    return found


def field(low: int, high: int) -> st.SearchStrategy[Spec]:
    """A field: parts joined by commas, often just a star."""
    several = st.lists(parts(low, high), min_size=1, max_size=3).map(
        lambda found: (",".join(text for text, _ in found), frozenset().union(*(values for _, values in found)))
    )
    return st.one_of(st.just(("*", frozenset(range(low, high + 1)))), several)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    minute=field(0, 59),
    hour=field(0, 23),
    weekday=field(0, 6),
    day=field(1, 31),
    month=field(1, 12),
)
@example(  # the second Tuesday
    zone="UTC",
    minute=("0", frozenset({0})),
    hour=("9", frozenset({9})),
    weekday=("tue", frozenset({2})),
    day=("8-14", frozenset(range(8, 15))),
    month=("*", frozenset(range(1, 13))),
)
@example(  # half past two, which one night skips and another repeats
    zone="Europe/Berlin",
    minute=("30", frozenset({30})),
    hour=("2", frozenset({2})),
    weekday=("*", frozenset(range(7))),
    day=("*", frozenset(range(1, 32))),
    month=("*", frozenset(range(1, 13))),
)
@example(  # the longest expression there is, with no two values in a row of three
    zone="Europe/Berlin",
    minute=(",".join(str(n) for n in range(60) if n % 3), frozenset(n for n in range(60) if n % 3)),
    hour=(",".join(str(n) for n in range(24) if n % 3), frozenset(n for n in range(24) if n % 3)),
    weekday=("*", frozenset(range(7))),
    day=(",".join(str(n) for n in range(1, 32) if n % 3), frozenset(n for n in range(1, 32) if n % 3)),
    month=(",".join(str(n) for n in range(1, 13) if n % 3), frozenset(n for n in range(1, 13) if n % 3)),
)
@example(  # a fifth Sunday, and 29 February
    zone="America/Santiago",
    minute=("*/7", frozenset(range(0, 60, 7))),
    hour=("0", frozenset({0})),
    weekday=("sun", frozenset({0})),
    day=("29-31", frozenset({29, 30, 31})),
    month=("*", frozenset(range(1, 13))),
)
def test_crontabs_fire_when_they_are_due(
    zone: str, minute: Spec, hour: Spec, weekday: Spec, day: Spec, month: Spec
) -> None:
    """An exact translation fires at the crontab's minutes alone; an inexact one at more, which are sorted out."""
    if min(day[1]) > 29 and month[1] == {2}:
        with pytest.raises(ValueError, match="never occurs"):
            crontab(minute[0], hour[0], weekday[0], day[0], month[0])
        return
    cron = crontab(minute[0], hour[0], weekday[0], day[0], month[0])
    due = crontab_minutes(zone, {*minute[1]}, {*hour[1]}, {*weekday[1]}, {*day[1]}, {*month[1]})
    translation = translate(cron, zone)
    assert len(translation.expression) <= LONGEST_EXPRESSION
    fired = eventbridge_minutes(translation.expression, translation.timezone)

    assert (translation.kind == "rule") == (zone == "UTC") == (translation.timezone is None)
    assert fired & due == due, "a run is missed"
    assert (fired == due) or not translation.exact
    assert translation.exact == (not translation.reason)

    following = cron.next_after((START - timedelta(minutes=1)).astimezone(ZoneInfo(zone)))
    for expected, _ in zip(moments(due, zone), range(60), strict=False):
        assert _seconds(following) == _seconds(expected)
        following = cron.next_after(expected)
    for vain, _ in zip(moments(fired & ~due, zone), range(10), strict=False):
        assert cron.runs_in_minute(vain) == ()
    for wanted, _ in zip(moments(due, zone), range(10), strict=False):
        assert cron.runs_in_minute(wanted) == (wanted,)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    seconds=st.integers(1, 150)
    | st.integers(1, 7200)
    | st.integers(1, 50_000).map(lambda minutes: 60 * minutes)
    | st.integers(1, 800).map(lambda hours: 3600 * hours),
    relative=st.booleans(),
    zone=st.sampled_from(ZONES),
)
@example(seconds=86400, relative=True, zone="America/Santiago")  # a night without midnight
@example(seconds=3600, relative=True, zone="Australia/Lord_Howe")
@example(seconds=5 * 3600, relative=True, zone="Asia/Kathmandu")
def test_intervals_fire_as_often_as_they_are_due(seconds: int, relative: bool, zone: str) -> None:
    """Firings start each whole multiple of the span, as a local beat does; `next_after` goes from one to the next."""
    interval = schedule(seconds, relative)
    if zone == "Australia/Lord_Howe" and interval.resolution == 3600:
        with pytest.raises(Untranslatable, match="part of an hour"):
            translate(interval, zone)
        return
    translation = translate(interval, zone)
    fired = eventbridge_minutes(translation.expression, translation.timezone)
    for minutes in _stretches(fired, zone):
        runs = [run for minute in minutes for run in interval.runs_in_minute(minute)]
        for run, following in islice(pairwise(runs), 1000):
            assert _seconds(interval.next_after(run)) == _seconds(following)
        if interval.resolution < 3600:  # what a local beat fires
            span = seconds - seconds % (interval.resolution or 1)
            start, end = _seconds(minutes[0]), _seconds(minutes[-1]) + 60
            assert [_seconds(run) for run in runs] == list(range(-int(-start // span) * span, int(end), span))
        if translation.every is not None:
            assert translation.exact == (seconds < 60)
            assert 0 <= _seconds(runs[0]) - _seconds(minutes[0]) < seconds
            assert _seconds(minutes[-1]) + 60 - _seconds(runs[-1]) <= seconds
        elif translation.exact:
            assert runs == minutes


def _seconds(moment: datetime | None) -> float:
    """Since 1970: moments of one zone compare by the wall clock, which may show a time twice."""
    assert moment is not None
    return moment.timestamp()


def _stretches(fired: int, zone: str) -> list[list[datetime]]:
    """All minutes of a set if they are few, else those around each change of the zone's clock."""
    if fired.bit_count() < 1000:
        return [list(moments(fired, zone))]
    changes = [day for day in range(1, MINUTES // DAY - 1) if _offset(day, zone) != _offset(day + 1, zone)] or [100]
    windows = [((1 << 5 * DAY // 4) - 1) << day * DAY for day in changes[:2]]
    return [list(moments(fired & window, zone)) for window in windows]


DAY = 1440


def _offset(day: int, zone: str) -> timedelta | None:
    return (START + timedelta(days=day)).astimezone(ZoneInfo(zone)).utcoffset()


@pytest.fixture
def ephem(require_server: Callable[[str], NoReturn]) -> None:
    """Skip without the extra `solar`."""
    if find_spec("ephem") is None:
        require_server("ephem is not installed")


@pytest.mark.usefixtures("ephem")
@pytest.mark.parametrize(
    ("event", "lat", "lon"),
    [("sunrise", 52.5, 13.4), ("solar_noon", 0, 179.9), ("dusk_civil", -59, -70), ("sunset", 69.6, 18.9)],
)
def test_the_sun_is_caught_at_its_minute(event: str, lat: float, lon: float) -> None:
    """Each event falls into a minute at which the rule fires, and no other minute of the day starts it."""
    sun = solar(event, lat, lon)
    translation = translate(sun, "Europe/Berlin")
    assert (translation.kind, translation.exact) == ("rule", False)
    fired = eventbridge_minutes(translation.expression, None)
    found, seen = sun.next_after(START), 0
    while found is not None and found < END:
        number = int((found - START).total_seconds()) // 60
        assert fired >> number & 1
        if seen % 50 == 0:
            minutes = moments(fired & (0b111 << max(number - 1, 0)))
            assert [run for minute in minutes for run in sun.runs_in_minute(minute)] == [found]
        found, seen = sun.next_after(found), seen + 1
    assert seen > 480


class Own(schedule):
    """A schedule of one's own."""


@pytest.mark.parametrize(
    ("value", "zone", "reason"),
    [
        (1.5, "UTC", "whole number of seconds"),
        (Own(60), "UTC", "decides in Python"),
        (crontab(), "Mars/Olympus", "not an IANA time zone"),
        (crontab(), timezone(timedelta(hours=2)), "no IANA name"),
        (schedule(7200, relative=True), "Australia/Lord_Howe", "part of an hour"),
    ],
)
def test_what_cannot_be_expressed_is_refused(value: BaseSchedule | float, zone: object, reason: str) -> None:
    """The refusal says why, and what to do instead."""
    with pytest.raises(Untranslatable, match=reason):
        translate(value, zone)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "zone", "expression"),
    [
        (crontab(), "UTC", "cron(* * * * ? *)"),
        (crontab("*/15", "8-17", "mon-fri"), "UTC", "cron(0/15 8-17 ? * MON-FRI *)"),
        (crontab(0, 9, "mon", "1-7"), "UTC", "cron(0 9 ? * 2#1 *)"),
        (crontab(0, 0, "fri", 13), "UTC", "cron(0 0 13 * ? *)"),
        (crontab(0, 0, "sun,sat", "1-20"), "UTC", "cron(0 0 ? * SUN,SAT *)"),
        (60, "Europe/Berlin", "cron(* * * * ? *)"),
        (300, "UTC", "cron(0/5 * * * ? *)"),
        (3600, "UTC", "cron(0 * * * ? *)"),
        (6 * 3600, "Europe/Berlin", "cron(0 0/6 * * ? *)"),
        (86400, "UTC", "cron(0 0 * * ? *)"),
        (5400, "UTC", "cron(0/30 * * * ? *)"),
        (7 * 86400, "UTC", "cron(0 0 * * ? *)"),
        (7 * 60, "UTC", "cron(* * * * ? *)"),
        (20, "UTC", "cron(* * * * ? *)"),
        (schedule(7200, relative=True), "Asia/Kathmandu", "cron(15 0/2 * * ? *)"),
    ],
)
def test_expressions_read_as_one_would_write_them(value: BaseSchedule | float, zone: str, expression: str) -> None:
    """Steps, ranges and names are used where they are shorter, and the day of week counts from Sunday, 1."""
    assert translate(value, zone).expression == expression
