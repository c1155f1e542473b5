"""Publishing: sending repeated while the broker is out of reach, as a policy of Celery's form says."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

from dispatcher.brokers.base import Broker, Outgoing
from dispatcher.clock import Clock
from dispatcher.exceptions import OperationalError, SendError

logger = logging.getLogger("dispatcher.producer")

#: What tries may take besides the policy's pauses, in seconds, for another one to follow.
_SLACK: Final = 1.0


def publish(broker: Broker, messages: Sequence[Outgoing], policy: Mapping[str, Any] | None, clock: Clock) -> None:
    """Send messages; repeat what was not accepted as the policy says, `None` for not at all.

    The policy's pauses together are the time that it grants. A try that took longer, because the broker's own
    connection repeated it or waited for an answer, is the last. A repeated message may be there twice, under one task
    id. Raises `SendError` naming the ids that were not accepted, `OperationalError` where none is known to be.
    """
    left = messages
    begun = clock.monotonic()
    pauses = _pauses(policy)
    while True:
        try:
            broker.send(left)
            return
        except OperationalError as error:
            if isinstance(error, SendError):
                left = [message for message in left if message.id in error.failures]
            pause = next(pauses, None)
            if pause is None or clock.monotonic() - begun > _granted(policy):
                _give_up(error, broker, left, len(messages))
            logger.warning("sending failed, trying again: %s", error)
            clock.sleep(pause)


def _pauses(policy: Mapping[str, Any] | None) -> Iterator[float]:
    """Yield the pause before each further try."""
    tries = 0
    while policy is not None and (policy["max_retries"] is None or tries < policy["max_retries"]):
        yield min(policy["interval_start"] + tries * policy["interval_step"], policy["interval_max"])
        tries += 1


def _granted(policy: Mapping[str, Any] | None) -> float:
    """Return how long tries may take together, in seconds, for another to follow."""
    return math.inf if policy is not None and policy["max_retries"] is None else _SLACK + sum(_pauses(policy))


def _give_up(error: OperationalError, broker: Broker, left: Sequence[Outgoing], total: int) -> NoReturn:
    if len(left) == total:
        raise error
    reasons = error.failures if isinstance(error, SendError) else {message.id: str(error) for message in left}
    id, reason = next(iter(reasons.items()))
    raise SendError(
        f"{len(left)} of {total} messages were not accepted by {broker.describe()}; the first: {id}: {reason}", reasons
    ) from error
