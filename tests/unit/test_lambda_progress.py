"""The memory that a runtime shares with its guard: what was written there is what the guard reads."""

import math
import time
from collections.abc import Sequence
from typing import Any

import pytest

from dispatcher.brokers.base import Delivery, Settlement
from dispatcher.clock import SYSTEM
from dispatcher.exceptions import Reject
from dispatcher.execution.run import Kind, Outcome, Run
from dispatcher.lambda_runtime import progress as stages
from dispatcher.lambda_runtime.progress import Entry, Progress
from dispatcher.lambda_runtime.rescue import Cause, Verdict, verdicts
from dispatcher.lambda_runtime.transport import ClosingTransport
from tests.unit.bench import Bench

LATER = 1e9


class Batch:
    """A batch of tasks under way."""

    def __init__(self, *options: dict[str, Any], seconds: float | None = 60.0, margin: float = 2.0) -> None:
        self.woken = 0
        self.progress = Progress(wake=self._wake)
        self.bench = Bench()
        for number, each in enumerate(options):
            self.bench.app.task(name=f"t{number}", **each)(int)
            self.bench.app.send_task(f"t{number}")
        deliveries = self.bench.receive()
        self.progress.begin(deliveries, seconds, margin)
        self.runs = self.bench.executor().prepare(deliveries)

    def _wake(self) -> None:
        self.woken += 1

    def start(self, number: int) -> Run:
        """Start a run."""
        self.progress.started(self.runs[number])
        return self.runs[number]

    def end(self, number: int, outcome: Outcome) -> bool:
        """Start and decide a run."""
        run = self.start(number)
        run.outcome = outcome
        return self.progress.ended(run)

    def read(self, now: float | None = None) -> list[Entry]:
        """Read the batch as a guard does."""
        return self.progress.batch(time.monotonic() if now is None else now).entries


LEAN = {"ignore_result": True, "revocable": False}


def test_stages_of_runs() -> None:
    """Not started, running, done, decided, released: each is told from the others."""
    batch = Batch({}, {}, LEAN, {}, {})
    batch.start(1)
    batch.end(2, Outcome(Kind.SUCCESS, object()))
    batch.end(3, Outcome(Kind.SUCCESS, 7))
    released = Settlement(batch.runs[4].delivery, "release")
    batch.progress.settled([released], ())
    assert [entry.stage for entry in batch.read()] == [
        stages.WAITING, stages.RUNNING, stages.DONE, stages.DECIDED, stages.SETTLED,
    ]  # fmt: skip


def test_what_the_answer_will_delete_is_done() -> None:
    """An outcome that was recorded and acknowledged needs no second look, whatever was kept of it."""
    batch = Batch({}, {})
    batch.end(0, Outcome(Kind.SUCCESS, 7))
    done = [run.delivery for run in batch.runs]
    batch.progress.settled([Settlement(delivery, "ack") for delivery in done], done)
    assert [entry.stage for entry in batch.read()] == [stages.DONE, stages.DONE]


