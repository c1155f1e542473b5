"""The local beat: what it fires and when, alone and with others, over restarts, outages and changed clocks."""

from __future__ import annotations

import itertools
import random
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from dispatcher.backends.base import Write
from dispatcher.beat import lead
from dispatcher.beat.firing import Firing, read
from dispatcher.beat.service import Beat
from dispatcher.brokers.base import Settlement
from dispatcher.brokers.memory import MemoryBroker
from dispatcher.clock import ManualClock
from dispatcher.exceptions import ImproperlyConfigured, OperationalError
from dispatcher.schedules import crontab, schedule
from tests.unit.bench import Bench

BERLIN = ZoneInfo("Europe/Berlin")
START = datetime(2027, 1, 15, 8, tzinfo=UTC).timestamp()


class Beats(Bench):
    """An app with a task, and beats that are made and moved by hand."""

    def __init__(self, *, now: float = START, conf: Any = None, **entries: dict[str, Any]) -> None:
        super().__init__(ManualClock(now), **(conf or {}))

        @self.app.task(name="shop.report")
        def report() -> None: ...

        self.app.conf.beat_schedule = {name: {"task": "shop.report", **entry} for name, entry in entries.items()}

    def beat(self, **options: Any) -> Beat:
        """Start a beat, which has not looked yet."""
        return Beat(self.app, **options)

    def run(self, *beats: Beat, seconds: float) -> None:
        """Let beats run for a time."""
        end = self.clock.time() + seconds
        while self.clock.time() < end:
            rests = [beat.tick() for beat in beats]
            self.clock.advance(min(max(min(rests), 0.001), end - self.clock.time()))
        for beat in beats:
            beat.tick()

    def fired(self) -> list[Firing]:
        """Take what was fired since the last time, in order."""
        found = []
        for name in self.app.broker.queues():
            while deliveries := self.app.broker.receive([name], 100):
                found += [read(delivery.body) for delivery in deliveries]
                self.app.broker.settle([Settlement(delivery, "ack") for delivery in deliveries])
        return [firing for firing in found if firing is not None]

    def times(self) -> list[float]:
        """Take the times of what was fired, in seconds from the start."""
        return [firing.at - START for firing in self.fired()]


def test_it_fires_at_the_grid_of_the_schedule() -> None:
    """Times do not depend on when a beat began, nor on how late it looked: nothing drifts."""
    beats = Beats(often={"schedule": 20}, hourly={"schedule": crontab(minute=0)})
    beats.clock.advance(7)
    beat = beats.beat()
    beats.run(beat, seconds=60.5)
    beats.clock.advance(3)  # it looks three seconds late
    beats.run(beat, seconds=30)
    assert beats.times() == [20, 40, 60, 80, 100]
    beats.run(beat, seconds=3600)
    assert [firing.at - START for firing in beats.fired() if firing.entry == "hourly"] == [3600]


@pytest.mark.parametrize(
    ("interval", "first"),
    [
        (schedule(7200, relative=True), 7200),
        (schedule(86_400 * 2, relative=True), 86_400 - 8 * 3600),
        (schedule(150), 100),
        (schedule(200, relative=True), 160),
        (timedelta(hours=1), 3600),
    ],
)
def test_intervals_lie_on_a_grid_since_1970(interval: Any, first: float) -> None:
    """Every beat has the same times for an interval: multiples of it, rounded where it is relative."""
    beats = Beats(one={"schedule": interval})
    beat = beats.beat()
    span = interval.seconds if isinstance(interval, schedule) else interval.total_seconds()
    span = 180 if span == 200 else span  # whole minutes, as where a rule fires it
    beats.run(beat, seconds=2 * span + first + 1)
    found = beats.times()
    assert {later - earlier for earlier, later in itertools.pairwise(found)} == {span}
    assert all((START + at) % min(span, 86_400) == 0 for at in found)


class Restless(ManualClock):
    """A clock that goes on whenever it is asked, as real ones do."""

    def time(self) -> float:
        """Return the time, a little later than the last time."""
        self.advance(0.007)
        return super().time()


