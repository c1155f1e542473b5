"""What is ours in a file of somebody's: the lines between two marks, with a checksum that shows an edit by hand."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from dispatcher.exceptions import DispatcherError

BEGIN: Final = re.compile(r"^ *# >>> dispatcher infra sam(?: (?P<sum>[0-9a-f]{12}))?\b.*$")
END: Final = re.compile(r"^ *# <<< dispatcher infra sam\b.*$")


class HandEdited(DispatcherError):
    """Somebody changed what is generated; the message says where and what to do."""


@dataclass(frozen=True)
class Region:
    """Where generated lines are: from ``begin`` to ``end``, the marks included."""

    begin: int
    end: int

    @classmethod
    def find(cls, document: list[str], start: int, stop: int) -> Region | None:
        """Return what is marked in some lines, `None` without marks; raise `DispatcherError` for marks out of order."""
        begins = [n for n in range(start, stop) if BEGIN.match(document[n])]
        ends = [n for n in range(start, stop) if END.match(document[n])]
        if not begins and not ends:
            return None
        if len(begins) != 1 or len(ends) != 1 or begins[0] > ends[0]:
            raise DispatcherError(
                f"lines {start + 1} to {stop}: the marks `# >>> dispatcher infra sam` and `# <<< dispatcher infra sam` "
                "must be there once each, in this order"
            )
        return cls(begins[0], ends[0])

    def replaced(self, document: list[str], body: list[str]) -> list[str]:
        """Return the document with other lines in place of these."""
        return [*document[: self.begin], *body, *document[self.end + 1 :]]

    def check(self, document: list[str], place: str, way: str) -> None:
        """Raise `HandEdited` where lines are not as they were written; ``way`` says how to keep what was changed."""
        match = BEGIN.match(document[self.begin])
        noted = match.group("sum") if match else None
        if noted != _sum(document[self.begin + 1 : self.end]):
            raise HandEdited(
                f"{place}lines {self.begin + 2} to {self.end}: somebody changed what is generated. {way}, or give "
                "--force to lose it"
            )


def marked(body: list[str], indent: int = 0) -> list[str]:
    """Return lines between their marks."""
    margin = " " * indent
    return [f"{margin}# >>> dispatcher infra sam {_sum(body)}", *body, f"{margin}# <<< dispatcher infra sam"]


def _sum(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(line.rstrip("\r") for line in lines).encode()).hexdigest()[:12]
