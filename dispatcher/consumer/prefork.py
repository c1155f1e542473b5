"""The prefork pool: child processes that each run a consumer loop, and a parent that watches them.

A child fetches for itself, so no message passes through the parent. The parent replaces children that end, and ends a
child whose run reached its hard limit; it then records that run's failure itself.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from dispatcher import signals
from dispatcher.brokers.base import Delivery
from dispatcher.consumer.loop import BrokerTransport, ConsumerLoop
from dispatcher.consumer.terminations import Terminate
from dispatcher.exceptions import DispatcherError, ImproperlyConfigured
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from dispatcher.execution.limits import AlarmLimits
from dispatcher.execution.run import Run, ShutdownNow, shut_down_now

logger = logging.getLogger("dispatcher.worker")

#: How long a cold shutdown waits for a child to hand back its messages, in seconds.
COLD_GRACE = 5.0
#: So many children in a row that end before they are ready end the worker.
_TOO_OFTEN = 10
#: What a child tells its parent once it is ready to receive.
_READY = "ready"
#: Signals that stop a worker. They wait while a child is made, so that it is known and has handlers of its own.
_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class Termination(NamedTuple):
    """A child's request to be ended, because the task it runs was revoked."""

    signum: signal.Signals
    delivery: Delivery


class HardLimits(AlarmLimits):
    """Keeps the soft limit by alarm, and tells the parent of runs that have a hard one.

    Raises `ShutdownNow` at the start of such a run when the parent is gone.
    """

    keeps_hard = True

    def __init__(self, parent: Connection) -> None:
        super().__init__()
        self._parent = parent
        self._told = False
        #: a thread besides the main one talks to the parent as well
        self._lock = threading.Lock()

    def start(self, soft: float | None, hard: float | None, run: Any) -> None:
        """Arm the alarm, and tell the parent when to kill."""
        if hard is not None:
            try:
                self._tell((hard, run.delivery))
            except OSError as error:
                # The parent is gone, and nobody would end this run: it goes back, and this process ends.
                raise ShutdownNow from error
            self._told = True
        super().start(soft, hard, run)

    def stop(self) -> bool:
        """Disarm both."""
        try:
            return super().stop()
        finally:  # also where the alarm strikes right here
            if self._told:
                self._told = False
                self._tell_end()

    def end(self, run: Run, signum: signal.Signals) -> None:
        """Have the parent end this process with its run; without a parent it ends itself, and the message comes again.

        Whoever gets the message then finds the task revoked.
        """
        try:
            self._tell(Termination(signum, run.delivery))
        except OSError:
            os.kill(os.getpid(), signal.SIGKILL)

    def _tell(self, told: Any) -> None:
        with self._lock:
            self._parent.send(told)

    def _tell_end(self) -> None:
        try:
            self._tell(None)
        except OSError as error:
            logger.error("the worker's main process is gone: %s", error)


@dataclasses.dataclass(slots=True)
class _Child:
    process: Any
    pipe: Connection
    number: int
    ready: bool = False
    kill_at: float | None = None
    limit: float = 0.0
    delivery: Delivery | None = None
    ending: Termination | None = None
    #: whether we killed it, because of a limit or because its task was revoked
    killed: bool = False


