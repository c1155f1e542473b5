"""The guard process beside any process: what it leaves alone, and what is said when it is gone."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher.brokers.base import Delivery
from dispatcher.lambda_runtime.guard import _Guard, _waker
from dispatcher.lambda_runtime.progress import Batch, Progress
from dispatcher.lambda_runtime.rescue import Cause

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a guard process is tested on Linux, where Lambda is")


@pytest.fixture
def runtime() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing for a long time."""
    with subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"],
                          stdout=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


class Settled:
    """Notes what a guard settles."""

    def __init__(self) -> None:
        self.causes: list[Cause] = []

    def __call__(self, batch: Batch, cause: Cause) -> None:
        """Note it."""
        self.causes.append(cause)


def guard_of(process: Any, progress: Progress, settled: Settled) -> _Guard:
    """Return a guard that is no parent."""
    return _Guard(progress, settled, process.pid, pipe=-1, is_parent=False)


def state_of(pid: int) -> str:
    """Return the state letter of a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_runtime_that_answers_at_its_deadline_is_left_alone(runtime: subprocess.Popen[bytes]) -> None:
    """A batch that was answered when the runtime stands still is not settled again, and the runtime goes on."""
    progress, settled = Progress(), Settled()
    progress.begin([Delivery("q", "", "r")], 0.0, 0.0)
    progress.end()
    assert not guard_of(runtime, progress, settled)._step_in()
    assert settled.causes == []
    while state_of(runtime.pid) == "T":
        pass
    assert runtime.poll() is None


def test_overdue_runtime_is_stopped_settled_for_and_killed(runtime: subprocess.Popen[bytes]) -> None:
    """A batch past its time is settled while the runtime stands still, and the runtime ends."""
    progress = Progress()
    states: list[str] = []

    class Looks(Settled):
        def __call__(self, batch: Batch, cause: Cause) -> None:
            states.append(state_of(runtime.pid))
            super().__call__(batch, cause)

    settled = Looks()
    progress.begin([Delivery("q", "", "r")], -1.0, 0.1)
    assert guard_of(runtime, progress, settled)._step_in()
    assert settled.causes == [Cause.DEADLINE]
    assert states == ["T"]
    assert runtime.wait() == -9


def test_guard_that_is_gone_is_spoken_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """A runtime whose guard has died goes on, and says that hard limits are not kept."""
    reading, writing = os.pipe()
    os.close(reading)
    wake = _waker(writing)
    wake()
    wake()
    os.close(writing)
    [record] = caplog.records
    assert "the guard process is gone" in record.getMessage()
