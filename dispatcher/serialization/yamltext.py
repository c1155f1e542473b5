"""YAML text, as its dumper writes it and no more; imported only when yaml is used, because it imports PyYAML."""

from __future__ import annotations

from typing import Any, Final

import yaml

from dispatcher.exceptions import DecodeError, EncodeError
from dispatcher.serialization.values import MAX_DEPTH, MAX_DIGITS, Form, revive, shorten

#: Longest text written and read, in characters. Only the pure Python parser can be bounded; it takes seconds for this.
MAX_YAML_LENGTH: Final = 256 * 1024

_FORM: Final = Form(keep=(bytes,), finite=False, keys=(str,), convert_keys=False)
_PREFIX: Final = "tag:yaml.org,2002:"
_TYPES: Final = {_PREFIX + name for name in ("null", "bool", "int", "float", "str", "binary", "seq", "map")}
_NUMBERS: Final = {_PREFIX + "int", _PREFIX + "float"}


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Loader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise DecodeError("yaml anchors and aliases are refused: a few lines of them can stand for gigabytes")
        self.depth += 1
        if self.depth > MAX_DEPTH + 1:
            raise DecodeError(f"the yaml text is nested deeper than {MAX_DEPTH} levels")
        node: Any = super().compose_node(parent, index)
        self.depth -= 1
        if node.tag not in _TYPES:
            raise DecodeError(f"the yaml tag {shorten(node.tag)} is refused")
        if node.tag in _NUMBERS and len(node.value) > MAX_DIGITS:
            raise DecodeError(f"a yaml number of {len(node.value)} characters; the limit is {MAX_DIGITS}")
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        if any(key.tag != _PREFIX + "str" for key, _ in getattr(node, "value", ())):
            raise DecodeError("yaml keys other than texts are refused")
        return super().construct_mapping(node, deep)


def encode(value: Any) -> str:
    """Return a value as YAML without aliases; raises `EncodeError`."""
    text: str = yaml.dump(_FORM(value), Dumper=_Dumper, default_flow_style=True, width=2**31)
    if len(text) > MAX_YAML_LENGTH:
        raise EncodeError(f"the yaml text is {len(text)} characters long; the limit is {MAX_YAML_LENGTH}; use msgpack")
    return text


def decode(text: str) -> Any:
    """Return the value of a YAML text, typed values revived; raises `DecodeError`."""
    if len(text) > MAX_YAML_LENGTH:
        raise DecodeError(f"the yaml text is {len(text)} characters long; the limit is {MAX_YAML_LENGTH}")
    try:
        return _revived(yaml.load(text, Loader=_Loader))
    except yaml.YAMLError as error:
        raise DecodeError(f"not yaml: {_place(error)}") from None  # its text quotes the content


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else type(error).__name__


def _revived(value: Any) -> Any:
    if isinstance(value, dict):
        return revive({key: _revived(item) for key, item in value.items()})
    if isinstance(value, list):
        return [_revived(item) for item in value]
    return value
