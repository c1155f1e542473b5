"""An app that cannot be loaded loses no message: everything goes back, and rests longer each time."""

import logging
import random
from collections.abc import Callable

import pytest

from dispatcher import Dispatcher
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
