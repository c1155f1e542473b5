"""Messages that wait are published anew before their queue gives them up."""

from __future__ import annotations

import dataclasses
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
from dispatcher.exceptions import OperationalError
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
        env = Environment(self.app, self.backend, BrokerTransport(self.broker), clock=self.clock)
        executor = Executor(env)
        seen: list[Run] = []
        for _ in range(cycles):
            if until():
                return seen
            deliveries = self.broker.receive(["default"], 10)
            seen += executor.process(deliveries)
            if not deliveries:
                self.clock.advance(self._quiet())
        raise AssertionError("it never came to that")

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
    clock = ManualClock()
    app = Dispatcher("renewal", broker="memory://renewal", clock=clock)
    broker = StrictBroker("memory://renewal", {}, clock)
    backend = DeafBackend("memory://renewal", {}, clock)
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
    """The record knows of the new generation, so that a late duplicate of the old message is dropped."""
    result = bench.task(autoretry_for=(ValueError,), max_retries=None, default_retry_delay=60).delay(8)
    old = bench.broker.receive(["default"], 1)[0]
    bench.broker.settle([])
    bench.work(result.ready)
    before = bench.runs
    env = Environment(bench.app, bench.backend, BrokerTransport(bench.broker), clock=bench.clock)
    copy = Delivery(queue="default", body=old.body, receipt=old.receipt, message_id="copy", sent_at=old.sent_at)
    Executor(env).process([copy])
    assert bench.runs == before


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
