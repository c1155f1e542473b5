"""What a run tells of itself: nothing of its sensitive arguments, in record, dead letter, log and error callbacks."""

from __future__ import annotations

import dataclasses
import logging
import traceback
from typing import Any

from dispatcher.execution.run import Run, ShutdownNow, format_traceback, own_frames
from dispatcher.sensitive import MASK, Marks, Secrets, both
from dispatcher.serialization import RemoteError


def marks_of(run: Run) -> Marks | None:
    """Return what of a run is sensitive: by its message, which knows the call, and by its task."""
    marks = run.message.sensitive if run.message is not None else None
    task = run.task
    return marks if task is None or task._sensitive is None else both(marks, task._sensitive)


def secrets_of(run: Run) -> Secrets | None:
    """Return the values that a run must not tell, those of a retry's new arguments among them."""
    marks, message = marks_of(run), run.message
    if marks is None or message is None:
        return None
    changes = (run.outcome.changes if run.outcome is not None else None) or {}
    args, kwargs = changes.get("args") or (), changes.get("kwargs") or {}
    secrets = Secrets.of(message.args, message.kwargs, marks)
    return secrets.joined(Secrets.of(args, kwargs, marks)) if args or kwargs else secrets


def conceal(run: Run) -> None:
    """Take the values out of the error of a run's outcome and its traceback; what was raised is kept beside them."""
    outcome = run.outcome
    error = outcome.error if outcome is not None else None
    if outcome is None or error is None or outcome.raised is not None:
        return
    secrets = secrets_of(run)
    if secrets is None:
        return
    safe = dataclasses.replace(outcome, error=_masked(secrets, error), raised=error)
    if outcome.traceback is not None:
        safe.traceback = _masked_traceback(secrets, error, outcome.traceback)
    run.outcome = safe


def shown_error(run: Run, error: BaseException) -> BaseException:
    """Return an exception as it may be shown."""
    secrets = secrets_of(run)
    return error if secrets is None else _masked(secrets, error)


def log_error(logger: logging.Logger, run: Run, error: BaseException, message: str, *args: Any) -> None:
    """Log an error of a run with its traceback, as far as it may be shown."""
    secrets = secrets_of(run)
    if secrets is None:
        logger.error(message, *args, exc_info=error)
    else:
        logger.error("%s\n%s", message % args, _masked_traceback(secrets, error, format_traceback(error)))


def _masked(secrets: Secrets, error: BaseException) -> BaseException:
    try:
        return secrets.mask_error(error)
    except ShutdownNow:
        raise
    except BaseException:  # noqa: BLE001 - a user's __str__ may raise anything; then it says nothing
        return RemoteError(type(error).__qualname__, type(error).__module__, (MASK,))


def _masked_traceback(secrets: Secrets, error: BaseException, text: str) -> str:
    secrets = secrets.for_error(error)
    if not secrets.withheld:
        return secrets.mask(text)
    frames = traceback.format_tb(own_frames(error))
    return "".join(("Traceback (most recent call last):\n", *frames, f"{type(error).__name__}: {MASK}\n"))
