"""Firings of the beat: what a worker makes of one, when it comes in time, twice, late, unasked for or unsigned."""

from __future__ import annotations

import base64
import dataclasses
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dispatcher import states
from dispatcher.beat.entries import identity
from dispatcher.beat.firing import Firing, firing_id, read, time_text
from dispatcher.brokers.base import Outgoing
from dispatcher.exceptions import OperationalError, UnsupportedOption
from dispatcher.execution import lost
from dispatcher.execution.run import Kind, Run
from dispatcher.message import InvalidMessage, UnsupportedMessage
from dispatcher.schedules import crontab
from tests.unit.bench import Bench

#: when the bench's clock begins: a full hour
START = datetime(2027, 1, 15, 8, tzinfo=UTC)


class Beat(Bench):
    """A bench with a task that notes its calls, and one entry of it."""

    def __init__(self, schedule: Any = 60, task: dict[str, Any] | None = None, conf: Any = None, **entry: Any) -> None:
        super().__init__(**(conf or {}))
        self.calls: list[tuple[Any, ...]] = []
        self.heads: list[dict[str, Any]] = []

        @self.app.task(name="shop.report", bind=True, **(task or {}))
        def report(this: Any, *args: Any, **kwargs: Any) -> str:
            self.calls.append((*args, *kwargs.items()))
            self.heads.append(dict(this.request.headers or {}))
            return "done"

        self.app.conf.beat_schedule = {"nightly": {"task": "shop.report", "schedule": schedule, **entry}}

    def fire(self, at: datetime | str, **more: Any) -> None:
        """Put a firing on the queue as a rule of EventBridge does."""
        at = at if isinstance(at, str) else at.isoformat().replace("+00:00", "Z")
        self.put({"v": 1, "beat": "nightly", "at": at, **more})

    def put(self, body: Any) -> None:
        """Put a body on the queue."""
        self.app.finalize()
        text = body if isinstance(body, str) else json.dumps(body)
        self.app.broker.send([Outgoing(self.app.conf.task_default_queue, text, "x")])

    def advance_to(self, moment: datetime) -> None:
        """Move the clock forward to a moment."""
        self.clock.advance(moment.timestamp() - self.clock.time())

    def kinds(self, runs: list[Run]) -> list[Kind]:
        """Return what became of runs."""
        return [run.outcome.kind for run in runs if run.outcome is not None]

    def status(self, at: datetime) -> str | None:
        """Return the recorded state of the task of a time."""
        task_id = firing_id(identity(self.app), "nightly", at.timestamp())
        record = self.app.backend.read([task_id]).get(task_id)
        return record.status if record is not None else None


def test_a_firing_runs_the_entrys_task() -> None:
    """Task, arguments and options come from the entry; the id is made of name and time; the task can see both."""
    beat = Beat(args=[1], kwargs={"loud": True}, options={"headers": {"mine": 1}, "shadow": "the report"})
    beat.fire(START)
    beat.work()
    assert beat.calls == [(1, ("loud", True))]
    assert beat.heads == [{"mine": 1, "beat_entry": "nightly", "beat_at": "2027-01-15T08:00:00Z"}]
    assert beat.status(START) == states.SUCCESS


@pytest.mark.parametrize("lean", [False, True])
def test_a_double_fire_is_one_task(lean: bool) -> None:
    """Two firings of one minute, seconds apart in it, run once, also where the task keeps no result."""
    beat = Beat(task={"ignore_result": True, "revocable": False} if lean else None)
    beat.fire(START)
    beat.fire(START + timedelta(seconds=1))
    beat.work()
    beat.fire(START)
    assert beat.kinds(beat.work()) == [Kind.REPEATED]
    assert len(beat.calls) == 1


def test_the_id_is_the_same_everywhere() -> None:
    """The id of a firing is part of the wire: it must not change with a release."""
    assert firing_id("bench", "nightly", START.timestamp()) == "3c59f50d-240b-5f4a-8461-18d518c5cec7"
    assert firing_id("bench", "nightly", START.timestamp() + 60) != firing_id("bench", "nightly", START.timestamp())
    assert firing_id("other", "nightly", START.timestamp()) != firing_id("bench", "nightly", START.timestamp())
    assert time_text(START.timestamp() + 0.5) == "2027-01-15T08:00:00.500000Z"


