"""Joins: what a result backend knows of a group that something waits for."""

from __future__ import annotations

import dataclasses


class JoinMissing(LookupError):
    """There is no such join: its members outlived it, or the backend was emptied."""


@dataclasses.dataclass(slots=True)
class Join:
    """A group of ``size`` members; ``body`` is JSON text that says what follows.

    ``fired`` says that what follows was sent, ``failed`` that a member failed: it is sent only if that one is brought
    back and succeeds.
    """

    id: str
    size: int
    body: str
    fired: bool = False
    failed: bool = False
