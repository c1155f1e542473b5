"""Whatever arrives twice, late or at a worker that dies: starts never exceed the limit, and every message runs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher import Dispatcher, rates
from dispatcher.backends.base import TaskRecord, Write
from dispatcher.backends.memory import MemoryBackend
from dispatcher.brokers.base import Delivery, Settlement
from dispatcher.brokers.memory import MemoryBroker
from dispatcher.clock import ManualClock
from dispatcher.consumer.loop import BrokerTransport
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor

LEASE = 30.0
_numbers = itertools.count()


class Killed(BaseException):
    """The worker that made a call is dead."""


class MortalBackend(MemoryBackend):
    """A backend whose callers may die before a write: a slot is reserved then, and nothing says so."""

    deadly = False

    def _write(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        if self.deadly:
            raise Killed
        return super()._write(writes)


class MortalBroker(MemoryBroker):
    """A broker whose callers may die before they settle."""

    deadly = False

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Settle, or die."""
        if self.deadly:
            raise Killed
        super().settle(settlements)


class World:
    """An app with one limited task, its stores, and a clock that only the test moves."""

    def __init__(self, limit: str) -> None:
        url = f"memory://rates-{next(_numbers)}"
        rate = rates.parse(limit)
        assert rate is not None
        self.rate = rate
        self.clock = ManualClock()
        self.app = Dispatcher("rates", broker=url, backend=url, set_as_current=False, clock=self.clock,
                              max_worker_losses=1000, rate_limit_scope="global")  # fmt: skip
        self.broker = self.app._broker = MortalBroker(url, {"visibility_timeout": LEASE}, self.clock)
        self.backend = self.app._backend = MortalBackend(url, {}, self.clock)
        self.starts: list[float] = []
        self.begun = 0.0
        self.ran: set[str] = set()
        self.known: list[Delivery] = []
        self.sent: list[str] = []

        @self.app.task(name="limited", rate_limit=limit, bind=True, max_retries=None)
        def limited(task: Any, failures: int) -> None:
            self.starts.append(self.clock.time())
            self.ran.add(task.request.id)
            if task.request.retries < failures:
                raise task.retry(countdown=0.5)

        self.task: Any = limited

    def send(self, chance: random.Random) -> None:
        """Some messages arrive; now and then one that is retried."""
        for _ in range(chance.randrange(1, 5)):
            self.sent.append(self.task.delay(chance.choice([0, 0, 0, 1])).id)

    def work(self, chance: random.Random) -> None:
        """A worker takes a batch and perhaps dies before it writes, or before it settles."""
        deliveries = self.broker.receive(["default"], chance.randrange(1, 11))
        self.known += deliveries
        self._process(deliveries, chance.choice(["", "", "", "write", "settle"]))

    def duplicate(self, chance: random.Random) -> None:
        """The transport hands out once more what it handed out earlier."""
        if self.known:
            self._process([chance.choice(self.known)], "")

    def advance(self, chance: random.Random) -> None:
        """Time passes, now and then more than a slot lasts."""
        self.clock.advance(chance.choice([0.01, 0.1, 0.5, 1.0, 3.0, LEASE + 1, 500.0]))

    def _process(self, deliveries: Sequence[Delivery], dies: str = "") -> None:
        transport = BrokerTransport(self.broker)
        self.begun = self.begun or self.clock.time()
        executor = Executor(Environment(app=self.app, backend=self.backend, transport=transport, clock=self.clock))
        self.backend.deadly, self.broker.deadly = dies == "write", dies == "settle"
        try:
            executor.process(deliveries)
        except Killed:
            pass
        finally:
            self.backend.deadly = self.broker.deadly = False

    def drain(self) -> None:
        """A worker that does not die takes what is left."""
        for _ in range(3000):
            if self.broker.counts("default")[:3] == (0, 0, 0):
                return
            self._process(self.broker.receive(["default"], 10))
            self.clock.advance(self.rate.interval / 2)
        raise AssertionError("the queue never became empty")

    def check(self) -> None:
        """Every message has run, and no window holds more starts than slots that were good in it."""
        assert self.ran == set(self.sent)
        interval, burst, late = self.rate.interval, self.rate.burst, self.rate.lateness
        for first, start in enumerate(self.starts):
            for last in range(first + burst, len(self.starts)):
                window = self.starts[last] - start
                assert last - first + 1 <= burst + (window + late) / interval + 1 + 1e-6
        # Since the beginning there were never more starts than slots: none is used twice.
        for number, start in enumerate(self.starts):
            assert number + 1 <= burst + (start - self.begun) / interval + 1e-3


EVENTS = {World.send: 3, World.work: 4, World.duplicate: 1, World.advance: 3}


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["2/s", "20/s", "30/m"]), st.integers(0, 2**32), st.integers(0, 60))
def test_starts_stay_below_the_limit(limit: str, seed: int, length: int) -> None:
    """Random arrivals, crashes between slot and record, duplicates, idle times and outages."""
    world, chance = World(limit), random.Random(seed)
    for event in chance.choices(list(EVENTS), list(EVENTS.values()), k=length):
        event(world, chance)
    world.drain()
    world.check()
