"""Abortable tasks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dispatcher import Dispatcher
from dispatcher.consumer.loop import BrokerTransport
from dispatcher.contrib.abortable import ABORTED, AbortableAsyncResult, AbortableTask
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from tests.unit.bench import Bench


@pytest.fixture
def app() -> Iterator[Dispatcher]:
    """An app on a memory broker of its own."""
    with Dispatcher("abortable", broker="memory://abortable") as app:
        yield app


def run_once(app: Dispatcher) -> None:
    """Take what is on the queue through the executor."""
    env = Environment(app=app, backend=app.backend, transport=BrokerTransport(app.broker))
    executor = Executor(env)
    executor.process(app.broker.receive(["default"], 10))
    executor.close()


def test_a_task_sees_that_it_was_aborted(app: Dispatcher) -> None:
    """A task that was asked to end before it looks ends by its own decision, and its value is kept."""

    @app.task(base=AbortableTask, bind=True)
    def long(self: AbortableTask) -> str:
        AbortableAsyncResult(self.request.id, app=app).abort()
        return "stopped" if self.is_aborted() else "went on"

    result = long.delay()
    assert isinstance(result, AbortableAsyncResult)
    run_once(app)
    assert result.get(timeout=1) == "stopped"
    assert not result.is_aborted()


def test_abort_is_seen_as_a_state(app: Dispatcher) -> None:
    """Between the request and the task's end the state is ABORTED."""

    @app.task(base=AbortableTask)
    def waiting() -> None:
        pass

    result = waiting.delay()
    result.abort()  # type: ignore[attr-defined]
    assert result.state == ABORTED
    assert not result.ready()


def test_abort_leaves_an_ended_task_alone(app: Dispatcher) -> None:
    """A task that has ended keeps its state."""

    @app.task(base=AbortableTask)
    def quick() -> int:
        return 1

    result = quick.delay()
    run_once(app)
    result.abort()  # type: ignore[attr-defined]
    assert result.get(timeout=1) == 1


def test_a_result_knows_what_its_call_said() -> None:
    """When the task is due, so that it can be revoked at once, and whether a result is kept."""
    bench = Bench()
    task = bench.app.task(name="t", base=AbortableTask, ignore_result=True)(lambda: None)
    result = task.apply_async(countdown=3600)
    assert result.ignored
    result.revoke()
    assert result.state == "REVOKED"
