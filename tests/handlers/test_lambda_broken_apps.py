"""An app that cannot be loaded loses no message: everything goes back, and rests longer each time."""

import datetime
import logging
import random
import time
from collections.abc import Callable

import pytest

from dispatcher import Dispatcher
from dispatcher.backends.base import Write
from dispatcher.brokers.base import Delivery
from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.lambda_runtime import handback
from dispatcher.lambda_runtime.batches import Worker
from tests.emulation.endpoint import AwsEndpoint
from tests.handlers.lab import Context, Lab, checked


@pytest.fixture
def lab(aws_env: AwsEndpoint) -> Lab:
    """An app with a queue, which the worker of each test cannot load."""
    return Lab(aws_env)


def fail(error: BaseException) -> Callable[[], Dispatcher]:
    """Return a loader that raises."""

    def load() -> Dispatcher:
        raise error

    return load


@pytest.mark.parametrize(
    "error", [ImportError("no module named stripe"), SystemExit(1), KeyboardInterrupt(), RecursionError()], ids=repr
)
def test_everything_goes_back(lab: Lab, error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the app's module raises, all ids are reported, nothing is lost, and the log names the cause."""
    for _ in range(3):
        lab.app.send_task("lab.x")
    event = lab.take()
    worker = Worker(fail(error))
    worker.start()
    reported = checked(worker(event, Context()), event)
    assert reported == [record["messageId"] for record in event["Records"]]
    assert lab.depth() == {"visible": 0, "in_flight": 3, "delayed": 0}
    assert repr(error) in caplog.text


def test_messages_rest_by_their_visibility(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue's URL comes from the ARN alone, since there is no configuration to ask."""
    monkeypatch.setattr(handback, "FIRST_REST", 0.0)
    lab.app.send_task("lab.x")
    event = lab.take()
    Worker(fail(ImportError("x")))(event, Context())
    assert lab.depth()["visible"] == 1


def test_app_that_loads_again_runs(lab: Lab) -> None:
    """A cause that passes, such as a secret store out of reach, costs no new environment."""
    attempts: list[int] = []

    def load() -> Dispatcher:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("the secret store is out of reach")
        return lab.app

    worker = Worker(load)
    worker.start()
    result = lab.task(lambda: "ran", name="lab.x").delay()
    assert worker(lab.take(), Context()) == {"batchItemFailures": []}
    assert result.get(timeout=0) == "ran"
    worker.close()


def test_other_brokers_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    """An app whose messages do not come from SQS cannot run here."""
    app = Dispatcher("shop", broker="memory://", set_as_current=False)
    worker = Worker(lambda: app)
    with caplog.at_level(logging.CRITICAL):
        worker.start()
    assert "DISPATCHER_BROKER_URL=sqs://" in caplog.text


def test_app_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without DISPATCHER_APP the error says what to set."""
    from dispatcher.lambda_runtime.environment import app_of_environment

    monkeypatch.delenv("DISPATCHER_APP", raising=False)
    with pytest.raises(ImproperlyConfigured, match="DISPATCHER_APP=shop"):
        app_of_environment()


def test_rest_doubles_up_to_its_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message rests 10 s at first and 15 min at most, and never the same time as its neighbours."""
    monkeypatch.setattr(random, "uniform", lambda low, high: (low, high))
    assert [handback.rest(count) for count in (1, 2, 3, 8, 1000)] == [
        (7.5, 10.0), (15.0, 20.0), (30.0, 40.0), (675.0, 900.0), (675.0, 900.0),
    ]  # fmt: skip


# After the grace


KEY = "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eA=="
NO_STRIPE = ModuleNotFoundError("No module named 'stripe'")


@pytest.fixture
def hopeless(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A function whose environment says where records and queues are, and that gives a broken deploy no grace."""
    variables = {
        "DISPATCHER_APP": "shop.tasks:app", "DISPATCHER_BROKER_URL": "sqs://", "DISPATCHER_IMPORT_GRACE": "0",
        "DISPATCHER_RESULT_BACKEND": str(lab.app.conf.result_backend), "DISPATCHER_QUEUE_URL_DEFAULT": lab.url,
        "DISPATCHER_QUEUE_URL_DEFAULT_DEAD": lab.dead_url, "AWS_LAMBDA_FUNCTION_NAME": lab.app.main or "",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return lab


def serve(lab: Lab, cause: BaseException = NO_STRIPE) -> list[str]:
    """Run what is visible by a worker whose app raises; return the reported ids."""
    lab.worker = Worker(fail(cause))
    return lab.invoke()


def test_after_the_grace_tasks_fail_with_the_cause(hopeless: Lab) -> None:
    """`get()` raises ImportError, and the letter runs when it is brought back after the repair."""
    result = hopeless.app.send_task("lab.add", (1, 2), ignore_result=False)
    assert serve(hopeless) == []
    with pytest.raises(ImportError, match=r"the app shop\.tasks:app cannot be imported: .*No module named 'stripe'"):
        result.get(timeout=0)
    [letter] = hopeless.dead_letters()
    reason = {name: value["StringValue"] for name, value in letter["MessageAttributes"].items()}
    assert (reason["reason"], reason["task"], reason["task_id"]) == ("unimportable", "lab.add", result.id)
    assert hopeless.depth() == {"visible": 0, "in_flight": 0, "delayed": 0}
    hopeless.sqs.send_message(QueueUrl=hopeless.url, MessageBody=letter["Body"])
    hopeless.task(lambda x, y: x + y, name="lab.add")
    hopeless.worker = Worker(lambda: hopeless.app)
    assert hopeless.invoke() == []
    assert hopeless.app.AsyncResult(result.id).get(timeout=0) == 3


def test_what_follows_a_failure_waits_for_the_repair(hopeless: Lab) -> None:
    """`get()` raises at once; error callbacks take the app, so they are sent when it is there again."""
    told: list[str] = []

    @hopeless.task(name="lab.on_error")
    def on_error(task_id: str) -> None:
        told.append(task_id)

    result = hopeless.app.send_task("lab.add", (1, 2), link_error=on_error.s())
    first = hopeless.take()
    # Long enough ago for nobody else to be about to bury it.
    attributes, then = first["Records"][0]["attributes"], time.time() - 1000
    attributes["SentTimestamp"] = str(int((then - 60) * 1000))
    for count in ("1", "12"):
        attributes["ApproximateReceiveCount"] = count
        assert len(handback.hand_back(first["Records"], then, NO_STRIPE)["batchItemFailures"]) == 1
        with pytest.raises(ImportError, match="stripe"):
            hopeless.app.AsyncResult(result.id).get(timeout=0)
    hopeless.task(lambda x, y: x + y, name="lab.add")
    hopeless.worker = Worker(lambda: hopeless.app)
    assert hopeless.invoke(first) == []
    assert hopeless.invoke() == []
    assert told == [result.id]
    [letter] = hopeless.dead_letters()
    assert letter["MessageAttributes"]["exception"]["StringValue"].startswith("ImportError: the app")
    assert hopeless.app.read_message(Delivery("default", letter["Body"], None)).gen == 1


def test_the_grace_counts_from_the_first_failure(hopeless: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that waited for days before a broken deploy has its grace too, and so has the next broken deploy."""
    monkeypatch.setenv("DISPATCHER_IMPORT_GRACE", "3600")
    result = hopeless.app.send_task("lab.add", (1, 2))
    now, event = time.time(), hopeless.take()
    [record] = event["Records"]
    record["attributes"]["SentTimestamp"] = str(int((now - 3 * 86_400) * 1000))
    record["attributes"]["ApproximateReceiveCount"] = "40"

    def left_at(seconds: float) -> int:
        return len(handback.hand_back([record], now + seconds, NO_STRIPE)["batchItemFailures"])

    assert [left_at(seconds) for seconds in (0, 1500, 3000, 3599)] == [1, 1, 1, 1]
    assert result.state == "PENDING"
    assert left_at(3601) == 0
    assert result.state == "FAILURE"


def test_a_message_that_was_hardly_tried_goes_back(hopeless: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some environments may have the app: what was received once or twice may meet one of those."""
    monkeypatch.setenv("DISPATCHER_IMPORT_GRACE", "600")
    hopeless.app.send_task("lab.add", (1, 2))
    [record] = hopeless.take()["Records"]
    now = time.time()
    record["attributes"]["SentTimestamp"] = str(int((now - 86_400) * 1000))
    handback.hand_back([record], now, NO_STRIPE)
    assert handback.hand_back([record], now + 700, NO_STRIPE)["batchItemFailures"]


def test_a_firing_of_the_beat_waits_for_an_app(hopeless: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """Which task it starts is known to the app alone: it goes back, with the reason, and its entry decides later."""
    hopeless.sqs.send_message(QueueUrl=hopeless.url, MessageBody='{"v":1,"beat":"nightly","at":"2027-01-15T08:00:00Z"}')
    event = hopeless.take()
    answer = handback.hand_back(event["Records"], time.time() + 1000, NO_STRIPE)
    assert len(answer["batchItemFailures"]) == 1
    assert "only the app knows which task a firing of its beat starts" in caplog.text


def test_what_would_not_run_now_is_left_alone(hopeless: Lab) -> None:
    """Finished tasks, those that wait, and bodies that cannot be read: an app decides on them when there is one."""
    done, waits, later = (hopeless.app.send_task("lab.add") for _ in range(3))
    hopeless.app.send_task("lab.add", eta=datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=2))
    hopeless.sqs.send_message(QueueUrl=hopeless.url, MessageBody="no message")
    until = time.time() + 1000
    hopeless.app.backend.write([
        Write(done.id, "SUCCESS", 0, 0, 0, final=True, token="x", expires_at=until),
        Write(waits.id, "RETRY", 0, 0, 1, final=False, token="x", expires_at=until, not_before=until),
        Write(later.id, "RETRY", 0, 0, 1, final=False, token="x", expires_at=until, not_before=until - 2000),
    ])  # fmt: skip
    assert len(serve(hopeless)) == 3
    assert (done.state, waits.state, later.state) == ("SUCCESS", "RETRY", "FAILURE")
    assert hopeless.app.backend.read([later.id])[later.id].retries == 1


def test_signed_messages_need_the_keys_in_the_environment(
    aws_env: AwsEndpoint, hopeless: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without them nobody knows who sent a message, and it goes back; with them its letter is signed too."""
    hopeless.app.conf.signing_keys = f"k:{KEY}"
    result = hopeless.app.send_task("lab.add", (1, 2))
    event = hopeless.take()
    hopeless.worker = Worker(fail(NO_STRIPE))
    assert len(hopeless.invoke(event)) == 1
    assert "DISPATCHER_SIGNING_KEYS" in caplog.text
    assert result.state == "PENDING"
    monkeypatch.setenv("DISPATCHER_SIGNING_KEYS", f"k:{KEY}")
    assert hopeless.invoke(event) == []
    assert isinstance(result.result, ImportError)
    [letter] = hopeless.dead_letters()
    assert hopeless.app.read_message(Delivery("default", letter["Body"], None)).gen == 1


def test_without_a_known_backend_everything_goes_back(
    hopeless: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the app's own code says where records are, nothing can be recorded, and nothing is lost."""
    hopeless.app.send_task("lab.add")
    monkeypatch.delenv("DISPATCHER_RESULT_BACKEND")
    monkeypatch.delenv("DISPATCHER_BROKER_URL")
    assert len(serve(hopeless)) == 1
    assert "DISPATCHER_RESULT_BACKEND" in caplog.text
    monkeypatch.setenv("DISPATCHER_RESULT_BACKEND", "dynamodb://not-there?create_table=false")
    hopeless.app.send_task("lab.add")
    assert len(serve(hopeless)) == 1


def test_how_long_a_message_has_rested() -> None:
    """The sum of all rests before a receive."""
    assert [handback.rested(count) for count in (1, 2, 3, 8, 9, 11)] == [0, 10, 30, 1270, 2170, 3970]
