"""Finding and ending the processes that we started, and nobody else's.

A process is ours when it descends from one of ours or carries our tag in its environment. Linux only reads `/proc`;
elsewhere `ps` supplies the process tree and tags find nothing, so that the worst that can happen is a leak.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

TAG_VARIABLE = "_DISPATCHER_OWNER"
"""Environment variable by which processes are recognised that outlived their parent."""

_PROC = Path("/proc")
_LINUX = sys.platform == "linux"


def _parents() -> dict[int, int]:
    """The parent of every process that exists now."""
    if not _LINUX:
        listing = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        return {int(pid): int(ppid) for pid, ppid in (line.split() for line in listing.splitlines())}
    parents = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            # The command name may contain spaces and parentheses; the fields of interest follow the last one.
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    return parents


def descendants(pid: int) -> list[int]:
    """Children of `pid`, their children and so on; those that a dead process left behind are not among them."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents().items():
        children.setdefault(parent, []).append(child)
    found: list[int] = []
    todo = [pid]
    while todo:
        new = children.get(todo.pop(), [])
        found += new
        todo += new
    return found


def tagged(tag: str) -> list[int]:
    """Processes started with a `TAG_VARIABLE` that begins with `tag`, and their forks; this process left out."""
    if not _LINUX:
        return []
    wanted = f"{TAG_VARIABLE}={tag}".encode()
    found = []
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                environment = (entry / "environ").read_bytes()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if any(variable.startswith(wanted) for variable in environment.split(b"\0")):
                found.append(int(entry.name))
    return found


def command(pid: int) -> str:
    """The command line of `pid`, for messages; empty when it is gone or a zombie."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def kill(pids: Iterable[int]) -> None:
    """SIGKILL each of `pids` that still exists; stopped processes die too."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL `process`, its process group and every descendant, those in sessions of their own included; reap it.

    `process` must have been started with `start_new_session=True`.
    """
    # Descendants are looked up first: once their parent is dead nothing links them to it any more.
    offspring = descendants(process.pid) if process.poll() is None else []
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    kill(offspring)
    process.wait()


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to the process group that `process` leads, if any of it still exists."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def memory_mb(pid: int) -> float:
    """MiB in use by `pid` and its descendants; pages that they share are counted once. 0.0 where it cannot be read."""
    if not _LINUX:
        return 0.0
    # Resident size is quick to read but counts shared pages for each process; one process shares with nobody.
    family = [pid, *_direct_and_indirect(pid)]
    if len(family) == 1:
        return _resident_mb(pid)
    return sum(_proportional_mb(member) for member in family)


def _direct_and_indirect(pid: int) -> list[int]:
    """Descendants by way of `/proc/<pid>/task/*/children`: cheap enough to ask many times a second."""
    found: list[int] = []
    todo = [pid]
    while todo:
        for listing in (_PROC / str(todo.pop()) / "task").glob("*/children"):
            try:
                new = [int(child) for child in listing.read_text().split()]
            except OSError:
                continue
            found += new
            todo += new
    return found


def _resident_mb(pid: int) -> float:
    try:
        pages = int((_PROC / str(pid) / "statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _proportional_mb(pid: int) -> float:
    try:
        rollup = (_PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in rollup.splitlines() if line.startswith("Pss:")), 0.0)
