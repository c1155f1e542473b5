"""How long a queue really takes to drain: an event source mapping around Lambda's own runtime client."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Final

from benchmarks.environment import ROOT
from benchmarks.scale import facts
from benchmarks.scale.emulated import make_app
from benchmarks.scale.model import QUEUE, Setup, predict
from benchmarks.scale.sqs import REGION
from benchmarks.scale.workloads import Send, Tasks, Workload
from dispatcher.local.functions import Environments, MappedFunction, Place
from dispatcher.local.mapping import EventSourceMapping
from dispatcher.quotas import SQS_MAX_BATCH
from tests.emulation.endpoint import AwsEndpoint, unique_name
from tests.emulation.environments import lambda_python

_PATIENCE: Final = 120.0
_POLL: Final = 0.02
_TIMEOUT: Final = 60


def drain(endpoint: AwsEndpoint, tasks: int, seconds: float, concurrency: int) -> float:
    """Return how long a function with so many warm environments takes for so many tasks of such a duration."""
    url = endpoint.create_queue(unique_name("scale"), visibility_timeout=6 * _TIMEOUT)
    table = endpoint.create_table(unique_name("scale"), sort_key="sk")
    sender = Tasks(make_app(endpoint, url, table))
    function = MappedFunction(
        name="scale", handler="handlers.worker.handler", timeout=_TIMEOUT, memory=512, queue_url=url,
        queue_arn=endpoint.queue_arn(url), concurrency=concurrency,
        environment={
            **endpoint.env(), "DISPATCHER_APP": "benchmarks.scale.deployed:app", "SCALE_TABLE": table,
            f"DISPATCHER_QUEUE_URL_{QUEUE.upper()}": url,
        },
    )  # fmt: skip
    place = Place(ROOT, str(lambda_python()), ROOT, REGION, {}, "")
    lines: list[str] = []
    with ExitStack() as stack:
        environments = Environments(place.function(function), "", lines.append)
        mapping = EventSourceMapping(
            endpoint.client("sqs"), function, environments, region=REGION, complain=lines.append,
            failed=lambda invocation: lines.append(f"an invocation failed: {invocation}"),
        )  # fmt: skip
        stack.callback(mapping.join)
        stack.callback(environments.close)
        stack.callback(mapping.stop)
        mapping.start()
        _send(sender, concurrency * SQS_MAX_BATCH, seconds)  # so that all environments have begun
        _wait(endpoint, url, lines)
        mapping.pause()
        _send(sender, tasks, seconds)
        started = time.monotonic()
        mapping.resume()
        _wait(endpoint, url, lines)
        return time.monotonic() - started


def _send(tasks: Tasks, count: int, seconds: float) -> None:
    tasks.send([tasks.kept.s(seconds) for _ in range(count)])


def _wait(endpoint: AwsEndpoint, url: str, lines: list[str]) -> None:
    until = time.monotonic() + _PATIENCE
    while any(endpoint.queue_depth(url).values()):
        if time.monotonic() > until:
            raise RuntimeError(f"the queue is not empty after {_PATIENCE:.0f} s: {lines[-5:]}")
        time.sleep(_POLL)


def predicted(tasks: int, seconds: float, concurrency: int) -> float:
    """Return what the model says of the same."""

    def send(sender: Tasks, count: int, chance: object) -> int:
        _send(sender, count, seconds)
        return count

    once: Send = send
    found = predict(Workload("drained", "", once, share=1e-6), Setup(tasks, concurrency=concurrency))
    return found.drained_after - facts.COLD_START