def test_a_superset_is_cut_to_the_schedule() -> None:
    """A timer that fires more often than the entry is due starts nothing in between: day and weekday both count."""
    beat = Beat(crontab(minute=0, hour=8, day_of_month="13,15", day_of_week="fri"))  # the 15th is a Friday
    beat.fire(START)
    beat.fire(START - timedelta(days=2))  # the 13th is none
    assert sorted(beat.kinds(beat.work()), key=str) == [Kind.DROPPED, Kind.SUCCESS]
    assert len(beat.calls) == 1


def test_a_minute_of_an_entry_that_is_due_more_often_fans_out() -> None:
    """Each time of the minute gets a firing of its own, held back until then; fanning out twice changes nothing."""
    beat = Beat(20)
    beat.fire(START)
    beat.fire(START)
    assert beat.kinds(beat.step()) == [Kind.PASSED_ON, Kind.PASSED_ON]
    assert beat.kinds(beat.step()).count(Kind.SUCCESS) == 1  # the first is due at once
    beat.work()
    assert beat.clock.time() >= START.timestamp() + 40
    assert [head["beat_at"][-3:] for head in beat.heads] == ["00Z", "20Z", "40Z"]


def test_an_exact_time_must_be_the_entrys() -> None:
    """A firing for one time of a minute starts nothing where the entry is not due at it."""
    beat = Beat(20)
    beat.fire(START, exact=True)
    beat.fire(START + timedelta(seconds=10), exact=True)
    assert sorted(beat.kinds(beat.work()), key=str) == [Kind.DROPPED, Kind.SUCCESS]


def test_a_firing_that_comes_early_waits() -> None:
    """A worker whose clock is behind does not run a task before its time."""
    beat = Beat()
    beat.fire(START + timedelta(minutes=1))
    assert beat.kinds(beat.step()) == [Kind.HANDED_BACK]
    beat.work()
    assert beat.clock.time() >= START.timestamp() + 60
    assert len(beat.calls) == 1


@pytest.mark.parametrize("hours", [1, 23])
def test_a_beat_whose_clock_is_ahead_loses_nothing(hours: int) -> None:
    """Firings of a beat that is hours ahead wait for their time by the worker's clock, and run once."""
    beat = Beat(30)
    beat.fire(START + timedelta(hours=hours))
    beat.fire(START + timedelta(hours=hours))
    beat.work()
    assert [head["beat_at"][-6:] for head in beat.heads] == ["00:00Z", "00:30Z"]
    assert beat.clock.time() >= START.timestamp() + hours * 3600 + 30
    assert not beat.app.broker.dead_letters("default")


def test_a_tasks_own_expiry_counts_from_the_time_it_was_due() -> None:
    """It does not begin anew with each delivery."""
    beat = Beat(task={"expires": 30}, catch_up="all")
    beat.fire(START)
    beat.clock.advance(31)
    assert beat.kinds(beat.work()) == [Kind.REVOKED]
    beat.fire(START + timedelta(minutes=1))
    beat.advance_to(START + timedelta(seconds=89))
    assert beat.kinds(beat.work()) == [Kind.SUCCESS]


@pytest.mark.parametrize(("ahead", "options"), [(3600, {}), (1, {"countdown": 900})])
def test_a_firing_ahead_of_a_fifo_queue_waits(ahead: int, options: dict[str, Any]) -> None:
    """Where only admission can let a message wait it does so, and a neighbour is none the worse."""
    beat = Beat(schedule=1, conf={"task_default_queue": "shop.fifo"}, options=options)
    beat.app.broker.features = dataclasses.replace(beat.app.broker.features, max_delay=0.0)
    due = START + timedelta(seconds=ahead)
    beat.fire(due, exact=True)
    beat.app.tasks["shop.report"].delay("neighbour")
    runs = beat.step()
    assert len(runs) == 2
    assert beat.calls == [("neighbour",)]
    assert not beat.dead()
    beat.work()
    assert beat.calls == [("neighbour",), ()]
    assert beat.clock.time() >= due.timestamp() + options.get("countdown", 0)


