"""The Lambda function that decides on messages SQS gave up; ``DISPATCHER_APP`` names the app of the worker."""

from dispatcher.lambda_runtime.dead_letter import handler

__all__ = ["handler"]
