"""How long a chord takes, from sending it to holding its result."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.rows.row import BEST_PEER, OURS, Bar, Row, Sample

SMALL, LARGE = 1_000, 10_000


def measure(bench: Bench, peer: str) -> Sample:
    """Run a chord of a thousand, and one of ten thousand where the scale is full."""
    bench.redis.flushall()
    with bench.workers(peer, results=True) as workers:
        bench.probe(peer, "chord", 20, results=True)
        small = bench.probe(peer, "chord", SMALL, results=True)
        details = {}
        if bench.scale.backlog > LARGE:
            details[f"{LARGE:,} members, s"] = bench.probe(peer, "chord", LARGE, results=True)
        workers.check()
    return Sample(small, details)


ROW = Row(
    name="chord",
    title="Chord of 1,000 on Redis, 2 processes",
    unit="s",
    better="lower",
    method=(
        "Two worker processes, results on. A chord of 1,000 additions and a sum is sent; the clock stops when the "
        "producer holds the sum. With full sizes one of 10,000 follows."
    ),
    contenders=(OURS, "celery"),
    bars=(Bar(1, BEST_PEER),),
    measure=measure,
)
