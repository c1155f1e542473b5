"""Steps 3 to 5: start a run, run the function under its limits, and decide what became of it."""

from __future__ import annotations

import inspect
import logging
import math
import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from types import CoroutineType
from typing import Any

from dispatcher import signals, states
from dispatcher.call_options import positional
from dispatcher.clock import LATEST, timestamp
from dispatcher.exceptions import (
    USER_ERRORS,
    Ignore,
    MaxRetriesExceededError,
    Reject,
    Replaced,
    Retry,
    SoftTimeLimitExceeded,
    UnsupportedOption,
)
from dispatcher.execution.concealing import conceal, log_error, marks_of
from dispatcher.execution.environment import Environment
from dispatcher.execution.run import (
    ERRBACK_HEADER,
    SUCCESS,
    ExceptionInfo,
    Kind,
    Outcome,
    Run,
    ShutdownNow,
    format_traceback,
)
from dispatcher.execution.watch import Watched
from dispatcher.message import Message
from dispatcher.request import Context
from dispatcher.retry import decide as decide_retry
from dispatcher.sensitive import MASK, RETURN, marks_word
from dispatcher.state import enter, frames, pop_frame
from dispatcher.task import Task

# Of its own, so that these lines (one a task) can be turned off without those of the tasks.
logger = logging.getLogger("dispatcher.task.outcome")


def start(env: Environment, run: Run) -> None:
    """Step 3: tell that the run starts."""
    run.place = env
    task = run.task
    assert task is not None
    if task._has_own_call:
        run.request.update(_fresh=True)
    if signals.task_received.receivers:
        signals.task_received.announce(task, request=run.request)


def limits_of(run: Run) -> tuple[float | None, float | None]:
    """Return the soft and hard limit of a run in seconds: the message's, else the task's."""
    message, task = run.message, run.task
    assert message is not None and task is not None
    soft = message.soft_time_limit if message.soft_time_limit is not None else task.soft_time_limit
    hard = message.time_limit if message.time_limit is not None else task.time_limit
    return soft, hard


def _cut(env: Environment, soft: float | None) -> float | None:
    """Return a soft limit that ends before the place does that the run is in."""
    if env.time_left is None:
        return soft
    ends = max(0.001, env.time_left())
    return ends if soft is None else min(soft, ends)


def _warn_unkept(env: Environment, task: Task[Any, Any], soft: float | None, hard: float | None) -> None:
    """Say once per task that a call's limit is not kept here; pools refuse those of tasks at their start."""
    if soft is not None and not env.limits.interrupts:
        option, why = "soft_time_limit", "a plain function runs in a thread that nothing interrupts; use an async one"
    elif hard is not None and not env.limits.keeps_hard:
        option, why = "time_limit", "nothing outside this process is there to end a run; use soft_time_limit"
    else:
        return
    if task.name not in env.warned and not env.eager:
        env.warned.add(task.name)
        logger.warning("a %s of %s is not kept here: %s, or the prefork pool", option, task.name, why)


def perform(env: Environment, runs: Iterable[Run]) -> None:
    """Steps 3 to 5 for plain functions, one after another: start each, run it to its outcome, tell of it.

    ``runs`` is asked for the next when one is decided, outside of its frame. Never raises but for a cold shutdown, and
    what ``runs`` raises.
    """
    keeper, monotonic, parent = env.limits, time.monotonic, frames.get()
    for run in runs:
        task, message = run.task, run.message
        assert task is not None and message is not None
        if task._has_own_call or signals.task_received.receivers:
            start(env, run)
        run.place, run.parent = env, parent
        token = frames.set(run)
        run.begun = begun = monotonic()
        fired = False
        try:
            try:
                limited = _arm(env, run, task, message)
                try:
                    function = task if task._has_own_call else task.run
                    value = function(*(message.args if run.bare else call_arguments(message)), **message.kwargs)
                    if type(value) is CoroutineType:  # of a plain function around a coroutine function
                        value = run_to_end(value)
                finally:
                    if limited:
                        fired = keeper.stop()
            except ShutdownNow:
                raise
            except BaseException as error:  # noqa: BLE001 - SystemExit of a task is its failure, not the worker's end
                run.outcome = decide_error(env, run, error, fired)
            else:
                run.outcome = RETURNED if value is None and run.context is None else decide_value(env, run, value)
            run.duration = monotonic() - begun
            tell(env, run)
        finally:
            frames.reset(token)


