"""Eager mode: the executor in this process, without broker or worker."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher import memory_store
from dispatcher.exceptions import OperationalError, Reject, UnsupportedOption
from dispatcher.utils import forks
from tests.unit.bench import Bench, Globals
from tests.unit.test_executor import RecordingBackend


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    """Keep apps of one test from the next."""
    with Globals():
        yield


def test_retries_with_other_arguments_run_here() -> None:
    """New generations run at once, by reference and over the wire form alike."""
    for settings in ({}, {"task_always_eager": True}):
        app = Bench(**settings).app

        @app.task(name="grow", bind=True)
        def grow(self: Any, n: int) -> list[int]:
            if n < 3:
                self.retry(args=(n + 1,), countdown=3600)
            return [n, self.request.retries]

        result = grow.delay(0) if settings else grow.apply((0,))
        assert result.get() == [3, 3]


def test_nothing_is_stored_unless_asked_for() -> None:
    """Eager runs keep no record, states of their own neither; ``task_store_eager_result`` keeps them."""
    for stored in (False, True):
        bench = Bench(task_store_eager_result=stored)

        @bench.app.task(name="t", bind=True)
        def task(self: Any) -> int:
            self.update_state(state="PROGRESS", meta=1)
            return 5

        result = task.apply()
        assert result.get() == 5
        assert (bench.record(result.id) is not None) is stored


def test_eager_calls_leave_no_store_behind() -> None:
    """What a call keeps while it runs goes with it, and no fork has to look after it."""
    task = Bench().app.task(name="t")(lambda: 1)
    task.apply()
    gc.collect()
    stores, watched = len(memory_store._stores), len(forks._watched)
    for _ in range(200):
        assert task.apply().get() == 1
    gc.collect()
    assert (len(memory_store._stores), len(forks._watched)) == (stores, watched)


def test_backend_that_stays_away_is_the_caller_s_to_know() -> None:
    """With stored results and no backend, `apply` raises instead of trying for ever."""
    bench = Bench(task_store_eager_result=True)
    backend = RecordingBackend(bench.app.conf.result_backend, {}, bench.clock)
    bench.app._backend = backend
    backend.fails = OperationalError("away")
    runs: list[int] = []
    task = bench.app.task(name="t")(lambda: runs.append(1))
    with pytest.raises(OperationalError, match="its outcome cannot be recorded"):
        task.apply()
    assert len(runs) <= 4


def test_values_need_not_be_data() -> None:
    """`apply` returns what the function returned, whatever it is; stored results must be data."""
    thing = object()
    assert Bench().app.task(name="t")(lambda: thing).apply().get() is thing
    stored = Bench(task_store_eager_result=True).app.task(name="t")(lambda: thing).apply()
    assert stored.state == "FAILURE"


def test_outcomes_have_their_states() -> None:
    """Reject, bad arguments and errors show as in a worker."""
    app = Bench().app

    @app.task(name="reject")
    def reject() -> None:
        raise Reject("no", requeue=True)

    one = app.task(name="one")(lambda x: x)
    assert reject.apply().state == "REJECTED"
    result = one.apply(())
    assert (result.state, type(result.result)) == ("FAILURE", TypeError)
    assert one.apply((1,), task_id="mine", retries=2).id == "mine"


def test_eager_tasks_inside_tasks_have_frames_of_their_own() -> None:
    """An eager run inside a run neither disturbs the outer request nor leaves its own behind."""
    bench = Bench()
    inner = bench.app.task(name="inner", bind=True)(lambda self: [self.request.id, self.request.is_eager])

    @bench.app.task(name="outer", bind=True)
    def outer(self: Any) -> list[Any]:
        result = inner.apply()
        with pytest.raises(RuntimeError, match="within a task"):
            result.get()
        return [result.get(disable_sync_subtasks=False), result.id, self.request.id, self.request.is_eager]

    result = outer.delay()
    bench.work()
    (inner_id, eager), sent_id, outer_id, outer_eager = result.get()
    assert (inner_id, eager, outer_id, outer_eager) == (sent_id, True, result.id, False)


def test_errors_propagate_where_configured() -> None:
    """``task_eager_propagates`` raises the task's error from the call; ``throw`` decides for one call."""
    app = Bench(task_always_eager=True, task_eager_propagates=True).app
    bad = app.task(name="bad")(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bad.delay()
    assert bad.apply(throw=False).state == "FAILURE"


def test_callback_that_cannot_run_is_the_caller_s_error() -> None:
    """An eager run with a callback nobody knows raises, as in Celery."""
    app = Bench().app
    with pytest.raises(KeyError):
        app.task(name="t")(lambda: 1).apply(link={"task": "nobody"})


@pytest.mark.parametrize("options", [{"countdown": 1e12}, {"expires": 1e12}, {"countdown": "10"}])
def test_times_that_cannot_be_sent_fail_here_too(options: Any) -> None:
    """Delays are not waited for, and are checked as everywhere."""
    for settings in ({}, {"task_always_eager": True}):
        task = Bench(**settings).app.task(name="t")(lambda: 1)
        with pytest.raises((UnsupportedOption, TypeError), match=r"after the year 9999|a number of seconds"):
            (task.apply_async if settings else task.apply)(**options)
