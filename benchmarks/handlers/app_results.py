"""The app that the handler loads where results are kept: one addition, with every default."""

from __future__ import annotations

from benchmarks import work
from dispatcher import Dispatcher

app = Dispatcher("bench", broker="sqs://", backend="dynamodb://bench")
task = app.task(name="tasks.add")(work.add)
