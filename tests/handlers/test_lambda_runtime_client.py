"""The deployed handler under AWS's runtime client, in a process of its own with the function's environment alone."""

import json
from typing import Any

import pytest

from dispatcher.exceptions import SoftTimeLimitExceeded, WorkerLostError
from tests.handlers.conftest import MakeSandbox
from tests.handlers.lab import Lab, checked

APP = """
import os, signal, sys, time
from dispatcher import Dispatcher
from dispatcher.exceptions import SoftTimeLimitExceeded
from dispatcher.utils.log import get_task_logger

app = Dispatcher("shop")
logger = get_task_logger(__name__)

@app.task
def add(x, y):
    logger.warning("adding")
    return x + y

@app.task
def sleep():
    time.sleep(60)

@app.task
def leave():
    sys.exit(3)

@app.task
def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def app_source() -> str:
    """The app of most tests here."""
    return APP


def json_lines(log: str) -> list[dict[str, Any]]:
    """Return the JSON lines of a log."""
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


def test_batch_runs_and_the_environment_stays_warm(lab: Lab, make_sandbox: MakeSandbox) -> None:
    """A batch runs, the answer lets the mapping delete it, and the next batch needs no new process."""
    sandbox = make_sandbox()
    for expected_cold in (True, False):
        result = lab.app.send_task("app.add", (1, 2))
        event = lab.take()
        invocation = sandbox.invoke(event)
        assert not invocation.failed, invocation.log
        assert checked(invocation.json(), event) == []
        assert (invocation.init_duration is not None) is expected_cold
        assert result.get(timeout=0) == 3
        [line] = [line for line in json_lines(invocation.log) if line.get("message") == "adding"]
        assert (line["task_id"], line["queue"]) == (result.id, "default")
        assert line["function_request_id"] == invocation.request_id
        assert line["cold_start"] is expected_cold


def test_runtime_s_json_format_carries_the_fields(lab: Lab, make_sandbox: MakeSandbox) -> None:
    """With LogFormat JSON the runtime's own formatter is kept, and its lines name the task."""
    sandbox = make_sandbox(AWS_LAMBDA_LOG_FORMAT="JSON", AWS_LAMBDA_LOG_LEVEL="INFO")
    result = lab.app.send_task("app.add", (1, 2))
    invocation = sandbox.invoke(lab.take())
    [line] = [line for line in json_lines(invocation.log) if line.get("message") == "adding"]
    assert line["task_id"] == result.id
    assert line["requestId"] == line["function_request_id"] == invocation.request_id


def test_one_metrics_line_a_batch(lab: Lab, make_sandbox: MakeSandbox) -> None:
    """The log has one embedded metrics line for each batch."""
    for _ in range(3):
        lab.app.send_task("app.add", (1, 2))
    invocation = make_sandbox().invoke(lab.take())
    [blob] = [line for line in json_lines(invocation.log) if "_aws" in line]
    assert (blob["service"], blob["queue"], blob["BatchSize"], blob["TasksSucceeded"]) == ("shop", "default", 3, 3)


def test_task_that_sleeps_past_the_timeout_is_interrupted(lab: Lab, make_sandbox: MakeSandbox) -> None:
    """The soft limit comes before the function's timeout, so the invocation ends by itself with everything settled."""
    result = lab.app.send_task("app.sleep")
    event = lab.take()
    invocation = make_sandbox(timeout=2.0).invoke(event)
    assert not invocation.failed, invocation.log
    assert checked(invocation.json(), event) == []
    assert isinstance(result.result, SoftTimeLimitExceeded)


def test_exit_of_a_task_leaves_the_runtime_alive(lab: Lab, make_sandbox: MakeSandbox) -> None:
    """sys.exit() in a task is the task's failure, not the function's."""
    sandbox = make_sandbox()
    result = lab.app.send_task("app.leave")
    event = lab.take()
    invocation = sandbox.invoke(event)
    assert not invocation.failed, invocation.log
    assert checked(invocation.json(), event) == []
    assert result.state == "FAILURE"
    assert sandbox.invoke({"Records": []}).init_duration is None


