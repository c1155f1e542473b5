"""Environments of their own for the peers, so that the project's never sees them.

Every library under test, ours included, runs in the same environment, with the same client library and interpreter.
Peers that refuse that client library's version get a second one.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
HOME: Final = ROOT / ".bench-venv"
#: Environment -> its pinned requirements.
REQUIREMENTS: Final = {
    "peers": ROOT / "benchmarks" / "requirements-peers.txt",
    "redis5": ROOT / "benchmarks" / "requirements-peers-redis5.txt",
    "sqs": ROOT / "benchmarks" / "requirements-peers-sqs.txt",
    "plots": ROOT / "benchmarks" / "requirements-plots.txt",
}
MAIN: Final = "peers"
_INSTALL: Final = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement")


def python_of(environment: str) -> Path:
    """Return the interpreter of an environment."""
    return HOME / environment / "bin" / "python"


class EnvironmentFailed(RuntimeError):
    """An environment could not be made; the installer's own message stands on standard error."""


def fingerprint(environment: str) -> str:
    """Return what an environment is made of: its requirements, interpreter and path, with which its programs begin."""
    made_of = REQUIREMENTS[environment].read_bytes() + f"{sys.version} {HOME}".encode()
    return hashlib.sha256(made_of).hexdigest()


@functools.cache
def ensure(environment: str) -> Path:
    """Create or renew an environment unless it holds what its requirements say; return its interpreter.

    Raises `EnvironmentFailed`.
    """
    requirements = REQUIREMENTS[environment]
    wanted = fingerprint(environment)
    stamp = HOME / environment / ".requirements"
    HOME.mkdir(exist_ok=True)
    with (HOME / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            print(f"installing {requirements.name} into {HOME.name}/{environment} ...", file=sys.stderr)
            base = getattr(sys, "_base_executable", sys.executable)
            try:
                subprocess.run([base, "-m", "venv", "--clear", str(HOME / environment)], check=True)
                subprocess.run([str(python_of(environment)), *_INSTALL, str(requirements)], check=True)
            except subprocess.CalledProcessError as error:
                raise EnvironmentFailed(f"{requirements.name} cannot be installed: see above") from error
            stamp.write_text(wanted)
    return python_of(environment)


def enter(arguments: list[str]) -> None:
    """Go on inside the main environment; returns at once where that is already so. Raises `EnvironmentFailed`."""
    if Path(sys.prefix) == HOME / MAIN:
        return
    python = ensure(MAIN)
    os.chdir(ROOT)
    os.execv(python, [str(python), "-m", "benchmarks", *arguments])


def variables(**extra: str) -> dict[str, str]:
    """Return the environment variables of a process under test: this tree importable, nothing else on purpose."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0", **extra}
