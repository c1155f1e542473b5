"""Roles as planned, at an emulator that enforces IAM: tasks may do what is declared for their queue, and no more."""

import json
from collections.abc import Iterator

import pytest

from dispatcher import Dispatcher
from dispatcher.exceptions import OperationalError
from dispatcher.loading import find_app
from dispatcher.provision import plan
from dispatcher.provision.apply import apply
from tests.e2e.lambda_stack import EMULATOR_ONLY
from tests.emulation.endpoint import AwsEndpoint, unique_name
from tests.emulation.environments import ROOT

TIMEOUT = 60.0
APP = """
from dispatcher import Dispatcher
app = Dispatcher("planner")
app.conf.infra = {"timeout": 20, "queues": {"office": {"schedules": True}}}

@app.task(ignore_result=True)
def work(): ...

def _put(name):
    app.schedules.put(name, work, 3600.0)
    app.schedules.pause(name)
    return sorted(app.schedules.list())

@app.task(queue="office")
def put(name):
    return _put(name)

@app.task(queue="office")
def delete(name):
    return app.schedules.delete(name)

@app.task
def sneak(name):
    return _put(name)

@app.task
def later():
    return work.apply_async(countdown=3600).id
"""


@pytest.fixture(scope="module")
def planner(aws_iam: AwsEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dispatcher]:
    """A producer for the app of `APP`, deployed."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "planner.py").write_text(APP, encoding="utf-8")
    (folder / "dispatcher").symlink_to(ROOT / "dispatcher")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        for name, value in aws_iam.env().items():
            patch.setenv(name, value)
        made, stack = plan(find_app("planner:app"), spec="planner:app"), unique_name("planner")
        outputs = apply(made, endpoint=aws_iam.env()["AWS_ENDPOINT_URL"], stack=stack, code=folder)
        _adapt(aws_iam, stack)
        patch.setenv("DISPATCHER_BROKER_URL", outputs["BrokerUrl"])
        patch.setenv("DISPATCHER_TABLE", outputs["Table"])
        with Dispatcher("planner", set_as_current=False) as app:
            yield app


def _adapt(endpoint: AwsEndpoint, stack: str) -> None:
    """Allow each role what it has by the emulator's names: of batches, and of schedules as if in the default group."""
    iam, resources = endpoint.client("iam"), endpoint.client("cloudformation").list_stack_resources(StackName=stack)
    for each in resources["StackResourceSummaries"]:
        if each["ResourceType"] != "AWS::IAM::Role":
            continue
        role = each["PhysicalResourceId"]
        statements = [{"Effect": "Allow", "Action": EMULATOR_ONLY, "Resource": "*"}]
        for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
            statements += iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]["Statement"]
        text = json.dumps({"Version": "2012-10-17", "Statement": statements})
        text = text.replace(f":schedule/{stack}/", ":schedule/default/")
        iam.put_role_policy(RoleName=role, PolicyName="emulator", PolicyDocument=text)


def test_tasks_change_schedules_where_the_queue_says_so(planner: Dispatcher, aws_iam: AwsEndpoint) -> None:
    """One of another queue is denied it."""
    assert planner.send_task("planner.put", ("night",), queue="office").get(timeout=TIMEOUT) == ["night"]
    (schedule,) = aws_iam.client("scheduler").list_schedules(NamePrefix="beat-")["Schedules"]
    assert schedule["State"] == "DISABLED"
    with pytest.raises(OperationalError, match="AccessDenied"):
        planner.send_task("planner.sneak", ("day",)).get(timeout=TIMEOUT)
    assert planner.send_task("planner.delete", ("night",), queue="office").get(timeout=TIMEOUT) is True
    assert not aws_iam.client("scheduler").list_schedules(NamePrefix="beat-")["Schedules"]


def test_long_delays_that_tasks_ask_for_fall_back_to_the_lost_queue(planner: Dispatcher, aws_iam: AwsEndpoint) -> None:
    """The role suffices to make the schedule, and to name the queue of what it cannot deliver."""
    planner.send_task("planner.later").get(timeout=TIMEOUT)
    scheduler = aws_iam.client("scheduler")
    (schedule,) = scheduler.list_schedules(NamePrefix="task-")["Schedules"]
    target = scheduler.get_schedule(Name=schedule["Name"], GroupName=schedule["GroupName"])["Target"]
    assert target["DeadLetterConfig"]["Arn"].endswith("-default-lost")
