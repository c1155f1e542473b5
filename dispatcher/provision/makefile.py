"""The Makefile by which `sam build` makes packages with bytecode and with the service models in use."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from dispatcher.exceptions import DispatcherError
from dispatcher.provision.marks import BEGIN, Region, marked
from dispatcher.provision.plan import Plan
from dispatcher.provision.template import Template

#: Beside a Python's own words.
_NO_MODULE: Final = (
    "$(PYTHON) lacks serverless-dispatcher; name one that has it, and pip: PYTHON=.venv/bin/python sam build"
)
_HEAD: Final = """\
# How `sam build` makes the functions' packages, by the template that names this file's directory; it runs in the
# template's. `dispatcher infra sam` writes what is between the marks, from the app; everything else is yours.

# The Python in which serverless-dispatcher and pip are; another one: PYTHON=.venv/bin/python sam build
PYTHON ?= python3
# More options, which `python -m dispatcher.packaging --help` lists: PACKAGING=--no-bytecode sam build
PACKAGING ?=

"""


def folder(plan: Plan) -> PurePosixPath:
    """Return the directory of the Makefile, seen from the template's; none but our own Makefile is there."""
    return PurePosixPath("infra", "sam", plan.name if plan.stage is None else f"{plan.name}-{plan.stage}")


def render(plan: Plan, made: Template, existing: str | None = None, *, force: bool = False) -> str | None:
    """Return the text of the Makefile for a plan's template, `None` where no function is built by it.

    Raises `HandEdited` for one whose generated part was changed (unless ``force``), `DispatcherError` for one that has
    no such part.
    """
    body = list(_rules(plan, made)) if plan.build == "package" else []
    if not body:
        return None
    if existing is None:
        return _HEAD + "".join(f"{line}\n" for line in marked(body))
    # Only "\n" ends a line here; a carriage return before it stays a part of the line.
    document, ending = existing.split("\n"), "\r" if "\r\n" in existing else ""
    region = Region.find(document, 0, len(document))
    if region is None:
        raise DispatcherError(
            "there is a Makefile that `dispatcher infra sam` has not written; move it elsewhere, or let it build the "
            f'functions: move it to the directory {plan.code!r}, and set infra = {{"build": "makefile"}}'
        )
    if not force:
        region.check(document, "", "Move what should stay out of the marks")
    return "\n".join(region.replaced(document, [line + ending for line in marked(body)]))


def is_ours(text: str) -> bool:
    """Whether there are marks of ours in a Makefile."""
    return any(BEGIN.match(line) for line in text.split("\n"))


def _rules(plan: Plan, made: Template) -> Iterator[str]:
    """Yield a rule for each kind of package: functions of one architecture, runtime and way to bring libraries."""
    kinds: dict[tuple[str, str, bool], list[str]] = {}
    for resource in made.resources:
        given = resource.properties
        if resource.type == "AWS::Lambda::Function" and "ImageUri" not in given["Code"]:
            kind = (given["Runtime"], given["Architectures"][0], bool(given.get("Layers")))
            kinds.setdefault(kind, []).append(f"build-{resource.id}")
    for (runtime, architecture, layers), targets in kinds.items():
        # A layer may have the app, or dispatcher.
        app = "" if layers else f" --app {shlex.quote(plan.app)}"
        yield f"{' '.join(targets)}:"
        yield f'\t@$(PYTHON) -c "import dispatcher.packaging" || {{ echo "{_NO_MODULE}" >&2; exit 1; }}'
        yield f'\t$(PYTHON) -m dispatcher.packaging "$(ARTIFACTS_DIR)" --project {_quoted(plan.code)}{app} \\'
        yield f"\t\t--runtime {runtime} --architecture {architecture} $(PACKAGING)"


def _quoted(path: str) -> str:
    return shlex.quote(path).replace("$", "$$")


def unbuildable(template: Mapping[str, Any], base: Path) -> Iterator[tuple[str, str]]:
    """Yield the functions of a template of SAM, and what is wrong, whose ``BuildMethod: makefile`` has no target.

    ``base`` is the template's directory. Where a Makefile takes its targets from elsewhere, nothing can be said.
    """
    for id, resource in (template.get("Resources") or {}).items():
        given = resource.get("Metadata") if isinstance(resource, Mapping) else None
        if not isinstance(given, Mapping) or given.get("BuildMethod") != "makefile":
            continue
        code = (resource.get("Properties") or {}).get("CodeUri", ".")
        # As `sam build` looks for it.
        where = given.get("ContextPath") or given.get("ProjectRootDirectory") or code
        if not isinstance(where, str):
            continue
        path = Path(where, "Makefile")
        if not (base / path).is_file():
            yield id, f"BuildMethod is makefile, but there is no {path.as_posix()}"
        elif not _has_target((base / path).read_text(encoding="utf-8", errors="replace"), f"build-{id}"):
            yield id, f"BuildMethod is makefile, but {path.as_posix()} has no target build-{id}"


def _has_target(text: str, target: str) -> bool:
    """Whether a Makefile makes a target, or may: by a pattern, a variable or a file that it includes."""
    lines = text.replace("\\\n", " ").splitlines()
    if any(re.match(r"-?s?include\b", line) for line in lines):
        return True
    heads = [line.partition(":")[0] for line in lines if ":" in line and not line.startswith(("\t", "#", "."))]
    return any("$" in head or _matches(each, target) for head in heads for each in head.split())


def _matches(pattern: str, target: str) -> bool:
    before, percent, after = pattern.partition("%")
    return target.startswith(before) and target.endswith(after) if percent else pattern == target
