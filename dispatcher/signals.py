"""Signals: named moments that programs can listen to (Celery's names).

Receivers are held weakly by default. One that raises is logged and does not disturb the others or the task.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from dispatcher.exceptions import USER_ERRORS
from dispatcher.utils.forks import safe_lock

logger = logging.getLogger(__name__)
Receiver = Callable[..., Any]
_connecting = safe_lock()


class Signal:
    """One named moment; ``connect`` listeners to it, ``send`` tells them."""

    def __init__(self, name: str, providing_args: frozenset[str] = frozenset()) -> None:
        self.name = name
        self.providing_args = providing_args
        #: (key, sender or None, strong or weak reference to the receiver)
        self.receivers: list[tuple[Any, Any, Callable[[], Receiver | None]]] = []

    def __repr__(self) -> str:
        return f"<Signal: {self.name}>"

    def connect(
        self,
        receiver: Receiver | None = None,
        sender: Any = None,
        weak: bool = True,
        dispatch_uid: Any = None,
        retry: bool = False,
    ) -> Any:
        """Call ``receiver(sender=…, signal=…, **fields)`` whenever the signal is sent; usable as a decorator.

        ``sender`` restricts it to one sender (a task, a task's name); ``dispatch_uid`` prevents double connection;
        with ``retry=True`` a receiver that raises is called again, three times in all.
        """
        if receiver is None:
            return lambda function: self.connect(function, sender, weak, dispatch_uid, retry)
        if not callable(receiver):
            raise TypeError(f"{self!r}.connect() needs a callable, not {type(receiver).__name__}")
        key = (dispatch_uid if dispatch_uid is not None else _identity(receiver), _sender_key(sender))
        target = _call_up_to(3, receiver) if retry else receiver
        reference = _weak_reference(target) if weak and not retry else _Strong(target)
        with _connecting:
            if not any(existing == key for existing, _, _ in self._live()):
                self.receivers = [*self._live(), (key, sender, reference)]
        return receiver

    def disconnect(
        self, receiver: Receiver | None = None, sender: Any = None, weak: bool | None = None, dispatch_uid: Any = None
    ) -> bool:
        """Stop calling a receiver; return whether it was connected."""
        key = (dispatch_uid if dispatch_uid is not None else _identity(receiver), _sender_key(sender))
        with _connecting:
            live = self._live()
            self.receivers = [entry for entry in live if entry[0] != key]
            return len(self.receivers) < len(live)

    def has_listeners(self, sender: Any = None) -> bool:
        """Say whether anybody would be called."""
        return bool(self.receivers) and bool(self._matching(sender))

    def send(self, sender: Any, **fields: Any) -> list[tuple[Receiver, Any]]:
        """Call every receiver; return pairs of receiver and its value or the exception it raised."""
        return self._call(Exception, sender, fields) if self.receivers else []

    def announce(self, sender: Any, **fields: Any) -> None:
        """Call every receiver as `send` does, while others are at work: one that raises SystemExit is logged, too."""
        if self.receivers:
            self._call(USER_ERRORS, sender, fields)

    def _call(self, errors: Any, sender: Any, fields: Mapping[str, Any]) -> list[tuple[Receiver, Any]]:
        responses: list[tuple[Receiver, Any]] = []
        for receiver in self._matching(sender):
            try:
                response = receiver(signal=self, sender=sender, **fields)
            except errors as error:
                logger.exception("receiver %r of signal %s raised", receiver, self.name)
                response = error
            responses.append((receiver, response))
        return responses

    send_robust = send

    def _live(self) -> list[tuple[Any, Any, Callable[[], Receiver | None]]]:
        return [entry for entry in self.receivers if entry[2]() is not None]

    def _matching(self, sender: Any) -> list[Receiver]:
        found = []
        for _, wanted, reference in self.receivers:
            if wanted is None or _same_sender(wanted, sender):
                receiver = reference()
                if receiver is not None:
                    found.append(receiver)
        return found


class _Strong:
    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver

    def __call__(self) -> Receiver:
        return self.receiver


def _weak_reference(receiver: Receiver) -> Callable[[], Receiver | None]:
    if hasattr(receiver, "__self__") and hasattr(receiver, "__func__"):
        return weakref.WeakMethod(receiver)
    try:
        return weakref.ref(receiver)
    except TypeError:  # builtins and some callables cannot be weakly referenced; they live forever anyway
        return _Strong(receiver)


def _identity(receiver: Any) -> Any:
    if hasattr(receiver, "__self__") and hasattr(receiver, "__func__"):
        return id(receiver.__self__), id(receiver.__func__)
    return id(receiver)


def _sender_key(sender: Any) -> Any:
    return sender if isinstance(sender, str) else id(sender) if sender is not None else None


def _same_sender(wanted: Any, sender: Any) -> bool:
    if wanted is sender or wanted == sender:
        return True
    return (isinstance(wanted, str) and getattr(sender, "name", None) == wanted) or getattr(
        wanted, "name", wanted
    ) == sender


def _call_up_to(times: int, receiver: Receiver) -> Receiver:
    def call(*args: Any, **kwargs: Any) -> Any:
        for attempt in range(1, times + 1):
            try:
                return receiver(*args, **kwargs)
            except Exception:
                if attempt == times:
                    raise
                logger.warning("receiver %r raised; trying again", receiver, exc_info=True)
        return None

    return call


def _signal(name: str, *fields: str) -> Signal:
    return Signal(name, frozenset(fields))


# -- sending
before_task_publish = _signal(
    "before_task_publish", "body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy"
)
after_task_publish = _signal("after_task_publish", "body", "exchange", "routing_key")
task_sent = _signal("task_sent", "task_id", "task", "args", "kwargs", "eta", "taskset")
# -- one run
task_received = _signal("task_received", "request")
task_prerun = _signal("task_prerun", "task_id", "task", "args", "kwargs")
task_postrun = _signal("task_postrun", "task_id", "task", "args", "kwargs", "retval", "state")
task_success = _signal("task_success", "result", "runtime")
task_retry = _signal("task_retry", "request", "reason", "einfo")
task_failure = _signal("task_failure", "task_id", "exception", "args", "kwargs", "traceback", "einfo")
task_internal_error = _signal(
    "task_internal_error", "task_id", "args", "kwargs", "request", "exception", "traceback", "einfo"
)
task_revoked = _signal("task_revoked", "request", "terminated", "signum", "expired")
task_rejected = _signal("task_rejected", "message", "exc")
task_unknown = _signal("task_unknown", "message", "exc", "name", "id")
# -- workers
celeryd_init = _signal("celeryd_init", "instance", "conf", "options")
celeryd_after_setup = _signal("celeryd_after_setup", "instance", "conf")
import_modules = _signal("import_modules")
worker_init = _signal("worker_init")
worker_before_create_process = _signal("worker_before_create_process")
worker_process_init = _signal("worker_process_init")
worker_process_shutdown = _signal("worker_process_shutdown", "pid", "exitcode")
worker_ready = _signal("worker_ready")
worker_shutdown = _signal("worker_shutdown")
worker_shutting_down = _signal("worker_shutting_down", "sig", "how", "exitcode")
heartbeat_sent = _signal("heartbeat_sent")
setup_logging = _signal("setup_logging", "loglevel", "logfile", "format", "colorize")
after_setup_logger = _signal("after_setup_logger", "logger", "loglevel", "logfile", "format", "colorize")
after_setup_task_logger = _signal("after_setup_task_logger", "logger", "loglevel", "logfile", "format", "colorize")
beat_init = _signal("beat_init")
beat_embedded_init = _signal("beat_embedded_init")
eventlet_pool_started = _signal("eventlet_pool_started")
eventlet_pool_preshutdown = _signal("eventlet_pool_preshutdown")
eventlet_pool_postshutdown = _signal("eventlet_pool_postshutdown")
eventlet_pool_apply = _signal("eventlet_pool_apply", "target", "args", "kwargs")
user_preload_options = _signal("user_preload_options", "app", "options")
