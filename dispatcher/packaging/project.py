"""A project's directory as the content of a package: what `sam build` would pack of it, and what it must name."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.packaging.services import NOTE

#: Directories that tools make in a project.
_TOOLS: Final = frozenset({"__pycache__", "cdk.out", "node_modules"})


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
    return {name for name in names if name.startswith(".") or name in _TOOLS or _is_no_source(Path(folder, name))}


def _is_no_source(path: Path) -> bool:
    """Whether something is a cache, a wheel, an environment, a package that was built, or no file or directory."""
    if path.is_file():
        return path.suffix in {".pyc", ".whl"}
    return (
        not path.is_dir()  # a link to nothing, a socket
        or path.suffix == ".egg-info"
        or (path / "pyvenv.cfg").exists()
        or (path / "conda-meta").is_dir()
        or (path / "botocore" / "data" / NOTE).exists()
        # What `sam build --build-dir out` makes, by itself too.
        or ((path / "dispatcher").is_dir() and any(path.glob("*.dist-info")))
    )


def requirements(project: Path) -> Path:
    """Return the file of what a project imports; raise `ImproperlyConfigured` where there is none."""
    path = project / "requirements.txt"
    if not path.is_file():
        raise ImproperlyConfigured(
            f"there is no {str(path)!r}: write one that names serverless-dispatcher and what else your code imports, "
            "or name another by --requirements"
        )
    return path


def check_app(folder: Path, spec: str) -> None:
    """Raise `ImproperlyConfigured` where a package lacks `dispatcher` or the module of an app (``shop.tasks:app``)."""
    module = spec.partition(":")[0].partition(".")[0]
    for name, way in (
        ("dispatcher", "let requirements.txt name serverless-dispatcher"),
        (module, f"the app is {spec}; infra['code'] says which directory is packed, relative to the template"),
    ):
        if not (folder / name).is_dir() and not (folder / f"{name}.py").is_file():
            raise ImproperlyConfigured(f"the package has no module {name!r}: {way}")
