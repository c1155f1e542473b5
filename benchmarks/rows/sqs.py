"""What worker processes on SQS call for each task, and how fast they are on an emulator."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from benchmarks.bench import Bench, MeasurementError
from benchmarks.rows.row import OURS, Row, Sample
from tests.emulation.endpoint import AwsEndpoint

#: Contender -> its peer and the queue that it reads unless told otherwise.
_PEERS: Final = {OURS: ("dispatcher_sqs", "default"), "celery": ("celery_sqs", "celery")}
_TIMEOUT: Final = 60.0


def measure(bench: Bench, contender: str) -> Sample:
    """Send no-ops to an emulator of its own, let worker processes drain them, and count the calls of both."""
    peer, queue = _PEERS[contender]
    count = bench.scale.working // 2
    bench.redis.flushdb()
    with AwsEndpoint() as aws:
        url = aws.create_queue(queue, visibility_timeout=900)
        given = {**aws.env(), "DISPATCHER_QUEUE_URL_DEFAULT": url, "BENCH_QUEUE_URL": url}
        with bench.variables(**given):
            before = aws.calls()
            bench.probe(peer, "fill", count)
            sent = aws.calls() - before
            with bench.workers(peer) as workers:
                first = bench.wait_for_ticks(workers, count // 10, _TIMEOUT)
                last = bench.wait_for_ticks(workers, count, _TIMEOUT)
                worked = aws.calls() - before - sent
        if last.ticks < count:
            raise MeasurementError(f"{last.ticks} of {count} tasks ran in {_TIMEOUT} s:\n{workers.output()}")
    details = {
        "of sending": _calls(sent) / count,
        "of receiving": _calls(worked, "Receive") / count,
        "of deleting": _calls(worked, "Delete") / count,
        "tasks/s": (last.ticks - first.ticks) / (last.at - first.at),
    }
    return Sample((_calls(sent) + _calls(worked)) / count, details)


def describe(bench: Bench, contender: str) -> dict[str, Any]:
    """Return the versions and settings of a contender."""
    description: dict[str, Any] = bench.probe(_PEERS[contender][0], "describe")
    return description


def _calls(counted: Counter[str], kind: str = "") -> int:
    return sum(count for name, count in counted.items() if kind in name)


ROW = Row(
    name="sqs",
    title="No-op tasks on SQS with 2 worker processes, AWS calls a task",
    unit="calls",
    better="lower",
    method=(
        "No-ops are sent as fast as the library can, then worker processes drain them; the endpoint counts every call "
        "of either side. Results are off. The rate is bound by the emulator, which answers a few hundred calls a "
        "second, so it says how few calls are needed, not how fast SQS is."
    ),
    contenders=tuple(_PEERS),
    bars=(),
    measure=measure,
    budget=30.0,
    describe=describe,
)
