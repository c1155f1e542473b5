"""Rate limits in the Lambda worker: a message over the limit waits on the queue for its slot."""

import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher import aws, quotas
from dispatcher.aws_options import ClientSettings
from dispatcher.lambda_runtime.batches import Worker
from tests.emulation.endpoint import AwsEndpoint
from tests.handlers.lab import Lab


@pytest.fixture
def lab(aws_env: AwsEndpoint) -> Iterator[Lab]:
    """An app with a standard queue."""
    lab = Lab(aws_env, rate_limit_scope="global")
    yield lab
    lab.worker.close()


@pytest.fixture
def calls(lab: Lab) -> Iterator[list[str]]:
    """The names of the calls to DynamoDB."""
    names: list[str] = []
    lab.app.finalize()
    lab.app.backend.open()
    events = aws.client("dynamodb", ClientSettings()).meta.events

    def note(model: Any, **_: Any) -> None:
        names.append(model.name)

    events.register("before-call.dynamodb", note)
    yield names
    events.unregister("before-call.dynamodb", note)


def test_messages_over_the_limit_wait_for_their_slots(lab: Lab) -> None:
    """One of a batch starts, the others are reported, hidden, and start one by one."""
    starts: list[float] = []
    limited = lab.task(lambda: starts.append(time.time()), name="lab.limited", rate_limit="2/s")
    results = [limited.delay() for _ in range(4)]
    begun = time.time()
    assert len(lab.invoke()) == 3
    deadline = time.monotonic() + 30
    while len(starts) < 4 and time.monotonic() < deadline:
        lab.invoke()
    assert [start - begun >= number / 2 for number, start in enumerate(starts)] == [True] * 4
    assert [result.state for result in results] == ["SUCCESS"] * 4
    assert lab.depth() == {"visible": 0, "in_flight": 0, "delayed": 0}


def test_a_long_wait_is_delayed_instead_of_in_flight(lab: Lab) -> None:
    """What waits for more than a minute is sent anew with the longest delay, and the old copy is gone."""
    limited = lab.task(lambda: None, name="lab.limited", rate_limit="1/h")
    results = [limited.delay() for _ in range(3)]
    assert lab.invoke() == []
    assert lab.depth() == {"visible": 0, "in_flight": 0, "delayed": 2}
    records = lab.app.backend.read([result.id for result in results])
    waits = sorted(record.not_before - time.time() for record in records.values() if record.not_before is not None)
    assert [round(wait / quotas.SQS_MAX_DELAY) for wait in waits] == [4, 8]


def test_a_batch_reserves_together(lab: Lab, calls: list[str]) -> None:
    """Ten messages within the limit cost one write more than ten without, however many they are."""
    limited = lab.task(lambda: None, name="lab.limited", rate_limit="1000/s")
    for _ in range(10):
        limited.delay()
    assert lab.invoke() == []
    assert sorted(calls) == ["BatchExecuteStatement", "BatchGetItem", "UpdateItem"]


def test_the_scope_of_workers_is_refused(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """There are no workers here that could have a limit each; the start says what to do instead."""
    lab.task(lambda: None, name="lab.limited", rate_limit="1/s", rate_limit_scope="worker")
    worker = Worker(lambda: lab.app)
    with caplog.at_level(logging.CRITICAL):
        worker.start()
    assert "task lab.limited: rate_limit_scope='worker' cannot work in Lambda" in caplog.text
    assert "give the tasks of local workers an app of their own" in caplog.text
