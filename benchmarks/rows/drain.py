"""How fast worker processes empty a backlog of no-ops."""

from __future__ import annotations

from benchmarks.bench import Bench, MeasurementError
from benchmarks.rows.row import BARE, BEST_PEER, OURS, REDIS_PEERS, Bar, Row, Sample

#: Share of the backlog that is done before the clock starts: all processes are up and warm.
WARM_SHARE = 0.1
START_TIMEOUT = 30.0


def measure(bench: Bench, peer: str) -> Sample:
    """Fill a queue, start the workers, and time them from the first tenth to the end or the window's end."""
    return drain(bench, peer, bench.scale.backlog)


def drain(bench: Bench, peer: str, backlog: int, work: str = "tick", concurrency: int = 0) -> Sample:
    """Return how many tasks of a backlog of one kind of work the workers do in a second."""
    bench.fill(peer, backlog, work)
    return drained(bench, peer, backlog, concurrency)


def drained(bench: Bench, peer: str, backlog: int, concurrency: int = 0) -> Sample:
    """Return how many tasks of a backlog that is there the workers do in a second."""
    with bench.workers(peer, concurrency=concurrency) as workers:
        # The first tenth of a large backlog may take a slow library longer than all processes need to be warm.
        warm = min(int(backlog * WARM_SHARE), bench.scale.backlog // 10)
        first = bench.wait_for_ticks(workers, warm, START_TIMEOUT)
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
        "A backlog is sent first, untimed, and put back for every round. Workers start; the clock runs from the moment "
        "a tenth is done until all is done or the window ends. A task's side effect is one INCR."
    ),
    contenders=(OURS, *REDIS_PEERS, BARE),
    bars=(Bar(4, BEST_PEER), Bar(0.6, BARE)),
    measure=measure,
    budget=320.0,
)
