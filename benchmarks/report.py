"""Results: JSON files, one a row, and the Markdown made from them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.environment import ROOT
from benchmarks.rows import ROWS
from benchmarks.rows.row import BARE, BEST_PEER, OURS, Bar, Row, Sample
from benchmarks.statistics import ratio, ratio_bound

RESULTS: Final = ROOT / "benchmarks" / "results"
README: Final = ROOT / "benchmarks" / "README.md"
BEGIN: Final = "<!-- results: begin (written by python -m benchmarks --full) -->"
END: Final = "<!-- results: end -->"

#: Contender -> one sample a round; None where the measurement failed.
Samples = Mapping[str, Sequence[Sample | None]]


@dataclass(frozen=True)
class Result:
    """Everything kept of one row's measurement."""

    row: str
    date: str
    machine: Mapping[str, Any]
    scale: Mapping[str, Any]
    peers: Mapping[str, Mapping[str, Any]]
    samples: Samples
    errors: Mapping[str, str]

    def rounds(self, *contenders: str) -> list[list[float]]:
        """Return each contender's values in the rounds that all of them finished."""
        columns = [self.samples.get(contender, ()) for contender in contenders]
        complete = [samples for samples in zip(*columns, strict=False) if None not in samples]
        return [[sample.value for sample in column if sample] for column in zip(*complete, strict=True)]

    def values(self, contender: str) -> list[float]:
        """Return a contender's values in the rounds it finished; empty when it took no part."""
        return [sample.value for sample in self.samples.get(contender, ()) if sample]

    def save(self, directory: Path) -> None:
        """Write the row's file, replacing an older one."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{self.row}.json").write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read a row's file."""
        fields = json.loads(path.read_text())
        samples = {
            contender: [Sample(**sample) if sample else None for sample in rounds]
            for contender, rounds in fields.pop("samples").items()
        }
        return cls(samples=samples, **fields)


def machine(redis_version: str) -> dict[str, Any]:
    """Describe where a measurement ran, how busy it was before, and of which commit it is."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "redis": redis_version,
        "load before": round(os.getloadavg()[0], 2),
        "commit": _commit(),
    }


def now() -> str:
    """Return the date and time of day, UTC."""
    return datetime.now(UTC).isoformat(timespec="minutes")


def render(results: Sequence[Result]) -> str:
    """Return the report: the bars, then a table a row, then the settings."""
    parts = [_bars(results), *(_table(result) for result in results), _settings(results)]
    return "\n\n".join(part for part in parts if part)


def stored(directory: Path) -> list[Result]:
    """Return the kept results in the order of the rows."""
    return [Result.load(path) for name in ROWS if (path := directory / f"{name}.json").exists()]


def update_readme() -> None:
    """Replace the results section of the README by what is kept."""
    head, _, rest = README.read_text().partition(BEGIN)
    tail = rest.partition(END)[2]
    README.write_text(f"{head}{BEGIN}\n\n{render(stored(RESULTS))}\n\n{END}{tail}")


def _bars(results: Sequence[Result]) -> str:
    lines = [
        "| what | bar | ours | against | ratio | unfavourable 95 % bound | passed |",
        "| --- | --- | ---: | --- | ---: | ---: | --- |",
    ]
    for result in results:
        lines += [_bar(result, ROWS[result.row], bar) for bar in ROWS[result.row].bars if result.values(OURS)]
    return "\n".join(lines) if len(lines) > 2 else ""


def _bar(result: Result, row: Row, bar: Bar) -> str:
    sign = "≥" if row.better == "higher" else "≤"
    ours = _number(median(result.values(OURS)))
    if bar.against is None:
        value = median(result.values(OURS))
        passed = _passes(value, bar, row)
        return f"| {row.title} | {sign} {bar.factor:g} {row.unit} | {ours} {row.unit} | – | – | – | {passed} |"
    opponent = _best_peer(result, row) if bar.against == BEST_PEER else bar.against
    wanted = f"{sign} {bar.factor:g} × {bar.against}"
    if opponent is None or not (rounds := result.rounds(OURS, opponent)):
        return f"| {row.title} | {wanted} | {ours} {row.unit} | {bar.against}: not measured | – | – | – |"
    bound = ratio_bound(*rounds, better=row.better)
    theirs = f"{opponent}: {_number(median(result.values(opponent)))}"
    seen = f"{ratio(*rounds):.2f} | {bound:.2f} | {_passes(bound, bar, row)}"
    return f"| {row.title} | {wanted} | {ours} {row.unit} | {theirs} | {seen} |"


def _passes(value: float, bar: Bar, row: Row) -> str:
    passed = value >= bar.factor if row.better == "higher" else value <= bar.factor
    return "yes" if passed else "**no**"


def _best_peer(result: Result, row: Row) -> str | None:
    peers = [name for name in row.contenders if name not in (OURS, BARE)]
    medians = {name: median(values) for name in peers if (values := result.values(name))}
    choose = max if row.better == "higher" else min
    return choose(medians, key=medians.__getitem__) if medians else None


def _table(result: Result) -> str:
    row = ROWS[result.row]
    details = list(dict.fromkeys(key for samples in result.samples.values() for s in samples if s for key in s.details))
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


def _line(result: Result, row: Row, contender: str, details: Sequence[str]) -> str:
    values = result.values(contender)
    if not values:
        return f"| {contender} | failed: {result.errors.get(contender, '')} |" + " |" * (5 + len(details))
    cells = [_number(median(values)), _number(min(values)), _number(max(values)), str(len(values))]
    rounds = result.rounds(OURS, contender) if contender != OURS else []
    cells += [f"{ratio(*rounds):.2f}", f"{ratio_bound(*rounds, better=row.better):.2f}"] if rounds else ["", ""]
    finished = [sample for sample in result.samples[contender] if sample]
    for detail in details:
        seen = [sample.details[detail] for sample in finished if detail in sample.details]
        cells.append(_number(median(seen)) if seen else "")
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


def _number(value: float) -> str:
    """Return a value with three significant digits, or all before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = "+" if git("status", "--porcelain", "--untracked-files=no") else ""
    return (git("rev-parse", "--short", "HEAD") or "unknown") + changed
