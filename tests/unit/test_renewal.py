"""Messages that wait are published anew before their queue gives them up."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dispatcher import Dispatcher
from dispatcher.backends.base import TaskRecord
from dispatcher.backends.memory import MemoryBackend
from dispatcher.brokers.base import Delivery
from dispatcher.brokers.memory import MemoryBroker
from dispatcher.clock import ManualClock
from dispatcher.consumer.loop import BrokerTransport
from dispatcher.exceptions import MessageTooLarge, OperationalError, Reject
from dispatcher.execution import recording
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from dispatcher.execution.run import Run

BUDGET, RETENTION = 10, 4 * 86_400.0


class StrictBroker(MemoryBroker):
    """A memory broker with SQS's habits: it gives a message up after ten receipts or four days."""

    features = dataclasses.replace(MemoryBroker.features, max_receives=BUDGET, retention=RETENTION, max_delay=900.0)

    def receive(self, queues: Sequence[str], limit: int, wait: float = 0.0) -> list[Delivery]:
        """Lease messages; one that is past its budget fails the test."""
        received = super().receive(queues, limit, wait)
        for delivery in received:
            assert self.budget_spent(delivery) <= 1, f"the queue gave {delivery.body!r} up"
        return received


class DeafBackend(MemoryBackend):
    """A memory backend that can be out of reach."""

    deaf = False

    def _read(self, ids: Sequence[str]) -> dict[str, TaskRecord]:
        if self.deaf:
            raise OperationalError("out of reach")
        return super()._read(ids)


