"""Abortable tasks: long tasks that look now and then whether somebody wants them to end.

The task asks `AbortableTask.is_aborted`; whoever holds the result calls `AbortableAsyncResult.abort`. The task decides
itself how it ends.
"""

from __future__ import annotations

from typing import Any

from dispatcher.result import AsyncResult
from dispatcher.task import Task

ABORTED = "ABORTED"


class AbortableAsyncResult(AsyncResult[Any]):
    """A result whose task can be asked to end."""

    def is_aborted(self) -> bool:
        """Say whether `abort` was called and the task has not ended since."""
        return self.state == ABORTED

    def abort(self) -> None:
        """Ask the task to end; without effect on one that has ended, or that never looks."""
        if not self.ready():
            self.app.record_state(self.id, ABORTED, None)


class AbortableTask(Task[..., Any]):
    """A task whose results are `AbortableAsyncResult`; use it as ``base=`` with ``bind=True``."""

    abstract = True

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AbortableAsyncResult:  # noqa: N802 - Celery's name
        """Return a handle on a task of this kind by its id."""
        return AbortableAsyncResult(task_id, task_name=self.name, app=self.app, **kwargs)

    def apply_async(self, *args: Any, **kwargs: Any) -> AbortableAsyncResult:
        """Send a message as `Task.apply_async` does."""
        sent = super().apply_async(*args, **kwargs)
        if type(sent) is not AsyncResult:
            return sent  # type: ignore[return-value]
        result = AbortableAsyncResult(sent.id, task_name=self.name, app=self.app)
        result.eta, result.ignored, result.duplicate = sent.eta, sent.ignored, sent.duplicate
        return result

    def is_aborted(self, **kwargs: Any) -> bool:
        """Say whether the running task was asked to end; one read of the result backend."""
        task_id = kwargs.get("task_id", self.request.id)
        return task_id is not None and self.AsyncResult(task_id).is_aborted()
