"""CloudFormation's intrinsic functions: one form for what may be written in several, and what is mentioned in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

_VARIABLE: Final = re.compile(r"\$\{([A-Za-z0-9:.]+)\}")


def normal(value: Any) -> Any:
    """Return a value with its intrinsic functions in one form.

    A Join of texts and references is a Sub, a Sub of one reference is that reference, a Sub of none its text, and what
    GetAtt names is a list. What means something else stays different.
    """
    if isinstance(value, list | tuple):
        return [normal(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    plain = {key: normal(each) for key, each in value.items()}
    match plain:
        case {"Fn::Join": [str(separator), [*parts]], **rest} if (
            not rest and (text := _joined(separator, parts)) is not None
        ):
            plain = {"Fn::Sub": text}
        case {"Fn::Sub": [str(text), variables], **rest} if not rest and not variables:
            plain = {"Fn::Sub": text}
        case {"Fn::GetAtt": str(text), **rest} if not rest:
            plain = {"Fn::GetAtt": text.split(".", 1)}
    match plain:
        case {"Fn::Sub": str(text), **rest} if not rest:
            return _of_sub(text)
    return plain


def _of_sub(text: str) -> Any:
    if (one := _VARIABLE.fullmatch(text)) is not None:
        name, dot, attribute = one[1].partition(".")
        return {"Fn::GetAtt": [name, attribute]} if dot else {"Ref": name}
    return {"Fn::Sub": text} if "${" in text else text


def _joined(separator: str, parts: list[Any]) -> str | None:
    """Return what a Join comes to as the text of a Sub, `None` where a part is no text and no reference."""
    texts: list[str] = []
    for part in parts:
        match part:
            case str(text):
                texts.append(text.replace("${", "${!"))
            case {"Ref": str(name)}:
                texts.append(f"${{{name}}}")
            case {"Fn::GetAtt": [str(name), str(attribute)]}:
                texts.append(f"${{{name}.{attribute}}}")
            case {"Fn::Sub": str(text)}:
                texts.append(text)
            case _:
                return None
    return separator.replace("${", "${!").join(texts)


def mentioned(value: Any) -> Iterator[str]:
    """Yield the parameters, conditions and resources that a value mentions."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from mentioned(each)
    if not isinstance(value, Mapping):
        return
    for key, each in value.items():
        match key, each:
            case (("Ref" | "Condition"), str(name)):
                yield name
            case "Fn::GetAtt" | "Fn::If", [str(name), *rest]:
                yield name
                yield from mentioned(rest)
            case "Fn::Sub", (str(text) | [str(text), *_]):
                yield from (found[1].partition(".")[0] for found in _VARIABLE.finditer(text))
            case _:
                yield from mentioned(each)
