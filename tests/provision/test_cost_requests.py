"""The requests behind an estimate are those that an endpoint sees: the same run, modelled and counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dispatcher import aws, chain, chord
from dispatcher.aws_options import ClientSettings
from dispatcher.provision.demand import Demand, Traffic, of_call
from dispatcher.provision.plan import PlannedTask, plan
from tests.emulation.endpoint import AwsEndpoint, unique_name
from tests.emulation.metering import Meter
from tests.handlers.lab import Context, Lab, checked

CALLS = 100
BATCH = 10

#: What of a demand the endpoint can count.
COUNTED = ("sends", "receives", "deletes", "changes", "invocations", "writes", "reads", "puts", "gets")
_OPERATIONS = {
    "sqs:SendMessageBatch": "sends",
    "sqs:ReceiveMessage": "receives",
    "sqs:DeleteMessageBatch": "deletes",
    "sqs:ChangeMessageVisibilityBatch": "changes",
    "s3:PutObject": "puts",
    "s3:GetObject": "gets",
}


class Counted(Lab):
    """A lab whose calls are counted, its mapping's own too, while a queue is kept full and worked off."""

    def __init__(self, endpoint: AwsEndpoint, **settings: Any) -> None:
        super().__init__(endpoint, **settings)
        self.mapping = aws.client("sqs", ClientSettings(region=None))
        self.invocations = 0

    def run(self, send: Callable[[int], Any], calls: int = CALLS) -> Demand:
        """Send calls ten at a time whenever fewer are visible, and run them; return what was asked of AWS."""
        self.app.finalize()
        self._write_whole_batches()
        clients = [aws.client(service, ClientSettings()) for service in ("sqs", "dynamodb", "s3")]
        left = iter(range(0, calls, BATCH))
        with Meter(*clients) as meter:
            while True:
                visible = self.depth()["visible"]
                if visible < BATCH and (start := next(left, None)) is not None:
                    send(start)
                elif visible:
                    self._handle_batch()
                else:
                    break
        found = dict.fromkeys(COUNTED, 0.0)
        for operation, count in meter.calls.items():
            if operation in _OPERATIONS:
                found[_OPERATIONS[operation]] += count
        found |= {"writes": meter.write_units, "reads": meter.read_units, "invocations": self.invocations}
        return Demand(**found)

    def _write_whole_batches(self) -> None:
        """Keep outcomes until their batch is through, however slow this machine is: no run of the model takes time."""
        self.worker.start()
        environment = self.worker._environment
        assert environment is not None
        environment._executor.flush_after = 3600.0

    def _handle_batch(self) -> None:
        answer = self.mapping.receive_message(
            QueueUrl=self.url, MaxNumberOfMessages=BATCH, MessageSystemAttributeNames=["All"]
        )
        event = {"Records": [self._record(message) for message in answer["Messages"]]}
        self.invocations += 1
        reported = checked(self.worker(event, Context()), event)
        done = [message for message in answer["Messages"] if message["MessageId"] not in reported]
        if done:
            entries = [{"Id": each["MessageId"], "ReceiptHandle": each["ReceiptHandle"]} for each in done]
            self.mapping.delete_message_batch(QueueUrl=self.url, Entries=entries)


@pytest.fixture
def lab(aws_env: AwsEndpoint) -> Iterator[Counted]:
    """A queue, a table and an app."""
    made = Counted(aws_env, metrics_namespace=None)
    yield made
    made.worker.close()


def _planned(lab: Counted, name: str) -> PlannedTask:
    return next(task for task in plan(lab.app).tasks if task.name == name)


def _check(counted: Demand, modelled: Demand, calls: int = CALLS) -> None:
    """Compare to within a twentieth."""
    for name in COUNTED:
        assert getattr(modelled, name) * calls == pytest.approx(getattr(counted, name), rel=0.05, abs=1), (
            f"{name}: {getattr(modelled, name) * calls:g} in the model, {getattr(counted, name):g} counted"
        )


def _model(lab: Counted, name: str, traffic: Traffic, batch: float = BATCH) -> Demand:
    function = plan(lab.app).queues[0].function
    assert function is not None
    return of_call(_planned(lab, name), dataclasses.replace(function, batch_size=BATCH), traffic, batch, 86_400)


def _many(task: Any) -> Callable[[int], Any]:
    return lambda start: task.app.send_many([task.s(number) for number in range(start, start + BATCH)])


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="with results"),
        pytest.param({"ignore_result": True}, id="without results"),
        pytest.param({"ignore_result": True, "revocable": False}, id="lean"),
        pytest.param({"rate_limit": "100000/s", "rate_limit_scope": "global"}, id="rate limited"),
        pytest.param({"track_started": True}, id="starts recorded"),
        pytest.param({"acks_late": False}, id="at most once"),
    ],
)
def test_a_call_that_succeeds(lab: Counted, options: dict[str, Any]) -> None:
    """Sent ten together, run ten together."""
    task = lab.task(lambda number: number, name="lab.task", **options)
    _check(lab.run(_many(task)), _model(lab, "lab.task", Traffic(together=10, duration=0.0)))


def test_large_results(lab: Counted) -> None:
    """A write unit for each KB of the record."""
    task = lab.task(lambda number: "x" * 3_000, name="lab.task")
    _check(lab.run(_many(task)), _model(lab, "lab.task", Traffic(together=10, duration=0.0, record=3_400)))


