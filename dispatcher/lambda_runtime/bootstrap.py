"""What a Lambda function knows about itself from its environment; beside the configuration the only reader of it."""

from __future__ import annotations

import os
from typing import NamedTuple


class Function(NamedTuple):
    """The function that this process is an environment of."""

    name: str
    memory_mb: str
    version: str
    log_stream: str


def function() -> Function:
    """Read the variables that AWS reserves.

    https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html
    """
    environ = os.environ
    return Function(
        name=environ.get("AWS_LAMBDA_FUNCTION_NAME", ""),
        memory_mb=environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", ""),
        version=environ.get("AWS_LAMBDA_FUNCTION_VERSION", ""),
        log_stream=environ.get("AWS_LAMBDA_LOG_STREAM_NAME", ""),
    )


def is_runtime() -> bool:
    """Say whether this process is the runtime of an execution environment, and not one that only imports it."""
    return "AWS_LAMBDA_RUNTIME_API" in os.environ


def trace_id() -> str | None:
    """Return the X-Ray trace of the current invocation; the runtime client changes the variable with each."""
    header = os.environ.get("_X_AMZN_TRACE_ID", "")
    return next((part[5:] for part in header.split(";") if part.startswith("Root=")), None)