def _arm(env: Environment, run: Run, task: Task[Any, Any], message: Message) -> bool:
    """Tell that a run's code begins, and have its limits kept from here on; say whether it has any."""
    if task._hooks or signals.task_prerun.receivers:
        _announce_start(message, task)
    keeper = env.limits
    soft, hard = (task.soft_time_limit, task.time_limit) if run.bare else limits_of(run)
    if not keeper.keeps_end:
        soft = _cut(env, soft)
    elif soft is None:
        soft = math.inf
    if soft is None and hard is None:
        return False
    if not keeper.keeps_hard:
        _warn_unkept(env, task, soft, hard)
    keeper.start(soft, hard, run)
    return True


def run_to_end(coroutine: Any) -> Any:
    """Run a coroutine that a plain function returned, as a decorator around an ``async def`` may do."""
    from dispatcher.execution.coroutines import Loop

    loop = Loop()
    try:
        return loop.run(coroutine)
    finally:
        loop.close()


def tell_unrun(env: Environment, run: Run) -> None:
    """Tell of a failure that was decided before the function could run: bad arguments, too many crashes."""
    start(env, run)
    token = enter(run)
    try:
        tell(env, run)
    finally:
        pop_frame(token)


async def perform_async(env: Environment, run: Run) -> None:
    """Steps 4 and 5 for a coroutine function, in the event loop."""
    import asyncio

    from dispatcher.execution.coroutines import run_limited

    task, message = run.task, run.message
    assert task is not None and message is not None
    token = enter(run)
    run.begun = time.monotonic()
    fired = [False]
    try:
        try:
            _announce_start(message, task)
            soft, hard = limits_of(run)
            soft = _cut(env, soft)
            function = task if task._has_own_call else task.run
            value = function(*call_arguments(message), **message.kwargs)
            if inspect.iscoroutine(value):
                if env.watch is not None:
                    value = Watched(value, env.watch, run)
                value = await run_limited(value, soft, hard, fired)
        except asyncio.CancelledError:
            if _cancelled_from_outside():
                raise
            run.outcome = decide_error(env, run, _cancelled_itself(), fired[0])
        except ShutdownNow:
            raise
        except BaseException as error:  # noqa: BLE001 - as in `perform`
            run.outcome = decide_error(env, run, error, fired[0])
        else:
            run.outcome = decide_value(env, run, value)
        run.duration = time.monotonic() - run.begun
        tell(env, run)
    finally:
        pop_frame(token)


def _cancelled_from_outside() -> bool:
    import asyncio

    current = asyncio.current_task()
    return current is not None and current.cancelling() > 0


def _cancelled_itself() -> RuntimeError:
    return RuntimeError("the coroutine was cancelled by its own code (asyncio.CancelledError)")


def _announce_start(message: Message, task: Task[Any, Any]) -> None:
    # In Celery's order: what receivers set up, the hook may use.
    if signals.task_prerun.receivers:
        args, kwargs = list(message.args), dict(message.kwargs)
        signals.task_prerun.send(task, task_id=message.id, task=task, args=args, kwargs=kwargs)
    if "before_start" in task._hooks:
        task.before_start(message.id, list(message.args), dict(message.kwargs))


def call_arguments(message: Message) -> tuple[Any, ...]:
    """Return the positional arguments of a run: an error callback sees the failed task's request as a `Context`."""
    if message.headers and message.headers.get(ERRBACK_HEADER) and message.args and isinstance(message.args[0], dict):
        return Context(None, **message.args[0]), *message.args[1:]
    return message.args


def decide_value(env: Environment, run: Run, value: Any) -> Outcome:
    """Return the outcome of a function that returned."""
    pending = _pending_retry(run)
    if pending is not None:
        return _retry_outcome(env, pending)
    return Outcome(Kind.SUCCESS, value)


#: The outcome of functions that return nothing; outcomes are not changed, so all can have the same.
RETURNED = Outcome(Kind.SUCCESS)


def _pending_retry(run: Run) -> Retry | None:
    """Return what ``retry(throw=False)`` asked for: it holds whatever the function did afterwards."""
    return run.context.__dict__.get("_pending_retry") if run.context is not None else None


def decide_error(env: Environment, run: Run, error: BaseException, fired: bool) -> Outcome:
    """Return the outcome of a function that raised."""
    try:
        return _outcome_of_error(env, run, error, fired)
    except USER_ERRORS as second:  # of the user's classes that are to be retried, or expected
        return Outcome(Kind.FAILURE, error=second, traceback=format_traceback(second))


