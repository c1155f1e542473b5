"""Messages that SQS gives up, through both deployed functions: no `get()` waits for ever, and nothing is lost.

Native redrive, event source mappings, and AWS's runtime client around both handlers in processes of their own.
"""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher import Dispatcher, signature
from dispatcher.async_result import AsyncResult
from dispatcher.brokers.base import Outgoing
from dispatcher.consumer import lost as consumer_lost
from dispatcher.consumer.loop import BrokerTransport
from dispatcher.consumer.worker import Worker
from dispatcher.exceptions import NotRegistered, WorkerLostError
from dispatcher.execution import recording
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from dispatcher.execution.settling import derived_id
from tests.emulation.deployment import Deployment, deploy
from tests.emulation.endpoint import AwsEndpoint, unique_name
from tests.emulation.resting import failures_at_rest

TIMEOUT = 120.0
KEY = "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eA=="

APP = """
import os, signal, time
from dispatcher import Dispatcher

app = Dispatcher("shop")

@app.task
def add(x, y):
    return x + y

@app.task
def die():
    os.kill(os.getpid(), signal.SIGKILL)

@app.task
def hang():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    time.sleep(60)

@app.task
def told(task_id):
    return f"told of {task_id}"
"""


@pytest.fixture(scope="module")
def deployment(aws_endpoint_chaos: AwsEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Both functions, a queue that gives messages up after two receives, and no guard that would fail them first."""
    source = tmp_path_factory.mktemp("app") / "app.py"
    source.write_text(APP)
    made = deploy(
        aws_endpoint_chaos, app="app:app", sources=[source], queues=("default", "orders.fifo"), timeout=3,
        visibility_timeout=3, max_receive_count=2, dead_letter_handler="handlers.dead_letter.handler",
        environment={
            "DISPATCHER_LAMBDA_GUARD": "none", "DISPATCHER_LOST_AFTER": "3", "DISPATCHER_UNKNOWN_GRACE": "1",
            "DISPATCHER_SIGNING_KEYS": f"k:{KEY}", "DISPATCHER_MAX_WORKER_LOSSES": "50",
        },
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in made.environment().items():
            patch.setenv(name, value)
        yield made


@pytest.fixture(scope="module")
def shop(deployment: Deployment) -> Iterator[Dispatcher]:
    """A producer's app: it knows the queues and the table, and none of the tasks."""
    with Dispatcher("shop", signing_keys=f"k:{KEY}", set_as_current=False) as app:
        yield app


@pytest.fixture(autouse=True)
def function_logs(deployment: Deployment) -> Iterator[None]:
    """Show the functions' logs beside a failure."""
    yield
    for name in (deployment.worker, deployment.worker.replace("-worker", "-dead-letter")):
        print(name, *deployment.aws.function_log(name)[-60:], sep="\n")


def letter(deployment: Deployment, task_id: str, queue: str = "default") -> tuple[dict[str, Any], dict[str, str]]:
    """Wait for a task's dead letter; return its body and its reason."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        answer = deployment.aws.client("sqs").receive_message(
            QueueUrl=deployment.queues[queue].dead, MaxNumberOfMessages=10, MessageAttributeNames=["All"],
            VisibilityTimeout=0, WaitTimeSeconds=1,
        )  # fmt: skip
        for message in answer.get("Messages", []):
            texts = {name: value["StringValue"] for name, value in message.get("MessageAttributes", {}).items()}
            if texts.get("task_id") == task_id:
                return json.loads(message["Body"]), texts
    raise AssertionError(f"no dead letter of {task_id}")


@pytest.fixture(scope="module")
def deadly(shop: Dispatcher) -> dict[str, AsyncResult[Any]]:
    """Tasks that end their function, by their queue; side by side, because each takes its time."""
    errback = signature("app.told", app=shop)
    return {
        queue: shop.send_task(f"app.{task}", queue=queue, link_error=errback.set(queue=queue))
        for task, queue in (("die", "default"), ("hang", "orders.fifo"))
    }


@pytest.mark.parametrize(("task", "queue"), [("die", "default"), ("hang", "orders.fifo")])
def test_a_task_that_ends_its_function_each_time_fails(
    deployment: Deployment, shop: Dispatcher, deadly: dict[str, AsyncResult[Any]], task: str, queue: str
) -> None:
    """Killed or timed out until SQS moves its message: `get()` raises, the errback runs, the letter says why."""
    result = deadly[queue]
    with pytest.raises(WorkerLostError, match=r"times, started, the last time at .* and never ended"):
        result.get(timeout=TIMEOUT)
    body, reason = letter(deployment, result.id, queue)
    assert (body["id"], body["gen"]) == (result.id, 1)
    assert (reason["reason"], reason["task"]) == ("failed", f"app.{task}")
    assert reason["exception"].startswith(f"WorkerLostError: app.{task}[{result.id}] was received")
    told = shop.AsyncResult(derived_id(result.id, "link_error/0"))
    assert told.get(timeout=TIMEOUT) == f"told of {result.id}"


@pytest.mark.parametrize("queue", ["default", "orders.fifo"])
def test_a_message_that_never_started_runs_in_the_end(deployment: Deployment, shop: Dispatcher, queue: str) -> None:
    """Throttled until SQS moved it: the reader sends it home, signed for its queue."""
    sent: list[Outgoing] = []
    lost = queue.replace(".fifo", "") + "-lost" + (".fifo" if "." in queue else "")
    send, task_id = shop.broker.send, str(uuid.uuid4())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shop.broker, "send", sent.extend)
        result = shop.send_task("app.add", (20, 22), task_id=task_id, queue=queue)
    # As SQS would do, at the end of a hundred throttled receives.
    send([message._replace(queue=lost) for message in sent])
    assert result.get(timeout=TIMEOUT) == 42


def test_a_task_that_nobody_knows_fails_after_its_grace(deployment: Deployment, shop: Dispatcher) -> None:
    """Handed back for the sake of rolling deploys, whichever function has it when the grace is over: `get()` raises."""
    result = shop.send_task("app.of_a_newer_release")
    with pytest.raises(NotRegistered, match=r"app\.of_a_newer_release"):
        result.get(timeout=TIMEOUT)
    assert letter(deployment, result.id)[1]["reason"] == "undecodable"


def test_what_cannot_be_read_is_buried(deployment: Deployment, shop: Dispatcher) -> None:
    """A body that is no message, straight in the lost queue, does not go round for ever."""
    sqs, dead = deployment.aws.client("sqs"), deployment.queues["default"].dead
    sqs.send_message(QueueUrl=deployment.queues["default"].lost, MessageBody="no message at all")
    deadline, bodies = time.monotonic() + TIMEOUT, list[str]()
    while "no message at all" not in bodies and time.monotonic() < deadline:
        answer = sqs.receive_message(QueueUrl=dead, MaxNumberOfMessages=10, VisibilityTimeout=0, WaitTimeSeconds=1)
        bodies += [message["Body"] for message in answer.get("Messages", [])]
    assert "no message at all" in bodies


@pytest.mark.timeout(3 * TIMEOUT)
def test_queues_end_empty(shop: Dispatcher, deployment: Deployment) -> None:
    """Nothing stays behind in the queues or the lost queues but second copies of failed tasks, at rest."""
    # A copy that came together with another one waits a minute for what is decided on that.
    deadline = time.monotonic() + TIMEOUT
    urls = [url for queue in deployment.queues.values() for url in (queue.url, queue.lost)]
    while any(failures_at_rest(deployment.aws, url, shop.backend) is None for url in urls):
        assert time.monotonic() < deadline, [deployment.aws.messages(url) for url in urls]


@pytest.mark.parametrize("pool", ["threads", "asyncio"])
def test_local_workers_read_lost_queues_too(aws_env: AwsEndpoint, monkeypatch: pytest.MonkeyPatch, pool: str) -> None:
    """A team without Lambda has no hanging `get()` either; the queues are made by the broker."""
    monkeypatch.setattr(consumer_lost, "EVERY", 0.2)
    app = Dispatcher(
        "local", broker="sqs://", backend=f"dynamodb://{unique_name('lost')}", set_as_current=False, lost_after=1,
        task_default_queue=unique_name("lost"), task_publish_retry=False, worker_allow_unkept_limits=True,
        broker_transport_options={"max_receive_count": 2, "visibility_timeout": 1, "wait_time_seconds": 1},
    )  # fmt: skip
    task = app.task(name="die")(lambda: "ran")
    killed, throttled, queue = task.delay(), task.delay(), app.conf.task_default_queue
    executor = Executor(Environment(app, app.backend, BrokerTransport(app.broker), clock=app.clock))
    for _ in range(4):  # received too often for nothing, one of them after a recorded start
        for run in executor.prepare(app.broker.receive([queue], 2, wait=2)):
            if run.id == killed.id:
                recording.record_start(executor.env, run)
    worker = Worker(app, pool=pool, concurrency=2, handle_signals=False)
    thread = threading.Thread(target=worker.start)
    thread.start()
    try:
        assert throttled.get(timeout=TIMEOUT) == "ran"
        with pytest.raises(WorkerLostError, match="never ended"):
            killed.get(timeout=TIMEOUT)
    finally:
        worker.stop()
        thread.join()
    [dead] = app.broker.dead_letters(queue)
    assert (dead.queue, dead.reason["task_id"]) == (queue, killed.id)
    assert queue in app.broker.queues()
    assert f"{queue}-lost" not in app.broker.queues()
    app.close()
