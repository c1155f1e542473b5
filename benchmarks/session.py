"""The command's work: rounds over rows and contenders, then the report."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks import environment, report
from benchmarks.bench import ENVIRONMENTS, FULL, QUICK, Bench, MeasurementError
from benchmarks.redis_server import redis_server
from benchmarks.rows import ROWS
from benchmarks.rows.row import Row, Sample


def show_rows() -> int:
    """Print the rows' names, titles and contenders."""
    for row in ROWS.values():
        print(f"{row.name:14} {row.title}\n{'':14} {', '.join(row.contenders)}")
    return 0


def rewrite_report() -> int:
    """Make the README's section anew from the kept results."""
    report.update_readme()
    return 0


def measure(names: Sequence[str], rounds: int, only: Sequence[str], *, full: bool) -> int:
    """Measure rows and print the report; returns 1 when a contender failed.

    Every round visits all contenders in an order of its own, so that a machine that slows down favours none.
    """
    rows = _chosen(names)
    for name in {ENVIRONMENTS[contender] for row in rows for contender in row.contenders if contender in ENVIRONMENTS}:
        environment.ensure(name)
    directory = report.RESULTS if full else report.RESULTS / "quick"
    results = []
    with redis_server() as server:
        bench = Bench(server, FULL if full else QUICK)
        for row in rows:
            contenders = [contender for contender in row.contenders if not only or contender in only]
            started = time.monotonic()
            result = _measure_row(bench, row, contenders, 1 if row.exact else rounds)
            _log(f"{row.name}: {time.monotonic() - started:.0f} s")
            result.save(directory)
            results.append(result)
    if full:
        report.update_readme()
    print(report.render(results))
    return 1 if any(result.errors for result in results) else 0


def _measure_row(bench: Bench, row: Row, contenders: Sequence[str], rounds: int) -> report.Result:
    samples: dict[str, list[Sample | None]] = {contender: [] for contender in contenders}
    errors: dict[str, str] = {}
    machine = report.machine(str(bench.redis.info("server")["redis_version"]))
    peers = _descriptions(bench, row, contenders, errors)
    order = random.Random(0)
    for number in range(1, rounds + 1):
        for contender in order.sample(list(contenders), len(contenders)):
            samples[contender].append(_measure_one(bench, row, contender, number, errors))
    return report.Result(row.name, report.now(), machine, asdict(bench.scale), peers, samples, errors)


def _descriptions(
    bench: Bench, row: Row, contenders: Sequence[str], errors: dict[str, str]
) -> dict[str, dict[str, Any]]:
    descriptions = {}
    for contender in contenders:
        try:
            descriptions[contender] = row.describe(bench, contender)
        except MeasurementError as error:
            errors[contender] = error.reason
            _log(f"{row.name} {contender}: {error}")
    return descriptions


def _measure_one(bench: Bench, row: Row, contender: str, number: int, errors: dict[str, str]) -> Sample | None:
    started = time.monotonic()
    try:
        sample = row.measure(bench, contender)
    except MeasurementError as error:
        errors[contender] = error.reason
        _log(f"{row.name} #{number} {contender}: failed: {error}")
        return None
    _log(f"{row.name} #{number} {contender}: {sample.value:,.1f} {row.unit} ({time.monotonic() - started:.1f} s)")
    return sample


def _chosen(names: Sequence[str]) -> list[Row]:
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise SystemExit(f"error: no row {', '.join(unknown)}; rows are {', '.join(ROWS)}")
    return [ROWS[name] for name in names or ROWS]


def _log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
