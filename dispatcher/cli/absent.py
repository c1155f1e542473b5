"""Celery's commands and options that this release does not have, each with the reason and what to do instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import click

from dispatcher.cli.errors import MISUSED, CommandError

COMMANDS: Final[Mapping[str, str]] = {
    "amqp": "there is no AMQP here; dispatcher status, list queues and purge look after queues",
    "control": "workers take no remote commands; stop them by SIGTERM, revoke tasks with `dispatcher revoke`",
    "events": "there is no event stream; dispatcher status counts, and workers log as JSON with --log-format json",
    "flower": "there is no event stream to watch; dispatcher status counts, and workers log as JSON",
    "inspect": "workers take no remote commands; dispatcher status, list tasks and result show what is known",
    "logtool": "it reads Celery's log format; log as JSON with --log-format json and use jq",
    "migrate": "it moves messages between Celery's brokers; run workers on both brokers until the old one is empty",
    "multi": "start several workers with a process supervisor such as systemd, or with -c",
    "upgrade": "it rewrites settings of Celery 3, whose names are understood here as they are",
}

_STATE: Final = "the beat keeps its state in the result backend, where all beats of the app find it"
_SCHEDULER: Final = "entries are those of beat_schedule, add_periodic_task and app.schedules"
_FOREGROUND: Final = "a beat stays in the foreground; run it under a supervisor such as systemd, or with nohup"

#: Options of Celery's worker that change nothing here: (flags, takes a value, why)
IGNORED: Final[tuple[tuple[tuple[str, ...], bool, str], ...]] = (
    (("--without-gossip",), False, "workers do not talk to each other"),
    (("--without-mingle",), False, "workers do not talk to each other"),
    (("--without-heartbeat",), False, "workers keep no connection that needs heartbeats"),
    (("--heartbeat-interval",), True, "workers keep no connection that needs heartbeats"),
    (("-E", "--task-events", "--events"), False, "there is no event stream"),
    (("-O", "--optimization"), True, "every child fetches for itself, which is what -O fair asks for"),
    (("-S", "--statedb"), True, "revocations are kept in the result backend"),
)

#: Options of Celery's worker that would be dangerous to ignore: (flags, takes a value, why and what instead)
REFUSED: Final[tuple[tuple[tuple[str, ...], bool, str], ...]] = (
    (("--autoscale",), True, "a worker has a fixed size; start more workers, or let Lambda scale"),
    (("-s", "--schedule-filename", "--schedule"), True, _STATE),
    (("--scheduler",), True, _SCHEDULER),
    (("--purge", "--discard"), False, "run `dispatcher -A … purge` before the worker"),
    (("--disable-prefetch",), False, "use --prefetch-multiplier 1, which is the least"),
    (
        ("-D", "--detach"),
        False,
        "a worker stays in the foreground; run it under a supervisor such as systemd, or with nohup",
    ),
    (("--pidfile",), True, "a worker stays in the foreground, where its supervisor knows its pid"),
    (("--uid",), True, "start the worker as that user: its supervisor can"),
    (("--gid",), True, "start the worker as that group: its supervisor can"),
    (("--umask",), True, "set it in the worker's supervisor or shell"),
    (("--executable",), True, "start the worker with that interpreter: /path/to/python -m dispatcher"),
)

#: Options of Celery's beat that would be dangerous to ignore
REFUSED_BY_BEAT: Final[tuple[tuple[tuple[str, ...], bool, str], ...]] = (
    (("-s", "--schedule"), True, _STATE),
    (("-S", "--scheduler"), True, _SCHEDULER),
    (("--detach",), False, _FOREGROUND),
    (("--pidfile",), True, "a beat stays in the foreground, and several may run: none needs the pid of another"),
    (("--uid",), True, "start the beat as that user: its supervisor can"),
    (("--gid",), True, "start the beat as that group: its supervisor can"),
    (("--umask",), True, "set it in the beat's supervisor or shell"),
    (("--executable",), True, "start the beat with that interpreter: /path/to/python -m dispatcher"),
)


def refuse_command(name: str) -> CommandError:
    """Return the error for a command of Celery's."""
    return CommandError(f"`dispatcher {name}` is not available in this release: {COMMANDS[name]}", MISUSED)


def accept_celery_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Make a command accept the ignored options, with one warning each, and refuse the others; none is shown."""
    for flags, takes_value, reason in IGNORED:
        command = _hidden(flags, takes_value, _ignoring(flags, reason))(command)
    for flags, takes_value, reason in REFUSED:
        command = _hidden(flags, takes_value, _refusing(flags, reason))(command)
    return command


def accept_options_of_beat(command: Callable[..., Any]) -> Callable[..., Any]:
    """Make a command refuse the options of Celery's beat, each with the reason; none is shown."""
    for flags, takes_value, reason in REFUSED_BY_BEAT:
        command = _hidden(flags, takes_value, _refusing(flags, reason))(command)
    return command


def _hidden(flags: tuple[str, ...], takes_value: bool, callback: Any) -> Callable[[Any], Any]:
    kind: dict[str, Any] = {"type": str} if takes_value else {"is_flag": True}
    return click.option(*flags, hidden=True, expose_value=False, default=None, callback=callback, **kind)


def _ignoring(flags: tuple[str, ...], reason: str) -> Callable[..., None]:
    def warn(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value:
            click.echo(f"warning: {flags[-1] if len(flags) == 1 else flags[1]} has no effect: {reason}", err=True)

    return warn


def _refusing(flags: tuple[str, ...], reason: str) -> Callable[..., None]:
    def refuse(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value:
            name = next(flag for flag in flags if flag.startswith("--"))
            raise CommandError(f"{name} cannot work here: {reason}", MISUSED)

    return refuse
