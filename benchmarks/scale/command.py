"""``python -m benchmarks scale``: predict, compare with the emulator's counts, print Markdown."""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.environment import ROOT
from benchmarks.scale import facts, mapped, report
from benchmarks.scale.emulated import WHOLE_BATCH, Counts, count, errors
from benchmarks.scale.model import Prediction, Setup, predict
from benchmarks.scale.workloads import CHORD, WORKLOADS
from tests.emulation.endpoint import AwsEndpoint

PAGE: Final = ROOT / "docs" / "scale.md"
KEPT: Final = ROOT / "benchmarks" / "results" / "scale.json"
BEGIN: Final = "<!-- model: begin (written by python -m benchmarks scale --keep) -->"
END: Final = "<!-- model: end -->"

_QUICK: Final = (1_000, 10_000)
_FULL: Final = (1_000, 10_000, 100_000, 1_000_000)
#: Above this rate only what somebody sets for it is worth a run.
_AS_GENERATED: Final = 10_000
#: Workload -> the rate up to which it shows what it is about: those of a key sooner, and those much like another one.
_SHOWN_UP_TO: Final = {"limited": 10_000, "unique": 10_000, "hot": 100_000, "retries": 100_000, "burst": 100_000}
#: Workloads whose every task writes a row: shown on a warmed table as well where a new one takes no more.
_WRITERS: Final = ("results", "chords")
_TUNED: Final = {"concurrency": 1_000}
#: What other functions leave of the account's concurrency, in the run that shows throttled invocations.
_LEFT_OVER: Final = 200
#: The write units a second that the table is warmed to where more results come than a new one takes.
_WARMED: Final = 40_000
#: Tasks of a comparison with the emulator; tasks and their seconds where a mapping drains them, so many at a time.
_COMPARED: Final = 200
_DRAINED: Final = ((200, 0.1), (40, 1.0))
_CONCURRENCY: Final = 4


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options = _parse(arguments)
    kept = Kept({}, {})
    if not options.no_emulator:
        kept.compared.update(compare(options.workloads))
    for found in _predict_all(_runs(options.workloads, options.rates)):
        kept.predictions[found.workload, found.setup] = found
        if options.keep:  # at once: what comes last takes minutes
            kept.add()
    print(kept.text())
    return 0


@dataclasses.dataclass
class Kept:
    """Figures, and the page that shows them."""

    predictions: dict[tuple[str, Setup], Prediction]
    compared: dict[str, report.Compared]

    @classmethod
    def read(cls) -> Kept:
        """Return what was kept, if anything was."""
        if not KEPT.exists():
            return cls({}, {})
        fields = json.loads(KEPT.read_text())
        found = [Prediction(**{**each, "setup": Setup(**each["setup"])}) for each in fields["predictions"]]
        return cls({(each.workload, each.setup): each for each in found}, fields["compared"])

    def add(self) -> None:
        """Keep everything beside what was kept before, and rewrite the page."""
        earlier = self.read()
        Kept({**earlier.predictions, **self.predictions}, {**earlier.compared, **self.compared})._write()

    def _write(self) -> None:
        predictions = [dataclasses.asdict(each) for each in self.predictions.values()]
        KEPT.write_text(json.dumps({"predictions": predictions, "compared": self.compared}, indent=1) + "\n")
        head, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n\n{self.text()}\n\n{END}{rest.partition(END)[2]}")

    def text(self) -> str:
        """Return all tables, the workloads in their order and the rates in theirs."""
        names = list(WORKLOADS)
        found = sorted(self.predictions.values(), key=lambda each: (names.index(each.workload), each.setup.rate))
        parts = ["### What happens", report.workloads(), report.predictions(found)]
        if self.compared:
            parts += ["### Beside the emulator", report.comparison(self.compared)]
        return "\n\n".join(parts)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks scale", description="Predict what a load does to the stack, by a model of AWS."
    )
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"some of {', '.join(WORKLOADS)}")
    parser.add_argument("--rates", help="tasks a minute, separated by commas")
    parser.add_argument("--full", action="store_true", help="up to 1,000,000 a minute, and --keep")
    parser.add_argument("--keep", action="store_true", help="keep the figures and rewrite docs/scale.md")
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
    options.keep = options.keep or options.full
    return options


def _runs(workloads: Sequence[str], rates: Sequence[int]) -> list[tuple[str, Setup]]:
    """Return what to run: as the stack is generated, and with what a user sets for such a rate."""
    runs = []
    for name in workloads:
        for rate in rates:
            if rate > _SHOWN_UP_TO.get(name, rate):
                continue
            if rate <= _AS_GENERATED:
                runs.append((name, Setup(rate)))
            if rate >= _AS_GENERATED:
                runs.append((name, Setup(rate, **_TUNED)))
            if rate == _AS_GENERATED and name == "slow":
                runs.append((name, Setup(rate, **_TUNED, account=_LEFT_OVER)))
            if rate / 60 > facts.TABLE_WRITES and name in _WRITERS:
                runs.append((name, Setup(rate, **_TUNED, warm_writes=_WARMED)))
    return runs


def _predict_all(runs: Sequence[tuple[str, Setup]]) -> Iterator[Prediction]:
    """Run the model side by side on all CPUs that there are for it, the longest runs first; yield what is ready."""
    with concurrent.futures.ProcessPoolExecutor(len(os.sched_getaffinity(0)), max_tasks_per_child=1) as pool:
        order = sorted(runs, key=lambda run: -run[1].rate)
        for future in concurrent.futures.as_completed([pool.submit(_predict, *run) for run in order]):
            yield future.result()


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
        for size, seconds in _DRAINED:
            real = mapped.drain(endpoint, size, seconds, _CONCURRENCY)
            expected = mapped.predicted(size, seconds, _CONCURRENCY)
            title = f"a mapping with {_CONCURRENCY} environments, {size} tasks of {seconds:g} s"
            compared[title] = {"seconds to drain": (expected, real, 100 * (expected - real) / real)}
    return compared


def alone(name: str, tasks: int) -> Prediction:
    """Predict what tasks come to that are sent at once and worked off one batch at a time."""
    setup = Setup(tasks, concurrency=2, account=1, flush_after=WHOLE_BATCH)
    return predict(dataclasses.replace(WORKLOADS[name], share=1e-6), setup)
