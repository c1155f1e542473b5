"""The Markdown made from results: every bar, a table a row, the peers' settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import plots
from benchmarks.environment import ROOT
from benchmarks.record import RESULTS, Result, stored
from benchmarks.rows import ROWS
from benchmarks.rows.row import BAR_ROUNDS, BEST_PEER, OURS, Bar, Row, is_peer
from benchmarks.statistics import ratio, ratio_bound

README: Final = ROOT / "benchmarks" / "README.md"
BEGIN: Final = "<!-- results: begin (written by python -m benchmarks --full) -->"
END: Final = "<!-- results: end -->"

_BARS_HEAD: Final = (
    "| what | bar | ours | against | ratio | unfavourable 95 % bound | passed |",
    "| --- | --- | ---: | --- | ---: | ---: | --- |",
)


def render(results: Sequence[Result], rows: Iterable[Row] | None = None, images: str = "") -> str:
    """Return the report on rows, by default those of the results: bars, images, a table a row, the settings."""
    measured = {result.row: result for result in results}
    about = [ROWS[name] for name in measured] if rows is None else list(rows)
    tables = [_table(row, measured[row.name]) if row.name in measured else _missing(row) for row in about]
    parts = [_bars(about, measured), images, *tables, _settings(results)]
    return "\n\n".join(part for part in parts if part)


def update_readme() -> None:
    """Draw the plots of what is kept, and replace the results section of the README."""
    results = stored(RESULTS)
    shown = plots.figures(results)
    plots.draw(shown)
    replace_section(README, render(results, ROWS.values(), plots.images(shown)))


def replace_section(page: Path, text: str) -> None:
    """Put a text between the marks of a page; raises ValueError where they are missing."""
    head, begin, rest = page.read_text().partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} lacks the line {BEGIN!r} or {END!r}")
    page.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}")


def _bars(rows: Sequence[Row], measured: Mapping[str, Result]) -> str:
    lines = [_bar(measured.get(row.name), row, bar) for row in rows for bar in row.bars]
    return "\n".join([*_BARS_HEAD, *lines]) if lines else ""


def _bar(result: Result | None, row: Row, bar: Bar) -> str:
    sign = "≥" if row.better == "higher" else "≤"
    wanted = f"{sign} {bar.factor:g} × {bar.against}" if bar.against else f"{sign} {bar.factor:g} {row.unit}"
    if result is None or not result.values(OURS):
        missing = "not measured" if result is None else "failed"
        return f"| {row.title} | {wanted} | {missing} | – | – | – | – |"
    value, name = _judged(result, row, bar)
    ours = f"{name}{number(value)} {row.unit}"
    if bar.against is None:
        passed = _passes(value, bar, row, len(result.values(OURS)))
        return f"| {row.title} | {wanted} | {ours} | – | – | – | {passed} |"
    opponent = best_peer(result, row) if bar.against == BEST_PEER else bar.against
    if opponent is None or not (rounds := result.rounds(OURS, opponent)):
        return f"| {row.title} | {wanted} | {ours} | {bar.against}: not measured | – | – | – |"
    bound = ratio_bound(*rounds, better=row.better)
    theirs = f"{opponent}: {number(median(result.values(opponent)))}"
    seen = f"{ratio(*rounds):.2f} | {bound:.2f} | {_passes(bound, bar, row, len(rounds[0]))}"
    return f"| {row.title} | {wanted} | {ours} | {theirs} | {seen} |"


def _judged(result: Result, row: Row, bar: Bar) -> tuple[float, str]:
    """Return the median that a bar is about, and whose it is where that is not clear."""
    if not bar.all_of_them:
        return median(result.values(OURS)), ""
    medians = {name: median(values) for name in row.contenders if (values := result.values(name))}
    worst = (min if row.better == "higher" else max)(medians, key=medians.__getitem__)
    return medians[worst], f"{worst}: "


def _passes(value: float, bar: Bar, row: Row, rounds: int) -> str:
    """Return whether a value passes; nothing is said of what was timed in fewer rounds than a bar asks for."""
    if not row.exact and rounds < BAR_ROUNDS:
        return "too few rounds"
    passed = value >= bar.factor if row.better == "higher" else value <= bar.factor
    return "yes" if passed else "**no**"


def best_peer(result: Result, row: Row) -> str | None:
    """Return the peer with the best median, ours and the bare loop left out; None where no peer was measured."""
    medians = {name: median(values) for name in row.contenders if is_peer(name) and (values := result.values(name))}
    choose = max if row.better == "higher" else min
    return choose(medians, key=medians.__getitem__) if medians else None


def _table(row: Row, result: Result) -> str:
    details = list(dict.fromkeys(key for name in result.samples for s in result.finished(name) for key in s.details))
    head = ["", f"median {row.unit}", "least", "most", "rounds", f"{OURS} ÷ this", "95 % bound", *details]
    lines = [
        f"### {row.title}",
        "",
        row.method,
        "",
        "| " + " | ".join(head) + " |",
        "| --- |" + " ---: |" * (len(head) - 1),
    ]
    lines += [_line(result, row, contender, details) for contender in row.contenders if contender in result.samples]
    machine = ", ".join(f"{name} {value}" for name, value in result.machine.items())
    lines += ["", f"{result.date}; {machine}."]
    return "\n".join(lines)


def _missing(row: Row) -> str:
    return f"### {row.title}\n\n{row.method}\n\nNot measured yet: `python -m benchmarks --full {row.name}`."


def _line(result: Result, row: Row, contender: str, details: Sequence[str]) -> str:
    finished = result.finished(contender)
    if not finished:
        return f"| {contender} | failed: {_cell(result.errors.get(contender, ''))} |" + " |" * (5 + len(details))
    values = result.values(contender)
    # A round that failed is one the others have and this one lacks.
    lost = len(result.samples[contender]) - len(values)
    rounds = f"{len(values)} ({lost} failed)" if lost else str(len(values))
    cells = [number(median(values)), number(min(values)), number(max(values)), rounds]
    paired = result.rounds(OURS, contender) if contender != OURS else []
    cells.append(f"{ratio(*paired):.2f}" if paired else "")
    # One round says nothing of chance.
    cells.append(f"{ratio_bound(*paired, better=row.better):.2f}" if paired and len(paired[0]) > 1 else "")
    for detail in details:
        seen = [sample.details[detail] for sample in finished if detail in sample.details]
        cells.append(number(median(seen)) if seen else "")
    return f"| {contender} | " + " | ".join(cells) + " |"


def _settings(results: Sequence[Result]) -> str:
    # A library may take part in several roles, with other settings in each.
    roles = [(name, about) for result in results for name, about in result.peers.items()]
    unique = [role for number, role in enumerate(roles) if role not in roles[:number]]
    head = "| | versions | settings | tasks in hand when a worker is killed |"
    lines = ["### Versions and settings", "", head, "| --- | --- | --- | --- |"]
    for name, about in unique:
        versions = ", ".join(f"{package} {version}" for package, version in about["versions"].items())
        lines.append(f"| {name} | {versions} | {about['settings']} | {about['on_kill']} |")
    return "\n".join(lines) if unique else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def number(value: float) -> str:
    """Return a value with three significant digits, or all before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
