"""Soft limits in eager mode: kept, and without taking over the process."""

import signal
import threading
import time
from typing import Any

from dispatcher import Dispatcher
from dispatcher.exceptions import SoftTimeLimitExceeded
from dispatcher.execution.limits import BorrowedAlarm


def _app() -> Dispatcher:
    return Dispatcher("eager", set_as_current=False, task_always_eager=True, broker="memory://")


def _endless(*_: Any) -> str:
    try:
        while True:
            pass
    except SoftTimeLimitExceeded:
        return "cleaned up"


def test_soft_limit_is_kept() -> None:
    """A task run eagerly gets SoftTimeLimitExceeded and may clean up, as in a worker."""
    app = _app()
    task = app.task(name="endless", soft_time_limit=0.05)(_endless)
    assert task.delay().get() == "cleaned up"


def test_soft_limit_is_kept_in_a_thread() -> None:
    """Outside the main thread, where there is no alarm, Python code is interrupted all the same."""
    app = _app()
    task = app.task(name="endless", soft_time_limit=0.05)(_endless)
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(task.delay().get()))
    thread.start()
    thread.join(30)
    assert found == ["cleaned up"]


def test_soft_limits_nest() -> None:
    """A task that runs another eagerly still gets its own limit."""
    app = _app()
    inner = app.task(name="inner", soft_time_limit=30)(lambda: "inner")

    def outer() -> str:
        value: str = inner.apply().get(disable_sync_subtasks=False)
        return f"{value}, {_endless()}"

    assert app.task(name="outer", soft_time_limit=0.2)(outer).delay().get() == "inner, cleaned up"


def test_alarm_is_given_back() -> None:
    """The user's own handler and timer are back after the run."""
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 60)
        keeper = BorrowedAlarm()
        keeper.start(10, None, None)
        assert keeper.stop() is False
        assert 50 < signal.getitimer(signal.ITIMER_REAL)[0] <= 60
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        limit = time.monotonic() + 10
        while not rung and time.monotonic() < limit:
            signal.sigtimedwait([], 0.01)
        assert rung == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_linked_task_keeps_its_id() -> None:
    """A linked signature with an id of its own keeps it in eager mode, as it does on a broker."""
    app = _app()
    app.conf.task_store_eager_result = True
    add = app.task(name="add")(lambda x, y: x + y)
    add.apply_async((1, 2), link=add.s(10).set(task_id="receipt"))
    assert app.AsyncResult("receipt").get(timeout=1) == 13
