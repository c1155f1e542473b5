"""Writing YAML for people: block style, CloudFormation's short tags, comments above what has a reason."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

_WIDTH: Final = 120
#: Text that YAML reads back as this very text without quotes, in flow and in block style.
_PLAIN: Final = re.compile(r"[A-Za-z_/][A-Za-z0-9_./:+ -]*(?<! )")
#: Words that some reader of YAML takes for something else than text.
_WORDS: Final = frozenset({"true", "false", "yes", "no", "on", "off", "null", "none", "y", "n"})
_TAGS: Final = re.compile(r"Fn::(GetAtt|Sub|If|Not|Equals|FindInMap|Join|Select)|Ref|Condition")


def lines(key: str, value: Any, indent: int, reasons: Mapping[str, str], path: str = "") -> Iterator[str]:
    """Yield the lines of a key with its value; ``reasons`` are comments by the path of what they stand above."""
    margin = " " * indent
    yield from comment(reasons.get(path, ""), indent)
    text, tag = (value["Fn::Sub"], "!Sub ") if isinstance(value, Mapping) and "Fn::Sub" in value else (value, "")
    if isinstance(text, str) and "\n" in text:
        yield f"{margin}{scalar(key)}: {tag}|-"
        yield from (f"{margin}  {line}" for line in text.split("\n"))
        return
    short = _short(value, reasons, path)
    fits = short is not None and len(margin) + len(key) + 2 + len(short) <= _WIDTH
    if short is not None and (fits or _tag(value) or not isinstance(value, list | Mapping)):
        yield f"{margin}{scalar(key)}: {short}"
    else:
        yield f"{margin}{scalar(key)}:"
        yield from _block(value, indent + 2, reasons, path)


def comment(text: str, indent: int) -> Iterator[str]:
    """Yield a sentence as comment lines."""
    for paragraph in text.splitlines():
        for line in textwrap.wrap(paragraph, _WIDTH - indent - 2, break_long_words=False, break_on_hyphens=False):
            yield f"{' ' * indent}# {line}"


def _block(value: Any, indent: int, reasons: Mapping[str, str], path: str) -> Iterator[str]:
    margin = " " * indent
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from lines(key, each, indent, reasons, _joined(path, key))
        return
    for index, each in enumerate(value):
        own = _joined(path, str(index))
        yield from comment(reasons.get(own, ""), indent)
        short = _short(each, reasons, own)
        if short is not None and (_tag(each) or not isinstance(each, list | Mapping) or len(short) + indent < _WIDTH):
            yield f"{margin}- {short}"
            continue
        first, *rest = _block(each, indent + 2, reasons, own)
        while first.lstrip().startswith("#"):  # a comment of the first key stands above the dash
            yield f"{margin}{first.lstrip()}"
            first, *rest = rest
        yield f"{margin}- {first.lstrip()}"
        yield from rest


def _short(value: Any, reasons: Mapping[str, str], path: str) -> str | None:
    """Return a value in one line, or `None` where it needs several: a mapping, or something inside has a reason."""
    tag = _tag(value)
    if tag is not None:
        return tag
    if isinstance(value, Mapping):
        if not value:
            return "{}"
        small = len(value) <= 2 and all(_tag(each) or not isinstance(each, Mapping | list) for each in value.values())
        if not small or any(reason.startswith(f"{path}.") for reason in reasons):
            return None
        text = ", ".join(f"{scalar(key)}: {_short(each, reasons, path)}" for key, each in value.items())
        return f"{{{text}}}" if len(text) < _WIDTH // 2 else None
    if isinstance(value, list | tuple):
        if any(reason.startswith(f"{path}.") for reason in reasons):
            return None
        parts = [_short(each, reasons, path) for each in value]
        return None if None in parts else f"[{', '.join(map(str, parts))}]"
    return scalar(value)


def _tag(value: Any) -> str | None:
    """Return the short form of an intrinsic function, `None` for anything else."""
    if not isinstance(value, Mapping) or len(value) != 1:
        return None
    ((name, given),) = value.items()
    if not _TAGS.fullmatch(name):
        return None
    if name == "Ref":
        return f"!Ref {scalar(given)}"
    if name == "Fn::GetAtt":
        return f"!GetAtt {'.'.join(given)}"
    short = _short(given, {}, "")
    return None if short is None else f"!{name.removeprefix('Fn::')} {short}"


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def scalar(value: Any) -> str:
    """Return a text, number, truth value or nothing as YAML that every reader takes for the same."""
    if isinstance(value, str):
        plain = (
            _PLAIN.fullmatch(value) and value.lower() not in _WORDS and ": " not in value and not value.endswith(":")
        )
        return value if plain else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)
