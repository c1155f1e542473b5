"""Run: one delivery on its way through the executor, and the outcome it ends in."""

from __future__ import annotations

import dataclasses
import signal
import sys
import traceback
from collections.abc import Mapping
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from dispatcher.brokers.base import Delivery, Settlement
from dispatcher.exceptions import USER_ERRORS, TaskRevokedError
from dispatcher.execution import handover
from dispatcher.request import Context
from dispatcher.utils.forks import safe_lock

if TYPE_CHECKING:
    from dispatcher.backends.base import TaskRecord, Write
    from dispatcher.backends.locks import Lock
    from dispatcher.beat.entries import Entry
    from dispatcher.message import Message
    from dispatcher.state import Frame
    from dispatcher.task import Task


#: Marks the message of an error callback whose first argument is the failed task's request.
ERRBACK_HEADER = "dispatcher.errback"
#: Says in a message how often it was lost in a row (`execution.lost`) and no worker had it in hand in between.
ROUNDS_HEADER = "dispatcher.lost"


class Kind(Enum):
    """What a run decided."""

    # There is one object of each; Enum's own hash is a call into Python for every look-up.
    __hash__ = object.__hash__

    #: the function returned
    SUCCESS = "success"
    #: the same task runs again later
    RETRY = "retry"
    #: the task failed for good
    FAILURE = "failure"
    #: the task raised `Reject`
    REJECTED = "rejected"
    #: the task raised `Ignore`
    IGNORED = "ignored"
    #: the task was revoked or expired before it ran, or its run was ended because it was revoked
    REVOKED = "revoked"
    #: the task is over its rate limit: the message goes back until its slot; no retry is counted
    DEFERRED = "deferred"
    #: the message goes back to the queue untouched; no retry is counted
    HANDED_BACK = "handed_back"
    #: an earlier run of this generation decided already; its continuations are repeated
    REPEATED = "repeated"
    #: a newer generation of the message exists; this one is dropped
    SUPERSEDED = "superseded"
    #: a firing of the beat that starts nothing: its entry is not due then, is paused, or it comes too late
    DROPPED = "dropped"
    #: a firing of the beat that was sent on as messages of their own
    PASSED_ON = "passed_on"
    #: the body cannot be read or trusted
    UNREADABLE = "unreadable"


#: For code that every run comes through: a look at an attribute of an enum takes ten times as long.
SUCCESS: Final = Kind.SUCCESS


@dataclasses.dataclass(slots=True)
class Outcome:
    """A decision; ``delay`` is in seconds, ``changes`` are message fields and options of a retry that differ.

    ``signum`` is the signal that ended a revoked run. ``slot`` is when a deferred run may start, in epoch seconds,
    where that is yet to be recorded.
    """

    kind: Kind
    value: Any = None
    error: BaseException | None = None
    traceback: str | None = None
    delay: float = 0.0
    changes: Mapping[str, Any] | None = None
    expected: bool = False
    slot: float | None = None
    signum: signal.Signals | None = None
    #: what the function raised, where ``error`` is that without its sensitive parts
    raised: BaseException | None = None

    @classmethod
    def terminated(cls, signum: signal.Signals) -> Outcome:
        """Return the outcome of a run that was ended because somebody revoked its task."""
        return cls(Kind.REVOKED, error=TaskRevokedError("terminated"), signum=signum)


class Fired(NamedTuple):
    """The firing of the beat that a run came from, its time in epoch seconds.

    ``due`` is false where the entry has no such time; ``signed`` says whether whoever fired it has one of our keys.
    """

    entry: Entry
    at: float
    due: bool
    signed: bool


class Place(Protocol):
    """Where runs are started, as their tasks see it."""

    hostname: str
    eager: bool


