"""``dispatcher list``, ``report`` and ``shell``: what an app consists of."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import Any

import click

from dispatcher._version import __version__
from dispatcher.cli.banner import urls_of
from dispatcher.cli.errors import MISUSED, OK, CommandError
from dispatcher.cli.letters import describe
from dispatcher.cli.options import Names, shown
from dispatcher.cli.queues import known_queues
from dispatcher.cli.session import Session
from dispatcher.cli.tables import show_table
from dispatcher.config import embedded_path
from dispatcher.exceptions import ImproperlyConfigured

_LIST = """\b
Examples:
  dispatcher -A shop.tasks list tasks
  dispatcher -A shop.tasks list queues --json
  dispatcher -A shop.tasks list dead-letters -Q mail
"""
#: What a report names the version of.
_LIBRARIES = ("msgpack", "click", "rich", "redis", "boto3", "botocore", "aws-lambda-powertools", "PyYAML")
#: Attributes of a task that `list tasks` shows where they were set.
_OPTIONS = (
    "queue", "priority", "max_retries", "default_retry_delay", "autoretry_for", "retry_backoff", "time_limit",
    "soft_time_limit", "ignore_result", "acks_late", "serializer", "track_started", "revocable", "throws", "expires",
    "rate_limit", "rate_limit_scope",
    "sensitive",
)  # fmt: skip


@click.group("list", epilog=_LIST)
def list_() -> None:
    """List the app's tasks, its queues or their dead letters."""


@list_.command("tasks")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def tasks(session: Session, as_json: bool) -> int:
    """List the app's tasks, where they go and how they differ from the defaults."""
    app = session.app_with_modules()
    rows = [_task_row(app, name) for name in sorted(app.tasks)]
    if as_json:
        click.echo(shown(rows))
        return OK
    if not rows:
        click.echo("the app has no tasks; does it import the modules that define them? (include=, imports)", err=True)
        return OK
    show_table(
        ("task", "queue", "options"),
        [
            (row["name"], row["queue"], ", ".join(f"{key}={_brief(value)}" for key, value in row["options"].items()))
            for row in rows
        ],
        text=3,
    )
    return OK


def _task_row(app: Any, name: str) -> dict[str, Any]:
    from dispatcher.routing import Routes

    task = app.tasks[name]
    options = {
        option: getattr(task, option)
        for option in _OPTIONS
        if option != "queue" and getattr(task, option) != _default(app, option)
    }
    return {"name": name, "queue": Routes.of(app.conf).home(task), "async": task._is_async, "options": options}


def _default(app: Any, option: str) -> Any:
    from dispatcher.task import Task
    from dispatcher.task_options import FROM_CONFIG

    key = FROM_CONFIG.get(option)
    return getattr(app.conf, key) if key is not None else getattr(Task, option)


def _brief(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(_brief(each) for each in value) + ")"
    return value.__name__ if isinstance(value, type) else f"{value:g}" if isinstance(value, float) else repr(value)


@list_.command("queues")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def queues(session: Session, as_json: bool) -> int:
    """List the queues that the app declares or the broker knows; `status` counts their messages."""
    app = session.any_app()
    app.finalize()
    declared = set(app.conf.task_queues or [app.conf.task_default_queue])
    rows = [{"queue": name, "declared": name in declared} for name in known_queues(app)]
    if as_json:
        click.echo(shown(rows))
    else:
        for row in rows:
            click.echo(row["queue"] if row["declared"] else f"{row['queue']}  (not declared by the app)")
    return OK


@list_.command("dead-letters")
@click.option("-Q", "--queues", "names", type=Names(), metavar="A,B", help="Only these queues.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="The newest so many per queue.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list, bodies included.")
@click.pass_obj
def dead_letters(session: Session, names: list[str] | None, limit: int, as_json: bool) -> int:
    """List messages that will not be run again by themselves, newest first, with the reason."""
    app = session.any_app()
    app.finalize()
    letters = [letter for name in names or known_queues(app) for letter in app.broker.dead_letters(name, limit)]
    if as_json:
        click.echo(shown([describe(letter, app) for letter in letters]))
    elif letters:
        show_table(
            ("queue", "task", "id", "reason"),
            [
                (
                    letter.queue, letter.reason.get("task", "?"), letter.reason.get("task_id", letter.message_id),
                    letter.reason.get("exception") or letter.reason.get("reason", ""),
                )
                for letter in letters
            ],
            text=4,
        )  # fmt: skip
    else:
        click.echo("no dead letters", err=True)
    return OK


@list_.command("bindings", hidden=True)
def bindings() -> None:
    """Refuse: bindings belong to AMQP."""
    raise CommandError("`list bindings` cannot work: there is no AMQP here; see `list queues`", MISUSED)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def report(session: Session, as_json: bool) -> int:
    """Print versions, platform and settings, secrets masked, for a bug report."""
    app = session.optional_app()
    found: dict[str, Any] = {
        "dispatcher": __version__,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "executable": sys.executable,
        "libraries": {name: version for name in _LIBRARIES if (version := _version(name)) is not None},
        "app": session.spec,
    }
    if app is None:
        found["settings"] = _settings(_no_app(session))
        found["embedded file"] = _embedded(None)
    else:
        found["broker"], found["backend"] = urls_of(app)
        found["embedded file"] = _embedded(app.main)
        found["tasks"] = len(session.app_with_modules().tasks)
        found["settings"] = _settings(app)
    click.echo(shown(found, indent=2) if as_json else _as_lines(found))
    return OK


def _no_app(session: Session) -> Any:
    from dispatcher.app import Dispatcher

    app = Dispatcher(set_as_current=False)
    app.conf.override(broker_url=session.broker, result_backend=session.backend)
    return app


def _settings(app: Any) -> dict[str, Any]:
    return {name: {"value": value, "source": app.conf.source_of(name)} for name, value in app.conf.table().items()}


def _embedded(name: str | None) -> str:
    try:
        path = embedded_path(name)
    except ImproperlyConfigured as error:
        return f"none: {error}"
    return f"{path}{'' if path.exists() else ' (does not exist yet)'}"


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _as_lines(found: dict[str, Any]) -> str:
    lines = []
    for name, value in found.items():
        if name == "libraries":
            lines.append("libraries: " + ", ".join(f"{library} {version}" for library, version in value.items()))
        elif name == "settings":
            lines.append("settings:" if value else "settings: all at their defaults")
            lines += [f"  {key} = {each['value']!r}  ({each['source']})" for key, each in value.items()]
        else:
            lines.append(f"{name}: {value if value is not None else 'none given'}")
    return "\n".join(lines)


@click.command()
@click.pass_obj
def shell(session: Session) -> int:
    """Open a Python prompt with the app, its tasks by their short names, and AsyncResult."""
    import code

    from dispatcher.result import AsyncResult

    app = session.app_with_modules()
    names: dict[str, Any] = {"app": app, "AsyncResult": AsyncResult}
    names.update({name.rpartition(".")[2]: task for name, task in app.tasks.items()})
    shown_names = ", ".join(sorted(names))
    code.interact(banner=f"dispatcher {__version__} on Python {platform.python_version()}: {shown_names}", local=names)
    return OK
