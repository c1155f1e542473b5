"""Python environments that the emulation runs in, made once and kept: the emulator's and the Lambda functions'.

Both stay apart from the project's environment: MiniStack pins botocore, and a function must see what is deployed with
it and nothing else. They live in `.emulator/` at the repository's root, or where `DISPATCHER_TEST_ENVIRONMENTS` says.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""

DIRECTORY_VARIABLE = "DISPATCHER_TEST_ENVIRONMENTS"

_REQUIREMENTS = Path(__file__).parent


class EnvironmentUnavailable(RuntimeError):
    """An environment could not be made, most often because no package index could be reached."""


def ministack_python() -> Path:
    """The interpreter that runs the emulator."""
    return _python("ministack")


def lambda_python() -> Path:
    """The interpreter that runs Lambda functions: the runtime client and the package's own dependencies."""
    return _python("lambda")


def directory() -> Path:
    """Where environments are kept."""
    return Path(os.environ.get(DIRECTORY_VARIABLE) or ROOT / ".emulator").absolute()


def _python(name: str) -> Path:
    """The interpreter of the environment `name`, which is made first if need be.

    Raises `EnvironmentUnavailable` with pip's own words.
    """
    home = _home(name)
    if not (home / "complete").exists():
        with _lock(directory()):
            if not (home / "complete").exists():
                _make(home, _requirements(name))
    return home / "bin" / "python"


def _requirements(name: str) -> Path:
    return _REQUIREMENTS / f"requirements-{name}.txt"


def _home(name: str) -> Path:
    """Where the environment belongs.

    Other versions of Python or of the requirements get an environment of their own: nothing is ever replaced under a
    process that runs from it.
    """
    identity = f"{sys.version}\n{sys.base_prefix}\n{_requirements(name).read_text()}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return directory() / name / f"py{sys.version_info[0]}{sys.version_info[1]}-{digest}"


def _make(home: Path, requirements: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)  # what an interrupted attempt left
    # This interpreter's pip serves: an environment takes 3 s more to make with a pip of its own.
    pip = [sys.executable, "-m", "pip", "--python", str(home), "--disable-pip-version-check", "--no-input"]
    for command in (
        [sys.executable, "-m", "venv", "--without-pip", str(home)],
        [*pip, "install", "--quiet", "--requirement", str(requirements)],
    ):
        made = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if made.returncode:
            words = " ".join(command)
            raise EnvironmentUnavailable(f"`{words}` failed with status {made.returncode}:\n{made.stdout}{made.stderr}")
    (home / "complete").touch()


@contextmanager
def _lock(home: Path) -> Iterator[None]:
    """Let one process at a time make environments; the others wait and find them made."""
    home.mkdir(parents=True, exist_ok=True)
    (home / ".gitignore").write_text("*\n")
    with (home / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
