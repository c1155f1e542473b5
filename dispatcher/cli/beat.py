"""``dispatcher beat``: fire the entries of the app when they are due."""

from __future__ import annotations

import signal
from typing import Any

import click

from dispatcher.cli import absent
from dispatcher.cli.banner import urls_of
from dispatcher.cli.options import Seconds
from dispatcher.cli.schedules import show_entries
from dispatcher.cli.session import Session

_LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]

_EPILOG = """\b
Examples:
  dispatcher -A shop.tasks beat                    fire what is due, beside any number of workers
  dispatcher -A shop.tasks worker -B               a worker with a beat of its own
  dispatcher -A shop.tasks beat --max-interval 1   notice changes of the schedule within a second

\b
Several beats of an app may run: one fires, and another takes over within beat_lease seconds of its death.
On AWS no beat is needed: rules of EventBridge fire the entries.
"""


@click.command(epilog=_EPILOG)
@click.option("--max-interval", type=Seconds(positive=True), metavar="SECONDS",
              help="How long it sleeps at most before it looks for changes [5].")  # fmt: skip
@click.option("-l", "--loglevel", type=click.Choice(_LEVELS, case_sensitive=False), help="What is logged [INFO].")
@click.option("-f", "--logfile", metavar="FILE", help="Log to this file.")
@click.option("--log-format", metavar="human|json|FORMAT", help="Lines for people, JSON objects, or a logging format.")
@absent.accept_options_of_beat
@click.pass_obj
def beat(
    session: Session, max_interval: float | None, loglevel: str | None, logfile: str | None, log_format: str | None
) -> int:
    """Fire periodic tasks until stopped by a signal."""
    from dispatcher.beat.service import Beat
    from dispatcher.consumer import logs

    app = session.app_with_modules()
    conf = app.conf
    conf.override(worker_log_level=loglevel, worker_log_format=log_format, worker_log_file=logfile)
    logs.set_up(conf, logfile=conf.worker_log_file)
    made = Beat(app, max_interval=max_interval)
    if not session.quiet and conf.worker_log_format != "json":
        _show(made)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: made.stop())
    made.start()
    app.close()
    return 0


def _show(made: Any) -> None:
    app, now = made.app, made.app.clock.time()
    broker, backend = urls_of(app)
    click.echo(f"broker {broker}\nbackend {backend}\nzone {app.conf.timezone or 'UTC'}\n")
    entries = made.timetable.entries.values()
    if entries:
        show_entries(entries, now)
    else:
        click.echo("no entries: set beat_schedule, or call app.add_periodic_task")
    click.echo("")
