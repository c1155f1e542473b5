"""Building a package: sources and wheels into a directory, botocore trimmed, and all of it compiled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.packaging import project
from dispatcher.packaging.bytecode import write_bytecode
from dispatcher.packaging.services import Kept, trim

#: The platforms of wheels that Lambda's Amazon Linux 2023 (glibc 2.34) can load, the newest first.
#: https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtimes.html
_PLATFORMS: Final = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")
MACHINES: Final = {"arm64": "aarch64", "x86_64": "x86_64"}
#: Beside a project's requirements: Lambda's own botocore has no bytecode and the models of all services, and changes
#: under a deployed function.
_ADDED: Final = ("botocore",)
#: What pip's errors about requirements without hashes, beside others with, speak of.
_HASHES: Final = "--require-hashes"


class Contents(NamedTuple):
    """What a package holds: ``services`` are the models of its botocore, `None` where it has no botocore."""

    services: Kept | None
    bytecode: bool


@dataclass(frozen=True, slots=True)
class Package:
    """The modules and packages of an app by their paths, and the ``requirements`` file of what they import.

    Of directories, hidden files, environments, wheels and what tools make are left out, as are packages built before.
    ``project`` is a directory of which everything is packed, as `sam build` does, with the wheels of its
    ``requirements.txt``, and with botocore if these bring none and have no hashes, which it would need as well.
    Wheels are fetched with pip for the function's platform, whatever this machine is. A botocore among them keeps the
    models of the services that dispatcher uses and the code names; ``services`` names them instead, or is ``"all"``.
    Modules are compiled by the interpreter ``python``, by default one of the runtime's version on the PATH;
    ``bytecode=False`` does without.
    """

    sources: Sequence[str | Path] = ()
    requirements: str | Path | None = None
    services: Sequence[str] | str | None = None
    bytecode: bool = True
    python: str | Path | None = None
    project: str | Path | None = None

    def build(self, into: Path, *, runtime: str, architecture: str) -> Contents:
        """Write the package into a directory that is empty or is made, and is empty after a failure.

        Raises `ImproperlyConfigured`: with pip's words where there are no wheels, for a source or a service that is not
        there, for files that cannot be copied, where no interpreter of the runtime's version is, and for a directory
        with something in it.
        """
        if architecture not in MACHINES:
            raise ImproperlyConfigured(f"functions run on {' or '.join(MACHINES)}, not on {architecture!r}")
        _make_empty(into)
        try:
            return self._write(into, runtime.removeprefix("python"), MACHINES[architecture])
        except BaseException:
            _clear(into)  # else the next build would refuse the directory, or what has half of it be deployed
            raise

    def _write(self, into: Path, version: str, machine: str) -> Contents:
        try:
            sources = self._gather(into, version, machine)
        except OSError as error:
            # `shutil.copytree` goes on, and raises all that it could not copy as a list of source, target and reason.
            several = isinstance(error, shutil.Error) and isinstance(error.args[0], list)
            said = error.args[0][0][2] if several else error
            raise ImproperlyConfigured(f"the package's files cannot be copied: {said}") from error
        kept = trim(into, sources, self.services)
        if self.bytecode:
            write_bytecode(into, version, self.python)
        return Contents(kept, self.bytecode)

    def _gather(self, into: Path, version: str, machine: str) -> set[str]:
        """Put wheels and sources into a directory; return the names that the sources have there."""
        sources, requirements = [Path(source) for source in self.sources], self.requirements
        if self.project is not None:
            sources += project.contents(Path(self.project), into)
            requirements = requirements or project.requirements(Path(self.project))
        if requirements is not None:
            _install(requirements, () if self.project is None else _ADDED, into, version, machine)
        names = set()
        for source in sources:
            if not source.exists():
                raise ImproperlyConfigured(f"the package's source {str(source)!r} does not exist")
            # A link is imported by its own name, not by that of what it leads to.
            name = Path(os.path.abspath(source)).name
            if source.is_dir():
                shutil.copytree(source, into / name, ignore=project.left_out_of, dirs_exist_ok=True)
            else:
                shutil.copy2(source, into / name)
            names.add(name)
        return names


def _make_empty(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        full = any(directory.iterdir())
    except OSError as error:
        raise ImproperlyConfigured(f"the package's directory cannot be made: {error}") from error
    if full:
        # pip leaves a library alone that is there already: with what the build before has kept of it.
        raise ImproperlyConfigured(f"{str(directory)!r} is not empty; remove what was built there before")


def _clear(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)  # the failure that led here says more than one to tidy up
        else:
            path.unlink(missing_ok=True)


def _install(requirements: str | Path, added: Sequence[str], into: Path, version: str, machine: str) -> None:
    """Put the wheels of a file of requirements, and of others, into a directory.

    The others are left away where there are hashes: pip then wants them of all.
    """
    done = _pip(requirements, added, into, version, machine)
    if done.returncode and added and _HASHES in done.stderr:
        done = _pip(requirements, (), into, version, machine)
    if done.returncode:
        said = done.stderr.strip()
        if "UnicodeDecodeError" in said:
            said = said.splitlines()[-1]  # of a traceback
        failed = f"the wheels of {str(requirements)!r} for python{version} on {machine} cannot be fetched:"
        raise ImproperlyConfigured("\n".join(filter(None, (failed, said, _hint(said)))))


def _pip(
    requirements: str | Path, added: Sequence[str], into: Path, version: str, machine: str
) -> subprocess.CompletedProcess[str]:
    platforms = [part for platform in _PLATFORMS for part in ("--platform", f"{platform}_{machine}")]
    return subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile",
         "--only-binary=:all:", *platforms, "--implementation", "cp", "--python-version", version,
         "--target", str(into), "--requirement", str(requirements), *added],
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip


def _hint(said: str) -> str:
    """Return what to do about words of pip, if anything can be said."""
    if "No module named pip" in said:
        return f"{sys.executable} has no pip: `python -m ensurepip`, or `uv pip install pip`, adds it"
    if "UnicodeDecodeError" in said:
        return "The requirements are no text in UTF-8: save them as such"
    if "No matching distribution found for serverless-dispatcher" in said:
        return (
            "If the index has no release of serverless-dispatcher, let the requirements name a clone: "
            "`serverless-dispatcher @ file:///path/to/clone`"
        )
    if "No matching distribution found" in said:
        return (
            "What is there by that name, but has no wheel for that platform and is Python alone: "
            "`pip wheel NAME -w wheels/` makes one, and the line `--find-links wheels/` of the requirements finds it"
        )
    return ""
