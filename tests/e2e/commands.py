"""The command line as a user runs it: processes of their own, with an environment and a directory of their own."""

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Self

from dispatcher.local import processes

ROOT = Path(__file__).parents[2]
SECONDS = 120.0


def environment(directory: Path, variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without settings of ours, with data kept in `directory`, and `variables`."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DISPATCHER_", "AWS_", "CELERY_")) or name == processes.TAG_VARIABLE
    }
    paths = os.pathsep.join((str(ROOT), *filter(None, [inherited.get("PYTHONPATH")])))
    defaults = {"XDG_DATA_HOME": str(directory / "data"), "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
    return {**inherited, **defaults, "NO_COLOR": "1", **(variables or {})}


def run(
    directory: Path,
    *arguments: str,
    variables: Mapping[str, str] | None = None,
    text: str | None = None,
    program: Sequence[str] = (sys.executable, "-m", "dispatcher"),
) -> subprocess.CompletedProcess[str]:
    """Run `dispatcher` with `arguments` in a directory and return what it said and its exit code."""
    return subprocess.run(
        [*program, *arguments], cwd=directory, env=environment(directory, variables), input=text or "",
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip


class WorkerProcess:
    """`dispatcher … worker` in a process group of its own; `wait_for` reads its log as it comes."""

    def __init__(self, directory: Path, *arguments: str, variables: Mapping[str, str] | None = None) -> None:
        self._command = [sys.executable, "-m", "dispatcher", *arguments]
        self._directory, self._variables = directory, variables
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.log: list[str] = []

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command, cwd=self._directory, env=environment(self._directory, self._variables), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        processes.kill_tree(self.process)
        self._reader.join(SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def wait_for(self, text: str) -> str:
        """Return the next line of the log that contains `text`."""
        limit = time.monotonic() + SECONDS
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, limit - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"the worker never said {text!r}:\n" + "\n".join(self.log))
            self.log.append(line)
            if text in line:
                return line

    def ready(self) -> Self:
        """Wait until the worker takes tasks."""
        self.wait_for(" ready: ")
        return self

    def signal(self, number: Signals) -> None:
        """Send a signal to the worker's main process alone."""
        self.process.send_signal(number)

    def signal_group(self, number: Signals) -> None:
        """Send a signal to all of the worker's processes, as a terminal does."""
        processes.signal_group(self.process, number)

    def wait(self) -> int:
        """Wait for the end and return the exit code; `log` is complete then."""
        code = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        while (line := self._lines.get()) is not None:
            self.log.append(line)
        return code

    def stop(self) -> int:
        """End the worker warmly."""
        self.signal(SIGTERM)
        return self.wait()


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` holds."""
    limit = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < limit, f"never happened: {what}"
        time.sleep(0.02)
