"""The beat of a worker: a thread beside its own, or, where the worker forks, a child process that is replaced."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from typing import Any, Final

from dispatcher.beat.service import Beat

logger = logging.getLogger("dispatcher.beat")

#: How long a beat has to give up its lease when the worker ends, in seconds.
_GRACE: Final = 5.0
#: How long after a beat has died the next is started, in seconds.
_PAUSE: Final = 1.0


class BeatThread:
    """A beat in this process."""

    def __init__(self, app: Any) -> None:
        self._beat = Beat(app)
        self._thread = threading.Thread(target=self._run, name="beat", daemon=True)

    def start(self) -> None:
        """Begin to fire."""
        self._thread.start()

    def look(self) -> None:
        """A thread needs no looking after."""

    def stop(self) -> None:
        """End it, and wait until its lease is free."""
        self._beat.stop()
        self._thread.join(_GRACE)

    def _run(self) -> None:
        try:
            self._beat.start(embedded=True)
        except Exception as error:
            logger.critical("the beat of this worker has ended, nothing is fired here: %r", error, exc_info=error)


class BeatProcess:
    """A beat in a child process; `look` replaces one that died."""

    def __init__(self, app: Any) -> None:
        Beat(app)  # what cannot work is an error of the worker's start
        app.close()  # nothing that was opened may be shared across the fork
        self._app = app
        self._process: Any = None
        self._again_at = 0.0
        self._parent = os.getpid()

    def start(self) -> None:
        """Fork it."""
        self._process = multiprocessing.get_context("fork").Process(target=self._run, name="beat")
        self._process.start()

    def look(self) -> None:
        """Replace it if it died; call it often."""
        process = self._process
        if process is None:
            if time.monotonic() >= self._again_at:
                self.start()
        elif not process.is_alive():
            logger.error("the beat of this worker ended (exit code %s); starting another", process.exitcode)
            process.join()
            self._process, self._again_at = None, time.monotonic() + _PAUSE

    def stop(self) -> None:
        """End it, and wait until its lease is free."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        process.join(_GRACE)
        if process.is_alive():
            process.kill()
            process.join()

    def _run(self) -> None:
        beat = _Child(self._app, self._parent)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal signals the whole group; the parent decides
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: beat.stop())
        try:
            beat.start(embedded=True)
        finally:
            self._app.close()


class _Child(Beat):
    """A beat that ends with its parent."""

    def __init__(self, app: Any, parent: int) -> None:
        super().__init__(app)
        self._parent = parent

    def tick(self) -> float:
        """Fire what is due, unless the worker is gone."""
        if os.getppid() != self._parent:
            logger.error("the worker of this beat is gone")
            self.stop()
            return 0.0
        return super().tick()


def embedded_beat(app: Any, forks: bool) -> BeatThread | BeatProcess:
    """Return the beat of a worker that forks or does not; raises `ImproperlyConfigured` where an entry is wrong."""
    return BeatProcess(app) if forks else BeatThread(app)
