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
from dispatcher.provision.check import SETS, Difference, compared
from dispatcher.provision.policies import REFUSE_PLAIN_HTTP
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
    deployed = DeployedStack(stack, settings)
    return list(deployed.differences(emulated(made, deployed.endpoint)))


class DeployedStack:
    """A stack, its resources, and the values that its template's references have there."""

    def __init__(self, stack: str, settings: ClientSettings) -> None:
        self._settings = settings
        client = self._client("cloudformation")
        self.endpoint: str = client.meta.endpoint_url
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

    def differences(self, made: Template) -> Iterator[Difference]:
        """Yield how what is deployed differs from a template."""
        mappings = dict(self._mappings())
        for resource in made.resources:
            if resource.type == _MAPPING:
                yield from self._mapping(resource.id, resource.properties, mappings)
                continue
            member = self._members.get(resource.id)
            if member is None:
                yield Difference(resource.id, f"is missing, a resource of type {resource.type}")
                continue
            try:
                found = _DESCRIBE[resource.type](self, member["PhysicalResourceId"], resource.properties)
                own = {key: value for key, value in resource.properties.items() if key in found}
                wanted = self.resolved({**_UNSAID.get(resource.type, {}), **own})
            except Unresolved as error:
                yield Difference(resource.id, f"cannot be compared: {error}")
                continue
            except ServiceError as error:
                if not any(word in error.code for word in _GONE):
                    raise
                yield Difference(resource.id, "is gone, though the stack knows it")
                continue
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
        wanted = {
            **_UNSAID[_MAPPING],
            **{key: wanted[key] for key in wanted.keys() - {"EventSourceArn", "FunctionName"}},
        }
        found = {**found, "Enabled": found.get("State") not in ("Disabled", "Disabling")}
        yield from compared(id, _canonical(wanted), _canonical(_at(found, wanted)))

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
    kept = {key: found[key] for key in _BESIDE & found.keys() if found[key]}
    for key in wanted:
        if key in found:
            both = isinstance(wanted[key], Mapping) and isinstance(found[key], Mapping) and key not in _WHOLE
            kept[key] = _at(found[key], wanted[key]) if both else found[key]
    return kept


#: Of these, what is there beside what is wanted matters too.
_WHOLE: Final = frozenset({"PolicyDocument", "Variables", "AssumeRolePolicyDocument", "RedriveAllowPolicy"})
#: What matters where nothing of it is wanted, too: somebody gave it by hand.
_BESIDE: Final = frozenset({
    "AlarmActions", "FilterCriteria", "KmsKeyArn", "Layers", "ManagedPolicyArns", "OKActions", "SSESpecification",
    "VpcConfig",
})  # fmt: skip
#: What holds where a template does not say it, by type, and what is changed by hand in an emergency, and forgotten.
_UNSAID: Final[Mapping[str, Mapping[str, Any]]] = {
    _MAPPING: {"Enabled": True},
    "AWS::CloudWatch::Alarm": {"ActionsEnabled": True},
    "AWS::Lambda::Function": {"ReservedConcurrentExecutions": "unreserved"},
}


def _canonical(value: Any, key: str = "") -> Any:
    """Return a value with one form for what AWS takes and gives in several: one or a list of it, and any order."""
    if key == "DashboardBody" and isinstance(value, str):
        value = json.loads(value)
    if isinstance(value, Mapping):
        return {name: _canonical(each, name) for name, each in value.items()}
    if isinstance(value, list | tuple):
        many = [_canonical(each) for each in value]
        return sorted(many, key=lambda each: json.dumps(each, sort_keys=True)) if key in SETS else many
    if key in SETS:
        return [value]
    return str(value).lower() if isinstance(value, bool) else value


# descriptions: (stack, physical id, wanted properties) → what there is of them, in CloudFormation's shape


