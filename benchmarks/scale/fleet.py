"""Lambda as the model has it: execution environments that start, stay warm and are only so many."""

from __future__ import annotations

from typing import Final

from benchmarks.scale import facts
from benchmarks.scale.timeline import Timeline

_WINDOW: Final = 10.0


class Account:
    """The invocations at a time that all functions of an account share."""

    def __init__(self, concurrency: int = facts.ACCOUNT_CONCURRENCY) -> None:
        self.concurrency = concurrency
        self.busy = 0
        self.most = 0


class Fleet:
    """The execution environments of one function."""

    def __init__(self, timeline: Timeline, account: Account) -> None:
        self.cold_starts = 0
        self.throttled = 0
        self._timeline = timeline
        self._account = account
        #: when each environment that has nothing to do fell idle, the latest last
        self._idle: list[float] = []
        self._allowance = float(facts.ENVIRONMENTS_IN_TEN_SECONDS)
        self._allowed_at = timeline.now

    def acquire(self) -> float | None:
        """Take an environment; return the seconds it needs to start, or `None` where there is none to be had."""
        if self._account.busy >= self._account.concurrency:
            self.throttled += 1
            return None
        oldest = self._timeline.now - facts.ENVIRONMENT_LIFETIME
        if self._idle and self._idle[-1] >= oldest:
            self._idle.pop()
            wait = 0.0
        elif self._may_start():
            self._idle.clear()
            self.cold_starts += 1
            wait = facts.COLD_START
        else:
            self.throttled += 1
            return None
        self._account.busy += 1
        self._account.most = max(self._account.most, self._account.busy)
        return wait

    def release(self) -> None:
        """Give an environment back."""
        self._account.busy -= 1
        self._idle.append(self._timeline.now)

    def _may_start(self) -> bool:
        now = self._timeline.now
        rate = facts.ENVIRONMENTS_IN_TEN_SECONDS / _WINDOW
        self._allowance = min(
            float(facts.ENVIRONMENTS_IN_TEN_SECONDS), self._allowance + rate * (now - self._allowed_at)
        )
        self._allowed_at = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True
