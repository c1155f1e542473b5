"""The Lambda function that runs tasks: point the function at `handler`, and ``DISPATCHER_APP`` at the app.

The app is loaded, the clients are made and the guard is forked when this module is imported, which is Lambda's init
phase.
"""

from __future__ import annotations

from dispatcher.lambda_runtime.collection import nothing_collected

with nothing_collected():
    from dispatcher.lambda_runtime import bootstrap
    from dispatcher.lambda_runtime.batches import Worker
    from dispatcher.lambda_runtime.environment import app_of_environment

    handler = Worker(app_of_environment)
    handler.start()

if bootstrap.is_runtime():
    handler.guard()
