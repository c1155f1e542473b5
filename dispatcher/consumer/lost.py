"""Lost messages beside a local worker's own: looked for now and then, since hardly any message is ever lost."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence

from dispatcher.brokers.base import Broker
from dispatcher.exceptions import OperationalError
from dispatcher.execution import lost
from dispatcher.execution.environment import Environment

logger = logging.getLogger("dispatcher.worker")

#: Seconds between looks; a look costs one receive for each queue.
EVERY = 60.0
#: Seconds until the next look where there is no lost queue, or it could not be read.
AFTER_NOTHING = 1_800.0
_BATCH = 10


class LostReader:
    """Decides on the lost messages of some queues, for one consumer of a worker."""

    def __init__(self, broker: Broker, queues: Sequence[str], env: Environment) -> None:
        self._broker = broker
        self._queues = list(queues)
        self._env = env
        self._next = 0.0

    def is_due(self) -> bool:
        """Say whether it is time to look."""
        return time.monotonic() >= self._next

    def look(self) -> None:
        """Decide on what is there; call it when it is time to look."""
        now = time.monotonic()
        pause = EVERY
        try:
            names = self._broker.lost_queues(self._queues)
            if not names:
                pause = AFTER_NOTHING
            elif deliveries := self._broker.receive(names, _BATCH):
                lost.process(self._env, deliveries)
                pause = 0.0  # there may be more
        except OperationalError as error:
            logger.warning("lost messages cannot be read at the moment: %s", error)
            pause = AFTER_NOTHING
        except Exception:  # it must not end the worker; what was received comes again
            logger.exception("lost messages could not be decided on: this is a fault of the library")
        # Workers that were started together need not look together.
        self._next = now + pause * random.uniform(0.75, 1.25)
