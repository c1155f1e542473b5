"""What a task in Lambda costs, to the call and the unit: sent in bulk, in batches of ten, counted by the endpoint."""

from collections import Counter
from typing import Any

import pytest

from dispatcher import aws
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