def _queue(live: DeployedStack, url: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    answer = live.ask("sqs", "get_queue_attributes", url, QueueUrl=url, AttributeNames=["All"])
    found = dict(answer["Attributes"])
    for policy in ("RedrivePolicy", "RedriveAllowPolicy"):
        if policy in found:
            found[policy] = json.loads(found[policy])
    found["QueueName"] = url.rsplit("/", 1)[1]
    # What is not there compares as nothing.
    return {key: found.get(key) for key in wanted}


def _queue_policy(live: DeployedStack, _: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    url = live.resolved(wanted["Queues"][0])
    answer = live.ask("sqs", "get_queue_attributes", url, QueueUrl=url, AttributeNames=["Policy"])
    policy = json.loads(answer.get("Attributes", {}).get("Policy") or "{}")
    if live.endpoint.startswith("http:") and "Statement" in policy:
        # The template of SAM has a statement there that `emulated` leaves out, since an emulator has nothing else.
        own = {each["Sid"] for each in wanted["PolicyDocument"]["Statement"]}
        gone = {REFUSE_PLAIN_HTTP} - own
        policy["Statement"] = [each for each in policy["Statement"] if each.get("Sid") not in gone]
    return {"PolicyDocument": policy}


def _table(live: DeployedStack, name: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    found = live.ask("dynamodb", "describe_table", name, TableName=name)["Table"]
    ttl = live.ask("dynamodb", "describe_time_to_live", name, TableName=name)["TimeToLiveDescription"]
    # One that is encrypted with the service's own key has no description of it.
    key = found.get("SSEDescription") or {}
    encrypted = {"SSEEnabled": True, "SSEType": key.get("SSEType"), "KMSMasterKeyId": key.get("KMSMasterKeyArn")}
    return {
        "BillingMode": found.get("BillingModeSummary", {}).get("BillingMode", "PROVISIONED"),
        "KeySchema": found["KeySchema"],
        "TimeToLiveSpecification": {
            "AttributeName": ttl.get("AttributeName"),
            "Enabled": ttl.get("TimeToLiveStatus") in ("ENABLED", "ENABLING"),
        },
        "SSESpecification": encrypted if key.get("Status") in ("ENABLED", "ENABLING", "UPDATING") else None,
    }


def _function(live: DeployedStack, name: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    answer = live.ask("lambda", "get_function", name, FunctionName=name)
    found = answer["Configuration"]
    recursion = live.ask("lambda", "get_function_recursion_config", name, FunctionName=name)
    reserved = live.ask("lambda", "get_function_concurrency", name, FunctionName=name)
    network = found.get("VpcConfig") or {}
    keys = ("Description", "Handler", "Runtime", "Architectures", "MemorySize", "Timeout", "Role", "LoggingConfig",
            "Environment", "PackageType")  # fmt: skip
    described = {
        **{key: found.get(key) for key in keys},
        "RecursiveLoop": recursion.get("RecursiveLoop"),
        "ReservedConcurrentExecutions": reserved.get("ReservedConcurrentExecutions", "unreserved"),
        "KmsKeyArn": found.get("KMSKeyArn"),
        "Layers": [each["Arn"] for each in found.get("Layers") or ()],
        "VpcConfig": {key: network[key] for key in ("SubnetIds", "SecurityGroupIds")}
        if network.get("SubnetIds")
        else None,
    }
    if "ImageUri" in wanted.get("Code", {}):  # of packages only the deployment knows what is in them
        described["Code"] = {"ImageUri": answer.get("Code", {}).get("ImageUri")}
        described["ImageConfig"] = found.get("ImageConfigResponse", {}).get("ImageConfig", {})
    return described


def _role(live: DeployedStack, name: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    about = live.ask("iam", "get_role", name, RoleName=name)["Role"]
    names = live.ask("iam", "list_role_policies", name, RoleName=name)["PolicyNames"]
    policies = [live.ask("iam", "get_role_policy", name, RoleName=name, PolicyName=each) for each in names]
    attached = live.ask("iam", "list_attached_role_policies", name, RoleName=name)["AttachedPolicies"]
    return {
        "ManagedPolicyArns": [each["PolicyArn"] for each in attached],
        "AssumeRolePolicyDocument": about["AssumeRolePolicyDocument"],
        "Policies": [{key: each[key] for key in ("PolicyName", "PolicyDocument")} for each in policies],
    }


def _managed_policy(live: DeployedStack, arn: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    version = live.ask("iam", "get_policy", arn, PolicyArn=arn)["Policy"]["DefaultVersionId"]
    found = live.ask("iam", "get_policy_version", arn, PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]
    return {"PolicyDocument": json.loads(found) if isinstance(found, str) else found}


def _log_group(live: DeployedStack, name: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    groups = live.ask("logs", "describe_log_groups", name, logGroupNamePrefix=name)["logGroups"]
    return {
        "RetentionInDays": next((each.get("retentionInDays") for each in groups if each["logGroupName"] == name), None)
    }


def _rule(live: DeployedStack, physical: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    name = physical.rsplit("/", 1)[-1].rsplit("|", 1)[-1]
    found = live.ask("events", "describe_rule", name, Name=name)
    targets = live.ask("events", "list_targets_by_rule", name, Rule=name)["Targets"]
    keys = ("Name", "Description", "ScheduleExpression", "State")
    return {**{key: found.get(key) for key in keys}, "Targets": targets}


def _schedule(live: DeployedStack, name: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    group = live.resolved(wanted["GroupName"])
    name = live.resolved(wanted["Name"])
    found = live.ask("scheduler", "get_schedule", name, Name=name, GroupName=group)
    keys = ("Name", "Description", "ScheduleExpression", "ScheduleExpressionTimezone", "State", "FlexibleTimeWindow",
            "Target")  # fmt: skip
    return {key: found.get(key) for key in keys}


def _bucket(live: DeployedStack, name: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    rules = live.ask("s3", "get_bucket_lifecycle_configuration", name, Bucket=name)["Rules"]
    block = live.ask("s3", "get_public_access_block", name, Bucket=name)["PublicAccessBlockConfiguration"]
    shown = [
        {"Id": each.get("ID"), "Status": each["Status"], "ExpirationInDays": each.get("Expiration", {}).get("Days")}
        for each in rules
    ]
    found = {"LifecycleConfiguration": {"Rules": shown}, "PublicAccessBlockConfiguration": block}
    if "BucketEncryption" in wanted:  # one without a key of its own is encrypted by S3
        answer = live.ask("s3", "get_bucket_encryption", name, Bucket=name)["ServerSideEncryptionConfiguration"]
        ways = [
            {
                "ServerSideEncryptionByDefault": each["ApplyServerSideEncryptionByDefault"],
                "BucketKeyEnabled": each.get("BucketKeyEnabled", False),
            }
            for each in answer["Rules"]
        ]
        found["BucketEncryption"] = {"ServerSideEncryptionConfiguration": ways}
    return found


def _bucket_policy(live: DeployedStack, _: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    bucket = live.resolved(wanted["Bucket"])
    try:
        policy = live.ask("s3", "get_bucket_policy", bucket, Bucket=bucket)["Policy"]
    except ServiceError as error:
        if error.code != "NoSuchBucketPolicy":
            raise
        policy = "{}"
    return {"PolicyDocument": json.loads(policy)}


def _alarm(live: DeployedStack, name: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    found = live.ask("cloudwatch", "describe_alarms", name, AlarmNames=[name]).get("MetricAlarms", [])
    keys = (
        "AlarmDescription", "Namespace", "MetricName", "Statistic", "Period", "EvaluationPeriods", "ComparisonOperator",
        "Dimensions", "TreatMissingData", "AlarmActions", "OKActions", "ActionsEnabled",
    )  # fmt: skip
    if not found:
        raise ServiceError(f"there is no alarm {name}", "NotFound")
    return {**{key: found[0].get(key) for key in keys}, "Threshold": int(found[0]["Threshold"])}


def _dashboard(live: DeployedStack, name: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "DashboardBody": live.ask("cloudwatch", "get_dashboard", name, DashboardName=name)["DashboardBody"],
    }


def _schedule_group(live: DeployedStack, name: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {"Name": live.ask("scheduler", "get_schedule_group", name, Name=name)["Name"]}


_DESCRIBE: Final[Mapping[str, Callable[[DeployedStack, str, Mapping[str, Any]], dict[str, Any]]]] = {
    "AWS::SQS::Queue": _queue,
    "AWS::SQS::QueuePolicy": _queue_policy,
    "AWS::DynamoDB::Table": _table,
    "AWS::Lambda::Function": _function,
    "AWS::IAM::Role": _role,
    "AWS::IAM::ManagedPolicy": _managed_policy,
    "AWS::Logs::LogGroup": _log_group,
    "AWS::S3::Bucket": _bucket,
    "AWS::S3::BucketPolicy": _bucket_policy,
    "AWS::Events::Rule": _rule,
    "AWS::Scheduler::Schedule": _schedule,
    "AWS::CloudWatch::Alarm": _alarm,
    "AWS::CloudWatch::Dashboard": _dashboard,
    "AWS::Scheduler::ScheduleGroup": _schedule_group,
}
