"""RQ with SimpleWorker."""

from __future__ import annotations

from typing import ClassVar, Final

import redis
from rq import Queue
from rq.group import Group

from benchmarks import work
from benchmarks.peers.base import CALL_TIMEOUT, SyncPeer, script
from benchmarks.work import arguments

#: RQ finds functions by their path; the addition goes by its common name where only its size matters.
TICK: Final = "benchmarks.work.tick"
ADD: Final = "benchmarks.work.add"


class Rq(SyncPeer):
    """RQ with the worker class that does not fork for each job."""

    name: ClassVar[str] = "rq"
    packages: ClassVar[tuple[str, ...]] = ("rq", "redis")
    settings: ClassVar[str] = (
        "worker-pool of SimpleWorkers, which run jobs without a fork each (performance notes: very short jobs); "
        "result_ttl=0 unless read; results: blocking read"
    )
    on_kill: ClassVar[str] = "found by the abandoned-job check and failed or retried"

    def __init__(self) -> None:
        self._queue = Queue(connection=redis.Redis.from_url(work.REDIS_URL))
        self._options = {} if work.RESULTS else {"result_ttl": 0}

    def workers(self, processes: int, concurrency: int) -> list[list[str]]:
        """Return one pool; where tasks are to overlap in a process, it has as many processes more."""
        pool = ["--num-workers", str(processes * max(concurrency, 1)), "--worker-class", "rq.worker.SimpleWorker"]
        return [[script("rq"), "worker-pool", "--url", work.REDIS_URL, *pool, "--logging-level", "WARNING", "default"]]

    def send(self) -> None:
        """Send one no-op."""
        self._queue.enqueue(TICK, **self._options)

    def send_many(self, count: int) -> None:
        """Send no-ops in one pipeline."""
        self._queue.enqueue_many([Queue.prepare_data(TICK, **self._options) for _ in range(count)])

    def send_work(self, work: str) -> None:
        """Send one task of a kind of work, with its arguments."""
        self._queue.enqueue(f"benchmarks.work.{work}", *arguments(work), **self._options)

    def call(self) -> int:
        """Send an addition and return its result."""
        result: int = self._queue.enqueue(ADD, 1, 2).latest_result(timeout=CALL_TIMEOUT).return_value
        return result

    def send_group(self, size: int) -> None:
        """Send a group of additions in one pipeline."""
        members = [Queue.prepare_data(ADD, (n, 1)) for n in range(size)]
        Group.create(connection=self._queue.connection).enqueue_many(self._queue, members)

    def send_addition(self) -> None:
        """Send the addition."""
        self._queue.enqueue("tasks.add", 1, 2)


PEER: Final = Rq()
