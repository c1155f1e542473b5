"""What a queue gives a message: asked once, when it matters, and supposed where nobody says it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher import aws
from dispatcher.aws_options import ClientSettings, Credentials
from dispatcher.brokers.base import Delivery
from dispatcher.brokers.sqs import SQSBroker
from dispatcher.brokers.sqs_budget import ASK_AGAIN
from dispatcher.clock import ManualClock
from tests.unit.aws_wire import Refused, Wire, accept_batch

OPTIONS: dict[str, Any] = {
    "region": "eu-south-2",
    "access_key_id": "AKID",
    "secret_access_key": "secret",
    "queue_urls": lambda queue: f"https://sqs.eu-south-2.amazonaws.com/1/{queue}",
}
DAY = 86_400.0


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still."""
    return ManualClock()


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Queues of 20 receipts and two days; lost ones of 1,000 and nine."""
    wire = Wire(aws.client("sqs", ClientSettings("eu-south-2", None, credentials=Credentials("AKID", "secret"))))

    def attributes(parameters: dict[str, Any]) -> dict[str, Any]:
        lost = parameters["QueueUrl"].endswith("-lost")
        policy = json.dumps({"maxReceiveCount": 1000 if lost else 20, "deadLetterTargetArn": "arn:x"})
        seconds = str(int((9 if lost else 2) * DAY))
        return {"Attributes": {"RedrivePolicy": policy, "MessageRetentionPeriod": seconds}}

    wire.on("GetQueueAttributes", attributes)
    for operation in ("SendMessageBatch", "DeleteMessageBatch", "ChangeMessageVisibilityBatch"):
        wire.on(operation, accept_batch)
    yield wire
    wire.close()


def delivery(clock: ManualClock, queue: str = "q", receipts: int = 1, age: float = 0.0) -> Delivery:
    """A delivery of a queue, received so often and sent so long ago."""
    return Delivery(queue, "{}", "r", receipts, sent_at=clock.time() - age)


def test_a_queue_is_asked_once(wire: Wire, clock: ManualClock) -> None:
    """Both figures in one call, for as long as the process lives."""
    broker = SQSBroker("sqs://", OPTIONS, clock)
    assert broker.budget_spent(delivery(clock, receipts=10)) == 0.5
    assert broker.budget_spent(delivery(clock, age=DAY)) == 0.5
    assert broker.retention_of("q") == 2 * DAY
    [call] = wire.of("GetQueueAttributes")
    assert call["AttributeNames"] == ["RedrivePolicy", "MessageRetentionPeriod"]


def test_options_spare_the_call(wire: Wire, clock: ManualClock) -> None:
    """Both of them; one alone counts too, and the queue says the other."""
    url = "sqs://?max_receive_count=40&message_retention=86400"
    assert SQSBroker(url, OPTIONS, clock).budget_spent(delivery(clock, receipts=10, age=DAY / 2)) == 0.5
    assert wire.calls == []
    half = SQSBroker("sqs://?max_receive_count=40", OPTIONS, clock)
    assert half.budget_spent(delivery(clock, receipts=10)) == 0.25
    assert half.budget_spent(delivery(clock, age=DAY)) == 0.5


def test_a_queue_that_nobody_may_ask(wire: Wire, clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    """The template's figures are supposed, and one line says how to do better."""
    wire.script("GetQueueAttributes", Refused("AccessDenied", status=403))
    broker = SQSBroker("sqs://", OPTIONS, clock)
    assert [broker.budget_spent(delivery(clock, receipts=count)) for count in (50, 100)] == [0.5, 1.0]
    assert broker.budget_spent(delivery(clock, age=2 * DAY)) == 0.5
    assert len(wire.calls) == len(caplog.records) == 1
    assert "options max_receive_count and message_retention" in caplog.text


def test_a_queue_out_of_reach_is_asked_again(wire: Wire, clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    """Some seconds later, not for each message of a batch; what is supposed meanwhile is not kept."""
    broker = SQSBroker("sqs://", {**OPTIONS, "endpoint_url": "http://127.0.0.1:9"}, clock)
    lonely = broker._queues.client("q")
    lonely.meta.config.retries["total_max_attempts"] = 1
    assert [broker.budget_spent(delivery(clock, receipts=count)) for count in (50, 100)] == [0.5, 1.0]
    assert len(caplog.records) == 1
    own = Wire(lonely)
    own.script("GetQueueAttributes", {"Attributes": {"RedrivePolicy": '{"maxReceiveCount": 200}'}})
    assert broker.budget_spent(delivery(clock, receipts=50)) == 0.5
    clock.advance(ASK_AGAIN)
    assert broker.budget_spent(delivery(clock, receipts=50)) == 0.25
    own.close()


def test_a_queue_without_a_redrive_policy_gives_nothing_up(wire: Wire, clock: ManualClock) -> None:
    """However often a message is received; it is only too old one day."""
    wire.script("GetQueueAttributes", {"Attributes": {"MessageRetentionPeriod": "86400"}})
    broker = SQSBroker("sqs://", OPTIONS, clock)
    assert broker.budget_spent(delivery(clock, receipts=10_000)) == 0.0
    assert broker.budget_spent(delivery(clock, age=DAY / 2)) == 0.5


@pytest.mark.parametrize(("receipts", "share"), [(1, 0.0), (20, 0.0), (21, 1 / 980), (510, 0.5)])
def test_a_lost_queue_counts_on_from_the_first(wire: Wire, clock: ManualClock, receipts: int, share: float) -> None:
    """Whether SQS does so or starts anew, a message that has just come has all its time there."""
    broker = SQSBroker("sqs://", OPTIONS, clock)
    assert broker.budget_spent(delivery(clock, "q-lost", receipts)) == pytest.approx(share)


def test_work_that_ends_asks_nothing(wire: Wire, clock: ManualClock) -> None:
    """Only what goes back to its queue can use its budget up."""
    from dispatcher import Dispatcher
    from dispatcher.consumer.loop import BrokerTransport
    from dispatcher.execution.environment import Environment
    from dispatcher.execution.executor import Executor

    app = Dispatcher("b", broker="sqs://", backend="memory://budget", clock=clock, broker_transport_options=OPTIONS,
                     task_default_queue="q", set_as_current=False)  # fmt: skip
    task = app.task(name="t")(lambda: 1)
    result = task.delay()
    body = wire.of("SendMessageBatch")[0]["Entries"][0]["MessageBody"]
    executor = Executor(Environment(app, app.backend, BrokerTransport(app.broker), clock=clock))
    executor.process([Delivery("q", body, "r", 3, "m", clock.time())])
    assert result.get(timeout=0) == 1
    assert wire.operations == ["SendMessageBatch", "DeleteMessageBatch"]
