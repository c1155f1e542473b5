"""Which dead letters a command means, and what they tell about themselves."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import click

from dispatcher.brokers.base import DeadLetter
from dispatcher.cli.options import Names
from dispatcher.sensitive import MASK, Marks, both, marks_on_wire, masked

_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_AGE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)")
#: The name a reason has where the body could not be read.
_UNREAD: Final = "?"
#: What a body has in it, however damaged, if its message has sensitive arguments.
_MARKED: Final = '"sensitive":'

Pattern = re.Pattern[str]


class PatternType(click.ParamType[Any]):
    """A pattern as in file names, or a regular expression between slashes, which may fit anywhere."""

    name = "pattern"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Pattern:
        """Return a regular expression to search with; broken ones are refused."""
        if isinstance(value, re.Pattern):
            return value
        if not (len(value) > 1 and value.startswith("/") and value.endswith("/")):
            return re.compile(r"\A" + fnmatch.translate(value))
        try:
            return re.compile(value[1:-1])
        except re.error as error:
            self.fail(f"{value!r} is not a regular expression: {error}", param, ctx)


class AgeType(click.ParamType[Any]):
    """A length of time such as 90s, 30m, 12h, 7d or 2w; without a unit in seconds."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, int | float):
            return float(value)
        found = _AGE.fullmatch(value)
        if found is None:
            self.fail(f"{value!r} is not a length of time such as 90s, 30m, 12h, 7d or 2w", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which dead letters are meant: those that fit every kind of condition, each by one of its values."""

    queues: list[str] | None = None
    ids: tuple[str, ...] = ()
    tasks: tuple[Pattern, ...] = ()
    exceptions: tuple[Pattern, ...] = ()
    reasons: tuple[Pattern, ...] = ()
    older_than: float | None = None
    newer_than: float | None = None
    limit: int | None = None

    @property
    def everything(self) -> bool:
        """Whether all dead letters of the queues are meant."""
        return self == Selection(self.queues)

    def with_ids(self, ids: tuple[str, ...]) -> Selection:
        """Return the same for these ids too."""
        return dataclasses.replace(self, ids=(*self.ids, *ids))

    def limited(self, limit: int | None) -> Selection:
        """Return the same for so many letters at most."""
        return dataclasses.replace(self, limit=limit)

    def fits(self, letter: DeadLetter, now: float) -> bool:
        """Say whether a letter is meant."""
        age = now - letter.at
        return (
            (self.older_than is None or age > self.older_than)
            and (self.newer_than is None or age < self.newer_than)
            and (not self.reasons or _any(self.reasons, letter.reason.get("reason", "")))
            and (not self.exceptions or self._fits_exception(letter.reason.get("exception", "")))
            and (not self.ids or letter.message_id in self.ids or task_id_of(letter) in self.ids)
            and (not self.tasks or _any(self.tasks, task_of(letter) or ""))
        )

    def _fits_exception(self, text: str) -> bool:
        return bool(text) and (_any(self.exceptions, text) or _any(self.exceptions, text.partition(":")[0]))


def _any(patterns: tuple[Pattern, ...], text: str) -> bool:
    return any(pattern.search(text) for pattern in patterns)


_OPTIONS: Final = (
    click.option("-Q", "--queues", "--queue", type=Names(), metavar="A,B", help="The queues [all that are known]."),
    click.option("--id", "ids", multiple=True, metavar="ID", help="A task's id, or a letter's message id."),
    click.option("--task", "tasks", type=PatternType(), multiple=True, metavar="PATTERN",
                 help="The task's name: shop.charge, 'shop.*' or '/regex/'."),
    click.option("--exception", "exceptions", type=PatternType(), multiple=True, metavar="PATTERN",
                 help="The exception: its type, 'Type: text' with * and ?, or '/regex/'."),
    click.option("--reason", "reasons", type=PatternType(), multiple=True, metavar="PATTERN",
                 help="The reason: failed, rejected, undecodable, …"),
    click.option("--older-than", type=AgeType(), metavar="AGE", help="Dead for longer: 90s, 30m, 12h, 7d, 2w."),
    click.option("--newer-than", type=AgeType(), metavar="AGE", help="Dead for less."),
)  # fmt: skip


def selecting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that choose dead letters, as one argument ``selection``."""

    @functools.wraps(command)
    def collected(*args: Any, **options: Any) -> Any:
        names = [field.name for field in dataclasses.fields(Selection) if field.name != "limit"]
        return command(*args, selection=Selection(**{name: options.pop(name) for name in names}), **options)

    for option in reversed(_OPTIONS):
        collected = option(collected)
    return collected


revealing = click.option("--reveal", is_flag=True, help="Show arguments that are marked as sensitive, too.")


def task_of(letter: DeadLetter) -> str | None:
    """Return the task's name: from the reason, else from the body; a redrive policy of SQS gives no reason."""
    known = letter.reason.get("task")
    return known if known and known != _UNREAD else _field(letter.body, "task")


def task_id_of(letter: DeadLetter) -> str | None:
    """Return the task's id, from the reason or else from the body."""
    return letter.reason.get("task_id") or _field(letter.body, "id")


def _field(body: str, name: str) -> str | None:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return None
    value = fields.get(name) if isinstance(fields, dict) else None
    return value if isinstance(value, str) else None


def body_of(letter: DeadLetter, app: Any, reveal: bool) -> str:
    """Return a letter's body, with sensitive arguments masked unless they are to be revealed.

    A masked body is for reading: it has neither the arguments nor a signature that holds.
    """
    if reveal:
        return letter.body
    try:
        fields = json.loads(letter.body)
    except (ValueError, RecursionError):
        # Whose arguments are in it, and which are sensitive, cannot be told any more.
        return MASK if _MARKED in letter.body else letter.body
    task = app.tasks.get(task_of(letter)) if app is not None else None
    masked_fields = _without_arguments(fields, task._sensitive if task is not None else None)
    return letter.body if masked_fields == fields else json.dumps(masked_fields, separators=(",", ":"))


def _without_arguments(call: Any, marks: Marks | None, partial: bool = False) -> Any:
    """Return a message, or a signature in one, without its sensitive arguments."""
    if not isinstance(call, dict):
        return call
    try:
        marks = both(marks, marks_on_wire(call.get("sensitive")))
    except TypeError:
        marks = True
    shown = _without_links(call)
    if isinstance(call.get("options"), dict):
        shown["options"] = _without_links(call["options"])
    if marks is None:
        return shown
    if isinstance(call.get("args", []), list) and isinstance(call.get("kwargs", {}), dict):
        safe = masked(call.get("args", []), call.get("kwargs", {}), marks, partial)
    else:
        safe = [MASK], {MASK: MASK}
    shown.update((name, value) for name, value in zip(("args", "kwargs"), safe, strict=True) if name in call)
    if "packed" in call:
        shown["packed"] = MASK
    return shown


def _without_links(call: dict[str, Any]) -> dict[str, Any]:
    """Return a copy whose callbacks have no sensitive arguments."""
    shown = dict(call)
    for name in ("link", "link_error", "chain"):
        if isinstance(call.get(name), list):
            shown[name] = [_without_arguments(each, None, partial=True) for each in call[name]]
    return shown


def describe(letter: DeadLetter, app: Any = None, reveal: bool = False) -> dict[str, Any]:
    """Return all that is known of a letter, for JSON; its sensitive arguments only if they are to be revealed."""
    return {
        "queue": letter.queue, "message_id": letter.message_id, "group_id": letter.group_id, "task": task_of(letter),
        "task_id": task_id_of(letter), "died_at": datetime.fromtimestamp(letter.at, UTC), "at": letter.at,
        "reason": dict(letter.reason), "body": body_of(letter, app, reveal),
    }  # fmt: skip
