"""What results need of an app, and how a record reads as a value."""

from __future__ import annotations

from typing import Any, Protocol

from dispatcher import states
from dispatcher.backends.base import ResultBackend, TaskRecord
from dispatcher.backends.meta import ResultMeta
from dispatcher.exceptions import SoftTimeLimitExceeded, TaskError, TaskRevokedError
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

    def revoke_tasks(self, ids: list[str]) -> None:
        """Flag tasks so that they do not start any more."""
        ...

    def record_state(self, task_id: str, status: str, meta: Any) -> None:
        """Write an open state of a task."""
        ...

    def now_seconds(self) -> float:
        """The time, in epoch seconds."""
        ...


def assert_will_not_block() -> None:
    """Raise `RuntimeError` inside a task: waiting for another task there can starve the workers."""
    if current_frame() is not None:
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
    """Return what a record stands for: the return value, the exception, or the meta of a custom state."""
    if meta.error is not None:
        return meta.error
    if record.status == states.REVOKED:
        return TaskRevokedError("revoked")
    return meta.result
