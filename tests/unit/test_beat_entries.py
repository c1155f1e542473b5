"""Entries of the beat: read from Celery's form, and every mistake in one named."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from dispatcher import Dispatcher, group
from dispatcher.beat.entries import ALL_WITHIN, ON_TIME, CatchUp, Entry, entries
from dispatcher.beat.timetable import Timetable
from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.schedules import BaseSchedule, crontab, schedule


def make_app(**settings: Any) -> Dispatcher:
    app = Dispatcher("shop", broker="memory://", backend="memory://", set_as_current=False, **settings)

    @app.task(name="shop.report")
    def report(day: int = 0, *, loud: bool = False) -> int:
        return day

    return app


def entry(given: Any, **settings: Any) -> Entry:
    """Return the one entry of an app."""
    return entries(make_app(beat_schedule={"nightly": given}, **settings))["nightly"]


def test_an_entry_is_read_from_celerys_form() -> None:
    """A dict as Celery takes it becomes an entry with its call checked and its queue known."""
    found = entry({
        "task": "shop.report", "schedule": crontab(minute=30, hour=2), "args": [3], "kwargs": {"loud": True},
        "options": {"queue": "night", "expires": 60, "priority": 3}, "relative": True,
    })  # fmt: skip
    assert found.args == (3,)
    assert found.kwargs == {"loud": True}
    assert found.queue == "night"
    assert found.options == {"queue": "night", "expires": 60, "priority": 3}
    assert (found.catch_up, found.within, found.enabled) == (CatchUp.LAST, None, True)
    due = found.next_after(datetime(2026, 1, 1, 3, tzinfo=UTC).timestamp())
    assert due == datetime(2026, 1, 2, 2, 30, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("given", [30, 30.0, timedelta(seconds=30), schedule(30)])
def test_spans_are_schedules(given: Any) -> None:
    """A number of seconds and a timedelta are intervals, as in Celery."""
    found = entry({"task": "shop.report", "schedule": given})
    assert found.every == 30
    assert found.next_after(1_800_000_001) == 1_800_000_030


def test_the_queue_is_that_of_the_tasks_route() -> None:
    """Without a queue of its own an entry goes where its task does."""
    found = entry({"task": "shop.report", "schedule": 60}, task_routes={"shop.*": {"queue": "reports"}})
    assert found.queue == "reports"


def test_a_schedules_wall_clock_is_the_apps() -> None:
    """A crontab is read in the configured time zone."""
    found = entry({"task": "shop.report", "schedule": crontab(minute=0, hour=2)}, timezone="Europe/Berlin")
    due = found.next_after(datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp())
    assert due == datetime(2026, 1, 2, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("given", "policy", "within"),
    [
        ({}, CatchUp.LAST, None),
        ({"catch_up": "skip"}, CatchUp.SKIP, ON_TIME),
        ({"catch_up": "all"}, CatchUp.ALL, ALL_WITHIN),
        ({"catch_up": "all", "catch_up_within": timedelta(hours=2)}, CatchUp.ALL, 7200.0),
        ({"catch_up_within": 90}, CatchUp.LAST, 90.0),
    ],
)
def test_policies_for_late_firings(given: dict[str, Any], policy: CatchUp, within: float | None) -> None:
    """Each policy has its own bound unless the entry sets one."""
    found = entry({"task": "shop.report", "schedule": 60, **given})
    assert (found.catch_up, found.within) == (policy, within)


def test_celerys_starting_deadline_bounds_lateness() -> None:
    """`beat_cron_starting_deadline` is the bound of entries that set none."""
    assert entry({"task": "shop.report", "schedule": 60}, beat_cron_starting_deadline=600).within == 600


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (7, "must be a dict with at least 'task' and 'schedule'"),
        ({"schedule": 60}, "has no 'task'"),
        ({"task": "shop.report", "schedule": 60, "options": {"serializer": "msgpackk"}}, "unknown serializer"),
        ({"task": "shop.report", "schedule": 60, "options": {"expires": -1}}, "no run would ever start"),
        ({"task": "shop.report", "schedule": 60, "options": {"expires": 1, "countdown": 3}}, "'countdown' 3 s"),
        ({"task": "shop.report"}, "has no 'schedule'"),
        ({"task": "shop.reprot", "schedule": 60}, "did you mean 'shop.report'"),
        ({"task": "x", "schedule": 60}, "is the module with it in imports= or include="),
        ({"task": "dispatcher.group", "schedule": 60}, "no task named 'dispatcher.group'"),
        ({"task": "shop.report", "schedule": "*/5 * * * *"}, "crontab.from_string"),
        ({"task": "shop.report", "schedule": crontab}, "make one: crontab"),
        ({"task": "shop.report", "schedule": 0}, "must be a time span over 0"),
        ({"task": "shop.report", "schedule": True}, "True is no schedule"),
        ({"task": "shop.report", "schedule": 60, "arg": [1]}, "did you mean 'args'"),
        ({"task": "shop.report", "schedule": 60, "queue": "q"}, "belongs into 'options'"),
        ({"task": "shop.report", "schedule": 60, "args": "1"}, "'args' must be a list or a tuple, not str"),
        ({"task": "shop.report", "schedule": 60, "args": [1, 2, 3]}, "positional argument"),
        ({"task": "shop.report", "schedule": 60, "kwargs": {"dya": 1}}, "dya"),
        ({"task": "shop.report", "schedule": 60, "args": [object()]}, "object"),
        ({"task": "shop.report", "schedule": 60, "options": {"prioritty": 1}}, "did you mean 'priority'"),
        ({"task": "shop.report", "schedule": 60, "options": {"eta": 1}}, "the schedule says when"),
        ({"task": "shop.report", "schedule": 60, "options": {"task_id": "x"}}, "made of the entry's name"),
        ({"task": "shop.report", "schedule": 60, "options": 5}, "must be a dict of apply_async's options"),
        ({"task": "shop.report", "schedule": 60, "catch_up": "never"}, "'catch_up' must be one of"),
        ({"task": "shop.report", "schedule": 60, "catch_up_within": -1}, "must be a time span over 0"),
        ({"task": "shop.report", "schedule": 60, "enabled": "no"}, "'enabled' must be true or false"),
        ({"task": "shop.report", "schedule": 60, "relative": "x"}, "'relative' must be true or false, not 'x'"),
        ({"task": 5, "schedule": 60}, "'task' must be a task or the name of one, not 5"),
        ({"task": "shop.report", "schedule": 1e18}, "must be a time span over 0, of up to 999,999,999 days, not 1e+18"),
        ({"task": "shop.report", "schedule": float("nan")}, "not nan s"),
        ({"task": "shop.report", "schedule": 60, "options": {1: 2}}, "no option 1"),
        ({"task": "shop.report", "schedule": 60, "options": {"countdown": 1e12}}, "it ends after the year 9999"),
        ({"task": "shop.report", "schedule": 60, "options": {"expires": 1e12}}, "it ends after the year 9999"),
    ],
)
def test_mistakes_are_named(given: Any, message: str) -> None:
    """What is wrong with an entry is said with its name, and what to do where that can be told."""
    with pytest.raises(ImproperlyConfigured, match=r"the entry 'nightly'") as raised:
        entry(given)
    assert message in str(raised.value)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 256])
def test_names_are_texts_that_people_can_read(name: str) -> None:
    """A name is printable and not longer than an id."""
    with pytest.raises(ImproperlyConfigured, match="a name must be a text"):
        entries(make_app(beat_schedule={name: {"task": "shop.report", "schedule": 60}}))


def test_periodic_tasks_are_entries() -> None:
    """`add_periodic_task` in Celery's hook adds entries, with options of the call and ours for late firings."""
    app = make_app()

    @app.on_after_configure.connect
    def set_up(sender: Any, **kwargs: Any) -> None:
        report = sender.tasks["shop.report"]
        sender.add_periodic_task(30, report.s(1), name="often", expires=10, catch_up="skip")
        sender.add_periodic_task(crontab(minute=0), report, (2,), {"loud": True}, queue="night")

    found = entries(app)
    assert found["often"].options == {"expires": 10}
    assert found["often"].catch_up is CatchUp.SKIP
    [other] = [found[name] for name in found if name != "often"]
    assert (other.args, other.kwargs, other.queue) == ((2,), {"loud": True}, "night")


