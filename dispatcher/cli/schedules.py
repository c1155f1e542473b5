"""``dispatcher schedules``: the entries of the beat, and changes of stored ones."""

from __future__ import annotations

from typing import Any

import click

from dispatcher.cli.errors import FAILED, OK, CommandError
from dispatcher.cli.options import shown
from dispatcher.cli.session import Session
from dispatcher.cli.tables import show_table

_EPILOG = """\b
Examples:
  dispatcher -A shop.tasks schedules list
  dispatcher -A shop.tasks schedules pause nightly-report

\b
Entries of the app's own code are listed only; stored ones, made by app.schedules.put, can be changed.
"""


@click.group(name="schedules", epilog=_EPILOG)
def schedules() -> None:
    """List the entries of the beat; pause, resume and delete stored ones."""


@schedules.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def list_(session: Session, as_json: bool) -> int:
    """List all entries, when each is due next, and where it comes from."""
    from dispatcher.beat.entries import entries

    app = session.app_with_modules()
    found = {**app.schedules.list(), **entries(app)}
    now = app.clock.time()
    if as_json:
        click.echo(shown([_row(entry, now) for entry in found.values()]))
    elif found:
        show_entries(found.values(), now)
    else:
        click.echo("no entries: set beat_schedule, call app.add_periodic_task or app.schedules.put")
    return OK


@schedules.command()
@click.argument("name")
@click.pass_obj
def pause(session: Session, name: str) -> int:
    """Keep a stored entry from firing."""
    return _change(session, "pause", name)


@schedules.command()
@click.argument("name")
@click.pass_obj
def resume(session: Session, name: str) -> int:
    """Let a stored entry fire again, for times from now on."""
    return _change(session, "resume", name)


@schedules.command()
@click.argument("name")
@click.pass_obj
def delete(session: Session, name: str) -> int:
    """Remove a stored entry."""
    app = _stored(session, name)
    if not app.schedules.delete(name):
        raise CommandError(f"there is no stored entry {name!r}", FAILED)
    click.echo(f"{name}: deleted")
    return OK


def _change(session: Session, what: str, name: str) -> int:
    app = _stored(session, name)
    try:
        entry = getattr(app.schedules, what)(name)
    except KeyError:
        raise CommandError(f"there is no stored entry {name!r}", FAILED) from None
    click.echo(f"{name}: {'on' if entry.enabled else 'paused'}")
    return OK


def _stored(session: Session, name: str) -> Any:
    app = session.app_with_modules()
    app.finalize()
    if name in (app.conf.beat_schedule or {}):
        raise CommandError(
            f"the entry {name!r} is one of the app's own code; set 'enabled' to False in its beat_schedule"
        )
    return app


def show_entries(entries: Any, now: float) -> None:
    """Print entries as a table."""
    rows = [tuple("" if cell is None else cell for cell in _row(entry, now).values()) for entry in entries]
    show_table(("entry", "schedule", "task", "queue", "catch up", "next", "from"), rows, text=7)


def _row(entry: Any, now: float) -> dict[str, Any]:
    following = entry.next_after(now) if entry.enabled else None
    if following is not None and entry.is_over(following):
        following = None
    when = "paused" if not entry.enabled else "never" if following is None else f"{entry.moment(following):%F %T %Z}"
    return {
        "entry": entry.name, "schedule": str(entry.schedule), "task": entry.task, "queue": entry.queue,
        "catch_up": str(entry.catch_up), "next": when, "from": "store" if entry.dynamic else "code",
    }  # fmt: skip
