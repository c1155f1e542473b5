"""How fast one producer sends tasks one by one."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.rows.row import BARE, BEST_PEER, OURS, REDIS_PRODUCERS, Bar, Row, Sample


def measure(bench: Bench, peer: str) -> Sample:
    """Send no-ops into an empty queue that nobody reads."""
    bench.redis.flushall()
    with bench.apart():
        seconds = bench.probe(peer, "sends", bench.scale.sends)
    return Sample(bench.scale.sends / seconds)


ROW = Row(
    name="send",
    title="`.delay()` on Redis, one producer",
    unit="tasks/s",
    better="higher",
    method="One thread (or one coroutine) sends no-ops one after the other; no worker runs. Redis has a CPU to itself.",
    contenders=(OURS, *REDIS_PRODUCERS, BARE),
    bars=(Bar(1.2, BEST_PEER),),
    measure=measure,
    budget=60.0,
)