def test_death_of_an_unguarded_runtime_is_counted_from_the_second_on(lab: Lab, make_sandbox: MakeSandbox) -> None:
    """A task that kills its process leaves an unsettled message, which a later delivery fails for good."""
    sandbox = make_sandbox(DISPATCHER_MAX_WORKER_LOSSES="1", DISPATCHER_LAMBDA_GUARD="none")
    result = lab.app.send_task("app.die")
    event = lab.take()
    [record] = event["Records"]
    # A first delivery's start is not recorded; the second one's is; the third fails it.
    for count in (1, 2):
        record["attributes"]["ApproximateReceiveCount"] = str(count)
        assert sandbox.invoke(event).json()["errorType"] == "Runtime.ExitError"
    record["attributes"]["ApproximateReceiveCount"] = "3"
    invocation = sandbox.invoke(event)
    assert not invocation.failed, invocation.log
    assert isinstance(result.result, WorkerLostError)


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import not_installed_anywhere\n", "not_installed_anywhere"),
        ("import sys\nsys.exit('no secrets')\n", "no secrets"),
        ("app = 7\n", "not an app"),
        ("def broken(:\n", "SyntaxError"),
    ],
)
def test_broken_deploy_hands_everything_back(lab: Lab, make_sandbox: MakeSandbox, source: str, cause: str) -> None:
    """An app that cannot be imported fails no invocation: all ids are reported and the log names the cause."""
    for _ in range(2):
        lab.app.send_task("app.add", (1, 2))
    event = lab.take()
    invocation = make_sandbox(source).invoke(event)
    assert not invocation.failed, invocation.log
    assert checked(invocation.json(), event) == [record["messageId"] for record in event["Records"]]
    assert cause in invocation.log


@pytest.mark.parametrize("handler", ["handlers.worker.handler", "handlers.dead_letter.handler"])
def test_broken_deploy_fails_its_tasks_after_the_grace(lab: Lab, make_sandbox: MakeSandbox, handler: str) -> None:
    """Whichever function has a message then: `get()` raises the cause, and the letter runs after the repair."""
    result = lab.app.send_task("app.add", (1, 2))
    event = lab.take()
    invocation = make_sandbox("import stripe\n", handler=handler, DISPATCHER_IMPORT_GRACE="0").invoke(event)
    assert not invocation.failed, invocation.log
    assert checked(invocation.json(), event) == []
    with pytest.raises(ImportError, match="No module named 'stripe'"):
        result.get(timeout=0)
    [letter] = lab.dead_letters()
    [record] = event["Records"]
    record["body"] = letter["Body"]
    assert make_sandbox().invoke(event).json() == {"batchItemFailures": []}
    assert lab.app.AsyncResult(result.id).get(timeout=0) == 3


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "died of SIGSEGV"),
        ("import os\nos._exit(3)\n", "exit code 3"),
    ],
)
def test_import_that_ends_the_process_is_survived_by_the_reader(
    lab: Lab, make_sandbox: MakeSandbox, source: str, cause: str
) -> None:
    """The worker dies of each batch until it is lost; whoever reads that must not die too, and `get()` raises."""
    result = lab.app.send_task("app.add", (1, 2))
    event = lab.take()
    assert make_sandbox(source).invoke(event).failed
    reader = make_sandbox(source, handler="handlers.dead_letter.handler", DISPATCHER_IMPORT_GRACE="0")
    invocation = reader.invoke(event)
    assert not invocation.failed, invocation.log
    assert checked(invocation.json(), event) == []
    with pytest.raises(ImportError, match=cause):
        result.get(timeout=0)


def test_dead_letter_function_refuses_a_task_queue(lab: Lab, make_sandbox: MakeSandbox) -> None:
    """Mapped to the wrong queue it would send each message home to itself; it says what to map it to instead."""
    lab.app.send_task("app.add", (1, 2))
    event = lab.take()
    invocation = make_sandbox(handler="handlers.dead_letter.handler").invoke(event)
    assert not invocation.failed, invocation.log
    assert len(checked(invocation.json(), event)) == 1
    assert "default is no lost queue" in invocation.log


@pytest.mark.parametrize("event", [{}, {"Records": []}, {"key1": "value1"}, None, [1], "test"], ids=repr)
def test_direct_invocation_is_answered_and_explained(make_sandbox: MakeSandbox, event: Any) -> None:
    """A test event from the console is no error of the function, and the log says what the function is for."""
    invocation = make_sandbox().invoke(event)
    assert not invocation.failed, invocation.log
    assert invocation.json() == {"batchItemFailures": []}
    assert "no batch of SQS messages" in invocation.log
