"""The services whose clients a package's code may make, read off its sources; whatever is in doubt counts as any.

What makes clients has few names, which are looked for wherever they are used: a session may come from anywhere. So
code is not followed: a maker that is not called on the spot with a text may be called with any service's name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

#: Packages whose code is not read: it makes clients of what others name, or of the services that are kept anyhow.
_UNREAD: Final = frozenset({"boto3", "botocore", "dispatcher", "s3transfer"})
#: What of boto3 and botocore makes a client, or reads the model, of the service named first.
_MAKERS: Final = frozenset(
    {"client", "resource", "create_client", "get_service_model", "get_service_data", "load_service_model"}
)
_CALL: Final = re.compile(rb"\b(%s)\s*\(" % b"|".join(maker.encode() for maker in sorted(_MAKERS)))
#: Packages that hand clients around, but call what makes them on the spot.
_ON_THE_SPOT: Final = frozenset({"aws_lambda_powertools"})
#: What takes the name of an attribute as a text.
_BY_NAME: Final = frozenset({"getattr", "attrgetter", "methodcaller", "__getattribute__", "__getattr__"})


def services_in(folder: Path, sources: Collection[str]) -> frozenset[str] | str:
    """Return the texts in a directory's code that may name services, or why any may be used.

    ``sources`` are the names in it that are no libraries. A library is read if anything in it speaks of boto.
    """
    texts: set[str] = set()
    for place, code in _read(folder, sources):
        if place.suffix != ".py":
            return f"{place} speaks of boto, and is not Python that can be read"
        # In other files of a library the names are anybody's: only what is called counts.
        close = place.parts[0] in sources or b"boto" in code
        if not close and not _CALL.search(code):
            continue
        try:
            tree = ast.parse(code)
        except (SyntaxError, ValueError):
            return f"{place} cannot be read as Python"
        called = dict(_called(tree))
        imported = _imported(tree)
        for maker, (service, line) in called.items():
            if not (close or isinstance(maker, ast.Attribute) or imported):
                continue  # a variable, such as one for what makes Redis' clients
            if service is None:
                return f"{place}, line {line}, makes a client of a service that it does not spell out"
            texts.add(service)
        if close:
            taken = None if place.parts[0] in _ON_THE_SPOT else _handed_on(tree, called, imported)
            if taken is not None:
                return f"{place}, line {taken}, hands on what makes clients"
            texts.update(_texts(tree))
    return frozenset(texts)


def _read(folder: Path, sources: Collection[str]) -> Iterator[tuple[Path, bytes]]:
    """Yield the places and the contents of files of sources and of libraries that speak of boto."""
    found: dict[str, list[Path]] = {}
    for path in sorted(path for ending in ("py", "so", "pyc") for path in folder.rglob(f"*.{ending}")):
        place = path.relative_to(folder)
        if place.parts[0].partition(".")[0] not in _UNREAD and "__pycache__" not in place.parts:
            found.setdefault(place.parts[0], []).append(place)
    for top, places in found.items():
        codes = [(place, (folder / place).read_bytes()) for place in places]
        if top in sources or any(b"boto" in code for _, code in codes):
            yield from ((place, code) for place, code in codes if place.suffix == ".py" or b"boto" in code)


def _called(tree: ast.AST) -> Iterator[tuple[ast.expr, tuple[str | None, int]]]:
    """Yield the makers that are called, each with the service, `None` where that is no literal, and the line."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=(ast.Attribute(attr=maker) | ast.Name(id=maker)) as function) if maker in _MAKERS:
                named = [each.value for each in node.keywords if each.arg in ("service_name", None)]
                match [*node.args, *named][:1]:
                    case []:
                        yield function, ("", node.lineno)
                    case [ast.Constant(value=service)]:
                        yield function, (service if isinstance(service, str) else "", node.lineno)
                    case _:
                        yield function, (None, node.lineno)


def _handed_on(tree: ast.AST, called: Collection[ast.expr], imported: bool) -> int | None:
    """Return a line on which a maker is, or may be, taken to be called elsewhere."""
    modules = {"boto3", *_modules(tree)}
    # ``self.client.send`` takes something of a client; what makes clients has nothing but what all functions have.
    members = {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute) and not node.attr.startswith("__")
    }
    passed = {*called, *members}
    passed.update(_own(tree, passed))
    spelled = not _MAKERS.isdisjoint(_texts(tree))
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom() if any(each.name in _MAKERS and each.asname not in (None, each.name)
                                         for each in node.names):  # fmt: skip
                return node.lineno
            case ast.Attribute(attr=maker, ctx=ast.Load()) if maker in _MAKERS and node not in passed:
                return node.lineno
            case ast.Name(id=maker, ctx=ast.Load()) if maker in _MAKERS and node not in passed and imported:
                return node.lineno
            case ast.Call(func=ast.Attribute(attr=way) | ast.Name(id=way)) if way in _BY_NAME:
                if _may_take(node, spelled, modules):
                    return node.lineno
            case ast.Subscript(value=ast.Attribute(attr="__dict__") | ast.Call(func=ast.Name(id="vars"))):
                if spelled:
                    return node.lineno
    return None


def _imported(tree: ast.AST) -> bool:
    """Whether a module imports functions by the names of makers, or may."""
    names = {each.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for each in node.names}
    return "*" in names or not _MAKERS.isdisjoint(names)


def _own(tree: ast.AST, passed: Collection[ast.AST]) -> Iterator[ast.expr]:
    """Yield what reads ``self.client`` where such an attribute is set, and not to what it was, as in a subclass."""
    attributes = {
        node: node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
    }
    wrapped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            was = {attributes[each] for each in ast.walk(node.value) if each in attributes and each not in passed}
            wrapped |= was.intersection(attributes[each] for each in node.targets if each in attributes)
    own = {attr for each, attr in attributes.items() if isinstance(each.ctx, ast.Store)} - wrapped
    yield from (each for each, attr in attributes.items() if attr in own)


def _may_take(call: ast.Call, spelled: bool, modules: Collection[str]) -> bool:
    """Whether a call such as ``getattr(session, name)`` may give what makes clients."""
    if any(text.rpartition(".")[2] in _MAKERS for text in _texts(call)):
        return True
    if any(isinstance(each, ast.Constant) for each in call.args[:2]):
        return False
    return spelled or any(isinstance(each, ast.Name) and each.id in modules for each in call.args[:1])


def _modules(tree: ast.AST) -> Iterator[str]:
    """Yield the names that a module imports boto3 or botocore as."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.asname for each in node.names if each.asname is not None and "boto" in each.name)


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
