"""The intermediate form: resources shaped as CloudFormation has them, with the reason of each number beside it.

Properties are plain data: dicts, lists, texts, numbers, booleans, and intrinsic functions in their long form
(``{"Ref": "Table"}``, ``{"Fn::GetAtt": ["Queue", "Arn"]}``, ``{"Fn::Sub": "…"}``). Types are CloudFormation's own,
never the transform's: SAM, CDK and a plain template all come from the same resources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Properties = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource: its logical id, CloudFormation's type, its properties, and why they are as they are.

    ``reasons`` has a sentence by the path of a property (``"RedrivePolicy.maxReceiveCount"``, members of lists by their
    index); that of the resource as a whole is under ``""``. ``attributes`` are those beside the properties, such as
    ``DeletionPolicy``.
    """

    id: str
    type: str
    properties: Properties
    reasons: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Parameter:
    """What is chosen when a stack is deployed; ``properties`` as CloudFormation has them."""

    id: str
    properties: Properties
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Output:
    """What a stack tells; ``condition`` is the id of the condition under which it does."""

    id: str
    value: Any
    description: str
    condition: str | None = None


@dataclass(frozen=True, slots=True)
class Template:
    """Resources with the parameters that they refer to, the conditions that they are made under, and the outputs."""

    description: str
    resources: tuple[Resource, ...]
    parameters: tuple[Parameter, ...] = ()
    conditions: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[Output, ...] = ()

    def __getitem__(self, id: str) -> Resource:
        """Return a resource by its logical id; raises `KeyError`."""
        for resource in self.resources:
            if resource.id == id:
                return resource
        raise KeyError(id)

    def cloudformation(self) -> dict[str, Any]:
        """Return the plain template, as CloudFormation takes it."""
        made: dict[str, Any] = {"AWSTemplateFormatVersion": "2010-09-09", "Description": self.description}
        if self.parameters:
            made["Parameters"] = {each.id: dict(each.properties) for each in self.parameters}
        if self.conditions:
            made["Conditions"] = dict(self.conditions)
        made["Resources"] = {
            each.id: {"Type": each.type, **each.attributes, "Properties": each.properties} for each in self.resources
        }
        made["Outputs"] = {
            each.id: {
                **({"Condition": each.condition} if each.condition else {}),
                "Description": each.description,
                "Value": each.value,
            }
            for each in self.outputs
        }
        return made
