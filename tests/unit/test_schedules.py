"""Schedules as values."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn
from zoneinfo import ZoneInfo

import pytest

from dispatcher import Dispatcher
from dispatcher.clock import ManualClock
from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.schedules import (
    BaseSchedule,
    ParseException,
    crontab,
    crontab_parser,
    from_dict,
    maybe_schedule,
    schedstate,
    schedule,
    solar,
    to_dict,
)


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
    leap_sunday = crontab.from_string("0 0 29 2 sun")
    assert leap_sunday.next_after(datetime(2088, 3, 1, tzinfo=utc)) == datetime(2128, 2, 29, tzinfo=utc)
    month_end = crontab.from_string("0 0 31 * *")
    assert month_end.next_after(datetime(2026, 1, 31, tzinfo=utc)) == datetime(2026, 3, 31, tzinfo=utc)
    assert crontab().next_after(datetime.max.replace(tzinfo=utc)) is None
    with pytest.raises(ValueError, match="no time zone"):
        crontab().next_after(datetime(2026, 1, 1))  # noqa: DTZ001


def test_a_date_that_no_year_has_is_refused() -> None:
    """30 February never comes, and the error says so."""
    with pytest.raises(ValueError, match="day_of_month 30,31 never occurs in month_of_year 2"):
        crontab(day_of_month="30,31", month_of_year=2)


def test_weekdays_wrap_around_the_week() -> None:
    """Ranges and steps over the end of the week count Sunday once."""
    assert crontab(day_of_week="fri-mon/2").day_of_week == {5, 0}
    assert crontab(day_of_week="3/2").day_of_week == {3, 5}
    assert crontab(day_of_week="5-7").day_of_week == {5, 6, 0}
    assert crontab_parser(7).parse("mon-wed") == {1, 2, 3}


BERLIN = ZoneInfo("Europe/Berlin")


def _runs(cron: BaseSchedule, start: datetime, count: int) -> list[str]:
    runs: list[str] = []
    moment: datetime | None = start
    while len(runs) < count:
        assert moment is not None
        moment = cron.next_after(moment)
        assert moment is not None
        runs.append(moment.isoformat(timespec="minutes"))
    return runs


def test_a_time_that_the_clock_skips_does_not_run() -> None:
    """At half past two on the night that has no such time, nothing runs."""
    assert _runs(crontab(30, 2), datetime(2026, 3, 28, tzinfo=BERLIN), 3) == [
        "2026-03-28T02:30+01:00",
        "2026-03-30T02:30+02:00",
        "2026-03-31T02:30+02:00",
    ]
    never = crontab(30, 2, "sun", "25-31", 3)
    assert never.next_after(datetime(2026, 1, 1, tzinfo=BERLIN)) is None


def test_a_time_that_the_clock_shows_twice_runs_once() -> None:
    """The repeated hour is not run again, whatever its pass the search begins in."""
    assert _runs(crontab("*/30"), datetime(2026, 10, 25, 1, 30, tzinfo=BERLIN), 3) == [
        "2026-10-25T02:00+02:00",
        "2026-10-25T02:30+02:00",
        "2026-10-25T03:00+01:00",
    ]
    second_pass = datetime(2026, 10, 25, 2, 10, tzinfo=BERLIN, fold=1)
    assert _runs(crontab("*/30"), second_pass, 1) == ["2026-10-25T03:00+01:00"]
    assert not crontab().matches(second_pass)
    assert crontab().matches(second_pass.replace(fold=0))


def test_real_time_intervals_do_not_notice_the_clock() -> None:
    """A schedule of a day runs every 24 hours; a relative one at midnight."""
    start = datetime(2026, 3, 28, 12, tzinfo=BERLIN)
    assert _runs(schedule(86400), start, 2) == ["2026-03-29T13:00+02:00", "2026-03-30T13:00+02:00"]
    assert _runs(schedule(86400, relative=True), start, 2) == ["2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"]
    assert _runs(schedule(3600, relative=True), start.replace(minute=25), 1) == ["2026-03-28T13:00+01:00"]
    assert _runs(schedule(150, relative=True), start, 1) == ["2026-03-28T12:02+01:00"]


def test_is_due_counts_from_the_last_run() -> None:
    """Overdue schedules are due now and say when the run after that is; others say how long to wait."""
    now = datetime(2026, 5, 5, 12, 0, 20, tzinfo=UTC)
    every = schedule(30, nowfun=lambda: now)
    assert every.is_due(now - timedelta(seconds=12)) == schedstate(False, 18.0)
    assert every.is_due(now - timedelta(hours=2)) == schedstate(True, 30.0)
    cron = crontab("*/5", nowfun=lambda: now)
    assert cron.is_due(now - timedelta(minutes=1)) == (True, 280.0)
    assert cron.is_due(now - timedelta(seconds=1)).next == 280.0
    assert cron.remaining_estimate(now.replace(tzinfo=None)) == timedelta(seconds=280)


def test_the_zone_and_the_clock_are_those_of_the_app() -> None:
    """A crontab without a clock of its own asks its app."""
    app = Dispatcher("zoned", set_as_current=False)
    app.conf.timezone = "Asia/Tokyo"
    app.clock = ManualClock(datetime(2026, 5, 5, 12, tzinfo=UTC).timestamp())
    cron = maybe_schedule(crontab(0, 9), app=app)
    assert cron.now().isoformat() == "2026-05-05T21:00:00+09:00"
    assert cron.remaining_estimate(cron.now()) == timedelta(hours=12)
    assert crontab(0, 9).tz == UTC


def test_maybe_schedule_reads_numbers_and_spans() -> None:
    """Seconds and timedeltas become schedules; what is neither is refused."""
    assert maybe_schedule(5) == maybe_schedule(timedelta(seconds=5)) == schedule(5)
    assert maybe_schedule(timedelta(days=1), relative=True) == schedule(86400, relative=True) != schedule(86400)
    assert maybe_schedule(None) is None
    with pytest.raises(TypeError, match="is no schedule; use crontab"):
        maybe_schedule("* * * * *")


def test_runs_in_a_minute() -> None:
    """A firing each minute is cut down to the runs of that minute, or spread over it."""
    minute = datetime(2026, 5, 5, 12, 1, tzinfo=UTC)
    assert schedule(20).runs_in_minute(minute) == tuple(minute + timedelta(seconds=20 * i) for i in range(3))
    assert schedule(90).runs_in_minute(minute) == (minute + timedelta(seconds=30),)
    assert schedule(90).runs_in_minute(minute - timedelta(minutes=1)) == (minute - timedelta(minutes=1),)
    assert schedule(300).runs_in_minute(minute) == ()
    assert schedule(300).runs_in_minute(minute - timedelta(minutes=1)) == (minute - timedelta(minutes=1),)
    assert crontab("*/2").runs_in_minute(minute) == ()
    assert crontab("1").runs_in_minute(minute) == (minute,)


GOLDEN = Path(__file__).parents[1] / "golden" / "celery_crontabs.json"


def test_crontabs_run_when_celery_runs_them() -> None:
    """Random crontabs in five zones: zone, five fields in Celery's order, last run, and the next by Celery 5.7."""
    rows = json.loads(GOLDEN.read_text("utf-8"))
    for zone, *fields, last, expected in rows:
        found = crontab(*fields).next_after(datetime.fromisoformat(last).astimezone(ZoneInfo(zone)))
        assert found == datetime.fromisoformat(expected), (zone, fields, last)
    assert len(rows) == 240


