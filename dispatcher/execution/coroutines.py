"""Running coroutines of ``async def`` tasks under limits, in one event loop per process."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
from collections.abc import Awaitable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dispatcher.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded

#: How long a coroutine that swallowed its hard limit's cancellation is waited for before it is cancelled again, in
#: seconds.
_CANCEL_AGAIN = 1.0


async def run_limited(
    coroutine: Coroutine[Any, Any, Any], soft: float | None, hard: float | None, fired: list[bool]
) -> Any:
    """Await a coroutine: the soft limit raises `SoftTimeLimitExceeded` inside it, the hard one cancels it.

    ``fired[0]`` becomes true when the soft limit is reached. Both interrupt at an ``await`` only. Raises
    `TimeLimitExceeded`.
    """
    if soft is None and hard is None:
        return await coroutine
    body = _Interruptible(coroutine, soft, fired)
    inner = asyncio.ensure_future(_as_coroutine(body))
    loop = asyncio.get_running_loop()
    timer = None
    if soft is not None:
        timer = loop.call_later(soft, body.interrupt, inner)
    try:
        done, _ = await asyncio.wait([inner], timeout=hard)
        while not done:
            inner.cancel()
            done, _ = await asyncio.wait([inner], timeout=_CANCEL_AGAIN)
            if done:
                raise TimeLimitExceeded(hard)
    except asyncio.CancelledError:
        inner.cancel()
        raise
    finally:
        if timer is not None:
            timer.cancel()
    value = inner.result()
    if isinstance(value, _Exit):
        raise value.error
    return value


@dataclasses.dataclass
class _Exit:
    """What a coroutine ended by, of the kind that asyncio would end the whole loop for."""

    error: BaseException


async def _as_coroutine(awaitable: Awaitable[Any]) -> Any:
    try:
        return await awaitable
    except (SystemExit, KeyboardInterrupt) as error:
        return _Exit(error)


class _Interruptible:
    """Drives a coroutine; turns the cancellation that the soft limit asked for into `SoftTimeLimitExceeded` inside it.

    Cancelling is the one way to wake a coroutine out of whatever it awaits; the exception it must see is another.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], soft: float | None, fired: list[bool]) -> None:
        self._coroutine = coroutine
        self._soft = soft
        self._fired = fired
        self._interrupting = False

    def interrupt(self, task: asyncio.Future[Any]) -> None:
        if not task.done():
            self._interrupting = True
            self._fired[0] = True
            task.cancel()

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine = self._coroutine
        try:
            waiting = coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        while True:
            try:
                sent = yield waiting
            except asyncio.CancelledError as cancelled:
                error: BaseException = cancelled
                if self._interrupting:
                    self._interrupting = False
                    task = asyncio.current_task()
                    if task is not None:
                        task.uncancel()
                    error = SoftTimeLimitExceeded(self._soft)
                try:
                    waiting = coroutine.throw(error)
                except StopIteration as stop:
                    return stop.value
            except BaseException as raised:  # noqa: BLE001 - whatever the awaited thing raised is for the coroutine
                try:
                    waiting = coroutine.throw(raised)
                except StopIteration as stop:
                    return stop.value
            else:
                try:
                    waiting = coroutine.send(sent)
                except StopIteration as stop:
                    return stop.value


def in_event_loop() -> bool:
    """Tell whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _run_in_thread(coroutine: Coroutine[Any, Any, Any], context: contextvars.Context) -> Any:
    """Run a coroutine in a thread, because this one has an event loop already; eager mode within ``async`` code."""

    def run() -> Any:
        with asyncio.Runner() as runner:
            return runner.run(coroutine, context=context)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


class Loop:
    """An event loop that lives as long as its owner, so that clients made by one task serve the next."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end, also where this thread has an event loop that runs."""
        # Each run sees the context of its caller and leaves nothing behind in it, as a thread of its own would.
        context = contextvars.copy_context()
        if in_event_loop():
            return _run_in_thread(coroutine, context)
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(coroutine, context=context)

    def close(self) -> None:
        """Close the loop."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()
