"""How much memory processes gain that work for long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from benchmarks.bench import Bench, MeasurementError
from benchmarks.handlers.steady import SHARES
from benchmarks.rows.row import LAMBDA_VARIABLES, OURS, Bar, Row, Sample

#: Contender -> what `benchmarks.handlers.steady` runs, and its app.
_HANDLERS: Final = {OURS: ("dispatcher", "app"), "with_results": ("results", "app_results")}
_ABOUT: Final = {
    OURS: "the Lambda handler with lean tasks, warm batches of ten",
    "with_results": "the same with tasks whose results are kept",
    "producer": "`.delay()` on Redis, one after the other, results on and let go",
    "worker": "a local worker on Redis, prefork with two processes, draining a backlog; all of its processes",
}
#: Contender -> the part of the tasks that it gets, since each of its takes longer.
_PARTS: Final = {"with_results": 0.2, "producer": 0.2}
#: Which of the shares a process is warm after: every child of a worker has begun.
_WARM: Final = 1
#: Seconds without a task after which a worker counts as stuck.
_PATIENCE: Final = 120.0


def measure(bench: Bench, contender: str) -> Sample:
    """Return how much larger a process is after all of its tasks than after a tenth of them."""
    count = int(bench.scale.lasting * _PARTS.get(contender, 1.0))
    if contender == "worker":
        sizes = _worker(bench, count)
    elif contender == "producer":
        bench.redis.flushdb()
        sizes = bench.script("benchmarks.handlers.steady", "producer", str(count), results=True)
    else:
        module, app = _HANDLERS[contender]
        variables = {**LAMBDA_VARIABLES, "DISPATCHER_APP": f"benchmarks.handlers.{app}:app"}
        sizes = bench.python(["-m", "benchmarks.handlers.steady", module, str(count)], **variables)
    details = {f"MiB after {share:.0%}": size / 2**20 for share, size in zip(SHARES, sizes, strict=True)}
    return Sample(sizes[-1] / sizes[_WARM], {"tasks": count, **details})


def _worker(bench: Bench, count: int) -> Sequence[int]:
    bench.fill(OURS, count)
    sizes = []
    with bench.workers(OURS) as workers:
        for share in SHARES:
            wanted = int(share * count)
            progress = bench.wait_for_ticks(workers, wanted, _PATIENCE)
            if progress.ticks < wanted:
                raise MeasurementError(f"{progress.ticks} of {wanted} tasks ran:\n{workers.output()}")
            sizes.append(workers.pss())
    return sizes


def describe(bench: Bench, contender: str) -> dict[str, Any]:
    """Return the setting of a contender."""
    return {"versions": {}, "settings": _ABOUT[contender], "on_kill": "–"}


ROW = Row(
    name="flat-memory",
    title="Memory after 1,000,000 tasks, 200,000 with results or as a producer",
    unit="× after a tenth",
    better="lower",
    method=(
        "The proportional set size after all tasks, divided by that after a tenth of them. The warm Lambda handler "
        "with lean tasks and a local worker do 1,000,000 (20,000 in a quick run), the handler with results and a "
        "producer a fifth of that. All of them are ours, nothing is compared: the bar is absolute, and the worst must "
        "pass it. A worker's processes all count; of the handler its own process, not the guard that it forks."
    ),
    contenders=tuple(_ABOUT),
    bars=(Bar(1.1, all_of_them=True),),
    measure=measure,
    budget=300.0,
    describe=describe,
    exact=True,
)
