"""Firings of the beat on their way through steps 1 and 2: which task one starts, and whether it still may.

What was begun goes on: a firing whose task has a record is that task's message like any other. Where there is none yet,
its entry decides: by its schedule, which a timer cannot always express, by its policy for late firings, and by whether
it is enabled. Several times in one minute, a later time that makes up for this one, and calls of unique tasks or with a
countdown are sent as messages of their own.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from dispatcher.beat import firing as firings
from dispatcher.beat.entries import identity
from dispatcher.beat.firing import Firing
from dispatcher.beat.stored import EntryGone
from dispatcher.exceptions import USER_ERRORS, BackendError, ImproperlyConfigured, OperationalError, UnsignedMessage
from dispatcher.execution.environment import Environment
from dispatcher.execution.run import Fired, Kind, Outcome, Run
from dispatcher.message import InvalidMessage, Message, UnsupportedMessage
from dispatcher.security import home_queue

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dispatcher.beat.entries import Entry
    from dispatcher.packing import Call
    from dispatcher.task import Task

logger = logging.getLogger("dispatcher.worker")
#: Lines on what became of messages, which Lambda leaves out unless asked: each is billed.
outcomes = logging.getLogger("dispatcher.task.outcome")

#: How long before the record of a task may go its firings count no more, in seconds.
_MARGIN: Final = 60.0
#: Times of messages have so many seconds' precision.
_ROUNDED: Final = 0.001


class BeatApp(Protocol):
    """What a firing needs of an app besides what other messages do."""

    def beat_entry(self, name: str) -> Entry | None:
        """Return an entry of the beat by its name; `None` where there is none.

        Raises `ImproperlyConfigured` for one that cannot work, `EntryGone` for one that was deleted of late,
        `OperationalError` where it cannot be read.
        """
        ...

    def build_call(
        self,
        task: Task[Any, Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        now: float | None = None,
    ) -> Call:
        """Return a call's message and queue without sending it; its times count from ``now``, in epoch seconds."""
        ...

    def send_built(self, call: Call) -> None:
        """Send a call that is built, unless it is of a unique task and another stands for it."""
        ...

    def send_firings(self, firings: Sequence[tuple[Entry, Firing]], queue: str) -> None:
        """Send firings to a queue, each held back until its time."""
        ...


def read(env: Environment, run: Run, error: Exception) -> Message | None:
    """Return the message of the task that a firing starts, `None` where the body is no firing.

    ``error`` is why the body is no message. A firing that starts no task, or several, is decided here. Raises what
    `admission.decode` knows: `UnsupportedMessage` for an entry that a newer or older release may have,
    `InvalidMessage`, and `SecurityError` for one that must not be trusted.
    """
    if isinstance(error, UnsignedMessage) and not env.app.conf.beat_accept_unsigned:
        return None
    if not isinstance(error, UnsignedMessage | InvalidMessage):
        return None  # signed by somebody else, altered, or meant for another queue
    fired = firings.read(run.delivery.body)
    if fired is None:
        return None
    task_id = firings.firing_id(identity(env.app), fired.entry, fired.at)
    try:
        entry = _beat(env).beat_entry(fired.entry)
    except (OperationalError, BackendError) as trouble:
        logger.error("the entry %r of the beat cannot be read, its firing goes back: %s", fired.entry, trouble)
        run.outcome = Outcome(Kind.HANDED_BACK, delay=env.backoff(run.delivery.receive_count))
        return None
    except EntryGone as gone:
        if gone.entry is None or not _begun(env, task_id):
            outcomes.info("a firing starts nothing: %s", gone)
            run.outcome = Outcome(Kind.DROPPED)
            return None
        entry = gone.entry
    except ImproperlyConfigured as trouble:
        raise UnsupportedMessage(str(trouble), task_id) from trouble
    if entry is None:
        raise UnsupportedMessage(
            f"the beat has no entry {fired.entry!r} here: was it renamed, or is the code of another release?", task_id
        )
    return _message(env, run, fired, entry, signed=isinstance(error, InvalidMessage))


def _begun(env: Environment, task_id: str) -> bool:
    """Whether a task has begun and not ended; a store that cannot be read keeps it, as admission will find."""
    try:
        record = env.backend.read([task_id]).get(task_id)
    except (OperationalError, BackendError) as trouble:
        logger.warning("whether %s has begun is not known: %s", task_id, trouble)
        return True
    return record is not None and not record.final


