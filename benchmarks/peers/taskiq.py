"""Taskiq with taskiq-redis."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks import work
from benchmarks.peers.base import CALL_TIMEOUT, AsyncPeer, script
from benchmarks.work import arguments

#: Seconds between two looks for a result; its default is 0.2.
POLL: Final = 0.0005

# From the stream's start, so that tasks sent before the first worker came are run.
broker: Any = RedisStreamBroker(url=work.REDIS_URL, consumer_id="0")
if work.RESULTS:
    broker = broker.with_result_backend(RedisAsyncResultBackend(redis_url=work.REDIS_URL, result_ex_time=600))
tasks = {name: broker.task(task_name=f"tasks.{name}")(function) for name, function in work.ASYNC_WORK.items()}
tick = tasks["tick"]
add = broker.task(task_name="tasks.add")(work.add_async)


class Taskiq(AsyncPeer):
    """Taskiq with async tasks."""

    name: ClassVar[str] = "taskiq"
    packages: ClassVar[tuple[str, ...]] = ("taskiq", "taskiq-redis", "redis", "uvloop")
    settings: ClassVar[str] = (
        "RedisStreamBroker (its guide's choice, no slower than ListQueueBroker), async tasks, 100 at once a process "
        "(default) unless the row says otherwise, --no-parse, uvloop in the worker; "
        f"results: polled every {POLL * 1000} ms"
    )
    on_kill: ClassVar[str] = "stay pending in the stream; claimed after idle_timeout (10 min)"

    def workers(self, processes: int, concurrency: int) -> list[list[str]]:
        """Return one process manager with its worker processes."""
        at_once = ["--max-async-tasks", str(concurrency)] if concurrency else []
        options = ["--workers", str(processes), *at_once, "--no-parse", "--log-level", "WARNING"]
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

    async def send_work(self, work: str) -> None:
        """Send one task of a kind of work, with its arguments."""
        await tasks[work].kiq(*arguments(work))

    async def call(self) -> int:
        """Send an addition and return its result."""
        task = await add.kiq(1, 2)
        result: int = (await task.wait_result(check_interval=POLL, timeout=CALL_TIMEOUT)).return_value
        return result

    async def add(self) -> None:
        """Send the addition."""
        await add.kiq(1, 2)


PEER: Final = Taskiq()
