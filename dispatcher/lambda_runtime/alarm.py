"""The soft limit's alarm in a Lambda function: one timer for a batch, not two system calls for each of its tasks."""

from __future__ import annotations

import math
import signal
import time
from types import FrameType
from typing import Any, Final

from dispatcher.execution.limits import AlarmLimits

#: How much later than its limit a task may be interrupted, in seconds, to save setting the timer again.
TOLERANCE: Final = 0.001


class BatchAlarm(AlarmLimits):
    """Keeps soft limits by an alarm that stays set from task to task.

    Most tasks of a batch have the same limit, the end of the invocation. An alarm that is set for an earlier time than
    the running task's limit is set again when it rings.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ends = self._due = self._rings_at = math.inf
        self._run: Any = None

    def begin_batch(self, ends: float = math.inf) -> None:
        """Have all tasks end by a time of the monotonic clock, where it is known.

        No timer that was set before is trusted: a task may have set it for something else.
        """
        self._rings_at = math.inf
        self._ends = ends
        self.keeps_end = ends != math.inf

    def end_batch(self) -> None:
        """Switch the timer off; a frozen environment would wake up to it."""
        if self._rings_at != math.inf:
            self._rings_at = math.inf
            signal.setitimer(signal.ITIMER_REAL, 0)

    def start(self, soft: float | None, hard: float | None, run: Any) -> None:
        """Have the alarm ring at the limit and at the end of the batch, or before."""
        self._fired = False
        if soft is None:
            return
        due = self._ends
        if soft != math.inf:
            due = min(due, time.monotonic() + soft)
        self._due, self._limit, self._run = due, soft, run
        self._armed = True
        if due < self._rings_at - TOLERANCE:
            self._ring_in(due - time.monotonic())

    def stop(self) -> bool:
        """Let the alarm ring in vain from here on."""
        self._armed = False
        self._raised = None
        return self._fired

    def _ring_in(self, seconds: float) -> None:
        seconds = max(seconds, TOLERANCE)
        self._rings_at = time.monotonic() + seconds
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def _on_alarm(self, signum: int, frame: FrameType | None) -> None:
        self._rings_at = math.inf
        left = self._due - time.monotonic()
        if self._armed and left > TOLERANCE:
            self._ring_in(left)
        else:
            if self._due == self._ends and self._run is not None:
                self._limit = self._due - self._run.begun
            super()._on_alarm(signum, frame)
