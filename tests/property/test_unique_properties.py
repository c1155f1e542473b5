"""Unique tasks under anything: crashes at every call of a port, duplicates, disorder, processes that stand still.

Whole processes are nested in each other's runs: while a task of one worker is in the middle of its code, other workers
and producers do what chance wants, time passes, and anybody may die. All are deterministic, by the seed.
"""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from dispatcher import Dispatcher
from dispatcher.backends.base import TaskRecord, Write
from dispatcher.backends.locks import CLOCK_SKEW
from dispatcher.backends.memory import MemoryBackend
from dispatcher.brokers.base import Delivery, Outgoing, Settlement
from dispatcher.brokers.memory import MemoryBroker
from dispatcher.clock import ManualClock
from dispatcher.consumer.loop import BrokerTransport
from dispatcher.exceptions import OperationalError
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from dispatcher.execution.heartbeat import LEASE

#: Worlds for each scope; ``DISPATCHER_TEST_TIMES`` multiplies them.
WORLDS = 60 * int(os.environ.get("DISPATCHER_TEST_TIMES", "1"))
KEYS = 2
UNIQUE_FOR = 7 * 86_400.0
_DEEPEST = 3


class Killed(BaseException):
    """The process is dead."""


class Fuse:
    """Blows after a number of calls: the process dies before the call, or after it took effect."""

    def __init__(self, calls: int | None) -> None:
        self.calls = calls
        self.dead = False

    def around(self, call: Callable[[], Any]) -> Any:
        self.reach()
        value = call()
        self.reach()
        return value

    def reach(self) -> None:
        if self.dead:
            raise Killed
        if self.calls is not None:
            self.calls -= 1
            if self.calls < 0:
                self.dead = True
                raise Killed


class MortalBroker(MemoryBroker):
    """A broker of a process that may die."""

    fuse = Fuse(None)

    def _send(self, messages: Sequence[Outgoing]) -> Mapping[str, str]:
        failures: Mapping[str, str] = self.fuse.around(lambda: super(MortalBroker, self)._send(messages))
        return failures

    def settle(self, settlements: Sequence[Settlement]) -> None:
        self.fuse.around(lambda: super(MortalBroker, self).settle(settlements))


