"""How the SQS broker receives, beneath botocore: calls, waiting, and several queues."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher.brokers.base import Delivery
from dispatcher.brokers.sqs import SQSBroker
from dispatcher.clock import ManualClock
from dispatcher.exceptions import OperationalError
from tests.unit.aws_wire import SQS_OPTIONS, Refused, Wire, sqs_wire


class Shelf:
    """Messages of queues on the wire; an empty long poll takes its time from the clock."""

    def __init__(self, wire: Wire, clock: ManualClock, **queues: int) -> None:
        self.left = dict(queues)
        self.clock = clock
        wire.on("ReceiveMessage", self.answer)

    def answer(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Hand out what is left."""
        queue = parameters["QueueUrl"].rsplit("/", 1)[1]
        count = min(self.left.get(queue, 0), parameters["MaxNumberOfMessages"])
        if not count:
            self.clock.advance(parameters["WaitTimeSeconds"])
            return {}
        self.left[queue] -= count
        return {"Messages": [message(f"{queue}{n}") for n in range(count)]}


def message(name: str, **attributes: str) -> dict[str, Any]:
    """A message as SQS hands it out."""
    system = {"ApproximateReceiveCount": "1", "SentTimestamp": "1800000000250", **attributes}
    return {"MessageId": name, "ReceiptHandle": f"r-{name}", "Body": "{}", "Attributes": system}


@pytest.fixture
def clock() -> ManualClock:
    """A clock that only the broker and the wire move."""
    return ManualClock()


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Answers for the broker's client."""
    with sqs_wire() as wire:
        yield wire


def names(deliveries: list[Delivery]) -> list[str]:
    """The queues that deliveries came from."""
    return [delivery.queue for delivery in deliveries]


def test_a_delivery_carries_what_sqs_knows(wire: Wire, clock: ManualClock) -> None:
    """Receive count, sending time and group come from the system attributes; the time of the receipt is noted."""
    wire.script("ReceiveMessage", {"Messages": [message("m1", ApproximateReceiveCount="3", MessageGroupId="tenant")]})
    (delivery,) = SQSBroker("sqs://", SQS_OPTIONS, clock).receive(["q"], 1)
    assert delivery.receive_count == 3
    assert (delivery.message_id, delivery.receipt, delivery.body) == ("m1", "r-m1", "{}")
    assert (delivery.sent_at, delivery.group_id) == (1_800_000_000.25, "tenant")
    assert delivery.attributes["received_at"] == clock.time()


def test_a_lease_began_before_the_end_of_a_poll_that_stood_still(wire: Wire, clock: ManualClock) -> None:
    """However late its answer is read; within the time that a poll may take it began when that was answered."""
    broker = SQSBroker("sqs://", SQS_OPTIONS, clock)
    for late, expected in ((0.0, 0.0), (4.0, 4.0), (300.0, 5.0)):

        def answer(parameters: dict[str, Any], late: float = late) -> dict[str, Any]:
            clock.advance(late)
            return {"Messages": [message("m1")]}

        wire.on("ReceiveMessage", answer)
        before = clock.monotonic()
        (delivery,) = broker.receive(["q"], 1, wait=5)
        assert delivery.leased_at == before + expected


def test_a_receive_asks_for_its_lease(wire: Wire, clock: ManualClock) -> None:
    """The option is the lease in whole seconds, rounded up; nothing deprecated is asked for."""
    Shelf(wire, clock)
    SQSBroker("sqs://", {**SQS_OPTIONS, "visibility_timeout": 90.5}, clock).receive(["q"], 3)
    (call,) = wire.of("ReceiveMessage")
    assert (call["VisibilityTimeout"], call["MaxNumberOfMessages"], call["WaitTimeSeconds"]) == (91, 3, 0)
    assert set(call["MessageSystemAttributeNames"]) == {"ApproximateReceiveCount", "SentTimestamp", "MessageGroupId"}
    assert "AttributeNames" not in call


