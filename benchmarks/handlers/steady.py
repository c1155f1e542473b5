"""A process that works for long: ``python -m benchmarks.handlers.steady MODULE|producer COUNT``.

A module is a handler, which gets that many records in warm batches of ten; the producer sends that many calls, one by
one, with results on. Hands back the proportional set size (PSS) in bytes after each of `SHARES` of them.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from benchmarks.handlers.run import BATCH_SIZE, context, event
from benchmarks.outcome import emit
from benchmarks.processes import proportional_bytes

#: Of all tasks, how many are done when memory is looked at.
SHARES: Final = (0.01, 0.1, 0.5, 1.0)
#: Messages in Redis at most while a producer is measured; older ones go.
_BACKLOG: Final = 10_000


def main(arguments: list[str]) -> None:
    """Work for long and report."""
    name, count = arguments[0], int(arguments[1])
    with _muted():
        step, size = _producer() if name == "producer" else _handler(name)
        sizes = _sizes(step, count, size)
    emit(sizes)


def _sizes(step: Callable[[int], None], count: int, size: int) -> list[int]:
    """Do so many tasks, ``size`` in each step; return the PSS after each share."""
    sizes, done = [], 0
    for share in SHARES:
        while done < share * count:
            step(done // size)
            done += size
        gc.collect()
        sizes.append(proportional_bytes([os.getpid()]))
    return sizes


def _handler(name: str) -> tuple[Callable[[int], None], int]:
    module, about = importlib.import_module(f"benchmarks.handlers.{name}"), context()

    def step(number: int) -> None:
        if failed := module.handler(event(module, number), about)["batchItemFailures"]:
            raise SystemExit(f"error: {len(failed)} records of batch {number} were handed back")

    return step, BATCH_SIZE


def _producer() -> tuple[Callable[[int], None], int]:
    import redis

    from benchmarks import work
    from benchmarks.peers.dispatcher import add

    server = redis.Redis.from_url(work.REDIS_URL)

    def step(number: int) -> None:
        add.delay(number, 1)
        if number % _BACKLOG == 0:  # nobody works them off
            server.flushdb()

    return step, 1


@contextmanager
def _muted() -> Iterator[None]:
    """Write what the handler prints (the metrics of each batch) nowhere."""
    kept = os.dup(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
        sys.stdout.flush()
    finally:
        os.dup2(kept, 1)
        os.close(kept)


if __name__ == "__main__":
    main(sys.argv[1:])
