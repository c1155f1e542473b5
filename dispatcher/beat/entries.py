"""Entries of the beat: a named schedule, the call it makes, and what becomes of a firing that comes late.

They come from ``beat_schedule`` and `add_periodic_task`; `entry_of` checks one, `entries` all of them.
"""

from __future__ import annotations

import dataclasses
import math
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from enum import StrEnum
from typing import Any, Final

from dispatcher.clock import zone_of
from dispatcher.config.names import nearest
from dispatcher.exceptions import DispatcherError, ImproperlyConfigured, UnsupportedOption
from dispatcher.message import MAX_ID_LENGTH, encode
from dispatcher.packing import Call
from dispatcher.schedules import BaseSchedule, crontab, schedule, solar
from dispatcher.task_options import check_encoding

#: How late a firing still counts as on time where late ones are skipped, in seconds: EventBridge takes up to a minute
#: by itself, and so may another beat to notice that the one before it has died.
ON_TIME: Final = 120.0
#: How far back every missed firing is made up for, in seconds, where an entry asks for all of them and sets no bound.
ALL_WITHIN: Final = 86_400.0

_MICROSECONDS: Final = 1_000_000
_MINUTE: Final = 60
_HOUR: Final = 3_600
_KEYS: Final = (
    "task", "schedule", "args", "kwargs", "options", "relative", "enabled", "catch_up", "catch_up_within",
)  # fmt: skip
#: What a canvas calls itself in place of a task.
_CANVASES: Final = tuple(f"celery.{kind}" for kind in ("chain", "group", "chord", "chunks", "map", "starmap"))
#: Options of a call that a firing cannot have, with the reason.
_REFUSED: Final[Mapping[str, str]] = {
    "eta": "the schedule says when; use countdown= for a fixed delay after it",
    "task_id": "ids of firings are made of the entry's name and the time",
    "retries": "it belongs to a message that is under way",
    "gen": "it belongs to a message that is under way",
}