def test_full_batches_are_followed_by_more(wire: Wire, clock: ManualClock) -> None:
    """More than ten take several calls, and a batch that is not full ends them."""
    Shelf(wire, clock, q=23)
    assert len(SQSBroker("sqs://", SQS_OPTIONS, clock).receive(["q"], 100)) == 23
    assert len(wire.calls) == 3


def test_what_was_leased_is_not_lost_to_a_later_error(wire: Wire, clock: ManualClock) -> None:
    """An error of the second call leaves the first ten; the next receive reports it."""
    wire.script("ReceiveMessage", {"Messages": [message(f"m{n}") for n in range(10)]}, Refused("OverLimit", status=403))
    broker = SQSBroker("sqs://", SQS_OPTIONS, clock)
    assert len(broker.receive(["q"], 20)) == 10
    with pytest.raises(OperationalError, match="OverLimit"):
        broker.receive(["q"], 20)


def test_one_queue_is_polled_as_long_as_sqs_allows(wire: Wire, clock: ManualClock) -> None:
    """A wait of 45 s takes three calls, and ends in time."""
    Shelf(wire, clock)
    start = clock.time()
    assert SQSBroker("sqs://", SQS_OPTIONS, clock).receive(["q"], 10, wait=45.0) == []
    assert [call["WaitTimeSeconds"] for call in wire.of("ReceiveMessage")] == [20, 20, 5]
    assert clock.time() - start == pytest.approx(45.0)


def test_less_than_a_second_is_waited_for_here(wire: Wire, clock: ManualClock) -> None:
    """SQS waits whole seconds only; the wait is neither longer nor a busy loop."""
    Shelf(wire, clock)
    start = clock.time()
    assert SQSBroker("sqs://", SQS_OPTIONS, clock).receive(["q"], 10, wait=0.5) == []
    assert [call["WaitTimeSeconds"] for call in wire.of("ReceiveMessage")] == [0, 0]
    assert clock.time() - start == pytest.approx(0.5)


def test_several_queues_take_turns_while_waiting(wire: Wire, clock: ManualClock) -> None:
    """Each is polled for a second, after a look at all of them."""
    Shelf(wire, clock)
    assert SQSBroker("sqs://", SQS_OPTIONS, clock).receive(["a", "b"], 10, wait=4.0) == []
    calls = [(call["QueueUrl"][-1], call["WaitTimeSeconds"]) for call in wire.of("ReceiveMessage")]
    assert calls == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 1), ("b", 1)]


def test_short_polling_pauses_between_looks(wire: Wire, clock: ManualClock) -> None:
    """With wait_time_seconds=0, polling_interval is the pause, as in Celery."""
    Shelf(wire, clock)
    options = {**SQS_OPTIONS, "wait_time_seconds": 0, "polling_interval": 2.0}
    assert SQSBroker("sqs://", options, clock).receive(["q"], 10, wait=6.0) == []
    assert [call["WaitTimeSeconds"] for call in wire.of("ReceiveMessage")] == [0, 0, 0, 0]


def test_queues_are_served_in_order_and_fill_up(wire: Wire, clock: ManualClock) -> None:
    """What the first queue leaves room for comes from the next."""
    Shelf(wire, clock, a=2, b=9)
    assert names(SQSBroker("sqs://", SQS_OPTIONS, clock).receive(["a", "b"], 5)) == ["a", "a", "b", "b", "b"]


def test_no_queue_starves(wire: Wire, clock: ManualClock) -> None:
    """A queue that always fills the receive is passed by every fifth time."""
    Shelf(wire, clock, a=1_000, b=1_000)
    broker = SQSBroker("sqs://", SQS_OPTIONS, clock)
    served = [names(broker.receive(["a", "b"], 1))[0] for _ in range(20)]
    assert served.count("b") == 4
    assert served[:4] == ["a"] * 4
