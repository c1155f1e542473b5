"""Lead: the row by which several beats agree who fires, and up to which time everything has been fired.

It is a row among the records of tasks, changed by the same conditional writes as the locks of unique tasks. The lease
saves work and decides nothing: what two beats fire at the same time is one task.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from typing import Any, Final

from dispatcher.backends.base import ResultBackend, TaskRecord, Write
from dispatcher.message import LOCK_PREFIX

logger = logging.getLogger("dispatcher.beat")
#: The row outlives any outage that somebody would want made up for, in seconds.
_KEPT: Final = 10 * 366 * 86_400.0
_STATUS: Final = "BEAT"


@dataclasses.dataclass(frozen=True, slots=True)
class Lead:
    """What the row says; times are epoch seconds. Version 0 stands for a row that is not there.

    ``upto`` is until when all that was due has been fired, for the entries that are ``known``: what is due to another
    since then is not missed, it was not there. ``steady`` is the ``upto`` from which the clock leapt ahead last, or
    from which on there was no beat for a while; 0 for none.
    """

    app: str
    version: int = 0
    holder: str = ""
    until: float = 0.0
    upto: float = 0.0
    known: frozenset[str] = frozenset()
    steady: float = 0.0

    def is_led_by_another(self, holder: str, now: float) -> bool:
        """Say whether another beat fires for now."""
        return bool(self.holder) and self.holder != holder and self.until > now

    def changed(self, **fields: Any) -> Lead:
        """Return the next version."""
        return dataclasses.replace(self, version=self.version + 1, **fields)


def row_id(app: str) -> str:
    """Return the id of an app's row."""
    return f"{LOCK_PREFIX}beat/{app}"


def read(backend: ResultBackend, app: str) -> Lead:
    """Read the row of an app."""
    return _of(app, backend.read([row_id(app)]).get(row_id(app)))


def swap(backend: ResultBackend, before: Lead, after: Lead, now: float) -> Lead | None:
    """Make ``after`` of ``before``; return `None` if that was still what is there, else what is."""
    fields = [after.holder, after.until, after.upto, sorted(after.known), after.steady]
    write = Write(
        id=row_id(after.app), status=_STATUS, gen=0, attempt=before.version, retries=after.version, final=False,
        token=os.urandom(8).hex(), expires_at=now + _KEPT, data=json.dumps(fields, separators=(",", ":")),
        exists=before.version > 0,
    )  # fmt: skip
    [stood] = backend.write([write])
    return None if stood is None else _of(after.app, stood)


def _of(app: str, record: TaskRecord | None) -> Lead:
    if record is None:
        return Lead(app)
    try:
        # An older release writes no time at the end, a newer one may write more.
        holder, until, upto, known, *more = json.loads(record.data)
        steady = float(more[0]) if more else 0.0
        return Lead(app, record.retries, str(holder), float(until), float(upto), frozenset(known), steady)
    except (TypeError, ValueError) as error:
        logger.warning("the beat's row %s cannot be read and is written anew: %s", record.id, error)
        return Lead(app, record.retries)
