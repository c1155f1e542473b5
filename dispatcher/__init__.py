"""dispatcher: a task queue with Celery's API whose workers run on AWS Lambda, or anywhere else.

The names below are resolved when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dispatcher._version import __version__

if TYPE_CHECKING:
    from dispatcher.app import Dispatcher
    from dispatcher.canvas import Signature, chain, chord, chunks, group, maybe_signature, signature, xmap, xstarmap
    from dispatcher.result import AsyncResult, GroupResult, ResultSet
    from dispatcher.shared import shared_task
    from dispatcher.state import current_app, current_task
    from dispatcher.task import Task
    from dispatcher.utils import uuid

_HOME = {
    "AsyncResult": "dispatcher.result",
    "Dispatcher": "dispatcher.app",
    "GroupResult": "dispatcher.result",
    "ResultSet": "dispatcher.result",
    "Signature": "dispatcher.canvas",
    "Task": "dispatcher.task",
    "chain": "dispatcher.canvas",
    "chord": "dispatcher.canvas",
    "chunks": "dispatcher.canvas",
    "current_app": "dispatcher.state",
    "current_task": "dispatcher.state",
    "group": "dispatcher.canvas",
    "maybe_signature": "dispatcher.canvas",
    "shared_task": "dispatcher.shared",
    "signature": "dispatcher.canvas",
    "uuid": "dispatcher.utils",
    "xmap": "dispatcher.canvas",
    "xstarmap": "dispatcher.canvas",
}
__all__ = [
    "AsyncResult",
    "Dispatcher",
    "GroupResult",
    "ResultSet",
    "Signature",
    "Task",
    "__version__",
    "chain",
    "chord",
    "chunks",
    "current_app",
    "current_task",
    "group",
    "maybe_signature",
    "shared_task",
    "signature",
    "uuid",
    "xmap",
    "xstarmap",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    if name == "Celery":
        raise AttributeError("the app class is called Dispatcher here: from dispatcher import Dispatcher as Celery")
    raise AttributeError(f"module 'dispatcher' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
