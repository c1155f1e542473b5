"""What becomes of messages that SQS gave up: decided by the record, and never a healthy one among the dead letters."""

from __future__ import annotations

import dataclasses
import json
import uuid
from typing import Any

import pytest

from dispatcher import chord, signature
from dispatcher.backends.base import Write
from dispatcher.brokers.base import Delivery
from dispatcher.exceptions import ChordError, NotRegistered, OperationalError, TaskRevokedError, WorkerLostError
from dispatcher.execution import lost, recording, settling
from dispatcher.execution.executor import Executor
from dispatcher.message import Message
from tests.unit.lossy import DAY, LOST, QUEUE, Fleet

KEY = "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eA=="


@pytest.fixture
def fleet() -> Fleet:
    """Workers, a queue, its lost queue and its dead letters."""
    return Fleet()


def letter(fleet: Fleet) -> tuple[dict[str, Any], dict[str, str]]:
    """Return body and reason of the only dead letter."""
    [found] = fleet.broker.dead_letters(LOST)
    return json.loads(found.body), dict(found.reason)


# One message, by its record


def test_a_message_that_never_started_goes_home(fleet: Fleet) -> None:
    """It is sent to its queue once more, as it is, and runs there."""
    result = fleet.task().apply_async((1,), headers={"tenant": "a"})
    delivery = fleet.lose()
    [run] = lost.process(fleet.env, [delivery])
    assert run.sent_on
    assert fleet.counts() == [1, 0, 0]
    [again] = fleet.broker.receive([QUEUE], 1)
    assert again.receive_count == 1
    body = json.loads(again.body)
    assert (body["id"], body.get("gen", 0), body["headers"]["tenant"]) == (result.id, 0, "a")
    Executor(fleet.env).process([again])
    assert (result.get(timeout=0), fleet.runs) == (1, 1)


def test_a_message_that_waits_goes_home_with_its_wait(fleet: Fleet) -> None:
    """Whether for its ETA or for a retry; the retries that are recorded go with it."""
    waiting = fleet.task(autoretry_for=(ValueError,), default_retry_delay=2 * DAY, max_retries=3)
    result = waiting.delay(2)
    Executor(fleet.env).process(fleet.broker.receive([QUEUE], 1))
    record = fleet.backend.read([result.id])[result.id]
    [body] = [entry.body for entry in fleet.broker._store.queue(QUEUE).entries.values()]
    [run] = lost.process(fleet.env, [Delivery(LOST, body, (0, 0), 101, sent_at=fleet.clock.time())])
    assert run.sent_on
    fleet.live(lambda delivery: "run", result.ready)
    assert fleet.clock.time() >= (record.not_before or 0)
    assert (result.get(), result.retries, fleet.runs) == (2, 1, 2)


def test_a_finished_task_repeats_its_callbacks_and_nothing_else(fleet: Fleet) -> None:
    """A worker died between record and settlement, and the message was throttled from then on."""
    fleet.task()
    follow = fleet.app.task(name="follow")(lambda value: value * 10)
    result = fleet.app.tasks["work"].apply_async((1,), link=follow.s())
    executor = Executor(fleet.env)
    [run] = executor.prepare(fleet.broker.receive([QUEUE], 1))
    executor.execute(run)
    recording.record(executor.env, [run])
    lost.process(fleet.env, [fleet.lose()])
    assert fleet.counts() == [1, 0, 0]
    followed = fleet.app.AsyncResult(settling.derived_id(result.id, "link/0"))
    fleet.live(lambda delivery: "run", followed.ready)
    assert (followed.get(), fleet.runs) == (10, 1)


def test_a_failure_that_was_not_buried_is(fleet: Fleet) -> None:
    """The record says FAILURE, but its worker died before it could move the message."""
    fleet.task()
    result = fleet.app.tasks["work"].apply_async((5,))
    executor = Executor(fleet.env)
    [run] = executor.prepare(fleet.broker.receive([QUEUE], 1))
    executor.execute(run)
    recording.record(executor.env, [run])
    lost.process(fleet.env, [fleet.lose()])
    body, reason = letter(fleet)
    assert (body["gen"], reason["reason"], reason["exception"]) == (1, "failed", "ValueError: 1")
    assert result.state == "FAILURE"


