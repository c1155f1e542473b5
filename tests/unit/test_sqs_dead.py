"""Walking, redriving and removing dead letters on SQS, beneath botocore."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from dispatcher.brokers.base import DeadLetter
from dispatcher.brokers.sqs import SQSBroker
from dispatcher.clock import ManualClock
from dispatcher.exceptions import DispatcherWarning, OperationalError, SendError
from tests.unit.aws_wire import SQS_BATCHES, SQS_OPTIONS, Refused, Wire, fail_entries, sqs_wire

NOTHING: dict[str, Any] = {"Messages": []}


@pytest.fixture
def clock() -> ManualClock:
    """A clock that only the broker moves."""
    return ManualClock(1_000.0)


@pytest.fixture
def broker(clock: ManualClock) -> SQSBroker:
    """A broker that knows every queue's URL."""
    return SQSBroker("sqs://", SQS_OPTIONS, clock)


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Answers for the broker's client: three letters, and every batch succeeds."""
    with sqs_wire(SQS_BATCHES) as wire:
        wire.script("GetQueueAttributes", {"Attributes": {"ApproximateNumberOfMessages": "3"}})
        wire.script("ReceiveMessage", letters(1, 2, 3), NOTHING)
        yield wire


def letters(*numbers: int, at: float = 900.0) -> dict[str, Any]:
    """An answer with these letters."""
    return {
        "Messages": [
            {"MessageId": f"m{n}", "ReceiptHandle": f"r{n}", "Body": f"body {n}",
             "Attributes": {"SentTimestamp": str(int(at * 1000))}}
            for n in numbers
        ]
    }  # fmt: skip


def handles(wire: Wire, operation: str) -> list[str]:
    """The receipts of all entries of an operation."""
    return [entry["ReceiptHandle"] for call in wire.of(operation) for entry in call["Entries"]]


def chosen(broker: SQSBroker, *numbers: int, queue: str = "q") -> Generator[list[DeadLetter], None, None]:
    """Walk, and yield these letters of each page."""
    with contextlib.closing(broker.walk_dead_letters(queue)) as pages:
        for page in pages:
            yield [letter for letter in page if letter.message_id in {f"m{n}" for n in numbers}]


def test_a_letter_is_sent_before_it_is_deleted(broker: SQSBroker, wire: Wire) -> None:
    """To the home queue, without its reason; what was not chosen is given free when the walk is over."""
    assert [broker.redrive(page) for page in chosen(broker, 1, 3)] == [2]
    assert wire.operations == [
        "GetQueueAttributes", "ReceiveMessage", "SendMessageBatch", "DeleteMessageBatch", "ReceiveMessage",
        "ChangeMessageVisibilityBatch",
    ]  # fmt: skip
    (sent,) = wire.of("SendMessageBatch")
    assert sent["QueueUrl"].endswith("/q")
    assert [set(entry) for entry in sent["Entries"]] == [{"Id", "MessageBody"}] * 2
    assert wire.of("DeleteMessageBatch")[0]["QueueUrl"].endswith("/q-dead")
    assert handles(wire, "DeleteMessageBatch") == ["r1", "r3"]
    assert handles(wire, "ChangeMessageVisibilityBatch") == ["r2"]


def test_what_is_not_accepted_stays(broker: SQSBroker, wire: Wire) -> None:
    """A send that fails in part: the others are deleted, the error names the rest, which is given free."""
    wire.script("SendMessageBatch", fail_entries("InvalidMessageContents", 1, sender_fault=True))
    with contextlib.closing(chosen(broker, 1, 2, 3)) as pages, pytest.raises(SendError) as caught:
        broker.redrive(next(pages))
    assert list(caught.value.failures) == ["m2"]
    assert handles(wire, "DeleteMessageBatch") == ["r1", "r3"]
    assert handles(wire, "ChangeMessageVisibilityBatch") == ["r2"]


