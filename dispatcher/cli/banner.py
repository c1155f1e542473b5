"""The few lines a worker prints when it starts."""

from __future__ import annotations

from typing import Any

from dispatcher._version import __version__
from dispatcher.config.presentation import censor_text
from dispatcher.connections import backend_url_of, broker_url_of

#: More tasks than this are counted, not listed.
_MOST_TASKS = 40


def urls_of(app: Any) -> tuple[str, str]:
    """Return the URLs of an app's broker and backend, without credentials."""
    conf = app.conf
    return censor_text(broker_url_of(conf, app.main)), censor_text(backend_url_of(conf, app.main))


def banner(worker: Any, spec: str) -> str:
    """Return what a worker is about to do, for people: app, broker, backend, pool, queues and tasks."""
    app = worker.app
    broker, backend = urls_of(app)
    names = sorted(app.tasks)
    listed = [f"  . {name}" for name in names[:_MOST_TASKS]]
    if len(names) > _MOST_TASKS:
        listed.append(f"  … and {len(names) - _MOST_TASKS} more (dispatcher -A {spec} list tasks)")
    return "\n".join(
        (
            f"dispatcher {__version__} · {worker.hostname}",
            "",
            f"  app      {app.main or '__main__'} ({spec})",
            f"  broker   {broker}",
            f"  backend  {backend}",
            f"  pool     {worker.pool_name} × {worker.concurrency}",
            f"  queues   {', '.join(worker.queues)}",
            "",
            "[tasks]" if names else "[tasks] none: does the app import the modules that define them? (--include)",
            *listed,
            "",
        )
    )
