"""``expires``: a task that was not started in time never is, wherever its message was meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dispatcher.brokers.base import Settlement
from dispatcher.exceptions import TaskRevokedError
from tests.unit.bench import Bench


def revoked(bench: Bench, task_id: str) -> bool:
    """Whether the task ended because it expired, for whoever waits for it."""
    with pytest.raises(TaskRevokedError, match="expired"):
        bench.result(task_id).get(timeout=0)
    return bool(bench.result(task_id).state == "REVOKED") and not bench.left()


def forms(bench: Bench) -> dict[str, Any]:
    """One moment, 60 s from now, in every form that a call takes."""
    moment = datetime.fromtimestamp(bench.clock.time() + 60, UTC)
    return {
        "seconds": 60, "float": 60.0, "timedelta": timedelta(minutes=1), "aware": moment,
        "naive": moment.replace(tzinfo=None), "text": moment.isoformat(), "zulu": f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z",
    }  # fmt: skip


@pytest.mark.parametrize("form", ["seconds", "float", "timedelta", "aware", "naive", "text", "zulu"])
@pytest.mark.parametrize("late", [False, True])
def test_every_form_of_a_moment(form: str, late: bool) -> None:
    """A second earlier it runs, a second later it does not."""
    bench = Bench()
    result = bench.app.task(name="t")(lambda: "ran").apply_async(expires=forms(bench)[form])
    bench.clock.advance(61 if late else 59)
    bench.work()
    assert revoked(bench, result.id) if late else result.get(timeout=0) == "ran"


def test_the_task_s_own_expiry_counts_from_each_call() -> None:
    """A task's option holds for every call that names no other."""
    bench = Bench()
    task = bench.app.task(name="t", expires=60)(lambda: "ran")
    own, longer = task.delay(), task.apply_async(expires=600)
    bench.clock.advance(61)
    bench.work()
    assert revoked(bench, own.id)
    assert longer.get(timeout=0) == "ran"


def test_a_past_expiry_is_no_error() -> None:
    """The task is over before it begins."""
    bench = Bench()
    result = bench.app.task(name="t")(lambda: "ran").apply_async(expires=-1)
    bench.work()
    assert revoked(bench, result.id)


def test_a_redelivered_message_expires() -> None:
    """Its worker died before the run; when it comes again it is too late."""
    bench = Bench()
    result = bench.app.task(name="t")(lambda: "ran").apply_async(expires=60)
    [delivery] = bench.receive()
    bench.app.broker.settle([Settlement(delivery, "release", 61)])
    bench.work()
    assert revoked(bench, result.id)


@pytest.mark.parametrize("changes", [{}, {"args": (2,)}])
def test_a_retry_expires(changes: dict[str, Any]) -> None:
    """A retry is for the same call: with other arguments as well it has to start in time."""
    bench = Bench()
    ran: list[int] = []

    @bench.app.task(bind=True, name="t")
    def again(self: Any, number: int) -> None:
        ran.append(self.request.retries)
        raise self.retry(countdown=40, **changes)

    result = again.apply_async((1,), expires=60)
    bench.work()
    assert ran == [0, 1]
    assert revoked(bench, result.id)


def test_a_message_that_was_sent_on_expires() -> None:
    """A message that went back too often is sent once more, with its expiry."""
    bench = Bench()
    result = bench.app.task(name="t")(lambda: "ran").apply_async(expires=60)

    class Spent:
        """A transport whose budget is used up."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def budget_spent(self, delivery: Any) -> float:
            """Say that it is."""
            return 1.0

    executor = bench.executor()
    executor.env.transport = Spent(executor.env.transport)
    executor.env.time_left = lambda: -1.0  # the first message of a batch starts all the same
    first, [delivery] = bench.app.tasks["t"].delay(), bench.receive(limit=1)
    bench.app.broker.settle([Settlement(delivery, "release")])
    runs = executor.process(sorted(bench.receive(), key=lambda delivery: result.id in str(delivery.body)))
    executor.close()
    assert [run.sent_on for run in runs] == [False, True]
    assert first.get(timeout=0) == "ran"
    bench.clock.advance(61)
    bench.work()
    assert revoked(bench, result.id)


def test_what_expires_before_it_is_due_is_over_when_it_expires() -> None:
    """Nobody has to wait for an ETA at which nothing would happen."""
    bench = Bench()
    begin = bench.clock.time()
    result = bench.app.task(name="t")(lambda: "ran").apply_async(countdown=3600, expires=60)
    bench.work()
    assert revoked(bench, result.id)
    assert bench.clock.time() - begin == pytest.approx(60, abs=0.01)
