"""Sending: from a call and its options to a message on a queue."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from dispatcher import signals
from dispatcher.brokers.base import Broker
from dispatcher.canvas.plan import CHAIN, CHORD, GROUP
from dispatcher.canvas.stamping import carried
from dispatcher.clock import LATEST, Clock, timestamp
from dispatcher.config.structures import PublishPolicy
from dispatcher.exceptions import (
    EncodeError,
    ImproperlyConfigured,
    UnsupportedOption,
)
from dispatcher.message import Message, check_option
from dispatcher.packing import Call, Packer
from dispatcher.publishing import publish
from dispatcher.quotas import SQS_MAX_DELAY
from dispatcher.routing import Routes
from dispatcher.sensitive import Marks, both, marks_of_call, raise_discreetly
from dispatcher.serialization import pack
from dispatcher.state import current_frame
from dispatcher.utils import uuid as new_id

if TYPE_CHECKING:
    from dispatcher.payloads import PayloadStore


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


#: Options that say something else to each call: at what time, or against the limits that its task has by then.
_PASSING = frozenset({"countdown", "eta", "expires", "soft_time_limit", "time_limit"})


class Terms(NamedTuple):
    """What the options of a call, of its task and of its route come to."""

    #: of the message, besides its id, its task and what comes of its arguments and its sender
    fields: Mapping[str, Any]
    queue: str
    #: seconds
    delay: float
    #: the serializer and the compression of the arguments, `None` for JSON inside the message
    encoding: tuple[str, str | None] | None


class Sender:
    """Builds messages and puts them on the broker, with the app's settings."""

    def __init__(
        self,
        conf: Any,
        broker: Callable[[], Broker],
        routes: Routes,
        clock: Clock,
        seal: Callable[[str, str], str] | None,
        payloads: Callable[[], PayloadStore | None],
    ) -> None:
        self._conf = conf
        self._broker = broker
        self._routes = routes
        self._clock = clock
        self._packer = Packer(conf, seal, payloads)
        self._priority = conf.task_default_priority
        self._publish_policy = conf.task_publish_retry_policy if conf.task_publish_retry else None
        #: the terms of calls without options, by their task or its name
        self._usual: dict[Any, Terms] = {}

    # -- building

    def build(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        task: Any = None,
        marks: Marks | None = None,
        now: float | None = None,
    ) -> Call:
        """Return the call's message and queue; ``marks`` are those that it has beside the task's and the options'.

        Times are counted from ``now`` in epoch seconds, by default the present.
        Raises `UnsupportedOption` and `TypeError` for options that cannot work or are not known, `EncodeError` for
        arguments that the serializer cannot take (inline JSON is checked when the body is made).
        """
        known = None if options else self._usual.get(task or name)
        terms = known or self._terms(name, args, kwargs, options, task, now)
        fields = {"task": name, **terms.fields}
        if "id" not in fields:
            fields["id"] = new_id()
        marks = both(marks, marks_of_call(options, args, kwargs, task))
        if marks is not None:
            fields["sensitive"] = marks
        self._set_arguments(fields, args, kwargs, terms)
        frame = current_frame()
        if frame is not None:
            self._set_lineage(fields, frame.request)
        if self._priority is not None:
            fields.setdefault("priority", self._priority)
        return Call(Message.make(fields), terms.queue, terms.delay)

    def _terms(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        task: Any,
        now: float | None,
    ) -> Terms:
        """Return the terms of a call; those of calls without options are remembered, where every such call has them."""
        if name in (CHAIN, GROUP, CHORD):
            raise TypeError(f"{name} is no task but a canvas: send it by its own apply_async()")
        if type(name) is not str or not name:
            raise TypeError(f"a task's name must be a text, not {name!r}")
        defaults = task._send_options if task is not None else {}
        route = self._routes.route(options.get("route_name") or name, args, kwargs, options, task)
        usual = not options and self._routes.by_name_only
        if defaults or route:
            # The call wins over the task's own options, those over the route.
            given = {option: value for option, value in options.items() if value is not None}
            options = {**route, **defaults, **given}
        fields: dict[str, Any] = {}
        delay = 0.0
        if options:
            present = self._clock.time()
            delay = set_options(fields, options, now or present, self._conf.timezone)
            delay = max(0.0, delay + (now or present) - present)
            _check_limits(fields, task)
        queue = self._routes.queue(options.get("queue"))
        if delay > SQS_MAX_DELAY and queue.endswith(".fifo"):
            _check_order(self._broker(), queue, delay)
        serializer = options.get("serializer") or self._conf.task_serializer
        compression = options.get("compression") or self._conf.task_compression
        terms = Terms(fields, queue, delay, None if serializer == "json" and not compression else (serializer, compression))
        if usual and _PASSING.isdisjoint(options):
            self._usual[task or name] = terms
        return terms

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise what `build` raises for options that cannot work, before the call they belong to is due."""
        set_options({}, options, self._clock.time(), self._conf.timezone)

    def continuation(self, call: Call, depth: int) -> Call:
        """Return the call as one that follows from another task's outcome, ``depth`` tasks down."""
        self._check_depth(call.message.task, depth)
        return call._replace(message=call.message.replace(depth=depth))

    def _set_arguments(
        self, fields: dict[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any], terms: Terms
    ) -> None:
        args = positional(args)
        if args:
            fields["args"] = args
        if kwargs:
            fields["kwargs"] = keywords(kwargs)
        if terms.encoding is not None and (args or kwargs):
            accept = frozenset(self._conf.accept_content)
            try:
                fields["packed"] = pack([list(args), dict(kwargs)], *terms.encoding, accept_content=accept)
            except EncodeError as error:
                raise_discreetly(error, args, kwargs, fields.get("sensitive"))

    def _set_lineage(self, fields: dict[str, Any], request: Any) -> None:
        parent_id = request.id
        if parent_id is None or "parent_id" in fields:
            return
        fields["parent_id"] = parent_id
        fields.setdefault("root_id", request.root_id or parent_id)
        depth = fields["depth"] = request.depth + 1
        self._check_depth(fields["task"], depth)
        if self._conf.task_inherit_parent_priority and "priority" not in fields:
            priority = (request.delivery_info or {}).get("priority")
            if priority is not None:
                fields["priority"] = priority

    def _check_depth(self, name: str, depth: int) -> None:
        if depth > self._conf.task_max_depth:
            raise UnsupportedOption(
                f"{name} would be the {depth}th task in a row of tasks that send each other, over "
                f"task_max_depth={self._conf.task_max_depth}; is it a runaway chain? A task that reschedules itself "
                "for ever is better a retry or a periodic task"
            )

    # -- sending

    def send(self, calls: Sequence[Call], retry: bool | None = None, policy: Mapping[str, Any] | None = None) -> None:
        """Put calls on the broker, trying again while it is out of reach, as ``task_publish_retry_policy`` says.

        Arguments that are too large go to the payload store before any is sent. Raises `MessageTooLarge`,
        `OperationalError` when the broker stays out of reach or the store is, `SendError` naming the ids that were not
        accepted.
        """
        publishing = self._policy(retry, policy)
        broker = self._broker()
        if signals.before_task_publish.receivers:
            calls = [_announced(call) for call in calls]
        publish(broker, self._packer.pack(broker, calls), publishing, self._clock)
        if signals.after_task_publish.receivers:
            for call in calls:
                _signal(signals.after_task_publish, call)

    def _policy(self, retry: bool | None, changes: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Return how sending is repeated for a call, `None` for not at all; its ``retry_policy`` changes the app's."""
        if retry is None and changes is None:
            return self._publish_policy
        configured: Mapping[str, Any] = self._conf.task_publish_retry_policy
        if changes is not None:
            try:
                configured = PublishPolicy().convert({**configured, **changes})
            except (TypeError, ValueError) as error:
                raise ImproperlyConfigured(f"retry_policy={changes!r}: {error}") from error
        return configured if (self._conf.task_publish_retry if retry is None else retry) else None


def _announced(call: Call) -> Call:
    """Send `before_task_publish`; what receivers put into the headers goes along with the message."""
    headers = _signal(signals.before_task_publish, call)
    custom = {name: value for name, value in headers.items() if name not in _OWN_HEADERS}
    return call if custom == call.message.headers else call._replace(message=call.message.replace(headers=custom))


def _signal(signal: signals.Signal, call: Call) -> dict[str, Any]:
    message = call.message
    own = {
        "lang": "py", "task": message.task, "id": message.id, "shadow": message.shadow, "eta": message.eta,
        "expires": message.expires, "group": message.group, "retries": message.retries,
        "timelimit": [message.time_limit, message.soft_time_limit], "root_id": message.effective_root_id,
        "parent_id": message.parent_id, "origin": message.origin, "ignore_result": message.ignore_result,
    }  # fmt: skip
    headers = {**own, **message.headers}
    signal.send(
        message.task, body=(list(message.args), dict(message.kwargs), {}), exchange="", routing_key=call.queue,
        headers=headers, properties={"correlation_id": message.id, "reply_to": message.reply_to}, declare=[],
        retry_policy=None,
    )  # fmt: skip
    return headers


#: What signals show among the headers that is a field of the message.
_OWN_HEADERS = frozenset({
    "lang", "task", "id", "shadow", "eta", "expires", "group", "retries", "timelimit", "root_id", "parent_id", "origin",
    "ignore_result",
})  # fmt: skip


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


def _check_order(broker: Broker, queue: str, delay: float) -> None:
    """Refuse a long delay on a FIFO queue where only the whole group can wait for it."""
    if broker.longest_delay(queue) == 0:
        raise UnsupportedOption(
            f"a delay of {delay:,.0f} s cannot work on {queue!r}: on a FIFO queue a message that waits holds up its "
            "whole group; let EventBridge Scheduler keep it (option scheduler_role), or use a standard queue"
        )


def _check_limits(fields: Mapping[str, Any], task: Any) -> None:
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
