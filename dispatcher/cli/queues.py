"""``dispatcher status`` and ``dispatcher purge``: what is in the queues, and emptying them."""

from __future__ import annotations

from typing import Any

import click

from dispatcher.cli.banner import urls_of
from dispatcher.cli.errors import FAILED, OK, CommandError, say_error
from dispatcher.cli.options import Names, shown
from dispatcher.cli.session import Session
from dispatcher.cli.tables import show_table
from dispatcher.exceptions import DispatcherError

_STATUS = """\b
Examples:
  dispatcher -A shop.tasks status
  dispatcher -A shop.tasks status --json | jq '.queues[] | select(.dead > 0)'

\b
Queues are those the app declares and those the broker knows. Workers are not listed: nobody registers them.
The exit code is 1 when broker or backend is out of reach.
"""

_PURGE = """\b
Examples:
  dispatcher -A shop.tasks purge                 asks first
  dispatcher -A shop.tasks purge -f -Q mail

\b
Messages that a worker holds at the moment, and dead letters, stay.
"""


def known_queues(app: Any) -> list[str]:
    """Return the queues that an app declares, and those its broker knows besides."""
    declared = list(app.conf.task_queues or [app.conf.task_default_queue])
    return list(dict.fromkeys((*declared, *app.broker.queues())))


@click.command(epilog=_STATUS)
@click.option("-Q", "--queues", type=Names(), metavar="A,B", help="Only these queues.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def status(session: Session, queues: list[str] | None, as_json: bool) -> int:
    """Count the messages of each queue; say whether broker and backend can be reached."""
    app = session.any_app()
    app.finalize()
    broker_url, backend_url = urls_of(app)
    counts, broker_error = _attempt(lambda: _counts(app, queues))
    _, backend_error = _attempt(lambda: app.backend.read(["status"]))
    if as_json:
        click.echo(
            shown({
                "broker": {"url": broker_url, "reachable": broker_error is None, "error": broker_error},
                "backend": {"url": backend_url, "reachable": backend_error is None, "error": backend_error},
                "queues": counts or [],
            })
        )  # fmt: skip
    else:
        _show_servers((("broker", broker_url, broker_error), ("backend", backend_url, backend_error)))
        if counts:
            columns = ("queue", "ready", "delayed", "in flight", "dead")
            show_table(columns, [tuple(row.values()) for row in counts])
    return OK if broker_error is None and backend_error is None else FAILED


def _counts(app: Any, queues: list[str] | None) -> list[dict[str, Any]]:
    return [{"queue": name, **app.broker.counts(name)._asdict()} for name in queues or known_queues(app)]


def _attempt(ask: Any) -> tuple[Any, str | None]:
    try:
        return ask(), None
    except DispatcherError as error:
        return None, str(error)


def _show_servers(servers: tuple[tuple[str, str, str | None], ...]) -> None:
    for name, url, error in servers:
        click.echo(f"{name:8} {url}  ", nl=False)
        click.secho("ok" if error is None else "out of reach", fg="green" if error is None else "red")
    for name, _, error in servers:
        if error is not None:
            say_error(f"{name}: {error}")


@click.command(epilog=_PURGE)
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("-Q", "--queues", type=Names(), metavar="A,B", help="These queues [those the app declares].")
@click.option("-X", "--exclude-queues", type=Names(), metavar="A,B", help="Not these queues.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object: messages removed by queue; needs -f.")
@click.pass_obj
def purge(
    session: Session, force: bool, queues: list[str] | None, exclude_queues: list[str] | None, as_json: bool
) -> int:
    """Remove all waiting messages of queues for good."""
    if as_json and not force:
        raise CommandError("--json needs -f: there is nobody to ask")
    app = session.any_app()
    app.finalize()
    names = queues or list(app.conf.task_queues or [app.conf.task_default_queue])
    names = [name for name in names if name not in (exclude_queues or ())]
    if not names:
        raise CommandError("there is no queue left to purge")
    if not force:
        waiting = sum(sum(app.broker.counts(name)[:2]) for name in names)
        where = f"queue {names[0]}" if len(names) == 1 else f"queues {', '.join(names)}"
        if not click.confirm(f"Remove about {_messages(waiting)} from {where} for good?", err=True):
            click.echo("nothing removed", err=True)
            return FAILED
    removed = {name: app.broker.purge(name) for name in names}
    if as_json:
        click.echo(shown(removed))
    else:
        for name, count in removed.items():
            click.echo(f"{name}: {_messages(count)} removed")
    return OK


def _messages(count: int) -> str:
    return f"{count} {'message' if count == 1 else 'messages'}"
