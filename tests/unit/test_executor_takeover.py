"""Settling for a run that another process started: what it came to is recorded once, whatever was recorded before."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from dispatcher import states
from dispatcher.brokers.base import Delivery
from dispatcher.exceptions import TimeLimitExceeded, WorkerLostError
from dispatcher.execution.admission import suspect
from dispatcher.execution.run import Kind, Outcome, Run
from dispatcher.execution.watch import Decided
from tests.unit.bench import Bench


@pytest.fixture
def bench() -> Bench:
    """A workbench."""
    return Bench()


def taken(bench: Bench, **options: Any) -> Delivery:
    """Return the delivery of a task that is under way elsewhere."""
    bench.app.task(name="t", **{key: options.pop(key) for key in ("acks_late", "max_retries") if key in options})(int)
    bench.app.send_task("t", **options)
    [delivery] = bench.receive()
    return delivery


def begun(bench: Bench, delivery: Delivery) -> Run:
    """Take a run as far as its start, as the process that is gone has done."""
    executor = bench.executor()
    [run] = executor.prepare([delivery])
    assert executor._begin(run)
    return run


def test_abandoned_run_fails_with_the_limit(bench: Bench) -> None:
    """A run that was ended at its hard limit is a failure and a dead letter."""
    delivery = taken(bench)
    run = bench.executor().abandon(delivery, 3.0)
    assert isinstance(bench.result(run.id).result, TimeLimitExceeded)
    assert bench.left() == 0
    assert len(bench.dead()) == 1


@pytest.mark.parametrize("options", [{"acks_late": False}, {"expires": 10}])
def test_abandoned_run_fails_though_it_could_not_start_now(bench: Bench, options: dict[str, Any]) -> None:
    """That a run has started, may start once only, or would have expired by now, does not undo its end."""
    delivery = taken(bench, **options)
    begun(bench, delivery)
    bench.clock.advance(20)
    run = bench.executor().abandon(delivery, 3.0)
    assert isinstance(bench.result(run.id).result, TimeLimitExceeded)


def test_abandoned_run_that_was_recorded_keeps_its_outcome(bench: Bench) -> None:
    """What the ended process had recorded stands."""
    delivery = taken(bench)
    bench.executor().process([delivery])
    run = bench.executor().abandon(delivery, 3.0)
    assert run.outcome is not None
    assert run.outcome.kind is Kind.REPEATED
    assert bench.result(run.id).state == states.SUCCESS


def test_lost_run_is_counted_at_its_first_delivery(bench: Bench) -> None:
    """The start of a first delivery, which nobody has recorded, counts once its process is known to have died."""
    run = bench.executor().lose(taken(bench))
    assert bench.record(run.id).starts == 1
    assert run.settlement is not None
    assert run.settlement.action == "release"
    assert run.settlement.delay > 0


def test_lost_run_is_counted_once_at_a_redelivery(bench: Bench) -> None:
    """The start of a redelivery was recorded before the run."""
    delivery = taken(bench)
    delivery.receive_count = 2
    begun(bench, delivery)
    run = bench.executor().lose(delivery)
    assert bench.record(run.id).starts == 1


def test_run_that_is_lost_too_often_fails_at_once(bench: Bench) -> None:
    """With the last start that a task may have, its failure is recorded by whoever sees the process die."""
    bench.app.conf.max_worker_losses = 1
    delivery = taken(bench)
    delivery.receive_count = 2
    begun(bench, delivery)
    run = bench.executor().lose(delivery)
    assert isinstance(bench.result(run.id).result, WorkerLostError)
    assert bench.left() == 0


def test_lost_run_that_may_start_once_fails(bench: Bench) -> None:
    """acks_late=False: a run that dies with its process is lost, and its task says so."""
    delivery = taken(bench, acks_late=False)
    begun(bench, delivery)
    run = bench.executor().lose(delivery)
    assert isinstance(bench.result(run.id).result, WorkerLostError)


def test_runs_that_replaced_their_task_are_no_losses(bench: Bench) -> None:
    """Copies of a message, and those whose acknowledgement was lost, replace it again however often they come."""
    bench.app.conf.max_worker_losses = 2

    @bench.app.task(name="swap", bind=True)
    def swap(self: Any) -> None:
        raise self.replace(bench.app.signature("t", (1,)))

    bench.app.task(name="t")(int)
    bench.app.send_task("swap")
    [delivery] = bench.receive()
    for count in (2, 3, 4, 5):
        [run] = bench.executor().process([dataclasses.replace(delivery, receive_count=count)])
        assert run.outcome is not None
        assert run.outcome.kind is Kind.SUPERSEDED
        assert bench.record(run.id).starts == 0
    assert not bench.dead()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_innocent_run_goes_back_uncounted(bench: Bench, count: int) -> None:
    """A run that was stopped for another's sake is as if it had not been started."""
    bench.app.conf.max_worker_losses = 1
    delivery = taken(bench)
    delivery.receive_count = count
    begun(bench, delivery)
    run = bench.executor().give_up(delivery)
    record = bench.record(run.id)
    assert record is None or record.starts == 0
    assert run.settlement is not None
    assert (run.settlement.action, run.settlement.delay) == ("release", 0.0)


