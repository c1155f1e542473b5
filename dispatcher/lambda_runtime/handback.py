"""Handing messages back without an app: a broken deploy must lose nothing, and not spin either."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import Final

from dispatcher.brokers.base import Settlement
from dispatcher.brokers.sqs import SQSBroker
from dispatcher.config import queue_urls
from dispatcher.lambda_runtime import events

logger = logging.getLogger("dispatcher.worker")

#: How long a message rests for its first receive, doubling with each to the longest, in seconds.
FIRST_REST: Final = 10.0
LONGEST_REST: Final = 900.0


def rest(receive_count: int) -> float:
    """Return how long a message rests that was received this often; a quarter of it is left to chance."""
    longest: float = min(LONGEST_REST, FIRST_REST * 2.0 ** min(receive_count - 1, 10))
    return random.uniform(0.75 * longest, longest)


def hand_back(records: Sequence[events.Record], now: float) -> None:
    """Make messages rest by their visibility; where that fails they rest for the queue's own timeout."""
    deliveries = events.deliveries_of(records, str, now)
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
