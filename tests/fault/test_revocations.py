"""Tasks that are revoked while real workers run them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.exceptions import TaskRevokedError
from tests.fault.fleet import Fleet, until


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A fleet on SQLite; each pool has a queue of its own."""
    with Fleet(tmp_path, f"sqlite:///{tmp_path / 'store.db'}") as fleet:
        yield fleet


def test_terminate_ends_what_the_pool_can_end(fleet: Fleet) -> None:
    """Prefork kills the child of even a deaf task and replaces it, asyncio cancels; no neighbour runs again.

    Threads cannot end a run: it keeps its outcome, and the log says so.
    """
    workers = {
        pool: fleet.start(pool, 2, prefetch=1, worker_queues=[pool]) for pool in ("prefork", "asyncio", "threads")
    }
    deaf = fleet.send("deaf", queue="prefork")
    neighbour = fleet.send("work", "neighbour", 6.0, queue="prefork")
    nap = fleet.send("nap", 1, 3600, queue="asyncio")
    thread = fleet.send("work", "thread", 12.0, queue="threads")
    for task_id in (deaf, neighbour, nap, thread):
        fleet.started(task_id)
    children = set(workers["prefork"].children())
    fleet.app.control.terminate([deaf, nap, thread], signal="SIGKILL")
    for task_id in (deaf, nap):
        assert isinstance(fleet.get(task_id), TaskRevokedError)
    assert fleet.get(neighbour) == "neighbour"
    assert fleet.get(thread) == "thread"
    assert [fleet.starts(task_id) for task_id in (deaf, neighbour, nap, thread)] == [1] * 4
    assert "nothing here can end its run" in workers["threads"].log()
    assert until(lambda: len(found := set(workers["prefork"].children())) == 2 and found != children, "a new child")
    assert fleet.get(fleet.send("work", "after", queue="prefork")) == "after"
    for queue in workers:
        fleet.drained(queue)
        assert not fleet.app.broker.dead_letters(queue)


def test_a_task_revoked_while_its_worker_is_dead_does_not_run_again(fleet: Fleet) -> None:
    """The message of a killed worker comes again, and finds the revocation instead of a run."""
    worker = fleet.start("solo")
    task_id = fleet.send("work", 1, 3600)
    fleet.started(task_id)
    worker.kill()
    fleet.app.AsyncResult(task_id).revoke()
    other = fleet.start("solo")
    assert isinstance(fleet.get(task_id), TaskRevokedError)
    assert fleet.starts(task_id) == 1
    other.signal(signal.SIGTERM)
    assert other.wait() == 0
