"""The Lambda function that runs tasks; ``DISPATCHER_APP`` names the app."""

from dispatcher.lambda_runtime.worker import handler

__all__ = ["handler"]
