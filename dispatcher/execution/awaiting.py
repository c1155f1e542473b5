"""What waits for a task lives as long as it waits: the joins it is in, and the results that are read with its own.

A join and a result live for the usual time from the last that was heard of them. A member that is retried later than
that, or again and again without ever ending, says so here. That is before its retry is recorded, so that a crash in
between leads to another run, which says it again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Final

from dispatcher.backends.joins import Join
from dispatcher.canvas import plan
from dispatcher.exceptions import BackendError, DispatcherError, OperationalError
from dispatcher.execution.admission import runs_once
from dispatcher.execution.environment import Environment
from dispatcher.execution.run import Kind, Outcome, Run
from dispatcher.execution.workflow import header_of, life_of, member_of
from dispatcher.serialization import json_decode

logger = logging.getLogger("dispatcher.worker")

#: Waits of less than this share of the usual life cost no call, but for one in so many: together half of that life.
_LONG: Final = 1 / 64
_EVERY: Final = 32
#: Lives are rounded up to this share, so that members that wait at the same time ask for the same.
_GRID: Final = 1 / 4
#: How far clocks are apart, in seconds.
_SKEW: Final = 60.0
#: How many records are read at a time.
_PAGE: Final = 100


def keep(env: Environment, run: Run) -> None:
    """Have what waits for a run, and what it reads itself, outlive the wait that was decided, where that is long.

    Where the backend cannot be reached the delivery is handed back.
    """
    message, outcome = run.message, run.outcome
    if message is None or outcome is None or env.eager or not (message.chord or message.header):
        return
    now = env.clock.time()
    usual = life_of(env.app.conf, now) - now
    if outcome.delay < usual * _LONG and run.retries % _EVERY != _EVERY - 1:
        return
    step = usual * _GRID
    until = (math.ceil((now + outcome.delay + usual) / step) + 1) * step  # later than any mark has it
    try:
        if message.header is not None:
            _keep_results(env, plan.ids_of_header(header_of(message.header)), until)
        _keep_joins(env, member_of(message.chord), until, step)
    except (OperationalError, BackendError) as error:
        if runs_once(run):
            logger.error("what waits for %s may be gone when it is done: %s", run.id, error)
            return
        logger.error("what waits for %s cannot be kept, its message goes back: %s", run.id, error)
        run.outcome = Outcome(Kind.HANDED_BACK, delay=env.backoff(run.delivery.receive_count))


def _keep_joins(env: Environment, place: plan.Member | None, until: float, step: float) -> None:
    """Keep the join of a place, and those around it, from the outside: where the inner one is kept, all of them are.

    A join lives longer before its results are looked up, so that whoever is marked meanwhile keeps its own, and to the
    very end after that: what dies in between does all of it again.
    """
    joins: list[tuple[Join, Mapping[str, str]]] = []
    while place is not None and place.size:
        join = env.backend.read_joins([place.id]).get(place.id)
        if join is None or join.until >= until - _SKEW:
            break
        body = json_decode(join.body)
        joins.append((join, body.get("ids", {})))
        place = member_of(body.get("place"))
    for join, own in reversed(joins):
        env.backend.prolong_join(join.id, until - step)
        _keep_results(env, plan.ids_of_header(header_of({"id": join.id, "n": join.size, "ids": own})), until)
        env.backend.prolong_join(join.id, until)


def _keep_results(env: Environment, ids: Sequence[str], until: float) -> None:
    """Keep the results that there are of these tasks, and of what they have added to their group."""
    for start in range(0, len(ids), _PAGE):
        records = env.backend.read(ids[start : start + _PAGE])
        env.backend.prolong(list(records), until)
        for task_id, record in records.items():
            if '"added"' not in record.data:
                continue
            try:
                added = env.app.read_meta(record).complete().added
            except (OperationalError, BackendError):
                raise
            except DispatcherError as error:
                logger.warning("what %s has added to its chord cannot be read: %s", task_id, error)
                continue
            if added:
                _keep_results(env, plan.ids_of_addition(plan.addition(task_id, added)), until)