@dataclasses.dataclass
class Bench:
    """An app on a strict broker, and a worker's loop by hand."""

    app: Dispatcher
    clock: ManualClock
    broker: StrictBroker
    backend: DeafBackend
    runs: int = 0

    def work(self, until: Callable[[], bool], cycles: int = 2_000) -> list[Run]:
        """Run what comes, and let time pass where nothing does."""
        executor = self.executor()
        seen: list[Run] = []
        for _ in range(cycles):
            if until():
                return seen
            deliveries = self.broker.receive(["default"], 10)
            seen += executor.process(deliveries)
            if not deliveries:
                self.clock.advance(self._quiet())
        raise AssertionError("it never came to that")

    def executor(self) -> Executor:
        """Return what a worker runs deliveries with."""
        return Executor(Environment(self.app, self.backend, BrokerTransport(self.broker), clock=self.clock))

    def _quiet(self) -> float:
        return 600.0

    def task(self, **options: Any) -> Any:
        """Return a task that counts its runs and raises until it has run often enough."""

        def work(times: int) -> int:
            self.runs += 1
            if self.runs < times:
                raise ValueError(self.runs)
            return self.runs

        return self.app.task(name="work", **options)(work)


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A bench with a clock that only the test moves."""
    with _bench() as made:
        yield made


@contextlib.contextmanager
def _bench(**settings: Any) -> Iterator[Bench]:
    clock = ManualClock()
    url = f"memory://{uuid.uuid4()}"
    app = Dispatcher("renewal", broker=url, clock=clock, **settings)
    broker = StrictBroker(url, {}, clock)
    backend = DeafBackend(url, {}, clock)
    app._broker, app._backend = broker, backend
    yield Bench(app, clock, broker, backend)
    broker.close()
    backend.close()


def test_retries_without_end_stay_within_the_budget(bench: Bench) -> None:
    """A task retried far more often than the queue allows receipts ends in SUCCESS, with every retry counted."""
    result = bench.task(autoretry_for=(ValueError,), max_retries=None, default_retry_delay=60).delay(60)
    bench.work(result.ready)
    assert (result.get(), result.retries) == (60, 59)
    assert bench.runs == 60


def test_the_limit_of_retries_holds_across_generations(bench: Bench) -> None:
    """Renewed messages carry the retries, so that ``max_retries`` means what it says."""
    result = bench.task(autoretry_for=(ValueError,), max_retries=25, default_retry_delay=60).delay(1_000)
    bench.work(result.ready)
    assert (result.state, bench.runs) == ("FAILURE", 26)


def test_an_eta_beyond_the_retention_is_kept(bench: Bench) -> None:
    """A message for in 30 days outlives a queue that keeps messages for four, and runs once, not early."""
    due = datetime.fromtimestamp(bench.clock.time(), UTC) + timedelta(days=30)
    result = bench.task().apply_async((1,), eta=due)
    bench.work(result.ready, cycles=20_000)
    assert bench.runs == 1
    assert bench.clock.time() >= due.timestamp()


def test_what_is_renewed_is_signed_anew() -> None:
    """A message may wait longer than a signature may be old, where its queue has it renewed."""
    with _bench(signing_keys={"k1": bytes(32)}, signing_max_age=3 * 86_400) as bench:
        result = bench.task().apply_async((1,), countdown=30 * 86_400)
        bench.work(result.ready, cycles=20_000)
        assert (result.get(), bench.runs) == (1, 1)


def test_a_revoked_task_with_a_distant_eta_does_not_run(bench: Bench) -> None:
    """The flag outlives the longest wait of a message."""
    result = bench.task().apply_async((1,), countdown=40 * 86_400)
    result.revoke()
    bench.work(lambda: bench.broker.counts("default")[:3] == (0, 0, 0), cycles=20_000)
    assert (bench.backend.read([result.id])[result.id].status, bench.runs) == ("REVOKED", 0)


def test_messages_survive_hours_without_a_backend(bench: Bench) -> None:
    """While records cannot be read messages go round without a run and without being lost."""
    result = bench.task().delay(1)
    bench.backend.deaf = True
    end = bench.clock.time() + 6 * 3600
    bench.work(lambda: bench.clock.time() > end)
    assert bench.runs == 0
    bench.backend.deaf = False
    bench.work(result.ready)
    assert (result.get(), bench.runs) == (1, 1)


def test_a_duplicate_of_a_renewed_message_does_not_run(bench: Bench) -> None:
    """The copy is of the same generation, so that a late duplicate of the old message finds the outcome."""
    result = bench.task(autoretry_for=(ValueError,), max_retries=None, default_retry_delay=60).delay(8)
    old = bench.broker.receive(["default"], 1)[0]
    bench.work(result.ready)
    before = bench.runs
    copy = Delivery(queue="default", body=old.body, receipt=old.receipt, message_id="copy", sent_at=old.sent_at)
    bench.executor().process([copy])
    assert bench.runs == before


def test_an_outcome_that_was_not_settled_survives_a_blind_renewal(bench: Bench) -> None:
    """A worker died between record and settlement: however long records cannot be read, the task runs no more."""
    result = bench.task().delay(1)
    [delivery] = bench.broker.receive(["default"], 1)
    executor = bench.executor()
    [run] = executor.prepare([delivery])
    executor.execute(run)
    recording.record(executor.env, [run])
    bench.backend.deaf = True
    end = bench.clock.time() + 0.7 * RETENTION
    bench.work(lambda: bench.clock.time() > end)
    bench.backend.deaf = False
    bench.work(lambda: bench.broker.counts("default")[:3] == (0, 0, 0))
    assert (bench.backend.read([result.id])[result.id].status, bench.runs) == ("SUCCESS", 1)


def test_a_message_that_cannot_be_sent_on_disturbs_nobody(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A renewal that fails for good, as of a message grown too large, leaves the rest of its batch alone."""
    waiting = bench.task(autoretry_for=(ValueError,), max_retries=None, default_retry_delay=60).delay(1_000)
    other = bench.app.task(name="other")(lambda: "fine")

    def too_large(*args: Any) -> None:
        raise MessageTooLarge("it has grown")

    monkeypatch.setattr(bench.app, "publish", too_large)
    for _ in range(BUDGET - 1):
        bench.executor().process(bench.broker.receive(["default"], 10))
        bench.clock.advance(120)
    result = other.delay()
    runs = bench.executor().process(bench.broker.receive(["default"], 10))
    assert (len(runs), result.get(), waiting.state) == (2, "fine", "RETRY")


