"""Any canvas of pure functions comes to what direct evaluation says, under duplicates, disorder and crashes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from dispatcher import chord
from dispatcher.brokers.base import Delivery, Settlement
from dispatcher.consumer.loop import BrokerTransport
from dispatcher.exceptions import ChordError
from tests.property.canvases import add_tasks, canvas_of, evaluate, grow
from tests.unit.bench import FOR_EVER, Bench, Globals


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    """Keep apps of one test from the next."""
    with Globals():
        yield


class Crash(BaseException):
    """Ends an executor where it stands."""


class CrashingTransport(BrokerTransport):
    """Settles, or ends the executor before it does: what was recorded and sent on stays."""

    def __init__(self, broker: Any, rng: random.Random, chance: float) -> None:
        super().__init__(broker)
        self._rng, self._chance = rng, chance

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Settle, with luck."""
        if self._rng.random() < self._chance:
            raise Crash
        super().settle(settlements)


def run_out(bench: Bench, rng: random.Random, chance: float) -> None:
    """Run until nothing is left: batches in random order, deliveries twice, executors that end before settling."""
    transport = CrashingTransport(bench.app.broker, rng, chance)
    executor = bench.executor(transport=transport)
    for _ in range(4000):
        if not bench.left():
            executor.close()
            return
        deliveries = bench.receive(limit=rng.randint(1, 10), wait=FOR_EVER)
        rng.shuffle(deliveries)
        again: list[Delivery] = [each for each in deliveries if rng.random() < chance]
        for batch in (deliveries, again):
            try:
                executor.process(batch)
            except Crash:
                executor.close()
                executor = bench.executor(transport=transport)
    raise AssertionError("still not done")


def bench_with_tasks() -> tuple[Bench, Any]:
    """A bench and its task."""
    bench = Bench(max_worker_losses=1000)
    return bench, add_tasks(bench.app)


def leaves_of(result: Any) -> list[Any]:
    """Return the values that a canvas' result stands for."""
    if result is None:
        return []
    value = result.get(timeout=0)
    return list(value) if hasattr(result, "children") and hasattr(result, "results") else [value]


@pytest.mark.parametrize("seed", range(40))
def test_a_canvas_comes_to_its_value(seed: int) -> None:
    """A random tree of chains, groups and chords has the value of direct evaluation, however often all is delivered."""
    rng = random.Random(seed)
    bench, task = bench_with_tasks()
    for _ in range(5):
        tree = ("chain", [grow(rng, rng.choice([3, 3, 4]), 0.15)])
        result = canvas_of(tree, task).apply_async()
        run_out(bench, rng, 0.2)
        assert leaves_of(result) == evaluate(tree), tree


@pytest.mark.parametrize("seed", range(20))
def test_eager_mode_comes_to_the_same(seed: int) -> None:
    """Running a canvas in this process gives what sending it does."""
    rng = random.Random(seed)
    _, task = bench_with_tasks()
    for _ in range(10):
        tree = ("chain", [grow(rng, rng.choice([3, 3, 4]), 0.15)])
        assert leaves_of(canvas_of(tree, task).apply()) == evaluate(tree), tree


@pytest.mark.parametrize("seed", range(20))
def test_a_body_and_an_errback_take_effect_once(seed: int) -> None:
    """With duplicates and crashes a chord's body succeeds once, or fails with ChordError and its errback runs."""
    rng = random.Random(seed)
    bench, _ = bench_with_tasks()
    told: list[str] = []
    fails = bench.app.task(name="fails")(_fail)
    body = bench.app.task(name="body")(lambda results: told.append("body") or sum(results))
    note = bench.app.task(name="note")(lambda request, error, traceback: told.append("errback"))
    one = bench.app.task(name="one")(lambda: 1)
    size = rng.randint(1, 12)
    bad = rng.random() < 0.5
    header = [one.s() for _ in range(size)]
    if bad:
        header[rng.randrange(size)] = fails.s()
    sent = chord(header, body.s().on_error(note.s())).apply_async()
    run_out(bench, rng, 0.2)
    record = bench.record(sent.id)
    if bad:
        assert record.status == "FAILURE"
        with pytest.raises(ChordError, match="raised ValueError"):
            bench.app.AsyncResult(sent.id).get(timeout=0)
        assert set(told) == {"errback"}
    else:
        assert bench.app.AsyncResult(sent.id).get(timeout=0) == size
        assert set(told) == {"body"}


def _fail() -> None:
    raise ValueError("no")
