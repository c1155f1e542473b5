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
            found = json.loads(text)
        except ValueError as error:
            raise UnreadableTemplate(f"the template is not JSON: {error}") from error
    else:
        found = _yaml(text)
    if not isinstance(found, dict):
        raise UnreadableTemplate("the template is no mapping with Resources")
    return found


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImproperlyConfigured(
            "reading a YAML template needs PyYAML: pip install 'serverless-dispatcher[yaml]'"
        ) from error

    class Loader(yaml.SafeLoader):
        """Reads CloudFormation's tags."""

    def construct(loader: Any, suffix: str, node: yaml.Node) -> Any:
        name = suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}"
        if isinstance(node, yaml.ScalarNode):
            value: Any = loader.construct_scalar(node)
            return {name: value.split(".", 1) if suffix == "GetAtt" else value}
        if isinstance(node, yaml.SequenceNode):
            return {name: loader.construct_sequence(node, deep=True)}
        return {name: loader.construct_mapping(node, deep=True)}

    Loader.add_multi_constructor("!", construct)
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise UnreadableTemplate(f"the template is not YAML: {error}") from error