# What Celery 5.7 answers: event, latitude, longitude, after, next.
SUN = """
sunrise 52.52 13.405 2026-06-21T12:00 2026-06-22T02:43:22
sunset -33.87 151.21 2026-06-21T12:00 2026-06-22T06:54:00
solar_noon -0.18 -78.47 2026-06-21T12:00 2026-06-21T17:15:44
dusk_nautical 52.52 13.405 2026-03-20T00:00 2026-03-20T18:33:59
dawn_astronomical 52.52 13.405 2026-06-21T12:00 2026-07-25T23:15:11
dawn_astronomical -77.85 166.67 2026-03-20T00:00 2026-04-05T13:51:11
dawn_civil -33.87 151.21 2026-06-21T12:00 2026-06-21T20:32:26
"""


@pytest.fixture
def ephem(require_server: Callable[[str], NoReturn]) -> None:
    """Skip without the extra `solar`."""
    if find_spec("ephem") is None:
        require_server("ephem is not installed")


@pytest.mark.usefixtures("ephem")
@pytest.mark.parametrize("line", SUN.strip().splitlines())
def test_solar_events_are_those_of_celery(line: str) -> None:
    """Events of the sun come when Celery has them, also where a season has none."""
    event, lat, lon, after, expected = line.split()
    found = solar(event, float(lat), float(lon)).next_after(datetime.fromisoformat(after).replace(tzinfo=UTC))
    assert found == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.usefixtures("ephem")
