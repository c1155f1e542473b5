"""How much memory the worker's processes take together."""

from __future__ import annotations

from typing import Final

from benchmarks.bench import Bench, MeasurementError
from benchmarks.rows.row import BARE, BEST_PEER, OURS, REDIS_PEERS, Bar, Row, Sample

#: Our worker with an older redis-py.
OLDER: Final = "dispatcher_redis5"
WARM_TASKS = 500
TIMEOUT = 30.0


def measure(bench: Bench, peer: str) -> Sample:
    """Let the workers run some tasks, then read the proportional set size of their process tree."""
    bench.redis.flushall()
    bench.probe(peer, "fill", WARM_TASKS)
    with bench.workers(peer) as workers:
        progress = bench.wait_for_ticks(workers, WARM_TASKS, TIMEOUT)
        if progress.ticks < WARM_TASKS:
            raise MeasurementError(f"{progress.ticks} of {WARM_TASKS} tasks ran in {TIMEOUT} s:\n{workers.output()}")
        return Sample(workers.pss() / 2**20, {"processes": len(workers.pids())})


ROW = Row(
    name="memory",
    title="PSS of the worker's process tree, 2 processes",
    unit="MiB",
    better="lower",
    method=(
        "Read from /proc/PID/smaps_rollup of every process of the worker, masters included, after 500 no-ops. "
        f"`{OLDER}` is ours in the environment of SAQ and arq, with the redis-py that they ask for: it stands beside "
        "the bar, which is about ours as it is installed."
    ),
    contenders=(OURS, OLDER, *REDIS_PEERS, BARE),
    bars=(Bar(1.0, BEST_PEER),),
    measure=measure,
    budget=90.0,
)
