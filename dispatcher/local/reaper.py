"""Waiting until a process is gone, then killing what it started and left; `start` does so for this process.

A process that is killed runs no clean-up of its own.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from typing import Final

from dispatcher.config.environment import inherited
from dispatcher.local import processes, starting

_POLL_SECONDS: Final = 0.5
_PAUSE_SECONDS: Final = 0.02
_PATIENCE_SECONDS: Final = 30.0


def start(tag: str, *directories: str) -> subprocess.Popen[bytes]:
    """Start a reaper of everything that carries ``tag``, and of directories; kill it when nothing is left to reap."""
    return subprocess.Popen(
        starting.command(sys.executable, __name__, tag, str(os.getpid()), *directories),
        env={name: value for name, value in inherited().items() if name != processes.TAG_VARIABLE},
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # an interrupt from the keyboard is not for what cleans up
    )


def main() -> None:
    """Wait for the parent's end, and clean up after it."""
    tag, pid, *directories = sys.argv[1:]
    _wait_for_end(int(pid))
    limit = time.monotonic() + _PATIENCE_SECONDS
    # Again until none is left: what dies may still start another, or write into the directories.
    while (left := processes.tagged(tag)) and time.monotonic() < limit:
        processes.kill(left)
        time.sleep(_PAUSE_SECONDS)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def _wait_for_end(pid: int) -> None:
    """Return when the parent has ended, which may have been before this process looked for the first time."""
    if hasattr(os, "pidfd_open"):
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        if os.getppid() == pid:  # else the handle may already be of somebody else
            select.select([handle], [], [])
        return
    while os.getppid() == pid:
        time.sleep(_POLL_SECONDS)
