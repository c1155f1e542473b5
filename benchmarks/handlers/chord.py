"""A chord on AWS, run by the Lambda handler: ``python -m benchmarks.handlers.chord send|work SIZE``.

The endpoint is the one that ``AWS_ENDPOINT_URL`` names, and has the queue and the table. ``send`` sends the chord;
``work`` does what an event source mapping does, batches of ten, until the queue is empty. Either hands back what it
called, the capacity units this took, and its own peak of memory.
"""

from __future__ import annotations

import os
import sys
from typing import Final

from benchmarks import work
from benchmarks.handlers.mapping import work_off
from benchmarks.outcome import emit
from benchmarks.processes import peak_bytes
from dispatcher import Dispatcher, aws, chord
from dispatcher.aws_options import ClientSettings
from dispatcher.lambda_runtime.batches import Worker
from tests.emulation.metering import Meter

TABLE: Final = "chords"

app = Dispatcher("chords", broker="sqs://", backend=f"dynamodb://{TABLE}")
add = app.task(name="tasks.add")(work.add)
total = app.task(name="tasks.total")(work.total)


def send(size: int) -> None:
    """Send a chord of additions."""
    with _meter() as meter:
        chord((add.s(n, 1) for n in range(size)), total.s()).apply_async(task_id="body")
    _report(meter)


def run(size: int) -> None:
    """Work off the queue and check the sum."""
    sqs, url = aws.client("sqs", ClientSettings()), os.environ["DISPATCHER_QUEUE_URL_DEFAULT"]
    worker = Worker(lambda: app)
    with _meter() as meter:
        work_off(worker, sqs, url, app.conf.task_default_queue)
    _report(meter)
    found = app.AsyncResult("body").get(timeout=1)
    if found != size * (size + 1) // 2:
        raise SystemExit(f"error: the sum of {size} members came back as {found!r}")


def _meter() -> Meter:
    return Meter(*(aws.client(service, ClientSettings()) for service in ("sqs", "dynamodb")))


def _report(meter: Meter) -> None:
    emit(
        {
            "calls": dict(meter.calls),
            "write_units": meter.write_units,
            "read_units": meter.read_units,
            "peak": peak_bytes([os.getpid()]),
        }
    )


if __name__ == "__main__":
    {"send": send, "work": run}[sys.argv[1]](int(sys.argv[2]))
