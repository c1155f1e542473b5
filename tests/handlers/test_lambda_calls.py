"""What a task in Lambda costs, to the call and the unit: sent in bulk, in batches of ten, counted by the endpoint."""

from collections import Counter
from typing import Any

import pytest

from dispatcher import aws, chain, group
from dispatcher.aws_options import ClientSettings
from tests.emulation.metering import Meter
from tests.handlers.lab import Context, Lab, checked

TASKS = 40
BATCHES = TASKS // 10

QUEUE_CALLS = dict.fromkeys(("SendMessageBatch", "ReceiveMessage", "DeleteMessageBatch"), BATCHES)
TABLE_CALLS = dict.fromkeys(("BatchGetItem", "BatchExecuteStatement"), BATCHES)


@pytest.mark.parametrize(
    ("options", "calls", "units"),
    [
        ({}, QUEUE_CALLS | TABLE_CALLS, (1, 1)),
        ({"ignore_result": True, "revocable": False}, QUEUE_CALLS, (0, 0)),
    ],
    ids=["with a result", "lean"],
)
def test_calls_and_units_of_a_task(
    lab: Lab, options: dict[str, Any], calls: dict[str, int], units: tuple[int, int]
) -> None:
    """0.5 calls, a read and a write unit with a result; 0.3 calls and no unit if lean; the mapping's included."""
    task = lab.task(lambda x: x, name="lab.same", **options)
    lab.worker.start()
    environment = lab.worker._environment
    assert environment is not None
    environment._executor.flush_after = 3600.0  # however slow this machine is: outcomes are written once a batch
    with Meter(aws.client("dynamodb", ClientSettings())) as meter:
        before = lab.aws.calls()
        lab.app.send_many([task.s(number) for number in range(TASKS)])
        for _ in range(BATCHES):
            event = lab.take()
            assert not checked(lab.worker(event, Context()), event)
            entries = [{"Id": each["messageId"], "ReceiptHandle": each["receiptHandle"]} for each in event["Records"]]
            lab.sqs.delete_message_batch(QueueUrl=lab.url, Entries=entries)
        counted = lab.aws.calls() - before
    assert Counter({name.partition(".")[2]: count for name, count in counted.items()}) == calls
    assert (meter.read_units / TASKS, meter.write_units / TASKS) == units


def test_calls_of_chains(lab: Lab) -> None:
    """A step of a chain costs what a task does that was sent in bulk: what a batch sends on goes in one call."""
    step, caught = lab.task(lambda x: x + 1, name="lab.step"), lab.task(lambda task_id: None, name="lab.caught")
    failing = lab.task(lambda x: 1 // 0, name="lab.failing", throws=(ZeroDivisionError,))
    lab.worker.start()
    environment = lab.worker._environment
    assert environment is not None
    environment._executor.flush_after = 3600.0
    before = lab.aws.calls()
    chains = [chain(step.s(n), step.s().set(link=step.s()), failing.s().on_error(caught.s())) for n in range(20)]
    group(chains).apply_async()
    invocations = 0
    while (event := lab.take())["Records"]:
        assert not checked(lab.worker(event, Context()), event)
        entries = [{"Id": each["messageId"], "ReceiptHandle": each["receiptHandle"]} for each in event["Records"]]
        lab.sqs.delete_message_batch(QueueUrl=lab.url, Entries=entries)
        invocations += 1
    counted = Counter({name.partition(".")[2]: count for name, count in (lab.aws.calls() - before).items()})
    assert invocations == 10  # three steps, a link and an error callback of 20 chains
    calls = dict.fromkeys(("DeleteMessageBatch", "BatchGetItem", "BatchExecuteStatement"), 10)
    # Sent by the group 2, by first steps 2, by second steps, which links follow as well, 4; the third ones come beside
    # the links, so that a batch has five error callbacks: 4.
    assert counted == {**calls, "SendMessageBatch": 12, "ReceiveMessage": 11}


@pytest.mark.parametrize("wish", [{"countdown": 100_000.0}, {"args": (2,)}], ids=["renewed", "other arguments"])
def test_calls_of_retries_that_are_sent_anew(lab: Lab, wish: dict[str, Any]) -> None:
    """Those of a batch that cannot wait in their deliveries are sent by one call."""

    def again(self: Any, value: int) -> None:
        raise self.retry(**{"countdown": 60.0, **wish})

    task = lab.task(again, name="lab.again", bind=True)
    lab.worker.start()
    environment = lab.worker._environment
    assert environment is not None
    environment._executor.flush_after = 3600.0
    environment._executor.env.durations["lab.again"] = 0.0
    lab.app.send_many([task.s(number) for number in range(10)])
    before = lab.aws.calls()
    event = lab.take()
    assert not checked(lab.worker(event, Context()), event)
    counted = {name.partition(".")[2]: count for name, count in (lab.aws.calls() - before).items()}
    counted.pop("GetQueueAttributes", None)  # asked once in the life of an environment
    assert counted == dict.fromkeys(("ReceiveMessage", "BatchGetItem", "SendMessageBatch", "BatchExecuteStatement"), 1)
    assert lab.depth() == {"visible": 0, "in_flight": 10, "delayed": 10}
