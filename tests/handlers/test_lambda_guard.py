"""The guard process under AWS's runtime client: what hangs or dies costs one environment and re-runs no neighbour."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from dispatcher import chord
from dispatcher.exceptions import TimeLimitExceeded, WorkerLostError
from dispatcher.local.sandbox import Invocation, Sandbox
from tests.handlers.conftest import MakeSandbox
from tests.handlers.lab import Lab, checked

APP = r"""
import asyncio, ctypes, hashlib, os, re, resource, signal, threading, time
from dispatcher import Dispatcher, Task

app = Dispatcher("shop")

def ran(name):
    with open(os.environ["RUNS"], "a") as file:
        file.write(name + "\n")

@app.task(bind=True, time_limit=1.5)
def quick(self, name):
    while name == "hang":
        pass
    ran(name)
    return name.upper()

@app.task(ignore_result=True, revocable=False)
def lean(name):
    ran(name)

@app.task
def report(request, error, traceback):
    ran(f"errback {type(error).__name__} {request.id}")

@app.task(max_retries=5, bind=True)
def again(self, name):
    ran(name)
    raise self.retry(countdown=60)

@app.task
def fail(name):
    ran(name)
    raise KeyError(name)

@app.task
def child(name):
    ran(name)
    return lean.delay("child").id

@app.task(bind=True)
def adds(self, name):
    ran(name)
    if self.request.chord:
        self.add_to_chord(lean.si("added"))

@app.task(time_limit=0.3)
def hash_for_ever():
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 500_000_000)

@app.task(time_limit=0.3)
def spin():
    while True:
        pass

@app.task(time_limit=0.3)
def match():
    re.fullmatch(r"(a+)+b", "a" * 64)

@app.task
def swallow():
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass

@app.task
def count():
    return sum(range(10**12))

@app.task(time_limit=0.3, acks_late=False)
def once():
    while True:
        pass

@app.task(time_limit=0.3, unique=True)
def only():
    while True:
        pass

class HangsAfterwards(Task):
    def on_success(self, *details):
        while True:
            pass

@app.task(time_limit=0.3, base=HangsAfterwards)
def celebrate():
    return 1

@app.task
def segfault():
    ctypes.string_at(0)

@app.task
def leave():
    os._exit(0)

@app.task
def killed():
    os.kill(os.getpid(), signal.SIGKILL)

@app.task
def orphan():
    # A child of its own holds what it has inherited, the guard's pipe included.
    if os.fork() == 0:
        os.setsid()
        time.sleep(60)
        os._exit(0)
    os._exit(7)

@app.task
def devour():
    resource.setrlimit(resource.RLIMIT_AS, (2**28, resource.getrlimit(resource.RLIMIT_AS)[1]))
    try:
        return len(bytearray(2**30))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

@app.task
async def wait(name, seconds=0):
    ran(name)
    await asyncio.sleep(seconds)
    return name

@app.task
async def crash():
    ran("crash")
    await asyncio.sleep(0.1)
    os._exit(1)

@app.task
async def block():
    ran("block")
    await asyncio.sleep(0.1)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
"""


@pytest.fixture
def app_source() -> str:
    """The app of these tests."""
    return APP


class Function:
    """The function, its event source mapping worked by hand, and which tasks ran how often."""

    def __init__(self, lab: Lab, sandbox: Sandbox, runs: Path) -> None:
        self.lab = lab
        self.sandbox = sandbox
        self._runs = runs
        self._order: list[str] = []

    def send(self, name: str, *args: Any, **options: Any) -> Any:
        """Send a task."""
        result = self.lab.app.send_task(f"app.{name}", args, **options)
        self._order.append(result.id)
        return result

    def take(self) -> dict[str, Any]:
        """Receive what is visible, in the order of sending."""
        event = self.lab.take()
        event["Records"].sort(key=lambda record: [id_ in record["body"] for id_ in self._order].index(True))
        return event

    def invoke(self, event: dict[str, Any] | None = None) -> Invocation:
        """Run a batch; what an answer does not report is deleted."""
        event = self.take() if event is None else event
        invocation = self.sandbox.invoke(event)
        if not invocation.failed:
            reported = checked(invocation.json(), event)
            for record in event["Records"]:
                if record["messageId"] not in reported:
                    self.lab.sqs.delete_message(QueueUrl=self.lab.url, ReceiptHandle=record["receiptHandle"])
        return invocation

    def stuck_batch(self, task: str) -> tuple[Any, Invocation]:
        """Run a batch of a task and its neighbours; return the task's result and the invocation."""
        self.send("lean", "a")
        stuck = self.send(task)
        self.send("lean", "b")
        return stuck, self.invoke()

    def runs(self) -> list[str]:
        """Return the names of the runs there were, in their order."""
        return self._runs.read_text().split("\n")[:-1] if self._runs.exists() else []

    def dead_letters(self) -> dict[str, str]:
        """Return the exceptions of the dead letters by task id."""
        return {
            json.loads(letter["Body"])["id"]: letter["MessageAttributes"]["exception"]["StringValue"]
            for letter in self.lab.dead_letters()
        }


