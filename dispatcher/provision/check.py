"""Comparing what the app needs with a template: what is missing, what differs, and which rule is broken."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dispatcher.provision.intrinsics import mentioned, normal
from dispatcher.provision.makefile import unbuildable
from dispatcher.provision.reading import UnreadableTemplate, parse
from dispatcher.provision.rules import RULES, listed, referred
from dispatcher.provision.sam import FUNCTION, TRANSFORM
from dispatcher.provision.template import Template

_MAPPING: Final = "AWS::Lambda::EventSourceMapping"
#: Where the package is, which the template of SAM and the plain one say differently.
_CODE: Final = frozenset({"Code", "CodeUri"})
#: Somebody's own on whatever it is: the plan has no tags.
_OWN: Final = frozenset({"Tags"})
_ABSENT: Final = object()
#: What stands beside the properties of a resource and says whether it is made, and what becomes of it.
_ATTRIBUTES: Final = ("Condition", "DeletionPolicy", "UpdateReplacePolicy")
#: Keys of lists whose order means nothing, and that may be one value.
SETS: Final = frozenset({
    "Action", "AlarmActions", "AWS", "aws:SourceArn", "ManagedPolicyArns", "OKActions", "Queues", "Resource",
    "SecurityGroupIds", "Service", "sourceQueueArns", "SubnetIds",
})  # fmt: skip
#: What members of lists are called by whose order means nothing.
_NAMES: Final = ("Sid", "PolicyName")


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which something is not as the app needs it: where, and what of it."""

    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


def check_template(made: Template, text: str, base: Path | None = None) -> list[Difference]:
    """Return how a template, of SAM or plain, differs from what the app needs, and the rules that it breaks.

    With ``base``, the template's directory, also the functions that `sam build` finds no target for in a Makefile.
    """
    template = parse(text)
    if not template.get("Resources"):
        raise UnreadableTemplate("the template has no Resources")
    wanted, found = normal(made.cloudformation()), unfolded(template)
    return [
        *_untransformed(template),
        *differences(wanted["Resources"], found["Resources"]),
        *_differences_beside(wanted, found),
        *broken_rules(found),
        *(Difference(f"{id} (Metadata)", what) for id, what in (unbuildable(template, base) if base else ())),
    ]


def _untransformed(template: Mapping[str, Any]) -> Iterator[Difference]:
    types = {each["Type"] for each in template["Resources"].values() if isinstance(each, Mapping) and "Type" in each}
    if FUNCTION in types and TRANSFORM not in listed(template.get("Transform")):
        yield Difference(
            "Transform", f"{_shown(template.get('Transform', _ABSENT))}, but functions of SAM need {TRANSFORM}"
        )


def broken_rules(template: Mapping[str, Any]) -> Iterator[Difference]:
    """Yield the rules of construction that a plain template breaks, and those that cannot be checked on its shape."""
    for name, rule in RULES.items():
        try:
            for violation in rule(template):
                place, _, what = violation.partition(": ")
                yield Difference(place, f"{what} (rule {name})")
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            # Somebody's own resource, or one of ours whose difference is named with its place.
            what = (
                f"something that the rule {name} reads has a shape that it cannot read: {type(error).__name__}: {error}"
            )
            yield Difference("Resources", what)


def unfolded(template: Mapping[str, Any]) -> dict[str, Any]:
    """Return a template of SAM in the plain form: functions, and a mapping for each of their events of a queue."""
    resources: dict[str, Any] = {}
    given_resources = template.get("Resources") or {}
    if not isinstance(given_resources, dict):
        raise UnreadableTemplate(f"Resources must be a mapping, not {given_resources!r:.60}")
    common = (template.get("Globals") or {}).get("Function", {})
    for id, resource in given_resources.items():
        if id.startswith("Fn::ForEach::"):
            continue  # somebody's own: what we make is written out
        _check_shape(id, resource)
        if resource["Type"] != FUNCTION:
            resources[id] = resource
            continue
        properties = dict(_over(common, resource.get("Properties", {})))
        if "ImageUri" in properties:
            properties["Code"] = {"ImageUri": properties.pop("ImageUri")}
        for name, event in _events(id, properties.pop("Events", {})):
            given = dict(event)
            source = {"EventSourceArn": given.pop("Queue", None), "FunctionName": {"Ref": id}}
            resources[f"{id}{name}"] = {"Type": _MAPPING, "Properties": {**source, **given}}
        resources[id] = {**resource, "Type": "AWS::Lambda::Function", "Properties": properties}
    try:
        plain: dict[str, Any] = normal({**template, "Resources": resources})
    except RecursionError:
        raise UnreadableTemplate("an alias of the template is inside of what it stands for") from None
    return plain


