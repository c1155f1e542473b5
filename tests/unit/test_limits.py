"""Time limits: what interrupts a run, and that nothing is left armed."""

import gc
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher.exceptions import SoftTimeLimitExceeded
from dispatcher.execution.limits import AlarmLimits, NoLimits, ThreadLimits, _ThreadTimer


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """Put back the handler of the alarm."""
    before, hook = signal.getsignal(signal.SIGALRM), sys.unraisablehook
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    sys.unraisablehook = hook


def _spin() -> None:
    while True:
        sum(range(100))


@pytest.fixture
def limits() -> AlarmLimits:
    """Installed alarm limits."""
    made = AlarmLimits()
    made.install()
    return made


def test_alarm_interrupts_loops_and_waits(limits: AlarmLimits) -> None:
    """The soft limit ends a loop, a lock and a system call alike."""
    for block in (_spin, lambda: threading.Event().wait(), lambda: signal.pause()):
        limits.start(0.01, None, None)
        with pytest.raises(SoftTimeLimitExceeded):
            block()
        assert limits.stop()


def test_run_that_ends_in_time_is_not_interrupted(limits: AlarmLimits) -> None:
    """Disarming says that nothing fired, and nothing fires later."""
    limits.start(30, None, None)
    assert not limits.stop()
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    limits.start(None, 5, None)
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert not limits.stop()


def test_late_signal_is_no_interruption(limits: AlarmLimits) -> None:
    """An alarm that arrives after the run is over is dropped."""
    limits.start(30, None, None)
    limits.stop()
    signal.raise_signal(signal.SIGALRM)


def test_alarm_in_a_finalizer_comes_again(limits: AlarmLimits) -> None:
    """An exception in ``__del__`` would be lost, so the limit waits until that is left."""

    class Slow:
        def __del__(self) -> None:
            for _ in range(200_000):
                pass
            signal.raise_signal(signal.SIGALRM)

    def finalize_and_spin() -> None:
        slow = Slow()
        del slow
        gc.collect()
        _spin()

    limits.start(20, None, None)
    with pytest.raises(SoftTimeLimitExceeded):
        finalize_and_spin()
    assert limits.stop()


def test_limit_lost_in_a_callback_comes_again(limits: AlarmLimits) -> None:
    """An exception in a weak reference's callback goes nowhere; the limit is raised again where it is heard."""

    class Thing:
        pass

    def lose_and_spin() -> None:
        thing = Thing()
        reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGALRM))
        del thing
        assert reference() is None
        _spin()

    limits.start(20, None, None)
    with pytest.raises(SoftTimeLimitExceeded):
        lose_and_spin()
    assert limits.stop()


def test_thread_is_interrupted_in_python_code() -> None:
    """`ThreadLimits` raise in the thread that runs; other threads are left alone."""
    ends: list[str] = []

    def work(soft: float | None) -> None:
        limits = ThreadLimits()
        limits.start(soft, None, None)
        try:
            if soft is None:
                ends.append("fine")
            else:
                _spin()
        except SoftTimeLimitExceeded:
            ends.append("interrupted")
        finally:
            limits.stop()

    threads = [threading.Thread(target=work, args=(soft,)) for soft in (0.01, None)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends) == ["fine", "interrupted"]


def test_threads_share_what_keeps_their_limits() -> None:
    """One `ThreadLimits` keeps the limits of many threads, each those of its own run."""
    limits, ends, interrupted = ThreadLimits(), dict[str, bool](), threading.Event()

    def work(name: str, soft: float) -> None:
        limits.start(soft, None, None)
        try:
            if name == "short":
                _spin()
            assert interrupted.wait(30)
        except SoftTimeLimitExceeded:
            interrupted.set()
        finally:
            ends[name] = limits.stop()

    threads = [threading.Thread(target=work, args=each) for each in [("long", 60), ("short", 0.05), ("other", 60)]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert ends == {"long": False, "short": True, "other": False}


def test_nothing_keeps_limits_where_none_can_be_kept() -> None:
    """`NoLimits` says so."""
    limits = NoLimits()
    limits.start(0.001, 0.001, None)
    assert (limits.stop(), limits.keeps_soft, limits.keeps_hard) == (False, False, False)


def test_a_timer_that_comes_late_leaves_the_next_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that was reached just as its run ended is not the limit of the run after it."""
    late, go = threading.Event(), threading.Event()
    reach = _ThreadTimer._raise_in

    def reach_late(*arguments: Any) -> None:
        late.set()
        go.wait(30)
        reach(*arguments)

    monkeypatch.setattr(_ThreadTimer, "_raise_in", reach_late)
    limits = ThreadLimits()
    limits.start(0.001, None, None)
    assert late.wait(30)
    timer = limits._timers.mine._timer
    assert limits.stop() is False
    limits.start(60, None, None)
    go.set()
    timer.join(30)
    assert limits.stop() is False
