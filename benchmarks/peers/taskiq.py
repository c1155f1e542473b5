"""Taskiq with taskiq-redis."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

from benchmarks import work
from benchmarks.peers.base import CALL_TIMEOUT, AsyncPeer, script

#: Seconds between two looks for a result; its default is 0.2.
POLL: Final = 0.0005

broker: Any = ListQueueBroker(url=work.REDIS_URL)
if work.RESULTS:
    broker = broker.with_result_backend(RedisAsyncResultBackend(redis_url=work.REDIS_URL, result_ex_time=600))
tick = broker.task(task_name="tasks.tick")(work.tick_async)
add = broker.task(task_name="tasks.add")(work.add_async)


class Taskiq(AsyncPeer):
    """Taskiq with async tasks."""

    name: ClassVar[str] = "taskiq"
    packages: ClassVar[tuple[str, ...]] = ("taskiq", "taskiq-redis", "redis")
    settings: ClassVar[str] = (
        "ListQueueBroker (faster here than RedisStreamBroker), async tasks, up to 100 at once a process (default), --no-parse; "
        f"results: polled every {POLL * 1000} ms"
    )
    on_kill: ClassVar[str] = "lost (popped before they run)"

    def workers(self, processes: int) -> list[list[str]]:
        """Return one process manager with its worker processes."""
        options = ["--workers", str(processes), "--no-parse", "--log-level", "WARNING"]
        return [[script("taskiq"), "worker", "benchmarks.peers.taskiq:broker", *options]]

    async def open(self) -> None:
        """Connect."""
        await broker.startup()

    async def close(self) -> None:
        """Disconnect."""
        await broker.shutdown()

    async def send(self) -> None:
        """Send one no-op."""
        await tick.kiq()

    async def call(self) -> int:
        """Send an addition and return its result."""
        task = await add.kiq(1, 2)
        result: int = (await task.wait_result(check_interval=POLL, timeout=CALL_TIMEOUT)).return_value
        return result

    async def add(self) -> None:
        """Send the addition."""
        await add.kiq(1, 2)


PEER: Final = Taskiq()
