"""Joins: what a result backend knows of a group that something waits for."""

from __future__ import annotations

import dataclasses


class JoinMissing(LookupError):
    """There is no such join: its members outlived it, or the backend was emptied."""


@dataclasses.dataclass(slots=True)
class Join:
    """A group of ``size`` members; ``body`` is JSON text that says what follows.

    ``fired`` says that what follows was sent, ``failed`` because of what the first member failed, a task or a join: it
    is sent only if all that failed are brought back and succeed. ``until`` is when what is kept of it may go, in epoch
    seconds, as far as `ResultBackend.read_joins` says it.
    """

    id: str
    size: int
    body: str
    fired: bool = False
    failed: str = ""
    until: float = dataclasses.field(default=0.0, compare=False)
