"""Terminations: which runs a consumer looks up, and what becomes of those that are to end."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

from dispatcher.backends.base import Revocation, Write
from dispatcher.consumer.pools import AsyncioPool
from dispatcher.consumer.terminations import Terminations
from dispatcher.execution.run import Run
from dispatcher.message import Message
from dispatcher.signals import task_revoked
from tests.unit.consumers import Background, FaultyBackend, make_loop, memory_app, until

DAY = 86_400.0


class Watched:
    """A consumer's runs and what was ended of them."""

    def __init__(self, ends: bool = True, **options: Any) -> None:
        self.app = memory_app()
        self.task = self.app.task(name="t", **options)(lambda: None)
        self.app.finalize()
        self.reads: list[str] = []
        self.runs: list[Run] = []
        self.ended: list[tuple[str, signal.Signals]] = []
        self.backend = self.app.backend
        assert isinstance(self.backend, FaultyBackend)
        self.backend.before_read = lambda: self.reads.append("read")
        self.watch = Terminations(self.backend, lambda: self.runs, lambda run, signum: self._end(run, signum, ends))

    def _end(self, run: Run, signum: signal.Signals, ends: bool) -> bool:
        self.ended.append((run.id, signum))
        return ends

    def begin(self, task_id: str, gen: int = 0) -> Run:
        """Add a run."""
        run = Run(None)  # type: ignore[arg-type] # nobody settles it
        run.message, run.task = Message(task_id, "t", gen=gen), self.task
        self.runs.append(run)
        return run

    def revoke(self, task_id: str, revocation: Revocation) -> None:
        """Revoke a task."""
        self.backend.revoke([task_id], self.app.clock.time() + DAY, revocation)


def test_only_runs_that_last_are_looked_up_together() -> None:
    """A run seen for the first time costs nothing; those that last cost one read, all together."""
    watched = Watched()
    watched.begin("a")
    watched.begin("b")
    watched.watch.look()
    assert not watched.reads
    watched.watch.look()
    assert len(watched.reads) == 1


def test_a_run_is_ended_once_and_by_its_signal() -> None:
    """A mere flag ends nothing; a termination does, once."""
    watched = Watched()
    watched.begin("flagged")
    watched.begin("ended")
    watched.watch.look()
    watched.revoke("flagged", Revocation.FLAG)
    watched.revoke("ended", Revocation.KILL)
    for _ in range(3):
        watched.watch.look()
    assert watched.ended == [("ended", signal.SIGKILL)]


def test_a_run_of_an_older_generation_is_left_alone() -> None:
    """The revocation of a record that moved on is not about this run."""
    watched = Watched()
    watched.begin("t")

    later = watched.app.clock.time() + DAY
    watched.backend.write([Write("t", "PENDING", 1, 0, 0, final=False, token="", expires_at=later)])
    watched.revoke("t", Revocation.TERM)
    watched.watch.look()
    watched.watch.look()
    assert not watched.ended


def test_a_task_that_is_not_revocable_is_not_looked_up() -> None:
    """`revocable=False` saves the read here, too."""
    watched = Watched(revocable=False)
    watched.begin("t")
    watched.watch.look()
    watched.watch.look()
    assert not watched.reads


def test_a_pool_that_cannot_end_a_run_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """The run goes on, and the log says why and what would work."""
    watched = Watched(ends=False)
    watched.begin("t")
    watched.revoke("t", Revocation.TERM)
    for _ in range(3):
        watched.watch.look()
    [told] = [text for record in caplog.records if "nothing here can end its run" in (text := record.getMessage())]
    assert "prefork" in told


def test_a_coroutine_is_cancelled_and_its_end_recorded() -> None:
    """In the asyncio pool; its clean-up runs, the state is REVOKED, and the signal says by what."""
    app = memory_app()
    started, cleaned = threading.Event(), threading.Event()
    told: list[tuple[bool, Any, bool]] = []

    @app.task(name="waits")
    async def waits() -> None:
        import asyncio

        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            cleaned.set()

    @task_revoked.connect
    def revoked(sender: Any, terminated: bool, signum: Any, expired: bool, **_: Any) -> None:
        told.append((terminated, signum, expired))

    pool = AsyncioPool(lambda limits, number, on_tick, end: make_loop(app, limits, on_tick=on_tick, terminate=end), 2)
    running = Background(pool.run)
    try:
        result = waits.delay()
        assert started.wait(30)
        result.revoke(terminate=True)
        watch = pool._consumer.terminations
        until(lambda: watch.look() or result.ready(), "the end of the run")
        assert result.state == "REVOKED"
        assert str(result.result) == "terminated"
        assert cleaned.is_set()
        assert told == [(True, signal.SIGTERM, False)]
    finally:
        pool.stop()
        running.result()
        task_revoked.disconnect(revoked)
