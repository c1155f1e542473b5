"""The request: what a running task can know about its own message, as ``self.request``."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dispatcher.message import Message


def _iso(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()


#: Where each public attribute comes from when it was not set by hand.
_FROM_MESSAGE: dict[str, Callable[[Message], Any]] = {
    "id": lambda m: m.id,
    "task": lambda m: m.task,
    "correlation_id": lambda m: m.id,
    "root_id": lambda m: m.effective_root_id,
    "parent_id": lambda m: m.parent_id,
    "args": lambda m: list(m.args),
    "kwargs": lambda m: dict(m.kwargs),
    "retries": lambda m: m.retries,
    "gen": lambda m: m.gen,
    "depth": lambda m: m.depth,
    "eta": lambda m: _iso(m.eta),
    "expires": lambda m: _iso(m.expires),
    "group": lambda m: m.group,
    "group_index": lambda m: m.group_index,
    "chord": lambda m: m.chord,
    "chain": lambda m: m.chain or None,
    "callbacks": lambda m: m.link or None,
    "errbacks": lambda m: m.link_error or None,
    "timelimit": lambda m: [m.time_limit, m.soft_time_limit],
    "time_limit": lambda m: m.time_limit,
    "soft_time_limit": lambda m: m.soft_time_limit,
    "headers": lambda m: dict(m.headers) or None,
    "stamps": lambda m: dict(m.headers.get("stamps") or {}),
    "stamped_headers": lambda m: m.headers.get("stamped_headers"),
    "reply_to": lambda m: m.reply_to,
    "origin": lambda m: m.origin,
    "ignore_result": lambda m: bool(m.ignore_result),
    "shadow": lambda m: m.shadow,
    "sensitive": lambda m: m.sensitive,
}
#: What Celery's signals of workers call a request has these too; a header of such a name comes first, as in its tasks.
_OF_SIGNALS = {"name": "task", "task_name": "task", "task_id": "id"}
#: What is done after the run by the message, where it would be found again after a crash.
_FIXED = frozenset({"chain", "chord", "callbacks", "errbacks"})
_DEFAULTS: dict[str, Callable[[], Any]] = {
    **{name: lambda: None for name in _FROM_MESSAGE},
    "args": list,
    "kwargs": dict,
    "retries": int,
    "gen": int,
    "depth": int,
    "ignore_result": bool,
    "timelimit": lambda: [None, None],
    "delivery_info": dict,
    "properties": dict,
    "children": list,
    "stamps": dict,
    "hostname": lambda: None,
    "logfile": lambda: None,
    "loglevel": lambda: None,
    "stamped_headers": lambda: None,
    "errors": lambda: None,
    "taskset": lambda: None,
    "fence": lambda: None,
    "lang": lambda: "py",
    "utc": lambda: True,
    "is_eager": bool,
    "called_directly": lambda: True,
    "replaced_task_nesting": int,
    "_protected": int,
    "_added": list,
}


class Context:
    """The attributes of a request, under Celery's names; times as ISO 8601 text as in Celery, the headers too.

    Values come from the message when they are first asked for, so that a task which asks for nothing pays nothing.
    """

    if TYPE_CHECKING:  # what is the same whether or not the task runs; type checkers take the rest for anything
        args: list[Any]
        kwargs: dict[str, Any]
        retries: int
        gen: int
        depth: int
        is_eager: bool
        called_directly: bool
        delivery_info: dict[str, Any]
        children: list[Any]
        #: of a unique task's run: larger than that of any run of its key before; see docs/unique.md
        fence: int | None

    def __init__(self, message: Message | None = None, /, **fields: Any) -> None:
        self.__dict__["_message"] = message
        self.__dict__.update(fields)

    def __getattr__(self, name: str) -> Any:
        message = self.__dict__.get("_message")
        if message is not None and name in _FROM_MESSAGE:
            value = _FROM_MESSAGE[name](message)
        elif name == "delivery_info" and "_delivery" in self.__dict__:
            value = _delivery_info(self)
        elif name in _DEFAULTS:
            value = _DEFAULTS[name]()
        elif message is not None and name in message.headers:
            value = message.headers[name]
        elif message is not None and name in _OF_SIGNALS:
            value = getattr(message, _OF_SIGNALS[name])
        else:
            raise AttributeError(f"a task's request has no attribute {name!r}")
        return self.__dict__.setdefault(name, value)  # of threads that ask at the same time all have the same

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED and self.__dict__["_message"] is not None:
            raise AttributeError(
                f"self.request.{name} cannot be changed: what follows a task is in its message; raise Ignore() to end "
                "a chain here, or raise self.replace(sig) to go on with something else"
            )
        self.__dict__[name] = value

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or a default where there is none; headers need not be identifiers."""
        return getattr(self, name, default)

    def update(self, *args: Mapping[str, Any], **fields: Any) -> None:
        """Set attributes."""
        self.__dict__.update(*args, **fields)

    def as_execution_options(self) -> dict[str, Any]:
        """Return what a message that replaces this one should carry on."""
        return {
            "task_id": self.id,
            "root_id": self.root_id,
            "parent_id": self.parent_id,
            "group_id": self.group,
            "group_index": self.group_index,
            "shadow": self.shadow,
            "chord": self.chord,
            "chain": self.chain,
            "link": self.callbacks,
            "link_error": self.errbacks,
            "expires": self.expires,
            "soft_time_limit": self.soft_time_limit,
            "time_limit": self.time_limit,
            "headers": self.headers,
            "retries": self.retries,
            "reply_to": self.reply_to,
            "origin": self.origin,
            "sensitive": self.sensitive,
        }

    def __repr__(self) -> str:
        return f"<Context: id={self.id!r} task={self.task!r} retries={self.retries}>"


def _delivery_info(context: Context) -> dict[str, Any]:
    """Return Celery's description of a delivery."""
    delivery = context.__dict__["_delivery"]
    return {
        "exchange": "", "routing_key": delivery.queue, "queue": delivery.queue, "priority": context._message.priority,
        "redelivered": delivery.receive_count > 1, "is_eager": context.is_eager,
    }  # fmt: skip


#: What ``task.request`` is while the task is not running.
def idle_request() -> Context:
    """Return the request of a task that is called directly."""
    return Context(None, called_directly=True)
