"""The types of structured settings: dicts, queues, routes, annotations, keys."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Final

from dispatcher.config.types import Int, Seconds, Type, mismatch


class Table(Type):
    """A dict with text keys; copied, so that later changes of the caller's dict do not reach the configuration."""

    name = "dict"

    def __init__(self, *known: str) -> None:
        self.known = known

    def convert(self, value: Any) -> dict[str, Any]:
        """Return a copy; with known keys given, refuse others."""
        if not isinstance(value, Mapping):
            raise mismatch("a dict with text keys", value)
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"must be a dict with text keys, and has {key!r:.60} among them")
        if self.known and (unknown := sorted(set(value) - set(self.known))):
            raise ValueError(f"has no key {unknown[0]!r}; it takes {', '.join(self.known)}")
        return dict(value)


class PublishPolicy(Table):
    """How sending is retried; what is left out keeps its default."""

    DEFAULTS: Final[Mapping[str, Any]] = {
        "max_retries": 3,
        "interval_start": 0.0,
        "interval_step": 0.2,
        "interval_max": 1.0,
        "retry_errors": None,
    }

    def __init__(self) -> None:
        super().__init__(*self.DEFAULTS)

    def convert(self, value: Any) -> dict[str, Any]:
        """Return the whole policy; intervals are seconds, ``max_retries=None`` means for ever."""
        policy = {**self.DEFAULTS, **super().convert(value)}
        for key in ("interval_start", "interval_step", "interval_max"):
            policy[key] = Seconds(0).convert(policy[key])
        if policy["max_retries"] is not None:
            policy["max_retries"] = Int(0).convert(policy["max_retries"])
        return policy


class SigningKeys(Type):
    """Secret keys by id; read as a dict of bytes, in order. No error shows a key."""

    name = "dict of keys by id"

    def convert(self, value: Any) -> dict[str, bytes]:
        """Return the keys; raises `ImproperlyConfigured` itself."""
        from dispatcher.security import parse_keys

        if not value or not isinstance(value, str | Mapping | list | tuple):
            raise ValueError("must be a dict of keys by id")
        return parse_keys(value)

    def parse(self, text: str) -> Any:
        """Read a JSON object, or ``id:key`` pairs separated by commas; the text itself is never shown."""
        try:
            return json.loads(text) if text.lstrip().startswith("{") else text
        except ValueError:
            raise ValueError("must be a JSON object of keys by id, or id:key,id2:key2") from None


class Queues(Type):
    """The queues of an app: names, objects with a ``name`` (kombu's Queue) or a dict; read as a dict of dicts."""

    name = "list of names, list of Queue, or dict"
    #: what is kept of a queue: names its routes may use, and the options of the transport
    _KEPT = ("routing_key", "max_priority", "queue_arguments")

    def convert(self, value: Any) -> dict[str, dict[str, Any]]:
        """Return ``{queue name: its options}`` in the order given."""
        if isinstance(value, Mapping):
            items = [(name, {} if options is None else options) for name, options in value.items()]
        elif isinstance(value, str) or not isinstance(value, Collection):
            raise mismatch("a list of queues or a dict", value)
        else:
            items = [self._item(queue) for queue in value]
        for name, options in items:
            if not isinstance(name, str) or not name or not isinstance(options, Mapping):
                raise mismatch("a list of queues or a dict of dicts", value)
        return {name: dict(options) for name, options in items}

    def _item(self, queue: Any) -> tuple[Any, Any]:
        if isinstance(queue, str):
            return queue, {}
        if isinstance(queue, Mapping):
            return queue.get("name"), {key: queue[key] for key in queue if key != "name"}
        options = {key: getattr(queue, key, None) for key in self._KEPT}
        return getattr(queue, "name", None), {key: option for key, option in options.items() if option}


class Routes(Type):
    """Routes: a dict, a router function or its dotted name, or a list of them."""

    name = "dict, function, or list of them"

    def convert(self, value: Any) -> Any:
        """Return the routes; a dict is copied, a list becomes a tuple."""
        if isinstance(value, Mapping):
            return dict(value)
        if callable(value) or isinstance(value, str):
            return value
        if not isinstance(value, list | tuple):
            raise mismatch("a dict, a function or a list of routers", value)
        return tuple(self._router(each) for each in value)

    def _router(self, router: Any) -> Any:
        if isinstance(router, Mapping):
            return dict(router)
        if isinstance(router, list | tuple) and router and all(self._is_pair(each) for each in router):
            return tuple(router)  # Celery's list of pairs inside a list of routers
        if self._is_pair(router) or callable(router) or isinstance(router, str) or hasattr(router, "route_for_task"):
            return router
        raise mismatch("made of dicts, (pattern, route) pairs and functions", router)

    @staticmethod
    def _is_pair(value: Any) -> bool:
        return isinstance(value, list | tuple) and len(value) == 2 and not isinstance(value[0], list | tuple)


class Annotations(Type):
    """Task attributes by task name, or objects that compute them, or a list of both."""

    name = "dict, object, or list of them"

    def convert(self, value: Any) -> Any:
        """Return the annotations; a dict is copied, a list becomes a tuple."""
        if isinstance(value, Mapping):
            return dict(value)
        if isinstance(value, bool | int | float | bytes):
            raise mismatch("a dict of task attributes by task name", value)
        return tuple(value) if isinstance(value, list) else value
