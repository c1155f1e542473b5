"""Leases of unique tasks: of the runs of one key only one goes on at a time, and only its outcome counts.

A run takes the lease of its key before its code starts. Its outcome is recorded and the lease given up in one write,
which fails if another run has taken the lease over meanwhile. The lock is read before the record and is changed by
every outcome, so that a run which gets the lease on what was read then starts on a record that still holds.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any

from dispatcher.backends import locks
from dispatcher.backends.base import TaskRecord, Write
from dispatcher.backends.locks import Lock, row_id
from dispatcher.exceptions import USER_ERRORS, BackendError, OperationalError
from dispatcher.execution.environment import Environment
from dispatcher.execution.heartbeat import LEASE, extended_claim
from dispatcher.execution.run import Kind, Outcome, Run, format_traceback
from dispatcher.message import Message, own_args
from dispatcher.unique import Scope, Uniqueness

logger = logging.getLogger("dispatcher.worker")

#: How often a change of a lock is tried again when others change it at the same time.
_ATTEMPTS = 50


class LeaseLost(Exception):
    """Another run has taken the lease over."""


def name(env: Environment, run: Run) -> None:
    """Find the key of a run whose task is unique: its message's, or, sent by a process that has no task, its own."""
    message, task = run.message, run.task
    if message is None or env.eager:
        return
    if message.unique is not None:
        run.lock = Lock(message.unique)
    elif task is not None and task._uniqueness is not None and run.outcome is None and not _absent_arguments(message):
        try:
            run.lock = Lock(task._uniqueness.key_of(message.args, message.kwargs))
        except USER_ERRORS as error:  # of the user's function; the neighbours have no part in it
            run.outcome = Outcome(Kind.FAILURE, error=error, traceback=format_traceback(error))


def _absent_arguments(message: Message) -> bool:
    if message.header is not None and own_args(message.args) is message.args:
        return True
    return message.payload is not None and not message.args and not message.kwargs


def read(env: Environment, runs: Sequence[Run]) -> None:
    """Name and read the locks of runs, before their records are read."""
    for run in runs:
        if run.lock is None:
            name(env, run)
    named = [run for run in runs if run.lock is not None]
    if named:
        found = env.backend.read([row_id(_key(run)) for run in named])
        for run in named:
            run.lock = lock = Lock.of(_key(run), found.get(row_id(_key(run))))
            if run.ended and lock.running == run.id:
                run.fence = lock.fence  # the lease passes on to whoever watched it end


def _key(run: Run) -> str:
    assert run.lock is not None
    return run.lock.key


def held_by_another(env: Environment, run: Run, now: float) -> Outcome | None:
    """Return the hand-back of a run whose key another run has the lease of; waits grow, and end with the lease."""
    lock = run.lock
    left = lock.lease_left(now) if lock is not None else 0.0
    if lock is None or left <= 0 or run.fence:
        return None
    logger.info("%s waits: %s runs with the same key, %s", run.id, lock.running, lock.key)
    return Outcome(Kind.HANDED_BACK, delay=min(left, env.backoff(run.delivery.receive_count)))


def take(env: Environment, run: Run) -> bool:
    """Take the lease of a run's key; false where the lock is another than was read, so that all must be read anew."""
    lock, message, rule = run.lock, run.message, _rule(run)
    assert lock is not None and message is not None
    now = env.clock.time()
    until = now + _seconds(env)
    claim: dict[str, Any] = {}
    if rule is not None and rule.scope is Scope.QUEUED and not lock.is_claimed(now):
        claim = {"owner": message.id, "claimed_until": max(until, rule.claim_ends(message, now)), "sent": True}
    elif lock.owner == message.id and rule is not None and rule.scope is Scope.WAITING:
        claim = {"owner": "", "claimed_until": 0.0, "sent": False}
    elif lock.owner == message.id:
        claim = {"sent": True, **extended_claim(run, lock, until)}
    leased = lock.with_lease(message.id, run.token, until, now, **claim)
    if locks.swap(env.backend, lock, leased, now) is not None:
        return False
    run.lock, run.fence = leased, leased.fence
    if env.time_left is None:
        env.heartbeat.hold(run)
    return True


def _rule(run: Run) -> Uniqueness | None:
    return run.task._uniqueness if run.task is not None else None


def _seconds(env: Environment) -> float:
    """Return for how long a lease is taken: until the place that the run is in has ended, or the next heartbeats."""
    if env.time_left is None:
        return LEASE
    conf = env.app.conf
    return max(0.0, env.time_left()) + float(conf.cleanup_margin + conf.settle_margin)


def in_the_way(run: Run, pending: Collection[Run]) -> bool:
    """Say whether a run that is decided but not recorded still has the lease of this run's key."""
    return run.lock is not None and any(
        other.fence and other.lock is not None and other.lock.key == run.lock.key for other in pending
    )


def _taken_over(run: Run, lock: Lock) -> bool:
    """Say whether another run has, or had, the lease after this one; of a row that is gone nothing is known."""
    return lock.fence > run.fence


def write(env: Environment, run: Run, write: Write) -> TaskRecord | None:
    """Record a run's state and what it means for its lock as one; return the record that stood against it.

    Raises `LeaseLost`, and `OperationalError` where the store cannot be reached or others change the lock all the time.
    """
    env.heartbeat.drop(run)
    assert run.lock is not None
    for _ in range(_ATTEMPTS):
        now, before = env.clock.time(), run.lock
        after = _after(env, run, before, write, now)
        if after is None:
            run.fence = 0
            raise LeaseLost
        if after is before:
            [stood] = env.backend.write([write])
            return stood
        [stood, moved] = env.backend.write_together([write, after.write(before, now)])
        if stood is not None:
            return stood
        if moved is None:
            run.lock, run.fence = after, 0
            return None
        run.lock = Lock.of(before.key, moved)
    raise OperationalError(f"the lock {run.lock.key} changes all the time")


def _after(env: Environment, run: Run, lock: Lock, write: Write, now: float) -> Lock | None:
    """Return the lock as it is once a state is recorded, the same where nothing changes, `None` where it is lost."""
    message, rule = run.message, _rule(run)
    assert message is not None
    after = lock
    if run.fence and _taken_over(run, lock):
        return None
    if run.fence:
        after = after.without_lease(now)
    if lock.owner != message.id:
        return after
    if write.final:
        stays = rule is not None and rule.outlasts(write.status)
        return after.changed(now, sent=True) if stays else after.without_claim(now)
    if write.not_before is not None and rule is not None and rule.scope is Scope.QUEUED:
        return after.changed(now, claimed_until=rule.claim_ends(message, write.not_before))
    return after


def release(env: Environment, runs: Sequence[Run]) -> None:
    """Give up the leases of runs that end without a recorded outcome."""
    for run in runs:
        if not run.fence:
            continue
        env.heartbeat.drop(run)
        try:
            _give_up(env, run)
        except (OperationalError, BackendError) as error:
            logger.warning("the lease of %s cannot be given up, it ends by itself: %s", run.id, error)
        run.fence = 0


def _give_up(env: Environment, run: Run) -> None:
    lock = run.lock
    while lock is not None and lock.runner and lock.fence == run.fence:
        now = env.clock.time()
        lock = locks.swap(env.backend, lock, lock.without_lease(now), now)


def forget(env: Environment, runs: Sequence[Run]) -> None:
    """Let leases of runs that ended in nobody's hands run out."""
    for run in runs:
        if run.fence:
            env.heartbeat.drop(run)
