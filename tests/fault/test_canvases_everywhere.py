"""Random canvases on servers and through the Lambda handler, under duplicates and crashes, come to their values.

``DISPATCHER_TEST_CANVASES`` is how many seeds each of them is run for, 3 by default; a seed is two canvases.
"""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher import Dispatcher, chord
from dispatcher.brokers.base import Delivery
from dispatcher.clock import SYSTEM, ManualClock
from dispatcher.exceptions import ChordError
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from tests.emulation.redis_server import RedisServer
from tests.fault.simulated_aws import Context, SimulatedAws
from tests.property import canvases, failures
from tests.property.canvases import canvas_of, evaluate, grow
from tests.property.test_canvas import Crash, CrashingTransport, leaves_of
from tests.unit.bench import Globals

SEEDS = range(int(os.environ.get("DISPATCHER_TEST_CANVASES", "3")))
CANVASES = 2
#: How likely a batch is delivered again, and how likely its worker ends before it settles.
CHANCE = 0.15
#: Seconds until a batch of a worker that ended comes again, on the server's own clock.
LEASE = 0.2


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    """Keep apps of one test from the next."""
    with Globals():
        yield


class Local:
    """An app on a server with a local worker, which may end before it settles."""

    def __init__(self, url: str, clock: Any, rng: random.Random) -> None:
        self.rng = rng
        self.app = Dispatcher(
            "everywhere", broker=url, backend=url, clock=clock, set_as_current=False, max_worker_losses=1000,
            broker_visibility_timeout=LEASE, task_default_queue=f"canvas-{uuid.uuid4().hex}",
        )  # fmt: skip
        add_tasks(self)
        self.app.finalize()

    def work(self) -> None:
        """Run until nothing is left."""
        queue, broker = self.app.conf.task_default_queue, self.app.broker
        transport = CrashingTransport(broker, self.rng, CHANCE)
        env = Environment(
            app=self.app, backend=self.app.backend, transport=transport, clock=self.app.clock, hostname="everywhere"
        )
        executor = Executor(env)
        for _ in range(4000):
            counts = broker.counts(queue)
            if not counts.ready + counts.delayed + counts.in_flight:
                executor.close()
                return
            deliveries = broker.receive([queue], self.rng.randint(1, 10), 2 * LEASE)
            self.rng.shuffle(deliveries)
            again: list[Delivery] = [each for each in deliveries if self.rng.random() < CHANCE]
            for batch in (deliveries, again):
                try:
                    executor.process(batch)
                except Crash:
                    executor.close()
                    executor = Executor(env)
        raise AssertionError("still not done")


class Function(SimulatedAws):
    """SQS, DynamoDB and the Lambda handler: batches come twice, and invocations end before their answer is heard."""

    def __init__(self, rng: random.Random, **settings: Any) -> None:
        super().__init__(max_worker_losses=1000, **settings)
        self.rng = rng
        add_tasks(self)

    def invoke(self, records: list[dict[str, Any]]) -> None:
        """Run a batch; with bad luck again, or without anybody hearing what came of it."""
        if self.rng.random() < CHANCE:
            self.worker({"Records": records}, Context)
        if self.rng.random() < CHANCE:
            self.worker({"Records": self.rng.sample(records, self.rng.randint(1, len(records)))}, Context)
            return
        super().invoke(records)


def check(world: Any, rng: random.Random) -> None:
    """Compare random canvases with direct evaluation, and their states with what the results say."""
    world.app.set_current()  # what is empty has no task that knows its app
    task = world.app.tasks["shown"]
    for _ in range(CANVASES):
        tree = ("chain", [grow(rng, 3, 0.1)])
        result = canvas_of(tree, task).apply_async()
        world.work()
        assert leaves_of(result) == evaluate(tree), tree
        if result is not None:
            flow = world.app.workflow(result)
            assert flow.finished, tree
            assert flow.error is None, tree
    _check_failure(world, rng)
    _check_failures(world, rng)


def _check_failure(world: Any, rng: random.Random) -> None:
    """Let a member of a chord fail: body and error callback end once, and the workflow says why."""
    app = world.app
    header = [app.tasks["shown"].s(number) for number in range(rng.randint(0, 11))]
    header.insert(rng.randint(0, len(header)), app.tasks["fails"].s())
    sent = chord(header, app.tasks["shown"].s(0).on_error(app.tasks["note"].s())).apply_async()
    world.work()
    with pytest.raises(ChordError, match="raised ValueError"):
        app.AsyncResult(sent.id).get(timeout=0)
    flow = app.workflow(sent.id)
    assert (flow.failure.name, repr(flow.error), flow.finished) == ("fails", "ValueError('no')", True)
    assert flow.total == len(header) + 1
    assert world.notes == {sent.id}


def _check_failures(world: Any, rng: random.Random) -> None:
    """Let any calls of any canvas fail, be retried, ignored or expire."""
    for _ in range(CANVASES):
        world.seen.ran.clear()
        world.seen.told.clear()
        tree = failures.grow(rng, 3)
        expected = failures.Expected(tree)
        result = failures.canvas_of(tree, world.app).apply_async()
        world.work()
        assert failures.ends_of(result, world.app.AsyncResult) == expected.results, tree
        assert (world.seen.ran, world.seen.told) == (expected.ran, expected.told), tree


def add_tasks(world: Any) -> None:
    """Register the tasks; an error callback notes for which task it is called."""
    world.notes = set()
    canvases.add_tasks(world.app)
    world.seen = failures.Seen()
    world.seen.add_tasks(world.app)
    world.app.task(name="fails")(_fail)
    world.app.task(name="note")(lambda request, error, traceback: world.notes.add(request.id))


def _fail(*args: Any) -> None:
    raise ValueError("no")


@pytest.mark.parametrize("seed", SEEDS)
def test_sqlite(seed: int, tmp_path: Path) -> None:
    """On a file that broker and backend share."""
    rng = random.Random(seed)
    world = Local(f"sqlite:///{tmp_path}/world.db", ManualClock(), rng)
    check(world, rng)
    world.app.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_redis(seed: int, redis_server: RedisServer) -> None:
    """On a server, in real time."""
    rng = random.Random(seed)
    world = Local(redis_server.url, SYSTEM, rng)
    check(world, rng)
    world.app.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_sqs_and_dynamodb_through_the_lambda_handler(seed: int) -> None:
    """On queues and tables beneath the real adapters."""
    rng = random.Random(seed)
    world = Function(rng)
    try:
        check(world, rng)
    finally:
        world.close()
