"""How a retry reaches the queue: by the delivery, or as the next generation of the message."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from dispatcher.brokers.base import Delivery, Settlement
from dispatcher.consumer.loop import BrokerTransport
from dispatcher.exceptions import OperationalError, UnsupportedOption
from dispatcher.execution import handover, retrying
from dispatcher.execution.run import Kind, ShutdownNow
from dispatcher.message import decode
from tests.unit.bench import Bench


def _retrying(bench: Bench, **retry: Any) -> Any:
    @bench.app.task(name="again", bind=True, max_retries=3)
    def again(self: Any, x: int = 0) -> list[Any]:
        if self.request.retries < 2:
            self.retry(countdown=10, **{key: value(self) if callable(value) else value for key, value in retry.items()})
        return [self.request.gen, self.request.retries, x]

    return again


def test_retry_waits_in_its_delivery() -> None:
    """Without changes the same message is released with the delay: one record, no new message."""
    bench = Bench()
    result = _retrying(bench).delay()
    [run] = bench.step()
    assert run.settlement is not None
    assert (run.settlement.action, run.settlement.delay) == ("release", 10)
    assert (bench.record(result.id).retries, bench.record(result.id).not_before) == (1, bench.clock.time() + 10)
    bench.work()
    assert result.get() == [0, 2, 0]


def test_retry_with_other_arguments_is_a_new_generation() -> None:
    """The changed message carries its count, its generation and the name by which the record hands over to it."""
    bench = Bench()
    result = _retrying(bench, args=lambda self: (self.request.args or [0]) and [self.request.retries + 1]).delay(0)
    [run] = bench.step()
    assert run.settlement is not None
    assert run.settlement.action == "ack"
    stood = bench.record(result.id)
    assert (stood.status, stood.gen, stood.retries) == ("RETRY", 0, 1)
    [delivery] = bench.receive(wait=1000)
    message = decode(delivery.body)
    assert message.handover == handover.successor(stood)
    assert (message.gen, message.retries, message.args, message.id) == (1, 1, (1,), result.id)
    bench.app.broker.settle([Settlement(delivery, "release")])
    bench.work()
    assert result.get() == [2, 2, 2]


class ShortTransport(BrokerTransport):
    """A transport that can hide messages for five seconds only."""

    def longest_release(self, delivery: Delivery) -> float | None:
        return 5.0


def test_retry_beyond_what_the_transport_can_hide_is_published() -> None:
    """A delay over the longest release becomes a new message with that eta, of the same generation."""
    bench = Bench()
    task = _retrying(bench)
    result = task.delay()
    begin = bench.clock.time()
    bench.app.finalize()
    bench.work(transport=ShortTransport(bench.app.broker))
    assert result.get() == [0, 2, 0]
    assert bench.clock.time() == begin + 20


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"queue": 5}, "queue must be a queue's name"),
        ({"priority": 77}, "priority=77"),
        ({"headers": 5}, "headers must be an object"),
        ({"expires": "soon"}, "not an ISO 8601 time"),
        ({"bogus": 1}, "retry() cannot change bogus; it can: args, "),
        ({"task_id": "x"}, "retry() cannot change task_id"),
        ({"kwargs": {1: 2}}, "texts"),
        ({"args": [object()]}, "no wire form"),
        ({"time_limit": -5}, "time_limit must be over 0"),
    ],
)
def test_retry_that_cannot_be_sent_fails_the_task(changes: Any, words: str) -> None:
    """An impossible change is the task's failure, with its name; the neighbour runs."""
    bench = Bench()
    result = _retrying(bench, **changes).delay()
    other = bench.app.task(name="other")(lambda: 1).delay()
    bench.work()
    assert result.state == "FAILURE"
    assert words in str(result.result)
    assert other.get() == 1


def test_new_arguments_that_raise_when_they_are_read_fail_their_task_alone() -> None:
    """A generator of them runs when its task is over; what it raises is that task's, not the batch's."""
    bench = Bench()
    result = _retrying(bench, args=lambda self: ({}[name] for name in "x")).delay()
    bench.app.task(name="neighbour")(lambda: "done").delay()
    failed, neighbour = bench.step()
    assert (failed.outcome and failed.outcome.kind, neighbour.outcome and neighbour.outcome.kind) == (
        Kind.FAILURE, Kind.SUCCESS
    )  # fmt: skip
    assert repr(result.result) == "KeyError('x')"


