"""The work every library does: a no-op with a side effect that can be counted, and an addition whose result is read.

The side effect is one INCR over a connection of the worker process's own, so it costs every library the same. These
functions run inside the processes under test, which learn by environment where Redis is and whether results are kept.
"""

from __future__ import annotations

import functools
import os
from typing import Any, Final

TICKS: Final = "bench:ticks"
REDIS_URL: Final = os.environ.get("BENCH_REDIS_URL", "")
RESULTS: Final = os.environ.get("BENCH_RESULTS") == "1"


def tick() -> None:
    """Count this run."""
    _client().incr(TICKS)


async def tick_async() -> None:
    """Count this run without blocking the event loop."""
    await _async_client().incr(TICKS)


def add(a: int, b: int) -> int:
    """Return the sum."""
    return a + b


def total(numbers: list[int]) -> int:
    """Return the sum of many."""
    return sum(numbers)


async def add_async(a: int, b: int) -> int:
    """Return the sum."""
    return a + b


@functools.cache
def _client() -> Any:
    import redis

    return redis.Redis.from_url(REDIS_URL)


@functools.cache
def _async_client() -> Any:
    import redis.asyncio

    return redis.asyncio.Redis.from_url(REDIS_URL)
