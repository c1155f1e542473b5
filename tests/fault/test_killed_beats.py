"""Beats in processes of their own that are killed: each time of an entry takes effect once, and none is missed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from dispatcher import Dispatcher
from dispatcher.beat import lead
from tests.emulation.redis_server import RedisServer
from tests.fault.fleet import ROOT, until

#: How many leaders are killed, and how many times of the entry pass in between.
KILLS, BETWEEN = 2, 2
APP = """
import os
from dispatcher import Dispatcher

app = Dispatcher("killed-beats", broker_visibility_timeout=2)


@app.task(bind=True)
def note(self):
    with open(os.environ["NOTES"], "a") as file:
        file.write(self.request.headers["beat_at"] + "\\n")


app.conf.beat_schedule = {"often": {"task": "killed.note", "schedule": 0.5, "catch_up": "all"}}
"""


class Beats:
    """Beats and a worker of one app, as commands."""

    def __init__(self, directory: Path, url: str) -> None:
        (directory / "killed.py").write_text(APP)
        self.notes = directory / "notes"
        self.notes.touch()
        self._directory = directory
        self.queue = f"q-{uuid.uuid4().hex}"
        self._variables = {
            **os.environ, "DISPATCHER_BROKER_URL": url, "DISPATCHER_TASK_DEFAULT_QUEUE": self.queue,
            "DISPATCHER_BEAT_LEASE": "1.5", "NOTES": str(self.notes), "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        self.app = Dispatcher("killed-beats", broker=url, set_as_current=False)
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a command of ``dispatcher``."""
        with open(self._directory / f"log-{len(self.processes)}", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dispatcher", "-A", "killed", *command],
                cwd=self._directory, env=self._variables, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def leader(self) -> int | None:
        """Return the process id of the beat that has the lease."""
        row = lead.read(self.app.backend, f"killed-beats@{self.queue}")
        pid = int(row.holder.split(":")[1]) if row.holder else None
        running = {process.pid for process in self.processes if process.poll() is None}
        return pid if pid in running else None

    def noted(self) -> list[float]:
        """Return the times that took effect, in epoch seconds."""
        return [datetime.fromisoformat(line).timestamp() for line in self.notes.read_text().splitlines()]

    def holes(self) -> list[float]:
        """Return the times between the first and the last of these that are missing."""
        found = self.noted()
        first, last = min(found), max(found)
        return sorted({first + 0.5 * number for number in range(round((last - first) * 2) + 1)} - set(found))

    def logs(self) -> str:
        """Return what all of them wrote."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self._directory.glob("log-*")))

    def close(self) -> None:
        """End all of it."""
        for process in self.processes:
            process.kill()
            process.wait()
        self.app.close()


@pytest.fixture(params=["sqlite", "redis"])
def beats(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Beats]:
    """Beats on a store of their own."""
    url = f"sqlite:///{tmp_path}/tasks.db"
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        url = server.url
    made = Beats(tmp_path, url)
    try:
        yield made
    finally:
        made.close()


def test_killed_beats_miss_and_double_nothing(beats: Beats) -> None:
    """Whenever the leading beat is killed another one takes over, and all times of the entry take effect, each once."""
    for _ in range(3):
        beats.start("beat", "--max-interval", "0.2")
    worker = beats.start("worker", "-P", "solo")
    for kill in range(KILLS + 1):
        seen = len(set(beats.noted()))
        until(lambda seen=seen: len(set(beats.noted())) >= seen + BETWEEN, beats.logs)
        if kill < KILLS:
            pid = until(beats.leader, beats.logs)
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: beats.leader() not in (None, pid), beats.logs)
            beats.start("beat", "--max-interval", "0.2")
    for process in beats.processes:
        if process is not worker and process.poll() is None:
            process.terminate()
            process.wait()
    until(lambda: not beats.holes(), beats.logs)
    worker.terminate()
    assert worker.wait() == 0, beats.logs()
    assert [at for at, times in Counter(beats.noted()).items() if times > 1] == [], beats.logs()
