"""The service models of a packaged botocore: those that the package's code may use stay, without their documentation.

Botocore comes with the models of some 430 services, nine tenths of a package's size. Which of them code uses cannot be
told for sure, so the rule errs on the side of keeping: a service stays if its name stands as a text anywhere in the
sources, or in a library that speaks of boto, and all stay where either makes clients of services that it does not
spell out.
"""

from __future__ import annotations

import ast
import gzip
import json
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from dispatcher.exceptions import ImproperlyConfigured

#: What dispatcher itself makes clients of in a function; ``sts`` is for roles that it assumes.
OWN: Final = frozenset({"dynamodb", "s3", "scheduler", "sqs", "sts"})
#: Packages whose code is not read: theirs names services only to make an exception of them.
_UNREAD: Final = frozenset({"boto3", "botocore", "dispatcher", "s3transfer"})
#: The calls of boto3 and botocore that make a client of the service named first.
_MAKERS: Final = frozenset({"client", "create_client", "resource"})
#: What botocore's error for a service that it does not know goes on with; `dispatcher.aws_data` reads it.
NOTE: Final = "left-out.txt"
_SENTENCE: Final = (
    ". The models of all other services were left out of this function's package, whose code does not name them; keep "
    "one by Package(services=[...]), or --service NAME of python -m dispatcher.packaging"
)


class Kept(NamedTuple):
    """The services whose models stay, `None` for all, and why."""

    services: frozenset[str] | None
    reason: str


def trim(folder: Path, sources: Collection[str], wanted: Sequence[str] | str | None) -> Kept | None:
    """Remove from a directory's botocore what is not used; return what stays, `None` where there is no botocore.

    ``sources`` are the names in it that are no libraries. ``wanted`` are services to keep beside our own, ``"all"``, or
    `None` for those that the code names. Raises `ImproperlyConfigured` for one that botocore does not know.
    """
    data = folder / "botocore" / "data"
    if not data.is_dir():
        return None
    known = frozenset(path.name for path in data.iterdir() if path.is_dir())
    kept = _named(folder, sources, known) if wanted is None else _given(wanted, known)
    if kept.services is not None:
        for name in known - kept.services:
            shutil.rmtree(data / name)
        (data / NOTE).write_text(_SENTENCE, encoding="utf-8")
    for path in data.glob("*/*/*"):
        _lighten(path)
    return kept


def _given(wanted: Sequence[str] | str, known: frozenset[str]) -> Kept:
    if wanted == "all":
        return Kept(None, "as asked for")
    if isinstance(wanted, str):
        raise ImproperlyConfigured(f"services= is a list of services, or 'all', not {wanted!r}")
    if unknown := sorted(set(wanted) - known):
        raise ImproperlyConfigured(f"botocore knows no service {', '.join(map(repr, unknown))}, which is to be kept")
    return Kept((OWN | frozenset(wanted)) & known, "as asked for")


def _named(folder: Path, sources: Collection[str], known: frozenset[str]) -> Kept:
    found: set[str] = set()
    for path in sorted(folder.rglob("*.py")):
        place = path.relative_to(folder)
        text = path.read_bytes()
        if place.parts[0] in _UNREAD or not (place.parts[0] in sources or b"boto" in text):
            continue
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            return Kept(None, f"{place} cannot be read as Python")
        found |= known.intersection(_texts(tree))
        if b"boto" in text and (line := _unnamed(tree)) is not None:
            return Kept(None, f"{place}, line {line}, makes a client of a service that it does not spell out")
    return Kept((OWN | found) & known, "named in the code")


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _unnamed(tree: ast.AST) -> int | None:
    """Return a line on which a client is, or may be, made whose service is no literal."""
    called = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=(ast.Attribute(attr=maker) | ast.Name(id=maker)) as function) if maker in _MAKERS:
                called.add(function)
                named = [each.value for each in node.keywords if each.arg in ("service_name", None)]
                if not all(isinstance(service, ast.Constant) for service in (*node.args, *named)[:1]):
                    return node.lineno
            case ast.Attribute(value=ast.Name(id="boto3"), attr=maker) if maker in _MAKERS and node not in called:
                return node.lineno  # handed on to be called elsewhere
    return None


def _lighten(path: Path) -> None:
    """Unpack a file, and take out what only people read: a client is then made in two thirds of the time."""
    if path.name.startswith("examples-"):
        path.unlink()
    elif path.name.endswith(".json.gz"):
        model = json.loads(gzip.decompress(path.read_bytes()))
        if path.name.startswith("service-2."):
            _undocument(model)
        path.with_suffix("").write_text(json.dumps(model, separators=(",", ":")), encoding="utf-8")
        path.unlink()


def _undocument(model: dict[str, Any]) -> None:
    """Take the documentation out of a model; members of structures may be called so and stay."""
    model.pop("documentation", None)
    for operation in model.get("operations", {}).values():
        _drop(operation, operation.get("input"), operation.get("output"), *operation.get("errors", ()))
    for shape in model.get("shapes", {}).values():
        _drop(shape, *shape.get("members", {}).values(), *(shape.get(part) for part in ("member", "key", "value")))


def _drop(*described: dict[str, Any] | None) -> None:
    for each in described:
        if each is not None:
            each.pop("documentation", None)
