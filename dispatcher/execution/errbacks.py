"""Error callbacks: which arguments one gets, by how many it takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from dispatcher.execution.run import ERRBACK_HEADER
from dispatcher.message import Message
from dispatcher.sensitive import both, masked


def errback_call(
    tasks: Mapping[str, Any], sig: Mapping[str, Any], message: Message, error: BaseException, traceback: str | None
) -> tuple[Mapping[str, Any], tuple[Any, ...]]:
    """Return an error callback and what it gets: the failed task's id, or (request, exception, traceback).

    Celery's rule: a callback of one parameter is old-style and gets the id alone.
    """
    task = tasks.get(sig["task"])
    if task is not None and not _takes_several(task.run):
        return sig, (message.id,)
    failed = tasks.get(message.task)
    args, kwargs = masked(
        message.args, message.kwargs, both(message.sensitive, failed._sensitive if failed is not None else None)
    )
    request = {
        "id": message.id, "task": message.task, "args": args, "kwargs": kwargs,
        "root_id": message.effective_root_id, "parent_id": message.parent_id, "retries": message.retries,
    }  # fmt: skip
    options = dict(sig.get("options") or {})
    options["headers"] = {**(options.get("headers") or {}), ERRBACK_HEADER: True}
    return {**sig, "options": options}, (request, error, traceback)


def _takes_several(function: Any) -> bool:
    parameters = inspect.signature(function).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(positional) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)