def test_a_time_that_passes_while_the_beat_works_is_fired() -> None:
    """Between looking for what is due and looking for what comes next, no time gets lost."""
    beats = Beats(often={"schedule": 0.5, "catch_up": "all"})
    clock = beats.clock = beats.app.clock = Restless(START)
    beat = beats.beat()
    beat.tick()
    for number in range(1, 51):
        clock._now = START + 0.5 * number - 0.01  # it is due between the first time it asks and the next
        beat.tick()
        beat.tick()
    assert beats.times() == [0.5 * number for number in range(1, 51)]


def test_one_of_several_fires() -> None:
    """The lease is one beat's; the others fire nothing."""
    beats = Beats(often={"schedule": 10})
    several = [beats.beat() for _ in range(3)]
    beats.run(*several, seconds=95)
    assert beats.times() == [10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert [beat.leads for beat in several] == [True, False, False]


def test_another_takes_over_within_a_lease_and_makes_up_for_what_was_missed() -> None:
    """A beat that is gone without a word is replaced when its lease is past; nothing of a short gap is lost."""
    beats = Beats(often={"schedule": 60, "catch_up": "all"})
    first, second = beats.beat(lease=90), beats.beat(lease=90)
    beats.run(first, second, seconds=150)
    beats.run(second, seconds=300)
    assert beats.times() == [60, 120, 180, 240, 300, 360, 420]
    assert second.leads


def test_a_beat_that_was_held_up_does_not_fire_twice() -> None:
    """A beat that comes back after another took over fires what it thinks is due, as the same tasks, and gives way."""
    beats = Beats(often={"schedule": 60, "catch_up": "all"})
    first, second = beats.beat(), beats.beat()
    beats.run(first, second, seconds=61)
    beats.run(second, seconds=180)
    beats.run(first, second, seconds=59)
    found = beats.fired()
    assert {firing.at - START for firing in found} == {60, 120, 180, 240, 300}
    assert not first.leads
    assert second.leads


def test_a_beat_that_stops_hands_over_at_once() -> None:
    """A stopped beat gives the lease up; the next has not to wait for its end."""
    beats = Beats(often={"schedule": 10})
    first = beats.beat(lease=3600)
    first.tick()
    first.stop()
    first.start()
    second = beats.beat(lease=3600)
    second.tick()
    assert second.leads


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, [5 * 3600]),
        ({"catch_up": "last", "catch_up_within": 60}, []),
        ({"catch_up": "skip"}, []),
        ({"catch_up": "skip", "catch_up_within": 3000}, [5 * 3600]),
        ({"catch_up": "all"}, [3600, 7200, 3 * 3600, 4 * 3600, 5 * 3600]),
        ({"catch_up": "all", "catch_up_within": 9000}, [4 * 3600, 5 * 3600]),
    ],
)
def test_after_an_outage_the_policy_decides(policy: dict[str, Any], expected: list[float]) -> None:
    """What was due while no beat was there is made up for by the last of it, by all or by none, as the entry says."""
    beats = Beats(hourly={"schedule": crontab(minute=0), **policy})
    beats.run(beats.beat(), seconds=60)
    beats.clock.advance(5.5 * 3600)
    beats.run(beats.beat(), seconds=60)
    assert beats.times() == expected


def test_new_entries_have_missed_nothing() -> None:
    """An entry that was not there before begins with its next time, after an outage too and while the beat runs."""
    beats = Beats(daily={"schedule": crontab(minute=0, hour=0)})
    beats.run(beats.beat(), seconds=60)
    beats.clock.advance(86_400)
    beats.fired()
    beats.app.conf.beat_schedule["hourly"] = {"task": "shop.report", "schedule": crontab(minute=0)}
    beat = beats.beat()
    beats.run(beat, seconds=60)
    assert [firing.entry for firing in beats.fired()] == ["daily"]
    beats.app.conf.beat_schedule["often"] = {"task": "shop.report", "schedule": 30}
    beats.run(beat, seconds=65)
    assert {firing.entry for firing in beats.fired()} == {"often"}
    del beats.app.conf.beat_schedule["often"]
    beats.run(beat, seconds=65)
    assert not beats.fired()