class Run:
    """One delivery's journey: filled step by step, from ``message`` to ``settlement``."""

    __slots__ = (
        "_token",
        "attempt",
        "bare",
        "begun",
        "context",
        "delivery",
        "duration",
        "ended",
        "fence",
        "fired",
        "kept_until",
        "lean",
        "lock",
        "message",
        "ours",
        "outcome",
        "parent",
        "place",
        "plain",
        "record",
        "retries",
        "sent_on",
        "settlement",
        "successor",
        "task",
        "uncontinued",
        "write",
    )

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.message: Message | None = None
        self.task: Task[Any, Any] | None = None
        #: whether its message says nothing besides what is called (`message.BARE`)
        self.bare = False
        #: whether nothing has to be fetched, taken, recorded or waited for before its code starts
        self.plain = False
        #: whether it needs no record: a lean task, delivered for the first time, to which nothing is linked
        self.lean = False
        #: of a unique task: the lock of its key as last seen, and the fence of the lease that this run has, else 0
        self.lock: Lock | None = None
        self.fence = 0
        #: whether it has run elsewhere, and was seen to end there
        self.ended = False
        #: of a firing of the beat: what it came from, and until when the record of its task must be kept
        self.fired: Fired | None = None
        self.kept_until = 0.0
        self.record: TaskRecord | None = None
        #: where it was started, and the frame that its task was called in
        self.place: Place | None = None
        self.parent: Frame | None = None
        #: when its code began, by the monotonic clock, and how long it took, in seconds
        self.begun = 0.0
        self.duration = 0.0
        #: the request, where it was asked for
        self.context: Context | None = None
        self.outcome: Outcome | None = None
        self.write: Write | None = None
        self.settlement: Settlement | None = None
        #: the retries of the record this run was decided on
        self.attempt = 0
        #: the retries the task sees
        self.retries = 0
        #: whether the delivery is surely still leased to us
        self.ours = True
        #: the name of the next generation that this run published, which counts once the record names it too
        self.successor: str | None = None
        #: whether a copy of the message is on its way, so that this one can go
        self.sent_on = False
        #: why a callback of the recorded outcome can never be sent
        self.uncontinued: BaseException | None = None
        self._token: str | None = None

    @property
    def request(self) -> Context:
        """What its task can know about its message, from its start on; made when it is first asked for."""
        if self.context is None:
            assert self.place is not None
            with _asking:  # threads of the task may ask at the same time
                if self.context is None:
                    self.context = request_of(self, self.place)
        return self.context

    @property
    def token(self) -> str:
        """What tells this run's writes from those of another; made when it is first asked for."""
        if self._token is None:
            self._token = handover.token_of(self.message)
        return self._token

    @property
    def id(self) -> str:
        """The task's id, or the broker's where the body could not be read."""
        return self.message.id if self.message is not None else self.delivery.message_id

    def forget_arguments(self) -> None:
        """Drop arguments that a payload store keeps."""
        if self.message is not None:
            self.message = self.message.without_arguments()
            if self.context is not None:
                self.context.update(_message=self.message)

    @property
    def added(self) -> list[Any] | None:
        """The signatures that the task added to its chord."""
        return self.context.__dict__.get("_added") or None if self.context is not None else None

    @property
    def state_written(self) -> tuple[str, Any] | None:
        """The last state the task gave itself, with its meta."""
        return self.context.__dict__.get("_state_written") if self.context is not None else None

    def __repr__(self) -> str:
        name = self.message.task if self.message is not None else "?"
        decided = self.outcome.kind.value if self.outcome is not None else "undecided"
        return f"<Run: {name}[{self.id}] {decided}>"


_asking = safe_lock()


def request_of(run: Run, place: Place) -> Context:
    """Return the request that a run's function sees."""
    assert run.message is not None
    context = Context(
        run.message,
        retries=run.retries,
        called_directly=False,
        hostname=place.hostname,
        is_eager=place.eager,
        _delivery=run.delivery,
    )
    if run.fence:
        context.update(fence=run.fence)
    return context


class ShutdownNow(BaseException):
    """Raised in the main thread by a cold shutdown: what was not finished goes back to the queue."""


def shut_down_now() -> None:
    """Raise `ShutdownNow`, unless one is on its way here already: what hands messages back is not to be broken off.

    A task that swallows it and goes on meets the next.
    """
    error = sys.exception()
    while error is not None:
        if isinstance(error, ShutdownNow):
            return
        error = error.__context__
    raise ShutdownNow


class ExceptionInfo:
    """An exception with its traceback as text, as hooks and signals get it."""

    def __init__(self, error: BaseException, text: str | None = None) -> None:
        self.type = type(error)
        self.exception = error
        self.tb = error.__traceback__
        self.traceback = text if text is not None else format_traceback(error)
        self.internal = False

    @property
    def exc_info(self) -> tuple[type[BaseException], BaseException, TracebackType | None]:
        """What `sys.exc_info` returned when the exception was caught."""
        return self.type, self.exception, self.tb

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<ExceptionInfo: {self.exception!r}>"


def format_traceback(error: BaseException) -> str:
    """Return the traceback of an exception as text, without the executor's own frames."""
    frames = own_frames(error)
    try:
        return "".join(traceback.format_exception(type(error), error, frames))
    except USER_ERRORS:  # the notes of a user's class may raise anything
        return "".join((*traceback.format_tb(frames), f"{type(error).__name__}\n"))


def own_frames(error: BaseException) -> TracebackType | None:
    """Return the traceback of an exception from the first frame on that is not the executor's."""
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_globals.get("__name__", "").startswith("dispatcher."):
        tb = tb.tb_next
    return tb