def test_a_started_task_without_an_outcome_fails(fleet: Fleet) -> None:
    """Its get() raises what is known, its error callbacks run, and the letter can be redriven."""
    fleet.task()
    errors: list[str] = []
    fleet.app.task(name="on_error")(errors.append)
    errback = signature("on_error", app=fleet.app)
    result = fleet.app.tasks["work"].apply_async((1,), link_error=errback, retry=False)
    fleet.broker.receive([QUEUE], 1)
    fleet.clock.advance(361)
    fleet.crash(fleet.broker.receive([QUEUE], 1)[0])
    started = fleet.clock.time()
    delivery = fleet.lose()
    assert fleet.clock.time() > started + 900
    lost.process(fleet.env, [delivery])
    with pytest.raises(WorkerLostError, match=r"received 10\d times, started, the last time at 20.*and never ended"):
        result.get(timeout=0)
    body, reason = letter(fleet)
    assert (body["id"], body["gen"]) == (result.id, 1)
    assert reason["exception"].startswith("WorkerLostError: work[")
    assert (reason["task"], reason["task_id"], reason["retries"]) == ("work", result.id, "0")
    Executor(fleet.env).process(fleet.broker.receive([QUEUE], 5))
    assert errors == [result.id]
    [redriven] = fleet.broker.dead_letters(LOST)
    Executor(fleet.env).process([Delivery(QUEUE, redriven.body, (0, 0), sent_at=fleet.clock.time())])
    assert fleet.app.AsyncResult(result.id).get(timeout=0) == 2


@pytest.mark.parametrize(("limit", "longest"), [(None, 900.0), (100.0, 900.0), (5000.0, 5000.0)])
def test_a_task_that_may_still_run_is_left_alone(fleet: Fleet, limit: float | None, longest: float) -> None:
    """Until its last start is as long ago as a run can take; an outcome in the meantime counts."""
    fleet.task(time_limit=limit)
    result = fleet.app.tasks["work"].apply_async((1,))
    delivery = fleet.lose()
    start = Write(
        result.id, "PENDING", 0, 0, 0, final=False, token="x", starts=1, started_at=fleet.clock.time() - 10,
        expires_at=fleet.clock.time() + DAY,
    )  # fmt: skip
    fleet.backend.write([start])
    [run] = lost.process(fleet.env, [delivery])
    assert run.settlement is not None
    assert (run.settlement.action, run.settlement.delay) == ("release", pytest.approx(longest - 10))
    assert fleet.counts() == [0, 1, 0]
    fleet.clock.advance(longest - 11)
    assert fleet.read_lost() == []
    fleet.clock.advance(2)
    fleet.read_lost()
    assert isinstance(result.result, WorkerLostError)


def test_a_start_without_a_time_counts(fleet: Fleet) -> None:
    """Records of an earlier release have none."""
    result = fleet.task().delay()
    delivery = fleet.lose()
    start = Write(result.id, "PENDING", 0, 0, 0, final=False, token="x", starts=1, expires_at=2e9)
    fleet.backend.write([start])
    lost.process(fleet.env, [delivery])
    assert isinstance(result.result, WorkerLostError)


def test_a_revoked_or_expired_message_ends(fleet: Fleet) -> None:
    """It is not sent home only to be dropped there."""
    revoked, expired = fleet.task().delay(), fleet.app.tasks["work"].apply_async((1,), expires=60)
    revoked.revoke()
    fleet.lose()
    fleet.clock.advance(361)
    lost.process(fleet.env, fleet.broker.receive([LOST], 10))
    assert (revoked.state, expired.state) == ("REVOKED", "REVOKED")
    assert fleet.counts() == [0, 0, 0]
    with pytest.raises(TaskRevokedError):
        expired.get(timeout=0)


def test_a_message_overtaken_by_a_newer_generation_is_dropped(fleet: Fleet) -> None:
    """A redriven copy has taken over."""
    result = fleet.task().delay()
    delivery = fleet.lose()
    fleet.backend.write([Write(result.id, "PENDING", 1, 0, 0, final=False, token="x", expires_at=2e9)])
    lost.process(fleet.env, [delivery])
    assert fleet.counts() == [0, 0, 0]


def test_an_unreadable_message_is_a_dead_letter(fleet: Fleet) -> None:
    """As it came, with the reason; where its id can be read, whoever waits is told."""
    fleet.task()
    bodies = ["no JSON", json.dumps({"v": 1, "id": "known", "task": "work", "args": 7})]
    lost.process(fleet.env, [Delivery(LOST, body, (0, 0), 101, "m", sent_at=0.0) for body in bodies])
    assert fleet.backend.read(["known"])["known"].status == "FAILURE"
    with pytest.raises(Exception, match="args"):
        fleet.app.AsyncResult("known").get(timeout=0)


