"""How long a cold handler takes to be ready."""

from __future__ import annotations

import functools
import platform
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.bench import Bench
from benchmarks.environment import ROOT
from benchmarks.rows.row import LAMBDA_VARIABLES, OURS, Bar, Row, Sample

SCRIPT = "benchmarks/startup.py"
SETTINGS = {
    OURS: "dispatcher.lambda_runtime.worker with an app of one task, in the package that `sam build` and the CDK make "
    "of this tree: botocore of the same version inside, with bytecode and the service models in use",
    "botocore": "one session, SQS and DynamoDB clients, all default data, with bytecode, as pip installs it",
    "boto3": "SQS and DynamoDB clients of the default session",
    "celery": "an app of one task on SQS, finalized; no client created",
}


def measure(bench: Bench, what: str) -> Sample:
    """Start fresh processes; the first, which may compile bytecode, is not counted."""
    variables = {**LAMBDA_VARIABLES, **(_packaged() if what == OURS else {})}
    runs = [bench.python(["-P", SCRIPT, what], **variables) for _ in range(1 + bench.scale.starts)][1:]
    return Sample(median(run["wall"] for run in runs) * 1e3, {"CPU ms": median(run["cpu"] for run in runs) * 1e3})


@functools.cache
def _package() -> tempfile.TemporaryDirectory[str]:
    """Build the function's package for this machine and Python; it is gone when this process ends."""
    from dispatcher.packaging import Package

    folder = tempfile.TemporaryDirectory()
    app = ROOT / "benchmarks" / "handlers" / "app.py"
    Package([ROOT / "dispatcher", ROOT / "handlers", app], ROOT / "handlers" / "requirements.txt").build(
        Path(folder.name),
        runtime=f"python{sys.version_info.major}.{sys.version_info.minor}",
        architecture={"aarch64": "arm64"}.get(platform.machine(), platform.machine()),
    )
    return folder


def _packaged() -> dict[str, str]:
    return {"PYTHONPATH": f"{_package().name}:{ROOT}", "DISPATCHER_APP": "app:app"}


def describe(_bench: Bench, what: str) -> dict[str, Any]:
    """Return what is imported and initialised."""
    return {"versions": {}, "settings": SETTINGS[what], "on_kill": "–"}


ROW = Row(
    name="handler-init",
    title="Import and init of the handler as packaged, fresh processes",
    unit="ms",
    better="lower",
    method=(
        "Wall time inside the process, after the interpreter's own start; a round's value is the median of several "
        "processes."
    ),
    contenders=(OURS, "botocore", "boto3", "celery"),
    bars=(Bar(1.0, "botocore"),),
    measure=measure,
    budget=90.0,
    describe=describe,
)
