"""How commands fail: one line that says what to do, and an exit code."""

from __future__ import annotations

import traceback
from typing import IO, Any

import click

from dispatcher.exceptions import DispatcherError, ImproperlyConfigured, QueueNotFound, UnsupportedOption

#: the command did what it was asked for
OK = 0
#: it could not: a task failed, a server is out of reach
FAILED = 1
#: it was asked for something that cannot work: an unknown option, an app that is not there, a refused setting
MISUSED = 2
#: there is no result (yet)
NO_RESULT = 3
#: ended by Ctrl-C
INTERRUPTED = 130

#: what the commands may miss that an extra brings
_EXTRA_OF = {"boto3": "aws", "botocore": "aws", "redis": "redis", "yaml": "yaml", "aws_cdk": "cdk", "constructs": "cdk"}

#: files through which modules of an app are imported
_IMPORTERS = (
    "/importlib/__init__.py",
    *(f"/dispatcher/{name}.py" for name in ("loading", "app/base", "app/discovery", "consumer/worker")),
)

_ASKED_WRONGLY = (ImproperlyConfigured, UnsupportedOption, QueueNotFound)


class CommandError(click.ClickException):
    """A command cannot go on; the message is all a user needs."""

    def __init__(self, message: str, exit_code: int = MISUSED) -> None:
        super().__init__(message)
        self.code = exit_code

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message to the error output."""
        say_error(self.message)


def say_error(message: str) -> None:
    """Print an error line."""
    click.secho("error: ", fg="red", nl=False, err=True)
    click.echo(message, err=True)


def explain(error: Exception) -> CommandError:
    """Return the line and the exit code for an error that no command has caught."""
    if isinstance(error, _ASKED_WRONGLY):
        return CommandError(str(error), MISUSED)
    if isinstance(error, DispatcherError | OSError):
        return CommandError(str(error) or type(error).__name__, FAILED)
    if isinstance(error, ModuleNotFoundError) and (extra := _EXTRA_OF.get((error.name or "").partition(".")[0])):
        return CommandError(f"this needs the library {error.name}: pip install 'serverless-dispatcher[{extra}]'")
    if isinstance(error, ImportError):
        return CommandError(
            f"a module of the app cannot be imported: {type(error).__name__}: {error}{origin_of_import_error(error)}; "
            "--debug shows the traceback"
        )
    where = _origin(error)
    return CommandError(f"{type(error).__name__}: {error}{where} (--debug shows the traceback)", FAILED)


def _origin(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f", in {frames[-1].filename} line {frames[-1].lineno}" if frames else ""


def origin_of_import_error(error: BaseException) -> str:
    """Return file and line of the user's code that an import failed in, without the import machinery's frames."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _machinery(frame.filename)]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def _machinery(filename: str) -> bool:
    name = filename.replace("\\", "/")
    return name.startswith("<frozen") or name.endswith(_IMPORTERS) or "/dispatcher/cli/" in name
