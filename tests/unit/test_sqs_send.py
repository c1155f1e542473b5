"""What the SQS broker sends, beneath botocore: batches, partial failures, FIFO and fair queues, refusals."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from dispatcher import aws
from dispatcher.aws_options import ClientSettings, Credentials
from dispatcher.brokers.base import Outgoing
from dispatcher.brokers.sqs import SQSBroker
from dispatcher.clock import ManualClock
from dispatcher.exceptions import ImproperlyConfigured, MessageTooLarge, OperationalError, SendError, UnsupportedOption
from tests.unit.aws_wire import Refused, Wire, accept_batch, fail_entries

MEBIBYTE = 1_048_576
OPTIONS: dict[str, Any] = {
    "region": "eu-west-1",
    "access_key_id": "AKID",
    "secret_access_key": "secret",
    "client-config": {"retries": {"total_max_attempts": 1, "mode": "standard"}},
    "queue_urls": lambda queue: f"https://sqs.eu-west-1.amazonaws.com/1/{queue}",
}


@pytest.fixture
def broker() -> SQSBroker:
    """A broker that knows every queue's URL, on a clock that only it moves."""
    return SQSBroker("sqs://", OPTIONS, ManualClock())


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Answers for that broker's client."""
    settings = ClientSettings(
        "eu-west-1", credentials=Credentials("AKID", "secret"), config=tuple(OPTIONS["client-config"].items())
    )
    wire = Wire(aws.client("sqs", settings))
    wire.on("SendMessageBatch", accept_batch)
    yield wire
    wire.close()


def messages(count: int, queue: str = "orders", **fields: Any) -> list[Outgoing]:
    """Messages with the ids t0, t1 …"""
    return [Outgoing(queue, f'{{"n":{n}}}', f"t{n}", **fields) for n in range(count)]


def entries(wire: Wire) -> list[list[dict[str, Any]]]:
    """The entries of each batch."""
    return [parameters["Entries"] for parameters in wire.of("SendMessageBatch")]


def test_one_message_is_one_call_with_nothing_but_its_body(broker: SQSBroker, wire: Wire) -> None:
    """A known queue URL costs no look-up."""
    broker.send(messages(1))
    assert wire.calls == [
        (
            "SendMessageBatch",
            {
                "QueueUrl": "https://sqs.eu-west-1.amazonaws.com/1/orders",
                "Entries": [{"Id": "0", "MessageBody": '{"n":0}'}],
            },
        )
    ]


def test_messages_go_ten_at_a_time_and_queue_by_queue(broker: SQSBroker, wire: Wire) -> None:
    """25 messages of one queue and 3 of another take four calls."""
    broker.send(messages(25) + messages(3, "mails"))
    sizes = sorted((c["QueueUrl"].rsplit("/", 1)[1], len(c["Entries"])) for c in wire.of("SendMessageBatch"))
    assert sizes == [("mails", 3), ("orders", 5), ("orders", 10), ("orders", 10)]


def test_batches_go_side_by_side(broker: SQSBroker, wire: Wire) -> None:
    """Eight at a time: each of these is answered once eight are under way."""
    together = threading.Barrier(8, timeout=20)

    def answer(parameters: dict[str, Any]) -> dict[str, Any]:
        together.wait()
        return accept_batch(parameters)

    wire.on("SendMessageBatch", answer)
    broker.send(messages(160))
    assert len(entries(wire)) == 16