def test_periodic_tasks_may_be_added_after_the_app_is_finalized() -> None:
    """`on_after_finalize` is the hook for tasks of other modules, as in Celery."""
    app = make_app()

    @app.on_after_finalize.connect
    def set_up(sender: Any, **kwargs: Any) -> None:
        sender.add_periodic_task(60, sender.tasks["shop.report"].s(), name="late")

    assert list(entries(app)) == ["late"]


def test_two_entries_of_one_name_are_refused() -> None:
    """A second entry would silently replace the first; the same one again, as when a module is run twice, is one."""
    app = make_app()
    task = app.tasks["shop.report"]
    app.add_periodic_task(60, task.s())
    app.add_periodic_task(60, task.s())
    with pytest.raises(ImproperlyConfigured, match="give this one a name of its own"):
        app.add_periodic_task(crontab(minute=0), task.s())


def test_a_canvas_is_no_entry() -> None:
    """A canvas would need ids of its own for every firing; a task that sends it has them."""
    app = make_app()
    app.add_periodic_task(60, group(app.tasks["shop.report"].s(1)), name="all")
    with pytest.raises(ImproperlyConfigured, match="make a task that sends it"):
        entries(app)


@pytest.mark.parametrize("name", [5, None])
def test_names_of_entries_are_texts(name: Any) -> None:
    """A name that is no text is what the error shows, and not the whole schedule."""
    app = Dispatcher("shop", broker="memory://", backend="memory://", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match=rf"a dict with text keys, and has {name} among them"):
        app.conf.beat_schedule = {name: {"task": "shop.report", "schedule": 60, "args": ["secret"]}}
    report = app.task(lambda day=None: day, name="shop.report")
    with pytest.raises(TypeError, match=r"add_periodic_task.*a name must be a text, not 5"):
        app.add_periodic_task(60, report.s(), name=5)
    for given in ({"args": 5}, {"kwargs": [1]}):
        with pytest.raises(TypeError, match="arguments must be a"):
            app.add_periodic_task(60, report.s(), **given)


