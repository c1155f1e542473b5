"""Revoking from the producer's side: what is ended at once, what waits for its message, and what is refused."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from dispatcher.backends.base import Revocation
from dispatcher.exceptions import TaskRevokedError, UnsupportedOption
from dispatcher.execution.revoking import revocation_of
from tests.unit.bench import Bench


def test_a_task_with_a_distant_eta_is_revoked_at_once() -> None:
    """Who sent it knows the ETA, so `get` raises now; its message is dropped when it comes, and nothing runs."""
    bench = Bench()
    ran: list[int] = []
    result = bench.app.task(name="t")(ran.append).apply_async((1,), countdown=3600)
    result.revoke()
    with pytest.raises(TaskRevokedError, match="revoked"):
        result.get(timeout=0)
    bench.work()
    assert (result.state, ran, bench.left()) == ("REVOKED", [], 0)


def test_a_task_that_waits_for_a_retry_is_revoked_at_once() -> None:
    """Its record says that it waits, so its id is enough."""
    bench = Bench()
    ran: list[int] = []

    @bench.app.task(bind=True, name="t")
    def again(self: Any) -> None:
        ran.append(self.request.retries)
        raise self.retry(countdown=600)

    result = again.delay()
    bench.step()
    bench.app.control.revoke(result.id)
    with pytest.raises(TaskRevokedError):
        bench.result(result.id).get(timeout=0)
    bench.work()
    assert (ran, bench.left()) == ([0], 0)


@pytest.mark.parametrize("countdown", [None, 4.0])
def test_a_task_that_may_be_running_is_only_flagged(countdown: float | None) -> None:
    """Nothing tells a task that waits from one that runs: whatever its run returns stays."""
    bench = Bench()
    result = bench.app.task(name="t")(lambda: "done").apply_async(countdown=countdown)
    result.revoke()
    record = bench.record(result.id)
    assert (record.status, record.final, record.revoked) == ("PENDING", False, Revocation.FLAG)
    bench.work()
    assert (result.state, bench.record(result.id).final) == ("REVOKED", True)


def test_the_eta_of_a_call_is_not_that_of_the_task_that_stands_for_it() -> None:
    """A later call of a unique task is answered with the one before, which may be running by now."""
    bench = Bench()
    task = bench.app.task(name="t", unique=True)(lambda: "done")
    first, second = task.delay(), task.apply_async(countdown=3600)
    assert first.id == second.id
    second.revoke()
    assert not bench.record(first.id).final


def test_a_finished_task_keeps_its_outcome() -> None:
    """Revoking it changes nothing that is read."""
    bench = Bench()
    result = bench.app.task(name="t")(lambda: "done").delay()
    bench.work()
    bench.result(result.id).revoke(terminate=True)
    assert bench.result(result.id).get(timeout=0) == "done"


def test_a_revoked_retry_is_not_started_by_a_message_that_comes_early() -> None:
    """The flag counts before the due time of a retry, so that nobody waits for it."""
    bench = Bench()

    @bench.app.task(bind=True, name="t")
    def again(self: Any) -> None:
        raise self.retry(countdown=3)  # too soon to be surely waiting

    result = again.delay()
    bench.step()
    result.revoke()
    assert result.state == "RETRY"
    bench.clock.advance(3)
    bench.step()
    assert result.state == "REVOKED"


def test_many_tasks_are_revoked_and_purged_by_control() -> None:
    """`app.control` takes ids in bulk, and empties the queues of the app."""
    bench = Bench()
    task = bench.app.task(name="t")(lambda: None)
    results = [task.delay() for _ in range(3)]
    bench.app.control.revoke([result.id for result in results])
    bench.app.control.terminate(results[0].id, signal="KILL")
    bench.app.control.revoke(results[0].id)
    assert [bench.record(result.id).revoked for result in results] == [Revocation.KILL, 1, 1]
    assert bench.app.control.purge() == 3
    assert bench.app.control.discard_all() == 0


@pytest.mark.parametrize(
    ("terminate", "name", "expected"),
    [
        (False, None, Revocation.FLAG),
        (True, None, Revocation.TERM),
        (True, "SIGTERM", Revocation.TERM),
        (True, "term", Revocation.TERM),
        (True, signal.SIGKILL, Revocation.KILL),
        (True, 9, Revocation.KILL),
    ],
)
def test_signals_are_named_as_in_celery(terminate: bool, name: Any, expected: Revocation) -> None:
    """By name, with or without SIG, or by number."""
    assert revocation_of(terminate, name) is expected


@pytest.mark.parametrize(
    ("terminate", "name", "message"),
    [(True, "SIGUSR1", "SIGTERM or SIGKILL"), (True, "NOPE", "no such signal"), (False, "KILL", "terminate=True")],
)
def test_signals_that_cannot_work_are_refused(terminate: bool, name: str, message: str) -> None:
    """The error says what can."""
    with pytest.raises(UnsupportedOption, match=message):
        revocation_of(terminate, name)


@pytest.mark.parametrize("option", ["connection", "wait", "timeout"])
def test_options_of_remote_commands_are_refused(option: str) -> None:
    """No worker answers; the error says how to wait."""
    with pytest.raises(UnsupportedOption, match=rf"{option}=1.*get\(\)"):
        Bench().app.AsyncResult("t").revoke(**{option: 1})


def test_what_control_cannot_do_names_the_alternative() -> None:
    """Names of Celery's remote control are attribute errors with a way out; others are plain ones."""
    control: Any = Bench().app.control
    with pytest.raises(AttributeError, match=r"app.control.ping cannot work here: .*dispatcher status"):
        control.ping()
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        control.nonsense()
    with pytest.raises(UnsupportedOption, match="destination="):
        control.revoke("t", destination=["worker1"])


@pytest.mark.parametrize(
    ("task_id", "error", "words"),
    [
        (None, TypeError, "a task's id is a text, and several are a list of them, not None"),
        (7, TypeError, "a task's id is a text, and several are a list of them, not 7"),
        ([None], TypeError, "task_id must be a text of 1 to 255 characters, not None"),
        (["known", ""], ValueError, "task_id must be a text of 1 to 255 characters, not ''"),
        ("LOCK#known", ValueError, "not beginning with 'LOCK#'"),
    ],
)
def test_what_is_no_id_is_not_revoked(task_id: Any, error: type[Exception], words: str) -> None:
    """Whatever cannot be a task's id is refused with a reason, and nothing is written."""
    bench = Bench()
    with pytest.raises(error, match=words):
        bench.app.control.revoke(task_id)
    assert bench.record("known") is None
    if isinstance(task_id, str):
        with pytest.raises(error, match=words):
            bench.app.AsyncResult(task_id).revoke()
