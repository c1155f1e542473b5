"""The options of a call: which there are, and what they come to in a message."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from dispatcher.canvas.stamping import carried
from dispatcher.clock import LATEST, timestamp
from dispatcher.exceptions import ImproperlyConfigured, UnsupportedOption
from dispatcher.message import check_option

#: Options of Celery's `apply_async` that cannot work here, with the reason and the alternative.
REFUSED_OPTIONS: Mapping[str, str] = {
    "exchange": "there are no AMQP exchanges here; use queue=",
    "routing_key": "there are no AMQP exchanges here; use queue=",
    "exchange_type": "there are no AMQP exchanges here; use queue=",
    "delivery_mode": "every broker here keeps messages durably; leave it out",
    "mandatory": "queues are found when a message is sent; leave it out",
    "immediate": "queues are found when a message is sent; leave it out",
    "connection": "connections are pooled by the app; set broker_url on the app instead",
    "producer": "connections are pooled by the app; set broker_url on the app instead",
    "publisher": "connections are pooled by the app; set broker_url on the app instead",
    "stamps": "a stamp is an option under its name, which stamped_headers= lists; use sig.stamp(name=value)",
    "visitor": "a visitor is for a signature: use sig.stamp(visitor)",
    "chord": "a canvas places its members itself; use chord(header, body)",
    "chain": "a canvas places its steps itself; use chain(first, next)",
    "rate_limit": "it belongs to the task; set it in @app.task",
    "unique": "whether a task is unique is its own option; set unique= in @app.task, or give it another name without",
    "task_type": "tasks are found by their name; leave it out",
    "app": "a task belongs to one app; leave it out",
    "timeout": "it limits nothing in Celery either; use time_limit=, or expires=",
}
#: Options that carry over to the message under a name of their own.
_PLAIN = {
    "task_id": "id",
    "retries": "retries",
    "gen": "gen",
    "priority": "priority",
    "shadow": "shadow",
    "reply_to": "reply_to",
    "headers": "headers",
    "root_id": "root_id",
    "parent_id": "parent_id",
    "group_id": "group",
    "group_index": "group_index",
    "ignore_result": "ignore_result",
    "MessageGroupId": "group_id",
    "MessageDeduplicationId": "deduplication_id",
    "message_group_id": "group_id",
}
#: Options that are understood elsewhere.
_HANDLED = {
    "queue", "countdown", "eta", "expires", "soft_time_limit", "time_limit", "link", "link_error",
    "serializer", "compression", "add_to_parent", "retry", "retry_policy", "route_name", "result_cls", "sensitive",
    "argsrepr", "kwargsrepr",
}  # fmt: skip
#: Seconds that no float could count further.
_ENDLESS = 1e300
#: Options that the library sets itself; they are taken, and not proposed.
_OWN = {"gen", "retries", "root_id", "parent_id", "group_id", "group_index", "result_cls"}


def positional(args: Any) -> tuple[Any, ...]:
    """Return positional arguments as a tuple; raise `TypeError` for what is no sequence of them."""
    if type(args) is tuple:
        return args
    if isinstance(args, str | bytes | Mapping) or not hasattr(args, "__iter__"):
        raise TypeError(f"task arguments must be a list or a tuple, not {type(args).__name__}")
    return tuple(args)


def keywords(kwargs: Any) -> dict[str, Any]:
    """Return keyword arguments as a dict; raise `TypeError` for what is no mapping of names."""
    if not isinstance(kwargs, Mapping):
        raise TypeError(f"task keyword arguments must be a mapping, not {type(kwargs).__name__}")
    for name in kwargs:
        if not isinstance(name, str):
            raise TypeError(f"the names of keyword arguments must be texts, not {name!r}")
    return dict(kwargs)


def set_options(fields: dict[str, Any], options: Mapping[str, Any], now: float, timezone: Any) -> float:
    """Set a message's fields from the options of a call; return how many seconds it is to be held back.

    Naive datetimes are read in ``timezone``. Raises `UnsupportedOption`, `TypeError` or `ValueError` for what cannot
    work, naming the option.
    """
    if "stamped_headers" in options:
        options = carried(options, _PLAIN.keys() | _HANDLED)
    _check_options(options)
    for option, field in _PLAIN.items():
        value = options.get(option)
        if value is not None:
            fields[field] = value = _plain(value)
            if option == "priority":
                _check_priority(value)
            check_option(option, field, value)
    _set_links(fields, options)
    return _set_times(fields, options, now, timezone)


def _plain(value: Any) -> Any:
    """Return a value of a subclass as the plain type that JSON has for it, such as an enum's member."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return dict(value) if isinstance(value, Mapping) else value


