"""How long one producer takes to hand over a group of a thousand."""

from __future__ import annotations

from statistics import median

from benchmarks.bench import Bench
from benchmarks.peers.base import BULK
from benchmarks.rows.row import OURS, Row, Sample


def measure(bench: Bench, peer: str) -> Sample:
    """Time the call that hands a group over. What a worker does for it later, ours its sending too, is not in it."""
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
        "the median of how long the call takes. Ours hands a group of more than 100 to a worker in one message, where "
        "the peers send a thousand, so this is what the caller waits for and no comparison of work, and there is no "
        "bar: the row of chords shows what the machine does. Workers run meanwhile."
    ),
    contenders=(OURS, "celery", "dramatiq", "rq", "huey"),
    bars=(),
    measure=measure,
    budget=50.0,
)
