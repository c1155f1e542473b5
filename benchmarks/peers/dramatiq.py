"""Dramatiq."""

from __future__ import annotations

from typing import ClassVar, Final

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks import work
from benchmarks.peers.base import CALL_TIMEOUT, SyncPeer, script
from benchmarks.work import arguments

PREFETCH: Final = 128

broker = RedisBroker(url=work.REDIS_URL)
if work.RESULTS:
    broker.add_middleware(Results(backend=RedisBackend(url=work.REDIS_URL)))
dramatiq.set_broker(broker)
tasks = {name: dramatiq.actor(actor_name=f"tasks.{name}")(function) for name, function in work.WORK.items()}
tick = tasks["tick"]
add = dramatiq.actor(actor_name="tasks.add", **({"store_results": True} if work.RESULTS else {}))(work.add)


class Dramatiq(SyncPeer):
    """Dramatiq with a larger prefetch."""

    name: ClassVar[str] = "dramatiq"
    packages: ClassVar[tuple[str, ...]] = ("dramatiq", "redis")
    settings: ClassVar[str] = (
        f"one thread a process unless tasks are to overlap; dramatiq_queue_prefetch={PREFETCH} (with its default, 2 a "
        "thread, the consumer sleeps between polls and does a tenth of this); default middleware; results: Redis "
        "backend, blocking"
    )
    on_kill: ClassVar[str] = "requeued after the heartbeat timeout (60 s)"

    def workers(self, processes: int, concurrency: int) -> list[list[str]]:
        """Return one master with its worker processes."""
        layout = ["--processes", str(processes), "--threads", str(max(concurrency, 1))]
        return [[script("dramatiq"), "benchmarks.peers.dramatiq:broker", *layout]]

    def variables(self, concurrency: int) -> dict[str, str]:
        """Return the prefetch, which Dramatiq takes by environment only."""
        return {"dramatiq_queue_prefetch": str(PREFETCH)}

    def send(self) -> None:
        """Send one no-op."""
        tick.send()

    def send_work(self, work: str) -> None:
        """Send one task of a kind of work, with its arguments."""
        tasks[work].send(*arguments(work))

    def call(self) -> int:
        """Send an addition and return its result."""
        result: int = add.send(1, 2).get_result(block=True, timeout=CALL_TIMEOUT * 1000)
        return result

    def send_group(self, size: int) -> None:
        """Send a group of additions."""
        dramatiq.group([add.message(n, 1) for n in range(size)]).run()

    def send_addition(self) -> None:
        """Send the addition."""
        add.send(1, 2)


PEER: Final = Dramatiq()
