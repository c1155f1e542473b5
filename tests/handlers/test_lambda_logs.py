"""Log lines of a Lambda function say what task and invocation they belong to; metrics are one line a batch."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher.brokers.base import Delivery
from dispatcher.config import Config
from dispatcher.execution.run import Kind, Outcome, Run
from dispatcher.lambda_runtime import logs, metrics
from dispatcher.message import Message
from dispatcher.request import Context
from dispatcher.state import pop_frame, push_frame
from tests.handlers import lab


class NamedTask:
    """As much of a task as a line needs."""

    name = "shop.add"


@pytest.fixture
def in_task() -> Iterator[None]:
    """Run the test as a task would run."""
    request = Context(
        Message(id="id-1", task="shop.add", root_id="id-0"), delivery_info={"queue": "orders"}, called_directly=False
    )
    token = push_frame(NamedTask(), request)
    yield
    pop_frame(token)


@pytest.fixture
def invoked() -> lab.Context:
    """Begin an invocation."""
    context = lab.Context()
    logs.invocation.begin(context)
    return context


def line_of(formatter: logging.Formatter, **extra: Any) -> dict[str, Any]:
    """Log a line with a handler of its own and return it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    handler.addFilter(logs.TaskFields())
    logger = logging.getLogger("tests.lambda_logs")
    logger.addHandler(handler)
    try:
        logger.warning("sold %d", 3, extra=extra)
    finally:
        logger.removeHandler(handler)
    line: dict[str, Any] = json.loads(stream.getvalue())
    return line


def test_line_of_a_task_names_it(in_task: None, invoked: lab.Context) -> None:
    """Task, task id, root id, queue and request id are fields of the line."""
    line = line_of(logs.JsonFormatter())
    assert line["message"] == "sold 3"
    assert (line["task"], line["task_id"], line["root_id"], line["queue"]) == ("shop.add", "id-1", "id-0", "orders")
    assert line["function_request_id"] == invoked.aws_request_id
    assert line["function_arn"] == invoked.invoked_function_arn


def test_line_outside_a_task_names_the_invocation(invoked: lab.Context) -> None:
    """Lines of the handler itself have the request id and no task."""
    line = line_of(logs.JsonFormatter())
    assert line["function_request_id"] == invoked.aws_request_id
    assert "task_id" not in line


def test_fields_of_the_caller_stay(in_task: None, invoked: lab.Context) -> None:
    """What the caller logs by ``extra`` is kept, also under one of our names."""
    line = line_of(logs.JsonFormatter(), order=7, task_id="mine")
    assert (line["order"], line["task_id"]) == (7, "mine")


