"""Comparing what the app needs with what is deployed: each resource of a stack is described by its own service."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from dispatcher import aws
from dispatcher.aws import ServiceError
from dispatcher.aws_options import ClientSettings
from dispatcher.exceptions import DispatcherError
from dispatcher.provision import stacks
from dispatcher.provision.check import Difference, compared
from dispatcher.provision.resources import emulated
from dispatcher.provision.template import Template

_MAPPING: Final = "AWS::Lambda::EventSourceMapping"
#: What a service says of something that is not there.
_GONE: Final = ("NotFound", "NonExistent", "NoSuch", "DoesNotExist", "404")
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z0-9:.]+)\}")


class Unresolved(DispatcherError):
    """A value refers to something that the stack does not have."""


def check_stack(made: Template, stack: str, settings: ClientSettings = ClientSettings()) -> list[Difference]:  # noqa: B008 - immutable
    """Return how a deployed stack differs from what the app needs.

    What is compared is what the services tell by their describe calls; packages are not. Raises `ServiceError`, and
    `DispatcherError` where there is no such stack.
    """
    return list(_Live(made, stack, settings).differences())


class _Live:
    """A stack, its resources, and the values that its template's references have there."""

    def __init__(self, made: Template, stack: str, settings: ClientSettings) -> None:
        self._settings = settings
        client = self._client("cloudformation")
        self._made = emulated(made, client.meta.endpoint_url)
        about = stacks.described(client, stack)
        if about is None:
            raise DispatcherError(f"there is no stack {stack!r} at {client.meta.endpoint_url}")
        self._members = stacks.members(client, stack)
        _, partition, _, region, account, *_ = about["StackId"].split(":")
        self._values = {
            "AWS::StackName": stack, "AWS::Partition": partition, "AWS::Region": region, "AWS::AccountId": account,
            **{each["ParameterKey"]: each.get("ParameterValue", "") for each in about.get("Parameters", ())},
        }  # fmt: skip
        self._descriptions: dict[str, Any] = {}

    def _client(self, service: str) -> Any:
        return aws.client(service, self._settings)

    def ask(self, service: str, operation: str, target: str, **parameters: Any) -> Any:
        """Call a service of the place that the stack is in."""
        return aws.call(self._client(service), operation, target, **parameters)

    def differences(self) -> Iterator[Difference]:
        mappings = dict(self._mappings())
        for resource in self._made.resources:
            describe = _DESCRIBE.get(resource.type)
            if resource.type == _MAPPING:
                yield from self._mapping(resource.id, resource.properties, mappings)
                continue
            member = self._members.get(resource.id)
            if member is None:
                yield Difference(resource.id, f"is missing, a resource of type {resource.type}")
                continue
            if describe is None:
                continue  # that it is there is all that can be told
            try:
                found = describe(self, member["PhysicalResourceId"], resource.properties)
            except ServiceError as error:
                if not any(word in error.code for word in _GONE):
                    raise
                yield Difference(resource.id, "is gone, though the stack knows it")
                continue
            wanted = self.resolved({key: resource.properties[key] for key in found if key in resource.properties})
            yield from compared(resource.id, _canonical(wanted), _canonical(_at(found, wanted)))

    def _mappings(self) -> Iterator[tuple[tuple[str, str], Mapping[str, Any]]]:
        """Yield the stack's mappings by their queue's and their function's names."""
        for member in self._members.values():
            if member["ResourceType"] == _MAPPING:
                uuid = member["PhysicalResourceId"]
                found = self.ask("lambda", "get_event_source_mapping", uuid, UUID=uuid)
                yield (found["EventSourceArn"], found["FunctionArn"].split(":")[6]), found

    def _mapping(
        self, id: str, properties: Mapping[str, Any], mappings: Mapping[tuple[str, str], Any]
    ) -> Iterator[Difference]:
        try:
            wanted = self.resolved(properties)
        except Unresolved:
            yield Difference(id, "is missing, with its queue or its function")
            return
        found = mappings.get((wanted["EventSourceArn"], wanted["FunctionName"]))
        if found is None:
            yield Difference(id, f"is missing, the mapping of {wanted['EventSourceArn']} to {wanted['FunctionName']}")
            return
        keys = [key for key in wanted if key not in ("EventSourceArn", "FunctionName")]
        yield from compared(id, {key: wanted[key] for key in keys}, {key: found[key] for key in keys if key in found})

    # values

    def resolved(self, value: Any) -> Any:
        """Return a value with its intrinsic functions worked out."""
        match value:
            case {"Ref": name}:
                return self._ref(name)
            case {"Fn::GetAtt": [id, attribute]}:
                return self._attribute(id, attribute)
            case {"Fn::Sub": str(text)}:
                return _VARIABLE.sub(lambda found: str(self._named(found[1])), text)
            case {"Fn::If": [_, yes, no]}:  # the one condition there is: whether alarms are told
                return self.resolved(yes if self._values.get("AlarmTopic") else no)
            case Mapping():
                plain = {key: self.resolved(each) for key, each in value.items()}
                return {key: each for key, each in plain.items() if each is not None}
            case list() | tuple():
                return [self.resolved(each) for each in value]
        return value

    def _named(self, name: str) -> Any:
        id, dot, attribute = name.partition(".")
        return self._attribute(id, attribute) if dot else self._ref(name)

    def _ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return None
        if name in self._values:
            return self._values[name]
        return self._physical(name)

    def _physical(self, id: str) -> str:
        if id not in self._members:
            raise Unresolved(f"the stack has no {id}")
        return str(self._members[id]["PhysicalResourceId"])

    def _attribute(self, id: str, attribute: str) -> str:
        physical, kind = self._physical(id), self._members[id]["ResourceType"]
        last = physical.rsplit("/", 1)[-1]
        if attribute != "Arn":
            return last  # the name of a queue is the only other one that is used
        prefix = f"arn:{self._values['AWS::Partition']}"
        here = f"{self._values['AWS::Region']}:{self._values['AWS::AccountId']}"
        shapes = {
            "AWS::SQS::Queue": f"{prefix}:sqs:{here}:{last}",
            "AWS::DynamoDB::Table": f"{prefix}:dynamodb:{here}:table/{physical}",
            "AWS::Lambda::Function": f"{prefix}:lambda:{here}:function:{physical}",
            "AWS::IAM::Role": f"{prefix}:iam::{self._values['AWS::AccountId']}:role/{last}",
            "AWS::Logs::LogGroup": f"{prefix}:logs:{here}:log-group:{physical}:*",
            "AWS::S3::Bucket": f"{prefix}:s3:::{physical}",
            "AWS::Events::Rule": f"{prefix}:events:{here}:rule/{last}",
        }
        return physical if physical.startswith("arn:") else shapes[kind]


