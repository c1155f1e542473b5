"""How fast one producer sends a group of a thousand."""

from __future__ import annotations

from statistics import median

from benchmarks.bench import Bench
from benchmarks.peers.base import BULK
from benchmarks.rows.row import BEST_PEER, OURS, Bar, Row, Sample


def measure(bench: Bench, peer: str) -> Sample:
    """Send groups until a worker could start on all of them: one that is left to a worker is timed with its launch."""
    bench.redis.flushall()
    with bench.workers(peer, results=True):
        times = bench.probe(peer, "groups", max(2, bench.scale.bulks // 4), results=True)
    return Sample(BULK / median(times))


ROW = Row(
    name="group",
    title="Group of 1,000 sent on Redis",
    unit="tasks/s",
    better="higher",
    method=(
        "`group(...).apply_async()` with 1,000 members, or what a peer calls that, again and again; a round's value is "
        "the median of how long the call takes. Ours hands a group of more than 100 to a worker in one message, so "
        "this is what the caller waits for, not what the machine does: the row of chords shows that. Workers run "
        "meanwhile."
    ),
    contenders=(OURS, "celery", "dramatiq", "rq", "huey"),
    bars=(Bar(1, BEST_PEER),),
    measure=measure,
    budget=50.0,
)
