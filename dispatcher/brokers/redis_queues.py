"""A queue in Redis: its keys, the commands that are packed for it once, and what a process knows of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from dispatcher.redis_connection import Command, pack_start, pack_value, pack_values

#: The consumer group of every stream.
GROUP: Final = "workers"


@dataclasses.dataclass(slots=True)
class Queue:
    """The keys of a queue and what this process knows of it."""

    name: str
    #: the ready stream, delayed messages, extended leases, priority levels, dead letters
    keys: tuple[str, str, str, str, str]
    #: the levels in use besides the default
    levels: str = ""
    #: when to look for more than new messages, on the monotonic clock
    turn: float = 0.0
    next_look: float = 0.0
    #: the last receive got all it asked for, so there are probably more
    full: bool = False

    #: by priority, the command that adds to its stream, up to the body
    additions: dict[int, bytes] = dataclasses.field(default_factory=dict)

    #: by priority, the commands that remove messages and their leases, without the ids
    removals: dict[str, tuple[bytes, bytes]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, name: str, key_prefix: str, name_prefix: str) -> Queue:
        """Return a queue; the braces keep its keys together on one node of a cluster."""
        start = f"{key_prefix}{{{name_prefix}{name}}}"
        keys = (f"{start}:ready", f"{start}:delayed", f"{start}:leases", f"{start}:levels", f"{start}:dead")
        return cls(name, keys)

    def stream(self, level: str) -> str:
        """Return the key of a priority's messages."""
        return self.keys[0] if level == "0" else f"{self.keys[0]}:{level}"

    def addition(self, priority: int) -> bytes:
        """Return the command that adds a message, up to the body."""
        start = self.additions.get(priority)
        if start is None:
            start = self.additions[priority] = pack_start(1, "XADD", self.stream(str(priority)), "*", "b")
        return start

    def acks(self, level: str, ids: Sequence[bytes]) -> tuple[Command, Command]:
        """Return the commands that remove messages that are done with."""
        removals = self.removals.get(level)
        if removals is None:
            stream = self.stream(level)
            removals = self.removals[level] = pack_values(("XDEL", stream)), pack_values(("XACK", stream, GROUP))
        packed, count = b"".join(map(pack_value, ids)), len(ids)
        # In this order: a lease without a message is cleared up, a message without a lease would stay.
        return (
            Command(b"*%d\r\n%b%b" % (2 + count, removals[0], packed)),
            Command(b"*%d\r\n%b%b" % (3 + count, removals[1], packed)),
        )
