"""Routing: which queue a call goes to, by ``task_routes`` (dict, globs, patterns, functions)."""

from __future__ import annotations

import fnmatch
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from dispatcher.exceptions import ImproperlyConfigured, QueueNotFound

Route = Mapping[str, Any]
Router = Callable[..., Any]

#: What a route may set besides the queue.
ROUTE_OPTIONS = frozenset({
    "queue", "priority", "serializer", "compression", "expires", "time_limit", "soft_time_limit", "ignore_result",
    "MessageGroupId", "headers", "countdown",
})  # fmt: skip


def queue_name(wanted: Any) -> str:
    """Return the name of a queue, given by it or by an object that has one; raise `TypeError` for anything else."""
    name = wanted if isinstance(wanted, str) else getattr(wanted, "name", None)
    if not isinstance(name, str) or not name:
        raise TypeError(f"queue must be a queue's name, or an object that has one, not {wanted!r}")
    return str.__str__(name)


class Routes:
    """``task_routes`` ready to ask; answers that depend on the name alone are remembered."""

    def __init__(self, routes: Any, queues: Mapping[str, Any] | None, default_queue: str, create_missing: bool) -> None:
        self._queues = queues
        self._default = default_queue
        self._create_missing = create_missing
        self._routers = [_router(item) for item in _as_routers(routes)]
        #: whether the answer depends on nothing but the task's name
        self.by_name_only = all(isinstance(router, _Table) for router in self._routers)
        self._known: dict[str, dict[str, Any]] = {}

    @classmethod
    def of(cls, conf: Any) -> Self:
        """Return the routes of an app's settings."""
        return cls(conf.task_routes, conf.task_queues, conf.task_default_queue, bool(conf.task_create_missing_queues))

    def home(self, task: Any) -> str:
        """Return the queue of a call without arguments that names none; routers that are functions may raise."""
        return self.queue(
            task.queue if task.queue is not None else self.route(task.name, (), {}, {}, task).get("queue")
        )

    def route(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any], task: Any
    ) -> dict[str, Any]:
        """Return the options of the first router that knows the task; empty if none does."""
        if self.by_name_only:
            known = self._known.get(name)
            if known is None:
                known = self._known[name] = self._ask(name, (), {}, {}, task)
            return known
        return self._ask(name, args, kwargs, options, task)

    def queue(self, wanted: Any) -> str:
        """Return the name of the wanted queue, or of the default one.

        Raises `QueueNotFound` for a queue that is not declared, while ``task_create_missing_queues`` is off.
        """
        name = self._default if wanted is None else queue_name(wanted)
        if not self._create_missing and name != self._default and name not in (self._queues or {}):
            raise QueueNotFound(
                f"queue {name!r} is not declared in task_queues, and task_create_missing_queues is off; "
                f"declared: {', '.join(sorted(self._queues or {})) or 'none'}"
            )
        return name

    def _ask(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any], task: Any
    ) -> dict[str, Any]:
        for router in self._routers:
            if isinstance(router, _Table):
                answer = router.find(name)
            else:
                ask = getattr(router, "route_for_task", None)
                # Celery's older form of a router, a method, gets no more than this.
                answer = ask(name, args, kwargs) if ask else router(name, args, kwargs, options, task=task)
            if answer is not None:
                return _checked(answer, name)
        return {}


def import_routers(routes: Any) -> None:
    """Import the routers of ``task_routes`` that a text names; raises `ImproperlyConfigured` for one that cannot be."""
    for item in _as_routers(routes):
        if isinstance(item, str):
            _imported(item)


def _router(item: Any) -> Any:
    """Return a router ready to ask: a table, a function or an object with ``route_for_task``; a text names one."""
    if isinstance(item, str):
        item = _imported(item)
    if isinstance(item, Mapping):
        return _Table(item)
    if isinstance(item, type):
        item = item()
    if not callable(item) and not callable(getattr(item, "route_for_task", None)):
        raise ImproperlyConfigured(
            f"task_routes: {item!r} is no router; use a dict, a list of pairs, a function of (name, args, kwargs, "
            "options, task=None), or the import path of one"
        )
    return item


def _imported(path: str) -> Any:
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ImproperlyConfigured(f"task_routes: the router {path!r} cannot be imported: {error}") from error


class _Table:
    """A dict of routes: exact names first, then globs and patterns in their order."""

    def __init__(self, table: Mapping[Any, Any]) -> None:
        self._exact = {key: value for key, value in table.items() if isinstance(key, str) and not _is_glob(key)}
        self._patterns = [
            (re.compile(fnmatch.translate(key)) if isinstance(key, str) else key, value)
            for key, value in table.items()
            if not isinstance(key, str) or _is_glob(key)
        ]

    def find(self, name: str) -> Any:
        if name in self._exact:
            return self._exact[name]
        for pattern, value in self._patterns:
            if pattern.match(name):
                return value
        return None


def _is_glob(text: str) -> bool:
    return any(character in text for character in "*?[")


def _as_routers(routes: Any) -> list[Any]:
    if routes is None:
        return []
    if isinstance(routes, list | tuple):
        # Celery also takes a list of (pattern, route) pairs, by itself or inside a list of routers.
        if routes and all(_is_pair(item) for item in routes):
            return [dict(routes)]
        return [_table_of(item) if isinstance(item, list | tuple) else item for item in routes]
    return [routes]


def _is_pair(item: Any) -> bool:
    return isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[0], str | re.Pattern)


def _table_of(item: Sequence[Any]) -> dict[Any, Any]:
    return {item[0]: item[1]} if _is_pair(item) else dict(item)


def _checked(answer: Any, name: str) -> dict[str, Any]:
    if isinstance(answer, str):
        return {"queue": answer}
    if not isinstance(answer, Mapping):
        raise ImproperlyConfigured(f"the route of {name} must be a queue's name or a dict of options, not {answer!r}")
    route = dict(answer)
    foreign = {key for key in ("exchange", "routing_key", "exchange_type", "delivery_mode") if route.pop(key, None)}
    if foreign and "queue" not in route:
        raise ImproperlyConfigured(
            f"the route of {name} names {', '.join(sorted(foreign))} and no queue: there are no AMQP exchanges here; "
            "use {'queue': …}"
        )
    unknown = route.keys() - ROUTE_OPTIONS
    if unknown:
        raise ImproperlyConfigured(
            f"the route of {name} has the unknown option {', '.join(sorted(unknown))}; "
            f"known: {', '.join(sorted(ROUTE_OPTIONS))}"
        )
    return route
