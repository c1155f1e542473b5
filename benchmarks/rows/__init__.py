"""One module a row: what is measured, on whom, and the bars the design sets."""

from __future__ import annotations

from typing import Final

from benchmarks.rows import (
    body,
    chord,
    chord_units,
    drain,
    group,
    handler_cpu,
    handler_init,
    handler_results,
    memory,
    round_trip,
    send,
    send_many,
)
from benchmarks.rows.row import Row

_MODULES: Final = (
    drain, round_trip, send, send_many, group, chord, chord_units, body, handler_cpu, handler_results, handler_init,
    memory,
)  # fmt: skip
ROWS: Final[dict[str, Row]] = {module.ROW.name: module.ROW for module in _MODULES}
