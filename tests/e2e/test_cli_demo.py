"""`dispatcher demo`: the main job with nothing to set up."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.local import processes
from tests.e2e import commands
from tests.emulation.redis_server import RedisServer


def _rows(output: str) -> dict[str, list[str]]:
    rows = (re.findall(r"\S+", line) for line in output.splitlines())
    return {row[0]: row[1:] for row in rows if row and row[0] in {"compute", "flaky", "broken", "all"}}


def test_demo_sums_up_states_and_retries(tmp_path: Path) -> None:
    """Two workers on SQLite run all tasks; the table counts successes, failures and retries."""
    done = commands.run(tmp_path, "demo", "--tasks", "60")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = _rows(done.stdout)
    assert rows["all"][:4] == ["60", "57", "3", "6"]
    assert rows["flaky"][:4] == ["6", "6", "0", "6"]
    assert rows["broken"][:4] == ["3", "0", "3", "0"]
    shares = re.search(r"worker1 (\d+), worker2 (\d+)", done.stdout)
    assert shares is not None
    assert int(shares[1]) + int(shares[2]) == 66
    assert "\x1b" not in done.stdout


def test_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither the temporary directory nor anything in the user's data directory stays."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = commands.run(tmp_path, "demo", "--tasks", "10", variables={"TMPDIR": str(scratch)})
    assert done.returncode == 0, done.stderr
    assert list(scratch.iterdir()) == []
    assert not (tmp_path / "data").exists()


def test_demo_on_redis(tmp_path: Path, redis_server: RedisServer) -> None:
    """Another broker takes the place of SQLite."""
    done = commands.run(tmp_path, "demo", "--tasks", "20", "--broker", redis_server.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert _rows(done.stdout)["all"][0] == "20"


def test_demo_needs_a_broker_that_processes_share(tmp_path: Path) -> None:
    """Its workers are processes, which would wait for ever."""
    done = commands.run(tmp_path, "demo", "--broker", "memory://")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--broker cannot be memory://" in done.stderr


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Have Ctrl-C reach what is started, though a shell makes all that runs in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_interrupted_demo_cleans_up(tmp_path: Path) -> None:
    """Ctrl-C ends the workers, removes the directory and exits with 130."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "dispatcher", "demo", "--tasks", "2000"], cwd=tmp_path, text=True,
        env=commands.environment(tmp_path, {"TMPDIR": str(scratch)}), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        commands.eventually(lambda: len(processes.descendants(process.pid)) == 2, "two workers")
        workers = processes.descendants(process.pid)
        commands.eventually(lambda: any(scratch.glob("*/worker1.log")), "the first worker's log")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=commands.SECONDS)
    finally:
        processes.kill_tree(process)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)
    assert list(scratch.iterdir()) == []


def test_demo_says_why_its_workers_cannot_start(tmp_path: Path) -> None:
    """A broker out of reach ends the demo with an error line, not with a traceback."""
    done = commands.run(tmp_path, "demo", "--tasks", "10", "--broker", "redis://127.0.0.1:1/0")
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
