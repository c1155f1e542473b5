"""Bytecode beside the modules of a package: Lambda's file system is read-only, so nobody else would keep any.

Compiling botocore takes longer than importing it, at each cold start. Bytecode is of one version of Python, so it takes
an interpreter of the function's. Its invalidation is by ``unchecked-hash``: a package's times mean nothing.
https://docs.python.org/3/reference/import.html#cached-bytecode-invalidation
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from dispatcher.exceptions import ImproperlyConfigured

_OWN: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
#: Where Lambda puts a package, which tracebacks and the bytecode itself name. A file that does not compile is left
#: alone, as there are in some wheels for other versions: whoever imports it gets its SyntaxError as ever.
_COMPILE: Final = """
import compileall, py_compile, sys
compileall.compile_dir(
    sys.argv[1], maxlevels=99, quiet=2, force=True, stripdir=sys.argv[1], prependdir="/var/task",
    invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
)
"""


def write_bytecode(folder: Path, version: str, python: str | Path | None = None) -> None:
    """Compile every module in a directory for a version such as ``3.13``, by an interpreter of that version.

    Raises `ImproperlyConfigured` where there is none.
    """
    found = _interpreter(version, python)
    done = subprocess.run([found, "-I", "-c", _COMPILE, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ImproperlyConfigured(f"{found} cannot compile the package:\n{done.stderr.strip()}")


def _interpreter(version: str, given: str | Path | None) -> str:
    name = f"python{version}"
    if given is not None:
        if _version_of(str(given)) != version:
            raise ImproperlyConfigured(f"python={str(given)!r} is no Python {version}, as the function's runtime is")
        return str(given)
    folders = os.get_exec_path()
    # Not the first of the name alone: a shim of a version manager may be there without its Python.
    for each in (sys.executable, *(str(Path(folder, name)) for folder in folders)):
        if _version_of(each) == version:
            return each
    raise ImproperlyConfigured(
        f"there is no {name}, by which the function's bytecode must be compiled: put one on the PATH, name it "
        f"(python=, --python), give the function the runtime of a Python that is here, such as python{_OWN}, or do "
        "without (bytecode=False, --no-bytecode): cold starts then take three times as long"
    )


def _version_of(python: str) -> str | None:
    """Return the version of an interpreter, `None` for what is none."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
