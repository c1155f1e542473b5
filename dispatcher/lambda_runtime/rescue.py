"""Settling a batch in place of the runtime that has it, because that hangs or died."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from dispatcher.app import Dispatcher
from dispatcher.brokers.base import Broker, Delivery, Settlement
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from dispatcher.execution.watch import Decided
from dispatcher.lambda_runtime.progress import DECIDED, DONE, ENDED, RUNNING, WAITING, Batch, Entry
from dispatcher.lambda_runtime.transport import ClosingTransport

logger = logging.getLogger("dispatcher.worker")


class Cause(Enum):
    """Why a batch needs a rescue."""

    #: a run is past its hard limit
    LIMIT = "a task is past its hard limit"
    #: the time of the invocation is over
    DEADLINE = "tasks still run at the end of the invocation"
    #: the process that ran the batch is gone
    DEATH = "the runtime died"


def rescue(app: Dispatcher, broker: Broker, batch: Batch, cause: Cause, hostname: str) -> None:
    """Delete what is done, record what is decided, end or count what runs, and release the rest at once.

    Each step is done whatever becomes of the one before: what cannot be settled comes back after its visibility
    timeout, and finds in its record what was written.
    """
    transport = ClosingTransport(broker, app.clock)  # type: ignore[arg-type]
    env = Environment(app=app, backend=app.backend, transport=transport, clock=app.clock, hostname=hostname)
    executor = Executor(env)

    def those(*stages: int) -> list[Entry]:
        return [entry for entry in batch.entries if entry.stage in stages]

    done = [entry.delivery for entry in those(DONE)]
    _step("deleting what is done", lambda: transport.settle([Settlement(each, "ack") for each in done]))
    decided = [(entry.delivery, _decision(entry)) for entry in those(DECIDED)]
    _step("recording what is decided", lambda: _conclude(executor, decided))
    for entry in those(ENDED):
        _step("looking up what was decided", _looking_up(executor, entry))
    running = those(RUNNING)
    # Where several coroutines run, those are to blame that are over their own limit.
    over = [entry for entry in running if entry.limit is not None]
    for entry in running:
        _step("ending what runs", _ending(executor, entry, batch, cause, blamed=not over or entry in over))
    waiting = [Settlement(entry.delivery, "release") for entry in those(WAITING)]
    _step("releasing the rest", lambda: transport.settle(waiting))


def _conclude(executor: Executor, decided: Sequence[tuple[Delivery, Decided]]) -> None:
    if decided:
        executor.conclude(decided)


def _decision(entry: Entry) -> Decided:
    assert entry.decided is not None
    return entry.decided


def _looking_up(executor: Executor, entry: Entry) -> Callable[[], Any]:
    """Return the step for a run whose outcome is known to its record only, if at all."""
    return lambda: executor.give_up(entry.delivery)


def _ending(executor: Executor, entry: Entry, batch: Batch, cause: Cause, *, blamed: bool) -> Callable[[], Any]:
    """Return the step for a run that was under way."""
    if cause is Cause.DEATH:
        return lambda: executor.lose(entry.delivery)
    if not blamed:
        return lambda: executor.give_up(entry.delivery)
    limit = entry.limit if entry.limit is not None else round(batch.lasted, 3)
    return lambda: executor.abandon(entry.delivery, limit)


def _step(what: str, step: Callable[[], Any]) -> None:
    try:
        step()
    except Exception:
        logger.exception("%s failed; messages come back after the queue's visibility timeout", what)
