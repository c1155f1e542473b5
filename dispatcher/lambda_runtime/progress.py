"""What is under way in a runtime, in memory that its guard shares: which messages, how far, until when.

The runtime writes, at the cost of a few stores a task; the guard reads, and believes what it reads only while the
runtime is stopped. Times are those of the monotonic clock, which both processes share.
"""

from __future__ import annotations

import logging
import marshal
import math
import mmap
import struct
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, NamedTuple

from dispatcher.async_result import result_from_tuple
from dispatcher.brokers.base import Delivery, Settlement
from dispatcher.exceptions import EncodeError
from dispatcher.execution.admission import is_light
from dispatcher.execution.executor import HARD_GRACE
from dispatcher.execution.invocation import limits_of
from dispatcher.execution.recording import ignores_result, is_passed_on
from dispatcher.execution.run import Kind, Outcome, Run
from dispatcher.execution.watch import Decided
from dispatcher.serialization import json_decode, json_encode

logger = logging.getLogger("dispatcher.worker")

#: The stages of a run: not started; its code runs; it needs nothing but its message deleted; its outcome is kept here;
#: it is decided and its outcome is not kept here; its message is on its way back to the queue.
WAITING, RUNNING, DONE, DECIDED, ENDED, SETTLED = range(6)
#: Added to a stage: the run has a hard limit.
LIMITED: Final = 0x10
_STAGE: Final = 0x0F

#: The most messages of a batch, which is the largest that an event source mapping can be set to.
#: https://docs.aws.amazon.com/lambda/latest/api/API_CreateEventSourceMapping.html
MAX_RUNS: Final = 10_000
#: Room for the messages of a batch (an event has 6 MB at most) and for outcomes. Untouched pages take no memory.
ROOM: Final = 16 * 2**20

# The header, in doubles.
_UNDER_WAY, _BEGAN, _RUNNING_UNTIL, _ALL_UNTIL, _WAKES_AT, _COUNT, _MESSAGES, _FILLED, _ENTERED, _ENDS = range(10)
_HEADER: Final = 80
_HARD: Final = _HEADER + MAX_RUNS + (-MAX_RUNS) % 8
_LIMIT: Final = _HARD + 8 * MAX_RUNS
_DATA: Final = _LIMIT + 8 * MAX_RUNS
_LENGTH: Final = struct.Struct("<I")

#: Stands for no message of a batch.
_NOBODY: Final = -1
#: How often the guard looks while tasks must have ended and the runtime has not answered yet, in seconds.
_LOOK_AGAIN: Final = 0.02
#: The outcomes that can be kept as data.
_KEPT: Final = frozenset({Kind.SUCCESS, Kind.RETRY, Kind.FAILURE, Kind.IGNORED})


class Entry(NamedTuple):
    """One message of a batch and how far its run is.

    ``limit`` is its hard limit in seconds, where that is over. ``entered`` says that the event loop is in its
    coroutine, so that this one keeps all others from going on.
    """

    delivery: Delivery
    stage: int
    limit: float | None
    entered: bool
    decided: Decided | None


class Batch(NamedTuple):
    """A batch as the runtime left it, begun ``lasted`` seconds ago; its invocation ends in ``left``, where known.

    ``invocation`` is the request's id.
    """

    invocation: str
    entries: list[Entry]
    lasted: float
    left: float | None


