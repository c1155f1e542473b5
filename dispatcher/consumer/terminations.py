"""Terminations: ends runs whose tasks were revoked with ``terminate``, as far as the pool can."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Final

from dispatcher.backends.base import ResultBackend, Revocation, TaskRecord
from dispatcher.exceptions import OperationalError
from dispatcher.execution.run import Run

logger = logging.getLogger("dispatcher.worker")

#: How often the records of runs that take longer than this are read, in seconds: one read for all of a consumer's.
INTERVAL: Final = 2.0
SIGNALS: Final = {Revocation.TERM: signal.SIGTERM, Revocation.KILL: signal.SIGKILL}

#: Begins to end a run; returns false where the pool cannot end this one.
Terminate = Callable[[Run, signal.Signals], bool]


class Terminations:
    """Reads the revocations of a consumer's long runs, in a thread of its own: a store that hangs delays no lease.

    ``running`` returns the runs under way, ``terminate`` ends one.
    """

    def __init__(self, backend: ResultBackend, running: Callable[[], Sequence[Run]], terminate: Terminate) -> None:
        self._backend = backend
        self._running = running
        self._terminate = terminate
        self._seen: Sequence[Run] = ()
        #: runs that are being ended, or that the pool cannot end
        self._told: list[Run] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; call it after a fork."""
        self._thread = threading.Thread(target=self._run, name="dispatcher-terminations", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end; a read under way is not waited for."""
        self._stop.set()

    def look(self) -> None:
        """Read the records of the runs that were there at the last look as well, and end those that are to end."""
        running = list(self._running())
        told = [run for run in self._told if _among(run, running)]
        lasting = [run for run in running if _among(run, self._seen) and not _among(run, told) and _revocable(run)]
        self._seen, self._told = running, told
        if not lasting:
            return
        records = self._backend.read([run.id for run in lasting])
        for run in lasting:
            signum = _asked(run, records.get(run.id))
            if signum is not None and run.outcome is None:
                self._told.append(run)
                self._end(run, signum)

    def _end(self, run: Run, signum: signal.Signals) -> None:
        if self._terminate(run, signum):
            logger.warning("%s[%s] was revoked: ending its run (%s)", _name(run), run.id, signum.name)
        else:
            logger.error(
                "%s[%s] was revoked with terminate=True, but nothing here can end its run: it goes on and keeps its "
                "outcome; prefork can end any run, asyncio coroutines", _name(run), run.id,
            )  # fmt: skip

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            try:
                self.look()
            except OperationalError as error:
                logger.warning("revocations cannot be read at the moment: %s", error)
            except Exception:  # the thread has to live as long as its consumer
                logger.exception("revocations cannot be read at the moment")


def _among(run: Run, runs: Sequence[Run]) -> bool:
    return any(run is other for other in runs)


def _revocable(run: Run) -> bool:
    return run.task is not None and bool(run.task.revocable)


def _asked(run: Run, record: TaskRecord | None) -> signal.Signals | None:
    """Return the signal that a run is to be ended by, `None` where it may go on or is not the record's any more."""
    if record is None or record.final or run.message is None or record.gen > run.message.gen:
        return None
    return SIGNALS.get(Revocation(record.revoked))


def _name(run: Run) -> str:
    return run.message.task if run.message is not None else "?"
