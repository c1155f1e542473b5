"""One terminal for everything: a line a message, headed by the function it comes from, readable by people."""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from dispatcher.local.sandbox import Invocation

_COLOURS: Final = (36, 35, 34, 32, 33, 96, 95, 94)
_LEVELS: Final = {"DEBUG": 2, "INFO": 0, "WARNING": 33, "WARN": 33, "ERROR": 31, "CRITICAL": 31, "FATAL": 31}
_NAME_CHARS: Final = 16
_ID_CHARS: Final = 8


class Console:
    """Writes whole lines, from any thread; ``colour`` says whether escape codes are understood."""

    def __init__(self, write: Callable[[str], None], *, colour: bool = False) -> None:
        self._write = write
        self._colour = colour
        self._lock = threading.Lock()

    def say(self, text: str, level: str = "INFO") -> None:
        """Write lines of our own."""
        self._lines("local", text, level)

    def plain(self, text: str) -> None:
        """Write text as it is."""
        with self._lock:
            self._write(text)

    def output(self, function: str) -> Callable[[str], None]:
        """Return what writes a function's lines."""

        def write(line: str) -> None:
            told = readable(line)
            if told is not None:
                self._lines(function, *told)

        return write

    def failed(self, function: str) -> Callable[[Invocation], None]:
        """Return what writes why an invocation failed, as Lambda tells it."""

        def write(invocation: Invocation) -> None:
            try:
                error = invocation.json()
            except ValueError:
                error = {}
            kind, message = error.get("errorType", "Error"), error.get("errorMessage", "")
            trace = "".join(str(line) for line in error.get("stackTrace") or ())
            text = f"the batch failed after {invocation.duration:.1f} s: {kind}: {message}\n{trace}".rstrip()
            self._lines(function, f"{text}\nits messages come back after the queue's visibility timeout", "ERROR")

        return write

    def _lines(self, name: str, text: str, level: str) -> None:
        moment = time.strftime("%H:%M:%S")
        short = name if len(name) <= _NAME_CHARS else f"…{name[1 - _NAME_CHARS :]}"  # long names differ at their end
        head = f"{short:<{_NAME_CHARS}}"
        if self._colour:
            head = f"\x1b[{_colour_of(name)}m{head}\x1b[0m"
        with self._lock:
            for line in text.splitlines() or [""]:
                self._write(f"{moment} {head} {self._levelled(line, level)}")

    def _levelled(self, line: str, level: str) -> str:
        colour = _LEVELS.get(level, 0)
        return f"\x1b[{colour}m{line}\x1b[0m" if self._colour and colour else line


def _colour_of(name: str) -> int:
    return 90 if name == "local" else _COLOURS[zlib.crc32(name.encode()) % len(_COLOURS)]


def readable(line: str) -> tuple[str, str] | None:
    """Return a logged line as text and level; `None` for one that tells people nothing (metrics)."""
    if not line.startswith("{"):
        return (line, "INFO") if line.strip() else None
    try:
        fields = json.loads(line)
    except ValueError:
        return line, "INFO"
    if "_aws" in fields or _is_chatter(fields):
        return None
    if "message" not in fields:
        return line, "INFO"
    return _text_of(fields), str(fields.get("level", "INFO"))


def _is_chatter(fields: Mapping[str, Any]) -> bool:
    """Say whether it is one of the SDK's lines on where its settings come from."""
    return fields.get("level") == "INFO" and str(fields.get("logger", "")).startswith("botocore")


def _text_of(fields: Mapping[str, Any]) -> str:
    level, message = str(fields.get("level", "INFO")), fields["message"]
    text = message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)
    task_id = fields.get("task_id")
    if task_id and str(task_id) not in text:
        text += f"  [{fields.get('task', '')} {str(task_id)[:_ID_CHARS]}]"
    trace = fields.get("exception") or "".join(str(each) for each in fields.get("stackTrace") or ())
    return f"{level:<8} {text}" + (f"\n{str(trace).rstrip()}" if trace else "")
