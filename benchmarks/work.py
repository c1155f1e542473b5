"""The work every library does: a no-op with a side effect that can be counted, and an addition whose result is read.

The side effect is one INCR over a connection of the worker process's own, so it costs every library the same. These
functions run inside the processes under test, which learn by environment where Redis is and whether results are kept.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

TICKS: Final = "bench:ticks"
#: Seconds of CPU that `spin` takes, and of waiting that `wait` does.
SPIN: Final = 0.001
WAIT: Final = 0.010
#: Characters of the text that `carry` is sent.
PAYLOAD: Final = 100_000
REDIS_URL: Final = os.environ.get("BENCH_REDIS_URL", "")
RESULTS: Final = os.environ.get("BENCH_RESULTS") == "1"
SQLITE_FILE: Final = os.environ.get("BENCH_SQLITE_FILE", "")
SQLITE_SYNCHRONOUS: Final = os.environ.get("BENCH_SQLITE_SYNCHRONOUS", "normal")


def tick() -> None:
    """Count this run."""
    _client().incr(TICKS)


async def tick_async() -> None:
    """Count this run without blocking the event loop."""
    await _async_client().incr(TICKS)


def spin() -> None:
    """Keep a CPU busy for `SPIN`, then count this run."""
    end = time.thread_time() + SPIN
    while time.thread_time() < end:
        pass
    tick()


async def spin_async() -> None:
    """Do as `spin`: computing keeps an event loop busy too."""
    end = time.thread_time() + SPIN
    while time.thread_time() < end:
        pass
    await tick_async()


def wait() -> None:
    """Wait for `WAIT` as for an answer from a network, then count this run."""
    time.sleep(WAIT)
    tick()


async def wait_async() -> None:
    """Wait for `WAIT` without blocking the event loop, then count this run."""
    await asyncio.sleep(WAIT)
    await tick_async()


def carry(payload: str) -> None:
    """Count this run if the payload came whole."""
    if len(payload) == PAYLOAD:
        tick()


async def carry_async(payload: str) -> None:
    """Count this run if the payload came whole."""
    if len(payload) == PAYLOAD:
        await tick_async()


def arguments(work: str) -> tuple[str, ...]:
    """Return what a kind of work is sent: hexadecimal digits that do not repeat, or nothing."""
    return (_payload(),) if work == "carry" else ()


#: Kind of work -> its function; those of event loops beside them.
WORK: Final[dict[str, Callable[..., None]]] = {"tick": tick, "spin": spin, "wait": wait, "carry": carry}
ASYNC_WORK: Final[dict[str, Callable[..., Awaitable[None]]]] = {
    "tick": tick_async, "spin": spin_async, "wait": wait_async, "carry": carry_async,
}  # fmt: skip


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
def _payload() -> str:
    return random.Random(0).randbytes(PAYLOAD // 2).hex()


@functools.cache
def _client() -> Any:
    import redis

    return redis.Redis.from_url(REDIS_URL)


@functools.cache
def _async_client() -> Any:
    import redis.asyncio

    return redis.asyncio.Redis.from_url(REDIS_URL)
