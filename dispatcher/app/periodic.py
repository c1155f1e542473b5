"""What an app knows of time: the entries of its beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dispatcher.brokers.base import Outgoing
from dispatcher.call_options import keywords, positional
from dispatcher.canvas.signature import beat_entry, maybe_signature
from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.packing import Call
from dispatcher.publishing import publish
from dispatcher.task import Task

if TYPE_CHECKING:
    from dispatcher.beat.dynamic import Schedules
    from dispatcher.beat.entries import Entry
    from dispatcher.beat.firing import Firing


class Periodic:
    """The part of an app that deals with periodic tasks; mixed into it."""

    @property
    def _app(self) -> Any:
        return self

    def add_periodic_task(
        self,
        schedule: Any,
        sig: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        *,
        catch_up: str | None = None,
        catch_up_within: Any = None,
        **opts: Any,
    ) -> str:
        """Add an entry to the beat and return its name, by default the call as text.

        ``schedule`` is a `crontab`, a `schedule`, a `timedelta` or a number of seconds, ``sig`` a task or a signature,
        ``opts`` are options of `Task.apply_async`. The same entry twice is one. Raises `ImproperlyConfigured` where
        another entry has the name; the entry itself is checked when it is first used.
        """
        if not isinstance(sig, Mapping) and not hasattr(sig, "s"):
            raise TypeError(f"add_periodic_task(schedule, sig, …): sig must be a task or a signature, not {sig!r:.100}")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"add_periodic_task(…, name=…): a name must be a text, not {name!r:.60}")
        args, kwargs = positional(args), keywords(kwargs or {})
        call = maybe_signature(sig, self, clone=True) if isinstance(sig, Mapping) else sig.s()
        entry_name = name or repr(call)
        entry = beat_entry(schedule, call.clone(args, kwargs, **opts))
        given = {"catch_up": catch_up, "catch_up_within": catch_up_within}
        entry.update({key: value for key, value in given.items() if value is not None})
        conf = self._app.conf
        existing = conf.beat_schedule or {}
        if entry_name in existing and existing[entry_name] != entry:
            raise ImproperlyConfigured(
                f"add_periodic_task: there is another entry {entry_name!r} already, with "
                f"{existing[entry_name].get('schedule')!r}; give this one a name of its own: name='…'"
            )
        conf.beat_schedule = {**existing, entry_name: entry}
        return entry_name

    @property
    def schedules(self) -> Schedules:
        """Entries of the beat that are made, paused and removed while the app runs."""
        from dispatcher.beat.dynamic import Schedules

        return Schedules(self)

    def build_call(
        self,
        task: Task[Any, Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        now: float | None = None,
    ) -> Call:
        """Return a call's message and queue without sending it; raises what sending would, for what cannot work.

        Its times count from ``now`` in epoch seconds, by default the present.
        """
        self._app.finalize(auto=True)
        call: Call = self._app._sender.build(task.name, args, kwargs, options, task, now=now)
        return call

    def send_built(self, call: Call) -> None:
        """Send a call that is built, unless it is of a unique task and another stands for it."""
        self._app.finalize(auto=True)
        self._app._claims.send([call])

    def beat_entry(self, name: str) -> Entry | None:
        """Return an entry of the beat by its name, the code's own or a stored one; `None` where there is none.

        Raises `ImproperlyConfigured` for one that cannot work, `EntryGone` for one that was deleted of late,
        `OperationalError` where it cannot be read.
        """
        self._app.finalize(auto=True)
        given = (self._app.conf.beat_schedule or {}).get(name)
        if given is not None:
            from dispatcher.beat.entries import entry_of

            return entry_of(self, name, given)
        from dispatcher.beat.stored import Store

        return Store(self).get(name)

    def send_firings(self, firings: Sequence[tuple[Entry, Firing]], queue: str | None = None) -> None:
        """Send firings of entries, to their queues unless another is named, each held back until its time.

        Raises `OperationalError` where the broker cannot be reached.
        """
        from dispatcher.beat.firing import firing_id

        app = self._app
        app.finalize(auto=True)
        now, outgoing = app.clock.time(), []
        for entry, firing in firings:
            name = queue or entry.queue
            delay, longest = max(0.0, firing.at - now), app.broker.longest_delay(name)
            delay = delay if longest is None else min(delay, longest)
            group, once, task_id = entry.group_id, None, firing_id(entry.app, entry.name, firing.at)
            if name.endswith(".fifo"):
                # Not the call's own, which may be sent to the same queue.
                group, once = group or entry.own_group, f"{task_id}:beat"
            body = app.wire.seal(firing.body(), name)
            outgoing.append(Outgoing(name, body, task_id, delay, entry.priority, group, once))
        policy = app.conf.task_publish_retry_policy if app.conf.task_publish_retry else None
        if outgoing:
            publish(app.broker, outgoing, policy, app.clock)
