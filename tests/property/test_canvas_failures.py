"""Random canvases with calls that fail end as the rules say: states, ChordErrors, error callbacks once each."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.property.failures import WAYS, Expected, Seen, canvas_of, ends_of, grow
from tests.property.test_canvas import run_out
from tests.unit.bench import Bench, Globals


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    """Keep apps of one test from the next."""
    with Globals():
        yield


@pytest.mark.parametrize("seed", range(40))
def test_failures_under_duplicates_and_crashes(seed: int) -> None:
    """Whatever fails, is retried, ignored or expires: what follows ends with it, what does not depend on it runs."""
    rng = random.Random(seed)
    for _ in range(5):
        bench, seen = Bench(max_worker_losses=1000), Seen()
        seen.add_tasks(bench.app)
        tree = grow(rng, rng.choice([3, 3, 4]))
        expected = Expected(tree)
        result = canvas_of(tree, bench.app).apply_async()
        run_out(bench, rng, 0.2)
        assert ends_of(result, bench.app.AsyncResult) == expected.results, tree
        assert (seen.ran, seen.told) == (expected.ran, expected.told), tree


@pytest.mark.parametrize("seed", range(20))
def test_failures_in_eager_mode(seed: int) -> None:
    """The same, but that nothing expires in eager mode."""
    rng = random.Random(seed)
    for _ in range(10):
        bench, seen = Bench(), Seen()
        seen.add_tasks(bench.app)
        tree = grow(rng, 3, [way for way in WAYS if way != "has expired"])
        expected = Expected(tree)
        assert ends_of(canvas_of(tree, bench.app).apply()) == expected.results, tree
        assert (seen.ran, seen.told) == (expected.ran, expected.told), tree
