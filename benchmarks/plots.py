"""What the plots show, taken from the kept figures; `benchmarks.draw` draws it in an environment of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal

from benchmarks import environment
from benchmarks.record import RESULTS, Result
from benchmarks.rows import ROWS, backlog_size
from benchmarks.rows.row import OURS
from benchmarks.scale.facts import ACCOUNT_CONCURRENCY
from benchmarks.statistics import median_interval

PLOTS: Final = environment.ROOT / "benchmarks" / "plots"
#: What `benchmarks.scale` predicts.
SCALE: Final = RESULTS / "scale.json"

_THROUGHPUT: Final = (
    "drain", "backlog", "cpu", "io", "payload", "send", "send-many", "group", "sqlite-drain", "sqlite-send",
)  # fmt: skip
_LAMBDA: Final = ("handler-cpu", "handler-results", "handler-init", "aws-calls-lean")
_LATENCY: Final = ("round-trip", "sqlite-round-trip")
_SHARES: Final = tuple(number / 100 for number in range(1, 100))


@dataclass(frozen=True)
class Series:
    """One line, or one bar: its points, and the least and most that each may be."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Panel:
    """One pair of axes. Bars lie, and have one point each, whose x is the value."""

    kind: Literal["bars", "lines"]
    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    #: axes that are logarithmic
    log: str = ""


@dataclass(frozen=True)
class Figure:
    """One file, named after the figure."""

    name: str
    alt: str
    panels: Sequence[Panel]


def figures(results: Iterable[Result], scale: Path = SCALE) -> list[Figure]:
    """Return the figures that the kept results suffice for."""
    measured = {result.row: result for result in results}
    predictions = json.loads(scale.read_text())["predictions"] if scale.exists() else []
    scaling = [_drain_by_backlog(measured), _chord_units(measured), _dollars(predictions)]
    found = [
        Figure("throughput", "Tasks a second, by workload and library", _bars(measured, _THROUGHPUT)),
        Figure("latency", "Share of round trips that take at most so long, by library", _latency(measured)),
        Figure("lambda", "What a task costs on AWS, beside others", _bars(measured, _LAMBDA)),
        Figure("scaling", "How rates and costs change with the size of the work", [each for each in scaling if each]),
    ]
    return [figure for figure in found if figure.panels]


def draw(shown: Sequence[Figure], directory: Path = PLOTS) -> None:
    """Write the figures as SVG files, the same bytes for the same figures; files of other figures are removed."""
    directory.mkdir(exist_ok=True)
    for path in directory.glob("*.svg"):
        if path.stem not in {figure.name for figure in shown}:
            path.unlink()
    command = [str(environment.ensure("plots")), "-m", "benchmarks.draw", str(directory)]
    text = json.dumps([asdict(figure) for figure in shown])
    subprocess.run(command, input=text, text=True, check=True, cwd=environment.ROOT, env=environment.variables())


def images(shown: Sequence[Figure]) -> str:
    """Return the Markdown that shows the figures on a page beside the directory of plots."""
    return "\n\n".join(f"![{figure.alt}]({PLOTS.name}/{figure.name}.svg)" for figure in shown)


def _bars(measured: Mapping[str, Result], names: Sequence[str]) -> list[Panel]:
    return [_bar_panel(measured[name]) for name in names if name in measured and measured[name].values(OURS)]


def _bar_panel(result: Result) -> Panel:
    row = ROWS[result.row]
    series = []
    for contender in row.contenders:
        if values := result.values(contender):
            low, high = median_interval(values)
            series.append(Series(contender, [median(values)], [0], [low], [high]))
    series.sort(key=lambda each: each.x[0], reverse=row.better == "higher")
    return Panel("bars", row.title.replace("`", ""), row.unit, "", series)


def _latency(measured: Mapping[str, Result]) -> list[Panel]:
    """Return the distributions of round trips: each percentile is the median of that percentile over the rounds."""
    panels = []
    for result in (measured[name] for name in _LATENCY if name in measured):
        series = []
        for contender in ROWS[result.row].contenders:
            rounds = [sample.distribution for sample in result.finished(contender) if sample.distribution]
            if rounds:
                series.append(Series(contender, [median(column) for column in zip(*rounds, strict=True)], _SHARES))
        if series:
            title = ROWS[result.row].title.replace("`", "")
            panels.append(Panel("lines", title, "ms", "share of calls", series, log="x"))
    return panels


def _drain_by_backlog(measured: Mapping[str, Result]) -> Panel | None:
    """Return rates over backlogs, of the libraries that were measured with more than one."""
    series = []
    for contender in ROWS["drain"].contenders:
        rates = _rates_by_backlog(measured, contender)
        if len(rates) > 1:
            sizes = sorted(rates)
            bounds = [median_interval(rates[size]) for size in sizes]
            low, high = [low for low, _ in bounds], [high for _, high in bounds]
            series.append(Series(contender, sizes, [median(rates[size]) for size in sizes], low, high))
    if not series:
        return None
    return Panel("lines", "Drain rate by backlog on Redis", "tasks waiting", "tasks/s", series, log="xy")


def _rates_by_backlog(measured: Mapping[str, Result], contender: str) -> dict[int, list[float]]:
    rates = {}
    for row, size in (("drain", "backlog"), ("backlog", "large_backlog")):
        if row in measured:
            rates[int(measured[row].scale[size])] = measured[row].values(contender)
    if contender == OURS and "backlog-size" in measured:
        result = measured["backlog-size"]
        for name in result.samples:
            rates[backlog_size.SIZES.get(name, int(result.scale["lasting"]))] = result.values(name)
    return {size: values for size, values in rates.items() if values}


def _chord_units(measured: Mapping[str, Result]) -> Panel | None:
    if "chord-units" not in measured:
        return None
    result = measured["chord-units"]
    points = sorted(
        (sample.details["members"], sample.value) for name in result.samples for sample in result.finished(name)
    )
    series = Series(OURS, [members for members, _ in points], [units for _, units in points])
    return Panel("lines", "Capacity units of a chord on DynamoDB", "members", "units a member", [series], log="x")


def _made_for(prediction: Mapping[str, Any]) -> tuple[int, int]:
    """Return how much somebody has allowed: the batches at a time and the writes a second of the table."""
    setup = prediction["setup"]
    return setup.get("concurrency", 0), setup.get("warm_writes", 0)


def _dollars(predictions: Sequence[Mapping[str, Any]]) -> Panel | None:
    """Return what a million tasks cost by rate, with the settings that somebody makes for the highest rate.

    Left out are runs in which calls were refused, which cost less than they should, and those of a crowded account.
    """
    by_workload: dict[str, dict[int, float]] = {}
    for each in sorted(predictions, key=_made_for):
        if each.get("refused") or each["setup"].get("account", ACCOUNT_CONCURRENCY) < ACCOUNT_CONCURRENCY:
            continue
        by_workload.setdefault(each["workload"], {})[each["setup"]["rate"]] = each["dollars_per_million"]
    series = [
        Series(name, sorted(dollars), [dollars[rate] for rate in sorted(dollars)])
        for name, dollars in by_workload.items()
        if len(dollars) > 1
    ]
    if not series:
        return None
    return Panel("lines", "Predicted cost on AWS", "tasks a minute", "$ a million tasks", series, log="xy")
