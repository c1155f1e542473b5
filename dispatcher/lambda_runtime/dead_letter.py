"""The Lambda function that reads lost queues: point it at `handler`, ``DISPATCHER_APP`` at the app of the worker.

It decides what becomes of the messages that SQS gave up, so that nobody waits for their tasks for ever. The app is
loaded by the first invocation and not before: its import may be why they were given up.
"""

from __future__ import annotations

from dispatcher.lambda_runtime.collection import nothing_collected

with nothing_collected():
    from dispatcher.lambda_runtime.environment import app_of_environment
    from dispatcher.lambda_runtime.lost import Reader
    from dispatcher.lambda_runtime.probe import probed

    handler = Reader(probed(app_of_environment))
