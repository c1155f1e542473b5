"""What brokers and backends inside one process share: a store for each name, with one condition for all access."""

from __future__ import annotations

import threading
from typing import Self

from dispatcher.utils import forks

_lock = forks.safe_lock()
_stores: dict[tuple[type, str], MemoryStore] = {}


class MemoryStore:
    """A store that lives until the process ends; every access holds ``changed``, also a fork's."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        forks.watch(self)

    @classmethod
    def at(cls, url: str) -> Self:
        """Return this kind's store for a URL, ``memory://name``; the same one for the same name."""
        key = cls, url.partition("://")[2]
        with _lock:
            store = _stores.get(key) or _stores.setdefault(key, cls())
        assert isinstance(store, cls)
        return store

    def before_fork(self) -> None:
        """Keep the other threads out."""
        self.changed.acquire()

    def after_fork_in_parent(self) -> None:
        """Let the other threads in again."""
        self.changed.release()

    def after_fork_in_child(self) -> None:
        """Forget who waits in the parent."""
        self.changed = threading.Condition()
