"""A CDK app for test_cdk.py: task queues inside a stack that has a network, a table, a queue and a key of its own."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aws_cdk import App, Stack
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs

from dispatcher import Dispatcher
from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.provision.cdk import DispatcherStack, TaskQueue

app = App()
own = Stack(app, "own")
code = app.node.try_get_context("code")


def attribute(name: str) -> dynamodb.Attribute:
    """A key of the table, of text."""
    return dynamodb.Attribute(name=name, type=dynamodb.AttributeType.STRING)


vpc = ec2.Vpc(own, "Vpc", max_azs=2)
table = dynamodb.Table(own, "Own", partition_key=attribute("pk"), sort_key=attribute("sk"))
queue = sqs.Queue(own, "Orders")
tasks = TaskQueue(
    own,
    "Tasks",
    app="shop:app",
    code=code,
    queue="default",
    memory=1024,
    timeout=120,
    environment={"STAGE": "test", "ORDERS": queue.queue_name},
    vpc=vpc,
    security_groups=[ec2.SecurityGroup(own, "Group", vpc=vpc)],
    table=table,
    existing=queue,
    key=kms.Key(own, "Key"),
    alarm_topic=sns.Topic(own, "Topic"),
    log_level="DEBUG",
)
service = iam.Role(own, "Service", assumed_by=iam.ServicePrincipal("ecs-tasks.amazonaws.com"))
tasks.grant_send(service)
tasks.grant_schedules(service)
queue.grant_purge(tasks.function("default"))
own.add_metadata("producer", own.resolve(tasks.producer_environment))

for name in ("press", "clocks"):
    DispatcherStack(app, name, app=f"{name}:app", code=code)

fed = Stack(app, "fed")
TaskQueue(
    fed, "Tasks", app="press:app", code=code, queue="default", existing=sqs.Queue(fed, "News"), key=kms.Key(fed, "Key")
)
TaskQueue(
    Stack(app, "far"),
    "Tasks",
    app="shop:app",
    code=code,
    queue="default",
    existing=sqs.Queue.from_queue_arn(fed, "Far", "arn:aws:sqs:us-east-1:111122223333:far"),
)

two = Dispatcher("two", set_as_current=False, changes={"task_queues": ["a", "b"], "task_default_queue": "a"})
more = TaskQueue(Stack(app, "more"), "Tasks", app=two, code=code, maximum_concurrency=7)
assert more.queue("b").queue_arn != more.queue("a").queue_arn
assert tasks.table is table
assert more.table.table_name
assert more.function("b").node.path == more.function("b").node.path != more.function("a").node.path


def refused(make: Callable[[], Any]) -> str:
    """The words of the refusal."""
    try:
        make()
    except ImproperlyConfigured as error:
        return str(error)
    raise AssertionError("not refused")


aside = Stack(App(), "aside")
refusals = {
    name: refused(lambda given=given, name=name: TaskQueue(aside, name, **{"app": "shop:app", "code": code, **given}))  # type: ignore[misc]
    for name, given in {
        "app": {"app": "shop:nothing"},
        "code": {"code": "/no/such/place"},
        "no_code": {"code": None},
        "queue": {"queue": "mail"},
        "memory": {"memory": 64},
        "unknown": {"memry": 512},
        "groups": {"vpc": vpc},
        "no_vpc": {"security_groups": [1]},
        "existing": {"app": two, "existing": queue},
    }.items()
}
Path(os.environ["CDK_OUTDIR"], "refusals.json").write_text(json.dumps(refusals), encoding="utf-8")
app.synth()
