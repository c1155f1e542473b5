"""Locks and watched objects around a fork."""

from __future__ import annotations

import gc
import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from dispatcher.utils import forks


class Recorder:
    """Notes the calls it gets."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def before_fork(self) -> None:
        """Note it."""
        self.calls.append("before")

    def after_fork_in_parent(self) -> None:
        """Note it."""
        self.calls.append("parent")

    def after_fork_in_child(self) -> None:
        """Note it."""
        self.calls.append("child")


class Holder:
    """Like a store: a lock that threads hold while they work."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        forks.watch(self)

    def before_fork(self) -> None:
        """Wait for the thread that works."""
        self.lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Let threads work again."""
        self.lock.release()

    def after_fork_in_child(self) -> None:
        """Let threads work again."""
        self.lock.release()


def in_fork(function: Callable[[], object]) -> object:
    """Return what a function returns in a forked child."""
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=lambda: writer.send(function()))
    child.start()
    try:
        assert reader.poll(30), "the child did not answer"
        return reader.recv()
    finally:
        child.kill()
        child.join()


def test_watched_objects_are_told_on_both_sides() -> None:
    """The parent hears before and after; the child its own after."""
    recorder = Recorder()
    forks.watch(recorder)
    assert in_fork(lambda: recorder.calls) == ["before", "child"]
    assert recorder.calls == ["before", "parent"]


def test_forgotten_objects_are_not_kept_alive() -> None:
    """Watching holds no reference, and a fork after the object's end is undisturbed."""
    recorder = Recorder()
    calls = recorder.calls
    forks.watch(recorder)
    del recorder
    gc.collect()
    assert in_fork(lambda: "fine") == "fine"
    assert calls == []


def test_no_lock_is_left_behind_in_a_child() -> None:
    """While threads take and release locks without pause, a child can always take them too."""
    lock, holder, stop = forks.safe_lock(), Holder(), threading.Event()

    def churn() -> None:
        while not stop.is_set():
            with lock:
                pass
            with holder.lock:
                pass

    threads = [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert in_fork(lambda: lock.acquire(timeout=10) and holder.lock.acquire(timeout=10)) is True
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_fork_waits_for_whoever_holds_an_outer_lock() -> None:
    """Its holder may take any other lock meanwhile; the child finds both free."""
    inner, outer, held = forks.safe_lock(), forks.OuterLock(), threading.Event()

    def work() -> None:
        with outer:
            held.set()
            time.sleep(0.1)
            with inner:
                pass

    worker = threading.Thread(target=work)
    worker.start()
    held.wait()
    assert in_fork(lambda: worker.is_alive() or (outer.take(10) and inner.acquire(timeout=10))) is True
    worker.join()


IMPORTING = """
from dispatcher.utils import forks
import logging, os, threading, time
forks._PATIENCE = 5.0
outer, held, done = forks.OuterLock(), threading.Event(), threading.Event()
def work():
    with outer:
        held.set()
        time.sleep(0.1)
        logging.getLogger("made.meanwhile")
        done.set()
threading.Thread(target=work).start()
held.wait()
child = os.fork()
if child == 0:
    os._exit(not done.is_set())
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_holds_no_lock_of_logging_while_it_waits() -> None:
    """An app's first use imports libraries, which make their loggers."""
    assert subprocess.run([sys.executable, "-c", IMPORTING], timeout=60, check=False).returncode == 0


INTERRUPTED = """
from dispatcher.utils import forks
import os, signal, sys
def too_long(signum, frame):
    raise TimeoutError
signal.signal(signal.SIGALRM, too_long)
class Waiting:
    def __init__(self):
        self.waited, self.held = False, 0
    def before_fork(self):
        if not self.waited:
            self.waited = True
            signal.raise_signal(signal.SIGALRM)
        self.held += 1
    def after_fork_in_parent(self):
        self.held -= 1
    def after_fork_in_child(self):
        os._exit(self.held != 1)
class Outer(forks.OuterLock, Waiting):
    def __init__(self):
        forks.OuterLock.__init__(self)
        Waiting.__init__(self)
    def take(self, seconds):
        self.before_fork()
        return super().take(seconds)
    def give(self):
        super().give()
        self.held -= 1
raised = []
sys.unraisablehook = lambda unraisable: raised.append(unraisable.exc_type)
outer, watched = Outer(), Waiting()
forks.watch(watched)
for _ in range(2):
    child = os.fork()
    if os.waitpid(child, 0)[1] or outer.held or watched.held:
        raise SystemExit("a lock is held too seldom, or too long")
raise SystemExit(raised != [TimeoutError])
"""


def test_a_signal_that_interrupts_a_fork_leaves_no_lock_held() -> None:
    """The limit of a run that forks may strike while a lock is waited for; the fork has them all, the next one too."""
    assert subprocess.run([sys.executable, "-c", INTERRUPTED], timeout=60, check=False).returncode == 0


def test_a_fork_goes_on_without_an_outer_lock_that_nobody_gives_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder may wait for the forking thread; the child finds it free."""
    monkeypatch.setattr(forks, "_PATIENCE", 0.01)
    outer, held, go = forks.OuterLock(), threading.Event(), threading.Event()

    def work() -> None:
        with outer:
            held.set()
            go.wait()

    worker = threading.Thread(target=work)
    worker.start()
    held.wait()
    try:
        assert in_fork(lambda: outer.take(10)) is True
    finally:
        go.set()
        worker.join()


def test_an_outer_lock_of_the_forking_thread_is_still_its_own() -> None:
    """On both sides: it is given back where it was taken."""
    outer = forks.OuterLock()
    with outer:
        assert in_fork(lambda: outer.take(10)) is True
    worker = threading.Thread(target=outer.take, args=(10,))
    worker.start()
    worker.join(5)
    assert not worker.is_alive()
