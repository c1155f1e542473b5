"""Delays from a second to a year on SQS, with EventBridge Scheduler and without, to their end, at a moved clock."""

import itertools
import os
import random
from datetime import UTC, datetime
from typing import Any

import pytest

from dispatcher import chain, chord, group
from dispatcher.beat import entries, stored
from dispatcher.brokers.sqs_delays import name_of
from dispatcher.exceptions import MessageTooLarge, OperationalError, UnsupportedOption
from dispatcher.provision import eventbridge
from dispatcher.schedules import crontab
from tests.fault.simulated_aws import DAY, MakeAws, SimulatedAws

HOUR, YEAR = 3600.0, 365 * DAY
#: ``DISPATCHER_TEST_TIMES`` multiplies the random delays.
TIMES = int(os.environ.get("DISPATCHER_TEST_TIMES", "1"))
KEY = "k:" + "A" * 43 + "="


def journal(aws: SimulatedAws, **options: Any) -> tuple[Any, list[tuple[Any, float]]]:
    """Return a task that notes its argument and by how much it is late, in seconds."""
    ran: list[tuple[Any, float]] = []

    @aws.app.task(name="note", bind=True, **options)
    def note(self: Any, value: Any, due: float | None = None) -> Any:
        at = datetime.fromisoformat(self.request.eta).timestamp() if due is None else due
        ran.append((value, aws.clock.time() - at))
        return value

    return note, ran


def body(aws: SimulatedAws) -> tuple[Any, list[tuple[list[int], float]]]:
    """Return a task for the end of a chord, which notes what it is given, and when."""
    ended: list[tuple[list[int], float]] = []

    @aws.app.task(name="end")
    def end(values: list[int]) -> None:
        ended.append((values, aws.clock.time()))

    return end, ended


@pytest.mark.parametrize("scheduler", [True, False])
def test_any_delay_runs_once_at_its_second(make_aws: MakeAws, scheduler: bool) -> None:
    """From a second to a year (without Scheduler: days), all delivered twice: each runs once, within a second."""
    aws = make_aws(scheduler=scheduler)
    aws.deliveries = aws.firings = 2
    note, ran = journal(aws)
    rng = random.Random(5)
    delays = [1.0, 119.5, 900.0, 900.5, HOUR, YEAR if scheduler else 3 * DAY]
    delays += [round(10 ** rng.uniform(0, 7.49 if scheduler else 5), 2) for _ in range(4 * TIMES)]
    begin = aws.clock.time()
    for delay in delays:
        note.apply_async((delay, begin + delay), countdown=delay)
    assert len(aws.schedules) == (sum(delay > 900 for delay in delays) if scheduler else 0)
    aws.work()
    assert sorted(value for value, _ in ran) == sorted(delays)
    assert all(0 <= late <= 1 for _, late in ran)
    assert not aws.dead


def test_a_message_that_waits_elsewhere_is_sent_once_and_costs_no_retry(make_aws: MakeAws) -> None:
    """A year of waiting is one schedule, one message, one release; early by a minute, it counts as no retry."""
    aws = make_aws(scheduler=True)
    aws.lateness = lambda: 0.0
    note, ran = journal(aws)
    result = note.apply_async((1,), countdown=YEAR)
    aws.calls.clear()
    aws.work()
    assert [value for value, _ in ran] == [1]
    assert 0 <= ran[0][1] <= 1
    assert aws.calls["ChangeMessageVisibilityBatch"] == 1
    assert aws.calls["SendMessageBatch"] == 0
    assert (result.state, result.retries) == ("SUCCESS", 0)


def test_groups_and_many_calls_wait_alike(make_aws: MakeAws) -> None:
    """`send_many`, groups, chains and chords with delays: each part at its time, and what follows when all are done."""
    aws = make_aws(scheduler=True, result_expires=400 * DAY)
    note, ran = journal(aws)
    begin = aws.clock.time()

    def at(days: float, value: int) -> Any:
        return note.s(value, begin + days * DAY).set(countdown=days * DAY)

    aws.app.send_many([at(10, number) for number in range(3)])
    group(at(20, 3), at(21, 4)).delay()
    chain(at(30, 5), note.si(6, begin + 60 * DAY).set(countdown=30 * DAY)).delay()
    aws.work()
    assert sorted(value for value, _ in ran) == list(range(7))
    assert all(0 <= late <= 2 for _, late in ran)


