"""What people see of `dispatcher local`: log lines made readable, and changed files noticed."""

import json
import os
from pathlib import Path

from dispatcher.local.console import Console, readable
from dispatcher.local.sandbox import Invocation
from dispatcher.local.watching import Watcher


def test_json_line_becomes_text() -> None:
    """Level, message, and the task unless the message names it; a traceback below."""
    line = {"level": "WARNING", "message": "slow", "task": "shop.add", "task_id": "0123456789", "exception": "Trace\nE"}
    assert readable(json.dumps(line)) == ("WARNING  slow  [shop.add 01234567]\nTrace\nE", "WARNING")
    assert readable(json.dumps({"level": "INFO", "message": "Task x[01] done", "task_id": "01"})) == (
        "INFO     Task x[01] done",
        "INFO",
    )


def test_lines_for_machines_are_left_out() -> None:
    """Metrics and the SDK's chatter are no news; whatever a task prints is."""
    assert readable(json.dumps({"_aws": {}, "message": "metrics"})) is None
    assert readable(json.dumps({"level": "INFO", "logger": "botocore.credentials", "message": "Found"})) is None
    assert readable("") is None
    assert readable("{broken") == ("{broken", "INFO")
    assert readable('{"a": 1}') == ('{"a": 1}', "INFO")


def test_each_line_is_headed_by_its_function() -> None:
    """Lines of one message stay together; colour is used where it is understood only."""
    plain: list[str] = []
    Console(plain.append).output("Default")(json.dumps({"level": "ERROR", "message": "no", "exception": "T\nE"}))
    texts = [line.split(maxsplit=1)[1] for line in plain]
    assert texts == ["Default          ERROR    no", "Default          T", "Default          E"]
    coloured: list[str] = []
    Console(coloured.append, colour=True).output("Default")("hello")
    assert "\x1b[" in coloured[0]
    assert not any("\x1b[" in line for line in plain)


def test_failed_invocation_is_told_as_lambda_tells_it() -> None:
    """Type, message and trace of the error, and what becomes of the messages."""
    told: list[str] = []
    payload = {"errorType": "Sandbox.Timedout", "errorMessage": "Task timed out after 3.00 seconds"}
    invocation = Invocation("id", True, json.dumps(payload).encode(), "", 3.0, None, 0.0)
    Console(told.append).failed("Default")(invocation)
    assert "Sandbox.Timedout: Task timed out after 3.00 seconds" in told[0]
    assert "visibility timeout" in told[-1]


def test_change_is_told_once_it_has_come_to_rest(tmp_path: Path) -> None:
    """New, changed and removed files are told, each change once, and not while somebody is still writing."""
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "b.py").write_text("1")
    watcher = Watcher(tmp_path)
    assert watcher.changed() == []
    (tmp_path / "a.py").write_text("22")
    (tmp_path / "b.py").unlink()
    (tmp_path / "c.py").write_text("1")
    assert watcher.changed() == []
    (tmp_path / "c.py").write_text("22")
    assert watcher.changed() == []
    assert [path.name for path in watcher.changed()] == ["a.py", "b.py", "c.py"]
    assert watcher.changed() == []


def test_environments_and_caches_are_not_watched(tmp_path: Path) -> None:
    """What is installed or generated changes without being edited; modules from elsewhere are watched if told so."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere.py"
    elsewhere.write_text("1")
    for directory in ("venv", ".hidden", "__pycache__", "node_modules", "package"):
        (project / directory).mkdir(parents=True)
    (project / "venv" / "pyvenv.cfg").touch()
    watcher = Watcher(project)
    watcher.add([str(elsewhere)])
    for directory in ("venv", ".hidden", "__pycache__", "node_modules"):
        (project / directory / "x.py").write_text("1")
    (project / "notes.txt").write_text("1")
    assert watcher.changed() == watcher.changed() == []
    (project / "package" / "x.py").write_text("1")
    os.utime(elsewhere, (1, 1))
    assert watcher.changed() == []
    assert {path.name for path in watcher.changed()} == {"x.py", "elsewhere.py"}
