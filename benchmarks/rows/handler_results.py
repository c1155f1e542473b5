"""How much CPU a warm handler spends on a record whose result is kept, beside the call that it must make for it."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.rows import handler_cpu
from benchmarks.rows.row import LAMBDA_VARIABLES, OURS, Bar, Row, Sample

#: Contender -> module of `benchmarks.handlers`.
_MODULES: Final = {
    OURS: "results",
    "one_call": "one_call",
    "powertools_idempotent": "powertools_idempotent",
    "powertools_json": "powertools_json",
}
_VARIABLES: Final = {**LAMBDA_VARIABLES, "DISPATCHER_APP": "benchmarks.handlers.app_results:app"}


def measure(bench: Bench, contender: str) -> Sample:
    """Call a handler with warm batches of ten in a fresh process."""
    return handler_cpu.measure(bench, _MODULES[contender], _VARIABLES)


def describe(bench: Bench, contender: str) -> dict[str, Any]:
    """Return the versions and settings of a contender."""
    return handler_cpu.describe(bench, _MODULES[contender], _VARIABLES)


ROW = Row(
    name="handler-results",
    title="Handler CPU per record whose result is kept, warm batches of 10",
    unit="µs",
    better="lower",
    method=(
        "As for lean tasks. DynamoDB's answers are given where botocore would hand the signed request to its HTTP "
        "library, so that neither the network nor the service takes part. Against one such call for each batch, made "
        "by a plain client: the BatchExecuteStatement that keeps ten results. Beside "
        "it stands Powertools, whose Idempotency utility keeps results as well, and Powertools without, which keeps "
        "nothing."
    ),
    contenders=tuple(_MODULES),
    bars=(Bar(1.5, "one_call"),),
    measure=measure,
    budget=90.0,
    describe=describe,
)
