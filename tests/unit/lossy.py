"""A queue with SQS's habits on a clock that is moved by hand, a fleet that does with messages what a test says."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from dispatcher import Dispatcher
from dispatcher.backends.base import TaskRecord
from dispatcher.backends.memory import MemoryBackend
from dispatcher.brokers.base import Delivery, Settlement
from dispatcher.brokers.memory import MemoryBroker, _Entry
from dispatcher.clock import ManualClock
from dispatcher.consumer.loop import BrokerTransport
from dispatcher.exceptions import OperationalError
from dispatcher.execution import lost, recording
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from dispatcher.execution.run import Run

QUEUE, LOST = "default", "default-lost"
#: Of the template: receipts and seconds of each queue.
BUDGETS = {QUEUE: (100, 4 * 86_400.0), LOST: (1_000, 9 * 86_400.0)}
DAY = 86_400.0

#: What becomes of a delivery: it is run, the function has no time or place for it, or dies in the middle of it.
Fate = Callable[[Delivery], str]


class LossyBroker(MemoryBroker):
    """A memory broker that moves what was received too often to the lost queue, with its count and its age."""

    features = dataclasses.replace(MemoryBroker.features, max_delay=900.0, max_release=43_170.0)

    def receive(self, queues: Sequence[str], limit: int, wait: float = 0.0) -> list[Delivery]:
        """Lease messages; one that SQS would have deleted, or moved to the dead letters without a word, fails."""
        received = []
        for delivery in super().receive(queues, limit, wait):
            receipts, seconds = BUDGETS[delivery.queue]
            assert self.clock.time() - (delivery.sent_at or 0) < seconds, f"SQS dropped {delivery.body}"
            if delivery.receive_count <= receipts:
                received.append(delivery)
                continue
            assert delivery.queue == QUEUE, f"SQS moved {delivery.body} to the dead letters"
            super().settle([Settlement(delivery, "ack")])
            entry = _Entry(next(self._store.numbers), str(delivery.body), 0, delivery.sent_at or 0.0)
            entry.receives = delivery.receive_count
            self._store.queue(LOST).entries[entry.number] = entry
            self._store.queue(LOST).make_ready(entry)
        return received

    def budget_spent(self, delivery: Delivery) -> float:
        """Return the share of a delivery's queue."""
        receipts, seconds = BUDGETS[delivery.queue]
        before = BUDGETS[QUEUE][0] if delivery.queue == LOST else 0
        age = (self.clock.time() - (delivery.sent_at or 0)) / seconds
        return max(age, (delivery.receive_count - before) / (receipts - before))

    def retention_of(self, queue: str) -> float | None:
        """Return how long a queue keeps messages."""
        return BUDGETS[queue][1]


class DeafBackend(MemoryBackend):
    """A memory backend that can be out of reach."""

    deaf = False

    def _read(self, ids: Sequence[str]) -> dict[str, TaskRecord]:
        if self.deaf:
            raise OperationalError("out of reach")
        return super()._read(ids)


class Fleet:
    """An app on a `LossyBroker`, its workers and the reader of its lost messages."""

    def __init__(self, **settings: Any) -> None:
        self.clock = ManualClock()
        url = f"memory://{uuid.uuid4()}"
        self.app = Dispatcher("fleet", broker=url, clock=self.clock, set_as_current=False, **settings)
        self.broker = LossyBroker(url, {"visibility_timeout": 360}, self.clock)
        self.backend = DeafBackend(url, {}, self.clock)
        self.app._broker, self.app._backend = self.broker, self.backend
        self.runs = 0
        self.rounds = 0

    def task(self, **options: Any) -> Any:
        """Return a task that counts its runs and raises until it has run often enough."""

        def work(times: int = 1) -> int:
            self.runs += 1
            if self.runs < times:
                raise ValueError(self.runs)
            return self.runs

        return self.app.task(name="work", **options)(work)

    @property
    def env(self) -> Environment:
        """The surroundings of a worker."""
        self.app.finalize()
        return Environment(self.app, self.backend, BrokerTransport(self.broker), clock=self.clock)

    def read_lost(self) -> list[Run]:
        """Let the reader decide on what is in the lost queue now."""
        deliveries = self.broker.receive([LOST], 10)
        self.rounds += len(deliveries)
        return lost.process(self.env, deliveries) if deliveries else []

    def lose(self, message_id: str = "") -> Delivery:
        """Receive a message too often for nothing; return its first delivery from the lost queue."""
        while not (found := self.broker.receive([LOST], 1)):
            self.broker.receive([QUEUE], 10)
            self.clock.advance(361.0)
        return found[0]

    def live(self, fate: Fate, until: Callable[[], bool], step: float = 60.0, cycles: int = 20_000) -> None:
        """Let time pass, message by message, until something holds."""
        executor = Executor(self.env)
        for _ in range(cycles):
            if until():
                return
            deliveries = self.broker.receive([QUEUE], 10)
            fates = [(fate(delivery), delivery) for delivery in deliveries]
            executor.process([delivery for what, delivery in fates if what == "run"])
            for what, delivery in fates:
                if what == "crash":
                    self.crash(delivery)
            self.read_lost()
            if not deliveries:
                self.clock.advance(step)
        raise AssertionError("it never came to that")

    def crash(self, delivery: Delivery) -> None:
        """Start a run that takes its process with it."""
        executor = Executor(self.env)
        [run] = executor.prepare([delivery])
        if run.outcome is not None:
            executor.finish([run])
        elif recording.record_start(executor.env, run):
            self.runs += 1

    def counts(self) -> list[int]:
        """Count what is in the two queues, and the dead letters."""
        own, gone = self.broker.counts(QUEUE), self.broker.counts(LOST)
        return [sum(own[:3]), sum(gone[:3]), own.dead + gone.dead]
