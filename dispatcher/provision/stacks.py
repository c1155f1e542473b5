"""Stacks of CloudFormation: made or updated, and what they hold."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from dispatcher import aws
from dispatcher.aws import ServiceError
from dispatcher.aws_options import ClientSettings
from dispatcher.exceptions import DispatcherError

_LOOK_SECONDS: Final = 0.1
_TIMEOUT_SECONDS: Final = 300.0
#: The largest template that a call takes itself; larger ones are taken from a bucket.
#: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html
MAX_BODY_BYTES: Final = 51_200


class StackFailed(DispatcherError):
    """CloudFormation could not make or update a stack; the message has its reasons."""


def deploy(client: Any, name: str, body: Mapping[str, str], parameters: Mapping[str, str]) -> dict[str, str]:
    """Make or update a stack, wait for it, and return its outputs; one that is up to date stays as it is.

    ``body`` is ``TemplateBody`` or ``TemplateURL``. Raises `StackFailed`.
    """
    given: dict[str, Any] = {
        "StackName": name,
        **body,
        "Capabilities": ["CAPABILITY_NAMED_IAM"],
        "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
    }
    if described(client, name) is None:
        aws.call(client, "create_stack", name, **given)
    else:
        try:
            aws.call(client, "update_stack", name, **given)
        except ServiceError as error:
            if "No updates are to be performed" not in str(error):
                raise
    limit = time.monotonic() + _TIMEOUT_SECONDS
    while (now := described(client, name)) is not None and now["StackStatus"].endswith("IN_PROGRESS"):
        if time.monotonic() > limit:
            raise StackFailed(f"the stack {name} is still {now['StackStatus']} after {_TIMEOUT_SECONDS:g} s")
        time.sleep(_LOOK_SECONDS)
    if now is None or now["StackStatus"] not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        raise StackFailed("\n".join([f"the stack {name} could not be made:", *_reasons(client, name)]))
    return {each["OutputKey"]: each["OutputValue"] for each in now.get("Outputs", ())}


def described(client: Any, name: str) -> Mapping[str, Any] | None:
    """Return what CloudFormation says of a stack, `None` where there is none."""
    try:
        found: Mapping[str, Any] = aws.call(client, "describe_stacks", name, StackName=name)["Stacks"][0]
    except ServiceError as error:
        if error.code == "ValidationError":  # the service's word for a stack that does not exist
            return None
        raise
    return None if found["StackStatus"] == "DELETE_COMPLETE" else found


def members(client: Any, name: str) -> dict[str, Mapping[str, Any]]:
    """Return the resources of a stack by their logical id."""
    found: dict[str, Mapping[str, Any]] = {}
    token: dict[str, str] = {}
    while True:
        page = aws.call(client, "list_stack_resources", name, StackName=name, **token)
        found |= {each["LogicalResourceId"]: each for each in page["StackResourceSummaries"]}
        if not page.get("NextToken"):
            return found
        token = {"NextToken": page["NextToken"]}


def _reasons(client: Any, name: str) -> Iterator[str]:
    for event in aws.call(client, "describe_stack_events", name, StackName=name).get("StackEvents", ()):
        if event.get("ResourceStatus", "").endswith("FAILED") and event.get("ResourceStatusReason"):
            yield f"{event['LogicalResourceId']} ({event['ResourceType']}): {event['ResourceStatusReason']}"


def given(settings: ClientSettings, bucket: str, body: Mapping[str, Any]) -> dict[str, str]:
    """Return a template as `deploy` takes it: itself, or where in ``bucket`` it was put if it is too large for that."""
    text = json.dumps(body)
    if len(text) <= MAX_BODY_BYTES:
        return {"TemplateBody": text}
    return {"TemplateURL": put(settings, bucket, "template.json", text.encode())}


def put(settings: ClientSettings, bucket: str, key: str, content: bytes) -> str:
    """Put an object into a bucket, which is made if need be, and return its URL."""
    client = aws.client("s3", settings)
    try:
        aws.call(client, "create_bucket", bucket, Bucket=bucket)
    except ServiceError as error:
        if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
            raise
    aws.call(client, "put_object", bucket, Bucket=bucket, Key=key, Body=content)
    return f"{client.meta.endpoint_url.rstrip('/')}/{bucket}/{key}"