class CatchUp(StrEnum):
    """What becomes of firings that were missed, or that come late."""

    #: one firing, of the latest time that was due, makes up for all that were missed
    LAST = "last"
    #: each runs, as far back as ``catch_up_within``
    ALL = "all"
    #: none runs that is later than ``catch_up_within``
    SKIP = "skip"


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One entry, checked; times are seconds.

    ``timezone`` is where the wall clock of ``schedule`` is. ``options`` are those of `Task.apply_async`, ``queue`` is
    where its firings go. ``within`` bounds how late a firing may be, `None` sets no bound. ``app`` is whose entry it is
    (`identity`). ``dynamic`` entries are kept in the result backend, and fire for times after ``since``. ``ends`` is
    when the last of its runs may start, where its option ``expires`` is a moment: epoch seconds.
    """

    name: str
    task: str
    schedule: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    queue: str = "default"
    priority: int | None = None
    group_id: str | None = None
    timezone: tzinfo = dataclasses.field(default_factory=lambda: zone_of(None))
    catch_up: CatchUp = CatchUp.LAST
    within: float | None = None
    enabled: bool = True
    app: str = ""
    dynamic: bool = False
    since: float = 0.0
    ends: float | None = None

    def is_over(self, now: float) -> bool:
        """Say whether no run of it can start any more at a time in epoch seconds, whenever it is due."""
        return self.ends is not None and self.ends <= now

    @property
    def own_group(self) -> str:
        """The message group of its firings on a FIFO queue, where its options name none."""
        return f"beat-{uuid.uuid5(uuid.NAMESPACE_OID, self.name)}"

    @property
    def every(self) -> float | None:
        """The seconds between two times it is due, where these are the same from anywhere: an interval's."""
        if not _is_interval(self.schedule) or self.schedule.resolution >= _HOUR:
            return None
        seconds: float = self.schedule.seconds
        return seconds - seconds % _MINUTE if self.schedule.resolution else seconds

    def moment(self, at: float) -> datetime:
        """Return a time in epoch seconds on the wall clock of the entry."""
        return datetime.fromtimestamp(at, self.timezone)

    def next_after(self, at: float) -> float | None:
        """Return the first time it is due after another; both in epoch seconds.

        Intervals lie on a grid that begins in 1970, so that every beat has the same times and none drifts.
        """
        every = self.every
        if every is not None:
            step = round(every * _MICROSECONDS)
            return (math.floor(at * _MICROSECONDS) // step + 1) * step / _MICROSECONDS
        if _is_interval(self.schedule):
            return self._next_rounded(at)
        following: datetime | None = self.schedule.next_after(self.moment(at))
        return None if following is None else following.timestamp()

    def _next_rounded(self, at: float) -> float | None:
        """Return the next beginning of an hour or day that the span of a rounded interval reaches."""
        unit = schedule(self.schedule.resolution, relative=True)
        following = unit.next_after(self.moment(at))
        while following is not None and not self.schedule.runs_in_minute(following):
            following = unit.next_after(following)
        return None if following is None else following.timestamp()

    def due_in_minute(self, minute: float) -> list[float]:
        """Return the times it is due within the minute that begins then; what a timer of minutes is to start."""
        return [moment.timestamp() for moment in self.schedule.runs_in_minute(self.moment(minute))]

    def latest_due(self, at: float, now: float) -> float:
        """Return the last time it was due up to now, given one that is; all in epoch seconds."""
        every = self.every
        if every is not None:
            return at + math.floor((now - at) / every + 1e-9) * every if now > at else at
        latest, span = at, _MINUTE
        while now - span > at:  # the last of a long time, without going through all of it
            following = self.next_after(now - span)
            if following is not None and following <= now:
                latest = following
                break
            span *= 2
        following = self.next_after(latest)
        while following is not None and following <= now:
            latest, following = following, self.next_after(following)
        return latest


def _is_interval(value: Any) -> bool:
    """Say whether a schedule is an interval, which is due on a grid; a class of one's own says itself when it is."""
    return isinstance(value, schedule) and type(value).next_after is schedule.next_after


def identity(app: Any) -> str:
    """Return what tells an app's entries from those of others that share its store: its name and its default queue."""
    return f"{app.main or ''}@{app.conf.task_default_queue}"


def entries(app: Any) -> dict[str, Entry]:
    """Return the entries that the app's own code and configuration have, by name, all checked.

    Raises `ImproperlyConfigured` naming the entry and what is wrong with it.
    """
    app.finalize(auto=True)
    return {name: entry_of(app, name, given) for name, given in (app.conf.beat_schedule or {}).items()}


def entry_of(app: Any, name: Any, given: Any, *, where: str = "beat_schedule", **more: Any) -> Entry:
    """Check one entry in Celery's form of a dict; ``where`` says for errors where it comes from.

    Raises `ImproperlyConfigured`.
    """
    what = f"{where}: the entry {name!r}"
    check_name(name, what)
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(f"{what} must be a dict with at least 'task' and 'schedule', not {given!r:.100}")
    _check_keys(given, what)
    task = _task_of(app, given["task"], what)
    catch_up, within = _catch_up_of(app, given, what)
    enabled = _flag(given, "enabled", True, what)
    args, kwargs, options = given.get("args") or (), given.get("kwargs") or {}, given.get("options") or {}
    if not isinstance(options, Mapping):
        raise ImproperlyConfigured(f"{what}: 'options' must be a dict of apply_async's options, not {options!r:.100}")
    call = _call_of(app, task, args, kwargs, options, what)
    due = schedule_of(given["schedule"], _flag(given, "relative", False, what), what)
    zone = _zone_of(due, app.conf.timezone, what)
    _check_own(due, datetime.fromtimestamp(app.clock.time(), zone), what)
    return Entry(
        name=name, task=task.name, schedule=due,
        args=call.message.args, kwargs=call.message.kwargs, options=dict(options), queue=call.queue,
        priority=call.message.priority, group_id=call.message.group_id,
        timezone=zone, catch_up=catch_up, within=within, enabled=enabled,
        app=identity(app), ends=_end_of(options, call), **more,
    )  # fmt: skip


def _zone_of(value: BaseSchedule, setting: Any, what: str) -> tzinfo:
    """Return where the wall clock of a schedule is: where its ``nowfun`` shows the time, else in the app's zone."""
    try:
        return value.zone or zone_of(setting)
    except Exception as error:
        raise ImproperlyConfigured(f"{what}: the schedule's nowfun gives no time: {error!r:.200}") from error


def _check_own(value: Any, now: datetime, what: str) -> None:
    """Refuse a schedule of a class of one's own that names no times, the same from wherever it is asked."""
    if any(type(value).next_after is each.next_after for each in (crontab, schedule, solar)):
        return
    told = f"{what}: {type(value).__name__}.next_after(moment)"
    try:
        found = value.next_after(now)
        if found is None:
            return
        if not isinstance(found, datetime) or found.tzinfo is None or found <= now:
            raise ImproperlyConfigured(f"{told} must return an aware datetime after the moment, not {found!r:.100}")
        if value.next_after(now + (found - now) / 2) != found:
            raise ImproperlyConfigured(
                f"{told} must return the same time from any moment before it: a beat that is started anew, and the "
                "worker, ask again; count from a fixed time instead of the moment"
            )
    except ImproperlyConfigured:
        raise
    except Exception as error:
        raise ImproperlyConfigured(f"{told} raised {error!r:.200}") from error


def check_name(name: Any, what: str) -> None:
    """Raise `ImproperlyConfigured` for what cannot be an entry's name."""
    if not isinstance(name, str) or not name.strip() or len(name) > MAX_ID_LENGTH or not name.isprintable():
        raise ImproperlyConfigured(f"{what}: a name must be a text of 1 to {MAX_ID_LENGTH} printable characters")


def schedule_of(value: Any, relative: bool = False, what: str = "schedule") -> Any:
    """Return a schedule for one, or for a span: a `timedelta` or a number of seconds. Raises `ImproperlyConfigured`."""
    if isinstance(value, timedelta) or (isinstance(value, int | float) and not isinstance(value, bool)):
        try:
            return schedule(value, relative=relative)
        except (ValueError, OverflowError) as error:
            raise ImproperlyConfigured(f"{what}: {error}") from error
    if isinstance(value, BaseSchedule):
        return value
    hint = ""
    if isinstance(value, type):
        hint = f"; make one: {value.__name__}(…)"
    elif type(value).__module__.startswith("celery"):
        hint = f"; import {type(value).__name__} from dispatcher.schedules"
    elif isinstance(value, str):
        hint = f"; for a crontab's text: {crontab.__name__}.from_string({value!r})"
    raise ImproperlyConfigured(
        f"{what}: {value!r} is no schedule; use crontab(…), a number of seconds, a timedelta, or solar(…){hint}"
    )


def _check_keys(given: Mapping[str, Any], what: str) -> None:
    for key in given:
        if key not in _KEYS:
            match = nearest(str(key), _KEYS)
            hint = f"did you mean {match!r}?" if match else f"it takes {', '.join(_KEYS)}"
            if key in ("queue", "expires", "priority", "countdown"):
                hint = f"it belongs into 'options', as in 'options': {{{key!r}: …}}"
            raise ImproperlyConfigured(f"{what} has no key {key!r}: {hint}")
    for key in ("task", "schedule"):
        if given.get(key) is None:
            raise ImproperlyConfigured(f"{what} has no {key!r}")


def _flag(given: Mapping[str, Any], key: str, default: bool, what: str) -> bool:
    value = given.get(key, default)
    if not isinstance(value, bool):
        raise ImproperlyConfigured(f"{what}: {key!r} must be true or false, not {value!r:.60}")
    return value


def _task_of(app: Any, named: Any, what: str) -> Any:
    name = getattr(named, "name", named)
    if not isinstance(name, str):
        raise ImproperlyConfigured(f"{what}: 'task' must be a task or the name of one, not {named!r:.60}")
    task = app.tasks.get(name)
    if task is not None:
        return task
    if name in _CANVASES:
        raise ImproperlyConfigured(f"{what}: a canvas cannot be an entry; make a task that sends it, and name that")
    known = list(app.tasks)
    match = nearest(name, known)
    hint = f"did you mean {match!r}?" if match else "is the module with it in imports= or include=?"
    raise ImproperlyConfigured(f"{what}: no task named {name!r} is registered ({len(known)} are): {hint}")


def _catch_up_of(app: Any, given: Mapping[str, Any], what: str) -> tuple[CatchUp, float | None]:
    try:
        policy = CatchUp(given.get("catch_up", CatchUp.LAST))
    except ValueError:
        known = ", ".join(repr(str(each)) for each in CatchUp)
        raise ImproperlyConfigured(f"{what}: 'catch_up' must be one of {known}, not {given['catch_up']!r}") from None
    within = given.get("catch_up_within", app.conf.beat_cron_starting_deadline)
    if within is None:
        return policy, {CatchUp.SKIP: ON_TIME, CatchUp.ALL: ALL_WITHIN}.get(policy)
    seconds = within.total_seconds() if isinstance(within, timedelta) else within
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
        raise ImproperlyConfigured(f"{what}: 'catch_up_within' must be a time span over 0, not {within!r}")
    return policy, float(seconds)


def _check_span(options: Mapping[str, Any], what: str) -> None:
    """Refuse an expiry, which counts from when the entry is due, that is over before a run may start."""
    expires, countdown = (_span(options.get(option)) for option in ("expires", "countdown"))
    if expires is not None and expires <= (countdown or 0.0):
        raise ImproperlyConfigured(
            f"{what}: no run would ever start: 'expires' is {expires:g} s and 'countdown' {countdown or 0.0:g} s "
            "after it is due"
        )


def _end_of(options: Mapping[str, Any], call: Call) -> float | None:
    expires = options.get("expires")
    return None if expires is None or _span(expires) is not None else call.message.expires


def _span(value: Any) -> float | None:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return float(value) if isinstance(value, int | float) else None


def _call_of(app: Any, task: Any, args: Any, kwargs: Any, options: Mapping[str, Any], what: str) -> Call:
    """Make the call once, to see that it can be made."""
    for option, reason in _REFUSED.items():
        if options.get(option) is not None:
            raise ImproperlyConfigured(f"{what}: the option {option!r} cannot work: {reason}")
    check_encoding(what, options.get("serializer"), options.get("compression"))
    _check_span(options, what)
    if isinstance(args, str) or not isinstance(args, Sequence):
        raise ImproperlyConfigured(f"{what}: 'args' must be a list or a tuple, not {type(args).__name__}")
    try:
        call: Call = app.build_call(task, args, kwargs, options)
        task.check_arguments(call.message.args, call.message.kwargs)
        encode(call.message)  # a retry with other arguments, say, sends them
    except (TypeError, ValueError, UnsupportedOption, DispatcherError) as error:
        raise ImproperlyConfigured(f"{what}: {error}") from error
    return call
