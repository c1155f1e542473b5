"""A fleet on SQS and DynamoDB, where the message of a failed task may rest for 15 minutes before it is buried."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from dispatcher.clock import ManualClock
from dispatcher.consumer.loop import BrokerTransport
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from dispatcher.quotas import LAMBDA_MAX_TIMEOUT
from tests.emulation.endpoint import AwsEndpoint, unique_name
from tests.emulation.resting import failures_at_rest
from tests.fault.faulty_tasks import make_app
from tests.fault.fleet import Fleet, until


class SqsFleet(Fleet):
    """A fleet with queues and a table of its own on an endpoint to which the environment points."""

    def __init__(self, directory: Path, aws: AwsEndpoint, **settings: Any) -> None:
        name = unique_name("fleet")
        self._aws = aws
        self._prefix = f"{name}-"
        #: ids of failed tasks whose messages were at rest when all else was done
        self.rested: list[str] = []
        options = {"queue_name_prefix": self._prefix}
        super().__init__(
            directory, "sqs://", backend=f"dynamodb://{name}", broker_transport_options=options, **settings
        )

    def drained(self, queue: str = "default") -> None:
        """Wait until nothing is left but messages of failed tasks at rest, and let them be decided on after their rest.

        Ends the workers. Afterwards the queue holds nothing but dead letters.
        """
        url = self._aws.client("sqs").get_queue_url(QueueName=self._prefix + queue)["QueueUrl"]

        def all_else_done() -> bool:
            found = failures_at_rest(self._aws, url, self.app.backend)
            self.rested = found or []
            return found is not None

        until(all_else_done, lambda: f"only failures at rest\n{self._aws.messages(url)}\n{self.logs()}")
        for worker in self.workers:
            worker.close()
        self._aws.end_waits(url)
        self._work_after_rests(queue)

    def _work_after_rests(self, queue: str) -> None:
        """Empty the queue as a worker does whose clock has moved past every rest."""
        clock = ManualClock(time.time() + LAMBDA_MAX_TIMEOUT + 1)
        app = make_app(self.broker_url, self.effects, clock=clock, **self.settings)
        env = Environment(
            app=app, backend=app.backend, transport=BrokerTransport(app.broker), clock=clock, hostname="afterwards"
        )
        executor = Executor(env)

        def emptied() -> bool:
            # A poll of a worker that has just ended may still take a message, for the length of a lease.
            executor.process(app.broker.receive([queue], 10))
            return app.broker.counts(queue)[:3] == (0, 0, 0)

        try:
            until(emptied, lambda: f"an empty queue after the rest of {self.rested}\n{self.logs()}")
        finally:
            executor.close()
            app.close()
