"""`solar`: where the sun stands at a place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.schedules.base import BaseSchedule, zone_of_moment

#: Each event: the sun's height over the horizon, ephem's search, and whether the sun's centre counts, not its edge.
#: Refraction lifts the rising and setting sun by 34', the twilights are 6, 12 and 18 degrees below the horizon
#: (https://aa.usno.navy.mil/faq/RST_defs).
_EVENTS = {
    "dawn_astronomical": ("-18", "next_rising", True),
    "dawn_nautical": ("-12", "next_rising", True),
    "dawn_civil": ("-6", "next_rising", True),
    "sunrise": ("-0:34", "next_rising", False),
    "solar_noon": ("0", "next_transit", False),
    "sunset": ("-0:34", "next_setting", False),
    "dusk_civil": ("-6", "next_setting", True),
    "dusk_nautical": ("-12", "next_setting", True),
    "dusk_astronomical": ("-18", "next_setting", True),
}
#: A place with midnight sun or polar night has the event again within a year, or never.
_SEARCH_DAYS = 366


class solar(BaseSchedule):  # noqa: N801 - Celery's name
    """Due at an event of the sun, such as ``sunrise`` or ``dusk_civil``, at a latitude and longitude in degrees.

    North and east are positive. A day without the event, as in a polar night, has no run. Raises `ValueError` for what
    is no event or place, `TypeError` for degrees that are no number, and `ImproperlyConfigured` without the extra
    ``solar``.
    """

    def __init__(
        self,
        event: str,
        lat: float,
        lon: float,
        *,
        nowfun: Callable[[], datetime] | None = None,
        app: Any = None,
    ) -> None:
        super().__init__(nowfun, app)
        if event not in _EVENTS:
            raise ValueError(f"{event!r} is no event of the sun; use one of {', '.join(sorted(_EVENTS))}")
        for name, value, limit in (("latitude", lat, 90), ("longitude", lon, 180)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number of degrees, not {value!r:.60}")
            if not -limit <= value <= limit:
                raise ValueError(f"{name} must be between -{limit} and {limit} degrees, not {value!r}")
        if find_spec("ephem") is None:
            raise ImproperlyConfigured("solar schedules need ephem: pip install 'serverless-dispatcher[solar]'")
        self.event, self.lat, self.lon = event, lat, lon

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the event that follows an aware moment, to the second, in its zone; `None` if a year has none."""
        zone, start = zone_of_moment(moment), moment.astimezone(UTC)
        # ephem's answer depends on where its search begins, by a second or so. The events of a day are therefore taken
        # as found from its midnight, so that each is one moment, whoever asks.
        found: datetime | None = start
        while found is not None:
            midnight = found.replace(hour=0, minute=0, second=0, microsecond=0)
            found = self._event_after(midnight)
            while found is not None and found.date() == midnight.date():
                if found > start:
                    return found.astimezone(zone)
                found = self._event_after(found + timedelta(hours=1))
        return None

    def _event_after(self, start: datetime) -> datetime | None:
        ephem = import_module("ephem")
        horizon, search, use_center = _EVENTS[self.event]
        place = ephem.Observer()
        place.lat, place.lon, place.elev = str(self.lat), str(self.lon), 0
        place.horizon, place.pressure = horizon, 0
        sun, moment = ephem.Sun(), ephem.Date(start)
        arguments = {"use_center": True} if use_center else {}
        for _ in range(_SEARCH_DAYS):
            try:
                found = getattr(place, search)(sun, start=moment, **arguments)
            except ephem.CircumpolarError:
                moment = place.next_antitransit(sun, start=moment)
            else:
                event: datetime = found.datetime()
                return event.replace(microsecond=0, tzinfo=UTC)
        return None

    def as_dict(self) -> Mapping[str, Any]:
        """Return the arguments."""
        return {"event": self.event, "lat": self.lat, "lon": self.lon}

    def __eq__(self, other: object) -> bool:
        return self.as_dict() == other.as_dict() if isinstance(other, solar) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.event, self.lat, self.lon))

    def __repr__(self) -> str:
        return f"<solar: {self.event} at latitude {self.lat}, longitude: {self.lon}>"

    def __reduce__(self) -> Any:
        return type(self), (self.event, self.lat, self.lon)
