"""Schedules as values."""

from __future__ import annotations

import pickle
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from dispatcher.schedules import ParseException, crontab, schedule


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("*/15", {0, 15, 30, 45}),
        ("5", {5}),
        (5, {5}),
        ("1-4", {1, 2, 3, 4}),
        ("1-9/4", {1, 5, 9}),
        ("3/20", {3, 23, 43}),
        ("58-1", {58, 59, 0, 1}),
        ("1,2, 3", {1, 2, 3}),
        ({7, 8}, {7, 8}),
        (["1-2", 9], {1, 2, 9}),
    ],
)
def test_a_field_is_read(field: object, expected: set[int]) -> None:
    """Numbers, ranges, steps, lists and sets are read as crontab(5) and Celery read them."""
    assert crontab(minute=field).minute == expected


def test_names_and_sunday() -> None:
    """Days and months have names, and Sunday is 0 or 7."""
    cron = crontab(day_of_week="mon-fri", month_of_year="jan,December")
    assert cron.day_of_week == {1, 2, 3, 4, 5}
    assert cron.month_of_year == {1, 12}
    assert crontab(day_of_week=7) == crontab(day_of_week="sunday")


@pytest.mark.parametrize("field", ["61", "a", "*/0", "1--2", "", "*-3", True, 1.5, []])
def test_a_bad_field_is_refused(field: object) -> None:
    """What is no field raises an error that names the field."""
    with pytest.raises(ParseException, match="minute"):
        crontab(minute=field)


def test_from_string_has_the_order_of_crontab() -> None:
    """The text form has day of month and month before day of week."""
    assert crontab.from_string("0 12 1 6 mon") == crontab(
        minute=0, hour=12, day_of_month=1, month_of_year=6, day_of_week=1
    )
    with pytest.raises(ParseException, match="five fields"):
        crontab.from_string("* * *")


def test_day_of_month_and_day_of_week_must_both_match() -> None:
    """Friday the 13th is found, not every Friday and every 13th."""
    friday_13th = crontab(minute=0, hour=0, day_of_month=13, day_of_week="fri")
    assert friday_13th.next_after(datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC"))) == datetime(
        2026, 2, 13, tzinfo=ZoneInfo("UTC")
    )


def test_next_after() -> None:
    """The next run is after the moment, leap days are found, impossible dates end the search."""
    utc = ZoneInfo("UTC")
    assert crontab().next_after(datetime(2026, 1, 1, 0, 0, 30, tzinfo=utc)) == datetime(2026, 1, 1, 0, 1, tzinfo=utc)
    leap = crontab.from_string("0 0 29 2 *")
    assert leap.next_after(datetime(2097, 1, 1, tzinfo=utc)) == datetime(2104, 2, 29, tzinfo=utc)
    assert crontab(day_of_month=31, month_of_year=2).next_after(datetime(2026, 1, 1, tzinfo=utc)) is None


def test_matches() -> None:
    """A moment is compared by the wall clock of its own zone."""
    cron = crontab(minute=30, hour=9)
    assert cron.matches(datetime(2026, 5, 5, 9, 30, 59, tzinfo=ZoneInfo("Europe/Berlin")))
    assert not cron.matches(datetime(2026, 5, 5, 9, 31, tzinfo=ZoneInfo("Europe/Berlin")))


def test_schedule_takes_spans_and_seconds() -> None:
    """A schedule compares by its span, and refuses one that is none."""
    assert schedule(90) == schedule(timedelta(minutes=1.5))
    assert schedule(90).seconds == 90.0
    for wrong in (0, -1, "5", None, True):
        with pytest.raises(ValueError, match="run_every"):
            schedule(wrong)  # type: ignore[arg-type]


def test_schedules_survive_pickling() -> None:
    """Configuration that holds schedules can be copied to another process."""
    cron = crontab(minute="*/5", day_of_week="mon")
    assert pickle.loads(pickle.dumps(cron)) == cron
    assert pickle.loads(pickle.dumps(schedule(3))) == schedule(3)
