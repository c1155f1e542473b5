"""Heartbeat: keeps the leases of unique tasks while their runs go on."""

from __future__ import annotations

import logging
import threading

from dispatcher.backends import locks
from dispatcher.backends.base import ResultBackend
from dispatcher.backends.locks import Lock
from dispatcher.clock import Clock
from dispatcher.exceptions import DispatcherError
from dispatcher.execution.run import Run
from dispatcher.unique import Scope

logger = logging.getLogger("dispatcher.worker")

#: How long a lease holds without a heartbeat, and the time between two, in seconds.
LEASE = 30.0
_BEAT = 10.0


def extended_claim(run: Run, lock: Lock, until: float) -> dict[str, float]:
    """Return the change by which a running task's claim does not end before its lease; a period ends when it ends."""
    rule = run.task._uniqueness if run.task is not None else None
    if lock.owner != run.id or (rule is not None and rule.scope is Scope.PERIOD):
        return {}
    return {"claimed_until": max(until, lock.claimed_until)}


class Heartbeat:
    """Extends leases from a thread of its own, which lives as long as any is held.

    A thread apart from that of the messages' leases: a result backend that hangs must not make messages come twice.
    """

    def __init__(self, backend: ResultBackend, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock
        self._lock = threading.Lock()
        #: runs and the fences of the leases they have
        self._held: dict[int, tuple[Run, int]] = {}
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def hold(self, run: Run) -> None:
        """Keep the lease of a run from now on."""
        with self._lock:
            self._held[id(run)] = run, run.fence
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dispatcher-heartbeat", daemon=True)
                self._thread.start()

    def drop(self, run: Run) -> None:
        """Keep it no longer."""
        with self._lock:
            self._held.pop(id(run), None)

    def stop(self) -> None:
        """End the thread; leases that are held run out."""
        self._stop.set()

    def beat(self) -> None:
        """Extend every lease that is held."""
        with self._lock:
            held = list(self._held.values())
        for run, fence in held:
            try:
                self._extend(run, fence)
            except DispatcherError as error:
                logger.warning("the lease of %s cannot be extended at the moment: %s", run.id, error)

    def _extend(self, run: Run, fence: int) -> None:
        lock = run.lock
        while lock is not None and self._holds(run):
            now = self._clock.time()
            if lock.fence > fence:
                logger.error(
                    "%s has lost its lease: it stood still, or the result backend was away, for longer than %g s; its "
                    "outcome will not count", run.id, LEASE,
                )  # fmt: skip
                self.drop(run)
                return
            until = now + LEASE
            after = lock.changed(
                now, runner=run.token, running=run.id, fence=fence, leased_until=until,
                **extended_claim(run, lock, until),
            )  # fmt: skip
            stood = locks.swap(self._backend, lock, after, now)
            if stood is None:
                run.lock = after
                return
            lock = stood

    def _holds(self, run: Run) -> bool:
        with self._lock:
            return id(run) in self._held

    def _run(self) -> None:
        while not self._stop.wait(_BEAT):
            with self._lock:
                if not self._held:
                    self._thread = None
                    return
            try:
                self.beat()
            except Exception:  # without this thread a long run of a unique task would be taken over
                logger.exception("leases of unique tasks cannot be extended at the moment")
