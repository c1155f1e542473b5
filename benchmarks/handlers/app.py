"""The app that the deployed handler loads: one lean task, which stores nothing and is never looked up."""

from __future__ import annotations

from dispatcher import Dispatcher


def noop() -> None:
    """Do nothing."""


app = Dispatcher("bench", broker="sqs://", backend="dynamodb://bench")
task = app.task(name="tasks.noop", ignore_result=True, revocable=False)(noop)
