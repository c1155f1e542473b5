"""Objects with locks or connections that must be in a safe state when the process forks."""

from __future__ import annotations

import logging  # noqa: F401 - hooks that are made first come last: else a fork would hold its lock, which imports take
import os
import threading
import weakref
from typing import Final, Protocol


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


#: How long a fork waits for a thread that holds an `OuterLock`, in seconds: it may wait for the forking thread itself.
_PATIENCE: Final = 10.0

_forking = threading.Lock()
_lock = threading.Lock()
_outer: list[weakref.ref[OuterLock]] = []
_safe: list[threading.Lock] = []
_watched: weakref.WeakSet[Forkable] = weakref.WeakSet()
#: what the fork under way holds
_held_outer: list[OuterLock] = []
_held_safe: list[threading.Lock] = []
_held: list[Forkable] = []


class OuterLock:
    """A reentrant lock that no other thread holds at the moment of a fork; its holder may take every lock made before.

    So a fork takes these first, the latest of them before the others. Where one cannot be had in ten seconds it goes on
    without. A child finds it free either way.
    """

    def __init__(self) -> None:
        global _outer
        self._lock = threading.RLock()
        with _lock:
            _outer = [*(each for each in _outer if each() is not None), weakref.ref(self)]

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def take(self, seconds: float) -> bool:
        """Take it within this time; say whether that worked."""
        return self._lock.acquire(timeout=seconds)

    def give(self) -> None:
        """Give it back."""
        self._lock.release()

    def renew(self) -> None:
        """Forget a thread that has it in the parent only."""
        self._lock = threading.RLock()


def safe_lock() -> threading.Lock:
    """Return a lock, for a module to keep, that no other thread holds at the moment of a fork."""
    lock = threading.Lock()
    with _lock:
        _safe.append(lock)
    return lock


def watch(target: Forkable) -> None:
    """Call the object's three methods around every fork, as long as it lives."""
    with _lock:
        _watched.add(target)


def _before() -> None:
    interruptions: list[BaseException] = []
    for take in (_forking.acquire, _take_outer, _take_safe, _lock.acquire, _take_watched):
        # A signal's handler may raise while one is waited for, at a soft time limit say. A hook cannot end a fork, so
        # that would go on, with some locks held for ever and the others another thread's.
        while True:
            try:
                take()
                break
            except BaseException as error:  # noqa: BLE001 - Python reports what a hook raises, and goes on
                interruptions.append(error)
    if interruptions:
        raise interruptions[0]


def _take_outer() -> None:
    for reference in reversed(_outer):
        outer = reference()
        if outer is not None and outer not in _held_outer and outer.take(_PATIENCE):
            _held_outer.append(outer)


def _take_safe() -> None:
    for lock in tuple(_safe[len(_held_safe) :]):
        lock.acquire()
        _held_safe.append(lock)


def _take_watched() -> None:
    for target in tuple(_watched):
        if target not in _held:
            target.before_fork()
            _held.append(target)


def _after_in_parent() -> None:
    for target in _held:
        target.after_fork_in_parent()
    _release()


def _after_in_child() -> None:
    for target in _held:
        target.after_fork_in_child()
    for reference in _outer:
        outer = reference()
        if outer is not None and outer not in _held_outer:
            outer.renew()
    _release()


def _release() -> None:
    _held.clear()
    _lock.release()
    for lock in _held_safe:
        lock.release()
    _held_safe.clear()
    for outer in _held_outer:
        outer.give()
    _held_outer.clear()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