def test_a_batch_stays_within_a_mebibyte(broker: SQSBroker, wire: Wire) -> None:
    """Bodies count in bytes of UTF-8, over the whole batch."""
    body = "é" * (MEBIBYTE // 6)
    broker.send([Outgoing("orders", body, f"t{n}") for n in range(7)])
    assert sorted(len(batch) for batch in entries(wire)) == [1, 3, 3]


def test_a_body_too_large_in_bytes_is_refused_before_anything_is_sent(broker: SQSBroker, wire: Wire) -> None:
    """Characters beyond ASCII take more than one byte."""
    with pytest.raises(MessageTooLarge, match="t9"):
        broker.send([*messages(2), Outgoing("orders", "é" * (MEBIBYTE // 2 + 1), "t9")])
    assert wire.calls == []


def test_delays_are_whole_seconds_and_never_early(broker: SQSBroker, wire: Wire) -> None:
    """A fraction is rounded up; no delay is not mentioned."""
    delays = (0.0, 0.2, 1.0, 899.5)
    broker.send([Outgoing("orders", "{}", f"t{n}", delay=delay) for n, delay in enumerate(delays)])
    assert [entry.get("DelaySeconds") for entry in entries(wire)[0]] == [None, 1, 1, 900]


@pytest.mark.parametrize("body", ["", '{"a":"\x00"}', "\x1f", "\x7f\x08", "\ud800", "\ufffe"])
def test_a_body_that_sqs_does_not_take_is_refused(broker: SQSBroker, wire: Wire, body: str) -> None:
    """SQS takes the characters of XML 1.0, and at least one."""
    with pytest.raises(UnsupportedOption, match="t9"):
        broker.send([*messages(1), Outgoing("orders", body, "t9")])
    assert wire.calls == []


# Partial failures


def test_a_queue_that_sqs_cannot_have_is_refused_before_anything_is_sent(wire: Wire) -> None:
    """By its name, by one that is taken, or by a URL of another kind; the other messages stay behind too."""
    urls = {"orders": "https://x/1/orders", "fast.fifo": "https://x/1/fast"}
    broker = SQSBroker("sqs://", {**OPTIONS, "queue_urls": urls}, ManualClock())
    broker.check(messages(1, "a.b"))
    for queue, words in (
        ("bad name!", "cannot be the name"),
        ("a-b", r"'a\.b' and 'a-b'"),
        ("fast.fifo", "or neither"),
    ):
        unsent = [*messages(1), *messages(1, queue)]
        for refuses in (broker.check, broker.send):
            with pytest.raises(ImproperlyConfigured, match=words):
                refuses(unsent)
    assert entries(wire) == []


def test_entries_that_failed_are_sent_again_alone(broker: SQSBroker, wire: Wire) -> None:
    """Only what was not accepted goes again, after a pause."""
    before = broker.clock.monotonic()
    wire.script(
        "SendMessageBatch", fail_entries("InternalError", 3, 7), fail_entries("ServiceUnavailable", 7), {"Failed": []}
    )
    broker.send(messages(10))
    assert [[entry["Id"] for entry in batch] for batch in entries(wire)] == [
        [str(n) for n in range(10)],
        ["3", "7"],
        ["7"],
    ]
    assert broker.clock.monotonic() > before


def test_a_throttled_entry_is_sent_again_though_sqs_blames_the_sender(broker: SQSBroker, wire: Wire) -> None:
    """Throttles pass."""
    wire.script("SendMessageBatch", fail_entries("RequestThrottled", 0, sender_fault=True), {"Failed": []})
    broker.send(messages(1))
    assert len(entries(wire)) == 2


def test_what_is_the_senders_fault_is_reported_by_id(broker: SQSBroker, wire: Wire) -> None:
    """It is not sent again, and the others are sent."""
    wire.script("SendMessageBatch", fail_entries("InvalidMessageContents", 1, sender_fault=True))
    with pytest.raises(SendError, match="1 of 3 messages") as caught:
        broker.send(messages(3))
    assert caught.value.failures == {"t1": "InvalidMessageContents: no"}
    assert len(entries(wire)) == 1


def test_entries_that_keep_failing_are_reported(broker: SQSBroker, wire: Wire) -> None:
    """After five tries the sender learns of it."""
    wire.script("SendMessageBatch", fail_entries("InternalError", 0))
    with pytest.raises(SendError) as caught:
        broker.send(messages(2))
    assert list(caught.value.failures) == ["t0"]
    assert len(entries(wire)) == 5


def test_a_batch_that_is_not_answered_is_reported_beside_those_that_are(broker: SQSBroker, wire: Wire) -> None:
    """The error names what may not have been sent, and only that."""

    def answer(parameters: dict[str, Any]) -> dict[str, Any]:
        if parameters["Entries"][0]["Id"] == "10":
            raise Refused("InternalFailure", status=500)
        return accept_batch(parameters)

    wire.on("SendMessageBatch", answer)
    with pytest.raises(SendError) as caught:
        broker.send(messages(30))
    assert sorted(caught.value.failures) == sorted(f"t{n}" for n in range(10, 20))


def test_an_endpoint_out_of_reach_is_no_send_error(broker: SQSBroker, wire: Wire) -> None:
    """Nothing was sent: the error is the connection's, with what to check."""
    wire.script("SendMessageBatch", EndpointConnectionError(endpoint_url="https://x"))
    with pytest.raises(OperationalError, match="check the network") as caught:
        broker.send(messages(30))
    assert not isinstance(caught.value, SendError)


# Groups


def test_fifo_messages_have_a_group_and_a_deduplication_id(broker: SQSBroker, wire: Wire) -> None:
    """What the caller gives is taken; else Celery's group, and an id by the body, which differs by generation."""
    broker.send(
        [
            Outgoing("o.fifo", '{"id":1}', "t1", group_id="customer-1", deduplication_id="t1:0"),
            Outgoing("o.fifo", '{"id":2}', "t2"),
            Outgoing("o.fifo", '{"id":2,"gen":1}', "t2"),
        ]
    )
    (batch,) = entries(wire)
    assert [entry["MessageGroupId"] for entry in batch] == ["customer-1", "default", "default"]
    ids = [entry["MessageDeduplicationId"] for entry in batch]
    assert ids[0] == "t1:0"
    assert len(set(ids)) == 3


def test_batches_of_a_fifo_queue_go_one_after_the_other(broker: SQSBroker, wire: Wire) -> None:
    """Their order is the order of the messages."""
    broker.send(messages(35, "o.fifo"))
    assert [entry["Id"] for batch in entries(wire) for entry in batch] == [str(n) for n in range(35)]


def test_a_fifo_queue_has_no_delay_of_messages(broker: SQSBroker, wire: Wire) -> None:
    """The caller is told, before it sends and when it does."""
    assert broker.longest_delay("o.fifo") == 0
    assert broker.longest_delay("o") == 900
    with pytest.raises(UnsupportedOption, match="delay"):
        broker.send(messages(1, "o.fifo", delay=5.0))


def test_a_standard_queue_takes_a_tenant_and_no_deduplication_id(broker: SQSBroker, wire: Wire) -> None:
    """MessageGroupId makes a queue fair; a deduplication id would be refused by SQS."""
    broker.send(messages(1, group_id="tenant-7", deduplication_id="t0:0"))
    assert entries(wire) == [[{"Id": "0", "MessageBody": '{"n":0}', "MessageGroupId": "tenant-7"}]]


@pytest.mark.parametrize("value", ["", "a b", "é", "x" * 129])
@pytest.mark.parametrize("name", ["group_id", "deduplication_id"])
def test_ids_that_sqs_does_not_take_are_refused(broker: SQSBroker, wire: Wire, name: str, value: str) -> None:
    """They would fail the whole call."""
    with pytest.raises(UnsupportedOption, match=r"Message(Group|Deduplication)Id"):
        broker.send(messages(1, "o.fifo", **{name: value}))