def test_messages_are_read_as_they_were() -> None:
    """A delivery keeps all that settling and running it takes, text of any language and bytes included."""
    attributes = {"received_at": 2.5, "message_attributes": {"a": b"x"}}
    delivery = Delivery("q.fifo", "körper 体", "receipt", 3, "id", 1.5, "g", attributes)
    progress = Progress()
    progress.begin([delivery], None, 2.0)
    [entry] = progress.batch(0.0).entries
    fields = Delivery.__dataclass_fields__
    assert [getattr(entry.delivery, name) for name in fields] == [getattr(delivery, name) for name in fields]


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(Kind.SUCCESS, {"a": [1, None, "ü"]}),
        Outcome(Kind.FAILURE, error=KeyError("k"), traceback="Traceback", expected=True),
        Outcome(Kind.RETRY, error=OSError(5, "io"), traceback="t", delay=2.5, changes={"kwargs": {"n": 1}}),
    ],
    ids=lambda outcome: outcome.kind.value,
)
def test_outcomes_are_read_as_they_were(outcome: Outcome) -> None:
    """An outcome keeps all that its record and its continuations are made of."""
    batch = Batch({})
    run = batch.runs[0]
    run.attempt, run.retries = 3, 4
    assert batch.end(0, outcome)
    [entry] = batch.read()
    assert entry.decided is not None
    kept = entry.decided.outcome
    assert (entry.decided.attempt, entry.decided.retries) == (3, 4)
    assert (kept.kind, kept.value, kept.traceback, kept.delay, kept.changes, kept.expected) == (
        outcome.kind, outcome.value, outcome.traceback, outcome.delay, outcome.changes, outcome.expected,
    )  # fmt: skip
    assert (type(kept.error), getattr(kept.error, "args", ())) == (
        type(outcome.error), getattr(outcome.error, "args", ()),
    )  # fmt: skip


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(Kind.SUCCESS, object()),
        Outcome(Kind.SUCCESS, "x" * stages.ROOM),
        Outcome(Kind.REJECTED, error=Reject("no", requeue=True)),
    ],
    ids=["no data", "too large", "rejected"],
)
def test_outcome_that_cannot_be_kept_must_be_written_at_once(outcome: Outcome) -> None:
    """What has no data form, or no room, is only known to be decided."""
    batch = Batch({}, {})
    assert not batch.end(0, outcome)
    assert batch.end(1, Outcome(Kind.SUCCESS, 1))
    assert [entry.stage for entry in batch.read()] == [stages.ENDED, stages.DECIDED]


def test_outcome_decided_before_the_start_is_left_alone() -> None:
    """What admission decides is decided again by the next delivery."""
    batch = Batch({})
    batch.runs[0].outcome = Outcome(Kind.HANDED_BACK)
    assert batch.progress.ended(batch.runs[0])
    assert batch.read()[0].stage == stages.WAITING


def test_nothing_is_overdue_once_the_batch_is_answered() -> None:
    """The deadlines of a batch mean nothing before and after it."""
    batch = Batch({"time_limit": 1})
    batch.start(0)
    assert batch.progress.overdue(LATER)
    batch.progress.end()
    assert not batch.progress.overdue(LATER)
    assert batch.progress.look_again_at(0.0) == math.inf


def test_what_is_overdue_when() -> None:
    """A run at its hard limit; any run where the settle margin begins; a batch without runs at half of the margin."""
    begun = time.monotonic()
    batch = Batch({"time_limit": 10}, {}, seconds=60.0, margin=2.0)
    progress = batch.progress
    assert not progress.overdue(begun + 57.9)
    assert progress.overdue(begun + 60.0)
    batch.start(1)
    assert not progress.overdue(begun + 57.9)
    assert progress.overdue(begun + 59.0)
    batch.start(0)
    assert not progress.overdue(begun + 9.9)
    assert progress.overdue(begun + 12.0)
    assert [entry.limit for entry in batch.read(begun + 12.0)] == [10.0, None]


def test_without_a_settle_margin_lambda_ends_the_invocation() -> None:
    """With settle_margin=0, or no known end, only hard limits count."""
    for seconds, margin in ((60.0, 0.0), (None, 2.0)):
        batch = Batch({}, seconds=seconds, margin=margin)
        batch.start(0)
        assert not batch.progress.overdue(LATER)


def test_guard_is_woken_only_for_what_comes_before_it_looks() -> None:
    """A batch or a limit wakes the guard if it would sleep past its deadline, else not."""
    batch = Batch({"time_limit": 10}, {"time_limit": 10}, {"time_limit": 100})
    assert batch.woken == 1
    batch.progress.look_again_at(time.monotonic())
    batch.start(2)
    assert batch.woken == 1
    batch.start(0)
    assert batch.woken == 2
    batch.progress.look_again_at(time.monotonic())
    batch.start(1)
    assert batch.woken == 2
    batch.progress.begin([], 60.0, 2.0)
    assert batch.woken == 2