@pytest.mark.parametrize("scheduler", [True, False])
def test_a_chord_waits_for_its_last_member(make_aws: MakeAws, scheduler: bool) -> None:
    """Members that are done weeks before others, past the retention of records, have their results in the body."""
    aws = make_aws(scheduler=scheduler)
    note, _ = journal(aws)
    end, ended = body(aws)
    begin = aws.clock.time()
    inner = chord([note.s(3, begin).set(countdown=6 * DAY), note.s(4, begin)], note.si(5, begin))
    chord([note.s(1, begin), note.s(2, begin).set(countdown=12 * DAY), inner])(end.s())
    aws.work()
    [(values, at)] = ended
    assert values == [1, 2, 5]
    assert 0 <= at - begin - 12 * DAY <= 2


def test_a_chord_waits_for_a_member_that_is_retried_for_long(make_aws: MakeAws) -> None:
    """Those that ended weeks before, and while it waited, are counted and read, in shards that are full and others."""
    aws = make_aws(scheduler=True)
    note, _ = journal(aws)
    end, ended = body(aws)
    begin = aws.clock.time()

    @aws.app.task(name="slow", bind=True)
    def slow(self: Any) -> int:
        if self.request.retries < 2:
            self.retry(countdown=6 * DAY)
        return 1000

    members = [note.s(n, begin) for n in range(104)]
    members[3] = members[3].set(countdown=3600)
    chord([slow.s(), *members])(end.s())
    aws.work()
    [(values, at)] = ended
    assert values == [1000, *range(104)]
    assert 0 <= at - begin - 12 * DAY <= 10


def test_revoked_before_it_is_due(make_aws: MakeAws) -> None:
    """The schedule goes and the message comes at once: REVOKED for whoever waits, by result and by id, chords too."""
    aws = make_aws(scheduler=True)
    note, ran = journal(aws)
    kept = note.apply_async((0,), countdown=30 * DAY)
    by_result = note.apply_async((1,), countdown=30 * DAY)
    by_id = note.apply_async((2,), countdown=30 * DAY)
    body = chord([note.s(3).set(countdown=30 * DAY), note.s(4, aws.clock.time())])(note.s())
    by_result.revoke()
    assert by_result.state == "REVOKED"
    aws.app.control.revoke([by_id.id, body.parent[0].id])
    assert list(aws.schedules) == [name_of(kept.id)]
    begin = aws.clock.time()
    aws.work(until=lambda: not aws.messages)
    assert aws.clock.time() - begin < 60
    assert [by_result.state, by_id.state, body.state] == ["REVOKED", "REVOKED", "FAILURE"]
    assert [value for value, _ in ran] == [4]
    aws.work()
    assert [value for value, _ in ran] == [4, 0]


def test_revoked_where_the_schedule_cannot_be_reached(make_aws: MakeAws) -> None:
    """The flag decides when the message comes after all."""
    aws = make_aws(scheduler=True)
    note, ran = journal(aws)
    result = note.apply_async((1,), countdown=30 * DAY)
    aws.scheduler_away = True
    aws.app.control.revoke(result.id)
    aws.scheduler_away = False
    assert list(aws.schedules) == [name_of(result.id)]
    aws.work()
    assert (result.state, ran) == ("REVOKED", [])


def test_a_call_that_cannot_be_scheduled_raises(make_aws: MakeAws) -> None:
    """Nothing of it is there then; sent again it is, once."""
    aws = make_aws(scheduler=True)
    note, ran = journal(aws)
    aws.scheduler_away = True
    with pytest.raises(OperationalError, match=r"scheduler create_schedule of schedule default/task-"):
        note.apply_async((1,), task_id="one", countdown=DAY)
    aws.scheduler_away = False
    assert not aws.messages
    for _ in range(2):  # the producer does not know whether the first took effect
        note.apply_async((1,), task_id="one", eta=datetime.fromtimestamp(aws.clock.time() + DAY, UTC))
    assert len(aws.schedules) == 1
    aws.work()
    assert [value for value, _ in ran] == [1]


def test_two_messages_of_one_task_are_both_kept(make_aws: MakeAws) -> None:
    """Where the name is taken by another message of the task, this one is kept beside it: it may be meant to run."""
    aws = make_aws(scheduler=True)
    note, ran = journal(aws)
    note.apply_async((1,), task_id="one", countdown=2 * DAY)
    note.apply_async((2,), task_id="one", countdown=DAY)
    assert sorted(name.count("-") for name in aws.schedules) == [1, 2]
    aws.work()
    assert [value for value, _ in ran] == [2]


