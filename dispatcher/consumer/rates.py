"""Rate limits of one local worker: the scope "worker", Celery's meaning of ``rate_limit``.

A worker's processes share a page of memory with two numbers for each limited task: from when on the next run may start,
and when the next message is to come back that found no run free. Taking turns at it costs no message and no record.
A lock of the file system guards the page, because the system releases it when a child is killed.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Final

from dispatcher.clock import Clock
from dispatcher.rates import Rate
from dispatcher.utils import forks

#: How late messages may come back to start all the same, in seconds: SQS hides them for whole seconds. What was not
#: used for so long may start at once.
RETURN_TIME: Final = 1.0
#: How many messages come back for one that can start. Whoever is first at a queue hides all it has; at just its own
#: rate they would come back too slowly for a second worker. The rest is hidden once more, at the end of the line.
RETURNS: Final = 4
_ENTRY: Final = struct.Struct("<dd")


class SharedRates:
    """The limits of these tasks, for this process and those it forks later; ``prefork`` says whether it will."""

    def __init__(self, names: Iterable[str], clock: Clock, *, prefork: bool) -> None:
        self._clock = clock
        self._places = {name: number * _ENTRY.size for number, name in enumerate(names)}
        self._page = mmap.mmap(-1, max(1, len(self._places) * _ENTRY.size))
        self._file = _lock_file(self) if prefork and self._places else None
        self._lock = threading.Lock()
        forks.watch(self)

    def take(self, name: str, rate: Rate, count: int) -> list[float]:
        """Start as many runs as are free now; return for each of ``count`` its delay in seconds, 0 to start.

        A run that is not free is not reserved: its message comes back when one is likely to be, and any worker may get
        it then. So a worker never starts more than its rate, wherever messages go.
        """
        with self._locked():
            return self._take(name, rate, count)

    def _take(self, name: str, rate: Rate, count: int) -> list[float]:
        place, now = self._places[name], self._clock.monotonic()
        free, back = _ENTRY.unpack_from(self._page, place)
        delays = []
        for _ in range(count):
            free = max(free, now - (rate.burst - 1) * rate.interval - RETURN_TIME)
            if free <= now:
                free += rate.interval
                delays.append(0.0)
            else:
                back = max(back, free)
                delays.append(back - now)
                back += rate.interval / RETURNS
        _ENTRY.pack_into(self._page, place, free, back)
        return delays

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            if self._file is None:
                yield
                return
            import fcntl

            fcntl.lockf(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)

    def before_fork(self) -> None:
        """Keep threads out while the process forks."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Let threads in again."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Forget the parent's threads."""
        self._lock = threading.Lock()


def _lock_file(owner: object) -> int:
    """Return the descriptor of a file without a name, which is closed with its owner."""
    descriptor, path = tempfile.mkstemp(prefix="dispatcher-rates-")
    os.unlink(path)
    weakref.finalize(owner, os.close, descriptor)
    return descriptor


def rates_of(tasks: Iterable[Any], clock: Clock, *, prefork: bool) -> SharedRates:
    """Return the limits of the tasks whose scope is the worker."""
    limited = [task.name for task in tasks if task._rate is not None and task.rate_limit_scope == "worker"]
    return SharedRates(limited, clock, prefork=prefork)
