"""Reading lost queues in a Lambda function: batches of messages that SQS gave up, decided by `execution.lost`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from dispatcher.app import Dispatcher
from dispatcher.brokers.base import Delivery, Settlement
from dispatcher.brokers.sqs_queues import Queues, is_lost
from dispatcher.config import queue_urls
from dispatcher.execution import lost
from dispatcher.execution.run import Run
from dispatcher.lambda_runtime import events
from dispatcher.lambda_runtime.batches import Worker
from dispatcher.lambda_runtime.environment import LambdaEnvironment
from dispatcher.lambda_runtime.handback import rest
from dispatcher.lambda_runtime.sources import Sources, names_of
from dispatcher.lambda_runtime.transport import LambdaTransport, Response

logger = logging.getLogger("dispatcher.worker")


class LostEnvironment(LambdaEnvironment):
    """An app ready to decide on the lost messages of its queues; it runs no task.

    Raises `ImproperlyConfigured` for an app that cannot run here.
    """

    def __init__(self, app: Dispatcher) -> None:
        super().__init__(app)
        broker, homes = self._broker, sorted({*names_of(app), *queue_urls()})
        # The lost queues come last: what a variable may mean besides, such as "default_lost", must not win.
        names = [*homes, *map(Queues.lost, homes)]

        def local_name(sqs_name: str) -> str:
            return broker.local_name(sqs_name, homes)

        self._sources = Sources(names, app.conf.queue_url_for, queue_urls(), local_name)

    def run(self, records: Sequence[events.Record], context: Any, arrived: float, seconds: float | None) -> Response:
        """Decide on the messages of a batch that arrived at ``arrived``, in epoch seconds; never raises."""
        deliveries = events.deliveries_of(records, self._sources.queue_of, arrived)
        self._env.transport = transport = LambdaTransport(self._broker, self.app.clock)
        try:
            strangers = [delivery for delivery in deliveries if not is_lost(delivery.queue)]
            if strangers:
                self._refuse(strangers, transport)
            runs = lost.process(self._env, [delivery for delivery in deliveries if is_lost(delivery.queue)])
            self._measure(runs, arrived)
        except BaseException as error:
            logger.critical("an internal error; what is not settled of the batch goes back", exc_info=error)
        return transport.response(deliveries)

    def _measure(self, runs: Sequence[Run], arrived: float) -> None:
        if self._metrics is not None and runs:
            self._metrics.write(runs[0].delivery.queue, list(runs), arrived)

    @staticmethod
    def _refuse(deliveries: Sequence[Delivery], transport: LambdaTransport) -> None:
        """Hand back what is no lost message: sent home it would come here again at once."""
        queues = ", ".join(sorted({delivery.queue for delivery in deliveries}))
        logger.error(
            "%d messages go back: %s is no lost queue. Map this function to the queue that the redrive policy of a "
            "task queue names, and set DISPATCHER_QUEUE_URL_<NAME>_LOST to its URL", len(deliveries), queues,
        )  # fmt: skip
        transport.settle([Settlement(each, "release", rest(each.receive_count)) for each in deliveries])


class Reader(Worker):
    """Answers the invocations of a function that reads lost queues; ``load`` returns its app, or raises."""

    environment = LostEnvironment