def test_an_entry_that_expires_at_a_moment_ends_then(caplog: pytest.LogCaptureFixture) -> None:
    """What can run no more is told of when the beat takes it up, and stops no other; a span counts from each run."""
    given = {"task": "shop.report", "schedule": 60, "options": {"expires": datetime(2020, 1, 1, tzinfo=UTC)}}
    found = entry(given)
    assert found.ends == datetime(2020, 1, 1, tzinfo=UTC).timestamp()
    assert found.is_over(found.ends)
    assert not found.is_over(found.ends - 1)
    assert entry({**given, "options": {"expires": 30}}).ends is None
    app = Dispatcher("shop", broker="memory://", backend="memory://", set_as_current=False)
    app.task(lambda: None, name="shop.report")
    app.conf.beat_schedule = {"old": given}
    timetable = Timetable(app)
    timetable.refresh(strict=True)
    assert list(timetable.entries) == ["old"]
    assert "the entry old runs no more" in caplog.text


class EvenHours(schedule):
    """Due at every even hour, whatever its span is."""

    def next_after(self, moment: datetime) -> datetime:
        start = moment.replace(minute=0, second=0, microsecond=0)
        return start + timedelta(hours=2 - start.hour % 2)


class Sooner(schedule):
    """Due so long after whatever moment is asked for."""

    def next_after(self, moment: datetime) -> datetime:
        return moment + self.run_every


