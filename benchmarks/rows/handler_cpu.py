"""How much CPU a warm handler spends on a record that does nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.bench import Bench
from benchmarks.rows.row import LAMBDA_VARIABLES, OURS, Bar, Row, Sample


def measure(bench: Bench, handler: str, variables: Mapping[str, str] = LAMBDA_VARIABLES) -> Sample:
    """Call a handler with warm batches of ten in a fresh process."""
    seconds = bench.python(["-m", "benchmarks.handlers.run", handler, str(bench.scale.batches)], **variables)
    return Sample(seconds * 1e6)


def describe(bench: Bench, handler: str, variables: Mapping[str, str] = LAMBDA_VARIABLES) -> dict[str, Any]:
    """Return the versions and settings of a handler."""
    description: dict[str, Any] = bench.python(["-m", "benchmarks.handlers.run", handler], **variables)
    return description


ROW = Row(
    name="handler-cpu",
    title="Handler CPU per no-op record, warm batches of 10, lean",
    unit="µs",
    better="lower",
    method=(
        "process_time of a fresh process around 1,000 batches (200 in a quick run) after 50 warm-up ones. SQS events, "
        "all records different."
    ),
    contenders=(OURS, "powertools", "powertools_json"),
    bars=(Bar(5, "powertools"),),
    measure=measure,
    budget=20.0,
    describe=describe,
)
