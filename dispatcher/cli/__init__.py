"""The command line: ``dispatcher -A module[:attribute] COMMAND``; it needs the extra ``cli``."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, the process's own by default, and return its exit code (`docs/cli.md` lists them)."""
    try:
        from dispatcher.cli.root import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"click", "rich"}:
            raise
        sys.stderr.write(f"dispatcher: the command line needs {error.name}: pip install 'serverless-dispatcher[cli]'\n")
        return 2
    return run(argv)