@pytest.mark.parametrize("error", [UnsupportedOption, ZeroDivisionError])
def test_a_firing_whose_call_cannot_be_made_harms_no_neighbour(error: type[Exception]) -> None:
    """An entry that is found to be impossible only when it fires is dead, and the rest of the batch runs."""

    def route(name: str, args: Any, kwargs: Any, options: dict[str, Any], task: Any = None) -> None:
        if "beat_at" in (options.get("headers") or {}):
            raise error("not at this time")

    beat = Beat(conf={"task_routes": [route]})
    beat.fire(START)
    beat.app.tasks["shop.report"].delay("neighbour")
    assert beat.kinds(beat.step()) == [Kind.UNREADABLE, Kind.SUCCESS]
    [letter] = beat.dead()
    assert "not at this time" in json.dumps(letter.reason)


def test_a_firing_whose_later_call_cannot_be_made_goes_back() -> None:
    """Where only the call of the time that makes up for it meets the trouble, the rest of the batch runs, too."""
    broken = [True]

    def route(name: str, args: Any, kwargs: Any, options: dict[str, Any], task: Any = None) -> None:
        if broken and (options.get("headers") or {}).get("beat_at") == "2027-01-15T10:00:00Z":
            raise ZeroDivisionError

    beat = Beat(crontab(minute=0), conf={"task_routes": [route]})
    beat.advance_to(START + timedelta(hours=2))
    beat.fire(START)
    beat.app.tasks["shop.report"].delay("neighbour")
    assert beat.kinds(beat.step()) == [Kind.HANDED_BACK, Kind.SUCCESS]
    broken.clear()
    beat.work()
    assert beat.calls == [("neighbour",), ()]


def test_a_firing_far_ahead_is_dead() -> None:
    """No timer fires days early: the message is not a timer's."""
    beat = Beat()
    beat.fire(START + timedelta(hours=25))
    beat.work()
    [letter] = beat.app.broker.dead_letters("default")
    assert "too far ahead" in str(letter.reason)
    assert not beat.calls


@pytest.mark.parametrize(
    "at",
    ["9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59"],
)
def test_a_time_at_the_end_of_the_calendar_harms_no_neighbour(at: str) -> None:
    """What no zone can show is dead, and what came with it runs."""
    beat = Beat(conf={"timezone": "America/New_York"})
    beat.fire(at)
    beat.fire(START)
    beat.work()
    assert len(beat.calls) == 1
    [letter] = beat.app.broker.dead_letters("default")
    assert "from 1970 to 9998" in str(letter.reason)


def test_apps_of_one_name_have_tasks_of_their_own() -> None:
    """Apps that share a name and a store, not a queue, fire entries of one name each for itself."""
    shop, bank = Beat(conf={"task_default_queue": "shop"}), Beat(conf={"task_default_queue": "bank"})
    assert identity(shop.app) != identity(bank.app)


def test_a_retry_goes_on_as_it_began() -> None:
    """An entry that is changed while its task waits for a retry changes nothing for it."""
    beat = Beat(args=["old"])
    tries: list[Any] = []

    @beat.app.task(name="shop.flaky", bind=True, max_retries=3)
    def flaky(this: Any, value: str) -> None:
        tries.append(value)
        if this.request.retries < 1:
            raise this.retry(countdown=10)

    beat.app.conf.beat_schedule["nightly"]["task"] = "shop.flaky"
    beat.fire(START)
    beat.step()
    beat.app.conf.beat_schedule = {"nightly": {"task": "shop.report", "schedule": 60, "args": ["new"]}}
    beat.work()
    assert tries == ["old", "old"]
    assert not beat.calls


def test_of_late_firings_the_last_makes_up_for_the_others() -> None:
    """A backlog of hourly firings becomes one run, of the hour that was due last."""
    beat = Beat(crontab(minute=0))
    for hour in range(5):
        beat.fire(START + timedelta(hours=hour))
    beat.advance_to(START + timedelta(hours=4, minutes=10))
    beat.work()
    assert [head["beat_at"] for head in beat.heads] == ["2027-01-15T12:00:00Z"]


