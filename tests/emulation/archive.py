"""Deployment archives for Lambda functions."""

import io
import platform
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import cache_from_source
from pathlib import Path

RUNTIME = f"python{sys.version_info.major}.{sys.version_info.minor}"
ARCHITECTURE = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
FOR_THIS_MACHINE = {"RUNTIME": RUNTIME, "ARCHITECTURE": ARCHITECTURE, "PYTHON": sys.executable}
"""What `handlers/Makefile` must be told so that its package runs here."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
_LEFT_OUT = {"__pycache__"}


def spoil_sources(package: Path) -> None:
    """Have every module of a package raise when its source is run: what works afterwards runs from its bytecode."""
    for path in package.rglob("*.py"):
        assert Path(cache_from_source(str(path))).exists(), f"{path} is not compiled"
        path.write_text("raise SystemExit(f'{__file__} was compiled anew')")


def archive(sources: Sequence[Path] | Mapping[str, str]) -> bytes:
    """A zip of directories and files, each under its own name, or of `{path: text}`; equal input, equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in sorted(_texts(sources) if isinstance(sources, Mapping) else _files(sources)):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            target.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _texts(sources: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    for name, text in sources.items():
        yield name, text.encode()


def _files(sources: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    for source in sources:
        if not source.exists():
            raise FileNotFoundError(f"{source} cannot be deployed: it does not exist")
        for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
            if path.is_file() and not _LEFT_OUT.intersection(path.parts):
                yield path.relative_to(source.parent).as_posix(), path.read_bytes()
