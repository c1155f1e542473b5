"""Python environments that the emulation runs in, made once and kept: the emulator's and the Lambda functions'.

Both stay apart from the project's environment: MiniStack pins botocore, and a function must see what is deployed with
it and nothing else. They live in `.emulator/` at the repository's root, or where `DISPATCHER_TEST_ENVIRONMENTS` says.
"""

import os
from pathlib import Path

from dispatcher.local import environments
from dispatcher.local.environments import EnvironmentUnavailable

__all__ = [
    "DIRECTORY_VARIABLE",
    "ROOT",
    "EnvironmentUnavailable",
    "directory",
    "lambda_python",
    "ministack_python",
    "runtime_python",
]

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""

DIRECTORY_VARIABLE = "DISPATCHER_TEST_ENVIRONMENTS"

_LAMBDA = Path(__file__).with_name("requirements-lambda.txt")


def ministack_python() -> Path:
    """The interpreter that runs the emulator."""
    return environments.python_of(directory(), environments.MINISTACK)


def lambda_python() -> Path:
    """The interpreter that runs Lambda functions: the runtime client and the package's own dependencies."""
    return environments.python_of(directory(), _LAMBDA)


def runtime_python() -> Path:
    """An interpreter beside which Lambda's runtime client is, as `dispatcher local` installs it."""
    return environments.python_of(directory(), environments.RUNTIME_CLIENT)


def directory() -> Path:
    """Where environments are kept."""
    return Path(os.environ.get(DIRECTORY_VARIABLE) or ROOT / ".emulator").absolute()
