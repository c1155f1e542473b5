"""``dispatcher worker``: run tasks in this machine's processes."""

from __future__ import annotations

from typing import Any

import click

from dispatcher.cli import absent
from dispatcher.cli.banner import banner
from dispatcher.cli.errors import CommandError
from dispatcher.cli.options import Names
from dispatcher.cli.session import Session

_LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
_POOLS = ["prefork", "solo", "threads", "asyncio"]

_EPILOG = """\b
Examples:
  dispatcher -A shop.tasks worker                          one child process per CPU
  dispatcher -A shop.tasks worker -c 4 -Q orders,mail      four children, two queues
  dispatcher -A shop.tasks worker -P asyncio -c 200        many async def tasks at once
  DISPATCHER_WORKER_CONCURRENCY=4 dispatcher -A shop.tasks worker

\b
Every option has a variable, DISPATCHER_WORKER_<OPTION>, in docs/configuration.md; the command line wins.
SIGTERM and Ctrl-C end a worker once its running tasks are done; a second one, or SIGQUIT, hands them back at once.
"""


class Pool(click.ParamType[str]):
    """The name of a pool; it is checked, and refused with a reason, by the configuration."""

    name = "pool"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Offer the pools."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(name) for name in _POOLS if name.startswith(incomplete)]


def _ignore_case(names: list[str]) -> click.Choice[str]:
    return click.Choice(names, case_sensitive=False)


@click.command(epilog=_EPILOG)
@click.option("-P", "--pool", type=Pool(), metavar="|".join(_POOLS), help="How tasks are run [prefork].")
@click.option("-c", "--concurrency", type=click.IntRange(1), help="How many tasks run at once [one per CPU].")
@click.option("-Q", "--queues", type=Names(), metavar="A,B", help="The queues to read [the app's].")
@click.option("-X", "--exclude-queues", type=Names(), metavar="A,B", help="Of the app's queues, those not to read.")
@click.option("-n", "--hostname", metavar="NAME", help="The worker's name; %h, %n, %d: host, its first part, the rest.")
@click.option("-I", "--include", type=Names(), metavar="A,B", help="More modules to import.")
@click.option("-l", "--loglevel", type=_ignore_case(_LEVELS), help="What is logged [INFO].")
@click.option("-f", "--logfile", metavar="FILE", help="Log to this file; %n, %h, %d, %p: parts of the worker's name.")
@click.option("--log-format", metavar="human|json|FORMAT", help="Lines for people, JSON objects, or a logging format.")
@click.option("--max-tasks-per-child", type=click.IntRange(1), help="Replace a prefork child after so many tasks.")
@click.option("--max-memory-per-child", type=click.IntRange(1), metavar="KIB", help="Replace a child over this size.")
@click.option("--prefetch-multiplier", type=click.IntRange(1), help="Messages taken in advance per running task [4].")
@click.option("--time-limit", type=float, metavar="SECONDS", help="Hard limit of tasks that have none.")
@click.option("--soft-time-limit", type=float, metavar="SECONDS", help="Soft limit of tasks that have none.")
@click.option("--allow-unkept-limits", is_flag=True, help="Start though the pool cannot keep a task's time limit.")
@click.option("-B", "--beat", is_flag=True, help="Fire the app's periodic tasks as well; several workers may.")
@absent.accept_celery_options
@click.pass_obj
def worker(
    session: Session,
    pool: str | None,
    concurrency: int | None,
    queues: list[str] | None,
    exclude_queues: list[str] | None,
    hostname: str | None,
    include: list[str] | None,
    loglevel: str | None,
    logfile: str | None,
    log_format: str | None,
    max_tasks_per_child: int | None,
    max_memory_per_child: int | None,
    prefetch_multiplier: int | None,
    time_limit: float | None,
    soft_time_limit: float | None,
    allow_unkept_limits: bool,
    beat: bool,
) -> int:
    """Run tasks until stopped by a signal."""
    from dispatcher.consumer import logs
    from dispatcher.consumer.names import expand
    from dispatcher.consumer.worker import Worker

    app = session.app()
    conf = app.conf
    conf.override(
        worker_pool=pool, worker_concurrency=concurrency, worker_log_level=loglevel, worker_log_format=log_format,
        worker_log_file=logfile, worker_max_tasks_per_child=max_tasks_per_child,
        worker_max_memory_per_child=max_memory_per_child, worker_prefetch_multiplier=prefetch_multiplier,
        worker_allow_unkept_limits=allow_unkept_limits or None,
        include=(*conf.include, *include) if include else None,
    )  # fmt: skip
    _set_limits(app, time_limit, soft_time_limit)

    def set_up_logging(node: str) -> None:
        file = conf.worker_log_file
        logs.set_up(conf, logfile=expand(file, node, "worker_log_file") if file else None)

    chosen = _without(app, queues, exclude_queues)
    made = Worker(app, queues=chosen, hostname=hostname, beat=beat, set_up_logging=set_up_logging)
    if not session.quiet and conf.worker_log_format != "json":
        click.echo(banner(made, session.spec or ""))
    return made.start()


def _set_limits(app: Any, hard: float | None, soft: float | None) -> None:
    """Make the command line's limits the default of every task, those of an app already finalized included."""
    limits = {"task_time_limit": hard, "task_soft_time_limit": soft}
    before = {key: getattr(app.conf, key) for key in limits}
    app.conf.override(**limits)
    if not app.finalized:
        return
    for key, limit in limits.items():
        option = key.removeprefix("task_")
        for task in app.tasks.values():
            if limit is not None and getattr(task, option) == before[key]:
                setattr(task, option, limit)


def _without(app: Any, queues: list[str] | None, excluded: list[str] | None) -> list[str] | None:
    if not excluded:
        return queues
    all_queues = queues or list(app.conf.worker_queues or app.conf.task_queues or [app.conf.task_default_queue])
    unknown = [name for name in excluded if name not in all_queues]
    if unknown:
        raise CommandError(
            f"--exclude-queues names {', '.join(unknown)}, which this worker would not read anyway; "
            f"it reads {', '.join(all_queues)}"
        )
    left = [name for name in all_queues if name not in excluded]
    if not left:
        raise CommandError("--exclude-queues leaves no queue to read")
    return left
