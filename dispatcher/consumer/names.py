"""Names of workers: ``dispatcher@host``, and the abbreviations that stand for parts of them."""

from __future__ import annotations

import re
import socket

from dispatcher.exceptions import ImproperlyConfigured

DEFAULT_NAME = "dispatcher"


def node_name(pattern: str | None = None, host: str | None = None) -> str:
    """Return a worker's name, ``name@host``, for what ``--hostname`` says.

    In it %h stands for the host's full name, %n for its first part, %d for the rest, %% for a percent sign. A name
    without ``@`` is taken as the host, as Celery does.
    """
    host = host or socket.gethostname()
    short, _, domain = host.partition(".")
    if not pattern:
        return f"{DEFAULT_NAME}@{host}"
    text = _expand(pattern, {"h": host, "n": short, "d": domain}, "hostname")
    name, at, rest = text.partition("@")
    return f"{name or DEFAULT_NAME}@{rest or host}" if at else f"{DEFAULT_NAME}@{text}"


def expand(text: str, node: str, option: str) -> str:
    """Return a text with %p replaced by the worker's whole name, %n by its name, %h by its host, %d by its domain."""
    name, _, host = node.partition("@")
    return _expand(text, {"p": node, "n": name, "h": host, "d": host.partition(".")[2]}, option)


def _expand(text: str, values: dict[str, str], option: str) -> str:
    def replace(match: re.Match[str]) -> str:
        letter = match[1]
        if letter == "%":
            return "%"
        if letter not in values:
            known = ", ".join(f"%{each}" for each in values)
            raise ImproperlyConfigured(f"{option}={text!r} contains %{letter}; known: {known}, %%")
        return values[letter]

    return re.sub(r"%(.?)", replace, text)
