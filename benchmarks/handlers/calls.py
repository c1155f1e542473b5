"""Single tasks and chains on AWS: ``python -m benchmarks.handlers.calls send lean|results|chains COUNT``, or ``work``.

The endpoint is the one that ``AWS_ENDPOINT_URL`` names, and has the queue and the table; it counts the calls. ``send``
sends all tasks by one call; ``work`` works them off in the Lambda handler, and hands back the capacity units this took.
"""

from __future__ import annotations

import os
import sys
from typing import Final

from benchmarks import work
from benchmarks.handlers.mapping import work_off
from benchmarks.outcome import emit
from dispatcher import Dispatcher, aws, chain, group
from dispatcher.aws_options import ClientSettings
from dispatcher.lambda_runtime.batches import Worker
from tests.emulation.metering import Meter

app = Dispatcher("calls", broker="sqs://", backend="dynamodb://calls")
#: Kind -> a task that keeps a record like any, and one that needs none unless it fails.
TASKS: Final = {
    "results": app.task(name="tasks.add")(work.add),
    "lean": app.task(name="tasks.forgotten", ignore_result=True, revocable=False)(work.add),
}


def send(kind: str, count: int) -> None:
    """Send the tasks, single ones or those of chains of ten."""
    if kind == "chains":
        step = TASKS["results"]
        group(chain(step.s(number, 1), *(step.s(1) for _ in range(9))) for number in range(count // 10)).apply_async()
    else:
        app.send_many([TASKS[kind].s(number, 1) for number in range(count)])
    emit(None)


def run() -> None:
    """Work off the queue, whatever is in it."""
    sqs, url = aws.client("sqs", ClientSettings()), os.environ["DISPATCHER_QUEUE_URL_DEFAULT"]
    with Meter(aws.client("dynamodb", ClientSettings())) as meter:
        work_off(Worker(lambda: app), sqs, url, app.conf.task_default_queue)
    emit({"write_units": meter.write_units, "read_units": meter.read_units})


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(sys.argv[2], int(sys.argv[3]))
    else:
        run()
