"""How fast one producer sends a thousand tasks at once."""

from __future__ import annotations

from statistics import median

from benchmarks.bench import Bench
from benchmarks.peers.base import BULK
from benchmarks.rows.row import BARE, OURS, Bar, Row, Sample


def measure(bench: Bench, peer: str) -> Sample:
    """Send bulks of no-ops, each in one call."""
    bench.redis.flushall()
    with bench.apart():
        times = bench.probe(peer, "bulks", bench.scale.bulks)
    return Sample(BULK / median(times))


ROW = Row(
    name="send-many",
    title="`send_many` of 1,000 on Redis",
    unit="tasks/s",
    better="higher",
    method=(
        "One call with 1,000 no-ops, making their signatures included, again and again; a round's value is the median. "
        "RQ is the one peer with a bulk call. Redis has a CPU to itself."
    ),
    contenders=(OURS, "rq", BARE),
    bars=(Bar(0.6, BARE),),
    measure=measure,
    budget=30.0,
)
