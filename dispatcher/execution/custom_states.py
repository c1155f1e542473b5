"""States that a task gives itself or another one: written on the same conditions as outcomes, and never final."""

from __future__ import annotations

from typing import Any, Protocol

from dispatcher.backends.base import ResultBackend, TaskRecord, Write
from dispatcher.backends.meta import ResultMeta
from dispatcher.clock import Clock
from dispatcher.execution import handover
from dispatcher.execution.environment import ExecutorApp
from dispatcher.request import Context


class StateApp(ExecutorApp, Protocol):
    """What writing a state needs of an app beside what the executor does."""

    clock: Clock

    @property
    def backend(self) -> ResultBackend:
        """The result backend."""
        ...


def record_state(app: StateApp, task_id: str, status: str, meta: Any, request: Context | None) -> None:
    """Write a state that a task gives itself or another one; ``request`` is that of the task which gives it."""
    own = request if request is not None and request.id == task_id else None
    if own is not None:
        own.update(_state_written=(status, meta))
        if own.is_eager and not app.conf.task_store_eager_result:
            return
    record = app.backend.read([task_id]).get(task_id)
    result = ResultMeta(result=meta, worker=request.hostname if request is not None else None)
    data = app.write_meta(result, app.backend, f"the state {status} of task {task_id}", task_id)
    kept = max(app.conf.result_expires or 0.0, app.conf.record_retention)
    write = state_write(task_id, status, data, record, app.clock.time() + kept, own)
    if write is not None:
        app.backend.write([write])


def state_write(
    task_id: str, status: str, data: str, record: TaskRecord | None, expires_at: float, request: Context | None
) -> Write | None:
    """Return the write for a state that a task gives itself, open, or `None` where the record is past this run.

    ``request`` is that of the run that gives it; without one, the state is for whatever attempt the record is at.
    """
    gen, retries = (request.gen, request.retries) if request is not None else (0, 0)
    if record is not None and (request is None or (record.gen == gen and record.retries <= retries)):
        return Write(
            id=task_id, status=status, gen=record.gen, attempt=record.retries, retries=record.retries, final=False,
            token=record.token, starts=record.starts, not_before=record.not_before,
            expires_at=expires_at, data=data, started_at=record.started_at,
        )  # fmt: skip
    if record is not None and record.gen >= gen:
        return None
    message = request.__dict__.get("_message") if request is not None else None
    return Write(
        id=task_id, status=status, gen=gen, attempt=retries, retries=retries, final=False,
        token=handover.token_of(message), expires_at=expires_at, data=data,
    )  # fmt: skip
