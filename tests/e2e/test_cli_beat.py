"""`dispatcher beat`, `worker -B` and `dispatcher schedules` as commands."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from dispatcher.local import processes
from tests.e2e.commands import WorkerProcess, run

APP = """
from dispatcher import Dispatcher
from dispatcher.schedules import crontab

app = Dispatcher("periodic", broker="sqlite:///work.db", broker_visibility_timeout=2, beat_lease=2)


@app.task
def tick():
    print("ticked", flush=True)


app.conf.beat_schedule = {
    "often": {"task": "work.tick", "schedule": 1},
    "nightly": {"task": "work.tick", "schedule": crontab(minute=30, hour=2), "options": {"queue": "night"}},
}
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A project with periodic tasks."""
    (tmp_path / "work.py").write_text(APP)
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_beat_shows_its_entries_fires_and_stops(directory: Path, number: signal.Signals) -> None:
    """It says what it is about to fire and when, fires, and gives its lease up at its end."""
    with WorkerProcess(directory, "-A", "work", "beat") as beat:
        assert re.search(r"often +<freq: 1 s> +work.tick +default +last +\d{4}-\d\d-\d\d", beat.wait_for("often"))
        assert re.search(r"night +last +\d{4}-\d\d-\d\d 02:30:00 UTC", beat.wait_for("nightly"))
        beat.wait_for("beat ready: 2 entries")
        beat.wait_for("fired often (work.tick) for ")
        beat.signal(number)
        assert beat.wait() == 0
    assert "beat stopped" in "\n".join(beat.log)


@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_a_worker_with_a_beat_does_both(directory: Path, pool: str) -> None:
    """`worker -B` fires the entries of the app and runs them, in any pool, and ends with nothing left behind."""
    with WorkerProcess(directory, "-A", "work", "worker", "-B", "-P", pool, "-c", "1") as worker:
        worker.wait_for("fired often")
        worker.wait_for("ticked")
        assert worker.stop() == 0
        assert not list(processes.descendants(worker.process.pid))
    assert "beat stopped" in "\n".join(worker.log)


def test_a_prefork_worker_replaces_a_beat_that_died(directory: Path) -> None:
    """The beat of a prefork worker is a process of its own; one that is killed is followed by another."""
    with WorkerProcess(directory, "-A", "work", "worker", "-B", "-P", "prefork", "-c", "1") as worker:
        line = worker.wait_for("this beat fires")
        worker.wait_for("ticked")
        before = set(processes.descendants(worker.process.pid))
        assert len(before) == 2, line
        beat = min(before)  # it is forked first
        os.kill(beat, signal.SIGKILL)
        worker.wait_for("the beat of this worker ended (exit code -9); starting another")
        worker.wait_for("this beat fires")
        worker.wait_for("fired often")
        assert worker.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-s", "state"), "--schedule cannot work here: the beat keeps its state in the result backend"),
        (("-S", "x:Scheduler"), "--scheduler cannot work here: entries are those of beat_schedule"),
        (("--pidfile", "x.pid"), "--pidfile cannot work here"),
        (("--detach",), "--detach cannot work here"),
        (("--max-interval", "0"), "'--max-interval': '0' is not more than 0 seconds"),
        (("--max-interval", "nan"), "'--max-interval': 'nan' is not a number of seconds"),
    ],
)
def test_options_that_cannot_work_stop_the_start(directory: Path, arguments: tuple[str, ...], message: str) -> None:
    """Each is refused with the reason, before anything is fired."""
    done = run(directory, "-A", "work", "beat", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    "command", [("beat",), ("worker", "-B", "-P", "solo"), ("worker", "-B"), ("schedules", "list")]
)
def test_a_wrong_entry_stops_the_start(directory: Path, command: tuple[str, ...]) -> None:
    """An entry that cannot work is an error of every command that needs it, in one line with its name."""
    with open(directory / "work.py", "a") as file:
        file.write('app.conf.beat_schedule["bad"] = {"task": "work.tock", "schedule": 1}\n')
    done = run(directory, "-A", "work", *command)
    assert done.returncode == 2
    assert "the entry 'bad': no task named 'work.tock' is registered (1 are): did you mean 'work.tick'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_stored_entries_are_shown_and_changed(directory: Path) -> None:
    """`dispatcher schedules` lists entries of code and store, and pauses, resumes and deletes the latter."""
    (directory / "put.py").write_text("from work import app\napp.schedules.put('mine', 'work.tick', 60)\n")
    made = run(directory, "put.py", program=(sys.executable,))
    assert made.returncode == 0, made.stderr
    listed = run(directory, "-A", "work", "schedules", "list").stdout
    assert re.search(r"mine +<freq: 60 s> .* store", listed)
    assert re.search(r"nightly .* code", listed)
    assert run(directory, "-A", "work", "schedules", "pause", "mine").stdout == "mine: paused\n"
    assert re.search(r"mine .* paused +store", run(directory, "-A", "work", "schedules", "list").stdout)
    assert run(directory, "-A", "work", "schedules", "resume", "mine").stdout == "mine: on\n"
    assert run(directory, "-A", "work", "schedules", "delete", "mine").stdout == "mine: deleted\n"
    gone = run(directory, "-A", "work", "schedules", "pause", "mine")
    assert (gone.returncode, "there is no stored entry 'mine'" in gone.stderr) == (1, True)
    own = run(directory, "-A", "work", "schedules", "delete", "often")
    assert "is one of the app's own code" in own.stderr
