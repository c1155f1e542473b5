"""Delays that Scheduler keeps, from a call to its result through the deployed function, on an emulator over HTTP."""

import json
import os
import time
from collections.abc import Iterator

import pytest

from dispatcher import Dispatcher
from dispatcher.brokers import sqs_delays
from dispatcher.brokers.sqs_delays import name_of
from dispatcher.exceptions import OperationalError
from tests.emulation.deployment import Deployment, deploy
from tests.emulation.endpoint import AwsEndpoint

TIMEOUT = 60.0
ROLE = "arn:aws:iam::000000000000:role/later"
DAY = 86_400.0

APP = """
import time
from dispatcher import Dispatcher

app = Dispatcher("shop", task_routes={"later.in_order": {"queue": "orders.fifo"}})

@app.task
def now(text):
    return [text, time.time()]

@app.task
def in_order(text):
    return [text, time.time()]
"""


@pytest.fixture(scope="module")
def deployment(aws_endpoint_chaos: AwsEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The handler of this repository with the app above; messages come twice now and then."""
    source = tmp_path_factory.mktemp("app") / "later.py"
    source.write_text(APP)
    made = deploy(aws_endpoint_chaos, app="later:app", sources=[source], queues=("default", "orders.fifo"), timeout=20)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in made.environment().items():
            patch.setenv(name, value)
        yield made


@pytest.fixture
def shop(deployment: Deployment) -> Iterator[Dispatcher]:
    """A producer's app with a role for schedules."""
    with Dispatcher("shop", set_as_current=False, broker_transport_options={"scheduler_role": ROLE}) as app:
        yield app


def schedules(deployment: Deployment) -> set[str]:
    """Name the schedules there are."""
    return {each["Name"] for each in deployment.aws.client("scheduler").list_schedules()["Schedules"]}


@pytest.mark.parametrize(("task", "queue"), [("later.now", "default"), ("later.in_order", "orders.fifo")])
def test_a_scheduled_message_comes_early_and_runs_on_time(
    shop: Dispatcher, deployment: Deployment, monkeypatch: pytest.MonkeyPatch, task: str, queue: str
) -> None:
    """The shortest delay and how early it comes are seconds here; what Scheduler fills in stays as it was written."""
    monkeypatch.setattr(sqs_delays, "_WORTH_A_SCHEDULE", 3.0)
    monkeypatch.setattr(sqs_delays, "own_delay", lambda queue: 0.0)
    monkeypatch.setattr(sqs_delays, "SCHEDULER_PRECISION", 2)
    eta = time.time() + 4
    result = shop.send_task(task, ("<aws.scheduler.execution-id>",), queue=queue, countdown=4)
    assert name_of(result.id) in schedules(deployment)
    text, ran = result.get(timeout=TIMEOUT)
    assert text == "<aws.scheduler.execution-id>"
    assert ran >= eta
    assert name_of(result.id) not in schedules(deployment)


def test_a_revoked_task_ends_long_before_it_is_due(shop: Dispatcher, deployment: Deployment) -> None:
    """Its message is brought forward, its schedule deleted, and whoever waits for it learns of it."""
    result = shop.send_task("later.now", ("never",), countdown=300 * DAY)
    other = shop.send_task("later.now", ("never",), countdown=300 * DAY)
    assert {name_of(result.id), name_of(other.id)} <= schedules(deployment)
    shop.control.revoke(result.id)
    assert name_of(result.id) not in schedules(deployment)
    with pytest.raises(Exception, match="revoked"):
        result.get(timeout=TIMEOUT)
    assert name_of(other.id) in schedules(deployment)
    other.revoke()
    assert (other.state, name_of(other.id) in schedules(deployment)) == ("REVOKED", False)


@pytest.fixture(scope="module")
def guarded(aws_iam: AwsEndpoint) -> AwsEndpoint:
    """An endpoint that asks for permissions, with the queues and a role for schedules."""
    for name in ("default", "default-lost", "default-dead"):
        aws_iam.client("sqs").create_queue(QueueName=name)
    for name, who in (("later", {"Service": "scheduler.amazonaws.com"}), ("producer", {"AWS": "*"})):
        trust = {"Effect": "Allow", "Principal": who, "Action": "sts:AssumeRole"}
        policy = {"Version": "2012-10-17", "Statement": [trust]}
        aws_iam.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(policy))
    return aws_iam


def test_the_documented_permissions_suffice(guarded: AwsEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of docs/aws.md for a producer with long delays, and one more to revoke; with less the error says so."""
    for name in [name for name in os.environ if name.startswith("DISPATCHER_")]:
        monkeypatch.delenv(name)  # the other deployment's
    for name, value in guarded.env().items():
        monkeypatch.setenv(name, value)
    queues = (
        ["sqs:SendMessage", "sqs:SendMessageBatch", "sqs:GetQueueUrl"],
        "arn:aws:sqs:us-east-1:000000000000:default*",
    )
    own = "arn:aws:scheduler:us-east-1:000000000000:schedule/default/task-*"
    scheduling = ["scheduler:CreateSchedule", "scheduler:GetSchedule"], own
    passing = ["iam:PassRole"], ROLE
    options = {"scheduler_role": ROLE, "sts_role_arn": ROLE.replace("later", "producer")}

    def allow(*given: tuple[list[str], str]) -> Dispatcher:
        statements = [{"Effect": "Allow", "Action": actions, "Resource": on} for actions, on in given]
        guarded.client("iam").put_role_policy(
            RoleName="producer", PolicyName="own",
            PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": statements}),
        )  # fmt: skip
        return Dispatcher(
            "shop", set_as_current=False, broker="sqs://", backend="dynamodb://results", task_publish_retry=False,
            broker_transport_options=options, result_backend_transport_options={"create_table": True},
        )  # fmt: skip

    def names() -> list[str]:
        return [each["Name"] for each in guarded.client("scheduler").list_schedules()["Schedules"]]

    with allow(queues) as app, pytest.raises(OperationalError, match=r"perform: scheduler:CreateSchedule .* docs/aws"):
        app.send_task("later.now", ("never",), countdown=DAY)
    with allow(queues, scheduling, passing) as app:
        result = app.send_task("later.now", ("never",), countdown=DAY)
    assert names() == [name_of(result.id)]
    with allow(queues, scheduling, passing, (["scheduler:DeleteSchedule"], own)) as app:
        app.control.revoke(result.id)
    assert names() == []
