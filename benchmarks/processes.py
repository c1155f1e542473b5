"""Child processes that never outlive a measurement, and what Linux tells about a tree of them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.environment import ROOT

#: Seconds after which a process is stopped whatever happens to the harness, and the grace before it is killed.
LIMIT: Final = 600
GRACE: Final = 5

_PR_SET_PDEATHSIG: Final = 1
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


class Child:
    """A started process in a session of its own, under coreutils' ``timeout``; its output is kept for errors.

    The guard stops and then kills the whole group when the limit passes or the harness dies, however it dies.
    """

    def __init__(self, command: list[str], variables: dict[str, str], limit: int = LIMIT) -> None:
        self.command = command
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            ["timeout", f"--kill-after={GRACE}", str(limit), *command],
            env=variables,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has no threads
        )

    def pids(self) -> list[int]:
        """Return the process and all its descendants, without the guard."""
        return tree(self._process.pid)[1:]

    @property
    def running(self) -> bool:
        """Whether the process has not ended yet."""
        return self._process.poll() is None

    def output(self) -> str:
        """Return the last 4,000 characters the process wrote."""
        self._output.seek(0)
        return self._output.read().decode(errors="replace")[-4000:]

    def stop(self) -> None:
        """Kill the process and what is left of its tree; how it would stop by itself is not measured here."""
        members = [(pid, _start_time(pid)) for pid in self.pids()]
        self._process.kill()
        self._process.wait()
        for pid, started in members:
            # The start time tells a survivor from a newcomer that was given the same number.
            if started is not None and _start_time(pid) == started:
                os.kill(pid, signal.SIGKILL)
        self._output.close()


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    members = [pid]
    for member in members:
        members.extend(children.get(member, ()))
    return members


def cpu_seconds(pids: list[int]) -> float:
    """Return user and system time of processes and of their children that have ended."""
    total = 0
    for pid in pids:
        if fields := _stat(pid):
            total += sum(int(value) for value in fields[11:15])
    return total / _TICKS_PER_SECOND


def proportional_bytes(pids: list[int]) -> int:
    """Return the proportional set size (PSS) of processes: shared pages counted once between them."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def peak_bytes(pids: list[int]) -> int:
    """Return the most memory that one of some processes has held at a time (VmHWM): its own, not its parent's."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return max(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on; None for a process that has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def _start_time(pid: int) -> str | None:
    fields = _stat(pid)
    return fields[19] if fields and fields[0] != "Z" else None


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
