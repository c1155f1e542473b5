"""``dispatcher call`` and ``dispatcher result``: send a task, look at what became of one."""

from __future__ import annotations

import difflib
from datetime import datetime
from typing import Any

import click

from dispatcher import states
from dispatcher.cli.errors import FAILED, MISUSED, NO_RESULT, OK, CommandError, say_error
from dispatcher.cli.options import Json, Seconds, TaskName, shown
from dispatcher.cli.session import Session
from dispatcher.exceptions import TimeoutError

_CALL = """\b
Examples:
  dispatcher -A shop.tasks call shop.tasks.add --args '[1, 2]'
  dispatcher -A shop.tasks call shop.tasks.add --args '[1, 2]' --wait --timeout 10
  dispatcher -A shop.tasks call shop.tasks.mail --kwargs '{"to": "a@b.c"}' --countdown 60 --queue mail
  dispatcher -b redis://localhost call shop.tasks.add --args '[1, 2]'      the app is not needed

\b
It prints the task's id; with --wait its result as JSON, and exits with 1 if the task fails, 3 if it is not
finished in time.
"""

_RESULT = """\b
Examples:
  dispatcher -A shop.tasks result 0d9a4ff2-5a3c-4cc5-9a3e-3d8be2f7a6a5
  dispatcher -A shop.tasks result 0d9a4ff2-… --wait --timeout 60 --json

\b
It prints the value as JSON. Exit codes: 0 success, 1 failed or revoked, 3 not finished or not known.
"""

_REVOKE = """\b
Examples:
  dispatcher -A shop.tasks revoke 0d9a4ff2-5a3c-4cc5-9a3e-3d8be2f7a6a5
  dispatcher -A shop.tasks revoke --terminate 0d9a4ff2-… 41c3e7a0-…

\b
A task that was not started never will be. One that runs goes on and keeps its outcome, unless --terminate ends it:
prefork workers kill the child, asyncio workers cancel the coroutine, within some four seconds; other workers cannot.
"""


def _expiry(ctx: click.Context, param: click.Parameter, value: str | None) -> float | datetime | None:
    if value is None:
        return None
    try:
        float(value)
    except ValueError:
        return _moment(ctx, param, value)
    return Seconds().convert(value, param, ctx)


