"""The SAM template: ours between marks in each section, everything else byte for byte as somebody wrote it.

A resource that stands outside the marks under an id of ours is somebody's own version of it, and is left out inside.
What is inside carries a checksum, so that an edit made there by hand is noticed and not lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from dispatcher.exceptions import DispatcherError
from dispatcher.provision import makefile, yaml_text
from dispatcher.provision.functions import CODE
from dispatcher.provision.marks import BEGIN, END, Region, marked
from dispatcher.provision.plan import Plan
from dispatcher.provision.reading import UnreadableTemplate, parse
from dispatcher.provision.resources import template
from dispatcher.provision.rules import listed
from dispatcher.provision.template import Resource, Template

TRANSFORM: Final = "AWS::Serverless-2016-10-31"
FUNCTION: Final = "AWS::Serverless::Function"
SECTIONS: Final = ("Parameters", "Conditions", "Resources", "Outputs")


def folded(made: Template, plan: Plan) -> Template:
    """Return a template with SAM's functions, each with its event source mappings as events."""
    mappings: dict[str, list[Resource]] = {}
    for resource in made.resources:
        if resource.type == "AWS::Lambda::EventSourceMapping":
            mappings.setdefault(resource.properties["FunctionName"]["Ref"], []).append(resource)
    resources = tuple(
        _function(resource, mappings.get(resource.id, []), plan)
        if resource.type == "AWS::Lambda::Function"
        else resource
        for resource in made.resources
        if resource.type != "AWS::Lambda::EventSourceMapping"
    )
    parameters = tuple(each for each in made.parameters if each not in CODE)
    return replace(made, resources=resources, parameters=parameters)


def _function(resource: Resource, mappings: list[Resource], plan: Plan) -> Resource:
    properties = dict(resource.properties)
    code = properties.pop("Code")
    attributes = dict(resource.attributes)
    if "ImageUri" in code:
        properties["ImageUri"] = code["ImageUri"]
    else:
        properties = {"Description": properties.pop("Description"), "CodeUri": plan.code, **properties}
        if plan.build != "sam":
            # A Makefile of ours has a directory of its own, one of theirs is beside the code; both run here.
            place = {"ProjectRootDirectory": f"{makefile.folder(plan)}/"} if plan.build == "package" else {}
            attributes["Metadata"] = {"BuildMethod": "makefile", **place, "WorkingDirectory": "."}
    reasons = dict(resource.reasons)
    events = {}
    for mapping in mappings:
        given = dict(mapping.properties)
        del given["FunctionName"]
        name = "Tasks" if mapping.id.removesuffix("Mapping") == resource.id.removesuffix("Function") else mapping.id
        name = name.removesuffix("Mapping")
        events[name] = {"Type": "SQS", "Properties": {"Queue": given.pop("EventSourceArn"), **given}}
        if len(events) == 1:  # the same for all of them
            reasons |= {f"Events.{name}.Properties.{path}": reason for path, reason in mapping.reasons.items()}
    properties["Events"] = events
    return replace(resource, type=FUNCTION, properties=properties, reasons=reasons, attributes=attributes)


def render(plan: Plan, existing: str | None = None, *, force: bool = False) -> str:
    """Return the text of the template: a new one, or an existing one with what is ours renewed.

    Raises `HandEdited` for one whose generated part was changed (unless ``force``), `UnreadableTemplate` for one that
    cannot be read, `DispatcherError` for one that the sections cannot be put into.
    """
    made = folded(template(plan), plan)
    new = existing is None or not existing.strip()
    if existing is None or new:
        existing = "".join(f"{line}\n" for line in _head(made))
    # Only "\n" ends a line here; a carriage return before it stays a part of the line.
    document, ending = existing.split("\n"), "\r" if "\r\n" in existing else ""
    last = document.pop() if not document[-1] else None
    theirs = _theirs(document)
    for section in SECTIONS:
        document = _put(document, section, made, set(theirs.get(section) or {}), force, ending)
    text = "\n".join(document if last is None else [*document, last])
    if not new:
        _check_whole(text)
    return text