def test_a_constant_lag_loses_no_more_than_one_firing() -> None:
    """A queue that is always behind by more than the interval still runs the task at its pace."""
    beat = Beat(60)
    for minute in range(30):
        beat.fire(START + timedelta(minutes=minute))
        if minute >= 3:  # three minutes behind
            beat.step()
        beat.clock.advance(60)
    beat.work()
    assert 24 <= len(beat.calls) <= 30
    assert len({head["beat_at"] for head in beat.heads}) == len(beat.calls)


def test_a_timer_that_takes_its_time_loses_nothing() -> None:
    """EventBridge Scheduler takes up to a minute: an entry of every minute runs for each all the same."""
    beat = Beat(crontab())
    late = [5, 64] * 5
    for coming, minute in sorted((60 * minute + late[minute], minute) for minute in range(10)):
        beat.advance_to(START + timedelta(seconds=coming))
        beat.fire(START + timedelta(minutes=minute))
        beat.step()
    beat.work()
    assert len({head["beat_at"] for head in beat.heads}) == len(beat.calls) == 10


def test_all_late_firings_run_where_the_entry_says_so_within_its_bound() -> None:
    """`catch_up="all"` runs each, but none older than its bound."""
    beat = Beat(crontab(minute=0), catch_up="all", catch_up_within=timedelta(hours=3))
    for hour in range(6):
        beat.fire(START + timedelta(hours=hour))
    beat.advance_to(START + timedelta(hours=5, minutes=30))
    beat.work()
    assert sorted(head["beat_at"][11:13] for head in beat.heads) == ["11", "12", "13"]


def test_late_firings_are_skipped_where_the_entry_says_so() -> None:
    """`catch_up="skip"` runs nothing that is later than its bound, and what is on time within it."""
    beat = Beat(crontab(minute=0), catch_up="skip")
    beat.fire(START)
    beat.fire(START + timedelta(hours=1))
    beat.advance_to(START + timedelta(hours=1, seconds=90))
    assert sorted(beat.kinds(beat.work()), key=str) == [Kind.DROPPED, Kind.SUCCESS]
    assert [head["beat_at"][11:13] for head in beat.heads] == ["09"]


def test_what_was_begun_is_not_late() -> None:
    """A retry goes on as the task it is, however much later and whatever was due since."""
    beat = Beat(60, catch_up="skip")
    tries: list[Any] = []

    @beat.app.task(name="shop.flaky", bind=True, max_retries=3)
    def flaky(this: Any) -> str:
        tries.append((this.request.id, this.request.retries))
        if this.request.retries < 2:
            raise this.retry(countdown=3600)
        return "done"

    beat.app.conf.beat_schedule["nightly"]["task"] = "shop.flaky"
    beat.fire(START)
    beat.work()
    assert [retries for _, retries in tries] == [0, 1, 2]
    assert {task_id for task_id, _ in tries} == {firing_id(identity(beat.app), "nightly", START.timestamp())}
    assert beat.status(START) == states.SUCCESS


def test_what_expires_is_counted_from_the_time_it_was_due() -> None:
    """A firing later than the entry's `expires` is recorded as revoked and not run."""
    beat = Beat(crontab(minute=0), options={"expires": 120})
    beat.fire(START)
    beat.clock.advance(180)
    assert beat.kinds(beat.work()) == [Kind.REVOKED]
    assert beat.status(START) == states.REVOKED


def test_a_countdown_is_counted_from_the_time_it_is_due() -> None:
    """An entry's countdown holds each run back by that much."""
    beat = Beat(options={"countdown": 45})
    beat.fire(START)
    beat.work()
    assert beat.clock.time() >= START.timestamp() + 45
    assert len(beat.calls) == 1