def _moment(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a time such as 2030-01-31T12:00:00+00:00", ctx, param) from None


@click.command(epilog=_CALL)
@click.argument("name", type=TaskName())
@click.option("-a", "--args", "args", type=Json(list, "[1, 2]"), metavar="JSON", help="Positional arguments, a list.")
@click.option("-k", "--kwargs", type=Json(dict, '{"a": 1}'), metavar="JSON", help="Keyword arguments, an object.")
@click.option("--countdown", type=Seconds(), metavar="SECONDS", help="Run it no sooner than in so many seconds.")
@click.option(
    "--eta",
    metavar="TIME",
    callback=_moment,
    help="Run it no sooner than then (ISO 8601; without an offset in the app's zone).",
)
@click.option("--expires", metavar="SECONDS|TIME", callback=_expiry, help="Do not run it after that.")
@click.option("--queue", metavar="NAME", help="The queue [where the app routes it].")
@click.option("--priority", type=click.IntRange(0, 9), help="The priority; 0 comes first.")
@click.option("--serializer", metavar="NAME", help="The serializer of the arguments.")
@click.option("--unregistered", is_flag=True, help="Send it although the app has no task of this name.")
@click.option("--wait", is_flag=True, help="Wait for the result and print it.")
@click.option("--timeout", type=Seconds(), metavar="SECONDS", help="Wait no longer than this.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object: id, and with --wait state and result.")
@click.option("--exchange", hidden=True)
@click.option("--routing-key", hidden=True)
@click.pass_obj
def call(
    session: Session,
    /,
    name: str,
    args: list[Any] | None,
    kwargs: dict[str, Any] | None,
    unregistered: bool,
    wait: bool,
    timeout: float | None,
    as_json: bool,
    exchange: str | None,
    routing_key: str | None,
    **options: Any,
) -> int:
    """Send a task by its NAME."""
    if exchange or routing_key:
        raise CommandError("--exchange and --routing-key cannot work: there is no AMQP here; use --queue", MISUSED)
    if timeout is not None and not wait:
        raise CommandError("--timeout needs --wait", MISUSED)
    given = {option: value for option, value in options.items() if value is not None}
    result = _send(session, name, args or [], kwargs or {}, given, unregistered)
    if not wait:
        click.echo(shown({"task_id": result.id}) if as_json else result.id)
        return OK
    if not as_json and not session.quiet:
        click.echo(result.id, err=True)
    return _show(result, _awaited(result, timeout), as_json, traceback=False)


def _send(session: Session, name: str, args: Any, kwargs: Any, options: dict[str, Any], unregistered: bool) -> Any:
    if session.spec is None:
        return session.any_app().send_task(name, args, kwargs, **options)
    app = session.app_with_modules()
    task = app.tasks.get(name)
    if task is None:
        if unregistered:
            return app.send_task(name, args, kwargs, **options)
        near = difflib.get_close_matches(name, list(app.tasks), 1)
        hint = f"did you mean {near[0]}?" if near else "`list tasks` shows those it has"
        raise CommandError(f"the app has no task {name!r}; {hint} --unregistered sends it all the same", MISUSED)
    try:
        return task.apply_async(args, kwargs, **options)
    except TypeError as error:  # arguments that the function cannot take
        raise CommandError(str(error), MISUSED) from error


@click.command(epilog=_RESULT)
@click.argument("task_id", metavar="ID")
@click.option("--wait", is_flag=True, help="Wait until the task is finished.")
@click.option("--timeout", type=Seconds(), metavar="SECONDS", help="Wait no longer than this.")
@click.option("--traceback", is_flag=True, help="Print the traceback of a failed task.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object with everything that is known.")
@click.pass_obj
def result(session: Session, task_id: str, wait: bool, timeout: float | None, traceback: bool, as_json: bool) -> int:
    """Show state and result of the task ID."""
    if timeout is not None and not wait:
        raise CommandError("--timeout needs --wait", MISUSED)
    found = session.any_app().AsyncResult(task_id)
    finished = _awaited(found, timeout) if wait else found.ready()
    return _show(found, finished, as_json, traceback)


def _awaited(found: Any, timeout: float | None) -> bool:
    try:
        found.get(timeout=timeout, propagate=False)
    except TimeoutError:
        return False
    return True


def _show(found: Any, finished: bool, as_json: bool, traceback: bool) -> int:
    state, value = found.state, found.result
    if as_json:
        click.echo(shown(_details(found, state, value)))
    elif state == states.SUCCESS:
        click.echo(shown(value))
    elif not finished:
        known = " (also that of an unknown id)" if state == states.PENDING else _described(value)
        say_error(f"task {found.id} is not finished, its state is {state}{known}")
    else:
        say_error(f"{state}{_described(value)}")
        if traceback and found.traceback:
            click.echo(found.traceback.rstrip(), err=True)
    if not finished:
        return NO_RESULT
    return OK if state == states.SUCCESS else FAILED


def _described(value: Any) -> str:
    """Return what follows a state: the error, or the meta of a state of the task's own."""
    if value is None:
        return ""
    if not isinstance(value, BaseException):
        return f": {shown(value)}"
    name, text = type(value).__name__, str(value)
    # Some errors name themselves already.
    return f": {text}" if text.startswith(name) else f": {name}: {text}"


def _details(found: Any, state: str, value: Any) -> dict[str, Any]:
    done = found.date_done
    return {
        "task_id": found.id,
        "state": state,
        "result": None if isinstance(value, BaseException) else value,
        "error": value if isinstance(value, BaseException) else None,
        "traceback": found.traceback,
        "retries": found.retries,
        "date_done": done,
        "name": found.name,
        "worker": found.worker,
        "queue": found.queue,
    }


@click.command(epilog=_REVOKE)
@click.argument("ids", nargs=-1, required=True, metavar="ID…")
@click.option("--terminate", is_flag=True, help="End the task's run as well, where its worker can.")
@click.option("--signal", "signal_name", metavar="NAME", help="With --terminate: SIGTERM [default] or SIGKILL.")
@click.pass_obj
def revoke(session: Session, ids: tuple[str, ...], terminate: bool, signal_name: str | None) -> int:
    """Keep tasks from being started, by their ids."""
    session.any_app().control.revoke(ids, terminate=terminate, signal=signal_name)
    click.echo(f"revoked {len(ids)} {'task' if len(ids) == 1 else 'tasks'}")
    return OK
