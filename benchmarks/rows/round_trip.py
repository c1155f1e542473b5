"""How long one caller waits for a result."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles

from benchmarks.bench import Bench
from benchmarks.rows.row import BEST_PEER, OURS, REDIS_PEERS, Bar, Row, Sample


def measure(bench: Bench, peer: str) -> Sample:
    """Call one task after the other on idle, warm workers."""
    bench.redis.flushall()
    with bench.workers(peer, results=True) as workers:
        times = bench.probe(peer, "calls", bench.scale.calls, results=True)
        workers.check()
    return latency(times)


def latency(times: Sequence[float]) -> Sample:
    """Return the median of calls that took so many seconds in milliseconds, and the rest of their distribution."""
    percentiles = [round(seconds * 1e3, 4) for seconds in quantiles(times, n=100)]
    return Sample(median(times) * 1e3, {"p95 ms": percentiles[94], "p99 ms": percentiles[98]}, percentiles)


ROW = Row(
    name="round-trip",
    title="`.delay().get()` on Redis, one caller",
    unit="ms",
    better="lower",
    method=(
        "Workers as above with results on. One caller sends `tasks.add` and waits for its result, again and again; a "
        "round's value is its median (p50), p95 and p99 stand beside it."
    ),
    contenders=(OURS, *REDIS_PEERS),
    bars=(Bar(0.5, BEST_PEER),),
    measure=measure,
    budget=90.0,
)
