"""The same work on the AWS emulator, where calls and units are counted and the time that it takes is real."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

from benchmarks.scale.model import QUEUE, Prediction, keep_for, quiet
from benchmarks.scale.sqs import REGION
from benchmarks.scale.workloads import Tasks, Workload
from dispatcher import Dispatcher, aws
from dispatcher.aws_options import client_settings
from dispatcher.lambda_runtime.batches import Worker
from dispatcher.local.emulator import ACCESS_KEY, SECRET_KEY
from dispatcher.local.events import record_of
from dispatcher.quotas import SQS_MAX_BATCH
from tests.emulation.endpoint import AwsEndpoint, unique_name
from tests.emulation.metering import Meter

#: How long messages that were received stay hidden, in seconds: longer than a run takes.
_VISIBILITY: Final = 900
_TIMEOUT: Final = 60.0
#: Seconds that no batch takes: outcomes are kept until it is through.
WHOLE_BATCH: Final = 3_600.0
_POLL: Final = 0.05
#: Calls of a mapping that find nothing depend on when it looks.
_LEFT_OUT: Final = frozenset({"sqs:GetQueueAttributes", "sqs:GetQueueUrl"})


@dataclass(frozen=True)
class Counts:
    """What a piece of work came to."""

    tasks: int
    invocations: int
    requests: int
    write_units: float
    read_units: float
    calls: Mapping[str, int]

    @classmethod
    def of(cls, prediction: Prediction) -> Counts:
        """Return what the model predicts."""
        return cls(
            prediction.tasks, prediction.invocations, prediction.requests, prediction.write_units,
            prediction.read_units, _kept(prediction.calls),
        )  # fmt: skip

    def figures(self) -> dict[str, float]:
        """Return every figure by name."""
        return {
            "invocations": self.invocations,
            "requests of SQS": self.requests,
            "write units": self.write_units,
            "read units": self.read_units,
            **self.calls,
        }


def _kept(calls: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in calls.items() if name not in _LEFT_OUT}


def make_app(endpoint: AwsEndpoint, url: str, table: str) -> Dispatcher:
    """Return an app whose queue and table are an endpoint's."""
    keys = _keys(endpoint)
    return Dispatcher(
        "scale", broker="sqs://", backend=f"dynamodb://{table}", set_as_current=False, worker_hijack_root_logger=False,
        broker_transport_options={**keys, "predefined_queues": {QUEUE: {"url": url}}},
        result_backend_transport_options=keys, metrics_namespace=None,
    )  # fmt: skip


def _keys(endpoint: AwsEndpoint) -> dict[str, str]:
    return {
        "region": REGION, "endpoint_url": endpoint.url, "access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY,
    }  # fmt: skip


def count(endpoint: AwsEndpoint, workload: Workload, tasks: int, seed: int = 1) -> Counts:
    """Send so many tasks to an emulator's queue and work them off by the handler, one batch of ten at a time.

    The outcomes of a batch are written together, so that no count depends on how busy this machine is.
    """
    url = endpoint.create_queue(unique_name("scale"), visibility_timeout=_VISIBILITY)
    table = endpoint.create_table(unique_name("scale"), sort_key="sk")
    app = make_app(endpoint, url, table)
    all_tasks = Tasks(app)
    app.finalize()
    worker = Worker(lambda: app)
    worker.start()
    keep_for(worker, WHOLE_BATCH)
    clients = [aws.client(service, client_settings(service, _keys(endpoint))) for service in ("sqs", "dynamodb")]
    try:
        with quiet(), Meter(*clients) as meter:
            sent = workload.send(all_tasks, tasks, random.Random(seed))
            invocations = _work_off(endpoint, clients[0], url, worker)
    finally:
        worker.close()
    if all_tasks.owed:
        raise RuntimeError(f"{workload.name}: {len(all_tasks.owed)} of {sent} tasks did not run on the emulator")
    return Counts(sent, invocations, meter.sqs_requests, meter.write_units, meter.read_units, _kept(meter.calls))


def _work_off(endpoint: AwsEndpoint, sqs: Any, url: str, worker: Worker) -> int:
    """Be the event source mapping until the queue is empty; return how often the handler was invoked."""
    invocations, arn = 0, endpoint.queue_arn(url)
    while any((depth := endpoint.queue_depth(url)).values()):
        if not depth["visible"]:
            time.sleep(_POLL)
            continue
        messages = sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=SQS_MAX_BATCH, MessageSystemAttributeNames=["All"]
        )["Messages"]
        invocations += 1
        answer = worker({"Records": [record_of(each, arn, REGION) for each in messages]}, _context())
        failed = {each["itemIdentifier"] for each in answer["batchItemFailures"]}
        entries = [
            {"Id": str(number), "ReceiptHandle": each["ReceiptHandle"]}
            for number, each in enumerate(messages)
            if each["MessageId"] not in failed
        ]
        if entries:
            sqs.delete_message_batch(QueueUrl=url, Entries=entries)
    return invocations


def _context() -> SimpleNamespace:
    ends = time.monotonic() + _TIMEOUT
    return SimpleNamespace(
        aws_request_id=str(uuid.uuid4()), function_name="scale", memory_limit_in_mb="512", invoked_function_arn="",
        get_remaining_time_in_millis=lambda: int((ends - time.monotonic()) * 1000),
    )  # fmt: skip


def errors(predicted: Counts, counted: Counts) -> dict[str, tuple[float, float, float]]:
    """Return for each figure what was predicted, what was counted, and the error in percent of the latter."""
    theirs, ours = counted.figures(), predicted.figures()
    compared = {}
    for name in sorted({*ours, *theirs}):
        expected, found = ours.get(name, 0.0), theirs.get(name, 0.0)
        compared[name] = (expected, found, 100.0 * (expected - found) / found if found else float(bool(expected)) * 100)
    return compared
