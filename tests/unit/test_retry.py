"""The retry policy: what is retried, how often, how late."""

import datetime
import random
from typing import Any

import pytest

from dispatcher.exceptions import (
    Ignore,
    ImproperlyConfigured,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    TimeLimitExceeded,
    UnsupportedOption,
)
from dispatcher.retry import RetryDecision, RetryPolicy, backoff_delay, decide


class Highest:
    """Draws the highest number there is."""

    def randrange(self, start: int, /) -> int:
        return start - 1


RNG = Highest()


def policy(**options: Any) -> RetryPolicy:
    return RetryPolicy.from_options(**{"autoretry_for": (Exception,), **options})


def delay(decision: RetryDecision | None) -> float:
    assert decision is not None
    return decision.delay


def test_the_defaults_are_celerys() -> None:
    """Three retries, 180 seconds apart, none of them automatic."""
    default = RetryPolicy.from_options()
    assert default == RetryPolicy()
    assert (default.max_retries, default.default_retry_delay, default.backoff, default.backoff_max) == (3, 180, 0, 600)
    assert default.jitter is True
    assert decide(default, ValueError(), 0, RNG) is None


@pytest.mark.parametrize(
    ("exc", "retried"),
    [
        (ValueError("x"), True),
        (UnicodeError("x"), True),
        (KeyError("x"), False),
        (SystemExit(1), False),
        (KeyboardInterrupt(), False),
        (SoftTimeLimitExceeded(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_listed_exceptions_and_their_subclasses_are_retried(exc: BaseException, retried: bool) -> None:
    """``autoretry_for`` matches as ``except`` does."""
    assert (decide(policy(autoretry_for=[ValueError]), exc, 0, RNG) is not None) is retried


def test_what_is_excepted_is_not_retried() -> None:
    """``dont_autoretry_for`` goes before ``autoretry_for``."""
    chosen = policy(dont_autoretry_for=(LookupError,))
    assert decide(chosen, KeyError(), 0, RNG) is None
    assert decide(chosen, ValueError(), 0, RNG) is not None


@pytest.mark.parametrize(
    "outcome", [Retry("again"), Ignore(), Reject("no")], ids=lambda outcome: type(outcome).__name__
)
def test_outcomes_are_never_retried(outcome: Exception) -> None:
    """A task that says what became of it has the last word, even where everything is listed."""
    for classes in ((Exception,), (BaseException,), (type(outcome),)):
        assert decide(policy(autoretry_for=classes), outcome, 0, RNG) is None


def test_the_soft_time_limit_counts_as_an_exception() -> None:
    """`Exception` covers it in both lists, though it derives from BaseException; other lists do not."""
    limit = SoftTimeLimitExceeded()
    assert decide(policy(), limit, 0, RNG) is not None
    assert decide(policy(autoretry_for=(SoftTimeLimitExceeded,)), limit, 0, RNG) is not None
    assert decide(policy(autoretry_for=(BaseException,)), limit, 0, RNG) is not None
    assert decide(policy(autoretry_for=(BaseException,), dont_autoretry_for=(Exception,)), limit, 0, RNG) is None
    assert decide(policy(dont_autoretry_for=(SoftTimeLimitExceeded,)), limit, 0, RNG) is None
    assert decide(policy(), SystemExit(), 0, RNG) is None
    assert decide(policy(), TimeLimitExceeded(5), 0, RNG) is not None


@pytest.mark.parametrize(("limit", "allowed"), [(0, 0), (1, 1), (3, 3), (10, 10)])
def test_retries_end_at_the_limit(limit: int, allowed: int) -> None:
    """``max_retries`` is the number of retries, so a task runs once more than that."""
    chosen = policy(max_retries=limit)
    assert sum(decide(chosen, ValueError(), retries, RNG) is not None for retries in range(20)) == allowed


def test_no_limit_is_forever() -> None:
    """`None` never ends, and the delay stays finite."""
    chosen = policy(max_retries=None, retry_backoff=True)
    assert delay(decide(chosen, ValueError(), 10**9, RNG)) == 600


def test_the_limit_of_the_run_goes_before_that_of_retry_kwargs_before_the_tasks() -> None:
    """As in Celery; `None` in ``retry_kwargs`` means the task's."""
    assert decide(policy(max_retries=1), ValueError(), 1, RNG) is None
    assert decide(policy(max_retries=1, retry_kwargs={"max_retries": 5}), ValueError(), 4, RNG) is not None
    assert decide(policy(max_retries=1, retry_kwargs={"max_retries": 5}), ValueError(), 5, RNG) is None
    assert decide(policy(max_retries=None, retry_kwargs={"max_retries": 0}), ValueError(), 0, RNG) is None
    assert decide(policy(max_retries=1, retry_kwargs={"max_retries": None}), ValueError(), 1, RNG) is None
    assert decide(policy(retry_kwargs={"max_retries": 5}), ValueError(), 2, RNG, max_retries=2) is None
    assert decide(policy(max_retries=1), ValueError(), 6, RNG, max_retries=7) is not None


def test_without_backoff_the_delay_is_the_countdown_or_the_default() -> None:
    """A countdown of 0 is a countdown; `None` is none."""
    assert delay(decide(policy(default_retry_delay=7), ValueError(), 2, RNG)) == 7
    assert delay(decide(policy(retry_kwargs={"countdown": 0}), ValueError(), 2, RNG)) == 0
    assert delay(decide(policy(retry_kwargs={"countdown": 2.5}), ValueError(), 2, RNG)) == 2.5
    assert delay(decide(policy(retry_kwargs={"countdown": None}), ValueError(), 2, RNG)) == 180
    assert delay(decide(policy(default_retry_delay=None), ValueError(), 2, RNG)) == 0


def test_backoff_goes_before_the_countdown() -> None:
    """With both, the delay is the backoff's."""
    chosen = policy(retry_backoff=2, retry_kwargs={"countdown": 100, "max_retries": 9})
    assert [delay(decide(chosen, ValueError(), retries, RNG)) for retries in range(4)] == [2, 4, 8, 16]


@pytest.mark.parametrize(
    ("factor", "delays"),
    [(True, [1, 2, 4, 8]), (1, [1, 2, 4, 8]), (3, [3, 6, 12, 24]), (0.5, [1, 2, 4, 8]), (2.9, [2, 4, 8, 16])],
)
def test_backoff_doubles_from_a_whole_factor(factor: float, delays: list[float]) -> None:
    """The factor is a whole number of seconds, at least one, as Celery takes it."""
    chosen = policy(retry_backoff=factor, retry_jitter=False, max_retries=None)
    assert [delay(decide(chosen, ValueError(), retries, RNG)) for retries in range(4)] == delays


def test_the_maximum_caps_the_backoff() -> None:
    """``retry_backoff_max`` is the longest delay, with and without jitter."""
    for jitter in (True, False):
        chosen = policy(retry_backoff=10, retry_backoff_max=25, retry_jitter=jitter, max_retries=None)
        assert [delay(decide(chosen, ValueError(), retries, RNG)) for retries in range(4)] == [10, 20, 25, 25]


def test_jitter_draws_from_zero_to_the_backoff() -> None:
    """Full jitter: every whole second from none to the backoff."""
    rng = random.Random(1)
    assert {backoff_delay(1, 2, 600, True, rng) for _ in range(500)} == {0.0, 1.0, 2.0, 3.0, 4.0}


def test_a_decision_says_why_and_carries_the_other_options() -> None:
    """The reason names exception, count and delay; what else ``retry_kwargs`` holds goes to the next run."""
    chosen = policy(
        retry_kwargs={"countdown": 7, "max_retries": 5, "queue": "slow", "kwargs": {"a": 1}, "throw": False}
    )
    decision = decide(chosen, ConnectionError("x"), 1, RNG)
    assert decision is not None
    assert decision.reason == "ConnectionError: retry 2 of 5 in 7 s"
    assert decision.options == {"queue": "slow", "kwargs": {"a": 1}}
    forever = decide(policy(max_retries=None), ValueError(), 8, RNG)
    assert forever is not None
    assert forever.reason == "ValueError: retry 9 in 180 s"
    assert forever.options == {}


def test_a_policy_keeps_its_own_copy_of_retry_kwargs() -> None:
    """A dict changed after decoration changes nothing."""
    options = {"countdown": 7}
    chosen = policy(retry_kwargs=options)
    options["countdown"] = 9
    assert delay(decide(chosen, ValueError(), 0, RNG)) == 7
    assert hash(chosen) == hash(policy(retry_kwargs={"countdown": 7}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"autoretry_for": ValueError}, r"autoretry_for must be a tuple of exception classes: write \(ValueError,\)"),
        ({"autoretry_for": "ValueError"}, r"autoretry_for must be a tuple .* not 'ValueError' \(str\)"),
        ({"autoretry_for": (ValueError("x"),)}, r"must hold exception classes, not ValueError\('x'\)"),
        ({"dont_autoretry_for": (int,)}, "dont_autoretry_for must hold exception classes, not <class 'int'>"),
        ({"max_retries": -1}, "max_retries must be a whole number from 0 on, or None"),
        ({"max_retries": True}, r"max_retries .* not True \(bool\)"),
        ({"max_retries": 1.5}, "max_retries"),
        ({"max_retries": "3"}, r"max_retries .* not '3' \(str\)"),
        ({"default_retry_delay": -1}, "default_retry_delay must be a number of seconds from 0 on"),
        ({"default_retry_delay": float("nan")}, "default_retry_delay"),
        ({"default_retry_delay": datetime.timedelta(1)}, "default_retry_delay .*timedelta"),
        ({"default_retry_delay": 1e400}, "default_retry_delay must be"),
        ({"retry_backoff_max": 10**400}, "retry_backoff_max must be"),
        ({"retry_backoff": -2}, "retry_backoff must be"),
        ({"retry_backoff": "2"}, "retry_backoff must be"),
        ({"retry_backoff": None}, "retry_backoff must be"),
        ({"retry_backoff_max": float("inf")}, "retry_backoff_max must be"),
        ({"retry_backoff_max": True}, "retry_backoff_max must be"),
        ({"retry_jitter": 1}, "retry_jitter must be True or False"),
        ({"retry_kwargs": [("countdown", 5)]}, "retry_kwargs must be a dict"),
        ({"retry_kwargs": {1: 2}}, "retry_kwargs must be a dict"),
        ({"retry_kwargs": {"max_retries": -1}}, "max_retries in retry_kwargs must be"),
        ({"retry_kwargs": {"countdown": "5"}}, "countdown in retry_kwargs must be"),
        ({"retry_kwargs": {"exc": ValueError()}}, "cannot hold 'exc'"),
        ({"retry_kwargs": {"eta": 5}}, "cannot hold 'eta'.*countdown"),
    ],
)  # fmt: skip
def test_unusable_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    """The error names the option, what was given and what to write."""
    with pytest.raises(ImproperlyConfigured, match=message):
        RetryPolicy.from_options(**options)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"default_retry_delay": 1e12}, "default_retry_delay=1000000000000.0"),
        ({"retry_kwargs": {"countdown": 300_000_000_000}}, "countdown in retry_kwargs=300000000000"),
    ],
)
def test_delays_beyond_the_calendar_are_refused(options: dict[str, Any], name: str) -> None:
    """Where the task is declared, as a countdown is where it is sent; a thousand years are none of that."""
    with pytest.raises(UnsupportedOption, match=f"^{name} cannot work: it ends after the year 9999$"):
        policy(**options)
    assert policy(default_retry_delay=3e10).default_retry_delay == 3e10


def test_a_manual_retry_asks_the_same_question() -> None:
    """`RetryPolicy.allows` is the limit of `Task.retry` too."""
    assert policy(max_retries=2).allows(1)
    assert not policy(max_retries=2).allows(2)
    assert policy(max_retries=2).allows(2, max_retries=3)
    assert policy(max_retries=None).allows(10**6)
