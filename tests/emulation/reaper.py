"""`python -m tests.emulation.reaper TAG PID`: wait until the parent PID is gone, then kill what it started and left.

A test run that is killed, or that a timeout ends by `os._exit`, runs no clean-up of its own.
"""

import os
import select
import subprocess
import sys
import time
from pathlib import Path

from tests.emulation import processes

_POLL_SECONDS = 0.5


def start(tag: str) -> subprocess.Popen[bytes]:
    """Start a reaper for this process and everything that carries `tag`; kill it when there is nothing left to reap."""
    environment = {name: value for name, value in os.environ.items() if name != processes.TAG_VARIABLE}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.emulation.reaper", tag, str(os.getpid())],
        cwd=Path(__file__).resolve().parents[2],
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # an interrupt from the keyboard is for the tests, not for what cleans up after them
    )


def _wait_for_end(pid: int) -> None:
    """Return when the parent `pid` has ended, which may have been before this process looked for the first time."""
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


if __name__ == "__main__":
    _wait_for_end(int(sys.argv[2]))
    processes.kill(processes.tagged(sys.argv[1]))
