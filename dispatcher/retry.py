"""When to run a failed task again: a policy, an exception and a count in, a decision out; no clock, no queue.

Names, defaults and arithmetic are Celery's. Two exceptions are treated apart: outcomes (`Retry`, `Ignore`, `Reject`)
are never retried by themselves, and `SoftTimeLimitExceeded`, though no `Exception` here, is matched where `Exception`
is listed.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

from dispatcher.clock import LATEST
from dispatcher.exceptions import ImproperlyConfigured, SoftTimeLimitExceeded, TaskPredicate, UnsupportedOption

DEFAULT_MAX_RETRIES: Final = 3
DEFAULT_RETRY_DELAY: Final = 180.0
DEFAULT_BACKOFF_MAX: Final = 600
#: 2**64 s is longer than any maximum; from there on the power is not computed.
_LARGEST_EXPONENT: Final = 64
#: What is longer ends after the last date for whoever waits since this package exists, the year 2026.
_LONGEST_DELAY: Final = LATEST - 1_767_225_600
_EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})

ExceptionClasses = tuple[type[BaseException], ...]


class Rng(Protocol):
    """The part of `random.Random` that jitter needs."""

    def randrange(self, start: int, /) -> int:
        """Return a whole number from 0 to ``start - 1``."""


class RetryDecision(NamedTuple):
    """Run the task again, ``delay`` seconds from now.

    ``options`` are what else ``retry_kwargs`` holds: ``args``, ``kwargs`` and options of ``apply_async`` for the next
    run.
    """

    delay: float
    reason: str
    options: Mapping[str, Any] = _EMPTY


@dataclasses.dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What a task says about its retries; times are seconds.

    ``max_retries`` `None` is forever. ``backoff`` 0 is off, else the factor of ``factor * 2**retries``, at most
    ``backoff_max``; with ``jitter`` that is the upper end of a random delay. ``countdown`` is the fixed delay of
    automatic retries.
    """

    autoretry_for: ExceptionClasses = ()
    dont_autoretry_for: ExceptionClasses = ()
    max_retries: int | None = DEFAULT_MAX_RETRIES
    default_retry_delay: float = DEFAULT_RETRY_DELAY
    backoff: float = 0.0
    backoff_max: int = DEFAULT_BACKOFF_MAX
    jitter: bool = True
    retry_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=lambda: _EMPTY, hash=False)

    @classmethod
    def from_options(
        cls,
        *,
        autoretry_for: Iterable[type[BaseException]] = (),
        dont_autoretry_for: Iterable[type[BaseException]] = (),
        max_retries: int | None = DEFAULT_MAX_RETRIES,
        default_retry_delay: float | None = DEFAULT_RETRY_DELAY,
        retry_backoff: bool | float = False,
        retry_backoff_max: float = DEFAULT_BACKOFF_MAX,
        retry_jitter: bool = True,
        retry_kwargs: Mapping[str, Any] | None = None,
    ) -> RetryPolicy:
        """Check a task's retry options, by Celery's names, and return the policy.

        ``retry_backoff`` `True` is a factor of one second; a factor is a whole number of seconds, at least one, so a
        fraction is cut off. A ``default_retry_delay`` of `None` is no delay. Raises `ImproperlyConfigured` naming the
        option, what is wrong and what to write, and `UnsupportedOption` for a delay that ends after the year 9999.
        """
        return cls(
            autoretry_for=_exceptions("autoretry_for", autoretry_for),
            dont_autoretry_for=_exceptions("dont_autoretry_for", dont_autoretry_for),
            max_retries=_count("max_retries", max_retries),
            default_retry_delay=0.0
            if default_retry_delay is None
            else _delay("default_retry_delay", default_retry_delay),
            backoff=_seconds(
                "retry_backoff", float(retry_backoff) if retry_backoff in (True, False) else retry_backoff
            ),
            backoff_max=int(_seconds("retry_backoff_max", retry_backoff_max)),
            jitter=_flag("retry_jitter", retry_jitter),
            retry_kwargs=_retry_kwargs(retry_kwargs),
        )

    def matches(self, exc: BaseException) -> bool:
        """Say whether the exception is one to retry for, whatever the count."""
        if isinstance(exc, TaskPredicate) or _is_one_of(exc, self.dont_autoretry_for):
            return False
        return _is_one_of(exc, self.autoretry_for)

    def allows(self, retries: int, max_retries: int | None = None) -> bool:
        """Say whether one more retry is left after ``retries`` of them.

        ``max_retries`` replaces the policy's limit unless it is `None`.
        """
        limit = self.max_retries if max_retries is None else max_retries
        return limit is None or retries < limit