def test_fields_are_those_of_powertools(in_task: None, invoked: lab.Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name that Powertools' Logger gives an invocation's line is there, with a value of the same form."""
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "worker")
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512")
    monkeypatch.setattr(logs.invocation, "service", "shop")
    ours = line_of(logs.JsonFormatter())
    theirs = _powertools_line(invoked)
    assert theirs.keys() - ours.keys() == set()
    assert {name: type(ours[name]) for name in theirs} == {name: type(value) for name, value in theirs.items()}
    assert len(ours["timestamp"]) == len(theirs["timestamp"])


def _powertools_line(context: Any) -> dict[str, Any]:
    from aws_lambda_powertools import Logger

    stream = io.StringIO()
    logger = Logger(service="shop", stream=stream, level="INFO")
    context.function_name = "worker"

    @logger.inject_lambda_context
    def handler(event: Any, context: Any) -> None:
        logger.warning("sold")

    handler({}, context)
    line: dict[str, Any] = json.loads(stream.getvalue())
    return line


def test_powertools_logger_takes_the_fields(in_task: None, invoked: lab.Context) -> None:
    """An app's own Powertools logger names the task too, with our filter."""
    from aws_lambda_powertools import Logger

    stream = io.StringIO()
    logger = Logger(service="fields", stream=stream, level="INFO")
    logger.addFilter(logs.TaskFields())
    logger.info("sold")
    line = json.loads(stream.getvalue())
    assert (line["task_id"], line["root_id"], line["queue"]) == ("id-1", "id-0", "orders")
    assert line["function_request_id"] == invoked.aws_request_id


def test_unserialisable_values_are_logged_as_text(invoked: lab.Context) -> None:
    """A value that JSON or UTF-8 cannot hold does not lose the line."""
    text = logs.JsonFormatter().format(logging.makeLogRecord({"msg": "half a pair: \ud800, é"}))
    assert json.loads(text.encode())["message"] == "half a pair: \ud800, é"
    assert "object" in line_of(logs.JsonFormatter(), thing=object())["thing"]


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """Give the root logger back as it was."""
    root, outcomes = logging.getLogger(), logging.getLogger(logs.OUTCOMES)
    state = (
        root.level,
        list(root.handlers),
        outcomes.level,
        [(h, h.formatter, list(h.filters)) for h in root.handlers],
    )
    yield root
    root.setLevel(state[0])
    root.handlers[:] = state[1]
    outcomes.setLevel(state[2])
    for handler, formatter, filters in state[3]:
        handler.formatter, handler.filters = formatter, filters


def test_outcome_lines_are_off_unless_a_level_is_set(root_logger: logging.Logger) -> None:
    """Each line is billed: that a task succeeded is logged only where worker_log_level asks for it."""
    logs.set_up(Config(environ={}))
    assert not logging.getLogger(logs.OUTCOMES).isEnabledFor(logging.INFO)
    logs.set_up(Config({"worker_log_level": "INFO"}, environ={}))
    assert logging.getLogger(logs.OUTCOMES).isEnabledFor(logging.INFO)
    assert root_logger.level == logging.INFO


def test_own_logging_is_left_alone(root_logger: logging.Logger) -> None:
    """Without worker_hijack_root_logger nothing of the root logger changes."""
    handler = logging.StreamHandler(io.StringIO())
    root_logger.handlers[:] = [handler]
    logs.set_up(Config({"worker_hijack_root_logger": False}, environ={}))
    assert handler.formatter is None
    assert handler.filters == []


class LambdaLoggerHandler(logging.Handler):
    """Named and behaving as the runtime's: it ends no line."""


def test_runtime_s_handler_gets_whole_lines(root_logger: logging.Logger) -> None:
    """The runtime's handler writes what the formatter returns, so that must end in a newline."""
    handler = LambdaLoggerHandler()
    root_logger.handlers[:] = [handler]
    logs.set_up(Config(environ={}))
    assert handler.format(logging.makeLogRecord({"msg": "x"})).endswith("}\n")
    logs.set_up(Config({"worker_log_format": "%(message)s!"}, environ={}))
    assert handler.format(logging.makeLogRecord({"msg": "x"})) == "x!\n"


def run_of(kind: Kind, *, started: bool = True, count: int = 1, eta: float | None = None) -> Run:
    """Return a run that ended so; it was sent at 100 and took 2 ms."""
    run = Run(Delivery("orders", "", "r", count, "m", sent_at=100.0))
    run.message = Message(id="i", task="t", eta=eta)
    run.outcome = Outcome(kind)
    if started:
        run.context = Context(run.message)
        run.duration = 0.002
    return run


def emitted(runs: list[Run], now: float = 103.5) -> dict[str, Any]:
    """Return the line of a batch, checked against the embedded metric format."""
    line = metrics.Metrics("dispatcher", "shop").line("orders", len(runs), metrics.tally(runs, now), now)
    assert line.endswith("\n")
    blob: dict[str, Any] = json.loads(line)
    [directive] = blob["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "dispatcher"
    assert all(blob[name] for names in directive["Dimensions"] for name in names)
    for metric in directive["Metrics"]:
        values = blob[metric["Name"]]
        assert metric["Unit"] in ("Count", "Milliseconds")
        assert isinstance(values, int) or (0 < len(values) <= 100 and all(type(each) is float for each in values))
    return blob


def test_metrics_count_outcomes() -> None:
    """Every run of a batch is in one of the counts."""
    runs = [run_of(kind) for kind in (Kind.SUCCESS, Kind.SUCCESS, Kind.FAILURE, Kind.RETRY)]
    runs += [run_of(kind, started=False) for kind in (Kind.HANDED_BACK, Kind.DEFERRED, Kind.UNREADABLE)]
    blob = emitted(runs)
    counts = {name: blob.get(name, 0) for name in metrics.UNITS if name.startswith(("Tasks", "Batch"))}
    assert counts == {
        "BatchSize": 7, "TasksStarted": 4, "TasksSucceeded": 2, "TasksFailed": 2, "TasksRetried": 1,
        "TasksHandedBack": 1, "TasksDeferred": 1,
    }  # fmt: skip
    assert blob["TaskDuration"] == [2.0] * 4
    assert (blob["service"], blob["queue"], blob["_aws"]["Timestamp"]) == ("shop", "orders", 103_500)


def test_latency_is_that_of_first_deliveries() -> None:
    """Waiting for an ETA or for a retry is not the queue's latency."""
    assert emitted([run_of(Kind.SUCCESS)])["QueueLatency"] == [3500.0]
    assert emitted([run_of(Kind.SUCCESS, eta=103.0)])["QueueLatency"] == [500.0]
    assert "QueueLatency" not in emitted([run_of(Kind.SUCCESS, count=2)])


def test_metric_without_values_is_not_named() -> None:
    """A batch of which nothing was started has no durations, and the line stays valid."""
    blob = emitted([run_of(Kind.HANDED_BACK, started=False, count=2)])
    assert "TaskDuration" not in blob


def test_large_batch_stays_within_the_format() -> None:
    """A metric has at most 100 values in a line."""
    blob = emitted([run_of(Kind.SUCCESS) for _ in range(150)])
    assert blob["BatchSize"] == 150
    assert len(blob["TaskDuration"]) == 100


def test_a_line_that_no_stream_could_write_is_written() -> None:
    """A lone surrogate in what a task raised costs no line; other characters stay readable."""
    line = logs.JsonFormatter().format(logging.makeLogRecord({"msg": "half \ud83d of Grüße"}))
    assert "Grüße" in line.encode().decode()
    assert json.loads(line)["message"] == "half \ud83d of Grüße"
