"""`crontab`: the minutes of a calendar."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, timedelta
from typing import Any

from dispatcher.schedules import fields
from dispatcher.schedules.base import BaseSchedule, elapsed, first_showing, zone_of_moment
from dispatcher.schedules.fields import ParseException

#: The rarest date, 29 February on one weekday, comes back within 40 years, also around a year 2100.
_SEARCH_YEARS = 100
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class crontab(BaseSchedule):  # noqa: N801 - Celery's name
    """Due at the minutes that match every field; mind the order of arguments, which is not crontab(5)'s.

    A field is ``*``, a number, a name, a range, a step (``*/15``), a comma-separated list of these, or numbers. Day of
    month and day of week must *both* match, as in Celery. Raises `ParseException`, a `ValueError`, for fields that
    cannot be read and for dates that no year has.
    """

    def __init__(
        self,
        minute: Any = "*",
        hour: Any = "*",
        day_of_week: Any = "*",
        day_of_month: Any = "*",
        month_of_year: Any = "*",
        *,
        nowfun: Callable[[], datetime] | None = None,
        app: Any = None,
    ) -> None:
        super().__init__(nowfun, app)
        self._specs = (minute, hour, day_of_week, day_of_month, month_of_year)
        self.minute = fields.parse(fields.MINUTE_FIELD, minute)
        self.hour = fields.parse(fields.HOUR_FIELD, hour)
        self.day_of_week = fields.parse(fields.WEEKDAY_FIELD, day_of_week)
        self.day_of_month = fields.parse(fields.DAY_FIELD, day_of_month)
        self.month_of_year = fields.parse(fields.MONTH_FIELD, month_of_year)
        if min(self.day_of_month) > max(_LONGEST[month - 1] for month in self.month_of_year):
            raise ParseException(
                f"day_of_month {fields.as_text(day_of_month)} never occurs in "
                f"month_of_year {fields.as_text(month_of_year)}"
            )

    @classmethod
    def from_string(cls, crontab: str) -> crontab:
        """Read the five fields of crontab(5): minute, hour, day of month, month, day of week."""
        if not isinstance(crontab, str):
            raise ParseException(f"a crontab's text is needed, such as '30 2 * * *', not {crontab!r:.60}")
        parts = crontab.split()
        if len(parts) != 5:
            raise ParseException(f"a crontab has five fields, not {len(parts)}: {crontab!r}")
        minute, hour, day_of_month, month_of_year, day_of_week = parts
        return cls(minute, hour, day_of_week, day_of_month, month_of_year)

    def matches(self, moment: datetime) -> bool:
        """Say whether the minute of this moment, in its own zone, is due; a minute shown twice is so once."""
        if moment.hour not in self.hour or moment.minute not in self.minute or not self._matches_date(moment.date()):
            return False
        first = first_showing(moment.replace(tzinfo=None), zone_of_moment(moment))
        return first is not None and not elapsed(first, moment)

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first matching minute after an aware moment by the wall clock of its zone; `None` if none is."""
        zone = zone_of_moment(moment)
        wall = moment.replace(tzinfo=None, fold=0)
        for minute in self._minutes(wall.replace(second=0, microsecond=0)):
            found = first_showing(minute, zone)
            # While a zone shows an hour again, the minutes ahead on the clock may have run already.
            if found is not None and elapsed(moment, found) > timedelta(0):
                return found
        return None

    def runs_in_minute(self, minute: datetime) -> tuple[datetime, ...]:
        """Return the minute itself if it is due."""
        return (minute,) if self.matches(minute) else ()

    def _minutes(self, start: datetime) -> Iterator[datetime]:
        hours, minutes = sorted(self.hour), sorted(self.minute)
        for day in self._dates(start.date()):
            for hour in hours:
                if day == start.date() and hour < start.hour:
                    continue
                for minute in minutes:
                    found = datetime(day.year, day.month, day.day, hour, minute)  # noqa: DTZ001 - on the wall
                    if found >= start:
                        yield found

    def _dates(self, start: date) -> Iterator[date]:
        days, months = sorted(self.day_of_month), sorted(self.month_of_year)
        for year in range(start.year, min(start.year + _SEARCH_YEARS, date.max.year) + 1):
            for month in months:
                if (year, month) < (start.year, start.month):
                    continue
                length = monthrange(year, month)[1]
                for number in days:
                    if number <= length and self._matches_date(day := date(year, month, number)) and day >= start:
                        yield day

    def _matches_date(self, day: date) -> bool:
        return (
            day.month in self.month_of_year
            and day.day in self.day_of_month
            and day.isoweekday() % 7 in self.day_of_week
        )

    def as_dict(self) -> Mapping[str, Any]:
        """Return the arguments, each as text."""
        names = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")
        return {name: fields.as_text(spec) for name, spec in zip(names, self._specs, strict=True)}

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, crontab) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[frozenset[int], ...]:
        return self.minute, self.hour, self.day_of_week, self.day_of_month, self.month_of_year

    def __repr__(self) -> str:
        minute, hour, day_of_week, day_of_month, month = (fields.as_text(spec) for spec in self._specs)
        return f"<crontab: {minute} {hour} {day_of_month} {month} {day_of_week} (m/h/dM/MY/d)>"

    def __reduce__(self) -> Any:
        return type(self), self._specs
