"""Unique tasks: which calls of a task are the same, and how long one of them stands for the others."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from dispatcher import states
from dispatcher.exceptions import EncodeError, ImproperlyConfigured
from dispatcher.message import Message
from dispatcher.serialization import json_encode

#: As much of a task's name goes into a key as people need to recognise it; the digest has all of it.
_NAME_SHOWN: Final = 200


class Scope(StrEnum):
    """How long a call stands for the others of its key."""

    #: from the call until the task's final outcome, retries included
    QUEUED = "queued"
    #: from the call until its run starts: a call during the run is a task of its own, which runs afterwards
    WAITING = "waiting"
    #: not at all: each call is a task of its own, and they run one after the other
    RUNNING = "running"
    #: from the call for ``unique_for`` seconds, unless the task fails
    PERIOD = "period"


class Uniqueness(NamedTuple):
    """The rule of one unique task; ``seconds`` is how long a claim lasts without any word from its task."""

    task: str
    scope: Scope
    seconds: float
    key_function: Callable[..., Any] | None
    signature: inspect.Signature | None

    def key_of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Return the key of a call: the same for calls that mean the same, whatever form they are written in.

        Raises `ImproperlyConfigured` naming the task.
        """
        if self.key_function is None:
            told = self._canonical_arguments(args, kwargs)
        else:
            told = self._ask(self.key_function, args, kwargs)
        import hashlib  # with OpenSSL behind it: whoever has no unique tasks is spared it

        digest = hashlib.sha256(f"{self.task}\0{told}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return f"{self.task[:_NAME_SHOWN]}:{digest}"

    def _ask(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        try:
            key = function(*args, **kwargs)
        except Exception as error:
            raise ImproperlyConfigured(
                f"task {self.task} was not sent: its unique= function raised {type(error).__name__}: {error}"
            ) from error
        if not isinstance(key, str):
            raise ImproperlyConfigured(
                f"task {self.task} was not sent: its unique= function must return a text, not {type(key).__name__}"
            )
        return key

    def _canonical_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        try:
            if self.signature is None:
                return canonical([list(args), dict(kwargs)])
            bound = self.signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return canonical(dict(bound.arguments))
        except (TypeError, EncodeError) as error:
            raise ImproperlyConfigured(
                f"task {self.task} was not sent: unique=True cannot compare its arguments: {error}; give unique= a "
                "function that takes them and returns a text"
            ) from error

    def claim_ends(self, message: Message, begins: float) -> float:
        """Return until when a claim holds that begins, or is heard of, at this time."""
        if self.scope is Scope.PERIOD:
            return begins + self.seconds
        due = message.eta if message.eta is not None and message.eta > begins else begins
        ends = due + self.seconds
        return ends if message.expires is None else min(ends, message.expires)

    def outlasts(self, status: str) -> bool:
        """Say whether the claim stays when the task ends in this state."""
        return self.scope is Scope.PERIOD and status in (states.SUCCESS, states.IGNORED)


def canonical(value: Any) -> str:
    """Return a text that is the same for values that are the same once they were sent: lists and tuples are.

    Raises `EncodeError` for what has no such text.
    """
    if isinstance(value, Mapping):
        items = sorted((json_encode(str(key)), canonical(item)) for key, item in value.items())
        return "{" + ",".join(f"{key}:{item}" for key, item in items) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, set | frozenset):
        return "<" + ",".join(sorted(map(canonical, value))) + ">"
    encoded = json_encode(value)
    if type(value) in (str, int, float, bool, type(None)):
        return encoded
    return json.dumps(json.loads(encoded), sort_keys=True, separators=(",", ":"))


def uniqueness_of(task: Any, conf: Any) -> Uniqueness | None:
    """Return the rule that a task's options make, `None` for one that is not unique.

    Raises `ImproperlyConfigured` naming task and option.
    """
    wanted = task.unique
    if not wanted:
        for option in ("unique_scope", "unique_for"):
            if getattr(task, option) is not None:
                raise ImproperlyConfigured(f"task {task.name}: {option} has no meaning without unique=True")
        return None
    if wanted is not True and not callable(wanted):
        raise ImproperlyConfigured(
            f"task {task.name}: unique must be True, or a function that takes the task's arguments and returns a text, "
            f"not {wanted!r}"
        )
    scope = _scope_of(task)
    seconds = _seconds_of(task, scope, conf)
    _check_stores(task, conf)
    try:
        signature = inspect.signature(task.run)
    except (TypeError, ValueError):
        signature = None
    return Uniqueness(task.name, scope, seconds, None if wanted is True else wanted, signature)


def _scope_of(task: Any) -> Scope:
    try:
        return Scope(task.unique_scope or Scope.QUEUED)
    except ValueError:
        raise ImproperlyConfigured(
            f"task {task.name}: unique_scope must be one of {', '.join(map(repr, map(str, Scope)))}, "
            f"not {task.unique_scope!r}"
        ) from None


def _seconds_of(task: Any, scope: Scope, conf: Any) -> float:
    given = task.unique_for
    if given is None:
        if scope is Scope.PERIOD:
            raise ImproperlyConfigured(f"task {task.name}: unique_scope='period' needs unique_for, its seconds")
        return float(conf.record_retention)
    if scope is Scope.RUNNING:
        raise ImproperlyConfigured(
            f"task {task.name}: unique_for has no meaning with unique_scope='running': a run holds others up for "
            "as long as it lasts"
        )
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < float("inf"):
        raise ImproperlyConfigured(f"task {task.name}: unique_for must be a number of seconds over 0, not {given!r}")
    readable = conf.result_expires or conf.record_retention
    if scope is Scope.PERIOD and given > readable:
        raise ImproperlyConfigured(
            f"task {task.name}: unique_for={given:g} is longer than results can be read ({readable:g} s), and "
            "duplicates are answered with the result; raise result_expires"
        )
    return float(given)


def _check_stores(task: Any, conf: Any) -> None:
    """Refuse a backend of this process for messages that other processes run."""
    backend, broker = str(conf.result_backend or ""), str(conf.broker_url or "")
    if backend.startswith("memory:") and not broker.startswith("memory:") and not conf.task_always_eager:
        raise ImproperlyConfigured(
            f"task {task.name}: unique cannot work with result_backend={backend!r}: other processes do not see it, and "
            f"the broker {broker.partition('://')[0] or 'sqlite'}:// brings them messages; leave result_backend unset "
            "to use the broker's own store"
        )
