"""``python -m benchmarks scale``: predict, compare with the emulator's counts, print Markdown."""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from benchmarks.environment import ROOT
from benchmarks.scale import report
from benchmarks.scale.emulated import Counts, count, errors
from benchmarks.scale.model import Prediction, Setup, predict
from benchmarks.scale.workloads import CHORD, WORKLOADS
from tests.emulation.endpoint import AwsEndpoint

PAGE: Final = ROOT / "docs" / "scale.md"
KEPT: Final = ROOT / "benchmarks" / "results" / "scale.json"
BEGIN: Final = "<!-- model: begin (written by python -m benchmarks scale --full) -->"
END: Final = "<!-- model: end -->"

_QUICK: Final = (1_000, 10_000)
_FULL: Final = (1_000, 10_000, 100_000, 1_000_000)
#: Above this rate only what somebody sets for it is worth a run.
_AS_GENERATED: Final = 10_000
#: Workloads that are about a key, not about a rate: what they show shows below this one.
_ABOUT_A_KEY: Final = {"limited": 10_000, "unique": 10_000}
_TUNED: Final = {"concurrency": 1_000}
#: Tasks of a comparison with the emulator.
_COMPARED: Final = 200


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options = _parse(arguments)
    compared = {} if options.no_emulator else compare(options.workloads)
    found = _predict_all(_runs(options.workloads, options.rates))
    text = f"{report.predictions(found)}\n\n### Against the emulator\n\n{report.comparison(compared)}"
    print(text)
    if options.full:
        _keep(found, compared, text)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks scale", description="Predict what a load does to the stack, by a model of AWS."
    )
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"some of {', '.join(WORKLOADS)}")
    parser.add_argument("--rates", help="tasks a minute, separated by commas")
    parser.add_argument("--full", action="store_true", help="up to 1,000,000 a minute; writes docs/scale.md")
    parser.add_argument("--no-emulator", action="store_true", help="do not count on the emulator")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.workloads if name not in WORKLOADS]:
        parser.error(f"no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    try:
        options.rates = [int(rate) for rate in options.rates.split(",")] if options.rates else None
    except ValueError:
        parser.error(f"--rates takes whole numbers, such as 1000,100000, not {options.rates!r}")
    options.rates = options.rates or (_FULL if options.full else _QUICK)
    options.workloads = options.workloads or list(WORKLOADS)
    return options


def _runs(workloads: Sequence[str], rates: Sequence[int]) -> list[tuple[str, Setup]]:
    """Return what to run: as the stack is generated, and with what a user sets for such a rate."""
    runs = []
    for name in workloads:
        for rate in rates:
            if rate > _ABOUT_A_KEY.get(name, rate):
                continue
            if rate <= _AS_GENERATED:
                runs.append((name, Setup(rate)))
            if rate >= _AS_GENERATED:
                runs.append((name, Setup(rate, **_TUNED)))
            if rate >= 1_000_000:
                runs.append((name, Setup(rate, **_TUNED, warm_writes=40_000)))
    return runs


def _predict_all(runs: Sequence[tuple[str, Setup]]) -> list[Prediction]:
    """Run the model side by side on all CPUs, the longest runs first."""
    order = sorted(range(len(runs)), key=lambda place: -runs[place][1].rate)
    found: dict[int, Prediction] = {}
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), max_tasks_per_child=1) as pool:
        futures = {pool.submit(_predict, *runs[place]): place for place in order}
        for future in concurrent.futures.as_completed(futures):
            found[futures[future]] = future.result()
    return [found[place] for place in range(len(runs))]


def _predict(name: str, setup: Setup) -> Prediction:
    started = time.monotonic()
    found = predict(WORKLOADS[name], setup)
    print(f"{name} at {setup.rate:,} a minute: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return found


def compare(workloads: Sequence[str], tasks: int = _COMPARED) -> dict[str, report.Compared]:
    """Do a small piece of each workload on the emulator and in the model: sent first, then worked off alone."""
    compared: dict[str, report.Compared] = {}
    with AwsEndpoint() as endpoint:
        for name in workloads:
            size = CHORD if name == "chords" else tasks
            counted = count(endpoint, WORKLOADS[name], size)
            print(f"{name}: {size} tasks counted on the emulator", file=sys.stderr, flush=True)
            compared[f"{name}, {size:,} tasks"] = errors(Counts.of(alone(name, size)), counted)
    return compared


def alone(name: str, tasks: int) -> Prediction:
    """Predict what tasks come to that are sent at once and worked off one batch at a time."""
    return predict(dataclasses.replace(WORKLOADS[name], share=1e-6), Setup(tasks, concurrency=2, account=1))


def _keep(found: Sequence[Prediction], compared: dict[str, report.Compared], text: str) -> None:
    kept: dict[str, Any] = {"predictions": [dataclasses.asdict(each) for each in found], "compared": compared}
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    head, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}")