@pytest.mark.parametrize("how", ["same", "arguments"])
def test_long_retries_wait_elsewhere(make_aws: MakeAws, how: str) -> None:
    """Retries a month apart: the count, the arguments and the second are right, with everything doubled."""
    aws = make_aws(scheduler=True)
    aws.deliveries = aws.firings = 2
    seen: list[tuple[int, int, float]] = []

    @aws.app.task(name="retried", bind=True, max_retries=None)
    def retried(self: Any, page: int) -> None:
        seen.append((self.request.retries, page, aws.clock.time()))
        if self.request.retries < 4:
            raise self.retry(countdown=30 * DAY, **({"args": (page + 1,)} if how == "arguments" else {}))

    result = retried.delay(0)
    aws.work()
    assert [(retries, page) for retries, page, _ in seen] == [(n, n if how == "arguments" else 0) for n in range(5)]
    assert all(0 <= after[2] - before[2] - 30 * DAY <= 2 for before, after in itertools.pairwise(seen))
    assert result.state == "SUCCESS"
    assert len(aws.fired) in (4, 8)  # both deliveries of an attempt with other arguments publish it
    assert not aws.dead


def test_a_retry_that_is_too_large_to_be_scheduled_waits_in_its_queue(make_aws: MakeAws) -> None:
    """A message that SQS takes and Scheduler does not is not given up because its task retries."""
    aws = make_aws(scheduler=True)
    ran: list[float] = []

    @aws.app.task(name="large", bind=True)
    def large(self: Any, text: str) -> int:
        ran.append(aws.clock.time())
        if len(ran) == 1:
            raise self.retry(countdown=10 * DAY)
        return len(text)

    result = large.delay("x" * 300_000)
    aws.work()
    assert result.get(timeout=1) == 300_000
    assert 0 <= ran[1] - ran[0] - 10 * DAY <= 2
    with pytest.raises(MessageTooLarge, match="with this delay; set payload_bucket"):
        large.apply_async(("x" * 300_000,), countdown=HOUR)


def test_large_arguments_wait_in_the_payload_store(make_aws: MakeAws, tmp_path: Any) -> None:
    """What is over the limit of a schedule goes to the store, although SQS would take it."""
    aws = make_aws(scheduler=True, payload_bucket=f"file://{tmp_path}")
    note, ran = journal(aws)
    note.apply_async(("x" * 300_000,), countdown=HOUR)
    assert len(next(iter(aws.schedules.values())).target["Input"]) < 1_000
    aws.work()
    assert [len(value) for value, _ in ran] == [300_000]


def test_signed_messages_wait_a_year(make_aws: MakeAws) -> None:
    """The signature holds until then, also of a text that AWS would fill in; with less age the call is refused."""
    aws = make_aws(scheduler=True, signing_keys=KEY)
    note, ran = journal(aws)
    text = "<aws.scheduler.execution-id> <aws.scheduler.scheduled-time>"
    note.apply_async((text,), countdown=YEAR)
    assert "<aws.scheduler." not in next(iter(aws.schedules.values())).target["Input"]
    aws.work()
    assert [value for value, _ in ran] == [text]
    brief = make_aws(scheduler=True, signing_keys=KEY, signing_max_age=30 * DAY)
    note, _ = journal(brief)
    with pytest.raises(UnsupportedOption, match="raise signing_max_age"):
        note.apply_async((text,), countdown=31 * DAY)


def test_fifo_queues(make_aws: MakeAws) -> None:
    """With Scheduler, groups wait for the last minute of a delayed message only; without, long delays are refused."""
    aws = make_aws(fifo=True, scheduler=True)
    aws.firings = 2
    note, ran = journal(aws)
    begin = aws.clock.time()
    note.apply_async((2, begin + 30 * DAY), countdown=30 * DAY, MessageGroupId="a")
    note.apply_async((1, begin), MessageGroupId="a")
    aws.work(until=lambda: bool(ran))
    assert aws.clock.time() - begin < 60
    aws.work()
    assert [value for value, _ in ran] == [1, 2]
    assert 0 <= ran[1][1] <= 1
    bare = make_aws(fifo=True)
    note, ran = journal(bare)
    with pytest.raises(UnsupportedOption, match=r"holds up its whole group; let EventBridge Scheduler keep it"):
        note.apply_async((1,), countdown=901)
    note.apply_async((1,), countdown=900)
    bare.work()
    assert [value for value, _ in ran] == [1]


