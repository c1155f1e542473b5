"""`schedule`: every so often."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Any

from dispatcher.schedules.base import MINUTE, BaseSchedule, first_showing, zone_of_moment

_DAY, _HOUR, _MINUTE = 86_400, 3_600, 60


def _span(seconds: float) -> timedelta:
    try:
        return timedelta(seconds=seconds)
    except (ValueError, OverflowError) as error:
        longest = f"{timedelta.max.days:,} days"
        raise ValueError(f"run_every must be a time span over 0, of up to {longest}, not {seconds!r} s") from error


class schedule(BaseSchedule):  # noqa: N801 - Celery's name
    """Due every ``run_every``: a `timedelta` or a number of seconds, counted from the last run in real time.

    ``relative`` rounds each run down to the resolution of the span, on the wall clock: an interval of days runs at
    midnight, one of hours on the hour, one of minutes on the minute. Raises `ValueError`.
    """

    def __init__(
        self,
        run_every: timedelta | float,
        relative: bool = False,
        nowfun: Callable[[], datetime] | None = None,
        app: Any = None,
    ) -> None:
        super().__init__(nowfun, app)
        if isinstance(run_every, int | float) and not isinstance(run_every, bool):
            run_every = _span(run_every)
        if not isinstance(run_every, timedelta) or run_every <= timedelta(0):
            raise ValueError(f"run_every must be a time span over 0, not {run_every!r}")
        self.run_every = run_every
        self.relative = bool(relative)

    @property
    def seconds(self) -> float:
        """The span in seconds."""
        return self.run_every.total_seconds()

    human_seconds = property(lambda self: f"{self.seconds:g} s")

    @property
    def resolution(self) -> int:
        """The seconds of the unit that ``relative`` rounds to: of a day, an hour, a minute; 0 rounds nothing."""
        return next((unit for unit in (_DAY, _HOUR, _MINUTE) if self.relative and self.seconds >= unit), 0)

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the run that follows one at this aware moment; `None` past the last year there is."""
        zone = zone_of_moment(moment)
        try:
            if self.resolution == _DAY:
                return self._midnight(moment)
            end = moment.astimezone(UTC) + self.run_every
            if self.resolution:
                shift = end.astimezone(zone).utcoffset() or timedelta(0)
                end -= (end + shift - datetime.min.replace(tzinfo=UTC)) % timedelta(seconds=self.resolution)
            return end.astimezone(zone)
        except OverflowError:
            return None

    def _midnight(self, moment: datetime) -> datetime:
        wall = datetime.combine((moment.replace(tzinfo=None) + self.run_every).date(), time())
        while (found := first_showing(wall, zone_of_moment(moment))) is None:
            wall += timedelta(days=self.seconds // _DAY)
        return found

    def runs_in_minute(self, minute: datetime) -> tuple[datetime, ...]:
        """Return the runs of this minute, where nothing tells of the last: whole multiples of the span since 1970.

        Rounded ones of several hours or days run where the wall clock begins an hour or day that such a multiple falls
        into.
        """
        if self.resolution >= _HOUR:
            return (minute,) if self._begins_unit(minute) else ()
        span = self.run_every - self.run_every % MINUTE if self.resolution else self.run_every
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        found = minute.astimezone(UTC)
        end = found + MINUTE
        found += (epoch - found) % span
        runs = []
        while found < end:
            runs.append(found.astimezone(minute.tzinfo))
            found += span
        return tuple(runs)

    def _begins_unit(self, minute: datetime) -> bool:
        count = int(self.seconds // self.resolution)
        if self.resolution == _HOUR:
            return minute.minute == 0 and int(minute.timestamp()) // _HOUR % count == 0
        first = first_showing(minute.replace(tzinfo=None), zone_of_moment(minute))
        is_midnight = (minute.hour, minute.minute) == (0, 0) and first is not None and first.fold == minute.fold
        return is_midnight and minute.toordinal() % count == 0

    def as_dict(self) -> Mapping[str, Any]:
        """Return the arguments, the span in seconds."""
        return {"seconds": self.seconds, "relative": self.relative}

    def __eq__(self, other: object) -> bool:
        if isinstance(other, schedule):
            return (self.run_every, self.relative) == (other.run_every, other.relative)
        return self.run_every == other if isinstance(other, timedelta) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.run_every)

    def __repr__(self) -> str:
        return f"<freq: {self.human_seconds}>"

    def __reduce__(self) -> Any:
        return type(self), (self.run_every, self.relative)