def test_a_requeued_message_is_renewed(bench: Bench) -> None:
    """A task that is not ready to run for long, and says so by Reject, is not lost by it."""
    seen: list[int] = []

    def busy() -> str:
        seen.append(1)
        if len(seen) < 5 * BUDGET:
            raise Reject("busy", requeue=True)
        return "done"

    result = bench.app.task(name="busy")(busy).delay()
    bench.work(result.ready)
    assert (result.get(), len(seen)) == ("done", 5 * BUDGET)


def test_the_same_message_twice_in_a_batch_runs_once(bench: Bench) -> None:
    """Of two copies in one batch, both worn, one runs and the other finds its outcome."""
    result = bench.task().delay(1)
    [delivery] = bench.broker.receive(["default"], 1)
    copies = [dataclasses.replace(delivery, receive_count=BUDGET - 1, message_id=str(number)) for number in range(2)]
    bench.executor().process(copies)
    bench.clock.advance(120)
    bench.work(lambda: bench.broker.counts("default")[:3] == (0, 0, 0))
    assert (result.get(), bench.runs) == (1, 1)


def test_a_renewal_that_cannot_be_sent_waits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the new message cannot be sent the old one goes back, and nothing is lost."""
    result = bench.task(autoretry_for=(ValueError,), max_retries=None, default_retry_delay=60).delay(20)
    publish, failures = bench.app.publish, iter([True] * 3)

    def unreliable(*args: Any) -> None:
        if next(failures, False):
            raise OperationalError("the broker is away")
        publish(*args)

    monkeypatch.setattr(bench.app, "publish", unreliable)
    bench.work(result.ready)
    assert (result.get(), bench.runs) == (20, 20)


def limited(bench: Bench, limit: str) -> list[float]:
    """Make a task of this limit; return the list of its starts, in seconds from now."""
    starts: list[float] = []
    begun = bench.clock.time()
    bench.app.task(name="limited", rate_limit=limit, rate_limit_scope="global")(
        lambda: starts.append(round(bench.clock.time() - begun))
    )
    return starts


def test_a_long_wait_for_a_slot_is_sent_anew(bench: Bench) -> None:
    """Within a minute's slots a message waits hidden; a longer one with a delay, as often as it takes, as itself."""
    bench.broker.features = dataclasses.replace(bench.broker.features, max_release=43_200.0)
    starts = limited(bench, "2/m")
    ids = [bench.app.send_task("limited").id for _ in range(5)]
    runs = bench.executor().process(bench.broker.receive(["default"], 10))
    actions = [(run.settlement.action, run.settlement.delay, run.sent_on) for run in runs if run.settlement]
    assert actions == [
        ("ack", 0.0, False), ("release", 30.0, False), ("release", 60.0, False), ("ack", 0.0, True), ("ack", 0.0, True)
    ]  # fmt: skip
    assert bench.broker.counts("default").delayed == 4
    bench.clock.advance(30)
    bench.work(lambda: bench.broker.counts("default")[:3] == (0, 0, 0), cycles=20)
    assert len(starts) == 5
    assert {record.gen for record in bench.backend.read(ids).values()} == {0}


def test_a_wait_for_a_slot_of_days(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots beyond the longest delay, the retention and the budget of receipts are waited for, in their order."""
    bench.broker.features = dataclasses.replace(bench.broker.features, max_release=43_200.0)
    monkeypatch.setattr(bench, "_quiet", lambda: 300.0)
    starts = limited(bench, "1/h")
    for _ in range(10):
        bench.app.send_task("limited")
    seen = bench.work(lambda: bench.broker.counts("default")[:3] == (0, 0, 0), cycles=5_000)
    assert len(starts) == 10
    assert all(later - start >= 3590 for start, later in itertools.pairwise(starts))
    assert starts[-1] < 9 * 3600 + 1000
    assert len(seen) < 10 + sum(1 + hours * 4 for hours in range(10)) + 20