class Progress:
    """Notes the progress of one batch at a time; the `Watch` of an executor.

    ``wake`` is called when a deadline is set before the time at which the guard looks next. Without ``keeps_values``
    results are no JSON, in which outcomes are kept.
    """

    def __init__(self, *, keeps_values: bool = True, wake: Callable[[], None] = lambda: None) -> None:
        self.wake = wake
        self._keeps_values = keeps_values
        memory = memoryview(mmap.mmap(-1, ROOM))
        self._header = memory[:_HEADER].cast("d")
        self._stages = memory[_HEADER : _HEADER + MAX_RUNS]
        self._hard = memory[_HARD:_LIMIT].cast("d")
        self._limit = memory[_LIMIT:_DATA].cast("d")
        self._data = memory[_DATA:]
        self._index: dict[Delivery, int] = {}
        self._header[_WAKES_AT] = math.inf

    # The runtime's side

    def begin(self, deliveries: Sequence[Delivery], seconds: float | None, margin: float, invocation: str = "") -> None:
        """Note a batch; its invocation ends in ``seconds``, the last ``margin`` of which is kept for settling."""
        count = len(deliveries)
        fields = [  # what makes a delivery, in the order of its constructor
            (each.queue, each.body, each.receipt, each.receive_count,
             each.message_id, each.sent_at, each.group_id, each.attributes)
            for each in deliveries
        ]  # fmt: skip
        messages = marshal.dumps((invocation, fields), 2)
        if count > MAX_RUNS or len(messages) > len(self._data):
            logger.error("a batch of %d messages of %d bytes is too large to be guarded", count, len(messages))
            self._index = {}
            return
        now = time.monotonic()
        running, everything = math.inf, math.inf
        if seconds is not None and margin > 0:
            running, everything = now + seconds - margin, now + seconds - margin / 2
        header = self._header
        self._index = dict(zip(deliveries, range(count), strict=True))
        self._stages[:count] = bytes(count)
        self._data[: len(messages)] = messages
        header[_BEGAN], header[_RUNNING_UNTIL], header[_ALL_UNTIL] = now, running, everything
        header[_COUNT], header[_MESSAGES], header[_FILLED] = count, len(messages), len(messages)
        header[_ENTERED], header[_ENDS] = _NOBODY, math.inf if seconds is None else now + seconds
        header[_UNDER_WAY] = 1.0
        if running < header[_WAKES_AT]:
            self.wake()

    def end(self) -> None:
        """Note that the runtime is about to answer: from here on it settles by its answer."""
        self._header[_UNDER_WAY] = 0.0

    def started(self, run: Run) -> None:
        """Note that user code of a run is about to start."""
        index = self._index.get(run.delivery)
        if index is None:
            return
        task = run.task
        assert task is not None
        limit = task.time_limit if run.bare else limits_of(run)[1]
        if limit is None:
            self._stages[index] = RUNNING
            return
        due = time.monotonic() + limit
        if task._is_async:  # it is cancelled at its limit, which mostly ends it
            due += HARD_GRACE
        self._hard[index], self._limit[index] = due, limit
        self._stages[index] = RUNNING | LIMITED
        if due < self._header[_WAKES_AT]:
            self.wake()

    def ended(self, run: Run) -> bool:
        """Note that a run is decided; return false where its outcome cannot be kept here."""
        index = self._index.get(run.delivery)
        outcome = run.outcome
        if index is None or outcome is None:
            return True
        stages = self._stages
        if stages[index] & _STAGE != RUNNING:
            return True  # it was decided before its start, and will be again
        if is_light(run):
            stages[index] = DONE
            return True
        return self._keep(index, run, outcome)

    def entered(self, run: Run) -> None:
        """Note that the event loop has entered a run's coroutine."""
        self._header[_ENTERED] = self._index.get(run.delivery, _NOBODY)

    def left(self) -> None:
        """Note that the event loop has left the coroutine."""
        self._header[_ENTERED] = _NOBODY

    def settled(self, settlements: Sequence[Settlement], done: Collection[Delivery]) -> None:
        """Note what was settled: messages that are ``done`` with go by the answer, others are on their way back."""
        stages, index_of = self._stages, self._index.get
        if len(done) == len(self._index):
            stages[: len(done)] = bytes([DONE]) * len(done)
            return
        for settlement in settlements:
            index = index_of(settlement.delivery)
            if index is not None:
                stages[index] = DONE if settlement.delivery in done else SETTLED

    def _keep(self, index: int, run: Run, outcome: Outcome) -> bool:
        """Keep an outcome for whoever may have to record it; say whether that was possible."""
        text = b""
        if outcome.kind in _KEPT and (self._keeps_values or outcome.value is None):
            try:
                text = json_encode([index, outcome.kind.value, *_parts_of(run, outcome)]).encode()
            except EncodeError:
                pass  # it is recorded at once instead
        filled = int(self._header[_FILLED])
        end = filled + _LENGTH.size + len(text)
        if not text or end > len(self._data):
            self._stages[index] = ENDED
            return False
        self._data[filled:end] = _LENGTH.pack(len(text)) + text
        self._header[_FILLED] = end
        self._stages[index] = DECIDED
        return True

    # The guard's side

    def look_again_at(self, now: float) -> float:
        """Return when to look whether something is overdue, unless woken before; note it for the runtime."""
        header = self._header
        at = math.inf
        if header[_UNDER_WAY]:
            at = header[_RUNNING_UNTIL] if now < header[_RUNNING_UNTIL] else now + _LOOK_AGAIN
            at = min([at, *(self._hard[index] for index in self._running() if self._stages[index] & LIMITED)])
        header[_WAKES_AT] = at
        return at

    def overdue(self, now: float) -> bool:
        """Say whether a run is past its hard limit, or the batch past its time."""
        header = self._header
        if not header[_UNDER_WAY]:
            return False
        running = self._running()
        if now >= header[_ALL_UNTIL] or (running and now >= header[_RUNNING_UNTIL]):
            return True
        return any(self._stages[index] & LIMITED and now >= self._hard[index] for index in running)

    def _running(self) -> list[int]:
        stages = bytes(self._stages[: int(self._header[_COUNT])])
        return [index for index, stage in enumerate(stages) if stage & _STAGE == RUNNING]

    @property
    def under_way(self) -> bool:
        """Whether there is a batch that was not answered."""
        return bool(self._header[_UNDER_WAY])

    def batch(self, now: float) -> Batch:
        """Read the batch."""
        header = self._header
        invocation, messages = marshal.loads(self._data[: int(header[_MESSAGES])])
        kept = self._kept()
        entries = []
        for index, fields in enumerate(messages):
            stage = self._stages[index]
            limit = self._limit[index] if stage & LIMITED and now >= self._hard[index] else None
            entered = header[_ENTERED] == index
            entries.append(Entry(Delivery(*fields), stage & _STAGE, limit, entered, kept.get(index)))
        ends = header[_ENDS]
        left = None if ends == math.inf else max(0.0, ends - now)
        return Batch(invocation, entries, now - header[_BEGAN], left)

    def _kept(self) -> dict[int, Decided]:
        kept = {}
        at, end = int(self._header[_MESSAGES]), int(self._header[_FILLED])
        while at < end:
            (length,) = _LENGTH.unpack(self._data[at : at + _LENGTH.size])
            at += _LENGTH.size
            index, kind, *parts = json_decode(bytes(self._data[at : at + length]).decode())
            kept[index] = _decided_of(Kind(kind), parts)
            at += length
        return kept


def _parts_of(run: Run, outcome: Outcome) -> list[Any]:
    """Return an outcome as data; raises `EncodeError` where it has none."""
    extras: dict[str, Any] = {}
    if run.context is not None:
        known = run.context.__dict__
        if run.state_written is not None:
            extras["_state_written"] = run.state_written
        if run.added:
            extras["_added"] = run.added
        if known.get("children"):
            extras["children"] = [child.as_tuple() for child in known["children"]]
    value = outcome.value
    if value is not None and ignores_result(run) and run.message is not None and not is_passed_on(run.message):
        value = None  # nobody will see it, and it may be anything
    return [
        value, outcome.error, outcome.traceback, outcome.delay, outcome.changes, outcome.expected,
        run.attempt, run.retries, extras,
    ]  # fmt: skip


def _decided_of(kind: Kind, parts: list[Any]) -> Decided:
    value, error, traceback, delay, changes, expected, attempt, retries, extras = parts
    outcome = Outcome(kind, value, error, traceback, delay, changes, expected)
    if "children" in extras:
        extras["children"] = [result_from_tuple(child) for child in extras["children"]]
    return Decided(outcome, attempt, retries, extras)
