"""From a call to its result through the deployed function, with messages duplicated and in disorder.

A call here, SQS over HTTP, an event source mapping, AWS's runtime client around the handler in a process of its own,
and the result from DynamoDB over HTTP.
"""

import datetime
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher import Dispatcher, signature
from dispatcher.exceptions import SoftTimeLimitExceeded
from tests.emulation.deployment import Deployment, deploy
from tests.emulation.endpoint import AwsEndpoint
from tests.emulation.environments import ROOT
from tests.emulation.resting import failures_at_rest

TIMEOUT = 120.0

APP = """
import asyncio, time
from dispatcher import Dispatcher
from dispatcher.exceptions import SoftTimeLimitExceeded
from dispatcher.utils.log import get_task_logger

app = Dispatcher("shop", task_routes={"app.in_order": {"queue": "orders.fifo"}})
logger = get_task_logger(__name__)
order = []

class Declined(Exception):
    pass

@app.task
def add(x, y):
    return x + y

@app.task(bind=True)
def flaky(self, failures):
    if self.request.retries < failures:
        raise self.retry(countdown=1, exc=OSError("no answer"), max_retries=10)
    return self.request.retries

@app.task(bind=True, autoretry_for=(ValueError,), max_retries=1, default_retry_delay=0)
def hopeless(self):
    raise ValueError("always")

@app.task
def decline(number):
    raise Declined(f"order {number}")

@app.task
async def wait(seconds, value):
    await asyncio.sleep(seconds)
    return value

@app.task(soft_time_limit=0.3)
def slow():
    try:
        time.sleep(60)
    except SoftTimeLimitExceeded:
        return "cleaned up"

@app.task(bind=True)
def progress(self, gate):
    self.update_state(state="PROGRESS", meta={"done": 1})
    self.app.AsyncResult(gate).get(timeout=50, disable_sync_subtasks=False)
    return "done"

@app.task
def parent(x):
    return add.delay(x, 1).id

@app.task(bind=True)
def in_order(self, group, number, fail=False):
    if fail and not self.request.retries:
        raise self.retry(countdown=1)
    return [group, number, time.time()]

@app.task(rate_limit="2/s", rate_limit_scope="global")
def limited():
    return time.time()

@app.task
def echo(value):
    logger.warning("echoing")
    return value

@app.task
def sequence(first):
    return [first]

@app.task
def on_error(task_id):
    return f"told of {task_id}"

@app.task(ignore_result=True, revocable=False)
def lean(marker):
    app.send_task("app.echo", (marker,), task_id=marker)
"""


