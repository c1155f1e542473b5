"""How much of an invocation is left for tasks, and whether their time limits fit into it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from dispatcher.task import Task

logger = logging.getLogger("dispatcher.worker")

#: The most that each of the two margins takes of an invocation, so that a short timeout leaves room for tasks.
MAX_MARGIN: Final = 0.1
#: The shares of the settle margin that must be left when records are written, and when messages are released. At half
#: of it the guard takes over from a runtime that has not answered.
RECORDS_UNTIL: Final = 0.8
QUEUES_UNTIL: Final = 0.55

#: The longest that settling for a runtime may wait for answers, in seconds, and the share of it that is for records.
MAX_RESCUE: Final = 30.0
RESCUE_RECORDS: Final = 0.7


def remaining(context: Any) -> float | None:
    """Return the seconds until Lambda ends the invocation; `None` where the context does not say."""
    ask = getattr(context, "get_remaining_time_in_millis", None)
    if not callable(ask):
        return None
    return float(ask()) / 1000


def margin(seconds: float | None, wanted: float) -> float:
    """Return how much of an invocation of so many seconds a margin takes."""
    return wanted if seconds is None else min(wanted, MAX_MARGIN * seconds)


def end_of_tasks(seconds: float | None, margins: Iterable[float]) -> float:
    """Return when tasks must have ended, by the monotonic clock; infinity where the end is not known.

    The invocation ends in ``seconds``; ``margins`` are kept free at its end, each capped to a tenth of it.
    """
    if seconds is None:
        return math.inf
    ends, most = time.monotonic() + seconds, MAX_MARGIN * seconds
    for wanted in margins:
        ends -= min(wanted, most)
    return ends


def until(ends: float) -> Callable[[], float]:
    """Return a function that returns the seconds that are left until a time of the monotonic clock."""
    monotonic = time.monotonic

    def left() -> float:
        return ends - monotonic()

    return left


def call_bounds(seconds: float | None, settle_margin: float) -> dict[str, Callable[[], float]]:
    """Return how long calls of each service may take, so that the answer is given before the invocation ends.

    Of the settle margin the first part is for records and the next for releases; half of it is the guard's.
    """
    if seconds is None:
        return {}
    settling = margin(seconds, settle_margin)
    ends = time.monotonic() + seconds
    records, queues = until(ends - RECORDS_UNTIL * settling), until(ends - QUEUES_UNTIL * settling)
    return {"dynamodb": records, "s3": records, "sqs": queues, "scheduler": queues}


def rescue_bounds(seconds: float | None) -> dict[str, Callable[[], float]]:
    """Return how long calls may take that settle for a runtime, in an invocation that ends in ``seconds``."""
    longest = MAX_RESCUE if seconds is None else min(seconds, MAX_RESCUE)
    now = time.monotonic()
    records, queues = until(now + RESCUE_RECORDS * longest), until(now + longest)
    return {"dynamodb": records, "s3": records, "sqs": queues, "scheduler": queues}


def check_limits(tasks: Iterable[Task[Any, Any]], timeout: float) -> list[str]:
    """Return a complaint for each task whose time limit is longer than the function's timeout."""
    complaints = []
    for task in tasks:
        for option in ("time_limit", "soft_time_limit"):
            limit = getattr(task, option)
            if limit is not None and limit > timeout:
                complaints.append(
                    f"{task.name} has {option}={limit:g}, but the function ends after {timeout:g} s: give the function "
                    "more time, the task less, or route it to a queue whose worker can keep the limit"
                )
    return complaints