class Naive(BaseSchedule):
    """Due at a time of no zone."""

    def next_after(self, moment: datetime) -> datetime:
        return datetime(2030, 1, 1)  # noqa: DTZ001 - that is the point


class Broken(BaseSchedule):
    """Due at no time that it could tell."""

    def next_after(self, moment: datetime) -> datetime:
        raise RuntimeError("no calendar")


def test_a_class_of_ones_own_says_itself_when_it_is_due() -> None:
    """Also where it is made of an interval, which has a grid of its own."""
    found = entry({"task": "shop.report", "schedule": EvenHours(60)})
    noon = datetime(2027, 1, 15, 12, tzinfo=UTC).timestamp()
    assert found.every is None
    assert found.next_after(noon) == noon + 7200
    assert found.due_in_minute(noon) == [noon]
    assert found.due_in_minute(noon + 60) == []
    assert found.latest_due(noon, noon + 5 * 3600) == noon + 4 * 3600


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Sooner(60), r"Sooner.next_after\(moment\) must return the same time from any moment before it"),
        (Naive(), r"must return an aware datetime after the moment"),
        (Broken(), r"raised RuntimeError\('no calendar'\)"),
        (BaseSchedule(), r"define next_after"),
        (crontab(nowfun=lambda: 5), r"nowfun gives no time"),  # type: ignore[arg-type,return-value]
    ],
)
def test_what_no_beat_could_ask_is_refused(given: Any, message: str) -> None:
    """A schedule whose times depend on who asks when would never come, or come twice."""
    with pytest.raises(ImproperlyConfigured, match=message):
        entry({"task": "shop.report", "schedule": given})


def test_the_zone_of_nowfun_is_the_schedules() -> None:
    """As with Celery, where that is how one entry has a zone of its own; a naive time has none."""
    eastern = ZoneInfo("America/New_York")
    found = entry({"task": "shop.report", "schedule": crontab(minute=0, hour=9, nowfun=lambda: datetime.now(eastern))},
                  timezone="Europe/Berlin")  # fmt: skip
    at = datetime(2027, 1, 15, 12, tzinfo=UTC).timestamp()
    assert found.next_after(at) == datetime(2027, 1, 15, 14, tzinfo=UTC).timestamp()
    assert str(found.timezone) == "America/New_York"
    naive = crontab(nowfun=lambda: datetime(2027, 1, 15))  # noqa: DTZ001 - that is the point
    assert str(entry({"task": "shop.report", "schedule": naive}, timezone="Europe/Berlin").timezone) == "Europe/Berlin"
    moment = datetime(2027, 1, 15, 9, 30, tzinfo=eastern)
    assert crontab(minute=0, hour=9, nowfun=lambda: moment).is_due(moment - timedelta(hours=1)) == (True, 84_600.0)


def test_a_schedule_that_breaks_later_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """The error is in the log, once."""

    class Fickle(BaseSchedule):
        broken = False

        def next_after(self, moment: datetime) -> datetime | None:
            if self.broken:
                raise RuntimeError("no calendar")
            return None

    app, fickle = make_app(), Fickle()
    app.conf.beat_schedule = {"odd": {"task": "shop.report", "schedule": fickle}}
    timetable = Timetable(app)
    timetable.refresh(strict=True)
    fickle.broken = True
    assert [timetable.next_time(timetable.entries["odd"], at) for at in (10.0, 20.0)] == [None, None]
    assert caplog.text.count("the entry odd fires no more") == 1


class OfPytz(tzinfo):
    """A zone as pytz has them: of no use to a datetime, but for its name."""

    zone = "Europe/Berlin"


def test_zones_of_pytz_are_taken_by_their_name() -> None:
    """Their offsets as they are would be those of the 19th century."""
    assert str(entry({"task": "shop.report", "schedule": 60}, timezone=OfPytz()).timezone) == "Europe/Berlin"
