"""How a retry reaches the queue: by the delivery, or as the next generation of the message."""

from collections.abc import Sequence
from typing import Any

import pytest

from dispatcher.brokers.base import Delivery, Settlement
from dispatcher.consumer.loop import BrokerTransport
from dispatcher.exceptions import OperationalError
from dispatcher.execution.run import Kind
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
    """The changed message carries its count and its generation; the old one is acknowledged after it is sent."""
    bench = Bench()
    result = _retrying(bench, args=lambda self: (self.request.args or [0]) and [self.request.retries + 1]).delay(0)
    [run] = bench.step()
    assert run.settlement is not None
    assert run.settlement.action == "ack"
    assert (bench.record(result.id).gen, bench.record(result.id).retries) == (1, 1)
    [delivery] = bench.receive(wait=1000)
    message = decode(delivery.body)
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
    """A retry that cannot be published is handed back and its run repeated; acknowledged early, it fails."""
    bench = Bench()
    task = _retrying(bench, args=[1])
    early = bench.app.task(name="early", acks_late=False, bind=True)(lambda self: self.retry(countdown=1))
    late, lost = task.delay(), early.delay()
    bench.app.finalize()

    def refuse(message: Any, queue: str, delay: float = 0.0) -> None:
        raise OperationalError("away")

    executor = bench.executor()
    publish, bench.app.publish = bench.app.publish, refuse  # type: ignore[method-assign]
    runs = executor.process(bench.receive())
    executor.close()
    assert [run.outcome.kind for run in runs if run.outcome] == [Kind.HANDED_BACK, Kind.FAILURE]
    bench.app.publish = publish  # type: ignore[method-assign]
    bench.work()
    assert late.get() == [2, 2, 1]
    assert isinstance(lost.result, OperationalError)


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
