"""Locks of unique tasks: one row per key, changed by the same conditional writes as the records of tasks.

A lock says two things about its key. The *claim* says which task stands for it from its call on: others that are called
meanwhile are duplicates of that one. The *lease* says which run may work on it right now. Both end by themselves.
Its ``version`` grows with every change; a change applies only to the version it was decided on. The version of the
change that gave a lease is that lease's *fence*: of two runs of a key the later one has the larger.
"""

from __future__ import annotations

import json
import os
from typing import Any, Final, NamedTuple

from dispatcher.backends.base import ResultBackend, TaskRecord, Write
from dispatcher.message import LOCK_PREFIX

#: How long a row outlives its claim and its lease, in seconds: a new row's versions begin at the time of day, so they
#: exceed an older row's as long as no clock is wrong by more than this.
_KEPT: Final = 86_400.0
#: How much the clocks of two machines may differ before a lease is taken over early, in seconds. Fencing holds anyway.
CLOCK_SKEW: Final = 5.0
_STATUS: Final = "LOCK"


class Lock(NamedTuple):
    """A lock as it was read; times are epoch seconds. Version 0 stands for a row that is not there."""

    key: str
    version: int = 0
    #: the task that has the claim, and whether its message is known to be on its queue
    owner: str = ""
    claimed_until: float = 0.0
    sent: bool = False
    #: the run that has the lease, by its token, and the task it runs
    runner: str = ""
    running: str = ""
    leased_until: float = 0.0
    fence: int = 0

    # -- what it says

    def is_claimed(self, now: float) -> bool:
        """Say whether a task stands for the key."""
        return bool(self.owner) and self.claimed_until > now

    def lease_left(self, now: float) -> float:
        """Return the seconds until nobody can have the lease any more, clocks that differ included; 0 if it is free."""
        return max(0.0, self.leased_until + CLOCK_SKEW - now) if self.runner else 0.0

    # -- how it changes

    def changed(self, now: float, **fields: Any) -> Lock:
        """Return the lock's next version."""
        return self._replace(version=self._next(now), **fields)

    def with_claim(self, task_id: str, until: float, now: float) -> Lock:
        """Return the lock claimed for a task whose message is yet to be sent."""
        return self.changed(now, owner=task_id, claimed_until=until, sent=False)

    def without_claim(self, now: float) -> Lock:
        """Return the lock with nobody standing for its key."""
        return self.changed(now, owner="", claimed_until=0.0, sent=False)

    def with_lease(self, task_id: str, token: str, until: float, now: float, **fields: Any) -> Lock:
        """Return the lock leased to a run, with a new fence; ``fields`` change along with it."""
        return self.changed(now, runner=token, running=task_id, leased_until=until, fence=self._next(now), **fields)

    def without_lease(self, now: float) -> Lock:
        """Return the lock with nobody running."""
        return self.changed(now, runner="", running="", leased_until=0.0)

    def _next(self, now: float) -> int:
        return max(self.version + 1, int(now * 1000))

    # -- its row

    @classmethod
    def of(cls, key: str, record: TaskRecord | None) -> Lock:
        """Read a row."""
        if record is None:
            return cls(key)
        owner, claimed_until, sent, runner, running, leased_until, fence = json.loads(record.data)
        return cls(key, record.retries, owner, claimed_until, sent, runner, running, leased_until, fence)

    def write(self, before: Lock, now: float) -> Write:
        """Return the write that makes this of the version ``before``."""
        fields = [self.owner, self.claimed_until, self.sent, self.runner, self.running, self.leased_until, self.fence]
        return Write(
            id=row_id(self.key), status=_STATUS, gen=0, attempt=before.version, retries=self.version, final=False,
            token=os.urandom(8).hex(), expires_at=max(now, self.claimed_until, self.leased_until) + _KEPT,
            data=json.dumps(fields, separators=(",", ":")), exists=before.version > 0,
        )  # fmt: skip


def row_id(key: str) -> str:
    """Return the id of a key's row."""
    return LOCK_PREFIX + key


def read(backend: ResultBackend, key: str) -> Lock:
    """Read one lock."""
    row = row_id(key)
    return Lock.of(key, backend.read([row]).get(row))


def swap(backend: ResultBackend, before: Lock, after: Lock, now: float) -> Lock | None:
    """Make ``after`` of ``before``; return `None` if that was still what is there, else what is."""
    [stood] = backend.write([after.write(before, now)])
    return None if stood is None else Lock.of(before.key, stood)