def _outcome_of_error(env: Environment, run: Run, error: BaseException, fired: bool) -> Outcome:
    task = run.task
    assert task is not None
    pending = error if isinstance(error, Retry) else _pending_retry(run)
    if pending is not None:
        return _retry_outcome(env, pending)
    if isinstance(error, Replaced):
        return Outcome(Kind.SUCCESS, error.value) if env.eager else Outcome(Kind.SUPERSEDED)
    if isinstance(error, Ignore):
        return Outcome(Kind.IGNORED, error=error)
    if isinstance(error, Reject):
        # A requeued message rests: whatever is in its way is rarely gone at once, and each receipt counts.
        return Outcome(
            Kind.REJECTED, error=error, delay=env.backoff(run.delivery.receive_count) if error.requeue else 0.0
        )
    raised = error
    if fired and not isinstance(error, SoftTimeLimitExceeded):
        # The limit was reached and some library turned its exception into one of its own.
        error = SoftTimeLimitExceeded(*raised.args[:1]).with_traceback(raised.__traceback__)
        error.__cause__ = raised
    decision = None
    if not isinstance(error, MaxRetriesExceededError):
        limit = run.context.__dict__.get("_retry_limit") if run.context is not None else None
        decision = decide_retry(task.retry_policy, raised, run.retries, env.random, limit)
        if decision is None and error is not raised:
            decision = decide_retry(task.retry_policy, error, run.retries, env.random, limit)
    text = format_traceback(error)
    if decision is not None:
        return Outcome(Kind.RETRY, error=error, traceback=text, delay=decision.delay, changes=decision.options or None)
    expected = bool(task.throws) and isinstance(raised, task.throws)
    return Outcome(Kind.FAILURE, error=error, traceback=text, expected=expected)


def _retry_outcome(env: Environment, retry: Retry) -> Outcome:
    try:
        now = env.clock.time()
        delay = seconds_until(retry.when, now, env.app.conf.timezone)
        if now + delay > LATEST:
            raise UnsupportedOption(f"a retry in {delay:g} s cannot work: it ends after the year 9999")
        changes = retry.sig
        if changes is not None and "args" in changes:
            changes = {**changes, "args": positional(changes["args"])}  # of what can be read once, and may raise then
    except USER_ERRORS as error:  # of the user's values, say
        return Outcome(Kind.FAILURE, error=error, traceback=format_traceback(error))
    cause = retry.exc if retry.exc is not None else retry
    return Outcome(Kind.RETRY, error=cause, traceback=format_traceback(cause), delay=delay, changes=changes)


def seconds_until(when: Any, now: float, timezone: Any) -> float:
    """Return the seconds from now to a delay in seconds, a `timedelta`, or a `datetime`, naive in ``timezone``."""
    if when is None:
        return 0.0
    if isinstance(when, datetime):
        return max(0.0, timestamp(when, timezone) - now)
    if isinstance(when, timedelta):
        return max(0.0, when.total_seconds())
    if isinstance(when, bool) or not isinstance(when, int | float) or not math.isfinite(when):
        raise TypeError(f"the delay of a retry must be a finite number of seconds, not {when!r}")
    return max(0.0, float(when))


def tell(env: Environment, run: Run) -> None:
    """Call the hooks, send the signals and write the log line of the decision; none of them can change it.

    But for one: as with Celery, `Task.on_failure` may ask for another run by `Task.retry`.
    """
    task, outcome = run.task, run.outcome
    assert task is not None and outcome is not None
    kind = outcome.kind
    listened = task._hooks or signals.task_postrun.receivers or _TOLD[kind].receivers
    if not listened and kind is SUCCESS and not logger.isEnabledFor(logging.INFO):
        return  # nobody wants to know
    if listened:
        try:
            _call_hooks(run, task, outcome)
        except ShutdownNow:
            raise
        except BaseException as error:  # noqa: BLE001 - a hook's failure must not become the task's, nor leave the worker
            if isinstance(error, Retry) and kind is Kind.FAILURE:
                run.outcome = outcome = _retry_outcome(env, error)
            else:
                _tell_of_hook(run, task, outcome, error)
    try:
        conceal(run)
        _log(run, task, run.outcome or outcome)
    except ShutdownNow:
        raise
    except BaseException as error:  # noqa: BLE001 - a user's __repr__ may raise anything
        log_error(logger, run, error, "the outcome %s of %s[%s] cannot be shown", outcome.kind.value, task.name, run.id)


