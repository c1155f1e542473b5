"""Noticing that code has changed, by the times of its files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

#: Seconds between two looks.
LOOK_SECONDS: Final = 0.4

_LEFT_OUT: Final = frozenset({"__pycache__", "node_modules", "site-packages"})

Seen = Mapping[Path, tuple[int, int]]


class Watcher:
    """Looks at the Python files below a directory and at some more files, such as modules from elsewhere."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._more: tuple[Path, ...] = ()
        self._seen = self._look()
        self._unsettled: Seen | None = None

    def add(self, files: Iterable[str]) -> None:
        """Watch these files too."""
        self._more = tuple(path for path in map(Path, files) if not path.is_relative_to(self._directory))
        self._seen = {**self._look(), **self._seen}

    def changed(self) -> list[Path]:
        """Return the files that changed, appeared or went since the last call, once they have come to rest."""
        now = self._look()
        if now == self._seen:
            return []
        if now != self._unsettled:
            self._unsettled = now  # an editor or a checkout may still be writing
            return []
        before, self._seen, self._unsettled = self._seen, now, None
        return sorted(path for path in {*before, *now} if before.get(path) != now.get(path))

    def _look(self) -> Seen:
        seen = {}
        for path in (*_python_files(self._directory), *self._more):
            try:
                status = path.stat()
            except OSError:
                continue
            seen[path] = (status.st_mtime_ns, status.st_size)
        return seen


def _python_files(directory: Path) -> Iterator[Path]:
    """Yield the Python files below a directory, without those of environments, caches and hidden directories."""
    for where, directories, files in os.walk(directory):
        directories[:] = [
            name
            for name in directories
            if not name.startswith(".")
            and name not in _LEFT_OUT
            and not os.path.exists(os.path.join(where, name, "pyvenv.cfg"))
        ]
        for name in files:
            if name.endswith(".py"):
                yield Path(where, name)