@pytest.fixture
def function(lab: Lab, make_sandbox: MakeSandbox, tmp_path: Path) -> Any:
    """Make the function with settings."""

    def make(timeout: float = 10.0, **variables: str) -> Function:
        runs = tmp_path / "runs"
        return Function(lab, make_sandbox(timeout=timeout, RUNS=str(runs), **variables), runs)

    return make


STUCK = {
    # task: the function's timeout
    "hash_for_ever": 10.0,
    "spin": 10.0,
    "match": 10.0,
    "swallow": 6.0,
    "count": 6.0,
}


@pytest.mark.parametrize("task", STUCK)
def test_stuck_task_fails_and_its_neighbours_run_once(function: Any, task: str) -> None:
    """A task past its hard limit, or deaf to its soft one, fails with TimeLimitExceeded; nothing else runs twice."""
    worker = function(STUCK[task])
    before = [worker.send("quick", "a"), worker.send("lean", "b")]
    errback = worker.lab.app.signature("app.report")
    stuck = worker.send(task, link_error=errback)
    after = [worker.send("quick", "c"), worker.send("lean", "d")]

    invocation = worker.invoke()

    assert invocation.json()["errorType"] == "Runtime.ExitError", invocation.log
    assert isinstance(stuck.result, TimeLimitExceeded)
    assert before[0].result == "A"
    assert worker.dead_letters().keys() == {stuck.id}
    assert worker.runs() == ["a", "b"]

    again = worker.invoke()

    assert again.init_duration is not None
    assert not again.failed, again.log
    assert sorted(worker.runs()) == ["a", "b", "c", "d", f"errback TimeLimitExceeded {stuck.id}"]
    assert after[0].result == "C"
    assert worker.lab.depth() == {"visible": 0, "in_flight": 0, "delayed": 0}


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("segfault", "signal: SIGSEGV"),
        ("leave", "exit status 0"),
        ("killed", "signal: SIGKILL"),
        ("orphan", "exit status 7"),
    ],
)
def test_death_is_counted_and_reruns_no_neighbour(function: Any, task: str, reason: str) -> None:
    """A task that ends the runtime goes back after a rest until it has done so too often; nothing else runs twice."""
    worker = function(DISPATCHER_MAX_WORKER_LOSSES="2")
    before = [worker.send("quick", "a"), worker.send("lean", "b")]
    deadly = worker.send(task)
    worker.send("lean", "c")

    event = worker.take()
    invocation = worker.invoke(event)

    assert reason in invocation.json()["errorMessage"]
    assert before[0].result == "A"
    assert worker.runs() == ["a", "b"]
    [record] = worker.lab.app.backend.read([deadly.id]).values()
    assert record.starts == 1
    rest = worker.take()
    assert len(rest["Records"]) == 1, "the task that was not started is back at once, the deadly one rests"
    assert not worker.invoke(rest).failed
    assert worker.runs() == ["a", "b", "c"]

    [second] = [record for record in event["Records"] if deadly.id in record["body"]]
    second["attributes"]["ApproximateReceiveCount"] = "2"
    assert worker.invoke({"Records": [second]}).failed

    assert isinstance(deadly.result, WorkerLostError)
    assert worker.dead_letters().keys() == {deadly.id}


def test_too_little_memory_is_the_task_s_failure(function: Any) -> None:
    """MemoryError in a task fails the task alone."""
    worker = function()
    hungry = worker.send("devour")
    worker.send("lean", "a")
    assert not worker.invoke().failed
    assert isinstance(hungry.result, MemoryError)
    assert worker.runs() == ["a"]


def test_decided_runs_that_were_not_written_yet_are_kept(function: Any) -> None:
    """Outcomes that wait for their batch's write are written by the guard: results, callbacks, failures and retries."""
    worker = function()
    app = worker.lab.app
    callback = app.signature("app.lean", ("linked",), immutable=True)
    for name in ("quick", "again", "fail", "child", "adds"):  # known to be quick from here on, so that outcomes wait
        worker.send(name, "warm")
    assert not worker.invoke().failed
    worker.lab.dead_letters()
    worker.take()

    quick = worker.send("quick", "a", link=callback)
    retried = worker.send("again", "b")
    failed = worker.send("fail", "c")
    parent = worker.send("child", "d")
    worker._order += ["member", "body"]
    body = app.signature("app.lean", ("body",), immutable=True, options={"task_id": "body"})
    chord([app.signature("app.adds", ("e",), task_id="member")], body, app=app).apply_async()
    worker.send("quick", "hang")
    assert worker.invoke().failed

    assert quick.result == "A"
    assert retried.state == "RETRY"
    assert isinstance(failed.result, KeyError)
    assert [child.id for child in parent.children] == [parent.result]
    [record] = worker.lab.app.backend.read([retried.id]).values()
    assert record.retries == 1
    again = worker.invoke()
    assert not again.failed
    assert not worker.invoke().failed
    runs = [run for run in worker.runs() if "warm" not in run]
    assert sorted(runs) == ["a", "added", "b", "body", "c", "child", "d", "e", "linked"]
    assert runs[-1] == "body"


