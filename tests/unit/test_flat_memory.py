"""What stays in memory does not grow with the tasks that were sent or run: nothing remembers each of them.

Traced allocations after some tasks are compared with those after several times as many. Anything kept of each task,
an id alone, takes 50 bytes or more.
"""

from __future__ import annotations

import gc
import tracemalloc
import uuid
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.handlers import canned
from benchmarks.handlers.run import context, event
from dispatcher import Dispatcher, aws
from dispatcher.aws_options import ClientSettings
from dispatcher.backends.memory import MemoryBackend
from dispatcher.execution.run import Run
from dispatcher.lambda_runtime.batches import Worker
from dispatcher.message import Message, encode
from tests.unit.consumers import make_loop

LAMBDA_VARIABLES = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
}
"""Nobody listens there: what is asked of DynamoDB is answered on the spot."""

TASKS = 300
BATCH = 20
"""What a worker is sent, and takes, at a time, however slow it is: the batch that it holds is measured as well."""
KEPT = 24
"""Bytes of each task that are put down to chance."""


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let stores throw out at once what no longer holds; trace no other test."""
    monkeypatch.setattr("dispatcher.brokers.memory._STALE", 0)
    monkeypatch.setattr("dispatcher.backends.memory._STALE", 0)
    yield
    tracemalloc.stop()


def kept_of_each(step: Callable[[], Any], steps: int = TASKS, tasks: int = 1) -> float:
    """Return the bytes that are kept of each task; a step sends or runs so many of them.

    It is the less of two spans: a table of the interpreter's that grows once is in one of them only.
    """
    for _ in range(steps):
        step()
    tracemalloc.start()
    sizes = []
    for rounds in (1, 2, 2):
        for _ in range(rounds * steps):
            step()
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
    return min(sizes[1] - sizes[0], sizes[2] - sizes[1]) / (2 * steps * tasks)


class Press:
    """An app of its own and its tasks."""

    def __init__(self, broker: str = "memory://", **settings: Any) -> None:
        self.app = Dispatcher(f"press-{uuid.uuid4().hex}", broker=broker, set_as_current=False, **settings)
        self.number = 0
        self.lean = self.app.task(name="lean", ignore_result=True, revocable=False)(_print)
        self.kept = self.app.task(name="kept")(_print)
        self.limited = self.app.task(name="limited", rate_limit="100000/s", rate_limit_scope="global")(_print)
        self.unique = self.app.task(name="unique", unique=True)(_print)
        self.app.finalize()

    def send(self, task: str) -> None:
        """Call a task with a number that no other call has."""
        self.number += 1
        getattr(self, task).delay(self.number)

    def clear(self) -> None:
        """Leave no message and no record: what keeps those grows as it should."""
        self.app.broker.purge("default")
        backend = self.app.backend
        if isinstance(backend, MemoryBackend):
            backend.forget(list(backend._store.rows))


def _print(number: int) -> int:
    return number


@pytest.mark.parametrize("task", ["lean", "kept", "limited", "unique"])
def test_a_producer_remembers_no_call(task: str) -> None:
    """A call leaves nothing behind once its result is let go, and its message is gone."""
    press = Press()

    def step() -> None:
        press.send(task)
        if press.number % 50 == 0:
            press.clear()

    assert kept_of_each(step) < KEPT


def test_a_producer_of_many_remembers_no_call() -> None:
    """Neither does sending many at once."""
    press = Press()

    def step() -> None:
        press.app.send_many([press.kept.s(number) for number in range(20)])
        press.clear()

    assert kept_of_each(step, TASKS // 20, 20) < KEPT


@pytest.mark.parametrize("task", ["lean", "kept", "limited", "unique"])
def test_a_worker_remembers_no_task(task: str) -> None:
    """A worker that goes on for long holds what it works on, and nothing of what it has done."""
    press = Press()
    sizes: list[int] = []
    marks = [TASKS, 2 * TASKS, 5 * TASKS]

    def look(runs: Sequence[Run]) -> None:
        press.clear()
        if loop.ran >= marks[0]:
            del marks[0]
            tracemalloc.start()
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
        if not marks:
            loop.stop()
        for _ in range(BATCH):
            press.send(task)

    loop = make_loop(press.app, on_runs=look, prefetch=BATCH)
    look([])
    loop.run()
    assert (sizes[2] - sizes[1]) / (3 * TASKS) < KEPT


@pytest.mark.parametrize("task", ["lean", "kept"])
def test_a_warm_handler_remembers_no_record(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a Lambda environment, from batch to batch."""
    for name, value in LAMBDA_VARIABLES.items():
        monkeypatch.setenv(name, value)
    press = Press("sqs://", backend="dynamodb://bench", metrics_namespace=None, worker_hijack_root_logger=False)
    client = aws.client("dynamodb", ClientSettings())
    canned.answer(client)
    worker = Worker(lambda: press.app)
    worker.start()
    bodies = SimpleNamespace(body=lambda number: encode(Message(id=str(uuid.UUID(int=number)), task=task, args=(1,))))

    def step() -> None:
        press.number += 1
        assert worker(event(bodies, press.number), context()) == {"batchItemFailures": []}

    try:
        assert kept_of_each(step, 100, 10) < KEPT
    finally:
        worker.close()
