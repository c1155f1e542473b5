"""The local beat: a process, or a part of a worker, that fires the entries of an app. Several may run at once."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Any, Final

from dispatcher import signals
from dispatcher.beat import lead
from dispatcher.beat.entries import Entry, identity
from dispatcher.beat.firing import time_text
from dispatcher.beat.lead import Lead
from dispatcher.beat.timetable import Timetable, due
from dispatcher.exceptions import BackendError, OperationalError

logger = logging.getLogger("dispatcher.beat")

#: What ``beat_max_loop_interval`` is where it is 0, as with Celery, in seconds.
_INTERVAL: Final = 5.0
#: How long it rests after a call that failed, doubling to the longest, in seconds.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
#: How soon it notices that it is to stop, in seconds.
_NOTICE: Final = 0.25
#: The lease is renewed when this share of it is left.
_RENEW_AT: Final = 2 / 3
#: How far a clock may be behind the beat before it, in seconds, as those of two machines are.
_SKEW: Final = 60.0
#: What was due in this time before a clock was set back is fired again, in seconds, if it was ahead for so long.
_LOOK_BACK: Final = 3_600.0


class Beat:
    """Fires the entries of an app until stopped.

    Of several, one fires, the one with the lease; another takes over when it is past. The state, until when all has
    been fired, is in the result backend. Seconds left `None` come from the configuration. Raises
    `ImproperlyConfigured` for an entry that cannot work.
    """

    def __init__(self, app: Any, *, max_interval: float | None = None, lease: float | None = None) -> None:
        self.app = app
        app.finalize()
        self.max_interval: float = max_interval or app.conf.beat_max_loop_interval or _INTERVAL
        self.lease: float = lease or app.conf.beat_lease
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        self.timetable = Timetable(app)
        self.timetable.refresh(strict=True)
        self._lead = Lead(identity(app))
        self._unknown: frozenset[str] = frozenset()
        self._leads = False
        self._stopped = False
        self._failures = 0
        self._seen: tuple[str, int] = ("", 0)
        self._seen_at = 0.0

    @property
    def leads(self) -> bool:
        """Whether it is this one that fires, as far as it knows."""
        return self._leads

    def start(self, embedded: bool = False) -> None:
        """Fire until `stop`; then let another take over at once."""
        signals.beat_init.send(self)
        if embedded:
            signals.beat_embedded_init.send(self)
        logger.info(
            "beat ready: %d entries, lease of %g s in %s", len(self.timetable.entries), self.lease,
            self.app.backend.describe(),
        )  # fmt: skip
        if not self.app.backend.shared:
            logger.warning("the state of the beat is in %s: it is lost with the process", self.app.backend.describe())
        try:
            while not self._stopped:
                self._sleep(self.tick())
        finally:
            self._resign()
            logger.info("beat stopped")

    def stop(self) -> None:
        """End `start`; may be called from a signal's handler or another thread."""
        self._stopped = True

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopped and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _NOTICE))

    def tick(self) -> float:
        """Fire what is due, if it is this beat's turn; return the seconds to rest until the next."""
        try:
            rest = self._turn()
        except (OperationalError, BackendError) as error:
            self._failures += 1
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._failures - 1, 10))
            logger.error("the broker or backend is out of reach, trying again in %.1f s: %s", pause, error)
            return pause
        self._failures = 0
        return rest

    def _turn(self) -> float:
        now: float = self.app.clock.time()
        if not self._leads:
            self._lead = lead.read(self.app.backend, self._lead.app)
        if self._lead.is_led_by_another(self.holder, now) and self._is_alive():
            self._follow()
            return max(0.01, min(self.max_interval, self._lead.until - now))
        self.timetable.refresh()
        entries = self.timetable.entries
        if not self._fire(entries, now):
            self._follow()
            return 0.01
        return self._rest(entries, now)

    def _is_alive(self) -> bool:
        """Say whether the beat that leads may still do, by our own clock: another's may have been far ahead."""
        now, seen = self.app.clock.monotonic(), (self._lead.holder, self._lead.version)
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        return bool(now - self._seen_at <= self.lease)

    def _fire(self, entries: Mapping[str, Entry], now: float) -> bool:
        """Send what is due, then note it; false where another beat turned out to lead.

        Firings come before the note: a beat that dies in between leaves them to be sent again, as the same tasks.
        """
        before, known = self._lead, frozenset(name for name, entry in entries.items() if not entry.dynamic)
        since = self._begin(before, now)
        firings = [
            (entry, firing)
            for entry in entries.values()
            if self._may_be_due(entry, since, now)
            for firing in due(entry, self._since(entry, since, now), now)
        ]  # fmt: skip
        fresh = not self._leads or not _RENEW_AT * self.lease <= before.until - now <= self.lease + 1
        if not (firings or fresh or known != before.known or before.upto > now):
            return True
        if firings:
            self.app.send_firings(firings)
        after = before.changed(
            holder=self.holder, until=now + self.lease, upto=now, known=known, steady=self._steady(before, now)
        )
        stood = lead.swap(self.app.backend, before, after, now)
        for entry, firing in firings:
            logger.info("fired %s (%s) for %s", entry.name, entry.task, time_text(firing.at))
        if stood is not None:
            self._lead = stood
            return False
        self._lead = after
        if not self._leads:
            self._leads = True
            logger.info("this beat fires, all until %s has been", time_text(since))
        return True

    def _may_be_due(self, entry: Entry, since: float, now: float) -> bool:
        following = self.timetable.next_time(entry, since)
        return following is not None and following <= now

    def _since(self, entry: Entry, upto: float, now: float) -> float:
        """Return from when on times of an entry are to be fired: those before it was there are not missed."""
        if entry.dynamic:
            return max(entry.since, upto)
        return upto if entry.name in self._lead.known else now

    def _begin(self, before: Lead, now: float) -> float:
        """Return from when on times are to be fired.

        A clock that was set back was ahead before, or is behind now. So what was fired ahead is fired again at its
        time, and what was due since it leapt ahead is made up for: where it ran, these firings are of the same tasks.
        """
        behind = before.upto - now
        if behind <= _SKEW:
            return min(before.upto or now, now)
        since = max(before.steady, now - _LOOK_BACK) if 0 < before.steady < now else now
        logger.warning(
            "the clock is %.0f s behind the last firing: times from %s on are fired again, and run where they have not",
            behind, time_text(since),
        )  # fmt: skip
        return since

    def _steady(self, before: Lead, now: float) -> float:
        """Return from where the clock leapt ahead last, or from where on there was no beat for a while."""
        if before.upto > now:
            return 0.0
        leapt = before.upto > 0 and now - before.upto > max(_SKEW, 2 * self.lease)
        return before.upto if leapt else before.steady

    def _follow(self) -> None:
        if self._leads:
            logger.warning("another beat has taken over: %s", self._lead.holder)
        self._leads = False
        own = frozenset(name for name, entry in self.timetable.entries.items() if not entry.dynamic)
        unknown = own - self._lead.known
        if unknown and unknown != self._unknown:
            logger.warning(
                "the beat that fires, %s, does not know the entries %s: is it of an older release, or of another app "
                "with this name and default queue?", self._lead.holder, ", ".join(sorted(unknown)),
            )  # fmt: skip
        self._unknown = unknown

    def _rest(self, entries: Mapping[str, Entry], fired_at: float) -> float:
        """Return the seconds until something is due that was not at ``fired_at``."""
        now: float = self.app.clock.time()
        rest = min(self.max_interval, self.lease * (1 - _RENEW_AT))
        for entry in entries.values():
            following = self.timetable.next_time(entry, fired_at) if entry.enabled else None
            if following is not None:
                rest = min(rest, following - now)
        return max(0.0, rest)

    def _resign(self) -> None:
        if not self._leads:
            return
        now = self.app.clock.time()
        try:
            lead.swap(self.app.backend, self._lead, self._lead.changed(holder="", until=0.0), now)
        except (OperationalError, BackendError) as error:
            logger.warning("the lease cannot be given up, another beat takes over in %g s: %s", self.lease, error)
