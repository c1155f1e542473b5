"""Coroutines under limits, in one event loop that leaves nothing behind."""

import asyncio
import contextvars
from typing import Any

import pytest

from dispatcher.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from dispatcher.execution.coroutines import Loop, run_limited

FOR_EVER = 3600


async def _value() -> int:
    await asyncio.sleep(0)
    return 5


async def _raises() -> None:
    raise ValueError("x")


async def _cleans_up(log: list[str]) -> str:
    try:
        await asyncio.sleep(FOR_EVER)
    except SoftTimeLimitExceeded:
        log.append("caught")
        await asyncio.sleep(0)
        return "partial"
    return "never"


async def _deaf(log: list[str]) -> None:
    for _ in range(2):
        try:
            await asyncio.sleep(FOR_EVER)
        except asyncio.CancelledError:
            log.append("again")


def _run(coroutine: Any, soft: float | None = None, hard: float | None = None) -> tuple[Any, bool]:
    fired = [False]
    loop = Loop()
    try:
        return loop.run(run_limited(coroutine, soft, hard, fired)), fired[0]
    finally:
        loop.close()


def test_values_and_errors_pass() -> None:
    """With and without limits a coroutine's end is its own."""
    assert _run(_value()) == (5, False)
    assert _run(_value(), 60, 60) == (5, False)
    for limits in ((None, None), (60, 60)):
        with pytest.raises(ValueError, match="x"):
            _run(_raises(), *limits)


def test_soft_limit_is_raised_where_the_coroutine_waits() -> None:
    """The coroutine may clean up, await in doing so, and return."""
    log: list[str] = []
    assert _run(_cleans_up(log), 0.01) == ("partial", True)
    assert log == ["caught"]
    with pytest.raises(SoftTimeLimitExceeded):
        _run(asyncio.sleep(FOR_EVER), 0.01)


def test_hard_limit_cancels_until_it_is_heard() -> None:
    """A coroutine that swallows its cancellation is cancelled again; the end is the hard limit."""
    log: list[str] = []
    with pytest.raises(TimeLimitExceeded):
        _run(_deaf(log), None, 0.01)
    assert log == ["again", "again"]


def test_loop_serves_one_run_after_the_other() -> None:
    """The event loop stays the same, so that clients made by one task serve the next."""
    loop = Loop()

    async def which() -> Any:
        return asyncio.get_running_loop()

    first = loop.run(which())
    assert loop.run(which()) is first
    loop.close()
    assert first.is_closed()
    second = loop.run(which())
    assert second is not first
    loop.close()


variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)


def test_context_goes_in_and_not_out() -> None:
    """A run sees its caller's context and leaves no trace in it or in the next run."""

    async def change() -> int:
        seen = variable.get()
        variable.set(99)
        return seen

    loop = Loop()
    token = variable.set(7)
    assert [loop.run(change()), loop.run(change()), variable.get()] == [7, 7, 7]
    variable.reset(token)
    assert loop.run(change()) == 0
    loop.close()


def test_loop_inside_a_loop_runs_in_a_thread() -> None:
    """Where this thread's event loop runs already, the coroutine gets another."""

    async def outer() -> Any:
        return Loop().run(_value())

    assert asyncio.run(outer()) == 5
