"""How the executor's decisions reach an event source mapping: what is not reported is deleted by it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from dispatcher.backends.base import ResultBackend
from dispatcher.brokers.base import Delivery, Settlement
from dispatcher.clock import Clock
from dispatcher.exceptions import OperationalError

logger = logging.getLogger("dispatcher.worker")

Response = dict[str, list[dict[str, str]]]
Note = Callable[[Sequence[Settlement], Collection[Delivery]], None]


class Queue(Protocol):
    """What the transport needs of the SQS broker."""

    features: Any

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Delete messages, or change their visibility."""
        ...

    def budget_spent(self, delivery: Delivery) -> float:
        """Return the share of its transport budget that a message has used up."""
        ...

    def retention_of(self, queue: str) -> float | None:
        """Return how long a queue keeps a message, in seconds."""
        ...

    def bury(self, settlements: Sequence[Settlement]) -> tuple[list[Delivery], OperationalError | None]:
        """Copy messages to their dead-letter queues."""
        ...


class LambdaTransport:
    """Settles the deliveries of one batch.

    A delivery counts as failed until it is known to be done with, so that whatever goes wrong leads to a redelivery.
    ``note`` is told of what was settled, and which deliveries are done with.
    """

    def __init__(self, broker: Queue, clock: Clock, note: Note | None = None) -> None:
        self._broker = broker
        self._clock = clock
        self._note = note
        self._done: set[Delivery] = set()

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Carry out settlements; an ``ack`` takes effect when the mapping gets the response.

        A release reports the message and changes its visibility: to 0 as well, since it would else stay invisible for
        the rest of the queue's timeout, as it does when the change fails.
        """
        acked = [settlement.delivery for settlement in settlements if settlement.action == "ack"]
        self._done.update(acked)
        if len(acked) < len(settlements):
            dead = [settlement for settlement in settlements if settlement.action == "dead"]
            if dead:
                self._bury(dead)
            released = [settlement for settlement in settlements if settlement.action == "release"]
            if released:
                self._release(released)
        if self._note is not None:
            self._note(settlements, self._done)

    def _bury(self, settlements: list[Settlement]) -> None:
        try:
            buried, problem = self._broker.bury(settlements)
        except Exception as error:  # noqa: BLE001 - whatever it is, the messages must stay where they are
            buried, problem = [], OperationalError(str(error))
        self._done.update(buried)
        if problem is not None:
            logger.error(
                "%d of %d messages cannot be moved to the dead letters and go back: %s",
                len(settlements) - len(buried), len(settlements), problem,
            )  # fmt: skip

    def _release(self, settlements: list[Settlement]) -> None:
        try:
            self._broker.settle(settlements)
        except Exception as error:  # noqa: BLE001 - the queue's own visibility timeout stands in
            logger.warning("messages come back only after the queue's visibility timeout: %s", error)

    def together(self, backend: ResultBackend) -> None:
        """A queue of SQS and a table are two stores."""

    def removals(self, deliveries: Sequence[Delivery], backend: ResultBackend) -> Sequence[Any]:
        """A table removes no messages of a queue."""
        return ()

    @property
    def lease(self) -> float | None:
        """An invocation's own time counts."""
        return None

    @property
    def doubles(self) -> bool:
        """SQS delivers a message twice at a time now and then."""
        return True

    def longest_release(self, delivery: Delivery) -> float | None:
        """Return what is left of the 12 hours that a message may be invisible since its receipt, in seconds."""
        longest: float | None = self._broker.features.max_release
        if longest is None:
            return None
        received: float = delivery.attributes.get("received_at", self._clock.time())
        return max(0.0, longest - (self._clock.time() - received))

    def retention_of(self, delivery: Delivery) -> float | None:
        """Return how long a delivery's queue keeps a message, in seconds."""
        return self._broker.retention_of(delivery.queue)

    def budget_spent(self, delivery: Delivery) -> float:
        """Return the share of its receipts or its retention that a message has used up."""
        return self._broker.budget_spent(delivery)

    def response(self, deliveries: Sequence[Delivery]) -> Response:
        """Return the partial batch response: every id that is not done with, once."""
        done = self._done
        return response_of([delivery.message_id for delivery in deliveries if delivery not in done])


class ClosingTransport(LambdaTransport):
    """Settles deliveries of an invocation that will not be answered: what is done with is deleted at once."""

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Carry out settlements; raises `OperationalError` where a message cannot be deleted."""
        super().settle(settlements)
        gone = [Settlement(each.delivery, "ack") for each in settlements if each.delivery in self._done]
        if gone:
            self._broker.settle(gone)


def response_of(ids: Sequence[str]) -> Response:
    """Return the partial batch response that reports these message ids, each once."""
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in dict.fromkeys(ids)]}
