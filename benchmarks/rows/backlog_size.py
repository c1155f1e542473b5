"""Whether a queue drains as fast when a million wait as when ten thousand do."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.rows.drain import drain
from benchmarks.rows.row import OURS, Bar, Row, Sample

SMALL: Final = "of_10000"
#: Contender -> the backlog; ours is as long as the scale says.
SIZES: Final = {"of_100000": 100_000, SMALL: 10_000}


def measure(bench: Bench, contender: str) -> Sample:
    """Return how fast our workers drain the beginning of a backlog."""
    return drain(bench, OURS, SIZES.get(contender, bench.scale.lasting))


def describe(bench: Bench, contender: str) -> dict[str, Any]:
    """Return the setting of a contender."""
    description: dict[str, Any] = bench.probe(OURS, "describe")
    return {**description, "settings": f"a backlog of {SIZES.get(contender, bench.scale.lasting):,} no-ops"}


ROW = Row(
    name="backlog-size",
    title="Drain rate with a backlog of 1,000,000 on Redis, 2 processes",
    unit="tasks/s",
    better="higher",
    method=(
        "The no-ops of the first row, with 1,000,000 of them waiting (20,000 in a quick run); its opponents are "
        "the same with fewer. The rate is that of the window after the workers are warm: a large backlog is not "
        "drained to its end."
    ),
    contenders=(OURS, *SIZES),
    bars=(Bar(0.9, SMALL),),
    measure=measure,
    budget=120.0,
    describe=describe,
)