@pytest.mark.parametrize("task", ["once", "only", "celebrate"])
def test_limit_holds_for_runs_that_start_once_and_for_hooks(function: Any, task: str) -> None:
    """With acks_late=False, with a lease, and in a hook after the function, the limit ends the run all the same."""
    worker = function()
    stuck, invocation = worker.stuck_batch(task)
    assert invocation.failed
    assert isinstance(stuck.result, TimeLimitExceeded)
    assert not worker.invoke().failed
    assert worker.runs() == ["a", "b"]


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n", "", "the guard "),
        (
            "import os\nif not os.path.exists('seen'):\n    open('seen', 'w').close()\n    import not_there_yet\n",
            "",
            "the guard ",
        ),
        ("", "del os.fork\n", "a thread keeps hard limits"),
    ],
    ids=["threads", "late", "no fork"],
)
def test_whatever_the_app_does_there_is_a_guard(
    lab: Lab, make_sandbox: MakeSandbox, tmp_path: Path, before: str, after: str, line: str
) -> None:
    """A guard is the child of a runtime with threads, or of one that started late; without fork it is a thread."""
    sandbox = make_sandbox(before + APP + after, RUNS=str(tmp_path / "runs"))
    worker = Function(lab, sandbox, tmp_path / "runs")
    stuck, invocation = worker.stuck_batch("spin")
    assert invocation.failed
    assert line in invocation.log
    assert isinstance(stuck.result, TimeLimitExceeded)
    assert not worker.invoke().failed
    assert worker.runs() == ["a", "b"]


@pytest.mark.parametrize("lab", ["fifo"], indirect=True)
@pytest.mark.parametrize(("task", "left"), [("spin", ["c", "d"]), ("killed", [])])
def test_order_of_fifo_groups_is_kept(function: Any, task: str, left: list[str]) -> None:
    """A group goes on behind a task that failed, and waits behind one that goes back."""
    worker = function()
    worker.send("quick", "a", group_id="g")
    worker.send("quick", "b", group_id="g")
    worker.send(task, group_id="g")
    for name in ("c", "d"):
        worker.send("quick", name, group_id="g")
    assert worker.invoke().failed
    assert worker.runs() == ["a", "b"]
    worker.invoke()
    assert worker.runs() == ["a", "b", *left]


@pytest.mark.parametrize(("task", "ending"), [("block", TimeLimitExceeded), ("crash", WorkerLostError)])
def test_of_coroutines_that_run_together_one_is_to_blame(function: Any, task: str, ending: type[Exception]) -> None:
    """The coroutine that the event loop is in is ended or counted; those that wait are run again, the ended not."""
    worker = function(6.0, DISPATCHER_LAMBDA_CONCURRENCY="10", DISPATCHER_MAX_WORKER_LOSSES="1")
    done = worker.send("wait", "done")
    waiting = worker.send("wait", "waiting", 0.5)
    culprit = worker.send(task)
    event = worker.take()
    assert worker.invoke(event).failed
    assert done.result == "done"
    assert [record.starts for record in worker.lab.app.backend.read([waiting.id]).values()] == []
    if task == "crash":
        [record] = worker.lab.app.backend.read([culprit.id]).values()
        assert record.starts == 1
        event = {"Records": [record for record in event["Records"] if culprit.id in record["body"]]}
        assert not worker.invoke(event).failed
    assert isinstance(culprit.result, ending)
    assert not worker.invoke().failed
    assert waiting.result == "waiting"
    assert sorted(worker.runs()) == sorted(["done", "waiting", task, "waiting"])


def test_deadline_of_an_answered_batch_means_nothing(function: Any) -> None:
    """An environment that was frozen past the deadline of its last batch serves the next one."""
    worker = function(1.5)
    worker.send("quick", "a")
    worker.invoke()
    time.sleep(1.6)  # the deadline passes while everything stands still
    worker.send("quick", "b")
    invocation = worker.invoke()
    assert invocation.init_duration is None
    assert not invocation.failed
    assert worker.runs() == ["a", "b"]
