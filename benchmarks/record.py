"""What is kept of a row's measurement: one JSON file a row."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.environment import ROOT
from benchmarks.rows import ROWS
from benchmarks.rows.row import Sample

RESULTS: Final = ROOT / "benchmarks" / "results"

#: Contender -> one sample a round; None where the measurement failed.
Samples = Mapping[str, Sequence[Sample | None]]

_NUMBERS: Final = re.compile(r"\[\s+([-\d.e,\s]+?)\s+\]")


@dataclass(frozen=True)
class Result:
    """Everything kept of one row's measurement; ``seconds`` is how long it took."""

    row: str
    date: str
    machine: Mapping[str, Any]
    scale: Mapping[str, Any]
    peers: Mapping[str, Mapping[str, Any]]
    samples: Samples
    errors: Mapping[str, str]
    seconds: float = 0.0

    def rounds(self, *contenders: str) -> list[list[float]]:
        """Return each contender's values in the rounds that all of them finished."""
        columns = [self.samples.get(contender, ()) for contender in contenders]
        complete = [samples for samples in zip(*columns, strict=False) if None not in samples]
        return [[sample.value for sample in column if sample] for column in zip(*complete, strict=True)]

    def finished(self, contender: str) -> list[Sample]:
        """Return a contender's samples of the rounds it finished; empty when it took no part."""
        return [sample for sample in self.samples.get(contender, ()) if sample]

    def values(self, contender: str) -> list[float]:
        """Return a contender's values in the rounds it finished; empty when it took no part."""
        return [sample.value for sample in self.finished(contender)]

    def save(self, directory: Path) -> None:
        """Write the row's file, replacing an older one."""
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        one_line = _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
        (directory / f"{self.row}.json").write_text(one_line + "\n")

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read a row's file."""
        fields = json.loads(path.read_text())
        samples = {
            contender: [Sample(**sample) if sample else None for sample in rounds]
            for contender, rounds in fields.pop("samples").items()
        }
        return cls(samples=samples, **fields)


def stored(directory: Path) -> list[Result]:
    """Return the kept results in the order of the rows."""
    return [Result.load(path) for name in ROWS if (path := directory / f"{name}.json").exists()]


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


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    # What a full run itself rewrites, row by row, is no change of the code.
    written = (":!benchmarks/results", ":!benchmarks/plots", ":!benchmarks/README.md", ":!README.md")
    changed = "+" if git("status", "--porcelain", "--untracked-files=no", "--", ".", *written) else ""
    return (git("rev-parse", "--short", "HEAD") or "unknown") + changed
