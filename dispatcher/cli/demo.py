"""``dispatcher demo``: the main job in a few seconds, with nothing to set up."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import click

from dispatcher import states
from dispatcher.cli.errors import FAILED, OK, CommandError
from dispatcher.cli.session import Session
from dispatcher.cli.tables import console, table

WORKERS = 2
#: The share of each kind of task, and the arguments of one call.
_MIX = {"compute": 35, "download": 30, "query": 20, "flaky": 10, "broken": 5}
_ARGUMENTS: dict[str, list[Any]] = {"compute": [1_500_000], "download": [0.02], "query": [0.01]}
#: Tasks sent per second, so that the queue neither stays empty nor only grows.
_RATE = 60.0
#: Seconds without any progress after which the demo gives up.
_PATIENCE = 30.0
_POLL = 0.1
_GRACE = 10.0

_EPILOG = """\b
Examples:
  dispatcher demo
  dispatcher demo --tasks 1000 --broker redis://localhost:6379/0
"""


@dataclasses.dataclass
class _Sent:
    kind: str
    at: float
    result: Any
    state: str = states.PENDING
    retries: int = 0


@dataclasses.dataclass
class _Ran:
    """One run as a worker logged it; ``queued`` (seconds) counts from when the task was sent."""

    kind: str
    worker: int
    retries: int
    queued: float
    seconds: float


class Progress(Protocol):
    """Shows how far the demo is."""

    def show(self, done: int, note: str) -> None:
        """Show the number of tasks finished."""
        ...


@click.command(epilog=_EPILOG)
@click.option("--tasks", "count", type=click.IntRange(10), default=300, show_default=True, help="How many tasks.")
@click.option("--broker", metavar="URL", help="Another broker than an embedded SQLite file in a temporary directory.")
@click.pass_obj
def demo(session: Session, count: int, broker: str | None) -> int:
    """Send a few hundred tasks, run them in two worker processes, and show what became of them."""
    with tempfile.TemporaryDirectory(prefix="dispatcher-demo-") as directory:
        url = broker or session.broker or f"sqlite:///{directory}/demo.db"
        if url.startswith("memory:"):
            raise CommandError(
                "--broker cannot be memory://, which one process sees: the workers are processes of their own"
            )
        return _Demo(Path(directory), url, count, session.quiet).run()


class _Demo:
    def __init__(self, directory: Path, url: str, count: int, quiet: bool) -> None:
        from dispatcher.cli.demo_tasks import app

        self.directory, self.url, self.count, self.quiet = directory, url, count, quiet
        self.app = app
        # A queue of its own: the broker may be one that other apps use.
        self.queue = f"demo-{os.getpid()}"
        app.conf.override(broker_url=url, task_default_queue=self.queue, result_extended=True)
        self.console = console()
        self.sent: dict[str, _Sent] = {}

    def run(self) -> int:
        self._say(f"broker   {self._place()}")
        self._say(f"workers  {WORKERS} × dispatcher -A dispatcher.cli.demo_tasks worker -P solo")
        self._say(f"tasks    {self.count}, about {_RATE:g} a second: " + ", ".join(_MIX))
        with _terminated_like_interrupted(), self._workers() as workers:
            self._await_ready(workers)
            begun = time.perf_counter()
            self._work(workers)
            seconds = time.perf_counter() - begun
        self.app.close()
        self._report(seconds)
        return self._verdict()

    def _place(self) -> str:
        from dispatcher.config.presentation import censor_text

        return f"embedded SQLite, {self.url}" if self.url.startswith("sqlite") else censor_text(self.url)

    def _say(self, line: str) -> None:
        if not self.quiet:
            self.console.print(line)

    # -- the workers

    @contextlib.contextmanager
    def _workers(self) -> Iterator[list[subprocess.Popen[bytes]]]:
        workers = [self._start_worker(number) for number in range(1, WORKERS + 1)]
        try:
            yield workers
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                try:
                    worker.wait(_GRACE)
                except subprocess.TimeoutExpired:
                    worker.kill()
                    worker.wait()

    def _start_worker(self, number: int) -> subprocess.Popen[bytes]:
        command = [
            sys.executable, "-m", "dispatcher", "-A", "dispatcher.cli.demo_tasks", "-b", self.url, "-q",
            "worker", "-P", "solo", "-Q", self.queue, "-n", f"worker{number}@%h", "-l", "INFO", "--log-format", "json",
            "-f", str(self.directory / f"worker{number}.log"), "--prefetch-multiplier", "1",
        ]  # fmt: skip
        # In a group of its own: Ctrl-C is for this process, which then ends the workers.
        with (self.directory / f"worker{number}.err").open("wb") as errors:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True
            )

    def _await_ready(self, workers: Sequence[subprocess.Popen[bytes]]) -> None:
        """Wait until the workers take tasks, so that no latency counts the start of a process."""
        logs = [self.directory / f"worker{number}.log" for number in range(1, WORKERS + 1)]
        limit = time.monotonic() + _PATIENCE
        while not all(log.exists() and " ready: " in log.read_text() for log in logs):
            self._check_alive(workers)
            if time.monotonic() > limit:
                raise CommandError(f"the workers did not start within {_PATIENCE:g} s", FAILED)
            time.sleep(_POLL / 5)

    def _check_alive(self, workers: Sequence[subprocess.Popen[bytes]]) -> None:
        for number, worker in enumerate(workers, 1):
            if worker.poll() is not None:
                said = (self.directory / f"worker{number}.err").read_text(errors="replace").strip()
                raise CommandError(f"worker {number} ended with exit code {worker.returncode}: {said}", FAILED)

    # -- the producer, and waiting

    def _work(self, workers: Sequence[subprocess.Popen[bytes]]) -> None:
        plan = _plan(self.count)
        begun = last_progress = time.monotonic()
        done = 0
        with self._progress() as progress:
            while done < self.count:
                self._send_for(_POLL, plan, begun)
                self._check_alive(workers)
                now_done = self._refresh()
                if now_done > done:
                    done, last_progress = now_done, time.monotonic()
                elif time.monotonic() - last_progress > _PATIENCE:
                    raise CommandError(f"no task has finished for {_PATIENCE:g} s; {done} of {self.count} had", FAILED)
                progress.show(done, self._note())

    def _send_for(self, seconds: float, plan: Sequence[str], begun: float) -> None:
        """Send what is due at an even pace for some seconds."""
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            position = len(self.sent)
            due = begun + position / _RATE if position < self.count else until
            if due > now:
                time.sleep(min(due, until) - now)
            else:
                self._send(plan[position])

    def _send(self, kind: str) -> None:
        arguments = _ARGUMENTS.get(kind, [])
        at = time.time()
        result = self.app.tasks[f"{_MODULE}.{kind}"].apply_async(arguments)
        self.sent[result.id] = _Sent(kind, at, result)

    def _refresh(self) -> int:
        """Ask the backend for all unfinished tasks; return how many are finished."""
        waiting = [task_id for task_id, sent in self.sent.items() if sent.state not in states.READY_STATES]
        for task_id, record in self.app.backend.read(waiting).items():
            self.sent[task_id].state, self.sent[task_id].retries = record.status, record.retries
        return sum(sent.state in states.READY_STATES for sent in self.sent.values())

    def _note(self) -> str:
        retried = sum(sent.retries for sent in self.sent.values())
        failed = sum(sent.state == states.FAILURE for sent in self.sent.values())
        return f"{retried} retries, {failed} failed"

    @contextlib.contextmanager
    def _progress(self) -> Iterator[Progress]:
        if self.quiet or not self.console.is_terminal:
            yield _Lines(self.count, self._say)
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("running "), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )  # fmt: skip
        with RichProgress(*columns, console=self.console) as bar:
            yield _Bar(bar, self.count)

    # -- the summary

    def _report(self, seconds: float) -> None:
        runs = self._read_runs()
        rows = [self._row(kind, runs) for kind in _MIX]
        columns = ("task", "sent", "success", "failed", "retries", "queued p50", "p95", "run p50", "p95")
        totals = ["all", *(sum(row[column] for row in rows) for column in range(1, 5))]
        totals += _latencies(runs)
        self.console.print(table(columns, rows, footer=totals))
        shares = ", ".join(
            f"worker{number} {sum(run.worker == number for run in runs)}" for number in range(1, WORKERS + 1)
        )
        self._say("queued: from sending to the first run; all times in milliseconds")
        self._say(f"{self.count} tasks in {seconds:.1f} s; runs by worker: {shares}")
        self._say("`flaky` fails at first and is retried, `broken` is meant to fail")
        self._say("next: dispatcher -A yourmodule worker; docs/cli.md and docs/workers.md tell more")

    def _row(self, kind: str, runs: Sequence[_Ran]) -> list[Any]:
        mine = [sent for sent in self.sent.values() if sent.kind == kind]
        return [
            kind,
            len(mine),
            sum(sent.state == states.SUCCESS for sent in mine),
            sum(sent.state == states.FAILURE for sent in mine),
            sum(sent.retries for sent in mine),
            *_latencies([run for run in runs if run.kind == kind]),
        ]

    def _read_runs(self) -> list[_Ran]:
        """Return all runs, from the workers' JSON logs."""
        runs = []
        for number in range(1, WORKERS + 1):
            for line in (self.directory / f"worker{number}.log").read_text().splitlines():
                found = json.loads(line)
                sent = self.sent.get(found.get("task_id", ""))
                if sent is not None and "outcome" in found:
                    seconds = found["duration"]
                    began_at = datetime.fromisoformat(found["timestamp"]).timestamp() - seconds
                    runs.append(_Ran(sent.kind, number, found["retries"], began_at - sent.at, seconds))
        return runs

    def _verdict(self) -> int:
        expected = all(
            sent.state == (states.FAILURE if sent.kind == "broken" else states.SUCCESS) for sent in self.sent.values()
        )
        return OK if expected else FAILED