def _message(env: Environment, run: Run, fired: Firing, entry: Entry, *, signed: bool) -> Message | None:
    if fired.at - env.clock.time() > (firings.AHEAD if signed else firings.UNSIGNED_AHEAD):
        raise InvalidMessage(
            f"a firing of {entry.name!r} is for {firings.time_text(fired.at)}, too far ahead: is a clock wrong?",
            firings.firing_id(entry.app, fired.entry, fired.at),
        )
    times = firings.due(entry, fired)
    if len(times) > 1 and not run.ended:
        _fan_out(env, run, entry, times)
        return None
    at = times[0] if times else fired.at if fired.exact else fired.minute
    run.fired = Fired(entry, at, bool(times), signed)
    run.kept_until = _forgotten_at(env, entry, at)
    return _call(env, entry, at).message


def _beat(env: Environment) -> BeatApp:
    return cast(BeatApp, env.app)  # apps that run tasks eagerly are others, and get no firings


def _call(env: Environment, entry: Entry, at: float) -> Call:
    """Return the call that an entry makes at a time; its countdown and expiry, the task's own too, count from then."""
    headers = {"beat_entry": entry.name, "beat_at": firings.time_text(at)}
    options = {
        **entry.options, "headers": {**(entry.options.get("headers") or {}), **headers},
        "task_id": firings.firing_id(entry.app, entry.name, at),
    }  # fmt: skip
    call = _beat(env).build_call(env.app.tasks[entry.task], entry.args, entry.kwargs, options, at)
    if call.message.eta is None and at > env.clock.time():
        return call._replace(message=call.message.replace(eta=round(at, 3)))
    return call


def _forgotten_at(env: Environment, entry: Entry, at: float) -> float:
    """Return when the record of a time's task may go: past the next time, so that the latest is always known."""
    conf = env.app.conf
    kept: float = max(conf.result_expires or 0.0, conf.record_retention)
    return (entry.next_after(at) or at) + kept


def _fan_out(env: Environment, run: Run, entry: Entry, times: list[float]) -> None:
    """Send a firing for each of several times in a minute, held back until then."""
    now = env.clock.time()
    wanted = [at for at in firings.wanted(entry, times, now) if now < _forgotten_at(env, entry, at) - _MARGIN]
    if not entry.enabled:
        wanted = []
    queue = home_queue(run.delivery.queue)
    sent = [(entry, Firing(entry.name, at, exact=True)) for at in wanted]
    _pass_on(env, run, lambda: _beat(env).send_firings(sent, queue))


def decide(env: Environment, run: Run) -> Outcome | None:
    """Return the outcome of a firing that must not start its task, or not as it is; `None` for one that may.

    Only for a firing whose task has no record: what was begun goes on.
    """
    fired = run.fired
    assert fired is not None
    entry, at, now = fired.entry, fired.at, env.clock.time()
    if not fired.due:
        outcomes.debug("the entry %r is not due at %s", entry.name, firings.time_text(at))
        return Outcome(Kind.DROPPED)
    if not entry.enabled:
        return _drop(entry, at, "the entry is paused")
    conf = env.app.conf
    recently = fired.signed or not conf.signing_keys or now - at < conf.record_retention
    if now >= run.kept_until - _MARGIN or not recently:
        return _drop(entry, at, "it is so late that its record may be gone; see record_retention")
    wanted = firings.kept(entry, at, now)
    if wanted is None:
        return _drop(entry, at, f"it is {now - at:.0f} s late, over the {entry.within:g} s of catch_up_within")
    if wanted == at and not _is_sent_on(run, max(now, at)):
        return None
    if wanted != at:
        outcomes.info(
            "the firing of %r for %s is made up for by that for %s",
            entry.name, firings.time_text(at), firings.time_text(wanted),
        )  # fmt: skip
    queue = home_queue(run.delivery.queue)
    _pass_on(env, run, lambda: _beat(env).send_built(_call(env, entry, wanted)._replace(queue=queue)))
    return run.outcome


def _is_sent_on(run: Run, start: float) -> bool:
    """Say whether a firing is sent on as its task's message: that of a unique task, or of one with a countdown.

    After that wait its time would be long past, and the firing late. ``start`` is when it could start without.
    """
    task, message = run.task, run.message
    if message is not None and message.eta is not None and message.eta > start + _ROUNDED:
        return True
    return task is not None and task._uniqueness is not None


def _drop(entry: Entry, at: float, why: str) -> Outcome:
    logger.warning("the firing of %r for %s is dropped: %s", entry.name, firings.time_text(at), why)
    return Outcome(Kind.DROPPED)


def _pass_on(env: Environment, run: Run, send: Any) -> None:
    try:
        send()
    except USER_ERRORS as error:  # of a router of the user's, say; the neighbours have no part in it
        logger.error("what a firing starts cannot be sent, it goes back: %r", error)
        run.outcome = Outcome(Kind.HANDED_BACK, delay=env.backoff(run.delivery.receive_count))
    else:
        run.outcome = Outcome(Kind.PASSED_ON)
