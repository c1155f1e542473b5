"""Objects with locks or connections that must be in a safe state when the process forks."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Forkable(Protocol):
    """What an object does around a fork; the three calls come from the forking thread."""

    def before_fork(self) -> None:
        """Wait for other threads to be done with the object, and keep them out."""
        ...

    def after_fork_in_parent(self) -> None:
        """Let the other threads in again."""
        ...

    def after_fork_in_child(self) -> None:
        """Forget the threads that exist in the parent only."""
        ...


_lock = threading.Lock()
_watched: weakref.WeakSet[Forkable] = weakref.WeakSet()
_held: list[Forkable] = []


def safe_lock() -> threading.Lock:
    """Return a lock, for a module to keep, that no other thread holds at the moment of a fork."""
    lock = threading.Lock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


def watch(target: Forkable) -> None:
    """Call the object's three methods around every fork, as long as it lives."""
    with _lock:
        _watched.add(target)


def _before() -> None:
    _lock.acquire()
    _held.extend(_watched)
    for target in _held:
        target.before_fork()


def _after_in_parent() -> None:
    for target in _held:
        target.after_fork_in_parent()
    _held.clear()
    _lock.release()


def _after_in_child() -> None:
    for target in _held:
        target.after_fork_in_child()
    _held.clear()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
