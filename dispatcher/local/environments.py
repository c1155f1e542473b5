"""Python environments of their own for what must not be installed beside the app, made once and kept.

MiniStack pins botocore; Lambda's runtime client is on AWS's side of a deployment. Both are pinned by requirement files
that lie beside this module.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dispatcher.exceptions import DispatcherError

MINISTACK: Final = Path(__file__).with_name("requirements-ministack.txt")
RUNTIME_CLIENT: Final = Path(__file__).with_name("requirements-awslambdaric.txt")


class EnvironmentUnavailable(DispatcherError):
    """An environment is not there and could not be made, most often because no package index could be reached."""


def nothing_said(_: str) -> None:
    """Announce nothing."""


def python_of(
    directory: Path, requirements: Path, *, install: bool = True, announce: Callable[[str], None] = nothing_said
) -> Path:
    """Return the interpreter of the environment with these requirements below ``directory``, making it if need be.

    pip's own settings (index, proxy, certificates) hold. Raises `EnvironmentUnavailable` with pip's own words, or
    where ``install`` is off and the environment is missing.
    """
    home = home_of(directory, requirements)
    if not (home / "complete").exists():
        if not install:
            raise EnvironmentUnavailable(f"{name_of(requirements)} is not installed in {home}")
        with _lock(directory):
            if not (home / "complete").exists():
                announce(f"installing {name_of(requirements)} into {home}, once for all apps; some 20 seconds")
                _make(home, requirements)
    return home / "bin" / "python"


def site_packages(python: Path) -> Path:
    """Return where the packages of an environment are."""
    return next((python.parents[1] / "lib").glob("python*/site-packages"))


def name_of(requirements: Path) -> str:
    """Return what an environment is for."""
    return requirements.stem.removeprefix("requirements-")


def home_of(directory: Path, requirements: Path) -> Path:
    """Return where the environment belongs.

    Other versions of Python or of the requirements get an environment of their own: nothing is ever replaced under a
    process that runs from it.
    """
    lines = [line for line in requirements.read_text().splitlines() if line and not line.startswith("#")]
    identity = "\n".join([sys.version, sys.base_prefix, *lines])
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return directory / name_of(requirements) / f"py{sys.version_info[0]}{sys.version_info[1]}-{digest}"


def _make(home: Path, requirements: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)  # what an interrupted attempt left
    # This interpreter's pip serves, if it has one: an environment takes 3 s more to make with a pip of its own.
    own = importlib.util.find_spec("pip") is not None
    pip = [sys.executable, "-m", "pip", "--python", str(home)] if own else [str(home / "bin/python"), "-m", "pip"]
    for command in (
        [sys.executable, "-m", "venv", *(["--without-pip"] if own else []), str(home)],
        [*pip, "--disable-pip-version-check", "--no-input", "install", "--quiet", "--requirement", str(requirements)],
    ):
        made = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if made.returncode:
            words = " ".join(command)
            raise EnvironmentUnavailable(f"`{words}` failed with status {made.returncode}:\n{made.stdout}{made.stderr}")
    (home / "complete").touch()


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    """Let one process at a time make environments; the others wait and find them made."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / ".gitignore").write_text("*\n")
    with (directory / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
