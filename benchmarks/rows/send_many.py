"""How fast one producer sends a thousand tasks at once."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.rows.row import BARE, OURS, Bar, Row, Sample


def measure(bench: Bench, peer: str) -> Sample:
    """Send a bulk of no-ops in one call."""
    bench.redis.flushall()
    seconds = bench.probe(peer, "bulk", bench.scale.bulk)
    return Sample(bench.scale.bulk / seconds)


ROW = Row(
    name="send-many",
    title="`send_many` of 1,000 on Redis",
    unit="tasks/s",
    better="higher",
    method="One call with 1,000 no-ops, after one such call to warm up. RQ is the one peer with a bulk call.",
    contenders=(OURS, "rq", BARE),
    bars=(Bar(0.6, BARE),),
    measure=measure,
)
