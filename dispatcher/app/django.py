"""What a process that runs the tasks of a Django project does for Django, as Celery's workers do."""

from __future__ import annotations

import warnings
from typing import Any

from dispatcher import signals
from dispatcher.exceptions import CompatibilityWarning, ImproperlyConfigured
from dispatcher.execution.coroutines import in_event_loop

_NOT_INSTALLED = "DJANGO_SETTINGS_MODULE is set and Django is not installed: nothing is done for it"


def set_up() -> None:
    """Have Django load its apps, so that modules of tasks can import models, and look after its connections.

    Connections are closed before and after a task where they are broken or older than ``CONN_MAX_AGE``, as around a
    request, and before a worker forks, so that no two processes share one. Without Django it warns.
    """
    try:
        import django  # type: ignore[import-not-found,import-untyped,unused-ignore]
        from django.apps import apps  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ModuleNotFoundError as error:
        if error.name != "django":
            raise
        warnings.warn(_NOT_INSTALLED, CompatibilityWarning, stacklevel=3)
        return
    if not apps.ready:
        django.setup()
    signals.task_prerun.connect(_close_old_connections, dispatch_uid=__name__)
    signals.task_postrun.connect(_close_old_connections, dispatch_uid=__name__)
    signals.worker_before_create_process.connect(_close_connections, dispatch_uid=__name__)


def installed_apps() -> list[str]:
    """Return the packages of Django's installed apps; raises `ImproperlyConfigured` without Django."""
    try:
        from django.apps import apps  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ModuleNotFoundError as error:
        raise ImproperlyConfigured(
            "autodiscover_tasks() without packages asks Django for its apps, and Django is not installed; "
            "name the packages"
        ) from error
    return [config.name for config in apps.get_app_configs()]


def _close_old_connections(task: Any = None, **_: Any) -> None:
    # In eager mode they are the caller's, perhaps in the middle of a request. In an event loop Django refuses; its ORM
    # works in threads then, which look after theirs.
    if not task.request.is_eager and not in_event_loop():
        from django.db import close_old_connections  # type: ignore[import-not-found,import-untyped,unused-ignore]

        close_old_connections()


def _close_connections(**_: Any) -> None:
    from django.db import connections  # type: ignore[import-not-found,import-untyped,unused-ignore]

    connections.close_all()