def test_new_arguments_that_can_be_read_once_arrive() -> None:
    """Also where somebody looks at them before they are sent, for what may not be told of them."""
    bench, got = Bench(), list[str]()

    @bench.app.task(name="secret", bind=True, sensitive=("x",))
    def secret(self: Any, x: str) -> None:
        got.append(x)
        if len(got) == 1:
            self.retry(args=(value for value in ["second"]), countdown=1)

    result = secret.delay("first")
    bench.work()
    assert (got, result.state) == (["first", "second"], "SUCCESS")


def test_retry_may_change_the_rest_of_the_call() -> None:
    """Queue, expiry (in seconds from now), limits and headers of the next run can be other ones."""
    bench = Bench()
    result = _retrying(bench, queue="slow", expires=60, time_limit=5, headers={"n": 1}, shadow="s").delay()
    bench.step()
    [delivery] = bench.receive(["slow"], wait=1000)
    message = decode(delivery.body)
    now = bench.clock.time()
    assert (message.expires, message.time_limit, message.headers) == (now + 50, 5, {"n": 1})
    assert delivery.queue == "slow"
    bench.app.broker.settle([Settlement(delivery, "release")])
    bench.work("default", "slow")
    assert result.get() == [2, 2, 0]


def test_retry_goes_back_while_the_broker_is_away() -> None:
    """A retry that cannot be published is handed back and its run repeated."""
    bench = Bench()
    result = _retrying(bench, args=[1]).delay()
    bench.app.finalize()

    def refuse(*args: Any) -> None:
        raise OperationalError("away")

    executor = bench.executor()
    publish, bench.app.publish = bench.app.publish, refuse  # type: ignore[method-assign]
    runs = executor.process(bench.receive())
    executor.close()
    assert [run.outcome.kind for run in runs if run.outcome] == [Kind.HANDED_BACK]
    bench.app.publish = publish  # type: ignore[method-assign]
    bench.work()
    assert result.get() == [2, 2, 1]


def test_retries_keep_their_settings() -> None:
    """A retry carries serializer, lineage, links and headers of the first call."""
    bench = Bench(accept_content=["json", "msgpack"])
    notes: list[Any] = []
    note = bench.app.task(name="note")(notes.append)
    task = _retrying(bench, args=[b"\x00"])
    result = task.apply_async((1,), serializer="msgpack", headers={"h": 1}, link=note.s(), countdown=5)
    bench.clock.advance(5)
    bench.step()
    [delivery] = bench.receive(wait=1000)
    message = decode(delivery.body)
    assert message.packed is not None
    assert (message.packed["enc"], message.headers, len(message.link)) == ("msgpack", {"h": 1}, 1)
    bench.app.broker.settle([Settlement(delivery, "release")])
    bench.work()
    assert result.get() == notes[0] == [2, 2, b"\x00"]


