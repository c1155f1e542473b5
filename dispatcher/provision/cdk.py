"""The CDK side: an app as a stack of its own, or as a construct in a stack of yours.

Needs the extra ``cdk`` and, as all of the CDK does, Node. The resources are those of the SAM template: both come from
`dispatcher.provision.resources`, and CDK's own `CfnInclude` makes constructs of them.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import aws_cdk
from aws_cdk import Annotations, Stack
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sqs as sqs
from aws_cdk.aws_s3_assets import Asset
from aws_cdk.cloudformation_include import CfnInclude
from constructs import Construct

from dispatcher.app import Dispatcher
from dispatcher.config import queue_variable
from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.loading import find_app
from dispatcher.packaging import Package
from dispatcher.provision.functions import CODE
from dispatcher.provision.plan import Plan, PlannedFunction, PlannedQueue, plan
from dispatcher.provision.policies import queue_id
from dispatcher.provision.resources import template
from dispatcher.provision.settings import Vpc
from dispatcher.provision.timers import RULE

_TABLE: Final = "ResultTable"


class TaskQueue(Construct):  # type: ignore[misc]
    """What an app needs, or one queue of it: queues, functions, roles, timers, alarms, and the table of results.

    ``app`` is ``module:attribute``, as the functions find it; it must be importable here too. ``code`` is a
    `Package`, or a directory or zip file with the app, `dispatcher` and whatever else they import; functions that are
    images need none. ``queue`` restricts it to one queue.

    ``memory`` (MiB), ``timeout`` (seconds) and the other ``settings`` are those that the setting ``infra`` has for
    functions, and win over it; ``environment`` is added to theirs. ``vpc`` and ``security_groups`` are the network of
    the functions. ``table``, ``key`` and, for a single queue, ``existing`` use what is there already: an `ITable`, an
    `IKey`, an `IQueue`. ``keep_ids`` keeps the plan's logical ids and its outputs, for which a stack has room once.

    Raises `ImproperlyConfigured` for what cannot work.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        app: str | Dispatcher,
        code: str | Path | Package | None = None,
        queue: str | None = None,
        stage: str | None = None,
        environment: Mapping[str, str] | None = None,
        vpc: Any = None,
        security_groups: Iterable[Any] = (),
        table: Any = None,
        existing: Any = None,
        key: Any = None,
        alarm_topic: Any = None,
        log_level: str | None = None,
        keep_ids: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(scope, id)
        network = _network(vpc, list(security_groups))
        self.plan = _plan(app, queue, stage, settings, environment or {}, network, key)
        data = template(self.plan).cloudformation()
        if not keep_ids:
            del data["Outputs"], data["Description"]
        given = self._package(code)
        if alarm_topic is not None:
            given["AlarmTopic"] = alarm_topic.topic_arn
            _decide(data, "TellsAlarms")
        given |= {"LogLevel": log_level} if log_level is not None else {}
        if table is not None:
            given |= _replace(data, _TABLE, {"": table.table_name, "Arn": table.table_arn})
        policy = None
        if existing is not None:
            own, policy = self._give_way(data)
            given |= _replace(data, own, {
                "": existing.queue_url, "Arn": existing.queue_arn, "QueueName": existing.queue_name,
            })  # fmt: skip
        self._ids = frozenset(data["Resources"])
        self._included = _include(self, data, given, keep_ids)
        self._table, self._existing = table, existing
        if alarm_topic is None:
            _acknowledge(self)
        if policy is not None:
            self._join(policy)
        if key is not None and any(timer.kind == RULE for timer in self.plan.schedules):
            # A rule sends as EventBridge, by no role. A key from elsewhere has its policy elsewhere.
            key.grant(iam.ServicePrincipal("events.amazonaws.com"), "kms:Decrypt", "kms:GenerateDataKey*")

    def resource(self, id: str) -> Any:
        """Return the construct of a resource by its id in the plan, to change what there is no argument for.

        Raises `KeyError`.
        """
        if id not in self._ids:
            raise KeyError(f"no resource {id!r}; there are {', '.join(sorted(self._ids))}")
        return self._included.get_resource(id)

    @property
    def table(self) -> Any:
        """The table of results."""
        if self._table is not None:
            return self._table
        name = self.resource(_TABLE).ref
        return self._once("Table", lambda id: dynamodb.Table.from_table_name(self, id, name))

    def queue(self, name: str | None = None) -> Any:
        """Return a queue; the name may be left out where there is one."""
        planned = self._planned(name)
        if self._existing is not None:
            return self._existing
        id = queue_id(planned)
        return self._once(id, lambda own: sqs.Queue.from_queue_arn(self, own, self.resource(id).attr_arn))

    def function(self, name: str | None = None) -> Any:
        """Return the function that runs a queue's tasks, to grant it more; the name may be left out where there is one.

        Raises `KeyError` for a queue that workers of your own read.
        """
        planned = self._planned(name)
        id, role = queue_id(planned, "Function"), queue_id(planned, "Role")
        arn, role_name = self.resource(id).attr_arn, self.resource(role).ref
        taken = self._once(role, lambda own: iam.Role.from_role_name(self, own, role_name))
        return self._once(id, lambda own: lambda_.Function.from_function_attributes(
            self, own, function_arn=arn, role=taken, same_environment=True
        ))  # fmt: skip

    def _once(self, id: str, make: Callable[[str], Any]) -> Any:
        return self.node.try_find_child(id) or make(id)

    def grant_send(self, role: Any) -> None:
        """Let a role send tasks and read their results: that of a service, or of a function of yours."""
        self._attach("ProducerPolicy", role)

    def grant_schedules(self, role: Any) -> None:
        """Let a role change stored entries of the beat by `app.schedules`; raises `KeyError` without the Scheduler."""
        self._attach("SchedulesPolicy", role)

    def _attach(self, policy: str, role: Any) -> None:
        arn = self.resource(policy).ref
        role.add_managed_policy(self._once(policy, lambda id: iam.ManagedPolicy.from_managed_policy_arn(self, id, arn)))

    @property
    def producer_environment(self) -> dict[str, str]:
        """The variables by which a service that sends tasks finds queues and results."""
        broker = f"sqs://?queue_name_prefix={self.plan.prefix or f'{aws_cdk.Aws.STACK_NAME}-'}"
        if self.plan.scheduler:
            role, group = self.resource("SchedulerRole").attr_arn, self.resource("ScheduleGroup").ref
            broker += f"&scheduler_role={role}&scheduler_group={group}"
        urls = {
            queue_variable(each.name): self._existing.queue_url if self._existing else self.resource(queue_id(each)).ref
            for each in self.plan.queues
        }
        own_bucket = "PayloadBucket" in self._ids
        return {
            "DISPATCHER_BROKER_URL": broker,
            "DISPATCHER_RESULT_BACKEND": "dynamodb://",
            "DISPATCHER_TABLE": self.resource(_TABLE).ref if self._table is None else self._table.table_name,
            **({"DISPATCHER_PAYLOAD_BUCKET": self.resource("PayloadBucket").ref} if own_bucket else {}),
            **urls,
        }

    def _planned(self, name: str | None) -> PlannedQueue:
        if name is not None:
            return _only(self.plan, name).queues[0]
        if len(self.plan.queues) > 1:
            raise ImproperlyConfigured(f"name one of the queues {', '.join(each.name for each in self.plan.queues)}")
        return self.plan.queues[0]

    def _package(self, code: str | Path | Package | None) -> dict[str, str]:
        functions = [self.plan.reader, *(queue.function for queue in self.plan.queues if queue.function)]
        functions = [function for function in functions if function.image is None]
        if not functions:
            return {}
        kinds = sorted({(function.runtime, function.architecture) for function in functions})
        with tempfile.TemporaryDirectory() as folder:
            if isinstance(code, Package):
                if len(kinds) > 1:
                    raise ImproperlyConfigured(f"one package cannot serve functions of {' and '.join(map(str, kinds))}")
                runtime, architecture = kinds[0]
                code.build(Path(folder), runtime=runtime, architecture=architecture)
                path = Path(folder)
            elif code is None or not Path(code).exists():
                what = "missing" if code is None else f"{str(code)!r}, which does not exist"
                raise ImproperlyConfigured(
                    f"code= is {what}; it must be a Package, or a directory or zip file with the app, dispatcher and "
                    "all they import"
                )
            else:
                path = Path(code)
            asset = Asset(self, "Code", path=str(path))
        bucket, key = CODE
        return {bucket.id: asset.s3_bucket_name, key.id: asset.s3_object_key}

    def _give_way(self, data: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Remove what an existing queue brings with it; return its id and the policy it would have had."""
        if len(self.plan.queues) > 1:
            raise ImproperlyConfigured("existing= takes the place of one queue; say which by queue=")
        (planned,) = self.plan.queues
        own = queue_id(planned)
        # An existing queue that points here, and is pointed at by its ARN, would be a circle.
        del data["Resources"][queue_id(planned, "LostQueue")]["Properties"]["RedriveAllowPolicy"]
        return own, data["Resources"].pop(f"{own}Policy")["Properties"]["PolicyDocument"]

    def _join(self, policy: dict[str, Any]) -> None:
        """Make an existing queue fit: its policy, and where this stack has made it, visibility and lost messages."""
        (planned,) = self.plan.queues
        for statement in policy["Statement"]:
            rules = statement.get("Condition", {}).get("ArnEquals", {}).get("aws:SourceArn", [])
            if rules:
                arns = [self.resource(rule["Fn::GetAtt"][0]).attr_arn for rule in rules]
                allowed = {**statement, "Resource": self._existing.queue_arn}
                allowed["Condition"] = {"ArnEquals": {"aws:SourceArn": arns}}
                self._existing.add_to_resource_policy(iam.PolicyStatement.from_json(allowed))
        lost = self.resource(queue_id(planned, "LostQueue")).attr_arn
        made = self._existing.node.default_child
        if isinstance(made, sqs.CfnQueue):
            made.visibility_timeout = planned.visibility_timeout
            made.redrive_policy = {"deadLetterTargetArn": lost, "maxReceiveCount": planned.max_receive_count}
        else:
            Annotations.of(self).add_warning_v2(
                "dispatcher:existing-queue",
                f"the queue of {planned.name} is not made here: see to it that its visibility timeout is "
                f"{planned.visibility_timeout} s, and that after {planned.max_receive_count} receives it moves "
                f"messages to the queue {queue_id(planned, 'LostQueue')} of this stack",
            )


class DispatcherStack(Stack):  # type: ignore[misc]
    """An app as a stack: the same resources under the same ids as in the template of ``dispatcher infra sam``.

    ``app``, ``code``, ``stage`` and the ``settings`` are those of `TaskQueue`, which is at ``tasks``; what ``stack``
    holds goes to `aws_cdk.Stack`, such as ``env`` or ``stack_name``.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        app: str | Dispatcher,
        code: str | Path | Package | None = None,
        stack: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(scope, id, **dict(stack or {}))
        self.tasks = TaskQueue(self, "Tasks", app=app, code=code, keep_ids=True, **settings)


def _plan(
    app: str | Dispatcher, queue: str | None, stage: str | None, settings: Mapping[str, Any],
    environment: Mapping[str, str], network: Vpc | None, key: Any,
) -> Plan:  # fmt: skip
    if isinstance(app, str):
        made = plan(find_app(app), spec=app, stage=stage, functions=settings)
    else:
        made = plan(app, stage=stage, functions=settings)
    if queue is not None:
        made = _only(made, queue)
    if key is not None:
        made = dataclasses.replace(made, kms_key=key.key_arn)

    # References to other constructs are known to the CDK alone, so these three are not checked as settings are.
    def changed(function: PlannedFunction) -> PlannedFunction:
        variables = {**function.environment, **environment}
        return dataclasses.replace(function, environment=variables, vpc=network or function.vpc)

    queues = tuple(
        dataclasses.replace(each, function=None if each.function is None else changed(each.function))
        for each in made.queues
    )
    return dataclasses.replace(made, queues=queues, reader=changed(made.reader))


def _only(made: Plan, queue: str) -> Plan:
    try:
        planned = made.queue(queue)
    except KeyError:
        known = ", ".join(each.name for each in made.queues)
        raise ImproperlyConfigured(f"the app has no queue {queue!r}; it has {known}") from None
    return dataclasses.replace(
        made,
        queues=(planned,),
        tasks=tuple(task for task in made.tasks if task.queue == queue),
        schedules=tuple(timer for timer in made.schedules if timer.queue == queue),
    )


def _network(vpc: Any, groups: list[Any]) -> Vpc | None:
    if vpc is None:
        if groups:
            raise ImproperlyConfigured("security_groups are of a vpc; give vpc= too")
        return None
    if not groups:
        raise ImproperlyConfigured("a function in a VPC needs security_groups; give at least one")
    return Vpc(tuple(vpc.select_subnets().subnet_ids), tuple(group.security_group_id for group in groups))


def _replace(data: dict[str, Any], id: str, values: Mapping[str, str]) -> dict[str, str]:
    """Let parameters take a resource's place: one of its name for references, one more for each attribute."""
    del data["Resources"][id]

    def rewritten(value: Any) -> Any:
        match value:
            case {"Fn::GetAtt": [found, attribute]} if found == id:
                return {"Ref": f"{id}{attribute}"}
            case {"Fn::Sub": str(text)}:
                return {"Fn::Sub": re.sub(rf"\$\{{{id}\.(\w+)\}}", rf"${{{id}\1}}", text)}
        return value

    _rewrite(data, rewritten)
    return {f"{id}{attribute}": value for attribute, value in values.items()}


def _decide(data: dict[str, Any], condition: str) -> None:
    """Take a condition as true: conditions cannot refer to resources of the stack, as a topic of it would."""
    del data["Conditions"][condition]

    def rewritten(value: Any) -> Any:
        match value:
            case {"Fn::If": [name, then, _]} if name == condition:
                return then
        return value

    _rewrite(data, rewritten)


def _rewrite(data: dict[str, Any], change: Callable[[Any], Any]) -> None:
    def walk(value: Any) -> Any:
        value = change(value)
        if isinstance(value, dict):
            return {key: walk(each) for key, each in value.items()}
        return [walk(each) for each in value] if isinstance(value, list | tuple) else value

    for part in ("Resources", "Outputs"):
        if part in data:
            data[part] = walk(data[part])


def _acknowledge(scope: Construct) -> None:
    """Silence what the CDK's check says of each alarm: it reads the parameter's default into the branch without it."""
    if hasattr(aws_cdk, "Validations"):  # which older versions have not, nor the check
        known = aws_cdk.Acknowledgment(
            id="CloudFormation-Validate::F3033", reason="Without an AlarmTopic the alarms have no actions at all."
        )
        aws_cdk.Validations.of(scope).acknowledge(known)


def _include(scope: Construct, data: dict[str, Any], given: Mapping[str, str], keep_ids: bool) -> CfnInclude:
    parameters = {**data.get("Parameters", {}), **{name: {"Type": "String"} for name in given}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "template.json"
        path.write_text(json.dumps({**data, "Parameters": parameters}), encoding="utf-8")
        return CfnInclude(
            scope, "Resources", template_file=str(path), preserve_logical_ids=keep_ids, parameters=dict(given)
        )
