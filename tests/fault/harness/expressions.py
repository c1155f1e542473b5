"""DynamoDB's condition and update expressions, as far as the adapter uses them, carried out as they are written.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Expressions.OperatorsAndFunctions.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Item = dict[str, dict[str, Any]]
_WORDS = {
    "AND": "and", "OR": "or", "NOT": "not", "=": "==", "<=": "<=", ">=": ">=", "<": "<", ">": ">", "(": "(", ")": ")",
}  # fmt: skip
_CONDITION = re.compile(r"(attribute_not_exists|attribute_exists)\(([#\w]+)\)|([:#]?\w+|[<>]?=|[<>()])")
_CLAUSE = re.compile(r"(SET|REMOVE|ADD) (.*?)(?= (?:SET|REMOVE|ADD) |$)")
_ASSIGNMENT = re.compile(r"([#\w]+) = (?:if_not_exists\(([#\w]+), (:\w+)\)|([#\w]+) \+ (:\w+)|(:\w+))")


class _Missing:
    """An attribute that is not there: every comparison with it fails."""

    def _no(self, _: object) -> bool:
        return False

    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = _no  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


def plain(value: Mapping[str, Any]) -> Any:
    """Return an attribute's value as Python compares it."""
    ((kind, content),) = value.items()
    return float(content) if kind == "N" else None if kind == "NULL" else content


class Request:
    """The expressions of one UpdateItem, with their names and values."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._condition: str = parameters.get("ConditionExpression", "")
        self._update: str = parameters["UpdateExpression"]
        self._names: Mapping[str, str] = parameters.get("ExpressionAttributeNames", {})
        self._values: Mapping[str, Any] = parameters.get("ExpressionAttributeValues", {})

    def holds(self, item: Item) -> bool:
        """Say whether the condition holds for an item, empty for none; its grammar is Python's but for the words."""
        if not self._condition:
            return True
        words, scope = [], {}
        for number, (function, target, token) in enumerate(_CONDITION.findall(self._condition)):
            if token in _WORDS:
                words.append(_WORDS[token])
                continue
            words.append(f"v{number}")
            scope[f"v{number}"] = self._call(function, target, item) if function else self._operand(token, item)
        return bool(eval(" ".join(words), {"__builtins__": {}}, scope))

    def _call(self, function: str, target: str, item: Item) -> bool:
        found = item.get(self._name(target))
        return (found is None) is (function == "attribute_not_exists")

    def _operand(self, token: str, item: Item) -> Any:
        if token.startswith(":"):
            return plain(self._values[token])
        found = item.get(self._name(token))
        return _Missing() if found is None else plain(found)

    def _name(self, target: str) -> str:
        return self._names.get(target, target)

    def apply(self, item: Item) -> Item:
        """Return the item as it is after the update."""
        changed = dict(item)
        for clause, text in _CLAUSE.findall(self._update):
            if clause == "SET":
                self._set(text, changed)
                continue
            for part in text.split(", "):
                target, _, value = part.partition(" ")
                if clause == "REMOVE":
                    changed.pop(self._name(target), None)
                else:
                    members = changed.get(self._name(target), {"NS": []})["NS"]
                    changed[self._name(target)] = {"NS": sorted({*members, *self._values[value]["NS"]})}
        return changed

    def _set(self, text: str, changed: Item) -> None:
        for target, kept, default, base, added, value in _ASSIGNMENT.findall(text):
            name = self._name(target)
            if base:
                total = int(changed[self._name(base)]["N"]) + int(self._values[added]["N"])
                changed[name] = {"N": str(total)}
            elif not (kept and self._name(kept) in changed):
                changed[name] = self._values[value or default]
