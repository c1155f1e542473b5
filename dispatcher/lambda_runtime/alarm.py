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
        self._due = math.inf
        self._rings_at = math.inf

    def begin_batch(self) -> None:
        """Trust no timer that was set before: a task may have set it for something else."""
        self._rings_at = math.inf

    def end_batch(self) -> None:
        """Switch the timer off; a frozen environment would wake up to it."""
        if self._rings_at != math.inf:
            self._rings_at = math.inf
            signal.setitimer(signal.ITIMER_REAL, 0)

    def start(self, soft: float | None, hard: float | None, run: Any) -> None:
        """Have the alarm ring at the limit, or before it."""
        self._fired = False
        if soft is None:
            return
        self._limit = soft
        self._due = due = time.monotonic() + soft
        self._armed = True
        if due < self._rings_at - TOLERANCE:
            self._ring_in(soft)

    def stop(self) -> bool:
        """Let the alarm ring in vain from here on."""
        self._armed = False
        self._raised = None
        return self._fired

    def _ring_in(self, seconds: float) -> None:
        self._rings_at = time.monotonic() + seconds
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.000_001))

    def _on_alarm(self, signum: int, frame: FrameType | None) -> None:
        self._rings_at = math.inf
        left = self._due - time.monotonic()
        if self._armed and left > TOLERANCE:
            self._ring_in(left)
        else:
            super()._on_alarm(signum, frame)