def _set_times(fields: dict[str, Any], options: Mapping[str, Any], now: float, timezone: Any) -> float:
    delay = 0.0
    countdown, eta = options.get("countdown"), options.get("eta")
    if countdown is not None:
        delay = _seconds("countdown", countdown)
    elif eta is not None:
        delay = _timestamp("eta", eta, now, timezone) - now
    if delay > 0:
        fields["eta"] = at = round(now + delay, 3)
        if at > LATEST:
            raise _after_all("eta" if countdown is None else "countdown", eta if countdown is None else countdown)
    expires = options.get("expires")
    if expires is not None:
        number = isinstance(expires, int | float)
        at = now + _seconds("expires", expires) if number else _timestamp("expires", expires, now, timezone)
        fields["expires"] = max(0.0, round(at, 3))
        if at > LATEST:
            raise _after_all("expires", expires)
        delay = min(delay, at - now)  # one that expires before it is due is not waited for any longer
    for option in ("soft_time_limit", "time_limit"):
        value = options.get(option)
        if value is not None:
            fields[option] = limit = _seconds(option, value)
            if limit <= 0:
                raise ValueError(f"{option} must be over 0 seconds, not {value!r}")
    return max(0.0, delay)


def _after_all(option: str, value: Any) -> UnsupportedOption:
    return UnsupportedOption(f"{option}={value!r:.60} cannot work: it ends after the year 9999")


def _set_links(fields: dict[str, Any], options: Mapping[str, Any]) -> None:
    for option in ("link", "link_error"):
        linked = options.get(option)
        if linked:
            signatures = linked if isinstance(linked, list | tuple) else [linked]
            fields[option] = tuple(_wire_signature(option, sig) for sig in signatures)


def check_limits(fields: Mapping[str, Any], task: Any) -> None:
    """Raise `ValueError` for a soft time limit over the hard one, where the call sets either."""
    if "soft_time_limit" not in fields and "time_limit" not in fields:
        return
    soft = fields.get("soft_time_limit", task.soft_time_limit if task is not None else None)
    hard = fields.get("time_limit", task.time_limit if task is not None else None)
    if soft is not None and hard is not None and soft > hard:
        raise ValueError(f"soft_time_limit={soft:g} must not be over time_limit={hard:g}")


def _check_options(options: Mapping[str, Any]) -> None:
    for option, value in options.items():
        if option in _PLAIN or option in _HANDLED or value is None:
            continue
        if option in REFUSED_OPTIONS:
            raise UnsupportedOption(f"{option}={value!r} cannot work: {REFUSED_OPTIONS[option]}")
        import difflib

        known = {*_PLAIN, *_HANDLED} - _OWN
        near = difflib.get_close_matches(str(option), known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(known))}"
        raise TypeError(f"apply_async() has no option {option!r}{hint}")


def _check_priority(priority: Any) -> None:
    if type(priority) is not int or not 0 <= priority <= 9:
        raise UnsupportedOption(
            f"priority={priority!r} cannot work: priorities are 0 (the most urgent, as without one) to 9, as in "
            "Celery on Redis"
        )


def _wire_signature(option: str, sig: Any) -> Mapping[str, Any]:
    if not isinstance(sig, Mapping) or "task" not in sig:
        raise TypeError(f"{option}= takes signatures, such as add.s(1), not {sig!r}")
    wire = getattr(sig, "__json__", None)
    return wire() if wire is not None else sig


def _seconds(option: str, value: Any) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{option} must be a number of seconds, not {value!r}")
    if not abs(value) < _ENDLESS:
        raise ValueError(f"{option} must be a finite number of seconds, not {value!r}")
    return float(value) if not isinstance(value, int) else value


def _timestamp(option: str, value: Any, now: float, timezone: Any) -> float:
    """Return epoch seconds for a datetime, an ISO 8601 text, or a timedelta from now."""
    if isinstance(value, timedelta):
        return now + value.total_seconds()
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise ImproperlyConfigured(f"{option}={value!r} is not an ISO 8601 time") from error
    if not isinstance(value, datetime):
        raise TypeError(f"{option} must be a datetime, not {value!r}")
    return timestamp(value, timezone)
