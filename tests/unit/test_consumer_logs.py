"""Logs of a worker: formats, what a task's lines carry, who may set them up."""

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher import Dispatcher, signals
from dispatcher.config import Config
from dispatcher.consumer import logs
from dispatcher.utils.log import get_task_logger


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger without handlers, put back as it was afterwards."""
    logger, ours, task = logging.getLogger(), logging.getLogger("dispatcher"), logging.getLogger("dispatcher.task")
    before = logger.handlers[:], logger.level, ours.level, task.level
    logger.handlers = []
    yield logger
    for handler in logger.handlers:
        handler.close()
    logger.handlers = before[0]
    for each, level in zip((logger, ours, task), before[1:], strict=True):
        each.setLevel(level)
    logging.captureWarnings(False)


def _lines(formatter: logging.Formatter, work: Any) -> list[str]:
    """Return what a task logs through a formatter when it runs."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = get_task_logger("tests.logs")
    logger.setLevel("DEBUG")
    logger.addHandler(handler)
    outcomes = logging.getLogger(logs.OUTCOMES)
    outcomes.addHandler(handler)
    outcomes.setLevel("INFO")
    try:
        app = Dispatcher("logs", set_as_current=False, task_always_eager=True, broker="memory://")
        app.task(name="logs.work")(lambda: work(logger)).apply_async(task_id="the-id")
    finally:
        logger.removeHandler(handler)
        outcomes.removeHandler(handler)
        outcomes.setLevel(logging.NOTSET)
    return stream.getvalue().splitlines()


def test_human_lines_name_the_task() -> None:
    """A task's own lines have its name and id in front; the line of its outcome has them in it, once."""
    adding, outcome = _lines(logs.formatter("human"), lambda logger: logger.info("adding %s", 1))
    assert re.fullmatch(
        r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}: INFO/MainProcess] logs\.work\[the-id]: adding 1", adding
    )
    assert outcome.count("the-id") == 1
    assert "succeeded in" in outcome


def test_json_lines_have_the_task_as_fields() -> None:
    """Every line is an object; extra fields are kept, whatever their type."""
    said, outcome = map(
        json.loads, _lines(logs.formatter("json"), lambda logger: logger.info("é", extra={"order": {1}}))
    )
    assert said["message"] == "é"
    assert said["order"] == "{1}"
    expected = {"task": "logs.work", "task_id": "the-id", "root_id": "the-id", "queue": "default", "retries": 0}
    assert expected.items() <= said.items()
    assert expected.items() <= outcome.items()
    assert outcome["outcome"] == "success"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", said["timestamp"])


def test_json_lines_can_be_written() -> None:
    """Half a surrogate pair, which a body may carry, does not lose the line."""
    line = logs.formatter("json").format(logging.makeLogRecord({"msg": "half a pair: \ud800, é"}))
    assert json.loads(line.encode())["message"] == "half a pair: \ud800, é"


def test_json_lines_hold_tracebacks() -> None:
    """An exception stays in one line."""

    def work(logger: logging.Logger) -> None:
        try:
            raise ValueError("no such order")
        except ValueError:
            logger.exception("failed")

    said = json.loads(_lines(logs.formatter("json"), work)[0])
    assert said["exception_name"] == "ValueError"
    assert said["exception"].endswith("ValueError: no such order\n")


def test_format_strings_may_name_the_task() -> None:
    """A format string of the user's has task_name and task_id, as with Celery."""
    lines = _lines(logs.formatter("%(task_name)s/%(task_id)s %(message)s"), lambda logger: logger.info("adding"))
    assert lines[0] == "logs.work/the-id adding"
    record = logging.makeLogRecord({"msg": "outside"})
    assert logs.formatter("%(task_name)s %(message)s").format(record) == "??? outside"


def test_colours_are_for_what_matters() -> None:
    """Warnings and errors are coloured, ordinary lines are not."""
    formatter = logs.HumanFormatter(colour=True)
    assert "\x1b" not in formatter.format(logging.makeLogRecord({"levelno": logging.INFO, "msg": "x"}))
    assert "\x1b[31mx\x1b[0m" in formatter.format(logging.makeLogRecord({"levelno": logging.ERROR, "msg": "x"}))


def test_root_logger_is_taken_over(root: logging.Logger, tmp_path: Path) -> None:
    """By default the worker's handler replaces those that were there."""
    root.addHandler(logging.NullHandler())
    logs.set_up(Config(environ={}), level="WARNING", logfile=str(tmp_path / "log"))
    logging.getLogger("somebody").info("unheard")
    logging.getLogger("somebody").warning("heard")
    assert len(root.handlers) == 1
    assert (tmp_path / "log").read_text().endswith("heard\n")
    assert "unheard" not in (tmp_path / "log").read_text()


def test_root_logger_can_be_left_alone(root: logging.Logger) -> None:
    """With worker_hijack_root_logger off, a root logger that has handlers keeps them and its level."""
    mine = logging.NullHandler()
    root.handlers = [mine]  # pytest's own came after the fixture
    root.setLevel(logging.ERROR)
    logs.set_up(Config({"worker_hijack_root_logger": False}, environ={}), level="DEBUG")
    assert root.handlers == [mine]
    assert root.level == logging.ERROR


def test_receiver_of_setup_logging_takes_over(root: logging.Logger) -> None:
    """With a receiver of setup_logging, nothing is touched; it gets level, file, format and colours."""
    got: dict[str, Any] = {}

    def receive(**fields: Any) -> None:
        got.update(fields)

    root.handlers = []
    signals.setup_logging.connect(receive)
    try:
        logs.set_up(Config(environ={}), level="DEBUG", logfile="x.log", log_format="json")
    finally:
        signals.setup_logging.disconnect(receive)
    assert root.handlers == []
    assert (got["loglevel"], got["logfile"], got["format"]) == (logging.DEBUG, "x.log", "json")


def test_additions_after_the_setup(root: logging.Logger) -> None:
    """after_setup_logger gets the root logger, after_setup_task_logger the tasks' one."""
    got: list[str] = []

    def receive(logger: logging.Logger, **fields: Any) -> None:
        got.append(logger.name)

    signals.after_setup_logger.connect(receive)
    signals.after_setup_task_logger.connect(receive)
    try:
        logs.set_up(Config(environ={}))
    finally:
        signals.after_setup_logger.disconnect(receive)
        signals.after_setup_task_logger.disconnect(receive)
    assert got == ["root", "dispatcher.task"]


def test_file_moved_by_logrotate_is_opened_anew(root: logging.Logger, tmp_path: Path) -> None:
    """After the file was moved away, lines go to a new one of its name."""
    file = tmp_path / "log"
    logs.set_up(Config(environ={}), logfile=str(file))
    logging.getLogger("x").warning("one")
    file.rename(tmp_path / "log.1")
    logging.getLogger("x").warning("two")
    assert "two" in file.read_text()
