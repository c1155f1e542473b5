"""Settling a batch in place of the runtime that has it, because that hangs or died."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from dispatcher import aws_bounds
from dispatcher.app import Dispatcher
from dispatcher.brokers.base import Broker, Delivery, Settlement
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from dispatcher.execution.watch import Decided
from dispatcher.lambda_runtime import deadline
from dispatcher.lambda_runtime.progress import DECIDED, DONE, ENDED, RUNNING, WAITING, Batch, Entry
from dispatcher.lambda_runtime.transport import ClosingTransport

logger = logging.getLogger("dispatcher.worker")


class Cause(Enum):
    """Why a batch needs a rescue."""

    #: a run is past its hard limit
    LIMIT = "a task is past its hard limit"
    #: the time of the invocation is over
    DEADLINE = "the time of the invocation is up"
    #: the process that ran the batch is gone
    DEATH = "the runtime has died"


class Verdict(Enum):
    """What becomes of a run that was under way."""

    #: it fails with `TimeLimitExceeded`
    OVERDUE = "overdue"
    #: it counts as one that ended its process
    LOST = "lost"
    #: it goes back, as if it had not been started
    INNOCENT = "innocent"


def verdicts(running: Sequence[Entry], cause: Cause) -> list[tuple[Entry, Verdict]]:
    """Decide who is at fault: where coroutines run together, the one that the event loop is in, if it is in any.

    A run that is over its own hard limit fails for it, even if another one kept it from going on.
    """
    culprits = [entry for entry in running if entry.entered] or ([] if cause is Cause.LIMIT else running)
    fault = Verdict.OVERDUE if cause is Cause.DEADLINE else Verdict.LOST
    return [
        (
            entry,
            Verdict.OVERDUE if entry.limit is not None and cause is not Cause.DEATH
            else fault if entry in culprits else Verdict.INNOCENT,
        )
        for entry in running
    ]  # fmt: skip


def rescue(app: Dispatcher, broker: Broker, batch: Batch, cause: Cause, hostname: str) -> None:
    """Delete what is done, release what was not started, record what is decided, and fail or count what runs.

    Each step is done whatever becomes of the one before: what cannot be settled comes back after its visibility
    timeout, and finds in its record what was written.
    """
    aws_bounds.bound(deadline.rescue_bounds(batch.left))
    transport = ClosingTransport(broker, app.clock)  # type: ignore[arg-type]
    env = Environment(app=app, backend=app.backend, transport=transport, clock=app.clock, hostname=hostname)
    executor = Executor(env)

    def those(*stages: int) -> list[Entry]:
        return [entry for entry in batch.entries if entry.stage in stages]

    done = [entry.delivery for entry in those(DONE)]
    _step("deleting what is done", lambda: transport.settle([Settlement(each, "ack") for each in done]))
    # On a FIFO queue, too, before the rest is settled: SQS hands out nothing of a group while one of it is in flight.
    waiting = [Settlement(entry.delivery, "release") for entry in those(WAITING)]
    _step("releasing what was not started", lambda: transport.settle(waiting))
    decided = [(entry.delivery, _decision(entry)) for entry in those(DECIDED)]
    _step("recording what is decided", lambda: _conclude(executor, decided))
    for entry in those(ENDED):
        _step("looking up what was decided", _looking_up(executor, entry))
    for entry, verdict in verdicts(those(RUNNING), cause):  # last, since hooks of the user's are called
        _step("ending what runs", _ending(executor, entry, verdict, batch.lasted))


def _conclude(executor: Executor, decided: Sequence[tuple[Delivery, Decided]]) -> None:
    if decided:
        executor.conclude(decided)


def _decision(entry: Entry) -> Decided:
    assert entry.decided is not None
    return entry.decided


def _looking_up(executor: Executor, entry: Entry) -> Callable[[], Any]:
    """Return the step for a run whose outcome is known to its record only, if at all."""
    return lambda: executor.give_up(entry.delivery)


def _ending(executor: Executor, entry: Entry, verdict: Verdict, lasted: float) -> Callable[[], Any]:
    """Return the step for a run that was under way, in a batch that ``lasted`` so many seconds."""
    if verdict is Verdict.LOST:
        return lambda: executor.lose(entry.delivery)
    if verdict is Verdict.INNOCENT:
        return lambda: executor.give_up(entry.delivery)
    limit = entry.limit if entry.limit is not None else round(lasted, 3)
    return lambda: executor.abandon(entry.delivery, limit)


def _step(what: str, step: Callable[[], Any]) -> None:
    try:
        step()
    except Exception:
        logger.exception("%s failed; messages come back after the queue's visibility timeout", what)