def test_nothing_is_deleted_that_was_not_sent(broker: SQSBroker, wire: Wire) -> None:
    """A queue that is gone leaves all letters where they are."""
    wire.script("SendMessageBatch", Refused("AccessDenied", status=403))
    with contextlib.closing(chosen(broker, 1, 2, 3)) as pages, pytest.raises(OperationalError):
        broker.redrive(next(pages))
    assert not wire.of("DeleteMessageBatch")
    assert handles(wire, "ChangeMessageVisibilityBatch") == ["r1", "r2", "r3"]


def test_a_letter_that_was_sent_and_not_deleted_is_told(broker: SQSBroker, wire: Wire) -> None:
    """It is in both places, which the generation sorts out; a lost lease is no error."""
    wire.script("DeleteMessageBatch", Refused("AccessDenied", status=403))
    with contextlib.closing(chosen(broker, 1)) as pages, pytest.raises(OperationalError):
        broker.redrive(next(pages))
    wire.script("ReceiveMessage", letters(1), NOTHING)
    wire.script("DeleteMessageBatch", fail_entries("ReceiptHandleIsInvalid", 0, sender_fault=True))
    assert [broker.redrive(page) for page in chosen(broker, 1)] == [1]


def test_letters_that_come_meanwhile_are_left_out(broker: SQSBroker, wire: Wire) -> None:
    """A queue that fills as fast as it is walked ends the walk all the same."""
    wire.script("ReceiveMessage", letters(1, 2), letters(3), *(letters(n, at=1_001.0) for n in range(4, 100)))
    assert [len(page) for page in chosen(broker, *range(100))] == [2, 1]
    assert len(wire.of("ReceiveMessage")) == 5
    assert handles(wire, "ChangeMessageVisibilityBatch") == [f"r{n}" for n in range(1, 7)]


def test_a_letter_shown_again_is_not_yielded_again(broker: SQSBroker, wire: Wire) -> None:
    """SQS may deliver twice; the newer receipt counts, and the walk ends."""
    again = letters(1)
    again["Messages"][0]["ReceiptHandle"] = "newer"
    wire.script("ReceiveMessage", letters(1), again)
    assert [len(page) for page in chosen(broker, 1)] == [1]
    assert handles(wire, "ChangeMessageVisibilityBatch") == ["newer"]


def test_too_many_leases_end_a_walk_with_a_warning(broker: SQSBroker, wire: Wire) -> None:
    """What was seen before is acted on."""
    wire.script("ReceiveMessage", letters(1), Refused("AWS.SimpleQueueService.OverLimit", status=403))
    with pytest.warns(DispatcherWarning, match="not all dead letters of q could be seen"):
        assert [broker.remove_dead_letters(page) for page in chosen(broker, 1)] == [1]


@pytest.mark.parametrize(("waiting", "lease"), [(0, 60), (3, 60), (10_000, 500), (5_000_000, 43_200)])
def test_leases_last_as_long_as_the_walk_may(broker: SQSBroker, wire: Wire, waiting: int, lease: int) -> None:
    """By the number of letters, within the 12 hours of SQS; an empty queue is not waited on."""
    wire.script("GetQueueAttributes", {"Attributes": {"ApproximateNumberOfMessages": str(waiting)}})
    wire.script("ReceiveMessage", NOTHING)
    assert list(chosen(broker)) == []
    (call,) = wire.of("ReceiveMessage")
    assert (call["VisibilityTimeout"], call["WaitTimeSeconds"]) == (lease, 1 if waiting else 0)


def test_a_fifo_letter_is_deduplicated_as_itself(broker: SQSBroker, wire: Wire) -> None:
    """Sent twice it comes once; the same body that died again is another letter."""
    ids = []
    for receipts in (letters(1), letters(1), letters(2)):
        receipts["Messages"][0]["Attributes"]["MessageGroupId"] = "g"
        receipts["Messages"][0]["Body"] = "the same"
        wire.script("GetQueueAttributes", {"Attributes": {}})
        wire.script("ReceiveMessage", receipts, NOTHING)
        assert [broker.redrive(page) for page in chosen(broker, 1, 2, queue="q.fifo")] == [1]
        (entry,) = wire.of("SendMessageBatch")[-1]["Entries"]
        assert entry["MessageGroupId"] == "g"
        ids.append(entry["MessageDeduplicationId"])
    assert ids[0] == ids[1] != ids[2]
