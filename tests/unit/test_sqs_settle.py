"""How the SQS broker settles, beneath botocore: batches, lost leases, the 12-hour wall, dead letters."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher.brokers.base import Delivery, Settlement
from dispatcher.brokers.sqs import SQSBroker
from dispatcher.clock import ManualClock
from dispatcher.exceptions import OperationalError
from tests.unit.aws_wire import SQS_BATCHES, SQS_OPTIONS, Refused, Wire, accept_batch, fail_entries, sqs_wire


@pytest.fixture
def clock() -> ManualClock:
    """A clock that only the broker moves."""
    return ManualClock()


@pytest.fixture
def broker(clock: ManualClock) -> SQSBroker:
    """A broker that knows every queue's URL."""
    return SQSBroker("sqs://", SQS_OPTIONS, clock)


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Answers for the broker's client: everything succeeds."""
    with sqs_wire(SQS_BATCHES) as wire:
        yield wire


def deliveries(count: int, clock: ManualClock, queue: str = "q", **fields: Any) -> list[Delivery]:
    """Deliveries received now."""
    attributes = {"received_at": clock.time()}
    return [
        Delivery(queue, f'{{"n":{n}}}', f"r{n}", message_id=f"m{n}", attributes=attributes, **fields)
        for n in range(count)
    ]


def entries(wire: Wire, operation: str) -> list[dict[str, Any]]:
    """The entries of all batches of an operation."""
    return list(itertools.chain.from_iterable(call["Entries"] for call in wire.of(operation)))


def test_acks_and_releases_go_ten_at_a_time(broker: SQSBroker, wire: Wire, clock: ManualClock) -> None:
    """Twelve acks and three releases take three calls."""
    twelve, three = deliveries(12, clock), deliveries(3, clock, "p")
    broker.settle([Settlement(d, "ack") for d in twelve] + [Settlement(d, "release", delay=1.5) for d in three])
    assert sorted(wire.operations) == ["ChangeMessageVisibilityBatch", "DeleteMessageBatch", "DeleteMessageBatch"]
    # The two calls run side by side, so either may be noted first.
    handles = [entry["ReceiptHandle"] for entry in entries(wire, "DeleteMessageBatch")]
    assert sorted(handles) == sorted(f"r{n}" for n in range(12))
    assert {entry["VisibilityTimeout"] for entry in entries(wire, "ChangeMessageVisibilityBatch")} == {2}


@pytest.mark.parametrize("action", ["ack", "release"])
@pytest.mark.parametrize(
    "code", ["ReceiptHandleIsInvalid", "AWS.SimpleQueueService.MessageNotInflight", "InvalidParameterValue"]
)
def test_a_lost_lease_is_no_error(broker: SQSBroker, wire: Wire, clock: ManualClock, action: Any, code: str) -> None:
    """Someone else has the message now."""
    for operation in SQS_BATCHES:
        wire.script(operation, fail_entries(code, 0, sender_fault=True))
    broker.settle([Settlement(d, action) for d in deliveries(2, clock)])
    assert len(wire.calls) == 1


def test_passing_failures_are_tried_again(broker: SQSBroker, wire: Wire, clock: ManualClock) -> None:
    """Only the entries concerned go again."""
    wire.script("DeleteMessageBatch", fail_entries("InternalError", 1), {"Failed": []})
    broker.settle([Settlement(d, "ack") for d in deliveries(3, clock)])
    assert [len(call["Entries"]) for call in wire.of("DeleteMessageBatch")] == [3, 1]


def test_lasting_failures_are_raised_after_the_rest_is_done(broker: SQSBroker, wire: Wire, clock: ManualClock) -> None:
    """A queue that cannot be settled keeps no other from it."""

    def answer(parameters: dict[str, Any]) -> dict[str, Any]:
        if parameters["QueueUrl"].endswith("/bad"):
            raise Refused("AccessDenied", status=403)
        return accept_batch(parameters)

    wire.on("DeleteMessageBatch", answer)
    settlements = [Settlement(d, "ack") for d in deliveries(1, clock, "bad") + deliveries(1, clock, "good")]
    with pytest.raises(OperationalError, match="queue bad"):
        broker.settle(settlements)
    assert sorted(call["QueueUrl"].rsplit("/", 1)[1] for call in wire.of("DeleteMessageBatch")) == ["bad", "good"]


# Twelve hours


def test_a_release_stays_within_twelve_hours_of_the_receipt(broker: SQSBroker, wire: Wire, clock: ManualClock) -> None:
    """SQS refuses more; half a minute is kept for clocks that differ."""
    (delivery,) = deliveries(1, clock)
    clock.advance(3_600)
    broker.settle([Settlement(delivery, "release", delay=86_400)])
    broker.extend([delivery], 50_000)
    assert [entry["VisibilityTimeout"] for entry in entries(wire, "ChangeMessageVisibilityBatch")] == [39_570, 39_570]
    clock.advance(50_000)
    broker.settle([Settlement(delivery, "release", delay=10)])
    assert entries(wire, "ChangeMessageVisibilityBatch")[-1]["VisibilityTimeout"] == 0


