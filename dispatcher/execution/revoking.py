"""Revoking: flags tasks so that no worker starts them, and ends those at once that are known to wait."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from dispatcher import states
from dispatcher.backends.base import ResultBackend, Revocation, TaskRecord, Write
from dispatcher.backends.meta import ResultMeta
from dispatcher.brokers.base import Broker
from dispatcher.clock import Clock
from dispatcher.exceptions import OperationalError, TaskRevokedError, UnsupportedOption
from dispatcher.execution import handover
from dispatcher.message import check_option

logger = logging.getLogger("dispatcher.worker")

#: A flag's life, in seconds: it has to outlive the message, whose ETA is not known where the task is revoked by its id.
KEPT: Final = 400 * 86_400.0
#: A task due within so many seconds may be running on a worker whose clock is ahead.
_SURELY_WAITING: Final = 5.0

_BY_SIGNAL: Final = {signal.SIGTERM: Revocation.TERM, signal.SIGKILL: Revocation.KILL}


class RevokingApp(Protocol):
    """What revoking needs of an app."""

    clock: Clock

    @property
    def conf(self) -> Any:
        """The configuration."""
        ...

    @property
    def backend(self) -> ResultBackend:
        """The result backend."""
        ...

    @property
    def broker(self) -> Broker:
        """The broker."""
        ...


def revocation_of(terminate: bool, signal_name: str | int | None) -> Revocation:
    """Return what ``revoke(terminate=…, signal=…)`` asks for; signals as in Celery: ``"SIGKILL"``, ``"KILL"`` or 9.

    Raises `UnsupportedOption` for a signal that cannot work.
    """
    if signal_name is None:
        return Revocation.TERM if terminate else Revocation.FLAG
    if not terminate:
        raise UnsupportedOption(f"signal={signal_name!r} cannot work without terminate=True: nothing is signalled")
    try:
        found = _BY_SIGNAL.get(_signal_of(signal_name))
    except (KeyError, ValueError):
        raise UnsupportedOption(f"signal={signal_name!r} cannot work: there is no such signal") from None
    if found is None:
        raise UnsupportedOption(
            f"signal={signal_name!r} cannot work: a run is ended by SIGTERM or SIGKILL; for a task that is to clean "
            "up, use soft_time_limit= or dispatcher.contrib.abortable"
        )
    return found


def _signal_of(name: str | int) -> signal.Signals:
    if isinstance(name, int):
        return signal.Signals(name)
    upper = name.upper()
    return signal.Signals[upper if upper.startswith("SIG") else f"SIG{upper}"]


def revoke(app: RevokingApp, ids: Sequence[str], revocation: Revocation, etas: Mapping[str, float]) -> None:
    """Flag tasks, and record those as REVOKED that surely wait: for a retry, or for an ETA in ``etas`` (by id).

    Others become REVOKED when their messages are next delivered, since they may be running: a run that is not ended
    keeps its outcome. A message that waits outside of its queue is brought there at once, where that can be done.
    Raises `TypeError` or `ValueError` for what cannot be a task's id.
    """
    for task_id in ids:
        check_option("task_id", "id", task_id)
    now = app.clock.time()
    latest = max(etas.values(), default=now)
    app.backend.revoke(ids, max(now + KEPT, max(now, latest) + app.conf.record_retention), revocation)
    records = app.backend.read(ids)
    writes = [_end_of_wait(app, record, now) for record in records.values() if _waits(record, etas, now)]
    app.backend.write(writes)  # one that meanwhile runs after all, or is final, stands against its write
    if app.conf.broker_url:  # the embedded one keeps every message in its queue
        _bring_forward(app.broker, [task_id for task_id in ids if not _is_over(records.get(task_id))])


def _bring_forward(broker: Broker, ids: Sequence[str]) -> None:
    """Let the messages of revoked tasks end now what waits for these tasks; the flag ends them later in any case."""
    try:
        broker.bring_forward(ids)
    except OperationalError as error:
        logger.warning("revoked tasks that wait for their ETA end only when they are due: %s", error)


def _is_over(record: TaskRecord | None) -> bool:
    return record is not None and record.final


def _waits(record: TaskRecord, etas: Mapping[str, float], now: float) -> bool:
    due = None
    if record.status == states.RETRY:
        due = record.not_before
    elif record.status == states.PENDING and not (record.gen or record.retries):
        due = etas.get(record.id)
    return due is not None and not record.final and not record.starts and due - now > _SURELY_WAITING


def _end_of_wait(app: RevokingApp, record: TaskRecord, now: float) -> Write:
    meta = ResultMeta(error=TaskRevokedError("revoked"), date_done=round(now, 3))
    if app.conf.result_expires:
        meta.visible_until = round(now + app.conf.result_expires, 3)
    token, successor = os.urandom(16).hex(), handover.successor(record)
    if successor is not None:  # the message that waits has to know itself: it tells what follows the task
        token = handover.naming(token, successor)
    return Write(
        id=record.id, status=states.REVOKED, gen=record.gen, attempt=record.retries, retries=record.retries, final=True,
        token=token, expires_at=now + KEPT, data=meta.encode(), exists=True,
    )  # fmt: skip
