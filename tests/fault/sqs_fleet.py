"""A fleet on SQS and DynamoDB, where the message of a failed task may rest for 15 minutes before it is buried."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from dispatcher import message, states
from dispatcher.clock import ManualClock
from dispatcher.consumer.loop import BrokerTransport
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from dispatcher.quotas import LAMBDA_MAX_TIMEOUT
from tests.emulation.endpoint import AwsEndpoint, unique_name
from tests.fault.faulty_tasks import make_app
from tests.fault.fleet import Fleet, until

#: What is visible this much later, in seconds, is at rest: a lease is much shorter.
_AT_REST = 60.0


class SqsFleet(Fleet):
    """A fleet with queues and a table of its own on an endpoint to which the environment points.

    SQS may hand a message to two workers at once. So whoever finds a failure in the record leaves its message to
    whoever recorded it, for as long as that one may live: also where it was killed before it buried or deleted it.
    """

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
        until(lambda: self._is_at_rest(url), f"a queue of which nothing but failures at rest is left\n{self.logs()}")
        for worker in self.workers:
            worker.close()
        left = self._aws.messages(url)
        self.rested += sorted({message.decode(each["Body"]).id for each in left})
        self._aws.end_waits(url)
        self._work_after_rests(queue)

    def _is_at_rest(self, url: str) -> bool:
        left = self._aws.messages(url)
        if any(each["VisibleAt"] < time.time() + _AT_REST for each in left):
            return False
        ids = {message.decode(each["Body"]).id for each in left}
        records = self.app.backend.read(list(ids))
        wrong = ids - {task_id for task_id, record in records.items() if record.status == states.FAILURE}
        assert not wrong, f"messages of {wrong} are at rest, and they did not fail\n{self.logs()}"
        return True

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
            until(emptied, f"an empty queue after the rest of {self.rested}\n{self.logs()}")
        finally:
            executor.close()
            app.close()
