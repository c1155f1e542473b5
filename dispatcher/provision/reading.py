"""Reading templates: YAML with CloudFormation's tags, or JSON, into plain data with intrinsics in their long form."""

from __future__ import annotations

import json
from typing import Any

from dispatcher.exceptions import DispatcherError, ImproperlyConfigured


class UnreadableTemplate(DispatcherError):
    """A template cannot be read; the message says where."""


def parse(text: str) -> dict[str, Any]:
    """Return a template as plain data: ``!Ref x`` is ``{"Ref": "x"}``, ``!GetAtt a.b`` ``{"Fn::GetAtt": ["a", "b"]}``.

    Raises `UnreadableTemplate`, and `ImproperlyConfigured` where PyYAML is needed and missing.
    """
    if text.lstrip().startswith("{"):
        try:
            found = json.loads(text, object_pairs_hook=_once)
        except ValueError as error:
            raise UnreadableTemplate(f"the template is not JSON: {error}") from error
    else:
        found = _yaml(text)
    if not isinstance(found, dict):
        raise UnreadableTemplate("the template is no mapping with Resources")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, none of whose keys may be there twice: readers keep one, and not all the same one."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise UnreadableTemplate(f"the key {key!r} is there twice in one object")
        found[key] = value
    return found


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImproperlyConfigured(
            "reading a YAML template needs PyYAML: pip install 'serverless-dispatcher[yaml]'"
        ) from error

    class Loader(yaml.SafeLoader):
        """Reads CloudFormation's tags; dates are texts, as CloudFormation has them, and no key is there twice."""

        def compose_mapping_node(self, anchor: Any) -> Any:
            """Return a mapping as it is written, before what it merges."""
            node = super().compose_mapping_node(anchor)
            first: dict[tuple[str, str], int] = {}
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    line = key.start_mark.line + 1
                    if (key.tag, key.value) in first:
                        where = first[key.tag, key.value]
                        raise UnreadableTemplate(f"the key {key.value!r} of line {where} is there again in line {line}")
                    first[key.tag, key.value] = line
            return node

    def construct(loader: Any, suffix: str, node: yaml.Node) -> Any:
        name = suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}"
        if isinstance(node, yaml.ScalarNode):
            value: Any = loader.construct_scalar(node)
            return {name: value.split(".", 1) if suffix == "GetAtt" else value}
        if isinstance(node, yaml.SequenceNode):
            return {name: loader.construct_sequence(node, deep=True)}
        return {name: loader.construct_mapping(node, deep=True)}

    Loader.add_multi_constructor("!", construct)
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise UnreadableTemplate(f"the template is not YAML: {error}") from error