def _check_whole(text: str) -> None:
    """Raise where lines of ours among those of somebody else's make no template."""
    try:
        parse(text)
    except UnreadableTemplate as error:
        raise DispatcherError(
            "what the app needs cannot be put between what is there, which has to be YAML with Parameters, Conditions, "
            f"Resources and Outputs as blocks at its left margin: {error}"
        ) from error


def _head(made: Template) -> Iterator[str]:
    yield 'AWSTemplateFormatVersion: "2010-09-09"'
    yield f"Transform: {TRANSFORM}"
    yield from yaml_text.lines("Description", made.description, 0, {})
    yield ""
    yield "# sam build && sam deploy --guided"
    yield "# `dispatcher infra sam` writes what is between the marks, from the app; everything else is yours. To change"
    yield "# something of what is generated, move it out of the marks: it is then left out between them."


def owned(text: str) -> set[str]:
    """Return the ids of the resources that stand outside the marks."""
    return set(_theirs(text.split("\n")).get("Resources") or {})


def _theirs(document: list[str]) -> dict[str, Any]:
    """Return what stands outside the marks, as data."""
    kept, inside = [], False
    for line in document:
        inside = (inside or BEGIN.match(line) is not None) and not END.match(line)
        # Lines of ours are empty ones, so that errors name the others by their numbers in the file.
        kept.append("" if inside or END.match(line) else line)
    found = parse("\n".join(kept))
    if TRANSFORM not in listed(found.get("Transform")):
        raise DispatcherError(
            f"the template has no `Transform: {TRANSFORM}` of its own, so SAM would not read it; add the line, or "
            "write to another file"
        )
    return found


def _put(document: list[str], section: str, made: Template, theirs: set[str], force: bool, ending: str) -> list[str]:
    """Return the document with the generated lines of a section in it."""
    start = next((n for n, line in enumerate(document) if re.match(rf"{section}\s*:", line)), None)
    if start is None:
        body = marked(list(_section(section, made, theirs, 2)), 2)
        return [*document, *(line + ending for line in ("", f"{section}:", *body))]
    if not re.fullmatch(rf"{section}\s*:\s*(#.*)?", document[start].rstrip()):
        raise DispatcherError(f"line {start + 1}: {section} must be a block, with what it holds on lines of their own")
    stop = next((n for n in range(start + 1, len(document)) if re.match(r"[^\s#]", document[n])), len(document))
    indent = next(
        (len(line) - len(line.lstrip()) for line in document[start + 1 : stop] if re.match(r" +[^\s#]", line)), 2
    )
    region = Region.find(document, start, stop)
    body = [line + ending for line in marked(list(_section(section, made, theirs, indent)), indent)]
    if region is None:
        return [*document[: start + 1], *body, *document[start + 1 :]]
    if not force:
        way = "Move what should stay out of the marks (an id that stands outside is left out inside)"
        region.check(document, f"{section}, ", way)
    return region.replaced(document, body)


def _section(section: str, made: Template, theirs: set[str], indent: int) -> Iterator[str]:
    first = True
    for id, body, reasons in _entries(section, made):
        if id in theirs:
            continue
        if not first and section != "Conditions":
            yield ""
        first = False
        yield from yaml_text.lines(id, body, indent, reasons)


def _entries(section: str, made: Template) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, str]]]:
    if section == "Resources":
        for resource in made.resources:
            reasons = {f"Properties.{path}" if path else "": reason for path, reason in resource.reasons.items()}
            body = {"Type": resource.type, **resource.attributes, "Properties": resource.properties}
            yield resource.id, body, reasons
    elif section == "Parameters":
        for parameter in made.parameters:
            yield parameter.id, parameter.properties, parameter.reasons
    elif section == "Conditions":
        for id, condition in made.conditions.items():
            yield id, condition, {}
    else:
        for output in made.outputs:
            yield output.id, {"Description": output.description, "Value": output.value}, {}
