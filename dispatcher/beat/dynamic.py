"""``app.schedules``: entries of the beat that are made, paused and removed while the app runs."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dispatcher.beat.entries import Entry, check_name, identity
from dispatcher.beat.stored import EntryGone, Store, given_of
from dispatcher.brokers.base import Outgoing
from dispatcher.exceptions import DecodeError, ImproperlyConfigured, SecurityError

if TYPE_CHECKING:
    from dispatcher.brokers.sqs_delays import Delays
    from dispatcher.provision.eventbridge import Translation

logger = logging.getLogger("dispatcher.beat")

#: What EventBridge Scheduler puts in the place of these in what it sends.
#: https://docs.aws.amazon.com/scheduler/latest/UserGuide/managing-schedule-context-attributes.html
_TIME, _ONCE = "<aws.scheduler.scheduled-time>", "<aws.scheduler.execution-id>"


class Schedules:
    """The entries of an app that are kept in its result backend.

    A local beat fires them. On SQS with ``scheduler_role`` EventBridge Scheduler does, without any process: each has a
    schedule there. Methods raise `OperationalError` where the backend or AWS cannot be reached; doing the same again
    then is safe.
    """

    def __init__(self, app: Any) -> None:
        app.finalize()
        self._app = app
        self._store = Store(app)

    def put(
        self,
        name: str,
        task: Any,
        schedule: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        relative: bool = False,
        enabled: bool = True,
        catch_up: str | None = None,
        catch_up_within: Any = None,
    ) -> Entry:
        """Make an entry, or replace the one of that name; it fires from now on.

        ``task`` is a task of this app or its name, the rest is as in ``beat_schedule``. Raises `ImproperlyConfigured`
        for what cannot work, before anything is stored, and for a name that the app's own code has.
        """
        given: dict[str, Any] = {
            "task": getattr(task, "name", task), "schedule": schedule, "args": args, "kwargs": kwargs or {},
            "options": options or {}, "relative": relative, "enabled": enabled,
        }  # fmt: skip
        given.update({
            key: value for key, value in {"catch_up": catch_up, "catch_up_within": catch_up_within}.items()
            if value is not None
        })  # fmt: skip
        return self._put(name, given)

    def get(self, name: str) -> Entry | None:
        """Return an entry, `None` where there is none."""
        try:
            return self._store.get(name)
        except EntryGone:
            return None

    def list(self) -> dict[str, Entry]:
        """Return all entries, by name; one that cannot work any more is left out, and logged as an error."""
        names = sorted(self._store.versions())
        try:
            return self._store.many(names)
        except (ImproperlyConfigured, SecurityError, DecodeError, ValueError):
            return {name: entry for each in names for name, entry in self._readable(each).items()}

    def _readable(self, name: str) -> dict[str, Entry]:
        try:
            return self._store.many([name])
        except (ImproperlyConfigured, SecurityError, DecodeError, ValueError) as error:
            logger.error("the stored entry %r fires no more until that is mended: %s", name, error)
            return {}

    def pause(self, name: str) -> Entry:
        """Keep an entry from firing; raises `KeyError` where there is none."""
        return self._put(name, {**given_of(self._known(name)), "enabled": False})

    def resume(self, name: str) -> Entry:
        """Let an entry fire again, for times from now on; raises `KeyError` where there is none."""
        return self._put(name, {**given_of(self._known(name)), "enabled": True})

    def delete(self, name: str) -> bool:
        """Remove an entry; return whether there was one. Firings of it that are under way start nothing."""
        timer = _timer(self._app)
        if timer is not None and name in self._store.versions():
            timer.scheduler(self._queue_of(name)).delete(timer_name(self._app, name))
        return self._store.remove(name)

    def _queue_of(self, name: str) -> str:
        """Return where an entry's firings go; the app's default queue for one that cannot be read any more."""
        try:
            found = self.get(name)
        except (ImproperlyConfigured, SecurityError, DecodeError, ValueError) as error:
            logger.warning("the stored entry %r cannot be read: %s", name, error)
            found = None
        return str(self._app.conf.task_default_queue) if found is None else found.queue

    def _known(self, name: str) -> Entry:
        found = self.get(name)
        if found is None:
            raise KeyError(f"app.schedules has no entry {name!r}")
        return found

    def _put(self, name: str, given: Mapping[str, Any]) -> Entry:
        check_name(name, "app.schedules")
        if name in (self._app.conf.beat_schedule or {}):
            raise ImproperlyConfigured(
                f"app.schedules: the entry {name!r} is one of the app's own code, in beat_schedule or by "
                "add_periodic_task; change it there, or choose another name"
            )
        now = self._app.clock.time()
        entry = self._store.read(name, given, now)
        if entry.enabled and entry.is_over(now):
            raise ImproperlyConfigured(
                f"app.schedules: the entry {name!r}: no run would ever start: 'expires' is a moment in the past; give "
                "seconds, which count from when it is due"
            )
        timer = _timer(self._app)
        translated = _translated(entry) if timer is not None else None
        before = self._queue_of(name) if timer is not None else None
        self._store.put(entry, given)
        if timer is not None and translated is not None:
            if before is not None and before != entry.queue:
                timer.scheduler(before).delete(timer_name(self._app, name))
            _set_timer(self._app, timer, entry, translated)
        elif _is_sqs(self._app):
            logger.warning(
                "the entry %r fires only while `dispatcher beat` runs: EventBridge Scheduler needs the transport "
                "option scheduler_role", name,
            )  # fmt: skip
        return entry


def timer_name(app: Any, entry: str) -> str:
    """Return the name of an entry's schedule in EventBridge Scheduler."""
    digest = hashlib.sha256(f"{identity(app)}/{entry}".encode()).hexdigest()
    return f"beat-{digest[:40]}"


def _is_sqs(app: Any) -> bool:
    return hasattr(app.broker, "delays")


def _timer(app: Any) -> Delays | None:
    """Return what keeps schedules at AWS, where the broker has a role for it."""
    delays: Delays | None = getattr(app.broker, "delays", None)
    return delays


def _translated(entry: Entry) -> Translation:
    from dispatcher.provision.eventbridge import translate

    return translate(entry.schedule, entry.timezone)


def _set_timer(app: Any, timer: Delays, entry: Entry, translated: Translation) -> None:
    from dispatcher.brokers.sqs_scheduler import Schedule

    body = json.dumps({"v": 1, "beat": entry.name, "at": _TIME}, separators=(",", ":"))
    fifo = entry.queue.endswith(".fifo")
    group = entry.group_id or (entry.own_group if fifo else None)
    message = Outgoing(entry.queue, body, entry.name, 0.0, None, group, _ONCE if fifo else None)
    timer.scheduler(entry.queue).put(Schedule(
        timer_name(app, entry.name), translated.expression, body, timer.target(message), translated.timezone,
        entry.enabled, f"dispatcher: {entry.name}"[:512],
    ))  # fmt: skip
