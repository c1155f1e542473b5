"""How a measured process hands a value to the harness: one marked line of JSON, whatever else it prints."""

from __future__ import annotations

import json
from typing import Any, Final

_MARK: Final = "benchmark-outcome: "


def emit(value: Any) -> None:
    """Print a value for the harness."""
    print(_MARK + json.dumps(value), flush=True)


def parse(output: str) -> Any:
    """Return the value a process printed; raises LookupError when it printed none."""
    for line in reversed(output.splitlines()):
        if line.startswith(_MARK):
            return json.loads(line.removeprefix(_MARK))
    raise LookupError("no outcome in the output")
