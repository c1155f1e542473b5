"""What SQS takes as text, and how a dead letter carries its reason: as message attributes within the limits."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, Final

from dispatcher.quotas import SQS_MAX_ATTRIBUTES

#: Bytes of a traceback and of any other attribute; a letter of usual size stays within one billed request of 64 KB.
MAX_TRACEBACK_BYTES: Final = 32_768
MAX_ATTRIBUTE_BYTES: Final = 4_096

#: The reason shown for a letter that carries none: the queue's redrive policy moved it.
REDRIVEN: Final = "received too often without an outcome"

# The characters of XML 1.0: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
_ILLEGAL: Final = "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
_ILLEGAL_IN_NAME: Final = re.compile(r"[^A-Za-z0-9_-]")
_ORDER: Final = ("reason", "task", "task_id", "exception", "retries", "traceback")
_TYPE: Final = "String"


def size_of(text: str) -> int:
    """Return the bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


@functools.cache
def _illegal() -> re.Pattern[str]:
    # Compiling takes 5 ms, and most processes never meet a text that is not printable ASCII.
    return re.compile(_ILLEGAL)


def is_legal_body(body: str) -> bool:
    """Say whether SQS takes a text as a body."""
    return bool(body) and _illegal().search(body) is None


def attributes_of(reason: Mapping[str, str], room: int) -> dict[str, dict[str, str]]:
    """Return a reason as message attributes that take at most ``room`` bytes.

    The known names go first, texts that are too long lose their middle, characters that SQS does not take are replaced.
    """
    names = [name for name in _ORDER if name in reason] + [name for name in reason if name not in _ORDER]
    attributes: dict[str, dict[str, str]] = {}
    for name in names[:SQS_MAX_ATTRIBUTES]:
        legal = _ILLEGAL_IN_NAME.sub("_", name)
        room -= len(legal) + len(_TYPE)
        longest = min(room, MAX_TRACEBACK_BYTES if name == "traceback" else MAX_ATTRIBUTE_BYTES)
        text = _shorten(_illegal().sub("\ufffd", reason[name]), longest)
        if text:
            attributes[legal] = {"DataType": _TYPE, "StringValue": text}
            room -= size_of(text)
    return attributes


def _shorten(text: str, longest: int) -> str:
    """Cut the middle out of a text of too many bytes, keeping more of its end, where a traceback names the error."""
    raw = text.encode()
    if len(raw) <= longest:
        return text
    mark = f"\n… {len(raw) - longest:,} bytes and more left out …\n"
    left = longest - size_of(mark)
    if left < 0:
        return ""
    head = left // 4
    return raw[:head].decode(errors="ignore") + mark + raw[len(raw) - (left - head) :].decode(errors="ignore")


def size_of_attributes(attributes: Mapping[str, Mapping[str, str]]) -> int:
    """Return what attributes count towards the size of a message: names, types and values."""
    return sum(
        size_of(name) + size_of(value["DataType"]) + size_of(value["StringValue"]) for name, value in attributes.items()
    )


def reason_of(attributes: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Read a reason back."""
    texts = {name: str(value["StringValue"]) for name, value in attributes.items() if "StringValue" in value}
    return texts or {"reason": REDRIVEN}
