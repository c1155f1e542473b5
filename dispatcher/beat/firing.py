"""Firings: the message by which a timer says that an entry is due, and what becomes of one that comes late.

``{"v":1,"beat":"<entry>","at":"<scheduled time>"}``: from a rule of EventBridge, from its Scheduler, or from a local
beat. It carries no arguments: the worker takes task, arguments and options from the entry. The task's id is made of
the entry's name and the time, so that firings of one time are one task however often they come.
"""

from __future__ import annotations

import dataclasses
import uuid
from datetime import UTC, datetime
from typing import Any, Final

from dispatcher.beat.entries import ON_TIME, CatchUp, Entry
from dispatcher.exceptions import DecodeError
from dispatcher.message import MAX_ID_LENGTH, WIRE_VERSION, InvalidMessage, UnsupportedMessage
from dispatcher.serialization import json_decode, json_encode

#: Fields of a firing's body.
_BEAT: Final = "beat"
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "dispatcher/beat")
_MINUTE: Final = 60
_SUN: Final = 2.0
#: Every time zone has a calendar for what is before, in epoch seconds: the beginning of the year 9999.
_LATEST: Final = 253_370_764_800
#: How far ahead of our clock a firing's time may be, in seconds: the clock of a beat may be a time zone or a day wrong.
AHEAD: Final = 86_400.0
#: The same for one without a signature where there are keys: EventBridge's clock is right, and nobody else may fire.
UNSIGNED_AHEAD: Final = 900.0
#: A firing that is less late than this is on time, in seconds, whatever was due since: it was fired, and is on its way.
#: For those of whole minutes it is `ON_TIME`.
PUNCTUAL: Final = 10.0


@dataclasses.dataclass(frozen=True, slots=True)
class Firing:
    """An entry's name and a time in epoch seconds.

    A timer that knows minutes only means whatever is due in that minute. ``exact`` means this very time.
    """

    entry: str
    at: float
    exact: bool = False

    @property
    def minute(self) -> float:
        """When its minute began."""
        return self.at - self.at % _MINUTE

    def body(self) -> str:
        """Return its message."""
        fields: dict[str, Any] = {"v": WIRE_VERSION, _BEAT: self.entry, "at": time_text(self.at)}
        if self.exact:
            fields["exact"] = True
        return json_encode(fields)


def firing_id(app: str, entry: str, at: float) -> str:
    """Return the id of the task that an entry of an app (`entries.identity`) starts at a time, in epoch seconds."""
    return str(uuid.uuid5(_NAMESPACE, f"{app}\n{entry}\n{time_text(at)}"))


def time_text(at: float) -> str:
    """Return a time as EventBridge writes it: ISO 8601 in UTC, with a fraction only where there is one."""
    return datetime.fromtimestamp(round(at, 6), UTC).isoformat().replace("+00:00", "Z")


def read(body: str | bytes) -> Firing | None:
    """Read a body; `None` for one that is no firing.

    Raises `UnsupportedMessage` for a firing of a newer version, `InvalidMessage` for one that cannot be read.
    """
    try:
        fields = json_decode(body)
    except DecodeError:
        return None
    if type(fields) is not dict or _BEAT not in fields or "id" in fields:
        return None
    name, version = fields[_BEAT], fields.get("v")
    if type(name) is not str or not 0 < len(name) <= MAX_ID_LENGTH:
        raise InvalidMessage(f"'beat', the name of an entry, must be a text of 1 to {MAX_ID_LENGTH} characters")
    if version != WIRE_VERSION or type(version) is not int:
        raise UnsupportedMessage(f"a firing of {name!r} is of wire version {version!r:.40}; this release reads 1")
    return Firing(name, _time_of(fields.get("at"), name), fields.get("exact") is True)


def _time_of(value: Any, name: str) -> float:
    try:
        moment = datetime.fromisoformat(value)
        at = round((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp(), 6)
        if not 0 <= at < _LATEST:
            raise ValueError("no time of a firing")
        return at
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidMessage(
            f"'at' of a firing of {name!r} must be an ISO 8601 time from 1970 to 9998, not {value!r:.60}"
        ) from error


def due(entry: Entry, firing: Firing) -> list[float]:
    """Return the times that a firing stands for, in epoch seconds: none where its entry is not due then."""
    minute = entry.due_in_minute(firing.minute)
    if not firing.exact:
        return minute
    # The sun is computed anew, from another moment than where it was fired, and may be a second off.
    off = 0.0 if entry.every is not None else _SUN
    return [at for at in minute if abs(at - firing.at) <= off]


def kept(entry: Entry, at: float, now: float) -> float | None:
    """Return the time that is to run where one comes at a time now, by the entry's policy; `None` for none.

    All in epoch seconds. It is another one where a later one makes up for it.
    """
    late = now - at
    if entry.catch_up is CatchUp.LAST and late > _punctual(entry, at):
        at = entry.latest_due(at, now)
        late = now - at
    return None if entry.within is not None and late > entry.within else at


def _punctual(entry: Entry, at: float) -> float:
    """Return how late a firing is on time: one of a whole minute may come from a timer that takes a minute itself."""
    shorter = entry.every is not None and entry.every < _MINUTE
    return PUNCTUAL if shorter or at % _MINUTE else ON_TIME


def wanted(entry: Entry, times: list[float], now: float) -> list[float]:
    """Return which of several times are to run, in their order and each once; those ahead of now all are."""
    found = (kept(entry, at, now) for at in times)
    return list(dict.fromkeys(at for at in found if at is not None))
