"""Starting modules of this package in another interpreter, or in another process of this one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).resolve().parents[1]

# This package alone, and not what else lies beside it: the other environment has dependencies of its own.
_RUN: Final = """
import importlib, importlib.util, sys
home, name, *sys.argv[1:] = sys.argv[1:]
spec = importlib.util.spec_from_file_location("dispatcher", home + "/__init__.py", submodule_search_locations=[home])
sys.modules["dispatcher"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
importlib.import_module(name).main()
"""


def command(python: str | Path, module: str, *arguments: str) -> list[str]:
    """Return the command line that calls ``main()`` of a module of this package; neither cwd nor its place matter."""
    return [str(python), "-P", "-c", _RUN, str(PACKAGE), module, *arguments]