def test_an_entry_that_is_broken_at_run_time_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """A mistake in a changed entry is told, and the others go on; at the start it is an error."""
    beats = Beats(good={"schedule": 10}, bad={"schedule": 10})
    beat = beats.beat()
    beats.run(beat, seconds=1)
    beats.app.conf.beat_schedule["bad"] = {"task": "shop.report"}
    beats.run(beat, seconds=10)
    assert {firing.entry for firing in beats.fired()} == {"good"}
    assert "the entry 'bad' has no 'schedule'" in caplog.text
    with pytest.raises(ImproperlyConfigured, match="the entry 'bad' has no 'schedule'"):
        beats.beat()


def test_a_clock_that_is_put_back_swallows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Times that were fired already are fired again, and are the same tasks: by how much it was wrong nobody knows."""
    beats = Beats(often={"schedule": 60})
    beat = beats.beat()
    beats.run(beat, seconds=300)
    beats.fired()
    beats.clock._now -= 200
    beats.run(beat, seconds=30)
    beat.stop()
    beat.start()  # it gives its lease up
    another = beats.beat()
    beats.run(another, seconds=290)
    assert beats.times() == [120, 180, 240, 300, 360, 420]
    assert caplog.text.count("the clock is") == 1
    assert beats.clock.time() == START + 420


@pytest.mark.parametrize("policy", ["last", "all", "skip"])
def test_a_clock_that_was_ahead_for_a_while_loses_nothing(policy: str) -> None:
    """What was due while it was a day ahead, and since, is fired when it is set right, also by another beat."""
    beats = Beats(often={"schedule": 60, "catch_up": policy, "catch_up_within": 600})
    beat = beats.beat()
    beats.run(beat, seconds=61)
    beats.clock._now += 86_400
    beats.run(beat, seconds=120)  # it dies
    beats.clock._now -= 86_400
    beats.fired()
    beats.run(beats.beat(), seconds=40)
    assert 180 in beats.times(), "the lease of the one that was ahead holds nobody up for a day"
    beats.run(beats.beat(), seconds=180)
    assert set(beats.times()) >= {240, 300, 360}


def test_clocks_that_differ_a_little_are_no_news(caplog: pytest.LogCaptureFixture) -> None:
    """A beat whose clock is some seconds behind the one it follows fires what that had fired as the same tasks."""
    beats = Beats(often={"schedule": 10})
    first = beats.beat()
    beats.run(first, seconds=55)
    first.stop()
    first.start()
    beats.clock._now -= 7
    beats.fired()
    beats.run(beats.beat(), seconds=25)
    assert beats.times() == [50, 60, 70]
    assert "the clock is" not in caplog.text


def test_a_clock_that_jumps_ahead_is_an_outage() -> None:
    """What a jump of the clock skips is missed, and made up for as such."""
    beats = Beats(often={"schedule": 60})
    beat = beats.beat()
    beats.run(beat, seconds=61)
    beats.clock.advance(1800)
    beats.run(beat, seconds=1)
    assert beats.times() == [60, 1860]


def test_a_disabled_entry_does_not_fire() -> None:
    """An entry with `enabled` off is left out."""
    beats = Beats(off={"schedule": 10, "enabled": False})
    beats.run(beats.beat(), seconds=60)
    assert not beats.fired()


def test_an_outage_of_the_broker_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be sent is not noted as fired; pauses grow until the broker is back."""
    beats = Beats(often={"schedule": 10, "catch_up": "all"})
    beat = beats.beat()
    beats.run(beat, seconds=5)
    send = MemoryBroker._send
    away = OperationalError("away")

    def fail(*_: Any) -> Any:
        raise away

    try:
        MemoryBroker._send = fail  # type: ignore[method-assign, assignment]
        beats.run(beat, seconds=60)
    finally:
        MemoryBroker._send = send  # type: ignore[method-assign]
    assert "trying again" in caplog.text
    beats.run(beat, seconds=35)
    assert beats.times() == [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]