def test_an_unknown_task_fails_as_not_registered(fleet: Fleet) -> None:
    """Its grace is long over when it is lost."""
    result = fleet.app.send_task("elsewhere")
    lost.process(fleet.env, [fleet.lose()])
    with pytest.raises(NotRegistered, match="elsewhere"):
        result.get(timeout=0)
    assert letter(fleet)[1]["reason"] == "undecodable"


def test_two_copies_in_a_batch_are_decided_one_after_the_other(fleet: Fleet) -> None:
    """Both sent home they could run at the same time."""
    fleet.task().delay()
    delivery = fleet.lose()
    runs = lost.process(fleet.env, [delivery, dataclasses.replace(delivery, message_id="copy")])
    assert [run.sent_on for run in runs] == [True, False]


def test_signed_messages_verify_and_dead_letters_are_signed() -> None:
    """The home of a lost message is the queue it was sent to, also when it goes on from there."""
    fleet = Fleet(signing_keys={"k": KEY})
    result = fleet.task().delay()
    lost.process(fleet.env, [fleet.lose()])
    fleet.live(lambda delivery: "run", result.ready)
    assert result.get() == 1
    crashed = fleet.app.tasks["work"].delay()
    fleet.backend.write([Write(crashed.id, "PENDING", 0, 0, 0, final=False, token="x", starts=1, expires_at=2e9)])
    lost.process(fleet.env, [fleet.lose()])
    [found] = fleet.broker.dead_letters(LOST)
    assert fleet.app.read_message(Delivery(QUEUE, found.body, None)).gen == 1


