"""One module a row: what is measured, on whom, and the bars the design sets."""

from __future__ import annotations

from typing import Final

from benchmarks.rows import (
    aws_calls,
    backlog_size,
    body,
    chord,
    chord_units,
    drain,
    flat_memory,
    group,
    handler_cpu,
    handler_init,
    handler_results,
    memory,
    round_trip,
    send,
    send_many,
    sqlite,
    sqs,
    workloads,
)
from benchmarks.rows.row import Row

_ROWS: Final = (
    drain.ROW,
    workloads.BACKLOG,
    backlog_size.ROW,
    workloads.CPU,
    workloads.IO,
    workloads.PAYLOAD,
    round_trip.ROW,
    send.ROW,
    send_many.ROW,
    group.ROW,
    chord.ROW,
    chord_units.ROW,
    sqlite.SEND,
    sqlite.DRAIN,
    sqlite.ROUND_TRIP,
    sqs.ROW,
    aws_calls.RESULTS,
    aws_calls.CHAINS,
    aws_calls.LEAN,
    body.ROW,
    handler_cpu.ROW,
    handler_results.ROW,
    handler_init.ROW,
    memory.ROW,
    flat_memory.ROW,
)
ROWS: Final[dict[str, Row]] = {row.name: row for row in _ROWS}