def _over(common: Any, own: Any) -> Any:
    """Return what SAM makes of a value of Globals and a function's own."""
    if isinstance(common, Mapping) and isinstance(own, Mapping):
        both = {key: _over(common[key], own[key]) for key in common.keys() & own.keys()}
        return {**common, **own, **both}
    return [*common, *own] if isinstance(common, list) and isinstance(own, list) else own


def _events(id: str, events: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the events of a function that are of a queue."""
    if not isinstance(events, Mapping) or not all(isinstance(each, Mapping) for each in events.values()):
        raise UnreadableTemplate(f"the Events of {id} must be a mapping of mappings, not {events!r:.60}")
    for name, event in events.items():
        if event.get("Type") == "SQS":
            if not isinstance(event.get("Properties"), Mapping):
                raise UnreadableTemplate(f"the event {name} of {id} has no Properties")
            yield name, event["Properties"]


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
            own, has = (_properties(each, resource) for each in (resource, other))
            yield from compared(_name(id, resource), own, has)
            for attribute in _ATTRIBUTES:
                one, two = (each.get(attribute, _ABSENT) for each in (resource, other))
                if one is not _ABSENT or (two is not _ABSENT and attribute == "Condition"):
                    yield from compared(f"{_name(id, resource)} ({attribute})", one, two)


def _properties(of: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties that are compared: of the code only which image it is, where one is wanted."""
    found = {key: value for key, value in of.get("Properties", {}).items() if key not in _CODE | _OWN}
    if "ImageUri" in wanted["Properties"].get("Code", {}):
        found["Code"] = of.get("Properties", {}).get("Code", _ABSENT)
    return found


def _differences_beside(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Difference]:
    """Yield what differs in parameters, conditions and outputs, and which of them are missing though they are used."""
    used = set(mentioned([found["Resources"], found.get("Outputs"), found.get("Conditions")]))
    for section in ("Parameters", "Conditions"):
        theirs = found.get(section) or {}
        for id, own in wanted.get(section, {}).items():
            if id in theirs:
                yield from compared(f"{section}.{id}", _wordless(own), _wordless(theirs[id]))
            elif id in used:
                yield Difference(f"{section}.{id}", "is missing, though the template refers to it")
    theirs = found.get("Outputs") or {}
    for id, own in wanted.get("Outputs", {}).items():
        if id not in theirs:
            yield Difference(f"Outputs.{id}", "is missing")
            continue
        yield from compared(f"Outputs.{id}", _wordless(own), _wordless(theirs[id]))


def _wordless(value: Any) -> Any:
    """Return a parameter or an output without what may be anybody's words and names."""
    own = ("Description", "ConstraintDescription", "Export")
    return {key: each for key, each in value.items() if key not in own} if isinstance(value, Mapping) else value


def _name(id: str, resource: Mapping[str, Any]) -> str:
    if resource["Type"] != _MAPPING:
        return id
    given = resource["Properties"]
    return f"the mapping of {referred(given.get('EventSourceArn'))} to {referred(given.get('FunctionName'))}"


def compared(place: str, wanted: Any, found: Any) -> Iterator[Difference]:
    """Yield where two values differ, each place by its path."""
    if _same_set(place, wanted, found):
        return
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


def _same_set(place: str, wanted: Any, found: Any) -> bool:
    """Whether two values are one where AWS takes a text or a list of it, in any order."""
    if place.rpartition(".")[2] not in SETS or _ABSENT in (wanted, found):
        return False
    one, two = (sorted(json.dumps(each, sort_keys=True) for each in listed(value)) for value in (wanted, found))
    return one == two


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
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int) else list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    return "nothing" if value is _ABSENT else json.dumps(value, ensure_ascii=False)


def report(found: Iterable[Difference]) -> str:
    """Return differences as lines."""
    return "\n".join(str(each) for each in found)
