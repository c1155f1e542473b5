"""Schedules given as plain numbers, and schedules kept as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from dispatcher.schedules.base import BaseSchedule
from dispatcher.schedules.cron import crontab
from dispatcher.schedules.interval import schedule
from dispatcher.schedules.sun import solar


def maybe_schedule(s: Any, relative: bool = False, app: Any = None) -> Any:
    """Return a schedule for seconds or a `timedelta`, and a schedule or `None` as they are; ``app`` is set where given.

    Raises `TypeError` for anything that cannot say when it is due.
    """
    if s is None:
        return None
    if isinstance(s, int | float | timedelta):
        return schedule(s, relative, app=app)
    if not isinstance(s, BaseSchedule) and not callable(getattr(s, "is_due", None)):
        raise TypeError(f"{s!r} is no schedule; use crontab(...), schedule(...), solar(...), a timedelta or seconds")
    if app is not None:
        s.app = app
    return s


def to_dict(value: BaseSchedule) -> dict[str, Any]:
    """Return a schedule as JSON-ready data for `from_dict`. Raises `TypeError` for a class of one's own."""
    if value.nowfun is not None:
        raise TypeError(
            f"{value!r} cannot be stored: its nowfun is a function; the setting timezone is for all entries"
        )
    for kind, known in (("crontab", crontab), ("interval", schedule), ("solar", solar)):
        if type(value) is known:
            return {"kind": kind, **value.as_dict()}
    raise TypeError(f"{value!r} cannot be stored; only crontab, schedule and solar can, not classes of one's own")


def from_dict(data: Mapping[str, Any], app: Any = None) -> BaseSchedule:
    """Return the schedule that `to_dict` stored. Raises `ValueError` for data it did not write."""
    arguments = dict(data)
    kind = arguments.pop("kind", None)
    try:
        if kind == "crontab":
            return crontab(**arguments, app=app)
        if kind == "interval":
            return schedule(arguments.pop("seconds"), app=app, **arguments)
        if kind == "solar":
            return solar(**arguments, app=app)
    except (TypeError, KeyError) as error:
        raise ValueError(f"no stored schedule: {data!r} ({error})") from error
    raise ValueError(f"no stored schedule: {data!r} (kind must be crontab, interval or solar)")
