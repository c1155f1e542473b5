"""Types of options, with their shell completion."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

from dispatcher.exceptions import DispatcherError
from dispatcher.serialization import json_decode


class Json(click.ParamType[Any]):
    """A JSON value of one kind, in the typed form of the wire."""

    def __init__(self, kind: type, example: str) -> None:
        self.kind, self.example = kind, example
        self.name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value; other kinds and broken JSON are refused with an example."""
        if not isinstance(value, str):
            return value
        try:
            found = json_decode(value)
        except DispatcherError as error:
            # Not quoted, and no more so by a log of the command: it may be a sensitive argument.
            self.fail(f"it is not JSON ({error}); it must look like {self.example}", param, ctx)
        if not isinstance(found, self.kind):
            self.fail(f"it is {type(found).__name__}; it must be JSON like {self.example}", param, ctx)
        return found


class Seconds(click.ParamType[Any]):
    """A number of seconds, which has an end."""

    name = "seconds"

    def __init__(self, *, positive: bool = False) -> None:
        self._positive = positive

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number; NaN and infinity are refused as what is none, and 0 and less where it must be positive."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        if self._positive and seconds <= 0:
            self.fail(f"{value!r} is not more than 0 seconds", param, ctx)
        return seconds


class Names(click.ParamType[Any]):
    """Names separated by commas; queues are completed."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Return the list of names."""
        if isinstance(value, list):
            return value
        names = [name.strip() for name in value.split(",")]
        if not all(names):
            self.fail(f"{value!r} contains an empty name", param, ctx)
        return names

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the queues that the app declares."""
        before, comma, last = incomplete.rpartition(",")
        return [CompletionItem(f"{before}{comma}{name}") for name in declared_queues(ctx) if name.startswith(last)]


class TaskName(click.ParamType[Any]):
    """The name of a task; completed from the app."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name as it is."""
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the app's tasks."""
        return [CompletionItem(name) for name in _of_app(ctx, _task_names) if name.startswith(incomplete)]


def declared_queues(ctx: click.Context) -> list[str]:
    """Return the names of the queues that the command line's app declares; none if it cannot be loaded."""
    return list(_of_app(ctx, lambda app: app.conf.task_queues or [app.conf.task_default_queue]))


def _task_names(app: Any) -> Iterable[str]:
    app.import_default_modules()
    return sorted(app.tasks)


def _of_app(ctx: click.Context, ask: Any) -> Iterable[str]:
    from dispatcher.cli.session import Session

    root = ctx.find_root()
    session = Session(app_spec=root.params.get("app"))
    try:
        session.enter(root.params.get("workdir"))
        names: Iterable[str] = ask(session.app())
    except Exception:  # noqa: BLE001 - completion must never print an error into the user's prompt
        return []
    return names


def shown(value: Any, indent: int | None = None) -> str:
    """Return a value as plain JSON for output: times in ISO 8601, bytes in base64, what JSON lacks as text."""
    return json.dumps(value, default=_plain, ensure_ascii=False, indent=indent)


def _plain(value: Any) -> Any:
    import base64
    import datetime
    import decimal
    import uuid

    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | uuid.UUID):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, BaseException):
        return {"type": type(value).__name__, "message": str(value)}
    return repr(value)
