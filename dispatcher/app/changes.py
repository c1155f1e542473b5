"""What an app can do to tasks that were sent: give them a state, revoke them, let go of their locks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dispatcher.request import Context
from dispatcher.task import Task

if TYPE_CHECKING:
    from dispatcher.app.control import Control


class Changes:
    """The part of an app that changes what becomes of tasks; mixed into it."""

    @property
    def _app(self) -> Any:
        return self

    def release_unique(self, task: Task[Any, Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Let the next call of a unique task be sent; `Task.release_lock` comes here."""
        self._app.finalize(auto=True)
        released: bool = self._app._claims.release(task, args, kwargs)
        return released

    def record_state(self, task_id: str, status: str, meta: Any, request: Context | None = None) -> None:
        """Write an open state of a task; ``request`` is that of the task which gives it."""
        from dispatcher.execution.custom_states import record_state

        record_state(self._app, task_id, status, meta, request)

    def revoke_tasks(
        self,
        ids: list[str],
        terminate: bool = False,
        signal: str | int | None = None,
        etas: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Revoke tasks; `AsyncResult.revoke` comes here. ``etas`` are those known of the tasks, in epoch seconds."""
        from dispatcher.execution.revoking import revocation_of, revoke

        revoke(self._app, ids, revocation_of(terminate, signal), etas)

    @property
    def control(self) -> Control:
        """What of Celery's remote control works: revoking, terminating, purging."""
        from dispatcher.app.control import Control

        self._app.finalize(auto=True)
        return Control(self._app)
