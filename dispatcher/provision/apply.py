"""Making what an app needs at an emulator, by CloudFormation; AWS itself is left to SAM and the CDK."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from dispatcher import aws
from dispatcher.aws_options import ClientSettings
from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.provision import stacks
from dispatcher.provision.functions import CODE
from dispatcher.provision.plan import Plan
from dispatcher.provision.resources import emulated, template
from dispatcher.provision.rules import referred
from dispatcher.provision.template import Resource, Template

#: What runs code, or watches what does.
_RUNNING = frozenset({"AWS::Lambda::Function", "AWS::Lambda::EventSourceMapping"})


def apply(plan: Plan, *, endpoint: str, stack: str | None = None, code: Path | None = None) -> dict[str, str]:
    """Make or update what a plan needs at an emulator, and return the outputs of the stack.

    ``endpoint`` is the emulator's address; that of AWS is refused. Region and keys are those of `aws.at_endpoint`.
    ``stack`` is the stack's name, left out that of the plan. ``code`` is the functions' package, a ZIP archive or a
    directory; without it there are no functions. Raises `StackFailed`, `ServiceError`, `ImproperlyConfigured`.
    """
    if aws.is_aws(endpoint):
        raise ImproperlyConfigured(
            f"{endpoint} is AWS itself; deploy there by `sam deploy` or `cdk deploy`, apply is for emulators"
        )
    settings = aws.at_endpoint(endpoint)
    client = aws.client("cloudformation", settings)
    name = stack or (plan.name if plan.stage is None else f"{plan.name}-{plan.stage}")
    made = emulated(template(plan), client.meta.endpoint_url)
    if code is None:
        made = _without_functions(made)
    body = made.cloudformation()
    bucket = f"{name}-code".lower()
    parameters = {}
    if code is not None:
        package = _packed(code)
        key = f"{hashlib.sha256(package).hexdigest()[:20]}.zip"  # another package is another key, which is an update
        stacks.put(settings, bucket, key, package)
        parameters = dict(zip((each.id for each in CODE), (bucket, key), strict=True))
    outputs = stacks.deploy(client, name, stacks.given(settings, bucket, body), parameters)
    complete(settings, made, stacks.members(client, name))
    return outputs


def _packed(code: Path) -> bytes:
    """Return a package as a ZIP archive."""
    if code.is_file():
        return code.read_bytes()
    if not code.is_dir():
        raise ImproperlyConfigured(f"there is no package at {code}; name a ZIP archive or a directory")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        # What links lead to is packed as well. Without times, so that the same package is the same archive.
        for folder, _, files in sorted(os.walk(code, followlinks=True)):
            for path in (Path(folder, name) for name in sorted(files) if Path(folder).name != "__pycache__"):
                archive.writestr(zipfile.ZipInfo(str(path.relative_to(code))), path.read_bytes())
    return buffer.getvalue()


def complete(settings: ClientSettings, made: Template, members: Mapping[str, Mapping[str, Any]]) -> None:
    """Set what an emulator's CloudFormation may leave out: expiry, recursion, networks, keys, rules, time zones."""
    for resource in made.resources:
        member = members.get(resource.id)
        if member is None:
            continue
        name, properties = member["PhysicalResourceId"], resource.properties
        if resource.type in _COMPLETE:
            _COMPLETE[resource.type](settings, name, properties)
        elif resource.type == "AWS::Scheduler::Schedule" and "ScheduleExpressionTimezone" in properties:
            group = members[referred(properties["GroupName"])]["PhysicalResourceId"]
            _complete_schedule(settings, name, group, properties["ScheduleExpressionTimezone"])


