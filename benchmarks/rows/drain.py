"""How fast worker processes empty a backlog of no-ops."""

from __future__ import annotations

from benchmarks.bench import Bench, MeasurementError
from benchmarks.rows.row import BARE, BEST_PEER, OURS, REDIS_PEERS, Bar, Row, Sample

#: Share of the backlog that is done before the clock starts: all processes are up and warm.
WARM_SHARE = 0.1
START_TIMEOUT = 30.0


def measure(bench: Bench, peer: str) -> Sample:
    """Fill a queue, start the workers, and time them from the first tenth to the end or the window's end."""
    backlog = bench.scale.backlog
    bench.redis.flushall()
    bench.probe(peer, "fill", backlog)
    with bench.workers(peer) as workers:
        first = bench.wait_for_ticks(workers, int(backlog * WARM_SHARE), START_TIMEOUT)
        if not first.ticks:
            raise MeasurementError(f"no task ran within {START_TIMEOUT} s:\n{workers.output()}")
        last = bench.wait_for_ticks(workers, backlog, bench.scale.drain_window)
    done = last.ticks - first.ticks
    if done <= 0:
        raise MeasurementError(f"stuck after {first.ticks} tasks")
    cpu = (last.cpu - first.cpu) / done
    return Sample(done / (last.at - first.at), {"tasks": done, "worker CPU µs per task": cpu * 1e6})


ROW = Row(
    name="drain",
    title="No-op tasks drained on Redis, 2 processes",
    unit="tasks/s",
    better="higher",
    method=(
        "A backlog is sent first, untimed. Workers start; the clock runs from the moment a tenth is done until all is "
        "done or the window ends. A task's side effect is one INCR."
    ),
    contenders=(OURS, *REDIS_PEERS, BARE),
    bars=(Bar(4, BEST_PEER), Bar(0.6, BARE)),
    measure=measure,
)