def test_calls_that_have_expired(lab: Counted) -> None:
    """They do not run, and their records say so."""
    task = lab.task(lambda number: number, name="lab.task")

    def send(start: int) -> None:
        lab.app.send_many([task.s(number).set(expires=-1.0) for number in range(start, start + BATCH)])

    _check(lab.run(send), _model(lab, "lab.task", Traffic(together=10, duration=0.0)))


@pytest.mark.parametrize("lean", [False, True], ids=["with results", "lean"])
def test_calls_that_others_follow(lab: Counted, lean: bool) -> None:
    """What follows a batch is sent together, after a record that lean tasks have for it."""
    first, second = (
        lab.task(lambda number: number, name=f"lab.{name}", ignore_result=lean, revocable=not lean)
        for name in ("first", "second")
    )

    def send(start: int) -> None:
        for number in range(start, start + BATCH):
            chain(first.s(number), second.s()).apply_async()

    modelled = _model(lab, "lab.first", Traffic(duration=0.0, linked=1.0))
    _check(lab.run(send), modelled + _model(lab, "lab.second", Traffic(duration=0.0, following=1.0)))


def test_results_that_are_read(lab: Counted) -> None:
    """One that is there is read once."""
    task, results = lab.task(lambda number: number, name="lab.task"), []

    def send(start: int) -> None:
        results.extend(lab.app.send_many([task.s(number) for number in range(start, start + BATCH)]))

    ran = lab.run(send)
    with Meter(aws.client("dynamodb", ClientSettings())) as meter:
        assert [result.get(timeout=5) for result in results] == list(range(CALLS))
    counted = dataclasses.replace(ran, reads=ran.reads + meter.read_units)
    _check(counted, _model(lab, "lab.task", Traffic(together=10, duration=0.0, reads=1.0)))


def test_calls_that_are_sent_alone(lab: Counted) -> None:
    """Each is a request of its own."""
    task = lab.task(lambda number: number, name="lab.task")

    def send(start: int) -> None:
        for number in range(start, start + BATCH):
            task.delay(number)

    _check(lab.run(send), _model(lab, "lab.task", Traffic(duration=0.0)))


def test_a_unique_task(lab: Counted) -> None:
    """Its claim, its lease, and a transaction for its outcome."""
    task = lab.task(lambda number: number, name="lab.task", unique=True)

    def send(start: int) -> None:
        for number in range(start, start + BATCH):
            task.delay(number)

    _check(lab.run(send), _model(lab, "lab.task", Traffic(duration=0.0)))


@pytest.mark.parametrize("lean", [False, True], ids=["with results", "lean"])
def test_calls_that_are_retried(lab: Counted, lean: bool) -> None:
    """Every second call, once: it is received again, its start and its retry are recorded."""

    @lab.task(bind=True, name="lab.task", max_retries=3, ignore_result=lean, revocable=not lean)
    def task(self: Any, number: int) -> None:
        if number % 2 and not self.request.retries:
            raise self.retry(countdown=0)

    # More calls than elsewhere: at the end of the run its batches are emptier than any model of a steady one.
    counted = lab.run(_many(task), 2 * CALLS)
    _check(counted, _model(lab, "lab.task", Traffic(together=10, duration=0.0, retries=0.5)), 2 * CALLS)


def test_calls_that_fail(lab: Counted) -> None:
    """One in four: its dead letters are sent, as many of a batch as there are in one request."""

    @lab.task(name="lab.task")
    def task(number: int) -> None:
        if number % 4 == 0:
            raise ValueError(number)

    _check(lab.run(_many(task)), _model(lab, "lab.task", Traffic(together=10, duration=0.0, failures=0.25)))


def test_members_of_a_chord(lab: Counted) -> None:
    """A mark in the join for each, and a read by the body."""
    task, total = lab.task(lambda number: number, name="lab.task"), lab.task(sum, name="lab.total")
    counted = lab.run(lambda _: chord([task.s(number) for number in range(100)], total.s()).apply_async(), BATCH)
    one = _model(lab, "lab.total", Traffic(duration=0.0), batch=1.0)
    member = _model(lab, "lab.task", Traffic(together=10, duration=0.0, joined=1.0))
    # The join is made, completed and closed: three writes of its own.
    _check(counted, member * 100 + one + Demand(writes=3.0), 1)


def test_arguments_in_a_bucket(aws_env: AwsEndpoint) -> None:
    """A put at the call, a get at the run."""
    bucket = unique_name("payloads")
    aws_env.client("s3").create_bucket(Bucket=bucket)
    lab = Counted(aws_env, metrics_namespace=None, payload_bucket=bucket, payload_threshold=1_024)
    task = lab.task(len, name="lab.task")
    counted = lab.run(
        lambda start: [task.delay(f"{number}{'x' * 2_000}") for number in range(start, start + BATCH)], 50
    )
    _check(counted, _model(lab, "lab.task", Traffic(duration=0.0, payloads=1.0)), 50)
    lab.worker.close()


def test_large_messages_count_for_several_requests(lab: Counted) -> None:
    """64 KB are one request of SQS, in batches too."""
    modelled = _model(lab, lab.task(len, name="lab.task").name, Traffic(together=10, body=20_000), batch=10.0)
    assert modelled.sends == pytest.approx(0.4)
    assert modelled.receives == pytest.approx(0.4)
