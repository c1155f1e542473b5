"""The tasks of ``dispatcher demo``: some compute, some wait, some fail once, some for good."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from dispatcher.app import Dispatcher

app = Dispatcher("demo")


class Unavailable(Exception):
    """What `flaky` meets when it is run for the first time."""


@app.task
def compute(limit: int) -> int:
    """Count the primes below a limit: busy on the CPU."""
    sieve = bytearray([1]) * limit
    for number in range(2, int(limit**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, limit, number)))
    return sum(sieve[2:])


@app.task
def download(seconds: float) -> str:
    """Wait as a download does: idle on the CPU."""
    time.sleep(seconds)
    return f"{random.randrange(1, 900)} kB"


@app.task
async def query(seconds: float) -> int:
    """Wait in a coroutine, as a database query does."""
    await asyncio.sleep(seconds)
    return random.randrange(1000)


@app.task(bind=True, autoretry_for=(Unavailable,), max_retries=5, default_retry_delay=0.5)
def flaky(self: Any) -> str:
    """Fail at the first attempt, and succeed when retried."""
    if self.request.retries == 0:
        raise Unavailable("the service is restarting")
    return "ok, after a retry"


@app.task
def broken() -> None:
    """Fail for good."""
    raise ValueError("this order does not exist")
