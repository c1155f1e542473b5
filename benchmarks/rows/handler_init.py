"""How long a cold handler takes to be ready."""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.bench import Bench
from benchmarks.rows.row import LAMBDA_VARIABLES, OURS, Bar, Row, Sample

SCRIPT = "benchmarks/startup.py"
SETTINGS = {
    OURS: "dispatcher.lambda_runtime.worker with an app of one task, from this tree with its bytecode",
    "botocore": "one session, SQS and DynamoDB clients, all default data",
    "boto3": "SQS and DynamoDB clients of the default session",
    "celery": "an app of one task on SQS, finalized; no client created",
}


def measure(bench: Bench, what: str) -> Sample:
    """Start fresh processes; the first, which may compile bytecode, is not counted."""
    runs = [bench.python(["-P", SCRIPT, what], **LAMBDA_VARIABLES) for _ in range(1 + bench.scale.starts)][1:]
    return Sample(median(run["wall"] for run in runs) * 1e3, {"CPU ms": median(run["cpu"] for run in runs) * 1e3})


def describe(_bench: Bench, what: str) -> dict[str, Any]:
    """Return what is imported and initialised."""
    return {"versions": {}, "settings": SETTINGS[what], "on_kill": "–"}


ROW = Row(
    name="handler-init",
    title="Import and init of the handler, fresh processes",
    unit="ms",
    better="lower",
    method=(
        "Wall time inside the process, after the interpreter's own start; a round's value is the median of several "
        "processes."
    ),
    contenders=(OURS, "botocore", "boto3", "celery"),
    bars=(Bar(1.0, "botocore"),),
    measure=measure,
    describe=describe,
)
