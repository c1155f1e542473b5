"""What every schedule promises, and the wall clock of a zone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, NamedTuple

from dispatcher.clock import zone_of
from dispatcher.exceptions import ImproperlyConfigured

MINUTE = timedelta(minutes=1)


class schedstate(NamedTuple):  # noqa: N801 - Celery's name
    """Whether a schedule is due, and in how many seconds to ask again."""

    is_due: bool
    next: float


class BaseSchedule:
    """When something runs, as a value: equal schedules run at the same moments.

    Subclasses give `next_after`; the rest follows from it. ``app`` (its clock and its ``timezone``) and ``nowfun`` (a
    clock, and its zone where it shows an aware time) matter to `now`, `is_due` and `remaining_estimate`, the zone to
    the beat too. They take no part in equality.
    """

    def __init_subclass__(cls) -> None:
        """Refuse a class that says by Celery's methods when it is due, which no beat here would ask."""
        super().__init_subclass__()
        if "next_after" in vars(cls) and "runs_in_minute" not in vars(cls):
            cls.runs_in_minute = BaseSchedule.runs_in_minute  # type: ignore[method-assign]
        for name in ("is_due", "remaining_estimate"):
            if name in vars(cls) and "next_after" not in vars(cls):
                raise ImproperlyConfigured(
                    f"{cls.__name__} defines {name}, but schedules are asked for next_after(moment: datetime); "
                    "define that, and what is left follows from it"
                )

    def __init__(self, nowfun: Callable[[], datetime] | None = None, app: Any = None) -> None:
        self.nowfun = nowfun
        self.app = app

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first run after an aware moment, by the wall clock of its zone; `None` if there is none."""
        raise NotImplementedError(f"{type(self).__name__} does not say when it runs next; define next_after")

    def runs_in_minute(self, minute: datetime) -> tuple[datetime, ...]:
        """Return the runs within the minute that begins at an aware moment: what a firing at that minute is to start.

        A timer that knows minutes only fires too often for some schedules, and once where several runs are due; this
        is what remains of its firing.
        """
        runs = []
        found = self.next_after(minute - timedelta(microseconds=1))
        while found is not None and elapsed(minute, found) < MINUTE:
            runs.append(found)
            found = self.next_after(found)
        return tuple(runs)

    def now(self) -> datetime:
        """Return the time by ``nowfun``, else by the app, else by the machine; aware."""
        if self.nowfun is not None:
            return self.aware(self.nowfun())
        return datetime.now(UTC) if self.app is None else self.aware(self.app.now())

    @property
    def zone(self) -> tzinfo | None:
        """The zone of the time that ``nowfun`` shows, as with Celery; `None` where there is none."""
        found = None if self.nowfun is None else self.nowfun().tzinfo
        return None if found is None else zone_of(found)

    @property
    def tz(self) -> tzinfo:
        """The zone of ``nowfun``, else of the app, else UTC."""
        return self.zone or (UTC if self.app is None else zone_of(self.app.conf.timezone))

    def aware(self, moment: datetime) -> datetime:
        """Return a moment in the zone of the schedule; a naive one is read as UTC, as in Celery."""
        _check_moment(moment)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).astimezone(self.tz)

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Return the time from now to the run that follows ``last_run_at``; negative when that is overdue.

        Where no run follows, a year: the time to ask again.
        """
        following = self.next_after(self.aware(last_run_at))
        return timedelta(days=366) if following is None else elapsed(self.now(), following)

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Say whether the run after ``last_run_at`` is due now, and in how many seconds to ask again."""
        remaining = self.remaining_estimate(last_run_at).total_seconds()
        if remaining > 0:
            return schedstate(False, remaining)
        return schedstate(True, max(self.remaining_estimate(self.now()).total_seconds(), 0.0))


def elapsed(start: datetime, end: datetime) -> timedelta:
    """Return the real time between two aware moments; plain subtraction ignores clock changes within one zone."""
    return end.astimezone(UTC) - start.astimezone(UTC)


def first_showing(wall: datetime, zone: tzinfo) -> datetime | None:
    """Return the moment at which the clock of a zone first shows a naive time; `None` where it skips that time."""
    moment = wall.replace(tzinfo=zone, fold=0)
    shown = moment.astimezone(UTC).astimezone(zone)
    return moment if shown.replace(tzinfo=None) == wall.replace(fold=0) else None


def zone_of_moment(moment: datetime) -> tzinfo:
    """Return the zone of a moment, which must be aware; raises `ValueError`, and `TypeError` for what is no moment."""
    _check_moment(moment)
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone; give an aware datetime, such as datetime.now(UTC)")
    return moment.tzinfo


def _check_moment(moment: Any) -> None:
    if not isinstance(moment, datetime):
        raise TypeError(f"a moment must be a datetime, such as datetime.now(UTC), not {moment!r:.60}")
