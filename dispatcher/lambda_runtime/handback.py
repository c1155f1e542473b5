"""Handing messages back without an app: a broken deploy must lose nothing, and not spin either."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import Final

from dispatcher.brokers.base import Delivery, Settlement
from dispatcher.brokers.sqs import SQSBroker
from dispatcher.config import queue_urls
from dispatcher.lambda_runtime import events
from dispatcher.lambda_runtime.transport import Response, response_of

logger = logging.getLogger("dispatcher.worker")

#: How long a message rests for its first receive, doubling with each to the longest, in seconds.
FIRST_REST: Final = 10.0
LONGEST_REST: Final = 900.0
#: How often the first rest is doubled until the longest is reached.
_DOUBLINGS: Final = 7


def rest(receive_count: int) -> float:
    """Return how long a message rests that was received this often; a quarter of it is left to chance."""
    longest: float = min(LONGEST_REST, FIRST_REST * 2.0 ** min(receive_count - 1, 10))
    return random.uniform(0.75 * longest, longest)


def rested(receive_count: int) -> float:
    """Return how long a message that was received this often has rested, at most."""
    doublings = min(receive_count - 1, _DOUBLINGS)
    return FIRST_REST * (2.0**doublings - 1) + LONGEST_REST * (receive_count - 1 - doublings)


def hand_back(records: Sequence[events.Record], now: float, cause: BaseException | None = None) -> Response:
    """Make messages rest by their visibility; where that fails they rest for the queue's own timeout.

    Those whose grace is over fail for ``cause`` instead, which is why there is no app. Return the response.
    """
    deliveries = events.deliveries_of(records, str, now)
    from dispatcher.lambda_runtime import unimportable  # a cold start that goes well is spared it

    waits = [rested(each.receive_count) for each in deliveries]
    done = unimportable.bury(records, cause, now, waits, LONGEST_REST)
    deliveries = [each for each in deliveries if each.message_id not in done]
    if deliveries:
        _release(deliveries)
    return response_of([each.message_id for each in deliveries])


def _release(deliveries: Sequence[Delivery]) -> None:
    broker = SQSBroker("sqs://", {"queue_urls": _url_of, "create_missing_queues": False})
    logger.error("%d messages go back: there is no app to run them", len(deliveries))
    try:
        broker.settle([Settlement(each, "release", rest(each.receive_count)) for each in deliveries])
    except Exception as error:  # noqa: BLE001 - nothing else can be done, and nothing is lost
        logger.warning("messages come back only after the queue's visibility timeout: %s", error)


def _url_of(arn: str) -> str | None:
    """Return a queue's URL: one of the environment's, else the one that AWS gives a queue with this ARN."""
    parts = arn.split(":")
    if len(parts) != 6:
        return None
    _, partition, _, region, account, name = parts
    for url in queue_urls().values():
        if url.endswith(f"/{account}/{name}"):
            return url
    suffix = "amazonaws.com.cn" if partition == "aws-cn" else "amazonaws.com"
    return f"https://sqs.{region}.{suffix}/{account}/{name}"
