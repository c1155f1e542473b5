"""What results need of an app, and how a record reads as a value."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Protocol

from dispatcher import states
from dispatcher.backends.base import ResultBackend, TaskRecord
from dispatcher.backends.meta import ResultMeta
from dispatcher.exceptions import SoftTimeLimitExceeded, TaskError, TaskRevokedError
from dispatcher.serialization import exception_from_wire
from dispatcher.state import current_frame


class ResultReader(Protocol):
    """What a result needs of an app."""

    @property
    def backend(self) -> ResultBackend:
        """The place where records are."""
        ...

    def read_meta(self, record: TaskRecord) -> ResultMeta:
        """Decode a record's data under the app's settings."""
        ...

    def revoke_tasks(
        self, ids: list[str], terminate: bool = ..., signal: str | int | None = ..., etas: Mapping[str, float] = ...
    ) -> None:
        """Flag tasks so that they do not start any more, and end their runs if asked to."""
        ...

    def record_state(self, task_id: str, status: str, meta: Any) -> None:
        """Write an open state of a task."""
        ...

    def now_seconds(self) -> float:
        """The time, in epoch seconds."""
        ...


_may_join: ContextVar[bool] = ContextVar("dispatcher_may_join", default=False)


@contextlib.contextmanager
def allow_join_result() -> Iterator[None]:
    """Let a task wait for other tasks inside the ``with`` block, at its own risk."""
    token = _may_join.set(True)
    try:
        yield
    finally:
        _may_join.reset(token)


@contextlib.contextmanager
def denied_join_result() -> Iterator[None]:
    """Keep a task from waiting for others inside the ``with`` block again."""
    token = _may_join.set(False)
    try:
        yield
    finally:
        _may_join.reset(token)


def assert_will_not_block() -> None:
    """Raise `RuntimeError` inside a task: waiting for another task there can starve the workers."""
    if current_frame() is not None and not _may_join.get():
        raise RuntimeError(
            "Never call result.get() within a task: the worker it waits on may be this one. "
            "Use link=, or pass disable_sync_subtasks=False if you are sure."
        )


def raisable(value: Any) -> BaseException:
    """Return the exception to raise for the value of a task that failed or was revoked."""
    if isinstance(value, Exception | SoftTimeLimitExceeded):
        return value
    if isinstance(value, BaseException):  # a task's SystemExit or KeyboardInterrupt must not end its caller
        return TaskError(f"the task raised {value!r}")
    return TaskError(f"the task failed: {value!r}")


def value_of(record: TaskRecord, meta: ResultMeta) -> Any:
    """Return what a record stands for: the return value, the exception, or the meta of a custom state.

    Raises `PayloadMissing` and `OperationalError` where it is in a payload store that does not give it.
    """
    meta.complete()
    if meta.error is not None:
        return meta.error
    if record.status in states.EXCEPTION_STATES and isinstance(meta.result, Mapping) and "exc_type" in meta.result:
        return _described_error(meta.result)
    if record.status == states.REVOKED:
        return TaskRevokedError("revoked")
    return meta.result


def _described_error(meta: Mapping[str, Any]) -> BaseException:
    """Return the exception that a task described in Celery's form: ``exc_type``, ``exc_message``, ``exc_module``."""
    message = meta.get("exc_message", ())
    arguments = list(message) if isinstance(message, list | tuple) else [message]
    module = meta.get("exc_module") or "builtins"
    return exception_from_wire({"type": str(meta["exc_type"]), "module": str(module), "args": arguments})
