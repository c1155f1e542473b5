"""Sending: from a call and its options to a message on a queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dispatcher import signals
from dispatcher.brokers.base import Broker, Outgoing
from dispatcher.call_options import check_limits, keywords, positional, set_options
from dispatcher.canvas.plan import CHAIN, CHORD, GROUP
from dispatcher.clock import Clock
from dispatcher.config.structures import PublishPolicy
from dispatcher.exceptions import (
    EncodeError,
    ImproperlyConfigured,
    SendError,
    UnsupportedOption,
)
from dispatcher.message import Message
from dispatcher.packing import Call, Packed, Packer
from dispatcher.publishing import publish
from dispatcher.quotas import SQS_MAX_DELAY
from dispatcher.routing import Routes
from dispatcher.sensitive import Marks, both, marks_of_call, raise_discreetly
from dispatcher.serialization import pack
from dispatcher.state import current_frame
from dispatcher.utils import uuid

if TYPE_CHECKING:
    from dispatcher.payloads import PayloadStore


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
    #: the task's own options, another object once one of them was set anew
    own: Mapping[str, Any]


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
        new_id: str | None = None,
    ) -> Call:
        """Return the call's message and queue; ``marks`` are those that it has beside the task's and the options'.

        Times are counted from ``now`` in epoch seconds, by default the present; a call with another is on its queue
        already, so any delay will do. ``new_id`` is for a call without one.
        Raises `UnsupportedOption` and `TypeError` for options that cannot work or are not known, `EncodeError` for
        arguments that the serializer cannot take (inline JSON is checked when the body is made).
        """
        terms = None if options else self._usual.get(task or name)
        if terms is None or (task is not None and terms.own is not task._send_options):
            terms = self._terms(name, args, kwargs, options, task, now)
        fields = {"task": name, **terms.fields}
        if "id" not in fields:
            fields["id"] = new_id or uuid()
        if options:
            marks = both(marks, marks_of_call(options, args, kwargs, task))
        elif task is not None and task._sensitive is not None:
            marks = both(marks, task._sensitive)
        if marks is not None:
            fields["sensitive"] = marks
        if args != () or kwargs:
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
        defaults: Mapping[str, Any] = task._send_options if task is not None else {}
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
            check_limits(fields, task)
        queue = self._routes.queue(options.get("queue"))
        if delay > SQS_MAX_DELAY and now is None and queue.endswith(".fifo"):
            _check_order(self._broker(), queue, delay)
        serializer = options.get("serializer") or self._conf.task_serializer
        compression = options.get("compression") or self._conf.task_compression
        encoding = None if serializer == "json" and not compression else (serializer, compression)
        terms = Terms(fields, queue, delay, encoding, defaults)
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
        self._publish(broker, calls, self._packer.pack(broker, calls), publishing, signals.after_task_publish.send)

    def pack(self, calls: Sequence[Call]) -> Packed:
        """Return calls ready for `send_packed`; raises whatever `send` raises that the broker is not asked for."""
        broker = self._broker()
        if signals.before_task_publish.receivers:
            calls = [_announced(call) for call in calls]
        outgoing = self._packer.pack(broker, calls)
        broker.check(outgoing)
        return Packed(calls, outgoing)

    def send_packed(self, packs: Sequence[Packed]) -> None:
        """Put packed calls on the broker together; raises what `send` does of a broker, and nothing of receivers."""
        calls = [call for pack in packs for call in pack.calls]
        outgoing = [message for pack in packs for message in pack.outgoing]
        self._publish(self._broker(), calls, outgoing, self._publish_policy, signals.after_task_publish.announce)

    def _publish(
        self,
        broker: Broker,
        calls: Sequence[Call],
        outgoing: Sequence[Outgoing],
        policy: Mapping[str, Any] | None,
        tell: Callable[..., Any],
    ) -> None:
        try:
            publish(broker, outgoing, policy, self._clock)
        except SendError as error:
            _tell_sent(tell, [call for call in calls if call.message.id not in error.failures])
            raise
        _tell_sent(tell, calls)

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
    headers = _signal(signals.before_task_publish.send, call)
    custom = {name: value for name, value in headers.items() if name not in _OWN_HEADERS}
    return call if custom == call.message.headers else call._replace(message=call.message.replace(headers=custom))


def _tell_sent(tell: Callable[..., Any], calls: Sequence[Call]) -> None:
    if signals.after_task_publish.receivers:
        for call in calls:
            _signal(tell, call)


def _signal(tell: Callable[..., Any], call: Call) -> dict[str, Any]:
    message = call.message
    own = {
        "lang": "py", "task": message.task, "id": message.id, "shadow": message.shadow, "eta": message.eta,
        "expires": message.expires, "group": message.group, "retries": message.retries,
        "timelimit": [message.time_limit, message.soft_time_limit], "root_id": message.effective_root_id,
        "parent_id": message.parent_id, "origin": message.origin, "ignore_result": message.ignore_result,
    }  # fmt: skip
    headers = {**own, **message.headers}
    tell(
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


def _check_order(broker: Broker, queue: str, delay: float) -> None:
    """Refuse a long delay on a FIFO queue where only the whole group can wait for it."""
    if broker.longest_delay(queue) == 0:
        raise UnsupportedOption(
            f"a delay of {delay:,.0f} s cannot work on {queue!r}: on a FIFO queue a message that waits holds up its "
            "whole group; let EventBridge Scheduler keep it (option scheduler_role), or use a standard queue"
        )