def test_a_beat_whose_entries_nobody_fires_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """A beat that waits behind one without its entries warns, once: an older release, or another app of that name."""
    beats = Beats(often={"schedule": 60})
    older = beats.beat()
    older.tick()
    beats.app.conf.beat_schedule["new"] = {"task": "shop.report", "schedule": 60}
    newer = beats.beat()
    for _ in range(3):
        newer.tick()
    assert caplog.text.count("does not know the entries new") == 1
    older.stop()
    older.start()
    newer.tick()
    assert newer.leads


@pytest.mark.parametrize("data", ['["",0,0,[]]', '["",0,0,[],0,"more"]', '["",0]', "{}", '["",0,0,7,0]', "no JSON"])
def test_the_row_of_another_release_stops_no_beat(data: str, caplog: pytest.LogCaptureFixture) -> None:
    """What is there with fewer or more fields is read, what cannot be read is written anew."""
    beats = Beats(often={"schedule": 60})
    row = Write(lead.row_id("bench@default"), "BEAT", 0, 0, 1, False, "t", START + 1e6, data=data)
    beats.app.backend.write([row])
    beat = beats.beat()
    beats.run(beat, seconds=120)
    assert beat.leads
    assert beats.fired()
    assert ("cannot be read" in caplog.text) == (not data.startswith('["",0,0,[]'))
    assert lead.read(beats.app.backend, "bench@default").version > 1


def test_the_state_is_one_row() -> None:
    """What is kept does not grow with time: who leads, until when, and up to when all was fired."""
    beats = Beats(often={"schedule": 60})
    beat = beats.beat()
    beats.run(beat, seconds=601)
    row = lead.read(beats.app.backend, "bench@default")
    assert (row.holder, row.upto - START, row.known) == (beat.holder, pytest.approx(600, abs=20), {"often"})


# -- a year


ENTRIES: dict[str, dict[str, Any]] = {
    "daily": {"schedule": crontab(minute=30, hour=2)},
    "quarters": {"schedule": crontab(minute="0,45", hour="*/6")},
    "weekdays": {"schedule": crontab(minute=5, hour=8, day_of_week="mon-fri", day_of_month="1-7")},
    "interval": {"schedule": 5 * 3600},
}


def expected_in(start: float, end: float) -> dict[str, set[float]]:
    """Find the times of `ENTRIES` minute by minute, in Berlin's time, without what is skipped or shown again."""
    found: dict[str, set[float]] = {name: set() for name in ENTRIES}
    at = start - start % 60 + 60
    while at <= end:
        if at % 18_000 == 0:
            found["interval"].add(at)
        wall = datetime.fromtimestamp(at, BERLIN)
        if not wall.fold:
            if (wall.hour, wall.minute) == (2, 30):
                found["daily"].add(at)
            if wall.minute in (0, 45) and wall.hour % 6 == 0:
                found["quarters"].add(at)
            if (wall.hour, wall.minute) == (8, 5) and wall.isoweekday() <= 5 and wall.day <= 7:
                found["weekdays"].add(at)
        at += 60
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_a_year_of_beats_that_die_misses_and_doubles_nothing(seed: int) -> None:
    """Over a year with both clock changes, beats that are killed and days without any, each time is one task."""
    chance = random.Random(seed)
    start = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    entries = {name: {**entry, "catch_up": "all", "catch_up_within": 10 * 86_400} for name, entry in ENTRIES.items()}
    beats = Beats(now=start, conf={"timezone": "Europe/Berlin"}, **entries)
    options = {"lease": 4 * 3600.0, "max_interval": 3 * 3600.0}
    running = [beats.beat(**options), beats.beat(**options)]
    running[0].tick()
    end = start + 366 * 86_400
    while beats.clock.time() < end:
        if chance.random() < 0.02:
            running.pop(chance.randrange(len(running)))  # without a word
            if not running:
                beats.clock.advance(chance.uniform(0, 2 * 86_400))
            while len(running) < 2:
                running.append(beats.beat(**options))
        rest = min([beat.tick() for beat in chance.sample(running, len(running))])
        beats.clock.advance(max(rest, 0.01) + chance.choice([0, 0, 0, 3, 400]))
    beats.run(*running, seconds=86_400)
    found = beats.fired()
    expected = expected_in(start, beats.clock.time())
    for name in ENTRIES:
        assert {firing.at for firing in found if firing.entry == name} == expected[name], name
