"""The guard: settles for a runtime that hangs in a task past its time, or dies, and ends it.

It is a process, because code that holds the interpreter's lock keeps every thread of its own process from running. It
is forked while the runtime has one thread and none of its AWS clients was used, and then serves every invocation.

Lambda ends an environment when the process that it has started ends. So that a guard has the time to settle after a
death, the process that Lambda has started becomes the guard and the runtime goes on in its child, unless there are
threads, which a child would lose: then the guard is the child.
"""

from __future__ import annotations

import logging
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

from dispatcher import aws
from dispatcher.lambda_runtime.progress import Batch, Progress
from dispatcher.lambda_runtime.rescue import Cause

logger = logging.getLogger("dispatcher.worker")

#: How a guard settles a batch.
Settle = Callable[[Batch, Cause], None]

#: How long a stopped process may take to stand still, in seconds.
_STAND_STILL: Final = 0.25
#: What runs longer than this in the guard is given up: a hook of the user's, a call that hangs; in seconds.
_PATIENCE: Final = 60
_PASSED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def fork_guard(progress: Progress, settle: Settle, *, early: bool) -> None:
    """Fork; return in the runtime only, guarded.

    ``early`` says that no AWS client was used yet. Raises `OSError` where the system does not fork.
    """
    if not hasattr(os, "fork"):
        raise OSError("it has no fork()")
    reading, writing = os.pipe()
    runtime_pid = os.getpid()
    take_over = aws.lend() if early else None
    as_child = not early or _has_threads()
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        forked = os.fork()
    except OSError:
        os.close(reading)
        os.close(writing)
        raise
    if (forked == 0) is as_child:
        os.close(writing)
        if as_child and take_over is not None:
            take_over()
        _Guard(progress, settle, runtime_pid if as_child else forked, reading, is_parent=not as_child).stay()
    if not as_child and take_over is not None:
        take_over()
    os.close(reading)
    os.set_blocking(writing, False)
    progress.wake = _waker(writing)


def _has_threads() -> bool:
    """Say whether this process has threads, those that Python does not know of included."""
    try:
        return len(os.listdir("/proc/self/task")) > 1
    except OSError:
        return threading.active_count() > 1


def _waker(pipe: int) -> Callable[[], None]:
    complained = False

    def wake() -> None:
        nonlocal complained
        try:
            os.write(pipe, b"w")
        except BlockingIOError:
            pass  # it has been woken often enough
        except OSError as error:
            if not complained:
                complained = True
                logger.error("the guard process is gone; hard limits are not kept until the next cold start: %s", error)

    return wake


class _Guard:
    """The guard's side of the fork."""

    def __init__(self, progress: Progress, settle: Settle, pid: int, pipe: int, *, is_parent: bool) -> None:
        self._progress = progress
        self._settle = settle
        self._pid = pid
        self._pipe = pipe
        self._is_parent = is_parent
        self._status = 0

    def stay(self) -> NoReturn:
        """Watch until the runtime is gone; then end like it."""
        code = 1
        try:
            self._own_signals()
            self._watch()
            code = self._exit_code()
        except BaseException as error:
            logger.critical("the guard failed: %r", error, exc_info=error)
            code = self._outlive()
        finally:
            logging.shutdown()
            os._exit(code)

    def _own_signals(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, _give_up)
        for number in _PASSED_ON:
            signal.signal(number, self._pass_on if self._is_parent else signal.SIG_IGN)

    def _pass_on(self, number: int, frame: Any) -> None:
        _signal(self._pid, signal.Signals(number))

    def _watch(self) -> None:
        """Return when the runtime is gone, by itself or by us, and its batch settled."""
        progress = self._progress
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        dying = _pidfd(self._pid)
        if dying is not None:
            poll.register(dying, select.POLLIN)
        while True:
            now = time.monotonic()
            if progress.overdue(now) and self._step_in():
                return
            at = progress.look_again_at(now)
            if progress.look_again_at(now) < at:
                continue  # a batch began between the two looks
            timeout = None if at == math.inf else max(0.0, at - now) * 1000 + 1
            for descriptor, events in poll.poll(timeout):
                if descriptor == dying or not events & select.POLLIN:
                    self._mourn()
                    return
                os.read(self._pipe, 512)

    def _step_in(self) -> bool:
        """Stop the runtime; if it is overdue still, settle for it and end it."""
        _signal(self._pid, signal.SIGSTOP)
        _await_standstill(self._pid)
        now = time.monotonic()
        if not self._progress.overdue(now):
            _signal(self._pid, signal.SIGCONT)
            return False
        batch = self._progress.batch(now)
        cause = Cause.LIMIT if any(entry.limit is not None for entry in batch.entries) else Cause.DEADLINE
        self._settle_in_time(batch, cause)
        _signal(self._pid, signal.SIGKILL)
        if self._is_parent:
            self._reap()
            self._status = 1 << 8  # not "killed", which would look like a lack of memory
        return True

    def _mourn(self) -> None:
        """Settle what a dead runtime has left."""
        if self._is_parent:
            self._reap()
        if self._progress.under_way:
            self._settle_in_time(self._progress.batch(time.monotonic()), Cause.DEATH)

    def _settle_in_time(self, batch: Batch, cause: Cause) -> None:
        signal.alarm(_PATIENCE)
        self._settle(batch, cause)
        signal.alarm(0)

    def _reap(self) -> None:
        self._status = os.waitpid(self._pid, 0)[1]

    def _exit_code(self) -> int:
        """Return the runtime's exit status; where a signal has ended it, end by the same."""
        if os.WIFSIGNALED(self._status):
            number = os.WTERMSIG(self._status)
            if number != signal.SIGKILL:
                signal.signal(number, signal.SIG_DFL)
            logging.shutdown()
            _signal(os.getpid(), signal.Signals(number))
        return os.WEXITSTATUS(self._status) if os.WIFEXITED(self._status) else 1

    def _outlive(self) -> int:
        """Let the runtime go on unguarded."""
        if not self._is_parent:
            return 1
        _signal(self._pid, signal.SIGCONT)
        self._reap()
        return self._exit_code()


def _give_up(number: int, frame: Any) -> NoReturn:
    raise TimeoutError(f"the guard could not settle within {_PATIENCE} s")


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _pidfd(pid: int) -> int | None:
    """Return a descriptor that shows the end of a process also while a process that it has forked holds its pipe."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _await_standstill(pid: int) -> None:
    """Wait until every instruction of a stopped process has had its effect, for as long as that takes at most."""
    until = time.monotonic() + _STAND_STILL
    while time.monotonic() < until:
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:
                state = stat.read().rpartition(b")")[2].split()[0]
        except OSError:
            return
        if state in b"TtZXx":
            return
        time.sleep(0.000_5)