def test_a_release_that_is_still_too_long_is_halved(broker: SQSBroker, wire: Wire, clock: ManualClock) -> None:
    """Where the receipt is older than known, the message comes early and is released again."""

    def answer(parameters: dict[str, Any]) -> dict[str, Any]:
        (entry,) = parameters["Entries"]
        too_long = entry["VisibilityTimeout"] > 20_000
        return fail_entries("InvalidParameterValue", 0, sender_fault=True) if too_long else accept_batch(parameters)

    wire.on("ChangeMessageVisibilityBatch", answer)
    broker.settle([Settlement(deliveries(1, clock)[0], "release", delay=43_170)])
    assert [entry["VisibilityTimeout"] for entry in entries(wire, "ChangeMessageVisibilityBatch")] == [
        43_170, 21_585, 10_792,
    ]  # fmt: skip


def test_a_receipt_of_unknown_age_is_taken_as_new(broker: SQSBroker, wire: Wire) -> None:
    """Deliveries that Lambda received carry no time of receipt unless someone adds it."""
    broker.settle([Settlement(Delivery("q", "{}", "r"), "release", delay=43_200)])
    assert entries(wire, "ChangeMessageVisibilityBatch")[0]["VisibilityTimeout"] == 43_170


# Dead letters


def test_a_dead_letter_is_copied_and_then_deleted(broker: SQSBroker, wire: Wire, clock: ManualClock) -> None:
    """The lease is renewed first, which shows who has lost it."""
    (delivery,) = deliveries(1, clock)
    broker.settle([Settlement(delivery, "dead", reason={"reason": "rejected", "task": "shop.charge"})])
    assert wire.operations == ["ChangeMessageVisibilityBatch", "SendMessageBatch", "DeleteMessageBatch"]
    (call,) = wire.of("SendMessageBatch")
    assert call["QueueUrl"].endswith("/q-dead")
    (entry,) = call["Entries"]
    assert entry["MessageBody"] == '{"n":0}'
    assert entry["MessageAttributes"] == {
        "reason": {"DataType": "String", "StringValue": "rejected"},
        "task": {"DataType": "String", "StringValue": "shop.charge"},
    }


def test_who_has_lost_the_lease_copies_nothing(broker: SQSBroker, wire: Wire, clock: ManualClock) -> None:
    """The message runs elsewhere."""
    wire.script("ChangeMessageVisibilityBatch", fail_entries("MessageNotInflight", 0, sender_fault=True))
    broker.settle([Settlement(d, "dead") for d in deliveries(2, clock)])
    assert [entry["MessageBody"] for entry in entries(wire, "SendMessageBatch")] == ['{"n":1}']
    assert [entry["ReceiptHandle"] for entry in entries(wire, "DeleteMessageBatch")] == ["r1"]


def test_a_letter_that_was_not_copied_is_not_deleted(broker: SQSBroker, wire: Wire, clock: ManualClock) -> None:
    """It comes again when its lease ends; the error says so."""
    wire.script("SendMessageBatch", fail_entries("InvalidMessageContents", 0, sender_fault=True))
    with pytest.raises(OperationalError, match="not dead-lettered: InvalidMessageContents"):
        broker.settle(
            [Settlement(d, "dead") for d in deliveries(2, clock)] + [Settlement(Delivery("q", "", "r9"), "ack")]
        )
    assert [entry["ReceiptHandle"] for entry in entries(wire, "DeleteMessageBatch")] == ["r1", "r9"]


def test_fifo_letters_keep_their_group(broker: SQSBroker, wire: Wire, clock: ManualClock) -> None:
    """The dead-letter queue of a FIFO queue is one, and a repeated copy is swallowed."""
    (delivery,) = deliveries(1, clock, "o.fifo", group_id="customer-1")
    for _ in range(2):
        broker.settle([Settlement(delivery, "dead")])
    calls = wire.of("SendMessageBatch")
    assert calls[0]["QueueUrl"].endswith("/o-dead.fifo")
    (first,), (second,) = calls[0]["Entries"], calls[1]["Entries"]
    assert first["MessageGroupId"] == "customer-1"
    assert first["MessageDeduplicationId"] == second["MessageDeduplicationId"]


def test_dead_letters_are_shown_newest_first_and_put_back(broker: SQSBroker, wire: Wire, clock: ManualClock) -> None:
    """Looking leases them for a moment; one without attributes was moved by the redrive policy."""
    wire.script(
        "GetQueueAttributes",
        {"Attributes": {"ApproximateNumberOfMessages": "2", "ApproximateNumberOfMessagesNotVisible": "1"}},
    )
    letters = [
        {"MessageId": f"m{n}", "ReceiptHandle": f"r{n}", "Body": str(n), "Attributes": {"SentTimestamp": f"{n}000"}}
        for n in (1, 2)
    ]
    letters[0]["MessageAttributes"] = {"reason": {"DataType": "String", "StringValue": "rejected"}}
    wire.script("ReceiveMessage", {"Messages": letters})
    shown = broker.dead_letters("q", limit=5)
    assert [(letter.body, letter.at, dict(letter.reason)) for letter in shown] == [
        ("2", 2.0, {"reason": "received too often without an outcome"}),
        ("1", 1.0, {"reason": "rejected"}),
    ]
    assert [entry["VisibilityTimeout"] for entry in entries(wire, "ChangeMessageVisibilityBatch")] == [0, 0]
    assert broker.dead_letters("q", limit=1)[0].body == "2"


def test_a_second_purge_within_a_minute_is_a_clear_error(broker: SQSBroker, wire: Wire) -> None:
    """SQS allows one purge in 60 seconds."""
    wire.script("GetQueueAttributes", {"Attributes": {}})
    wire.script("PurgeQueue", Refused("AWS.SimpleQueueService.PurgeQueueInProgress", status=403))
    with pytest.raises(OperationalError, match="'q' was purged less than 60 s ago"):
        broker.purge("q")
