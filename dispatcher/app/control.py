"""Control: what of Celery's remote control works without remote commands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from dispatcher.brokers.base import Broker
from dispatcher.exceptions import UnsupportedOption

#: What Celery's control can do and workers here cannot be told, with what to do instead.
INSTEAD: Final[Mapping[str, str]] = {
    "add_consumer": "start a worker with -Q for the queue",
    "autoscale": "a worker has a fixed size; start more workers, or let Lambda scale",
    "broadcast": "workers take no remote commands",
    "cancel_consumer": "start the worker with other -Q",
    "disable_events": "there is no event stream",
    "enable_events": "there is no event stream; workers log as JSON with --log-format json",
    "heartbeat": "there is no event stream",
    "inspect": "workers are not registered anywhere; `dispatcher status`, `list` and `result` show what is known",
    "mailbox": "workers take no remote commands",
    "ping": "workers are not registered anywhere; ask their supervisor; `dispatcher status` asks broker and backend",
    "pool_grow": "start another worker",
    "pool_restart": "restart the worker by its supervisor; SIGTERM lets it finish what runs",
    "pool_shrink": "stop a worker by SIGTERM, which lets it finish what runs",
    "rate_limit": "set rate_limit on the task",
    "revoke_by_stamped_headers": "stamped headers are not available; revoke by ids",
    "shutdown": "stop workers by SIGTERM, which lets them finish what runs",
    "terminate_by_stamped_headers": "stamped headers are not available; revoke by ids",
    "time_limit": "set time_limit and soft_time_limit on the task, or for a call in apply_async",
}


class ControlledApp(Protocol):
    """What control needs of an app."""

    @property
    def conf(self) -> Any:
        """The configuration."""
        ...

    @property
    def broker(self) -> Broker:
        """The broker."""
        ...

    def revoke_tasks(
        self, ids: list[str], terminate: bool = False, signal: str | int | None = None, etas: Mapping[str, float] = ...
    ) -> None:
        """Flag tasks so that they do not start any more."""
        ...


class Control:
    """The part of Celery's ``app.control`` that works through the stores: revoking, terminating, purging.

    Every other name of Celery's raises `AttributeError`, saying what to do instead.
    """

    def __init__(self, app: ControlledApp) -> None:
        self._app = app

    def revoke(
        self,
        task_id: str | Iterable[str],
        destination: Any = None,
        terminate: bool = False,
        signal: str | int | None = None,
        **kwargs: Any,
    ) -> None:
        """Flag a task, or several, so that no worker starts them any more; see `AsyncResult.revoke`.

        Raises `UnsupportedOption` for ``destination`` and other options of remote commands, `TypeError` or `ValueError`
        for what cannot be a task's id.
        """
        refuse_remote({"destination": destination, **kwargs})
        if not isinstance(task_id, Iterable):
            raise TypeError(f"a task's id is a text, and several are a list of them, not {task_id!r:.100}")
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        self._app.revoke_tasks(ids, terminate, signal)

    def terminate(
        self, task_id: str | Iterable[str], destination: Any = None, signal: str | int | None = None, **kwargs: Any
    ) -> None:
        """Revoke a task, or several, and end their runs; see `AsyncResult.revoke`."""
        self.revoke(task_id, destination, terminate=True, signal=signal, **kwargs)

    def purge(self, connection: Any = None) -> int:
        """Remove the waiting messages of the queues that the app declares for good; return how many."""
        refuse_remote({"connection": connection})
        conf, broker = self._app.conf, self._app.broker
        return sum(broker.purge(name) for name in conf.task_queues or [conf.task_default_queue])

    discard_all = purge

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in INSTEAD:
                raise AttributeError(f"app.control.{name} cannot work here: {INSTEAD[name]}")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def refuse_remote(options: Mapping[str, Any]) -> None:
    """Raise `UnsupportedOption` for options of Celery's remote commands that were given."""
    for name, value in options.items():
        if value not in (None, False):
            raise UnsupportedOption(
                f"{name}={value!r} cannot work: a revocation is a mark in the result backend, and no worker is asked; "
                "leave it out"
            )
