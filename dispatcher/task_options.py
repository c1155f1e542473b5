"""The options of a task: where their defaults come from, which cannot work, and how a call's arguments are checked."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Protocol

from dispatcher import rates
from dispatcher.exceptions import ImproperlyConfigured, UnsupportedOption
from dispatcher.request import Context
from dispatcher.result import AsyncResult, EagerResult
from dispatcher.serialization import compression_name, get_codec


class TaskOwner(Protocol):
    """What a task needs of its app."""

    strict_typing: bool

    @property
    def conf(self) -> Any:
        """The configuration."""
        ...

    @property
    def backend(self) -> Any:
        """The result backend."""
        ...

    def send_call(
        self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> AsyncResult[Any]:
        """Send a message that asks for a run of the task."""
        ...

    def run_eagerly(
        self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> EagerResult[Any]:
        """Run the task in this process, through the executor."""
        ...

    def release_unique(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Let the next of these calls be sent; say whether a task stood for them."""
        ...

    def replace_running(self, request: Context, canvas: Any) -> None:
        """Send a canvas in place of a running task."""
        ...

    def run_replacement(self, request: Context, canvas: Any) -> Any:
        """Run a canvas in place of a task that runs in this process; return its value."""
        ...

    def add_to_chord(self, request: Context, sig: Any) -> Any:
        """Add a signature to what the body of a running member's chord waits for; return its result."""
        ...

    def record_state(self, task_id: str, status: str, meta: Any, request: Context | None = None) -> None:
        """Write a state that a task gave itself."""
        ...

    def AsyncResult(self, task_id: str) -> AsyncResult[Any]:  # noqa: N802 - Celery's name
        """Return a handle on a task."""
        ...


#: Options of a task and the setting that gives their default.
FROM_CONFIG: Mapping[str, str] = {
    "serializer": "task_serializer",
    "priority": "task_default_priority",
    "track_started": "task_track_started",
    "ignore_result": "task_ignore_result",
    "store_errors_even_if_ignored": "task_store_errors_even_if_ignored",
    "soft_time_limit": "task_soft_time_limit",
    "time_limit": "task_time_limit",
    "revocable": "task_revocable",
    "acks_late": "task_acks_late",
    "rate_limit": "task_default_rate_limit",
    "rate_limit_scope": "rate_limit_scope",
}
HOOKS = ("before_start", "on_success", "on_retry", "on_failure", "after_return", "shadow_name")
#: Options of the task that go into each message it sends, unless the call overrides them.
SEND_OPTIONS = ("queue", "priority", "serializer", "compression", "expires")
_REFUSED = {
    "exchange": "there are no AMQP exchanges here; use queue=",
    "routing_key": "there are no AMQP exchanges here; use queue=",
    "pydantic": "pydantic models are not converted in this release; call Model.model_validate in the task",
}
#: Options that cannot be false.
_ALWAYS = ("acks_on_failure", "acks_on_timeout", "acks_on_failure_or_timeout")
#: Whatever is checked when options are settled, or has something derived from it.
SETTLED = frozenset({
    *FROM_CONFIG, *HOOKS, *SEND_OPTIONS, *_REFUSED, *_ALWAYS, "autoretry_for", "default_retry_delay",
    "dont_autoretry_for", "max_retries", "reject_on_worker_lost", "retry_backoff", "retry_backoff_max", "retry_jitter",
    "retry_kwargs", "send_events", "sensitive", "throws", "typing", "unique", "unique_for", "unique_scope",
})  # fmt: skip
#: Celery's methods that are not here, with what to do instead.
NOT_YET = {
    "add_around": "override __call__ in a base class",
    "annotate": "task_annotations are applied when the app is finalized",
    "subtask_from_request": "use signature_from_request()",
}


class Absent:
    """An attribute that is not there, and says what to do instead.

    A ``__getattr__`` could say so, too, but would make each look at any attribute of a task four times as slow.
    """

    def __init__(self, name: str, instead: str) -> None:
        self._why = f"Task.{name} is not available in this release; {instead}"

    def __get__(self, instance: Any, owner: type | None = None) -> NoReturn:
        raise AttributeError(self._why)


def check_options(task: Any) -> None:
    """Raise `UnsupportedOption` or `ImproperlyConfigured` for an option that cannot work, naming task and option."""
    for option, reason in _REFUSED.items():
        if getattr(task, option, None):
            raise UnsupportedOption(f"task {task.name}: {option}={getattr(task, option)!r} cannot work: {reason}")
    for option in _ALWAYS:
        if getattr(task, option) is False:
            raise UnsupportedOption(
                f"task {task.name}: {option}=False cannot work: a failure is recorded once and its message settled; "
                "use autoretry_for to run it again, or Reject(requeue=True) in the task"
            )
    if task.reject_on_worker_lost is False:
        raise UnsupportedOption(
            f"task {task.name}: reject_on_worker_lost=False cannot work: a run whose worker dies is repeated, at most "
            "max_worker_losses times; leave it out, or set acks_late=False to run at most once"
        )
    rate_of(task)
    _check_send_options(task)
    task.throws = _exception_classes(task)
    for option in ("time_limit", "soft_time_limit"):
        value = getattr(task, option)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value <= 0):
            raise ImproperlyConfigured(f"task {task.name}: {option} must be a number of seconds over 0, not {value!r}")
    if not isinstance(getattr(type(task), "backend", None), property):
        raise UnsupportedOption(
            f"task {task.name}: backend= cannot work: all results of an app are in its one result_backend; "
            "give tasks with another one an app of their own"
        )
    if task.time_limit is not None and task.soft_time_limit is not None and task.soft_time_limit > task.time_limit:
        raise ImproperlyConfigured(
            f"task {task.name}: soft_time_limit={task.soft_time_limit:g} is over time_limit={task.time_limit:g}"
        )


