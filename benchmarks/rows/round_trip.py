"""How long one caller waits for a result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median, quantiles
from typing import Final

from benchmarks.bench import Bench
from benchmarks.rows.row import BEST_PEER, OURS, REDIS_PEERS, Bar, Row, Sample
from benchmarks.turns import TURNS, InTurns

_CONTENDERS: Final = (OURS, *REDIS_PEERS)


@contextmanager
def _caller(bench: Bench, peer: str) -> Iterator[Callable[[int], Sequence[float]]]:
    """Run a peer in a database of its own, because some would take each other's tasks."""
    with bench.database(_CONTENDERS.index(peer) + 1), bench.caller(peer) as call:
        yield call


def latency(_count: int, turns: Sequence[Sequence[float]]) -> Sample:
    """Return the median of calls that took so many seconds in milliseconds, and the rest of their distribution."""
    times = [seconds for turn in turns for seconds in turn]
    percentiles = [round(seconds * 1e3, 4) for seconds in quantiles(times, n=100)]
    return Sample(median(times) * 1e3, {"p95 ms": percentiles[94], "p99 ms": percentiles[98]}, percentiles)


ROW = Row(
    name="round-trip",
    title="`.delay().get()` on Redis, one caller",
    unit="ms",
    better="lower",
    method=(
        "Workers as above with results on. One caller sends `tasks.add` and waits for its result, again and again. "
        f"In a round all libraries are there, and take turns of 50 calls (10 in a quick run), {TURNS} each, while the "
        "others' workers are stopped. A round's value is the median of all calls (p50), p95 and p99 stand beside it."
    ),
    contenders=_CONTENDERS,
    bars=(Bar(0.5, BEST_PEER),),
    measure=InTurns(_caller, lambda bench: bench.scale.calls, latency),
    budget=90.0,
)