def backoff_delay(factor: float, retries: int, maximum: int, jitter: bool, rng: Rng) -> float:
    """Return the delay in seconds before the next run after ``retries`` retries: ``min(maximum, factor * 2**retries)``.

    The factor counts as a whole number, at least 1. With ``jitter`` the delay is a random whole number from 0 up to and
    including that ("full jitter").
    """
    delay = max(0, min(maximum, int(max(1.0, factor)) << min(max(0, retries), _LARGEST_EXPONENT)))
    return float(rng.randrange(delay + 1) if jitter else delay)


def decide(
    policy: RetryPolicy, exc: BaseException, retries: int, rng: Rng, max_retries: int | None = None
) -> RetryDecision | None:
    """Say how to retry a task that raised ``exc`` after ``retries`` retries; `None` means that the exception stands.

    ``max_retries`` is the limit that the run itself named in a call of `Task.retry` which did not raise `Retry`; it
    goes before that of ``retry_kwargs``, which goes before the policy's. Backoff goes before the ``countdown`` of
    ``retry_kwargs``, which goes before ``default_retry_delay``.
    """
    if not policy.autoretry_for or not policy.matches(exc):
        return None
    options = policy.retry_kwargs
    limit = max_retries if max_retries is not None else options.get("max_retries")
    if not policy.allows(retries, limit):
        return None
    countdown = options.get("countdown")
    if policy.backoff:
        delay = backoff_delay(policy.backoff, retries, policy.backoff_max, policy.jitter, rng)
    else:
        delay = policy.default_retry_delay if countdown is None else float(countdown)
    limit = policy.max_retries if limit is None else limit
    reason = f"{type(exc).__name__}: retry {retries + 1}{'' if limit is None else f' of {limit}'} in {delay:g} s"
    rest = {name: value for name, value in options.items() if name not in _DECIDED} if options else _EMPTY
    return RetryDecision(delay, reason, rest)


#: What of ``retry_kwargs`` is answered by the decision. ``throw`` has no effect on an automatic retry, in Celery
#: neither.
_DECIDED: Final = frozenset({"countdown", "max_retries", "throw"})


def _is_one_of(exc: BaseException, classes: ExceptionClasses) -> bool:
    # In Celery the soft limit is an Exception, and tasks are written for that.
    return isinstance(exc, classes) or (isinstance(exc, SoftTimeLimitExceeded) and Exception in classes)


def _exceptions(name: str, classes: Any) -> ExceptionClasses:
    if isinstance(classes, type):
        raise ImproperlyConfigured(f"{name} must be a tuple of exception classes: write ({classes.__name__},)")
    if not isinstance(classes, list | tuple | set | frozenset):
        raise ImproperlyConfigured(f"{name} must be a tuple of exception classes, not {_described(classes)}")
    for cls in classes:
        if not isinstance(cls, type) or not issubclass(cls, BaseException):
            raise ImproperlyConfigured(f"{name} must hold exception classes, not {_described(cls)}")
    return tuple(classes)


def _count(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ImproperlyConfigured(
            f"{name} must be a whole number from 0 on, or None for no limit, not {_described(value)}"
        )
    return value


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
        raise ImproperlyConfigured(f"{name} must be a number of seconds from 0 on, not {_described(value)}")
    return float(value)


def _delay(name: str, value: Any) -> float:
    seconds = _seconds(name, value)
    if seconds > _LONGEST_DELAY:
        raise UnsupportedOption(f"{name}={value!r:.60} cannot work: it ends after the year 9999")
    return seconds


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ImproperlyConfigured(f"{name} must be True or False, not {_described(value)}")
    return value


def _retry_kwargs(value: Any) -> Mapping[str, Any]:
    if not value and (value is None or isinstance(value, Mapping)):
        return _EMPTY
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ImproperlyConfigured(f"retry_kwargs must be a dict of options of Task.retry, not {_described(value)}")
    if "exc" in value:
        raise ImproperlyConfigured("retry_kwargs cannot hold 'exc': an automatic retry is for the exception raised")
    if value.get("eta") is not None:
        raise ImproperlyConfigured("retry_kwargs cannot hold 'eta', one moment for all retries: use 'countdown'")
    _count("max_retries in retry_kwargs", value.get("max_retries"))
    if value.get("countdown") is not None:
        _delay("countdown in retry_kwargs", value["countdown"])
    return MappingProxyType({name: option for name, option in value.items() if name != "eta"})


def _described(value: Any) -> str:
    return f"{value!r:.80} ({type(value).__name__})"
