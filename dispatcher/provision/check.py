"""Comparing what the app needs with a template: what is missing, what differs, and which rule is broken."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dispatcher.provision.reading import UnreadableTemplate, parse
from dispatcher.provision.rules import RULES, referred
from dispatcher.provision.sam import FUNCTION
from dispatcher.provision.template import Template

_MAPPING: Final = "AWS::Lambda::EventSourceMapping"
#: Where the package is, which the template of SAM and the plain one say differently.
_CODE: Final = frozenset({"Code", "CodeUri"})
_ABSENT: Final = object()
#: What members of lists are called by whose order means nothing.
_NAMES: Final = ("Sid", "PolicyName")


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which something is not as the app needs it: where, and what of it."""

    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


def check_template(made: Template, text: str) -> list[Difference]:
    """Return how a template, of SAM or plain, differs from what the app needs, and the rules that it breaks."""
    template = parse(text)
    if not template.get("Resources"):
        raise UnreadableTemplate("the template has no Resources")
    found = unfolded(template)
    return [*differences(made.cloudformation()["Resources"], found["Resources"]), *broken_rules(found)]


def broken_rules(template: Mapping[str, Any]) -> Iterator[Difference]:
    """Yield the rules of construction that a plain template breaks."""
    for name, rule in RULES.items():
        for violation in rule(template):
            place, _, what = violation.partition(": ")
            yield Difference(place, f"{what} (rule {name})")


def unfolded(template: Mapping[str, Any]) -> dict[str, Any]:
    """Return a template of SAM in the plain form: functions, and a mapping for each of their events of a queue."""
    resources: dict[str, Any] = {}
    given_resources = template.get("Resources") or {}
    if not isinstance(given_resources, dict):
        raise UnreadableTemplate(f"Resources must be a mapping, not {given_resources!r:.60}")
    for id, resource in given_resources.items():
        _check_shape(id, resource)
        if resource["Type"] != FUNCTION:
            resources[id] = resource
            continue
        properties = dict(resource.get("Properties", {}))
        if "ImageUri" in properties:
            properties["Code"] = {"ImageUri": properties.pop("ImageUri")}
        for name, event in properties.pop("Events", {}).items():
            if event["Type"] == "SQS":
                given = dict(event["Properties"])
                source = {"EventSourceArn": given.pop("Queue"), "FunctionName": {"Ref": id}}
                resources[f"{id}{name}"] = {"Type": _MAPPING, "Properties": {**source, **given}}
        resources[id] = {**resource, "Type": "AWS::Lambda::Function", "Properties": properties}
    return {**template, "Resources": resources}


def _check_shape(id: str, resource: Any) -> None:
    if not isinstance(resource, dict) or not isinstance(resource.get("Type"), str):
        raise UnreadableTemplate(f"the resource {id} must be a mapping with a Type, not {resource!r:.60}")
    if not isinstance(resource.get("Properties", {}), dict):
        raise UnreadableTemplate(f"the Properties of {id} must be a mapping, not {resource['Properties']!r:.60}")


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Difference]:
    """Yield what is missing in, and what differs between, the resources of two plain templates.

    Mappings are known by their queue and function, whatever they are called. What is found beside what is wanted is
    somebody's own.
    """
    theirs = {_name(id, resource): resource for id, resource in found.items()}
    for id, resource in wanted.items():
        other = theirs.get(_name(id, resource))
        if other is None:
            yield Difference(_name(id, resource), f"is missing, a resource of type {resource['Type']}")
        elif other["Type"] != resource["Type"]:
            yield Difference(id, f"is of type {other['Type']}, not {resource['Type']}")
        else:
            own = {key: value for key, value in resource["Properties"].items() if key not in _CODE}
            has = {key: value for key, value in other.get("Properties", {}).items() if key not in _CODE}
            yield from compared(_name(id, resource), own, has)


def _name(id: str, resource: Mapping[str, Any]) -> str:
    if resource["Type"] != _MAPPING:
        return id
    given = resource["Properties"]
    return f"the mapping of {referred(given.get('EventSourceArn'))} to {referred(given.get('FunctionName'))}"


def compared(place: str, wanted: Any, found: Any) -> Iterator[Difference]:
    """Yield where two values differ, each place by its path."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for key in dict.fromkeys((*wanted, *found)):
            yield from compared(f"{place}.{key}", wanted.get(key, _ABSENT), found.get(key, _ABSENT))
    elif (one := _by_name(wanted)) is not None and (other := _by_name(found)) is not None:
        for name in dict.fromkeys((*one, *other)):
            yield from compared(f"{place}[{name}]", one.get(name, _ABSENT), other.get(name, _ABSENT))
    elif isinstance(wanted, list | tuple) and isinstance(found, list | tuple) and len(wanted) == len(found):
        for index, (one, other) in enumerate(zip(wanted, found, strict=True)):
            yield from compared(f"{place}[{index}]", one, other)
    elif _plain(wanted) != _plain(found):
        yield Difference(place, f"{_shown(found)}, but the app needs {_shown(wanted)}")


def _by_name(value: Any) -> dict[str, Any] | None:
    """Return a list's members by what they are called: statements, policies; `None` for other values."""
    if not isinstance(value, list | tuple) or not all(isinstance(each, Mapping) for each in value):
        return None
    for key in _NAMES:
        if any(key in each for each in value):
            named: dict[str, Any] = {}
            for n, each in enumerate(value):
                name = str(each.get(key, f"nameless {n}"))
                named[f"{name}, again at {n}" if name in named else name] = each
            return named
    return None


def _plain(value: Any) -> Any:
    """Return a scalar as AWS compares it: 5 and "5" are the same, and so are true and "true"."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    return "nothing" if value is _ABSENT else json.dumps(value, ensure_ascii=False)


def report(found: Iterable[Difference]) -> str:
    """Return differences as lines."""
    return "\n".join(str(each) for each in found)