def test_what_expires_before_it_is_due_is_revoked_then(make_aws: MakeAws) -> None:
    """It does not wait for its ETA; one in the past is no delay."""
    aws = make_aws(scheduler=True)
    note, ran = journal(aws)
    result = note.apply_async((1,), countdown=30 * DAY, expires=10 * DAY)
    begin = aws.clock.time()
    late = note.apply_async((2, begin), eta=datetime.fromtimestamp(begin - DAY, UTC))
    aws.work()
    assert (result.state, late.ready(), [value for value, _ in ran]) == (
        "REVOKED",
        False,
        [2],
    )  # its result is a day old
    assert 0 <= aws.clock.time() - begin - 10 * DAY <= 2


def test_the_name_of_a_zone_decides_on_naive_etas(make_aws: MakeAws) -> None:
    """A naive ETA is of the zone of the app, as in Celery."""
    aws = make_aws(scheduler=True, timezone="America/New_York")
    note, ran = journal(aws)
    note.apply_async((1,), eta=datetime(2030, 7, 1, 12, 0))  # noqa: DTZ001 - that is the point
    aws.work()
    assert ran[0][0] == 1
    assert 0 <= aws.clock.time() - datetime(2030, 7, 1, 16, 0, tzinfo=UTC).timestamp() <= 1


def test_an_eta_that_no_calendar_has_is_refused(make_aws: MakeAws) -> None:
    """Scheduler writes years with four digits."""
    note, _ = journal(make_aws(scheduler=True, signing_keys=None))
    with pytest.raises(UnsupportedOption, match="after the year 9999"):
        note.apply_async((1,), countdown=3e11)


@pytest.mark.parametrize("scheduler", [True, False])
def test_the_body_of_a_chord_may_be_late(make_aws: MakeAws, scheduler: bool) -> None:
    """What begins weeks after its group still finds the group's results."""
    aws = make_aws(scheduler=scheduler)
    note, _ = journal(aws)
    end, ended = body(aws)
    begin = aws.clock.time()
    chord([note.s(1, begin), note.s(2, begin)])(end.s().set(countdown=12 * DAY))
    aws.work()
    [(values, at)] = ended
    assert values == [1, 2]
    assert 0 <= at - begin - 12 * DAY <= 2


@pytest.mark.parametrize("when", ["before-call", "after-call"])
@pytest.mark.parametrize("how", ["same", "arguments"])
def test_a_worker_that_dies_as_it_schedules_a_retry(make_aws: MakeAws, when: str, how: str) -> None:
    """Before the schedule is made or after it: each retry is run once and at its time."""
    aws = make_aws(scheduler=True)
    seen: list[tuple[int, int, float]] = []
    deaths: list[float] = []

    @aws.app.task(name="retried", bind=True, max_retries=None)
    def retried(self: Any, page: int) -> None:
        seen.append((self.request.retries, page, aws.clock.time()))
        if self.request.retries < 3:
            raise self.retry(countdown=20 * DAY, **({"args": (page + 1,)} if how == "arguments" else {}))

    def die(**_: Any) -> None:
        if not deaths:
            deaths.append(aws.clock.time())
            raise Killed

    result = retried.delay(0)
    events, name = aws.scheduler_events, f"{when}.scheduler.CreateSchedule"
    events.register(name, die)
    aws.work(until=lambda: bool(deaths))
    events.unregister(name, die)
    aws.work()
    assert result.state == "SUCCESS"
    pages = [n if how == "arguments" else 0 for n in range(4)]
    runs = seen if how == "same" else seen[1:]  # what follows a new message comes first: the attempt is run again
    assert [(retries, page) for retries, page, _ in runs] == list(zip(range(4), pages, strict=True))
    assert all(0 <= after[2] - before[2] - 20 * DAY <= 2 for before, after in itertools.pairwise(runs))
    assert not aws.dead


class Killed(BaseException):
    """The worker is dead."""


def test_a_stored_entry_is_read_and_translated_once(make_aws: MakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    """Solar events of a year, say, are not computed twice; what cannot be translated is not stored."""
    aws = make_aws(scheduler=True)

    class Weekly(crontab):
        """A class of one's own."""

    aws.app.task(lambda: None, name="report")
    translate, read = eventbridge.translate, entries.entry_of
    calls: list[str] = []
    monkeypatch.setattr(eventbridge, "translate", lambda *args: (calls.append("translate"), translate(*args))[1])
    monkeypatch.setattr(stored, "entry_of", lambda *args, **more: (calls.append("read"), read(*args, **more))[1])
    aws.app.schedules.put("new", "report", crontab(minute=0))
    assert calls == ["read", "translate"]
    with pytest.raises(eventbridge.Untranslatable, match="decides in Python when it is due"):
        aws.app.schedules.put("other", "report", Weekly(minute=0))
    assert list(aws.app.schedules.list()) == ["new"]
