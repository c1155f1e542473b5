"""The command's work: rounds over rows and contenders, then the report."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any, Final

from benchmarks import record, report, summary
from benchmarks.bench import FULL, QUICK, Bench, MeasurementError
from benchmarks.redis_server import redis_server
from benchmarks.rows import ROWS
from benchmarks.rows.row import BAR_ROUNDS, Row, Sample

QUICK_RESULTS: Final = record.RESULTS / "quick"
#: Rounds after which a peer that is at least so many times worse than the best one is measured no more; the latter is
#: that of a row past its budget as well.
ROUNDS_OF_ALL, FAR_BEHIND = 3, 2.0
ROUNDS_OF_NEAR, BEHIND = 5, 1.1
#: A contender that fails so often in a row is not tried again: each failure may take a whole timeout.
ATTEMPTS: Final = 2
INTERRUPTED: Final = 130


def show_rows() -> int:
    """Print the rows' names and titles, their rounds of a full run and what the kept one took, and the contenders."""
    took = {result.row: result.seconds for result in record.stored(record.RESULTS)}
    for row in ROWS.values():
        seconds = f"took {took[row.name]:.0f} s" if took.get(row.name) else "not measured yet"
        print(f"{row.name:16} {row.title}")
        print(f"{'':16} {', '.join(row.contenders)}")
        print(f"{'':16} full: {row.rounds(full=True)} rounds, budget {row.budget:.0f} s, {seconds}")
    budget, spent = sum(row.budget for row in ROWS.values()), sum(took.values())
    print(f"{'all':16} full: budget {budget / 60:.0f} min, what is kept took {spent / 60:.0f} min")
    return 0


def rewrite_report() -> int:
    """Make the sections of both READMEs anew from the kept results."""
    report.update_readme()
    summary.update_readme()
    return 0


def measure(names: Sequence[str], rounds: int | None, only: Sequence[str], *, full: bool) -> int:
    """Measure rows and print the report; returns 1 when a contender failed, 130 when interrupted.

    What a row gave is written before the next one starts, so an interrupted or failed run loses one row at most, and a
    later run of some rows replaces theirs.
    """
    directory, scale = (record.RESULTS, FULL) if full else (QUICK_RESULTS, QUICK)
    results: list[record.Result] = []
    interrupted = False
    try:
        for row in _chosen(names):
            visited = row.contenders if full or only else row.quick or row.contenders
            contenders = [contender for contender in visited if not only or contender in only]
            with redis_server() as server:
                result = _measure_row(Bench(server, scale), row, contenders, rounds or row.rounds(full=full))
            _log(f"{row.name}: {result.seconds:.0f} s")
            result.save(directory)
            results.append(result)
    except KeyboardInterrupt:
        _log("interrupted: the row under way is lost, the ones before are kept")
        interrupted = True
    print(report.render(results), flush=True)
    if not full:
        _log("small sizes and few rounds say roughly how fast; what the bars are judged by takes --full")
    if full and results:
        rewrite_report()
    if interrupted:
        return INTERRUPTED
    return 1 if any(result.errors for result in results) else 0


def _measure_row(bench: Bench, row: Row, contenders: Sequence[str], rounds: int) -> record.Result:
    """Measure all contenders in every round, in an order of its own, so that a machine that slows down favours none."""
    started = time.monotonic()
    samples: dict[str, list[Sample | None]] = {contender: [] for contender in contenders}
    errors: dict[str, str] = {}
    date, machine = record.now(), record.machine(str(bench.redis.info("server")["redis_version"]))
    peers = _descriptions(bench, row, contenders, errors)
    order, left = random.Random(0), list(contenders)
    for number in range(1, rounds + 1):
        for contender, sample in _measure_round(bench, row, order.sample(left, len(left)), number, errors):
            samples[contender].append(sample)
        late = time.monotonic() - started > row.budget
        if late and number < rounds and not (row.bars and number < BAR_ROUNDS):
            _log(f"{row.name}: past its budget after {number} rounds")
            break
        left = _still_measured(row, samples, left, late=late)
    seconds = round(time.monotonic() - started, 1)
    return record.Result(row.name, date, machine, asdict(bench.scale), peers, samples, errors, seconds)


def _still_measured(
    row: Row, samples: Mapping[str, Sequence[Sample | None]], left: Sequence[str], *, late: bool
) -> list[str]:
    """Return who takes part in the next round: not who failed again, nor a peer that cannot become the best."""
    failed = {name for name in left if len(samples[name]) >= ATTEMPTS and not any(samples[name][-ATTEMPTS:])}
    values = {name: [sample.value for sample in samples[name] if sample] for name in left}
    medians = {name: median(column) for name, column in values.items() if column}
    done = max(map(len, samples.values()))
    behind: set[str] = set()
    if done >= ROUNDS_OF_NEAR or (late and done > 1):
        behind = row.far_behind(medians, BEHIND)
    elif done == ROUNDS_OF_ALL:
        behind = row.far_behind(medians, FAR_BEHIND)
    return [name for name in left if name not in failed | behind]


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


def _measure_round(
    bench: Bench, row: Row, contenders: Sequence[str], number: int, errors: dict[str, str]
) -> Iterator[tuple[str, Sample | None]]:
    started = time.monotonic()
    for contender, outcome in row.outcomes(bench, contenders):
        spent, started = time.monotonic() - started, time.monotonic()
        if isinstance(outcome, Sample):
            _log(f"{row.name} #{number} {contender}: {outcome.value:,.1f} {row.unit} ({spent:.1f} s)")
            yield contender, outcome
        else:
            named = f"{type(outcome).__name__}: {outcome}"
            errors[contender] = outcome.reason if isinstance(outcome, MeasurementError) else named
            _log(f"{row.name} #{number} {contender}: failed: {outcome}")
            yield contender, None


def _chosen(names: Sequence[str]) -> list[Row]:
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise SystemExit(f"error: no row {', '.join(unknown)}; rows are {', '.join(ROWS)}")
    return [ROWS[name] for name in names or ROWS]


def _log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
