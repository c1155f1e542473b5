"""A project's directory as the content of a package: what `sam build` would pack of it, and what it must name."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.packaging.services import NOTE

#: Directories that tools make in a project. Hidden files, caches, virtual environments, and packages that were built
#: before, as by `sam build --build-dir out`, are left out as well.
_TOOLS: Final = frozenset({"__pycache__", "cdk.out", "node_modules"})
#: Lambda's own botocore has no bytecode and the models of all services, and changes under a deployed function.
_ADDED: Final = ("botocore",)


def contents(project: Path, into: Path) -> list[Path]:
    """Return what of a project's directory is packed: all but hidden files, what tools make, and ``into`` itself.

    Raises `ImproperlyConfigured` for a directory that is not there.
    """
    if not project.is_dir():
        raise ImproperlyConfigured(f"the project's directory {str(project)!r} does not exist")
    left_out = left_out_of(project, [path.name for path in project.iterdir()])
    built = into.resolve()
    return [
        path
        for path in sorted(project.iterdir())
        if path.name not in left_out and not built.is_relative_to(path.resolve())
    ]


def left_out_of(folder: str | Path, names: Collection[str]) -> set[str]:
    """Return the names in a directory of sources that are no sources, as `shutil.copytree` asks for them."""
    return {
        name
        for name in names
        if name.startswith(".")
        or name in _TOOLS
        or name.endswith((".pyc", ".egg-info"))
        or Path(folder, name, "pyvenv.cfg").exists()
        or Path(folder, name, "botocore", "data", NOTE).exists()
    }


def requirements(project: Path) -> Path:
    """Return the file of what a project imports; raise `ImproperlyConfigured` where there is none."""
    path = project / "requirements.txt"
    if not path.is_file():
        raise ImproperlyConfigured(
            f"there is no {str(path)!r}: write one that names serverless-dispatcher and what else your code imports, "
            "or name another by --requirements"
        )
    return path


def added_to(path: Path) -> tuple[str, ...]:
    """Return what is installed beside a file of requirements: botocore, but not to hashes, which must have it."""
    hashed = re.search(r"--hash[ =]", path.read_text(encoding="utf-8"))
    return () if hashed else _ADDED


def check_app(folder: Path, spec: str) -> None:
    """Raise `ImproperlyConfigured` where a package lacks `dispatcher` or the module of an app (``shop.tasks:app``)."""
    module = spec.partition(":")[0].partition(".")[0]
    for name, way in (
        ("dispatcher", "let requirements.txt name serverless-dispatcher"),
        (module, f"the app is {spec}; infra['code'] says which directory is packed, relative to the template"),
    ):
        if not (folder / name).is_dir() and not (folder / f"{name}.py").is_file():
            raise ImproperlyConfigured(f"the package has no module {name!r}: {way}")