@pytest.mark.parametrize("policy", ["last", "all", "skip"])
@pytest.mark.parametrize("countdown", [100, 300, 10 * 86_400])
def test_a_long_countdown_makes_no_firing_late(policy: str, countdown: float) -> None:
    """Each time runs once, so long after it, whatever was due meanwhile; also where the beat fires early and twice."""
    beat = Beat(60, options={"countdown": countdown}, catch_up=policy)
    for number in range(5):
        beat.fire(START + timedelta(minutes=number))
        beat.fire(START + timedelta(minutes=number + 1))
        beat.step()
        beat.advance_to(START + timedelta(minutes=number + 1))
    beat.work(limit=1000)
    assert [head["beat_at"][14:16] for head in beat.heads] == ["00", "01", "02", "03", "04", "05"]
    assert 0 <= beat.clock.time() - START.timestamp() - countdown - 300 < 1


def test_a_paused_entry_starts_nothing() -> None:
    """An entry with `enabled` off drops its firings."""
    beat = Beat(enabled=False)
    beat.fire(START)
    assert beat.kinds(beat.work()) == [Kind.DROPPED]


def test_an_unknown_entry_waits_for_its_release_and_is_dead_after_that() -> None:
    """During a rolling deploy the firing of an entry that this release lacks goes back; after the grace it is dead."""
    beat = Beat()
    beat.put({"v": 1, "beat": "nihgtly", "at": "2027-01-15T08:00:00Z"})
    assert beat.kinds(beat.step()) == [Kind.HANDED_BACK]
    beat.work()
    assert beat.clock.time() >= START.timestamp() + beat.app.conf.unknown_grace / 2
    [letter] = beat.app.broker.dead_letters("default")
    assert "the beat has no entry 'nihgtly' here" in str(letter.reason)
    assert json.loads(letter.body)["beat"] == "nihgtly"


def test_an_entry_that_cannot_work_waits_like_an_unknown_one() -> None:
    """A mistake in an entry is one of this release: another may know better."""
    beat = Beat(args=[1])
    beat.app.conf.beat_schedule["nightly"]["task"] = "shop.gone"
    beat.fire(START)
    assert beat.kinds(beat.step()) == [Kind.HANDED_BACK]


def test_firings_that_cannot_be_read_are_dead() -> None:
    """What looks like a firing and is none is kept with the reason."""
    beat = Beat()
    beat.fire("tomorrow")
    beat.put({"v": 1, "beat": 7, "at": "2027-01-15T08:00:00Z"})
    beat.work()
    reasons = sorted(str(letter.reason) for letter in beat.app.broker.dead_letters("default"))
    assert "'at' of a firing of 'nightly' must be an ISO 8601 time" in reasons[0] + reasons[1]
    assert "'beat', the name of an entry, must be a text" in reasons[0] + reasons[1]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"v":1,"beat":"a","at":"2027-01-15T08:00:00Z"}', Firing("a", START.timestamp())),
        ('{"v":1,"beat":"a","at":"2027-01-15T08:00:00"}', Firing("a", START.timestamp())),
        ('{"v":1,"beat":"a","at":"2027-01-15T09:00:00+01:00","exact":true}', Firing("a", START.timestamp(), True)),
        ('{"v":1,"task":"t"}', None),
        ("nonsense", None),
        ("[1]", None),
    ],
)
def test_bodies_are_read(body: str, expected: Firing | None) -> None:
    """A firing is told from other bodies by its field `beat`; what a firing writes, it reads."""
    found = read(body)
    assert found == expected
    if found is not None:
        assert read(found.body()) == found


def test_a_newer_firing_is_for_a_newer_worker() -> None:
    """A version that is not known is told from a body that nobody could read."""
    with pytest.raises(UnsupportedMessage):
        read('{"v":2,"beat":"a","at":"2027-01-15T08:00:00Z"}')
    with pytest.raises(InvalidMessage):
        read('{"v":1,"beat":"a"}')


KEYS = {"signing_keys": {"k1": base64.b64encode(b"k" * 32).decode()}}