def _complete_table(settings: ClientSettings, name: str, properties: Mapping[str, Any]) -> None:
    client = aws.client("dynamodb", settings)
    about = aws.call(client, "describe_time_to_live", name, TableName=name)["TimeToLiveDescription"]
    if about.get("TimeToLiveStatus") not in ("ENABLED", "ENABLING"):
        expiry = properties["TimeToLiveSpecification"]
        aws.call(client, "update_time_to_live", name, TableName=name, TimeToLiveSpecification=expiry)
    key = dict(properties.get("SSESpecification", {}))
    if key and not aws.call(client, "describe_table", name, TableName=name)["Table"].get("SSEDescription"):
        key = {"Enabled": key.pop("SSEEnabled"), **key}
        aws.call(client, "update_table", name, TableName=name, SSESpecification=key)


def _complete_function(settings: ClientSettings, name: str, properties: Mapping[str, Any]) -> None:
    client = aws.client("lambda", settings)
    allowed = properties["RecursiveLoop"]
    aws.call(client, "put_function_recursion_config", name, FunctionName=name, RecursiveLoop=allowed)
    given = {"VpcConfig": properties.get("VpcConfig"), "KMSKeyArn": properties.get("KmsKeyArn")}
    if given := {key: value for key, value in given.items() if value}:
        aws.call(client, "update_function_configuration", name, FunctionName=name, **given)


def _complete_bucket(settings: ClientSettings, name: str, properties: Mapping[str, Any]) -> None:
    client = aws.client("s3", settings)
    closed = properties["PublicAccessBlockConfiguration"]
    rules = [
        {
            "ID": each["Id"],
            "Status": each["Status"],
            "Filter": {"Prefix": ""},
            "Expiration": {"Days": each["ExpirationInDays"]},
        }
        for each in properties["LifecycleConfiguration"]["Rules"]
    ]
    aws.call(client, "put_public_access_block", name, Bucket=name, PublicAccessBlockConfiguration=closed)
    aws.call(client, "put_bucket_lifecycle_configuration", name, Bucket=name, LifecycleConfiguration={"Rules": rules})
    if "BucketEncryption" in properties:
        ways = [
            {
                "ApplyServerSideEncryptionByDefault": each["ServerSideEncryptionByDefault"],
                "BucketKeyEnabled": each["BucketKeyEnabled"],
            }
            for each in properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        ]
        encrypted = {"Rules": ways}
        aws.call(client, "put_bucket_encryption", name, Bucket=name, ServerSideEncryptionConfiguration=encrypted)


def _complete_schedule(settings: ClientSettings, name: str, group: str, timezone: str) -> None:
    client = aws.client("scheduler", settings)
    found = aws.call(client, "get_schedule", name, Name=name, GroupName=group)
    if found.get("ScheduleExpressionTimezone") != timezone:
        keys = ("Name", "GroupName", "Description", "ScheduleExpression", "FlexibleTimeWindow", "State", "Target")
        given = {key: found[key] for key in keys if found.get(key)}
        aws.call(client, "update_schedule", name, **given, ScheduleExpressionTimezone=timezone)


_COMPLETE: Final[Mapping[str, Callable[[ClientSettings, str, Mapping[str, Any]], None]]] = {
    "AWS::DynamoDB::Table": _complete_table,
    "AWS::Lambda::Function": _complete_function,
    "AWS::S3::Bucket": _complete_bucket,
}


def _without_functions(made: Template) -> Template:
    """Return a template without what runs code, or watches or shows what does."""
    gone = {each.id for each in made.resources if each.type in _RUNNING}
    gone |= {each.id for each in made.resources if _watches(each) & gone} | {"Dashboard"}
    return replace(
        made,
        resources=tuple(each for each in made.resources if each.id not in gone),
        outputs=tuple(each for each in made.outputs if referred(each.value) not in gone),
        parameters=tuple(each for each in made.parameters if each not in CODE),
    )


def _watches(resource: Resource) -> set[str]:
    if resource.type != "AWS::CloudWatch::Alarm":
        return set()
    return {referred(each["Value"]) for each in resource.properties.get("Dimensions", ())}
