"""dispatcher: a task queue with Celery's API whose workers run on AWS Lambda, or anywhere else.

The names below are resolved when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dispatcher._version import __version__

if TYPE_CHECKING:
    from dispatcher.app import Dispatcher
    from dispatcher.canvas import Signature, maybe_signature, signature
    from dispatcher.result import AsyncResult
    from dispatcher.shared import shared_task
    from dispatcher.state import current_app, current_task
    from dispatcher.task import Task
    from dispatcher.utils import uuid

_HOME = {
    "AsyncResult": "dispatcher.result",
    "Dispatcher": "dispatcher.app",
    "Signature": "dispatcher.canvas",
    "Task": "dispatcher.task",
    "current_app": "dispatcher.state",
    "current_task": "dispatcher.state",
    "maybe_signature": "dispatcher.canvas",
    "shared_task": "dispatcher.shared",
    "signature": "dispatcher.canvas",
    "uuid": "dispatcher.utils",
}
#: Names of Celery that this release does not have yet, with what to do instead.
_NOT_YET = {
    "chain": "use .link() on a signature",
    "chord": "collect the results in a task that the last member sends",
    "group": "use app.send_many(signatures)",
    "chunks": "use app.send_many(signatures)",
    "xmap": "use app.send_many(signatures)",
    "xstarmap": "use app.send_many(signatures)",
}

__all__ = [
    "AsyncResult",
    "Dispatcher",
    "Signature",
    "Task",
    "__version__",
    "current_app",
    "current_task",
    "maybe_signature",
    "shared_task",
    "signature",
    "uuid",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    if name in _NOT_YET:
        raise AttributeError(f"dispatcher.{name} is not available in this release; {_NOT_YET[name]}")
    if name == "Celery":
        raise AttributeError("the app class is called Dispatcher here: from dispatcher import Dispatcher as Celery")
    raise AttributeError(f"module 'dispatcher' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
