"""``dispatcher local``: the whole stack on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dispatcher.cli.errors import FAILED, MISUSED, CommandError
from dispatcher.cli.session import NEEDS_APP, Session

_EPILOG = """\b
Examples:
  dispatcher -A shop.tasks local                        an endpoint, the app's functions, its schedules
  dispatcher -A shop.tasks local --port 0               another one beside it
  dispatcher -A shop.tasks local --endpoint localstack  on an endpoint that runs already
  dispatcher -A shop.tasks local -- python send.py      run a producer against it, then end with its exit code

\b
Ctrl-C ends everything. docs/local.md says what is like AWS, and what is not.
"""


@click.command(epilog=_EPILOG)
@click.option("--endpoint", metavar="URL|localstack", help="Use an endpoint that is there [env: AWS_ENDPOINT_URL].")
@click.option("--port", type=click.IntRange(0, 65535), help="Where an endpoint is started; 0: any that is free [4566].")
@click.option(
    "-c", "--concurrency", type=click.IntRange(1), metavar="N", help="Batches of a queue at once, at most [5]."
)
@click.option("-e", "--env", "variables", multiple=True, metavar="NAME[=VALUE]",
              help="A variable for the functions, which see nothing else of this shell.")  # fmt: skip
@click.option("--no-install", is_flag=True, help="Fail where the emulator is not installed yet, in place of doing so.")
@click.option("--no-reload", is_flag=True, help="Go on with the code of the start when files change.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@click.pass_obj
def local(
    session: Session,
    endpoint: str | None,
    port: int | None,
    concurrency: int | None,
    variables: tuple[str, ...],
    no_install: bool,
    no_reload: bool,
    command: tuple[str, ...],
) -> int:
    """Run the app on an emulated AWS, its functions under Lambda's own runtime client."""
    _need_botocore()
    from dispatcher.local.console import Console
    from dispatcher.local.deploying import AppBroken, AppRefused
    from dispatcher.local.environments import EnvironmentUnavailable
    from dispatcher.local.session import CONCURRENCY, Options, run

    if session.spec is None:
        raise CommandError(NEEDS_APP)
    options = Options(
        spec=session.spec,
        directory=Path.cwd(),
        endpoint=endpoint,
        port=port,
        install=not no_install,
        reload=not no_reload,
        concurrency=concurrency or CONCURRENCY,
        environment=_variables(variables),
        command=command,
    )
    context = click.get_current_context()
    colour = context.color if context.color is not None else sys.stdout.isatty()
    console = Console(lambda text: click.echo(text, color=True), colour=colour)
    try:
        return run(options, console)
    except EnvironmentUnavailable as error:
        raise CommandError(
            f"{error}\nthe emulator and Lambda's runtime client are installed once, from a package index; "
            "run without --no-install where one can be reached (pip's own settings hold)", FAILED,
        ) from error  # fmt: skip
    except AppRefused as error:
        raise CommandError(str(error), MISUSED) from error
    except AppBroken as error:
        raise CommandError(str(error), FAILED) from error


def _need_botocore() -> None:
    import importlib.util

    if importlib.util.find_spec("botocore") is None:
        raise CommandError("dispatcher local needs boto3: pip install 'serverless-dispatcher[aws]'")


def _variables(given: tuple[str, ...]) -> dict[str, str]:
    from dispatcher.config.environment import inherited

    found, mine = {}, inherited()
    for each in given:
        name, equals, value = each.partition("=")
        if not name or (not equals and name not in mine):
            raise CommandError(f"--env {each}: no such variable here; give its value: --env {name or 'NAME'}=value")
        found[name] = value if equals else mine[name]
    return found