class MortalBackend(MemoryBackend):
    """A backend of a process that may die, and that is out of reach now and then."""

    fuse = Fuse(None)
    chance: random.Random | None = None

    def _read(self, ids: Sequence[str]) -> dict[str, TaskRecord]:
        found: dict[str, TaskRecord] = self._call(lambda: super(MortalBackend, self)._read(ids))
        return found

    def _write(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        stood: list[TaskRecord | None] = self._call(lambda: super(MortalBackend, self)._write(writes))
        return stood

    def _write_together(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        stood: list[TaskRecord | None] = self._call(lambda: super(MortalBackend, self)._write_together(writes))
        return stood

    def _call(self, call: Callable[[], Any]) -> Any:
        if self.chance is not None and self.chance.random() < 0.03:
            if self.chance.random() < 0.5:
                call()
            raise OperationalError("out of reach")
        return self.fuse.around(call)


@dataclasses.dataclass
class Seen:
    """One run: between which moments, in the order of everything that happened, it was in the task's code."""

    key: int
    task_id: str
    fence: int
    number: int
    began: int
    began_at: float
    ended: int | None = None


class World:
    """Processes around one store, at the mercy of a seed."""

    def __init__(self, seed: int, scope: str) -> None:
        self.chance = random.Random(seed)
        self.clock = ManualClock()
        self.url = f"memory://unique-{scope}-{seed}-{id(self)}"
        self.scope = scope
        self.runs: list[Seen] = []
        self.results: list[tuple[int, str]] = []
        self.moments = 0
        self.depth = 0
        self.calm = False

    def app(self, mortal: bool) -> Dispatcher:
        """Start a process; a mortal one dies at some call."""
        app = Dispatcher("u", broker=self.url, backend=self.url, clock=self.clock, set_as_current=False,
                         task_publish_retry=False, max_worker_losses=1000)  # fmt: skip
        fuse = Fuse(self.chance.randrange(60) if mortal and self.chance.random() < 0.5 else None)
        app._broker = broker = MortalBroker(self.url, {}, self.clock)
        app._backend = backend = MortalBackend(self.url, {}, self.clock)
        broker.fuse = backend.fuse = fuse
        backend.chance = self.chance if mortal else None
        period = UNIQUE_FOR if self.scope != "running" else None
        app.conf.result_expires = 2 * UNIQUE_FOR

        @app.task(name="t", bind=True, unique=lambda key: str(key), unique_scope=self.scope, unique_for=period,
                  autoretry_for=(KeyError,), max_retries=None, default_retry_delay=100)  # fmt: skip
        def task(self_: Any, key: int) -> int:
            return self.run(self_.request, key)

        app.finalize()
        return app

    def run(self, request: Any, key: int) -> int:
        """Be the task's code: let other things happen in the middle of it, fail at times."""
        seen = Seen(key, request.id, request.fence, len(self.runs), self._moment(), self.clock.time())
        self.runs.append(seen)
        if not self.calm and self.depth < _DEEPEST:
            if self.chance.random() < 0.2:
                self.clock.advance(100)  # longer than any lease: others take over
            for _ in range(self.chance.randrange(4)):
                self.happen()
        seen.ended = self._moment()
        if not self.calm and self.chance.random() < 0.15:
            raise KeyError(key)
        return seen.number

    def _moment(self) -> int:
        self.moments += 1
        return self.moments

    def happen(self) -> None:
        """Let one thing happen."""
        self.depth += 1
        try:
            what = self.chance.random()
            if what < 0.45:
                self.call(self.app(mortal=True))
            elif what < 0.85:
                self.work(self.app(mortal=True))
            else:
                self.clock.advance(self.chance.choice([1, 20, LEASE, 100, 300]))
        finally:
            self.depth -= 1

    def call(self, app: Dispatcher) -> None:
        """Be a producer."""
        key = self.chance.randrange(KEYS)
        try:
            result = app.tasks["t"].delay(key)
        except (Killed, OperationalError):
            return
        self.results.append((key, result.id))

    def work(self, app: Dispatcher) -> None:
        """Be a worker: take a few messages in any order, some of them twice, and run them."""
        deliveries = app.broker.receive(["default"], 1 + self.chance.randrange(4))
        deliveries += [self._again(each) for each in deliveries if self.chance.random() < 0.2]
        self.chance.shuffle(deliveries)
        executor = Executor(Environment(
            app=app, backend=app.backend, transport=BrokerTransport(app.broker), clock=self.clock,
            random=random.Random(self.chance.random()),
        ))  # fmt: skip
        try:
            executor.process(deliveries)
        except Killed:
            pass
        finally:
            executor.close()

    def _again(self, delivery: Delivery) -> Delivery:
        return dataclasses.replace(
            delivery, receipt=(delivery.receipt[0], -1), receive_count=1 + self.chance.randrange(2)
        )

    def settle(self) -> Dispatcher:
        """Let healthy processes finish what is left."""
        self.calm = True
        app = self.app(mortal=False)
        for _ in range(2000):
            counts = app.broker.counts("default")
            if not counts.ready + counts.delayed + counts.in_flight:
                break
            self.clock.advance(40)
            self.work_calmly(app)
        else:
            pytest.fail("the queue never becomes empty")
        return app

    def work_calmly(self, app: Dispatcher) -> None:
        """Run what is due."""
        executor = Executor(Environment(
            app=app, backend=app.backend, transport=BrokerTransport(app.broker), clock=self.clock,
        ))  # fmt: skip
        executor.process(app.broker.receive(["default"], 10))
        executor.close()


def overlaps(world: World) -> list[tuple[Seen, Seen]]:
    """Return pairs of runs of one key of which the second began while the first was in its code."""
    return [
        (first, second)
        for number, first in enumerate(world.runs)
        for second in world.runs[number + 1 :]
        if first.key == second.key and (first.ended is None or second.began < first.ended)
    ]


@pytest.mark.parametrize("scope", ["queued", "waiting", "running", "period"])
def test_whatever_happens_runs_exclude_each_other_and_everything_ends(scope: str) -> None:
    """No two runs of a key both count that overlapped, none overlap but after a lease's end; no `get()` waits for ever.

    And no lock stays: afterwards each key can be called and runs.
    """
    overlapped = 0
    for seed in range(WORLDS):
        world = World(seed, scope)
        for _ in range(12):
            world.happen()
        app = world.settle()
        place = f"seed {seed}"
        values = {}
        for _, task_id in world.results:
            record = app.backend.read([task_id]).get(task_id)
            assert record is not None, place
            assert record.final, place
            values[task_id] = app.AsyncResult(task_id).get(timeout=0)
        for first, second in overlaps(world):
            assert second.began_at >= first.began_at + LEASE + CLOCK_SKEW, place
            counted = [values.get(run.task_id) == run.number for run in (first, second)]
            assert not all(counted), place
            overlapped += 1
        for key in range(KEYS):
            fences = [run.fence for run in world.runs if run.key == key]
            assert fences == sorted(set(fences)), place
            _check_lock_is_free(world, app, key, place)
    assert overlapped >= WORLDS // 20, "hardly a run ever lost its lease: the test has lost its teeth"


def _check_lock_is_free(world: World, app: Dispatcher, key: int, place: str) -> None:
    world.clock.advance(1)
    result = app.tasks["t"].delay(key)
    for _ in range(5):
        world.work_calmly(app)
        world.clock.advance(LEASE + CLOCK_SKEW)
    assert result.get(timeout=0) is not None, place
    if world.scope == "period":
        world.clock.advance(UNIQUE_FOR)
    assert not app.tasks["t"].delay(key).duplicate, place