def test_decided_run_is_recorded_and_continued(bench: Bench) -> None:
    """An outcome that its process could not write is written, with what follows from it."""
    bench.app.task(name="next")(int)
    delivery = taken(bench, link=bench.app.signature("next", (7,), immutable=True))
    [run] = bench.executor().conclude([(delivery, Decided(Outcome(Kind.SUCCESS, 5), 0, 0))])
    assert bench.result(run.id).result == 5
    [following] = bench.receive()
    assert bench.app.read_message(following).task == "next"


def test_decided_retry_is_counted_once(bench: Bench) -> None:
    """A retry that was recorded before the process ended is not recorded again."""
    delivery = taken(bench, max_retries=5)
    decided = Decided(Outcome(Kind.RETRY, error=KeyError("k"), delay=60.0), 0, 0)
    for _ in range(2):
        [run] = bench.executor().conclude([(delivery, decided)])
        assert bench.record(run.id).retries == 1
    assert run.settlement is not None
    assert run.settlement.action == "release"


def test_decided_run_of_a_redriven_task_counts(bench: Bench) -> None:
    """How often the task was retried before it became a dead letter says nothing of the attempt that was decided."""
    delivery = taken(bench, max_retries=2)
    for attempt in range(3):
        kind = Kind.RETRY if attempt < 2 else Kind.FAILURE
        [run] = bench.executor().conclude([(delivery, Decided(Outcome(kind, error=KeyError("k")), attempt, attempt))])
        if kind is Kind.RETRY:
            [delivery] = bench.receive()
    assert (bench.record(run.id).final, bench.record(run.id).retries) == (True, 2)
    bench.app.broker.redrive(bench.dead())
    [delivery] = bench.receive()
    bench.executor().conclude([(delivery, Decided(Outcome(Kind.SUCCESS, 5), 0, 0))])
    assert bench.result(run.id).result == 5
    assert bench.left() == 0


def test_decided_retry_keeps_what_it_does_not_change(tmp_path: Path) -> None:
    """The arguments are in the payload store, and whoever takes over has not fetched them for the run."""
    bench = Bench(payload_bucket=tmp_path.as_uri(), payload_threshold=1_024)
    task = bench.app.task(name="t")(lambda text, times=1: len(text) * times)
    result = task.delay("x" * 5_000)
    [delivery] = bench.receive()
    decided = Decided(Outcome(Kind.RETRY, error=KeyError("k"), changes={"kwargs": {"times": 2}}), 0, 0)
    bench.executor().conclude([(delivery, decided)])
    bench.work()
    assert result.get() == 10_000


@pytest.mark.parametrize("count", [1, 2])
def test_innocent_run_that_may_start_once_is_lost(bench: Bench, count: int) -> None:
    """acks_late=False: what was stopped half-way, or had ended and was not recorded, is not run again."""
    delivery = taken(bench, acks_late=False)
    delivery.receive_count = count
    run = begun(bench, delivery)
    bench.executor().give_up(delivery)
    bench.work()
    assert isinstance(bench.result(run.id).result, WorkerLostError)


def test_started_run_of_a_redriven_task_shows_no_old_failure(bench: Bench) -> None:
    """A task that was brought back and is under way is not FAILURE, which it is not ready with; it is a suspect."""
    delivery = taken(bench)
    run = bench.executor().abandon(delivery, 3.0)
    bench.app.broker.redrive(bench.dead())
    [delivery] = bench.receive()
    delivery.receive_count = 2
    run = begun(bench, delivery)
    result = bench.result(run.id)
    assert (result.state, result.ready(), result.result) == (states.PENDING, False, None)
    assert suspect(run)
