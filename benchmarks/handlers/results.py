"""The handler of this repository with a task whose result is kept, DynamoDB's own time left out."""

from __future__ import annotations

import uuid
from typing import Final

from benchmarks.handlers import canned
from dispatcher import aws
from dispatcher.aws_options import ClientSettings
from dispatcher.lambda_runtime.worker import handler
from dispatcher.message import Message, encode

__all__ = ["ABOUT", "body", "handler"]

ABOUT: Final = {
    "versions": {},
    "settings": "dispatcher.lambda_runtime.worker with tasks.add (1, 2), results on, all else at its default",
    "on_kill": "received again after the visibility timeout",
}

canned.answer(aws.client("dynamodb", ClientSettings()))


def body(number: int) -> str:
    """Return the body of a record."""
    return encode(Message(id=str(uuid.UUID(int=number)), task="tasks.add", args=(1, 2)))
