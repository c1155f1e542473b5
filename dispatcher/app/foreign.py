"""What a Celery app has and this one has not, with what to do instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dispatcher.exceptions import ImproperlyConfigured

#: Attributes of a Celery app that are not here, with what to do instead.
NOT_YET = {
    "events": "read states from the result backend",
    "amqp": "queues are those of task_queues, task_routes and apply_async(queue=…)",
    "pool": "connections are the broker's own",
    "GroupResult": "use dispatcher.GroupResult, as in GroupResult.restore(id, app=app)",
    "ResultSet": "use dispatcher.ResultSet, as in ResultSet(results)",
    "Worker": "use dispatcher.consumer.worker.Worker, or `dispatcher worker`",
    "WorkController": "use dispatcher.consumer.worker.Worker, or `dispatcher worker`",
    "Beat": "use dispatcher.beat.service.Beat, or `dispatcher beat`",
    "worker_main": "use dispatcher.consumer.worker.Worker(app).start(), or `dispatcher worker`",
    "start": "use the `dispatcher` command",
    "bugreport": "use `dispatcher report`",
    "connection": "connections are the broker's own",
    "connection_for_read": "connections are the broker's own; app.broker.counts(queue) counts its messages",
    "connection_for_write": "connections are the broker's own",
    "connection_or_acquire": "connections are the broker's own",
    "producer_or_acquire": "connections are the broker's own; send_many sends many in one call",
    "producer_pool": "connections are the broker's own; send_many sends many in one call",
    "select_queues": "name them to the worker: `dispatcher worker --queues`, or worker_queues",
    "steps": "workers have no bootsteps; connect worker_init, worker_ready or worker_process_init",
    "user_options": "the commands take no further options; read the environment",
    "log": "set up logging with the setup_logging signal",
    "loader": "settings come from config_source, code or the environment",
    "timezone": "app.conf.timezone names the zone, and app.now() is the time there",
    "setup_security": "set signing_keys",
}
_FOREIGN = {
    "amqp": "there is no AMQP here",
    "events": "there are no events in this release",
    "control": "there is no remote control in this release",
    "loader": "settings come from config_source, code or the environment",
    "log": "set up logging with the setup_logging signal",
    "fixups": "Django's settings are read with config_from_object('django.conf:settings', namespace='CELERY')",
}


def refuse_foreign(settings: Mapping[str, Any]) -> None:
    """Raise `ImproperlyConfigured` for constructor arguments that cannot work."""
    for name, reason in _FOREIGN.items():
        if settings.get(name) is not None:
            raise ImproperlyConfigured(f"Dispatcher({name}=…) cannot work: {reason}")
