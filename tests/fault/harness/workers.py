"""The processes of a run: producers, local workers and Lambda functions, each with an app and adapters of its own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol

from dispatcher import Dispatcher
from dispatcher.brokers.sqs_queues import Queues
from dispatcher.consumer.loop import ConsumerLoop
from dispatcher.execution.limits import NoLimits
from dispatcher.lambda_runtime.batches import Worker
from dispatcher.lambda_runtime.lost import Reader
from tests.fault.harness.injector import Injector, Killed
from tests.fault.harness.ledger import Batch
from tests.fault.harness.sqs import Sqs


class Process:
    """Something that may die; its app outlives no death."""

    def __init__(self, app: Dispatcher) -> None:
        self.app = app
        self.dead = False
        self.batch: Batch | None = None


class Consumer(Protocol):
    """A process that takes one batch at a time."""

    app: Dispatcher
    dead: bool
    batch: Batch | None

    def cycle(self) -> int:
        """Take a batch, run it and settle it; return how many messages it had."""
        ...


class _Impatient(random.Random):
    """Chance whose waiting times are in units of the run."""

    def __init__(self, source: random.Random, unit: float) -> None:
        super().__init__(source.getrandbits(64))
        self._unit = unit

    def uniform(self, a: float, b: float) -> float:
        """Return a time between a and b units."""
        return super().uniform(a, b) * self._unit


class _Loop(ConsumerLoop):
    """A consumer loop that does not wait when its broker is away: the driver of the run lets time pass."""

    def pause(self, error: Any) -> None:
        self._failures += 1


class LocalWorker(Process):
    """One consumer of a local worker; each cycle is one turn of the loop."""

    def __init__(self, app: Dispatcher, chance: random.Random, unit: float) -> None:
        super().__init__(app)
        app.broker.poll_wait = 0.0
        self._chance = chance
        self._random = _Impatient(chance, unit)

    def cycle(self) -> int:
        """One turn of the loop."""
        turns = iter((False, True))
        runs: list[Any] = []
        loop = self.make_loop(
            app=self.app, queues=[self.app.conf.task_default_queue], limits=NoLimits(), hostname="worker",
            prefetch=self._chance.randint(1, 10), over_memory=lambda: next(turns), on_runs=runs.extend,
        )  # fmt: skip
        loop.env.random = self._random
        loop.run()
        return len(runs)

    def make_loop(self, **options: Any) -> ConsumerLoop:
        """Make the loop of one turn."""
        return _Loop(**options)


class _Context:
    """What the runtime client passes beside an event."""

    aws_request_id = "00000000-0000-4000-8000-000000000000"
    function_name = "worker"
    memory_limit_in_mb = "512"
    invoked_function_arn = "arn:aws:lambda:us-east-1:000000000000:function:worker"

    def get_remaining_time_in_millis(self) -> int:
        """Return more than a batch takes."""
        return 600_000


class LambdaFunction(Process):
    """The handler behind an event source mapping: what it does not report is deleted, unless it never answers."""

    def __init__(self, app: Dispatcher, sqs: Sqs, injector: Injector) -> None:
        super().__init__(app)
        self._sqs = sqs
        self._injector = injector
        queue = app.conf.task_default_queue
        self._functions = {queue: Worker(lambda: app), Queues.lost(queue): Reader(lambda: app)}

    def cycle(self) -> int:
        """One invocation: of the reader of the lost queue where there are no tasks."""
        for queue, function in self._functions.items():
            with self._injector.calm():
                url = self._sqs("GetQueueUrl", {"QueueName": queue})["QueueUrl"]
            size = self._injector.random.randint(1, 10)
            messages = self._sqs("ReceiveMessage", {"QueueUrl": url, "MaxNumberOfMessages": size}).get("Messages", [])
            if messages:
                self._answer(function, queue, url, messages)
                return len(messages)
        return 0

    def _answer(self, function: Worker, queue: str, url: str, messages: Sequence[Any]) -> None:
        answer = function({"Records": [_record(message, queue) for message in messages]}, _Context())
        if self.dead or self._injector.draw("killed in an answer"):
            if self.batch is not None:
                self.batch.disturbed = True
            raise Killed
        reported = {item["itemIdentifier"] for item in answer["batchItemFailures"]}
        self._delete(url, [message for message in messages if message["MessageId"] not in reported])

    def _delete(self, url: str, messages: Sequence[Any]) -> None:
        entries = [{"Id": str(n), "ReceiptHandle": message["ReceiptHandle"]} for n, message in enumerate(messages)]
        if entries:
            self._sqs("DeleteMessageBatch", {"QueueUrl": url, "Entries": entries})


def _record(message: Any, queue: str) -> dict[str, Any]:
    return {
        "messageId": message["MessageId"], "receiptHandle": message["ReceiptHandle"], "body": message["Body"],
        "attributes": message["Attributes"], "messageAttributes": {}, "eventSource": "aws:sqs",
        "awsRegion": "us-east-1", "eventSourceARN": f"arn:aws:sqs:us-east-1:000000000000:{queue}",
    }  # fmt: skip