def _at(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was found of what is wanted, at each depth of the dicts: services tell their defaults too."""
    kept = {}
    for key in wanted:
        if key in found:
            both = isinstance(wanted[key], Mapping) and isinstance(found[key], Mapping) and key not in _WHOLE
            kept[key] = _at(found[key], wanted[key]) if both else found[key]
    return kept


#: Of these, what is there beside what is wanted matters too.
_WHOLE: Final = frozenset({"PolicyDocument", "Variables", "AssumeRolePolicyDocument", "RedriveAllowPolicy"})


def _canonical(value: Any, key: str = "") -> Any:
    """Return a value with one form for what AWS takes and gives in several: one or a list of it, and any order."""
    if isinstance(value, Mapping):
        return {name: _canonical(each, name) for name, each in value.items()}
    if isinstance(value, list | tuple):
        many = [_canonical(each) for each in value]
        return sorted(many, key=lambda each: json.dumps(each, sort_keys=True)) if key in _SETS else many
    if key in _SETS:
        return [value]
    return str(value).lower() if isinstance(value, bool) else value


_SETS: Final = frozenset({"Action", "Resource", "AWS", "Service", "aws:SourceArn", "sourceQueueArns", "Queues"})


# descriptions: (stack, physical id, wanted properties) → what there is of them, in CloudFormation's shape


def _queue(live: _Live, url: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    answer = live.ask("sqs", "get_queue_attributes", url, QueueUrl=url, AttributeNames=["All"])
    found = dict(answer["Attributes"])
    for policy in ("RedrivePolicy", "RedriveAllowPolicy"):
        if policy in found:
            found[policy] = json.loads(found[policy])
    found["QueueName"] = url.rsplit("/", 1)[1]
    # What is not there compares as nothing.
    return {key: found.get(key) for key in wanted}


def _queue_policy(live: _Live, _: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    url = live.resolved(wanted["Queues"][0])
    answer = live.ask("sqs", "get_queue_attributes", url, QueueUrl=url, AttributeNames=["Policy"])
    return {"PolicyDocument": json.loads(answer.get("Attributes", {}).get("Policy") or "{}")}


def _table(live: _Live, name: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    found = live.ask("dynamodb", "describe_table", name, TableName=name)["Table"]
    ttl = live.ask("dynamodb", "describe_time_to_live", name, TableName=name)["TimeToLiveDescription"]
    return {
        "BillingMode": found.get("BillingModeSummary", {}).get("BillingMode", "PROVISIONED"),
        "KeySchema": found["KeySchema"],
        "TimeToLiveSpecification": {
            "AttributeName": ttl.get("AttributeName"),
            "Enabled": ttl.get("TimeToLiveStatus") in ("ENABLED", "ENABLING"),
        },
    }


def _function(live: _Live, name: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    found = live.ask("lambda", "get_function_configuration", name, FunctionName=name)
    recursion = live.ask("lambda", "get_function_recursion_config", name, FunctionName=name)
    keys = ("Handler", "Runtime", "Architectures", "MemorySize", "Timeout", "Role", "LoggingConfig", "Environment")
    return {**{key: found.get(key) for key in keys}, "RecursiveLoop": recursion.get("RecursiveLoop")}


def _role(live: _Live, name: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    about = live.ask("iam", "get_role", name, RoleName=name)["Role"]
    names = live.ask("iam", "list_role_policies", name, RoleName=name)["PolicyNames"]
    policies = [live.ask("iam", "get_role_policy", name, RoleName=name, PolicyName=each) for each in names]
    return {
        "AssumeRolePolicyDocument": about["AssumeRolePolicyDocument"],
        "Policies": [{key: each[key] for key in ("PolicyName", "PolicyDocument")} for each in policies],
    }


def _managed_policy(live: _Live, arn: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    version = live.ask("iam", "get_policy", arn, PolicyArn=arn)["Policy"]["DefaultVersionId"]
    found = live.ask("iam", "get_policy_version", arn, PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]
    return {"PolicyDocument": json.loads(found) if isinstance(found, str) else found}


def _log_group(live: _Live, name: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    groups = live.ask("logs", "describe_log_groups", name, logGroupNamePrefix=name)["logGroups"]
    return {
        "RetentionInDays": next((each.get("retentionInDays") for each in groups if each["logGroupName"] == name), None)
    }


def _rule(live: _Live, physical: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    name = physical.rsplit("/", 1)[-1].rsplit("|", 1)[-1]
    found = live.ask("events", "describe_rule", name, Name=name)
    targets = live.ask("events", "list_targets_by_rule", name, Rule=name)["Targets"]
    return {**{key: found.get(key) for key in ("Name", "ScheduleExpression", "State")}, "Targets": targets}


def _schedule(live: _Live, name: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    group = live.resolved(wanted["GroupName"])
    name = live.resolved(wanted["Name"])
    found = live.ask("scheduler", "get_schedule", name, Name=name, GroupName=group)
    keys = ("Name", "ScheduleExpression", "ScheduleExpressionTimezone", "State", "FlexibleTimeWindow", "Target")
    return {key: found.get(key) for key in keys}


def _bucket(live: _Live, name: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    rules = live.ask("s3", "get_bucket_lifecycle_configuration", name, Bucket=name)["Rules"]
    block = live.ask("s3", "get_public_access_block", name, Bucket=name)["PublicAccessBlockConfiguration"]
    shown = [
        {"Id": each.get("ID"), "Status": each["Status"], "ExpirationInDays": each.get("Expiration", {}).get("Days")}
        for each in rules
    ]
    return {"LifecycleConfiguration": {"Rules": shown}, "PublicAccessBlockConfiguration": block}


def _alarm(live: _Live, name: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    found = live.ask("cloudwatch", "describe_alarms", name, AlarmNames=[name]).get("MetricAlarms", [])
    keys = ("Namespace", "MetricName", "Statistic", "Period", "EvaluationPeriods", "ComparisonOperator", "Dimensions")
    if not found:
        raise ServiceError(f"there is no alarm {name}", "NotFound")
    return {**{key: found[0].get(key) for key in keys}, "Threshold": int(found[0]["Threshold"])}


_DESCRIBE: Final[Mapping[str, Callable[[_Live, str, Mapping[str, Any]], dict[str, Any]]]] = {
    "AWS::SQS::Queue": _queue,
    "AWS::SQS::QueuePolicy": _queue_policy,
    "AWS::DynamoDB::Table": _table,
    "AWS::Lambda::Function": _function,
    "AWS::IAM::Role": _role,
    "AWS::IAM::ManagedPolicy": _managed_policy,
    "AWS::Logs::LogGroup": _log_group,
    "AWS::S3::Bucket": _bucket,
    "AWS::Events::Rule": _rule,
    "AWS::Scheduler::Schedule": _schedule,
    "AWS::CloudWatch::Alarm": _alarm,
}