def test_each_solar_event_is_one_moment() -> None:
    """Going from event to event visits each once, and its minute finds it again."""
    sunset = solar("sunset", 40, -74)
    moment, seen = datetime(2026, 1, 1, tzinfo=UTC), []
    while moment.year < 2027:
        following = sunset.next_after(moment)
        assert following is not None
        moment = following
        assert sunset.runs_in_minute(moment.replace(second=0)) == (moment,)
        seen.append(moment)
    assert len(seen) == 366  # 1 January to 1 January
    assert sunset.next_after(moment.astimezone(BERLIN) - timedelta(seconds=1)) == moment


@pytest.mark.usefixtures("ephem")
def test_solar_refuses_what_is_no_event_or_place() -> None:
    """The error lists the events, or gives the limits of the coordinate."""
    with pytest.raises(ValueError, match="use one of dawn_astronomical, dawn_civil"):
        solar("moonrise", 0, 0)
    with pytest.raises(ValueError, match="latitude must be between -90 and 90"):
        solar("sunset", 91, 0)
    with pytest.raises(ValueError, match="longitude must be between -180 and 180"):
        solar("sunset", 0, -181)
    with pytest.raises(TypeError, match="latitude must be a number of degrees, not '50'"):
        solar("sunset", "50", "0")  # type: ignore[arg-type]


def test_a_class_of_ones_own_gives_next_after() -> None:
    """The rest follows from it; Celery's methods alone are refused, for nobody would ask them."""

    class Fridays(BaseSchedule):
        def next_after(self, moment: datetime) -> datetime:
            return moment.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(
                days=(4 - moment.weekday()) % 7 or 7
            )

    thursday = datetime(2026, 5, 7, tzinfo=UTC)
    assert Fridays().runs_in_minute(thursday + timedelta(days=1)) == (thursday + timedelta(days=1),)
    assert Fridays(nowfun=lambda: thursday).is_due(thursday) == (False, 86400.0)
    with pytest.raises(ImproperlyConfigured, match="Odd defines is_due, but schedules are asked for next_after"):

        class Odd(schedule):
            def is_due(self, last_run_at: datetime) -> schedstate:
                return schedstate(True, 5.0)


def test_solar_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named before anything runs."""
    monkeypatch.setitem(sys.modules, "ephem", None)
    with pytest.raises(ImproperlyConfigured, match=r"serverless-dispatcher\[solar\]"):
        solar("sunset", 0, 0)


@pytest.mark.parametrize(
    "value",
    [
        crontab("*/5", "8-18", {1, 3}, [1, 15], "jan"),
        crontab(5),
        schedule(2.5),
        schedule(timedelta(days=2), relative=True),
    ],
)
def test_schedules_survive_storage(value: BaseSchedule) -> None:
    """A schedule comes back equal from JSON and from a pickle."""
    assert from_dict(json.loads(json.dumps(to_dict(value)))) == value
    assert pickle.loads(pickle.dumps(value)) == value


@pytest.mark.usefixtures("ephem")
def test_a_place_survives_storage() -> None:
    """Solar schedules come back equal as well."""
    test_schedules_survive_storage(solar("sunset", -33.9, 18.4))


def test_storage_refuses_what_it_does_not_know() -> None:
    """Classes of one's own and foreign data raise errors that say so."""

    class Own(schedule):
        pass

    with pytest.raises(TypeError, match="classes of one's own"):
        to_dict(Own(3))
    for wrong in ({}, {"kind": "interval"}, {"kind": "crontab", "second": 3}, {"kind": "clocked"}):
        with pytest.raises(ValueError, match="no stored schedule"):
            from_dict(wrong)


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


@pytest.mark.parametrize("seconds", [float("inf"), -float("inf"), float("nan"), 1e18])
def test_a_span_that_no_calendar_has_is_refused(seconds: float) -> None:
    """The error says what a span may be."""
    with pytest.raises(ValueError, match="run_every must be a time span over 0, of up to 999,999,999 days, not"):
        schedule(seconds)


def test_what_is_no_moment_and_no_text_is_named() -> None:
    """A moment is a datetime, the text of a crontab a text."""
    for each in (crontab(), schedule(60), schedule(86_400, relative=True)):
        with pytest.raises(TypeError, match=r"a moment must be a datetime.*not '2026'"):
            each.next_after("2026")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"a moment must be a datetime.*not 5"):
            each.is_due(5)  # type: ignore[arg-type]
    with pytest.raises(ParseException, match=r"a crontab's text is needed.*not 5"):
        crontab.from_string(5)  # type: ignore[arg-type]