class PreforkPool:
    """Runs ``concurrency`` children; ``make_loop(limits, number)`` builds the loop inside a child.

    ``beside`` is called about once a second, to look after another process.
    """

    def __init__(
        self,
        app: Any,
        concurrency: int,
        make_loop: Callable[[Any, int, Callable[[], None], Terminate], ConsumerLoop],
        hostname: str,
        beside: Callable[[], None] | None = None,
    ) -> None:
        if not hasattr(os, "fork"):
            raise ImproperlyConfigured("the prefork pool needs fork(), which this system lacks; use --pool=threads")
        self.app = app
        self.concurrency = concurrency
        self.hostname = hostname
        self._make_loop = make_loop
        self._beside = beside
        self._context = multiprocessing.get_context("fork")
        self._children: dict[int, _Child] = {}
        self._stopping = False
        self._cold_deadline: float | None = None
        self._failed_starts = 0
        self._gave_up = False
        self._pid = 0

    def run(self) -> int:
        """Run until stopped; return the exit code."""
        self._pid = os.getpid()
        # What is there by now is there for good. Children that look it through for garbage would write to every page of
        # it, and so have a copy of their own of all that could be shared.
        gc.collect()
        gc.freeze()
        try:
            return self._run()
        finally:
            gc.unfreeze()

    def _run(self) -> int:
        for number in range(self.concurrency):
            self._spawn(number)
        while self._children:
            self._watch()
            if self._beside is not None and not self._stopping:
                self._beside()
            if self._failed_starts >= _TOO_OFTEN and not self._gave_up:
                logger.critical("%d children in a row ended before they were ready; giving up", self._failed_starts)
                self._gave_up = True
                self.stop()
        return 1 if self._gave_up else 0

    def stop(self) -> None:
        """Begin a warm shutdown: children finish their runs and hand back the rest."""
        self._stopping = True
        self._signal_children(signal.SIGTERM)

    def terminate(self) -> None:
        """Begin a cold shutdown: children hand everything back, and are killed if they do not in time."""
        self._stopping = True
        if self._cold_deadline is None:
            self._cold_deadline = time.monotonic() + COLD_GRACE
        self._signal_children(signal.SIGQUIT)

    def pids(self) -> list[int]:
        """Return the children's process ids."""
        return [child.process.pid for child in self._children.values()]

    # -- the parent's side

    def _spawn(self, number: int) -> None:
        signals.worker_before_create_process.send(self)
        ours, theirs = multiprocessing.Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        try:
            process = self._context.Process(
                target=self._child_main, args=(theirs, number, unblocked), name=f"{self.hostname}-{number}"
            )
            process.start()
            theirs.close()
            self._children[process.sentinel] = _Child(process, ours, number)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)

    def _watch(self) -> None:
        sources: list[Any] = list(self._children)
        sources.extend(child.pipe for child in self._children.values() if not child.pipe.closed)
        for source in wait(sources, timeout=self._patience()):
            if not isinstance(source, int):
                self._listen(next(child for child in self._children.values() if child.pipe is source))
        # Asking each, too: a child's sentinel stays silent while a process that its task has forked lives on.
        for sentinel, child in list(self._children.items()):
            if not child.process.is_alive():
                self._bury(sentinel)
        now = time.monotonic()
        for child in list(self._children.values()):
            if child.ending is not None:
                self._end(child)
            elif child.kill_at is not None and now >= child.kill_at:
                self._kill_overdue(child)
            elif self._cold_deadline is not None and now >= self._cold_deadline:
                logger.warning("child %d did not hand back in time; killing it", child.process.pid)
                child.process.kill()

    def _patience(self) -> float:
        due = [child.kill_at for child in self._children.values() if child.kill_at is not None]
        if self._cold_deadline is not None:
            due.append(self._cold_deadline)
        return max(0.0, min([1.0, *(moment - time.monotonic() for moment in due)]))

    def _listen(self, child: _Child) -> None:
        try:
            told = child.pipe.recv()
        except (EOFError, OSError):
            child.pipe.close()
            return
        if told == _READY:
            child.ready = True
        elif isinstance(told, Termination):
            child.ending = told
        elif told is None:
            child.kill_at = child.delivery = None
        else:
            child.limit, child.delivery = told
            child.kill_at = time.monotonic() + child.limit

    def _kill_overdue(self, child: _Child) -> None:
        while not child.pipe.closed and child.pipe.poll():
            self._listen(child)
            if child.kill_at is None:
                return
        logger.error("hard time limit (%g s) reached: killing child %d", child.limit, child.process.pid)
        child.killed = True
        child.process.kill()
        child.process.join()
        delivery, child.delivery, child.kill_at = child.delivery, None, None
        if delivery is not None:
            self._record(lambda executor: executor.abandon(delivery, child.limit))

    def _end(self, child: _Child) -> None:
        """Kill a child whose task was revoked, and record that."""
        ending, child.ending, child.kill_at, child.killed = child.ending, None, None, True
        assert ending is not None
        logger.warning("killing child %d: its task was revoked", child.process.pid)
        child.process.kill()
        child.process.join()
        self._record(lambda executor: executor.end_revoked(ending.delivery, ending.signum))

    def _record(self, what: Callable[[Executor], Any]) -> None:
        """Record the end of a run whose child is gone."""
        env = Environment(
            app=self.app, backend=self.app.backend, transport=BrokerTransport(self.app.broker), clock=self.app.clock,
            hostname=self.hostname,
        )  # fmt: skip
        executor = Executor(env)
        try:
            what(executor)
        except DispatcherError as error:
            # The message comes again when its lease ends, and is counted against the crash budget.
            logger.error("the end of a killed run cannot be recorded: %s", error)
        finally:
            executor.close()
            # A child forked later must not share these connections.
            self.app.close()

    def _bury(self, sentinel: int) -> None:
        child = self._children.pop(sentinel)
        child.process.join()
        code = child.process.exitcode
        while not child.pipe.closed and child.pipe.poll():
            self._listen(child)
        child.pipe.close()
        delivery = child.delivery
        if child.ending is not None:
            self._end(child)
        elif delivery is not None and not self._stopping:
            # Known because its run has a hard limit: others come again when their lease ends, and then count.
            self._record(lambda executor: executor.lose(delivery))
        signals.worker_process_shutdown.send(self, pid=child.process.pid, exitcode=code)
        self._failed_starts = 0 if child.ready else self._failed_starts + 1
        if self._stopping:
            return
        if code and not child.killed:
            logger.error("child %d ended unexpectedly (exit code %s); starting another", child.process.pid, code)
        self._spawn(child.number)

    def _signal_children(self, number: signal.Signals) -> None:
        for child in self._children.values():
            if child.process.is_alive():
                os.kill(child.process.pid, number)

    # -- the child's side

    def _child_main(self, parent: Connection, number: int, unblocked: set[signal.Signals | int]) -> None:
        for child in self._children.values():  # pipes of siblings came along with the fork
            child.pipe.close()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal signals the whole group; the parent decides
        limits = HardLimits(parent)
        limits.install()
        loop: ConsumerLoop | None = None

        def stop_if_orphaned() -> None:
            if loop is not None and os.getppid() != self._pid:
                loop.stop()

        def terminate(run: Run, signum: signal.Signals) -> bool:
            if loop is not None and loop.leases.make_last(run):
                limits.end(run, signum)
            return True

        def warm(signum: int, frame: Any) -> None:
            if loop is not None:
                loop.stop()

        def cold(signum: int, frame: Any) -> None:
            warm(signum, frame)  # a task may swallow the exception
            shut_down_now()

        signal.signal(signal.SIGTERM, warm)
        signal.signal(signal.SIGQUIT, cold)
        signals.worker_process_init.send(self)
        try:
            loop = self._make_loop(limits, number, stop_if_orphaned, terminate)
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            if self._stopping:
                loop.stop()
            parent.send(_READY)
            loop.run()
        except ShutdownNow:
            logger.info("child %d handed back what it held", os.getpid())
        finally:
            signal.signal(signal.SIGQUIT, signal.SIG_IGN)  # there is nothing more to hand back
            self.app.close()