_MODULE = "dispatcher.cli.demo_tasks"


class _Bar:
    def __init__(self, bar: Any, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=total, note="")

    def show(self, done: int, note: str) -> None:
        self._bar.update(self._task, completed=done, note=note)


class _Lines:
    """Progress where there is no terminal: a line for each quarter."""

    def __init__(self, total: int, say: Any) -> None:
        self._total, self._say, self._told = total, say, 0

    def show(self, done: int, note: str) -> None:
        quarter = done * 4 // self._total
        if quarter > self._told:
            self._told = quarter
            self._say(f"running  {done}/{self._total} done, {note}")


def _plan(count: int) -> list[str]:
    """Return the kinds of all tasks in a mixed order, each kind at least once."""
    whole = sum(_MIX.values())
    kinds = [kind for kind, share in _MIX.items() for _ in range(max(1, count * share // whole))]
    kinds += ["compute"] * (count - len(kinds))
    shuffled = kinds[:count]
    random.Random(1).shuffle(shuffled)
    return shuffled


def _latencies(runs: Sequence[_Ran]) -> list[str]:
    queued = [run.queued for run in runs if run.retries == 0]
    took = [run.seconds for run in runs]
    return [_milliseconds(values, share) for values in (queued, took) for share in (0.5, 0.95)]


def _milliseconds(values: Sequence[float], share: float) -> str:
    if not values:
        return "–"
    ordered = sorted(values)
    return f"{1000 * max(0.0, ordered[min(len(ordered) - 1, int(share * len(ordered)))]):.1f}"


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM clean up as Ctrl-C does."""

    def interrupt(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