def _tell_of_hook(run: Run, task: Task[Any, Any], outcome: Outcome, error: BaseException) -> None:
    log_error(
        logger, run, error, "a hook of %s[%s] raised; the outcome %s stands", task.name, run.id, outcome.kind.value
    )
    signals.task_internal_error.announce(
        task, task_id=run.id, args=run.message.args if run.message else (), kwargs={},
        request=run.request, exception=error, traceback=error.__traceback__, einfo=ExceptionInfo(error),
    )  # fmt: skip


#: The signal of each outcome; of others `task_postrun` tells, as it does of these.
_TOLD = dict.fromkeys(Kind, signals.task_postrun) | {
    Kind.SUCCESS: signals.task_success,
    Kind.RETRY: signals.task_retry,
    Kind.FAILURE: signals.task_failure,
    Kind.REJECTED: signals.task_rejected,
}


def _call_hooks(run: Run, task: Task[Any, Any], outcome: Outcome) -> None:
    message = run.message
    assert message is not None
    args, kwargs = list(message.args), dict(message.kwargs)
    error = outcome.error
    einfo = ExceptionInfo(error, outcome.traceback) if error is not None else None
    status, value = _STATUS.get(outcome.kind, states.PENDING), outcome.value if error is None else error
    if outcome.kind is Kind.SUCCESS:
        task.on_success(outcome.value, message.id, args, kwargs)
        signals.task_success.send(task, result=outcome.value, runtime=run.duration)
    elif outcome.kind is Kind.RETRY and error is not None:
        task.on_retry(error, message.id, args, kwargs, einfo)
        signals.task_retry.send(task, request=run.request, reason=error, einfo=einfo)
    elif outcome.kind is Kind.FAILURE and error is not None:
        task.on_failure(error, message.id, args, kwargs, einfo)
        signals.task_failure.send(
            task,
            task_id=message.id,
            exception=error,
            args=args,
            kwargs=kwargs,
            traceback=error.__traceback__,
            einfo=einfo,
        )
    elif outcome.kind is Kind.REJECTED:
        signals.task_rejected.send(task, message=message, exc=error)
    if outcome.kind in (Kind.SUCCESS, Kind.FAILURE):
        task.after_return(status, value, message.id, args, kwargs, einfo)
    signals.task_postrun.send(task, task_id=message.id, task=task, args=args, kwargs=kwargs, retval=value, state=status)


_STATUS = {
    Kind.SUCCESS: states.SUCCESS,
    Kind.RETRY: states.RETRY,
    Kind.FAILURE: states.FAILURE,
    Kind.REJECTED: states.REJECTED,
    Kind.IGNORED: states.IGNORED,
}


def _log(run: Run, task: Task[Any, Any], outcome: Outcome) -> None:
    kind = outcome.kind
    name = run.message.shadow or task.name if run.message is not None else task.name
    if not logger.isEnabledFor(logging.INFO) and kind is Kind.SUCCESS:
        return
    extra = {"outcome": kind.value, "duration": round(run.duration, 6)}  # fields of JSON logs
    if kind is Kind.SUCCESS:
        shown = MASK if marks_word(marks_of(run), RETURN) else repr(outcome.value)
        if len(shown) > task.resultrepr_maxsize:
            shown = shown[: task.resultrepr_maxsize] + "…"
        logger.info("Task %s[%s] succeeded in %.6fs: %s", name, run.id, run.duration, shown, extra=extra)
    elif kind is Kind.RETRY:
        logger.warning("Task %s[%s] retry in %gs: %r", name, run.id, outcome.delay, outcome.error, extra=extra)
    elif kind is Kind.FAILURE and outcome.expected:
        logger.info("Task %s[%s] raised expected: %r", name, run.id, outcome.error, extra=extra)
    elif kind is Kind.FAILURE:
        text = outcome.traceback or ""
        logger.error("Task %s[%s] raised unexpected: %r\n%s", name, run.id, outcome.error, text, extra=extra)
    elif kind is Kind.REJECTED:
        logger.warning("Task %s[%s] rejected: %r", name, run.id, outcome.error, extra=extra)
    else:
        logger.info("Task %s[%s] %s", name, run.id, kind.value, extra=extra)
