"""Making what an app needs on an endpoint; in a process of its own, since the app's code may change and may be broken.

The process prints nothing but what the app prints, writes its answer into a file, and ends with one of `Ended`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from dispatcher.exceptions import DispatcherError, ImproperlyConfigured
from dispatcher.local import processes, starting
from dispatcher.local.functions import MappedFunction

_TIMEOUT_SECONDS: Final = 120.0


class Ended(IntEnum):
    """How the process ended."""

    DEPLOYED = 0
    BROKEN = 3
    REFUSED = 4


class AppBroken(DispatcherError):
    """The app's own code raised; the message is the traceback."""


class AppRefused(DispatcherError):
    """The app cannot be deployed as it is; the message says why."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """What was made: functions, what a producer must have in its environment, schedules, the app's own files."""

    functions: tuple[MappedFunction, ...]
    producer: Mapping[str, str]
    schedules: tuple[str, ...]
    notes: tuple[str, ...]
    files: tuple[str, ...]


def deploy(spec: str, directory: Path, environment: Mapping[str, str], owner: str, scratch: Path) -> Deployed:
    """Deploy the app that ``spec`` names, found in ``directory``, to the endpoint that ``environment`` names.

    ``environment`` is all that the process sees. Raises `AppBroken` or `AppRefused`.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as own:
        answer = Path(own, "answer.json")
        try:
            process = subprocess.run(
                starting.command(sys.executable, __name__, spec, str(answer)),
                cwd=directory,
                env={**environment, "PYTHONDONTWRITEBYTECODE": "1", processes.TAG_VARIABLE: owner},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise AppBroken(
                f"the app is not read and its resources are not made after {_TIMEOUT_SECONDS:g} s"
            ) from error
        words = process.stdout.strip()
        if process.returncode == Ended.REFUSED:
            raise AppRefused(words)
        if process.returncode != Ended.DEPLOYED:
            raise AppBroken(words or f"the process that reads the app ended with status {process.returncode}")
        made = json.loads(answer.read_text())
    functions = tuple(MappedFunction(**each) for each in made.pop("functions"))
    return Deployed(
        functions=functions,
        producer=made["producer"],
        schedules=tuple(made["schedules"]),
        notes=tuple(made["notes"]),
        files=tuple(made["files"]),
    )


def main() -> None:
    """Read the app, make its resources, and write down what was made."""
    spec, answer = sys.argv[1:]
    sys.path.insert(0, os.getcwd())
    try:
        made = _deploy(spec)
    except (ImproperlyConfigured, DispatcherError) as error:
        _end(f"{error}", Ended.REFUSED)
    except BaseException as error:  # noqa: BLE001 - SystemExit at import time too is the app's to answer for
        _end(_traceback(error), Ended.BROKEN)
    Path(answer).write_text(json.dumps(made))


def _end(words: str, how: Ended) -> None:
    sys.stdout.write(words)
    sys.stdout.flush()
    os._exit(how)  # an app may have started threads


def _traceback(error: BaseException) -> str:
    """The traceback from the app's own code on."""
    here = os.path.dirname(os.path.dirname(__file__))
    frames = traceback.extract_tb(error.__traceback__)
    own = [i for i, each in enumerate(frames) if _is_code(each.filename) and not each.filename.startswith(here)]
    # A module that Python cannot even read has no frames of its own.
    shown = [each for each in frames[own[0] :] if not each.filename.startswith("<frozen")] if own else []
    head = ["Traceback (most recent call last):\n"] if shown else []
    return "".join([*head, *traceback.format_list(shown), *traceback.format_exception_only(error)])


def _is_code(filename: str) -> bool:
    return not filename.startswith("<") and not filename.startswith(sysconfig.get_path("stdlib"))


def _deploy(spec: str) -> dict[str, Any]:
    from dispatcher.loading import find_app
    from dispatcher.provision.plan import plan

    app = find_app(spec)
    app.import_default_modules()
    planned = plan(app, spec=spec, stage="local")
    from dispatcher.local.making import make

    functions, producer = make(planned)
    return {
        "functions": [dataclasses.asdict(each) for each in functions],
        "producer": producer,
        "schedules": [
            " ".join(filter(None, (f"{each.entry}:", each.expression, each.timezone))) for each in planned.schedules
        ],
        "notes": list(planned.notes),
        "files": _own_files(),
    }


def _own_files() -> Sequence[str]:
    """Files of loaded modules that are neither Python's, nor an installed package's, nor this package's."""
    foreign = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    foreign.append(str(starting.PACKAGE))
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return sorted({file for file in files if file and file.endswith(".py") and not file.startswith(tuple(foreign))})