def test_with_signing_keys_firings_need_no_signature_unless_told_so() -> None:
    """EventBridge cannot sign: its firings count, since they name no more than an entry and one of its times."""
    beat = Beat(conf=KEYS)
    beat.fire(START)
    beat.work()
    assert len(beat.calls) == 1
    strict = Beat(conf={**KEYS, "beat_accept_unsigned": False})
    strict.fire(START)
    strict.work()
    assert not strict.calls
    [letter] = strict.app.broker.dead_letters("default")
    assert "not signed" in str(letter.reason)


def test_a_signed_firing_counts_and_an_altered_one_does_not() -> None:
    """What a local beat or a fan-out sends is signed for its queue."""
    beat = Beat(conf={**KEYS, "beat_accept_unsigned": False})
    beat.app.finalize()
    entry = beat.app.beat_entry("nightly")
    assert entry is not None
    beat.app.send_firings([(entry, Firing("nightly", START.timestamp()))])
    [delivery] = beat.receive()
    beat.put(delivery.body.replace("08:00", "07:59"))
    beat.put(delivery.body)
    beat.work()
    assert [head["beat_at"] for head in beat.heads] == ["2027-01-15T08:00:00Z"]


def test_a_firing_without_a_signature_is_not_far_ahead() -> None:
    """Where there are keys, only EventBridge fires without, and its clock is right."""
    beat = Beat(conf=KEYS)
    beat.fire(START + timedelta(minutes=16))
    assert beat.kinds(beat.work()) == [Kind.UNREADABLE]


def test_an_old_firing_without_a_signature_starts_nothing() -> None:
    """Nobody without a key can run what was missed long ago."""
    beat = Beat(crontab(minute=0, hour=8, day_of_month=15), conf={**KEYS, "record_retention": 3600.0})
    beat.clock.advance(86_400 * 2)
    beat.fire(START)
    assert beat.kinds(beat.work()) == [Kind.DROPPED]


def test_the_record_of_the_latest_time_outlives_the_wait_for_the_next() -> None:
    """A firing of a monthly entry that is repeated after weeks is known to be done."""
    beat = Beat(crontab(minute=0, hour=8, day_of_month=15))
    beat.fire(START)
    beat.work()
    beat.clock.advance(86_400 * 25)
    beat.fire(START)
    assert beat.kinds(beat.work()) == [Kind.REPEATED]


def test_a_firing_goes_back_while_the_backend_is_away() -> None:
    """Without its record nobody can say whether a firing is the second of its time: it is not run."""
    beat = Beat(task={"ignore_result": True, "revocable": False})
    beat.fire(START)
    read_rows = beat.app.backend._read

    def away(ids: Any) -> Any:
        raise OperationalError("away")

    beat.app.backend._read = away  # type: ignore[method-assign]
    assert beat.kinds(beat.step()) == [Kind.HANDED_BACK]
    beat.app.backend._read = read_rows  # type: ignore[method-assign]
    beat.work()
    assert len(beat.calls) == 1


def test_a_unique_task_is_claimed_as_by_any_other_call() -> None:
    """The firing of a unique task that still waits or runs is a duplicate of it, and starts none."""
    beat = Beat(task={"unique": True})
    other = beat.app.tasks["shop.report"].apply_async(countdown=300)
    beat.fire(START)
    assert beat.kinds(beat.step()) == [Kind.PASSED_ON]
    beat.work()
    assert len(beat.calls) == 1
    assert other.get() == "done"
    beat.fire(START + timedelta(minutes=6))
    beat.work()
    assert len(beat.calls) == 2


def test_a_firing_that_the_transport_gave_up_goes_home_as_its_task() -> None:
    """What nobody settled is sent to its queue once more, and is dropped where that is too late by now."""
    beat = Beat(catch_up="skip")
    env = beat.executor().env
    beat.fire(START)
    [delivery] = beat.receive()
    delivery.queue = "default-lost"
    [run] = lost.process(env, [delivery])
    assert run.sent_on
    beat.work()
    assert beat.status(START) == states.SUCCESS
    late = START + timedelta(hours=1)
    beat.advance_to(late + timedelta(hours=1))
    beat.fire(late)
    [delivery] = beat.receive()
    delivery.queue = "default-lost"
    assert beat.kinds(lost.process(env, [delivery])) == [Kind.DROPPED]
    assert len(beat.calls) == 1