def test_batch_that_is_too_large_is_not_guarded(caplog: pytest.LogCaptureFixture) -> None:
    """More messages than a batch can have leave the one before answered, and the log says so."""
    progress = Progress()
    delivery = Delivery("q", "x" * stages.ROOM, "r")
    progress.begin([delivery], 60.0, 2.0)
    progress.started(Run(delivery))
    assert progress.ended(Run(delivery))
    assert not progress.under_way
    assert "too large to be guarded" in caplog.text


def entry(*, limit: float | None = None, entered: bool = False) -> Entry:
    """Return the entry of a run that is under way."""
    return Entry(Delivery("q", "", "r"), stages.RUNNING, limit, entered, None)


@pytest.mark.parametrize(
    ("running", "cause", "expected"),
    [
        ([entry()], Cause.DEADLINE, [Verdict.OVERDUE]),
        ([entry()], Cause.DEATH, [Verdict.LOST]),
        ([entry(limit=1.0)], Cause.LIMIT, [Verdict.OVERDUE]),
        ([entry(limit=1.0)], Cause.DEATH, [Verdict.LOST]),
        ([entry(), entry()], Cause.DEADLINE, [Verdict.OVERDUE, Verdict.OVERDUE]),
        ([entry(), entry(entered=True)], Cause.DEADLINE, [Verdict.INNOCENT, Verdict.OVERDUE]),
        ([entry(), entry(entered=True)], Cause.DEATH, [Verdict.INNOCENT, Verdict.LOST]),
        ([entry(limit=1.0), entry()], Cause.LIMIT, [Verdict.OVERDUE, Verdict.INNOCENT]),
        (
            [entry(limit=1.0), entry(entered=True), entry()],
            Cause.LIMIT,
            [Verdict.OVERDUE, Verdict.LOST, Verdict.INNOCENT],
        ),
    ],
)
def test_who_is_at_fault(running: list[Entry], cause: Cause, expected: list[Verdict]) -> None:
    """A run over its limit fails; one that the event loop is in is to blame; the others are not."""
    assert [verdict for _, verdict in verdicts(running, cause)] == expected


class Queue:
    """A broker that notes what it is told."""

    features = None

    def __init__(self) -> None:
        self.settled: list[Settlement] = []

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Note settlements."""
        self.settled += settlements

    def budget_spent(self, delivery: Delivery) -> float:
        """Return nothing spent."""
        return 0.0

    def bury(self, settlements: Sequence[Settlement]) -> tuple[list[Delivery], None]:
        """Copy all but the last."""
        return [settlement.delivery for settlement in settlements[:-1]], None


def test_closing_transport_deletes_what_is_done() -> None:
    """Without an answer, acknowledged and buried messages are deleted; what could not be buried stays."""
    queue = Queue()
    deliveries = [Delivery("q", "", str(number)) for number in range(4)]
    actions: list[Any] = ["ack", "release", "dead", "dead"]
    transport = ClosingTransport(queue, SYSTEM)  # type: ignore[arg-type]
    transport.settle([Settlement(*each) for each in zip(deliveries, actions, strict=True)])
    assert [(each.action, each.delivery.receipt) for each in queue.settled] == [
        ("release", "1"), ("ack", "0"), ("ack", "2"),
    ]  # fmt: skip


def test_a_result_that_is_passed_on_is_kept() -> None:
    """Also where nobody reads it: the next step of a chain gets it, or the body of a group."""
    batch = Batch({"ignore_result": True}, {"ignore_result": True})
    message = batch.runs[1].message
    assert message is not None
    batch.runs[1].message = message.replace(chord={"id": "g", "i": 0, "n": 2})
    for number in range(2):
        batch.end(number, Outcome(Kind.SUCCESS, 7))
    assert [entry.decided and entry.decided.outcome.value for entry in batch.read()] == [None, 7]