def rate_of(task: Any) -> rates.Rate | None:
    """Return the rate of a task's ``rate_limit``; raise `ImproperlyConfigured` for one that cannot be meant."""
    if task.rate_limit_scope not in (None, "global", "worker"):
        raise ImproperlyConfigured(
            f'task {task.name}: rate_limit_scope must be "global" or "worker", not {task.rate_limit_scope!r}'
        )
    try:
        return rates.parse(task.rate_limit)
    except ValueError as error:
        raise ImproperlyConfigured(f"task {task.name}: rate_limit {error}") from None


def settled_rate(task: Any, conf: Any) -> rates.Rate | None:
    """Return the rate that holds for a task; warn, once for an app, where nobody chose whom it holds for, or which."""
    rate = None if conf.worker_disable_rate_limits else rate_of(task)
    if task.rate_limit is None and task.rate_limit_scope not in (None, conf.rate_limit_scope):
        conf.warn_once(
            "rate_limit_scope without rate_limit",
            f"rate_limit_scope={task.rate_limit_scope!r} of {task.name} has no effect: the task has no rate_limit; set "
            "both, or leave it out",
        )
    if rate is not None and task.rate_limit_scope is None:
        conf.warn_once(
            "rate_limit_scope",
            f"rate_limit={task.rate_limit!r} of {task.name} holds for all workers together, in Celery for each; "
            'set rate_limit_scope="global" to agree, or "worker" for Celery\'s meaning',
        )
    return rate


def _check_send_options(task: Any) -> None:
    queue, priority = task.queue, task.priority
    if queue is not None and not (isinstance(getattr(queue, "name", queue), str) and queue):
        raise ImproperlyConfigured(f"task {task.name}: queue must be a queue's name, not {queue!r}")
    if priority is not None and (type(priority) is not int or not 0 <= priority <= 9):
        raise ImproperlyConfigured(f"task {task.name}: priority must be a whole number from 0 to 9, not {priority!r}")
    check_encoding(f"task {task.name}", task.serializer, task.compression)


def check_encoding(what: str, serializer: str | None, compression: str | None) -> None:
    """Raise `ImproperlyConfigured`, saying of what, for a serializer or a compression that nobody knows."""
    for value, look_up in ((serializer, get_codec), (compression, compression_name)):
        if value is not None:
            try:
                look_up(value)
            except ImproperlyConfigured as error:
                raise ImproperlyConfigured(f"{what}: {error}") from error


def _exception_classes(task: Any) -> tuple[type[BaseException], ...]:
    given = task.throws if isinstance(task.throws, list | tuple) else (task.throws,)
    if not all(isinstance(each, type) and issubclass(each, BaseException) for each in given):
        raise ImproperlyConfigured(
            f"task {task.name}: throws must be a tuple of exception classes, not {task.throws!r}"
        )
    return tuple(given)


def call_checker(function: Callable[..., Any], name: str) -> Callable[..., Any] | None:
    """Return a function that takes exactly the arguments the given one takes and does nothing.

    Calling it checks arguments at the speed of a call, with Python's own error messages; `None` where the parameters
    are not known.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    parts: list[str] = []
    kinds = inspect.Parameter
    seen_star = False
    for index, parameter in enumerate(parameters):
        if parameter.kind is kinds.VAR_POSITIONAL:
            seen_star = True
            parts.append(f"*{parameter.name}")
            continue
        if parameter.kind is kinds.KEYWORD_ONLY and not seen_star:
            seen_star = True
            parts.append("*")
        prefix = "**" if parameter.kind is kinds.VAR_KEYWORD else ""
        default = "" if parameter.default is kinds.empty else "=None"
        parts.append(f"{prefix}{parameter.name}{default}")
        following = parameters[index + 1] if index + 1 < len(parameters) else None
        if parameter.kind is kinds.POSITIONAL_ONLY and (
            following is None or following.kind is not kinds.POSITIONAL_ONLY
        ):
            parts.append("/")
    function_name = name.rpartition(".")[2]
    if not function_name.isidentifier() or keyword.iskeyword(function_name):
        function_name = "task"
    namespace: dict[str, Any] = {}
    # The text consists of the user's own identifiers, as inspect reports them: nothing of it comes from a message.
    exec(f"def {function_name}({', '.join(parts)}): pass", namespace)
    checker: Callable[..., Any] = namespace[function_name]
    return checker
