"""Making a plan's resources on the endpoint of the environment: those that functions need, but not the functions.

CloudFormation does it, with the plan's own template: what is no longer planned goes, and references are its concern.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from dispatcher import aws
from dispatcher.aws_options import ClientSettings
from dispatcher.local.functions import MappedFunction
from dispatcher.provision import stacks
from dispatcher.provision.apply import complete
from dispatcher.provision.functions import READER_HANDLER
from dispatcher.provision.plan import Plan
from dispatcher.provision.resources import template
from dispatcher.provision.template import Resource, Template

#: What runs elsewhere is left out, and so are the permissions of it: an emulator on loopback asks for none, and plain
#: HTTP, which the queues' policies refuse, is all it speaks.
_MADE: Final = frozenset({
    "AWS::SQS::Queue", "AWS::DynamoDB::Table", "AWS::S3::Bucket", "AWS::Events::Rule", "AWS::Scheduler::Schedule",
    "AWS::Scheduler::ScheduleGroup",
})  # fmt: skip
#: Schedules cannot be made without theirs.
_MADE_ROLE: Final = "SchedulerRole"
_FUNCTION: Final = "AWS::Lambda::Function"
_MAPPING: Final = "AWS::Lambda::EventSourceMapping"
#: What producers have in their environment, by the output of the template that says it.
_PRODUCER: Final = {
    "BrokerUrl": "DISPATCHER_BROKER_URL",
    "Table": "DISPATCHER_TABLE",
    "PayloadBucket": "DISPATCHER_PAYLOAD_BUCKET",
}


def make(plan: Plan) -> tuple[list[MappedFunction], dict[str, str]]:
    """Make or update what the plan needs; return its functions, and the environment of producers.

    Raises `StackFailed`, or `ServiceError` where the endpoint cannot be reached.
    """
    planned = template(plan)
    wanted = _Wanted()
    mappings = [each for each in planned.resources if each.type == _MAPPING]
    for mapping in mappings:
        wanted.add(mapping.properties["EventSourceArn"])
        wanted.add({"Ref": mapping.properties["EventSourceArn"]["Fn::GetAtt"][0]})
        for value in _variables(_function_of(planned, mapping)).values():
            wanted.add(value)
    told = {_PRODUCER[output.id]: output.value for output in planned.outputs if output.id in _PRODUCER}
    for value in told.values():
        wanted.add(value)
    _deploy(f"{plan.name}-{plan.stage}", planned, wanted)
    functions = [_mapped(planned, mapping, wanted) for mapping in mappings]
    # The results too: a program that came from Celery mostly names a backend in its code.
    return functions, {
        **{name: wanted[value] for name, value in told.items()},
        "DISPATCHER_RESULT_BACKEND": "dynamodb://",
    }


class _Wanted:
    """Values that CloudFormation is to work out, each as an output of the stack."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._found: Mapping[str, str] = {}

    def add(self, value: Any) -> None:
        if not isinstance(value, str):
            self._values.setdefault(json.dumps(value, sort_keys=True), value)

    def outputs(self) -> dict[str, Any]:
        return {f"Value{n}": {"Value": value} for n, value in enumerate(self._values.values())}

    def found(self, outputs: Mapping[str, str]) -> None:
        self._found = {key: outputs[f"Value{n}"] for n, key in enumerate(self._values)}

    def __getitem__(self, value: Any) -> str:
        return value if isinstance(value, str) else self._found[json.dumps(value, sort_keys=True)]


def _reduced(planned: Template, wanted: _Wanted) -> dict[str, Any]:
    whole = planned.cloudformation()
    # Parameters and conditions are the functions' and the alarms'.
    whole = {name: part for name, part in whole.items() if name not in ("Parameters", "Conditions")}
    kept = {
        resource.id: whole["Resources"][resource.id]
        for resource in planned.resources
        if resource.type in _MADE or resource.id == _MADE_ROLE
    }
    return {**whole, "Resources": kept, "Outputs": wanted.outputs()}


def _function_of(planned: Template, mapping: Resource) -> Resource:
    return planned[mapping.properties["FunctionName"]["Ref"]]


def _variables(function: Resource) -> Mapping[str, Any]:
    variables: Mapping[str, Any] = function.properties.get("Environment", {}).get("Variables", {})
    return variables


def _deploy(name: str, planned: Template, wanted: _Wanted) -> None:
    client = aws.client("cloudformation")
    given = stacks.given(ClientSettings(), f"{name}-code".lower(), _reduced(planned, wanted))
    wanted.found(stacks.deploy(client, name, given, {}))
    complete(ClientSettings(), planned, stacks.members(client, name))


def _mapped(planned: Template, mapping: Resource, wanted: _Wanted) -> MappedFunction:
    function = _function_of(planned, mapping)
    arn = mapping.properties["EventSourceArn"]
    return MappedFunction(
        name=_name(mapping),
        handler=function.properties["Handler"],
        environment={name: wanted[value] for name, value in _variables(function).items()},
        timeout=function.properties["Timeout"],
        memory=function.properties["MemorySize"],
        queue_url=wanted[{"Ref": arn["Fn::GetAtt"][0]}],
        queue_arn=wanted[arn],
        batch_size=mapping.properties["BatchSize"],
        window=mapping.properties.get("MaximumBatchingWindowInSeconds", 0),
        concurrency=mapping.properties["ScalingConfig"]["MaximumConcurrency"],
        lost=function.properties["Handler"] == READER_HANDLER,
    )


def _name(mapping: Resource) -> str:
    """`DefaultMapping` feeds what is called `Default` here."""
    return mapping.id.removesuffix("Mapping") or mapping.id
