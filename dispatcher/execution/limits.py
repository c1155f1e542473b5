"""Time limits: how a soft limit interrupts a run, by what the place it runs in can do."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

from dispatcher.exceptions import SoftTimeLimitExceeded

#: How soon the alarm comes again when it met a frame in which an exception would be lost, in seconds.
_AGAIN = 0.01


class LimitKeeper(Protocol):
    """Keeps the limits of one run at a time."""

    #: whether soft limits interrupt code that runs, and code that blocks
    keeps_soft: bool
    #: whether they interrupt anything
    interrupts: bool
    #: whether something ends a run at its hard limit
    keeps_hard: bool
    #: whether a soft limit of infinity ends with the time of the place that runs are in
    keeps_end: bool

    def start(self, soft: float | None, hard: float | None, run: Any) -> None:
        """Arm the limits, in seconds from now."""
        ...

    def stop(self) -> bool:
        """Disarm them; return whether the soft limit was reached."""
        ...


class NoLimits:
    """Keeps no limit; for pools whose start refuses tasks that have one."""

    keeps_soft = False
    interrupts = False
    keeps_hard = False
    keeps_end = False

    def start(self, soft: float | None, hard: float | None, run: Any) -> None:
        """Do nothing."""

    def stop(self) -> bool:
        """Return false."""
        return False


class AlarmLimits:
    """Keeps the soft limit by SIGALRM in the main thread: interrupts loops, sleeps, locks and system calls alike.

    Code inside a C call that does not look at signals is interrupted when the call returns. An exception raised in
    ``__del__`` would be lost, so the alarm waits until such a frame is left; where one was lost all the same, in a
    callback of the garbage collector for instance, the alarm comes again.
    """

    keeps_soft = True
    interrupts = True
    keeps_hard = False
    keeps_end = False

    def __init__(self) -> None:
        self._limit = 0.0
        self._armed = False
        self._fired = False
        self._raised: SoftTimeLimitExceeded | None = None
        self._hook_before: Callable[[Any], Any] = sys.unraisablehook

    def install(self) -> None:
        """Take over SIGALRM; call it in the main thread."""
        signal.signal(signal.SIGALRM, self._on_alarm)
        self._watch_for_loss()

    def _watch_for_loss(self) -> None:
        if sys.unraisablehook != self._on_loss:
            self._hook_before = sys.unraisablehook
            sys.unraisablehook = self._on_loss

    def _on_loss(self, unraisable: Any) -> None:
        if self._raised is not None and unraisable.exc_value is self._raised:
            if self._armed:
                signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        else:
            self._hook_before(unraisable)

    def start(self, soft: float | None, hard: float | None, run: Any) -> None:
        """Arm the alarm; a limit that is over already fires at once."""
        self._fired = False
        if soft is not None:
            self._limit = soft
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, max(soft, 0.000_001))

    def stop(self) -> bool:
        """Disarm the alarm."""
        if self._armed:
            self._armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._raised = None
        return self._fired

    def _on_alarm(self, signum: int, frame: FrameType | None) -> None:
        if not self._armed:
            return
        if _in_finalizer(frame):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
            return
        self._fired = True
        self._raised = SoftTimeLimitExceeded(self._limit)
        raise self._raised


class BorrowedAlarm(AlarmLimits):
    """Keeps the soft limit by SIGALRM in a process of the user: handler and timer are put back after each run."""

    def __init__(self) -> None:
        super().__init__()
        self._before: Any = None
        self._due: float | None = None

    def start(self, soft: float | None, hard: float | None, run: Any) -> None:
        """Borrow the alarm and arm it."""
        if soft is not None:
            left = signal.getitimer(signal.ITIMER_REAL)[0]
            self._due = time.monotonic() + left if left else None
            self._before = signal.signal(signal.SIGALRM, self._on_alarm) or signal.SIG_DFL
            self._watch_for_loss()
        super().start(soft, hard, run)

    def stop(self) -> bool:
        """Disarm the alarm and give it back, with what is left of a timer that was running."""
        fired = super().stop()
        if self._before is not None:
            signal.signal(signal.SIGALRM, self._before)
            self._before = None
            sys.unraisablehook = self._hook_before
            if self._due is not None:
                signal.setitimer(signal.ITIMER_REAL, max(self._due - time.monotonic(), 0.000_001))
        return fired


def borrowed_limits() -> LimitKeeper:
    """Return what keeps soft limits here without taking over the process."""
    if hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread():
        return BorrowedAlarm()
    return ThreadLimits()


def _in_finalizer(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


class ThreadLimits:
    """Keeps the soft limit in a thread by raising asynchronously: interrupts Python code, not a blocking call.

    Threads may share it: each has its own run.
    """

    keeps_soft = False
    interrupts = True
    keeps_hard = False
    keeps_end = False

    def __init__(self) -> None:
        self._timers = threading.local()

    def start(self, soft: float | None, hard: float | None, run: Any) -> None:
        """Arm a timer thread that raises in the calling thread."""
        self._timers.mine = None if soft is None else _ThreadTimer(soft)

    def stop(self) -> bool:
        """Disarm the calling thread's timer."""
        timer: _ThreadTimer | None = getattr(self._timers, "mine", None)
        return timer is not None and timer.disarm()


class _ThreadTimer:
    """Raises once in the thread that made it, unless it is disarmed before."""

    def __init__(self, soft: float) -> None:
        self._lock = threading.Lock()
        self._armed = True
        self._fired = False
        self._timer = threading.Timer(soft, self._raise_in, (threading.get_ident(),))
        self._timer.daemon = True
        self._timer.start()

    def disarm(self) -> bool:
        """Raise no more; return whether it has raised."""
        with self._lock:
            self._armed = False
        self._timer.cancel()
        return self._fired

    def _raise_in(self, thread_id: int) -> None:
        import ctypes

        with self._lock:
            if self._armed:
                self._fired = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread_id), ctypes.py_object(SoftTimeLimitExceeded)
                )