def test_where_the_message_cannot_be_sent_it_waits(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost for good, and nothing spins."""

    def refuse(*args: Any) -> None:
        raise OperationalError("away")

    fleet.task().delay()
    delivery = fleet.lose()
    monkeypatch.setattr(fleet.app, "publish", refuse)
    [run] = lost.process(fleet.env, [delivery])
    assert run.settlement is not None
    assert (run.settlement.action, run.settlement.delay > 10) == ("release", True)


# A healthy message never reaches the dead letters: days of simulated time


def test_throttled_for_days_then_run(fleet: Fleet) -> None:
    """A function without a place for a message gives it up again and again; in the end it runs once."""
    result = fleet.task().delay()
    end = fleet.clock.time() + 3.5 * DAY
    fleet.live(lambda delivery: "throttle" if fleet.clock.time() < end else "run", result.ready)
    assert (result.get(), fleet.runs) == (1, 1)
    assert fleet.rounds >= 5
    assert fleet.counts() == [0, 0, 0]


def test_throttled_between_retries_without_end(fleet: Fleet) -> None:
    """However often it is lost, a message whose task does run now and then is never given up."""
    task = fleet.task(autoretry_for=(ValueError,), max_retries=None, default_retry_delay=60)
    result = task.delay(15)
    turns: dict[str, int] = {}

    def fate(delivery: Delivery) -> str:
        # Each run is followed by more receipts without one than its queue allows.
        turns["n"] = turns.get("n", 0) + 1
        return "run" if turns["n"] % 130 == 0 else "throttle"

    fleet.live(fate, result.ready, cycles=100_000)
    assert (result.get(), result.retries, fleet.runs) == (15, 14, 15)
    assert fleet.rounds > lost.MAX_ROUNDS
    assert fleet.counts() == [0, 0, 0]


@pytest.mark.parametrize("hours", [1, 24, 5 * 24])
def test_without_a_backend_lost_messages_go_round(fleet: Fleet, hours: int) -> None:
    """Records cannot be read for an hour, a day, or longer than a queue keeps messages: all run in the end, once."""
    results = [fleet.task().delay() for _ in range(3)]
    fleet.lose()
    fleet.backend.deaf = True
    end = fleet.clock.time() + hours * 3600
    fleet.live(lambda delivery: "run", lambda: fleet.clock.time() > end, cycles=200_000)
    assert fleet.runs == 0
    fleet.backend.deaf = False
    fleet.live(lambda delivery: "run", lambda: all(result.ready() for result in results), cycles=100_000)
    assert sorted(result.get() for result in results) == [1, 2, 3]
    fleet.live(lambda delivery: "run", lambda: fleet.counts() == [0, 0, 0])


def test_batches_of_long_tasks_handed_back_for_days(fleet: Fleet) -> None:
    """A message that never fits into its batch goes back at once, each time a receipt, and loses neither."""
    result = fleet.task().delay()
    end = fleet.clock.time() + 8 * DAY
    executor = Executor(fleet.env)
    executor.env.time_left = lambda: 0.0  # nothing but the first of a batch fits
    other = fleet.app.task(name="long")(lambda: None)
    handed_back = 0
    while fleet.clock.time() < end:
        for delivery in fleet.broker.receive([QUEUE], 1):
            body = fleet.app.sealed_body(_message(other), QUEUE)
            filler = Delivery(QUEUE, body, (0, 0), sent_at=fleet.clock.time(), message_id="long")
            executor.process([filler, delivery])
            handed_back += 1
        fleet.read_lost()
        fleet.clock.advance(240.0)
    assert (fleet.runs, handed_back > 1000) == (0, True)
    fleet.live(lambda delivery: "run", result.ready)
    assert (result.get(), fleet.counts()) == (1, [0, 0, 0])


def _message(task: Any) -> Message:
    return Message(id=str(uuid.uuid4()), task=task.name)


# Nobody waits for ever


def test_a_task_whose_function_dies_each_time_fails(fleet: Fleet) -> None:
    """Whether its crashes are counted by the workers or its message is lost first."""
    results = [fleet.task().delay() for _ in range(2)]
    fleet.live(lambda delivery: "crash", lambda: all(result.ready() for result in results))
    assert all(isinstance(result.result, WorkerLostError) for result in results)


def test_a_function_that_dies_before_any_start_fails_in_the_end(fleet: Fleet) -> None:
    """It looks as if it were throttled; after a thousand receipts without any sign of life its task fails."""
    result = fleet.task().delay()
    fleet.live(lambda delivery: "throttle", result.ready)
    with pytest.raises(WorkerLostError, match="lost 11 times in a row and never started"):
        result.get()
    assert letter(fleet)[0]["gen"] == 1
    assert fleet.runs == 0


def test_a_message_that_was_found_starts_its_count_anew(fleet: Fleet) -> None:
    """A worker that renews a message had it in hand, so that it is none that kills."""
    result = fleet.task().apply_async((1,), countdown=30 * DAY)
    lost.process(fleet.env, [fleet.lose()])
    [home] = fleet.broker._store.queue(QUEUE).entries.values()
    assert json.loads(home.body)["headers"] == {"dispatcher.lost": 1}
    headers: list[Any] = []

    def fate(delivery: Delivery) -> str:
        headers.append(json.loads(delivery.body).get("headers"))
        return "run"

    fleet.live(fate, result.ready, step=3600)
    assert headers[-1] is None
    assert (result.get(), fleet.runs) == (1, 1)


# What other parts need


def test_a_lost_unique_task_gives_its_key_up(fleet: Fleet) -> None:
    """Whoever is to run next under that key does not wait for a message that is dead."""
    task = fleet.task(unique=True)
    result = task.delay()
    fleet.broker.receive([QUEUE], 1)
    fleet.clock.advance(361)
    fleet.crash(fleet.broker.receive([QUEUE], 1)[0])
    lost.process(fleet.env, [fleet.lose()])
    with pytest.raises(WorkerLostError):
        result.get(timeout=0)
    following = task.delay()
    assert following.id != result.id
    fleet.live(lambda delivery: "run", following.ready)
    assert following.get() == 2


def test_a_lost_message_that_waits_for_its_slot_goes_home() -> None:
    """A rate limit has deferred it; its slot is kept."""
    fleet = Fleet(rate_limit_scope="global")
    task = fleet.task(rate_limit="1/h")
    results = [task.delay() for _ in range(3)]
    Executor(fleet.env).process(fleet.broker.receive([QUEUE], 3))
    bodies = [entry.body for entry in fleet.broker._store.queue(QUEUE).entries.values()]
    runs = lost.process(
        fleet.env, [Delivery(LOST, body, (0, n), 101, str(n), fleet.clock.time()) for n, body in enumerate(bodies)]
    )
    assert [run.sent_on for run in runs] == [True, True]
    fleet.live(lambda delivery: "run", lambda: all(result.ready() for result in results))
    assert fleet.runs == 3


def test_a_lost_member_fails_its_chord(fleet: Fleet) -> None:
    """Whoever waits for the body is told, as for any other failure of a member."""
    fleet.task()
    fleet.app.task(name="collect")(sum)
    work, collect = fleet.app.tasks["work"], fleet.app.tasks["collect"]
    body = chord([work.s(1), work.s(1)], app=fleet.app)(collect.s())
    doomed = body.parent.results[1].id
    fleet.backend.write([Write(doomed, "PENDING", 0, 0, 0, final=False, token="x", starts=1, expires_at=2e9)])
    fleet.lose()
    fleet.clock.advance(361)
    fleet.live(lambda delivery: "run", body.ready)
    with pytest.raises(ChordError, match="WorkerLostError"):
        body.get()
