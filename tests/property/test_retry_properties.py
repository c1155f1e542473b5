"""Bounds of the backoff and of the number of retries."""

import random

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.retry import RetryPolicy, backoff_delay, decide

factors = st.one_of(st.integers(0, 10**6), st.floats(0, 10**6))
counts = st.integers(0, 10**12)
maxima = st.integers(0, 10**9)


@given(factors, counts, maxima, st.booleans(), st.randoms(use_true_random=False))
def test_backoff_stays_between_nothing_and_its_maximum(
    factor: float, retries: int, maximum: int, jitter: bool, rng: random.Random
) -> None:
    """However many retries, the delay is a whole number of seconds within its bounds, jitter only shortens it."""
    delay = backoff_delay(factor, retries, maximum, jitter, rng)
    full = backoff_delay(factor, retries, maximum, False, rng)
    assert 0 <= delay <= full <= maximum
    assert delay == int(delay)


@given(factors, counts, maxima)
def test_backoff_never_shrinks(factor: float, retries: int, maximum: int) -> None:
    """Without jitter a later retry waits at least as long, and exactly twice as long below the maximum."""
    rng = random.Random(0)
    now, later = (backoff_delay(factor, count, maximum, False, rng) for count in (retries, retries + 1))
    assert now <= later
    if later < maximum:
        assert later == 2 * now


@given(
    st.none() | st.integers(0, 50),
    st.none() | st.integers(0, 50),
    st.integers(0, 60),
    st.booleans() | st.integers(0, 100),
    st.none() | st.integers(0, 1000),
)
def test_a_task_is_retried_exactly_up_to_its_limit(
    max_retries: int | None, override: int | None, retries: int, backoff: int, countdown: int | None
) -> None:
    """A decision is made exactly while retries are left, and its delay is finite and not negative."""
    policy = RetryPolicy.from_options(
        autoretry_for=(ValueError,),
        max_retries=max_retries,
        retry_backoff=backoff,
        retry_kwargs={"max_retries": override, "countdown": countdown},
    )
    limit = max_retries if override is None else override
    decision = decide(policy, ValueError(), retries, random.Random(0))
    assert (decision is not None) is (limit is None or retries < limit)
    if decision is not None:
        assert 0 <= decision.delay <= max(1000, policy.default_retry_delay, policy.backoff_max)
