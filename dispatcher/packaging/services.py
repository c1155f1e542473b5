"""The service models of a packaged botocore: those that the package's code may use stay, without their documentation.

Botocore comes with the models of some 430 services, nine tenths of a package's size. Which of them code uses cannot be
told for sure, so the rule errs on the side of keeping: a service stays if its name stands as a text anywhere in the
sources, or in a library that speaks of boto, and all stay where either may make clients of services that it does not
spell out, as `dispatcher.packaging.clients` reads it.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.packaging.clients import services_in

#: What dispatcher itself makes clients of in a function; ``sts`` is for roles that it assumes.
OWN: Final = frozenset({"dynamodb", "s3", "scheduler", "sqs", "sts"})
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
    found = services_in(folder, sources)
    if isinstance(found, str):
        return Kept(None, found)
    return Kept((OWN | found) & known, "named in the code")


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
