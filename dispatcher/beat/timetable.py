"""Timetable: the entries of an app as they are now, and which of their times are to be fired."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from dispatcher.beat.entries import CatchUp, Entry, entry_of
from dispatcher.beat.firing import PUNCTUAL, Firing
from dispatcher.beat.stored import Store
from dispatcher.exceptions import DecodeError, ImproperlyConfigured, SecurityError

logger = logging.getLogger("dispatcher.beat")

_MINUTE: Final = 60


class Timetable:
    """The entries of an app; `refresh` takes up what was changed since."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._given: dict[str, Any] = {}
        self._static: dict[str, Entry] = {}
        self._store = Store(app)
        self._versions: dict[str, int] = {}
        self._stored: dict[str, Entry] = {}
        self._next: dict[str, tuple[Entry, float, float | None]] = {}

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The entries by name; the code's own go before stored ones."""
        return {**self._stored, **self._static} if self._stored else self._static

    def refresh(self, *, strict: bool = False) -> None:
        """Take up entries that are new, changed or gone.

        One that cannot work is left out and complained of, or raises `ImproperlyConfigured` where ``strict``. Raises
        `OperationalError` where stored ones cannot be read.
        """
        self._refresh_static(strict)
        if not strict:
            self._refresh_stored()

    def _refresh_stored(self) -> None:
        versions = self._store.versions()
        if versions == self._versions:
            return
        changed = [name for name, version in versions.items() if self._versions.get(name) != version]
        for name in self._stored.keys() - versions.keys():
            logger.info("entry %s is gone", name)
            del self._stored[name]
        try:
            self._stored.update(self._store.many(changed))
        except (ImproperlyConfigured, SecurityError, DecodeError, ValueError):
            self._take_one_by_one(changed)
        if changed:
            logger.info("stored entries are new or changed: %s", ", ".join(changed))
        self._versions = versions

    def _take_one_by_one(self, names: list[str]) -> None:
        for name in names:
            try:
                self._stored.update(self._store.many([name]))
            except (ImproperlyConfigured, SecurityError, DecodeError, ValueError) as error:
                logger.error("the stored entry %s fires no more until that is mended: %s", name, error)
                self._stored.pop(name, None)

    def _refresh_static(self, strict: bool) -> None:
        given = dict(self._app.conf.beat_schedule or {})
        if given == self._given:
            return
        for name in self._static.keys() - given.keys():
            logger.info("entry %s is gone", name)
            del self._static[name]
        for name, value in given.items():
            if self._given.get(name) != value:
                self._take(name, value, strict)
        self._given = {name: dict(value) if isinstance(value, Mapping) else value for name, value in given.items()}

    def _take(self, name: str, value: Any, strict: bool) -> None:
        try:
            entry = entry_of(self._app, name, value)
        except ImproperlyConfigured as error:
            if strict:
                raise
            logger.error("%s; it fires no more until that is mended", error)
            self._static.pop(name, None)
            return
        if entry.is_over(self._app.clock.time()):
            logger.warning("the entry %s runs no more: its option 'expires' is a moment in the past", name)
        if self._given:
            logger.info("entry %s is %s: %r", name, "changed" if name in self._static else "new", entry.schedule)
        self._static[name] = entry

    def next_time(self, entry: Entry, now: float) -> float | None:
        """Return the first time an entry is due after now, from memory where it was asked before."""
        known = self._next.get(entry.name)
        if known is None or known[0] is not entry or now < known[1] or (known[2] is not None and known[2] <= now):
            self._next[entry.name] = known = (entry, now, _next_after(entry, now))
        return known[2]


def _next_after(entry: Entry, now: float) -> float | None:
    try:
        return entry.next_after(now)
    except Exception:  # of a class of the user's own: the other entries go on
        logger.exception("the entry %s fires no more until it is changed: its schedule does not say when", entry.name)
        return None


def due(entry: Entry, since: float, now: float) -> list[Firing]:
    """Return the firings of an entry for its times after ``since`` and up to now, as its policy has them.

    Times are epoch seconds. What is less than a moment late is not missed; of what is, the policy decides what fires.
    """
    if not entry.enabled or since >= now:
        return []
    if entry.catch_up is CatchUp.LAST:
        times = _times(entry, max(since, now - PUNCTUAL), now)
        if not times:
            first = entry.next_after(since)
            latest = entry.latest_due(first, now) if first is not None and first <= now else None
            times = [] if latest is None or now - latest > (entry.within or now) else [latest]
    else:
        times = _times(entry, max(since, now - (entry.within or 0.0) - 1e-6), now)
    return [Firing(entry.name, at, exact=bool(at % _MINUTE) or _is_short(entry)) for at in times]


def _is_short(entry: Entry) -> bool:
    return entry.every is not None and entry.every < _MINUTE


def _times(entry: Entry, since: float, now: float) -> list[float]:
    found, at = [], entry.next_after(since)
    while at is not None and at <= now:
        found.append(at)
        at = entry.next_after(at)
    return found
