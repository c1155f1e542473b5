"""The fallback for systems that cannot fork: a thread that settles for a runtime whose task is past its time.

It gets to run when the task lets go of the interpreter's lock: not while it loops in C code. It does not see a death.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Final

from dispatcher.lambda_runtime.progress import Batch, Progress
from dispatcher.lambda_runtime.rescue import Cause

logger = logging.getLogger("dispatcher.worker")


class SharedProgress(Progress):
    """A batch that ends for the runtime or for its watchdog, never for both."""

    def __init__(self, *, keeps_values: bool = True) -> None:
        super().__init__(keeps_values=keeps_values)
        self.lock: Final = threading.Lock()

    def end(self) -> None:
        """Note that the runtime is about to answer; does not return once the watchdog has taken over."""
        with self.lock:
            super().end()


class Watchdog(threading.Thread):
    """Watches one `SharedProgress` and ends the process when a run is overdue."""

    def __init__(self, progress: SharedProgress, settle: Callable[[Batch, Cause], None]) -> None:
        super().__init__(name="dispatcher-watchdog", daemon=True)
        self._progress = progress
        self._settle = settle
        self._woken = threading.Event()
        progress.wake = self._woken.set

    def run(self) -> None:
        """Watch for ever."""
        progress = self._progress
        while True:
            self._woken.clear()
            now = time.monotonic()
            if progress.overdue(now):
                self._step_in()
            at = progress.look_again_at(now)
            self._woken.wait(None if at == float("inf") else max(0.0, at - now))

    def _step_in(self) -> None:
        with self._progress.lock:
            now = time.monotonic()
            if not self._progress.overdue(now):
                return
            batch = self._progress.batch(now)
            cause = Cause.LIMIT if any(entry.limit is not None for entry in batch.entries) else Cause.DEADLINE
            try:
                self._settle(batch, cause)
            finally:
                logging.shutdown()
                os._exit(1)
