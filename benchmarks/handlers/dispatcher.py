"""The handler of this repository with a lean task."""

from __future__ import annotations

import uuid
from typing import Final

from dispatcher.lambda_runtime.worker import handler
from dispatcher.message import Message, encode

__all__ = ["ABOUT", "body", "handler"]

ABOUT: Final = {
    "versions": {},
    "settings": "dispatcher.lambda_runtime.worker with a lean task (ignore_result, not revocable)",
    "on_kill": "received again after the visibility timeout",
}


def body(number: int) -> str:
    """Return the body of a record."""
    return encode(Message(id=str(uuid.UUID(int=number)), task="tasks.noop"))
