"""The command ``dispatcher`` itself: global options, its commands, and what becomes of their errors."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click

from dispatcher import _version
from dispatcher.cli import (
    absent,
    beat,
    calling,
    completion,
    cost,
    demo,
    dlq,
    graph,
    infra,
    inspecting,
    local,
    queues,
    schedules,
    worker,
)
from dispatcher.cli.errors import FAILED, INTERRUPTED, OK, CommandError, explain, say_error
from dispatcher.cli.session import Session
from dispatcher.exceptions import DispatcherWarning

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

_EPILOG = """\b
Examples:
  dispatcher demo                              see it work: nothing to set up
  dispatcher -A shop.tasks worker              run tasks of the app in shop/tasks.py
  dispatcher -A shop.tasks:app worker -c 4 -Q orders,mail
  dispatcher -A shop.tasks call shop.tasks.add --args '[1, 2]' --wait
  dispatcher -A shop.tasks status --json

\b
Exit codes: 0 done; 1 a task failed or a server is out of reach; 2 what was asked for cannot work;
3 there is no result (yet); 130 interrupted.
"""


class Root(click.Group):
    """The group of all commands; Celery's that are absent say so."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; raises for one of Celery's that is not there."""
        if args and args[0] in absent.COMMANDS:
            raise absent.refuse_command(args[0])
        return super().resolve_command(ctx, args)


@click.group(cls=Root, context_settings=CONTEXT, epilog=_EPILOG)
@click.option("-A", "--app", metavar="APP", help="The app: module, module:attribute or package [env: DISPATCHER_APP].")
@click.option("-b", "--broker", metavar="URL", help="The broker, in place of the configured one.")
@click.option("--result-backend", metavar="URL", help="The result backend, in place of the configured one.")
@click.option("--workdir", metavar="DIR", help="Change to this directory first; modules are looked for there.")
@click.option("-q", "--quiet", is_flag=True, help="Say less: no banner, no progress.")
@click.option("--debug", is_flag=True, help="Show the traceback of errors.")
@click.option("-C", "--no-color", is_flag=True, help="No colours.")
@click.version_option(_version.__version__, "-V", "--version", prog_name="dispatcher", message="%(prog)s %(version)s")
@click.pass_context
def cli(
    ctx: click.Context,
    app: str | None,
    broker: str | None,
    result_backend: str | None,
    workdir: str | None,
    quiet: bool,
    debug: bool,
    no_color: bool,
) -> None:
    """A task queue with Celery's API: run workers, send tasks, look at queues and results."""
    session: Session = ctx.obj
    session.app_spec, session.broker, session.backend = app, broker, result_backend
    session.quiet, session.debug = quiet, debug
    if no_color:
        ctx.color = False
    session.enter(workdir)


for _command in (
    worker.worker,
    beat.beat,
    schedules.schedules,
    calling.call,
    calling.result,
    calling.revoke,
    graph.graph,
    queues.status,
    queues.purge,
    inspecting.list_,
    inspecting.report,
    inspecting.shell,
    dlq.dlq,
    cost.cost,
    infra.infra,
    demo.demo,
    local.local,
    completion.completion,
):
    cli.add_command(_command)

#: The global options; given after the command they are a common mistake.
_GLOBAL = {flag for param in cli.params for flag in (*param.opts, *param.secondary_opts)}


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; errors become one line unless ``--debug`` asks for more."""
    session = Session()
    _set_up_warnings()
    try:
        code: Any = cli.main(
            args=None if argv is None else list(argv), prog_name="dispatcher", standalone_mode=False, obj=session
        )
    except CommandError as error:
        if session.debug and error.__cause__ is not None:
            raise
        error.show()
        return error.code
    except click.NoSuchOption as error:
        error.show()
        if error.option_name in _GLOBAL and error.ctx is not None and error.ctx.command is not cli:
            say_error(f"{error.option_name} belongs before the command: dispatcher {error.option_name} … "
                      f"{error.ctx.info_name}")  # fmt: skip
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; nobody is left to be told
        return FAILED
    except Exception as error:
        if session.debug:
            raise
        told = explain(error)
        told.show()
        return told.code
    return code if isinstance(code, int) else OK


def _set_up_warnings() -> None:
    """Show this package's warnings as one line each, without the place in the source."""
    original = warnings.showwarning

    def show(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, DispatcherWarning):
            click.echo(f"warning: {message}", err=True)
        else:
            original(message, category, *place, **more)

    warnings.showwarning = show