@pytest.mark.parametrize(("step", "turn"), [("write", 1), ("send", 2)])
def test_a_cold_shutdown_does_not_publish_a_retry_again(step: str, turn: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was published for an attempt, recorded or not yet, goes on: no second message is sent that never runs."""
    bench = Bench()
    ran: list[Any] = []
    task, note = _retrying(bench, args=[7]), bench.app.task(name="note")(ran.append)
    bench.app.task(name="quick")(lambda: "quick").apply_async(link=note.s())
    result = task.delay()
    executor = bench.executor()
    for name in ("again", "quick"):
        executor.env.note_duration(name, 0.0)  # so that both end together
    target: Any = bench.app.backend if step == "write" else bench.app.broker
    act, calls = getattr(target, step), list[Any]()

    def strike(items: Any) -> Any:
        calls.append(items)
        if len(calls) == turn:
            raise ShutdownNow
        return act(items)

    monkeypatch.setattr(target, step, strike)
    with pytest.raises(ShutdownNow):
        executor.process(bench.receive())
    executor.close()
    assert bench.left() == 2, "the next generation, and what follows the other task"
    bench.work()
    assert (result.get(), ran) == ([2, 2, 7], ["quick"])


def test_settlements_come_last() -> None:
    """The record of a retry is written before the message becomes visible again."""
    bench = Bench()
    result = _retrying(bench).delay()
    order: list[Any] = []

    class Watching(BrokerTransport):
        def settle(self, settlements: Sequence[Settlement]) -> None:
            order.append(bench.record(result.id).status)
            super().settle(settlements)

    bench.app.finalize()
    bench.step(transport=Watching(bench.app.broker))
    assert order == ["RETRY"]


class Copies:
    """Two deliveries of one attempt that run at the same time: the first asks for other arguments, the second returns.

    ``ran`` has the arguments of every run, in their order.
    """

    def __init__(self) -> None:
        self.bench = Bench()
        self.ran: list[int] = []

        @self.bench.app.task(name="racing", bind=True, max_retries=3)
        def racing(task: Any, x: int) -> int:
            self.ran.append(x)
            if len(self.ran) == 1:
                task.retry(args=(10,), countdown=5)
            return x

        self.result = racing.delay(0)
        self.executor = self.bench.executor()
        [delivery] = self.bench.receive()
        copy = dataclasses.replace(delivery, message_id="copy", receipt=(0, 0))
        self.first, self.second = self.executor.prepare([delivery]), self.executor.prepare([copy])
        for run in (*self.first, *self.second):
            self.executor.execute(run)


def test_a_hand_over_that_is_recorded_first_ends_the_other_copy() -> None:
    """The copy that returned comes too late: the message with the new arguments runs, once."""
    copies = Copies()
    copies.executor.finish(copies.first)
    copies.executor.finish(copies.second)
    assert copies.second[0].outcome is not None
    assert copies.second[0].outcome.kind is Kind.SUPERSEDED
    copies.bench.work()
    assert (copies.result.get(), copies.ran) == (10, [0, 0, 10])


def test_a_published_successor_is_void_after_another_outcome() -> None:
    """The copy that returned was recorded first: what the other one published is on the queue, and never runs."""
    copies = Copies()
    copies.executor.finish(copies.second)
    copies.executor.finish(copies.first)
    assert copies.result.get() == 0
    copies.bench.work()
    assert (copies.result.get(), copies.ran) == (0, [0, 0])


def test_of_two_successors_the_recorded_one_runs() -> None:
    """Both copies publish other arguments; the record names one of them, whichever is delivered first."""
    for turn in (1, -1):
        bench = Bench()
        ran: list[int] = []

        @bench.app.task(name="racing", bind=True, max_retries=3)
        def racing(task: Any, x: int, ran: list[int] = ran) -> int:
            ran.append(x)
            if x == 0:
                task.retry(args=(len(ran) * 10,))
            return x

        result = racing.delay(0)
        executor = bench.executor()
        [delivery] = bench.receive()
        copy = dataclasses.replace(delivery, message_id="copy", receipt=(0, 0))
        runs = [executor.prepare([each])[0] for each in (delivery, copy)]
        for run in runs:
            executor.execute(run)
        for run in runs:
            executor.finish([run])
        for successor in bench.receive()[::turn]:
            executor.process([successor])
        bench.work()
        assert (result.get(), ran) == (10, [0, 0, 10])
        executor.close()


def test_a_successor_waits_for_its_publisher() -> None:
    """Delivered before the record names it, the new message rests and does not run."""
    bench = Bench()
    again = bench.app.task(name="again", bind=True)(lambda self, x: x or self.retry(args=(1,), countdown=0))
    result = again.delay(0)
    executor = bench.executor()
    [run] = executor.prepare(bench.receive())
    executor.execute(run)
    retrying.publish_retries(executor.env, [run])
    [early] = bench.step()
    assert early.outcome is not None
    assert (early.outcome.kind, early.outcome.delay) == (Kind.HANDED_BACK, 0.1)
    executor.finish([run])
    executor.close()
    bench.work()
    assert result.get() == 1


def test_a_successor_whose_record_was_lost_takes_over() -> None:
    """A store that lost the record does not leave the new message waiting for ever."""
    bench = Bench()
    result = _retrying(bench, args=[1]).delay()
    bench.step()
    bench.app.backend.forget([result.id])
    bench.work(limit=500)
    assert result.get() == [2, 2, 1]


def test_a_state_of_its_own_keeps_a_successor_known() -> None:
    """A run of a later generation that records a state and dies is delivered again, not taken for a stranger."""
    bench = Bench()
    deaths = [True]

    @bench.app.task(name="progress", bind=True)
    def progress(self: Any, x: int) -> int:
        if not self.request.gen:
            self.retry(args=(1,), countdown=0)
        self.update_state(state="PROGRESS", meta=x)
        if deaths:
            deaths.clear()
            raise ShutdownNow
        return x

    result = progress.delay(0)
    bench.step()
    with pytest.raises(ShutdownNow):
        bench.step()
    assert result.state == "PROGRESS"
    bench.work()
    assert result.get() == 1


@pytest.mark.parametrize("countdown", [1e12, 10**400])
def test_a_retry_that_no_calendar_has_fails_the_task(countdown: float) -> None:
    """It would never come, and whoever waits would wait for ever."""
    bench = Bench()

    @bench.app.task(name="t", bind=True)
    def late(self: Any) -> None:
        self.retry(countdown=countdown)

    result = late.delay()
    bench.work()
    with pytest.raises((UnsupportedOption, OverflowError), match=r"after the year 9999|too large"):
        result.get(timeout=0)
