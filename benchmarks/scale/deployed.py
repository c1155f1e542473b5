"""The app of the model as a function loads it: ``DISPATCHER_APP=benchmarks.scale.deployed:app``."""

from __future__ import annotations

import os

from benchmarks.scale.workloads import Tasks
from dispatcher import Dispatcher

app = Dispatcher("scale", broker="sqs://", backend=f"dynamodb://{os.environ['SCALE_TABLE']}", metrics_namespace=None)
tasks = Tasks(app)