@pytest.fixture(scope="module")
def deployment(aws_endpoint_chaos: AwsEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The handler of this repository with the app above, on a standard and a FIFO queue."""
    source = tmp_path_factory.mktemp("app") / "app.py"
    source.write_text(APP)
    made = deploy(
        aws_endpoint_chaos, app="app:app", sources=[source], queues=("default", "orders.fifo"), timeout=20,
        max_concurrency=2,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in made.environment().items():
            patch.setenv(name, value)
        yield made


@pytest.fixture(scope="module")
def shop(deployment: Deployment) -> Iterator[Dispatcher]:
    """A producer's app: it knows the queues and the table, and none of the tasks."""
    with Dispatcher("shop", task_routes={"app.in_order": {"queue": "orders.fifo"}}, set_as_current=False) as app:
        yield app


@pytest.fixture(autouse=True)
def function_log(deployment: Deployment, request: pytest.FixtureRequest) -> Iterator[None]:
    """Show the function's log beside a failure."""
    yield
    print("\n".join(deployment.log()[-80:]))


def letters(deployment: Deployment, queue: str = "default") -> list[dict[str, Any]]:
    """Receive dead letters with their reasons."""
    answer = deployment.aws.client("sqs").receive_message(
        QueueUrl=deployment.queues[queue].dead,
        MaxNumberOfMessages=10,
        MessageAttributeNames=["All"],
        VisibilityTimeout=0,
    )
    return [
        {name: value["StringValue"] for name, value in message.get("MessageAttributes", {}).items()}
        for message in answer.get("Messages", [])
    ]


def test_delay_to_result(shop: Dispatcher) -> None:
    """Fifty calls give fifty right results, however often and in whatever order their messages are delivered."""
    results = [shop.send_task("app.add", (number, 1)) for number in range(50)]
    assert [result.get(timeout=TIMEOUT) for result in results] == list(range(1, 51))


def test_a_rate_limit_holds_across_environments(shop: Dispatcher) -> None:
    """No run starts before its slot, whichever environment it runs in and however often its message comes."""
    begun = time.time()
    results = [shop.send_task("app.limited") for _ in range(4)]
    starts = sorted(result.get(timeout=TIMEOUT) for result in results)
    assert all(start - begun >= number / 2 for number, start in enumerate(starts))


def test_producer_in_another_process(deployment: Deployment) -> None:
    """`.delay()` in one process, `.get()` in the same, the run in the function's."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from dispatcher import Dispatcher\n"
        "app = Dispatcher('shop')\n"
        "@app.task(name='app.add')\n"
        "def add(x, y): raise AssertionError('it must run elsewhere')\n"
        "print(add.delay(20, 22).get(timeout=60))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **deployment.environment()}, capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip
    assert done.stdout == "42\n", done.stderr


def test_retry_by_visibility(shop: Dispatcher) -> None:
    """A task is retried in its own message until it succeeds, in seconds although the queue's visibility is minutes."""
    assert shop.send_task("app.flaky", (3,)).get(timeout=TIMEOUT) == 3


def test_failure_ends_in_the_dead_letters(shop: Dispatcher, deployment: Deployment) -> None:
    """A failure comes back as its exception, and is kept with its reason, once although messages are duplicated."""
    failed = shop.send_task("app.decline", (7,))
    with pytest.raises(Exception, match="order 7"):
        failed.get(timeout=TIMEOUT)
    exhausted = shop.send_task("app.hopeless")
    with pytest.raises(ValueError, match="always"):
        exhausted.get(timeout=TIMEOUT)
    found: dict[str, dict[str, Any]] = {}
    deadline = time.monotonic() + TIMEOUT
    while not {failed.id, exhausted.id} <= found.keys() and time.monotonic() < deadline:
        found.update({letter["task_id"]: letter for letter in letters(deployment)})
    assert found[failed.id]["exception"] == "Declined: order 7"
    assert found[failed.id]["reason"] == "failed"
    assert "in decline" in found[failed.id]["traceback"]
    assert found[exhausted.id]["retries"] == "1"


def test_async_tasks(shop: Dispatcher) -> None:
    """Coroutine tasks run and return."""
    results = [shop.send_task("app.wait", (0.05, number)) for number in range(10)]
    assert [result.get(timeout=TIMEOUT) for result in results] == list(range(10))


def test_soft_limit(shop: Dispatcher) -> None:
    """A task that blocks is interrupted at its limit and returns what it has."""
    assert shop.send_task("app.slow").get(timeout=TIMEOUT) == "cleaned up"
    limited = shop.send_task("app.wait", (60, 1), soft_time_limit=0.2)
    with pytest.raises(SoftTimeLimitExceeded):
        limited.get(timeout=TIMEOUT)


def test_custom_state_is_seen_while_the_task_runs(shop: Dispatcher) -> None:
    """A state that a task gives itself can be read from outside before the task ends."""
    gate = str(uuid.uuid4())
    result = shop.send_task("app.progress", (gate,))
    deadline = time.monotonic() + TIMEOUT
    while (state := (result.state, result.info))[0] == "PENDING" and time.monotonic() < deadline:
        pass
    assert state == ("PROGRESS", {"done": 1})
    shop.send_task("app.add", (1, 1), task_id=gate)
    assert result.get(timeout=TIMEOUT) == "done"


def test_links(shop: Dispatcher) -> None:
    """A callback gets the result, an error callback the failed task's id."""
    callback_id, errback_id = str(uuid.uuid4()), str(uuid.uuid4())
    callback = signature("app.sequence", app=shop).set(task_id=callback_id)
    shop.send_task("app.add", (1, 2), link=callback)
    assert shop.AsyncResult(callback_id).get(timeout=TIMEOUT) == [3]
    errback = signature("app.on_error", app=shop).set(task_id=errback_id)
    failed = shop.send_task("app.decline", (8,), link_error=errback)
    assert shop.AsyncResult(errback_id).get(timeout=TIMEOUT) == f"told of {failed.id}"


def test_task_that_sends_a_task(shop: Dispatcher) -> None:
    """The function itself may send, with the task that sends as the parent."""
    result = shop.send_task("app.parent", (5,))
    child = shop.AsyncResult(result.get(timeout=TIMEOUT))
    assert child.get(timeout=TIMEOUT) == 6


def test_rich_values(shop: Dispatcher) -> None:
    """Values that plain JSON cannot hold survive the way there and back."""
    value = {
        "bytes": b"\x00\xff", "day": datetime.date(2026, 1, 2),
        "at": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
        "id": uuid.UUID(int=7), "set": {1, 2}, "text": "žluťoučký 🐎",
    }  # fmt: skip
    assert shop.send_task("app.echo", (value,)).get(timeout=TIMEOUT) == value
    packed = shop.send_task("app.echo", (value,), serializer="msgpack", compression="zlib")
    assert packed.get(timeout=TIMEOUT) == value


def test_countdown(shop: Dispatcher) -> None:
    """A task does not run before its time."""
    due = time.time() + 2
    result = shop.send_task("app.in_order", ("x", 1), countdown=2, queue="default")
    assert result.get(timeout=TIMEOUT)[2] >= due


def test_lean_task_runs(shop: Dispatcher) -> None:
    """A task that stores nothing still runs: it leaves a trace by another task."""
    marker = str(uuid.uuid4())
    shop.send_task("app.lean", (marker,))
    assert shop.AsyncResult(marker).get(timeout=TIMEOUT) == marker


def test_fifo_groups_keep_their_order(shop: Dispatcher) -> None:
    """Each group of a FIFO queue runs in the order it was sent, also around a retry."""
    results = [
        shop.send_task("app.in_order", (group, number), {"fail": number == 1}, MessageGroupId=group)
        for number in range(4)
        for group in ("a", "b")
    ]
    ran = [result.get(timeout=TIMEOUT) for result in results]
    for group in ("a", "b"):
        by_time = sorted((at, number) for name, number, at in ran if name == group)
        assert [number for _, number in by_time] == [0, 1, 2, 3]


def test_queues_end_empty(shop: Dispatcher, deployment: Deployment) -> None:
    """Nothing stays behind but second copies of failed tasks, which rest for 15 minutes."""
    shop.send_task("app.add", (1, 1)).get(timeout=TIMEOUT)
    deadline, urls = time.monotonic() + TIMEOUT, [queue.url for queue in deployment.queues.values()]
    while any(failures_at_rest(deployment.aws, url, shop.backend) is None for url in urls):
        assert time.monotonic() < deadline, [deployment.aws.messages(url) for url in urls]


def test_log_lines_name_task_and_request(shop: Dispatcher, deployment: Deployment) -> None:
    """A line that a task logs carries the task's id, root id and queue, and the request id of its invocation."""
    result = shop.send_task("app.echo", (1,))
    assert result.get(timeout=TIMEOUT) == 1
    deadline = time.monotonic() + TIMEOUT
    found: list[dict[str, Any]] = []
    while not found and time.monotonic() < deadline:
        lines = [json.loads(line) for line in deployment.log() if line.startswith('{"level"')]
        found = [line for line in lines if line.get("task_id") == result.id and line["message"] == "echoing"]
    assert found[0]["root_id"] == result.id
    assert found[0]["queue"] == "default"
    assert found[0]["task"] == "app.echo"
    assert any(f"START RequestId: {found[0]['function_request_id']}" in line for line in deployment.log())


def test_example_app_is_deployable(aws_endpoint_chaos: AwsEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The app that template.yaml names runs as it stands."""
    made = deploy(aws_endpoint_chaos, app="shop:app", sources=[Path(ROOT / "examples" / "shop.py")])
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    with Dispatcher("shop", set_as_current=False) as app:
        assert app.send_task("shop.add", (1, 2)).get(timeout=TIMEOUT) == 3
        assert app.send_task("shop.notify", ("a@b",)).get(timeout=TIMEOUT) == "mail to a@b"
