"""A task over its rate limit waits for a slot that its message reserves once."""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest

from dispatcher.backends.memory import MemoryBackend
from dispatcher.clock import SYSTEM
from dispatcher.consumer.rates import rates_of
from dispatcher.consumer.worker import Worker
from dispatcher.exceptions import (
    CompatibilityWarning,
    ImproperlyConfigured,
    OperationalError,
    TaskRevokedError,
    TimeLimitExceeded,
)
from dispatcher.execution.limits import ThreadLimits
from dispatcher.execution.run import Kind, Run
from tests.unit.bench import Bench


class Limited(Bench):
    """A bench with a task of a limit, and when it started, in seconds from the beginning."""

    def __init__(self, limit: Any = "1/s", scope: str = "global", settings: Any = None, **options: Any) -> None:
        super().__init__(**(settings or {}))
        self.starts: list[float] = []
        self.begun = self.clock.time()

        @self.app.task(name="limited", rate_limit=limit, rate_limit_scope=scope, bind=True, **options)
        def limited(task: Any, failures: int = 0) -> int:
            self.starts.append(round(self.clock.time() - self.begun, 3))
            if task.request.retries < failures:
                raise task.retry(countdown=0)
            return len(self.starts)

        self.task: Any = limited


def kinds(runs: list[Run]) -> list[Kind | None]:
    """What the runs decided."""
    return [run.outcome.kind if run.outcome is not None else None for run in runs]


def test_runs_start_at_the_rate() -> None:
    """Each starts an interval after the one before it, in the order in which they came."""
    bench = Limited("100/m")
    results = [bench.task.delay() for _ in range(5)]
    bench.work()
    assert bench.starts == [0, 0.6, 1.2, 1.8, 2.4]
    assert [result.get(timeout=0) for result in results] == [1, 2, 3, 4, 5]


def test_a_burst_starts_at_once() -> None:
    """A tenth of a second's starts come together, so that a batch need not wait for milliseconds."""
    bench = Limited("20/s")
    for _ in range(6):
        bench.task.delay()
    bench.work()
    assert bench.starts == [0, 0, 0.05, 0.1, 0.15, 0.2]


def test_a_message_is_deferred_once(caplog: pytest.LogCaptureFixture) -> None:
    """It is hidden until its slot, no retry is counted, its record says until when, and a line in the log."""
    bench = Limited("1/m")
    ids = [bench.task.delay().id for _ in range(3)]
    with caplog.at_level(logging.INFO, "dispatcher.task.outcome"):
        runs = bench.step()
    assert kinds(runs) == [Kind.SUCCESS, Kind.DEFERRED, Kind.DEFERRED]
    assert "2 of 3 messages of limited wait for its rate limit, 1/m, the last for 120.0 s" in caplog.messages
    assert [(run.settlement.action, run.settlement.delay) for run in runs[1:] if run.settlement] == [
        ("release", 60.0), ("release", 120.0)
    ]  # fmt: skip
    waiting = bench.record(ids[1])
    assert (waiting.status, waiting.retries, waiting.gen, waiting.final) == ("PENDING", 0, 0, False)
    assert waiting.not_before == pytest.approx(bench.clock.time() + 60, abs=1e-5)
    assert bench.step() == []
    assert len(bench.work()) == 2


def test_other_tasks_of_the_batch_run() -> None:
    """A limit holds up nothing but its own task."""
    bench = Limited("1/m")
    free = bench.app.task(name="free")(lambda: "ran")
    for _ in range(2):
        bench.task.delay()
        free.delay()
    assert sorted(kinds(bench.step()), key=str) == [Kind.DEFERRED] + [Kind.SUCCESS] * 3


def test_retries_take_slots() -> None:
    """A retry is a run as any other, and keeps its count while it waits."""
    bench = Limited("1/m", max_retries=5)
    result = bench.task.delay(2)
    bench.work()
    assert bench.starts == [0, 60, 120]
    record = bench.record(result.id)
    assert (record.status, record.retries) == ("SUCCESS", 2)


def test_a_deferred_retry_keeps_its_record() -> None:
    """Status, error and count stay what the retry wrote; only the time changes."""
    bench = Limited("1/m")
    result = bench.task.delay(1)
    bench.step()
    [run] = bench.step()
    assert kinds([run]) == [Kind.DEFERRED]
    record = bench.record(result.id)
    assert (record.status, record.retries) == ("RETRY", 1)
    assert bench.app.read_meta(record).error is not None


def test_what_is_not_to_run_takes_no_slot() -> None:
    """Revoked, expired, not yet due and finished messages leave the limit alone."""
    bench = Limited("1/m")
    bench.task.apply_async(expires=-5)
    bench.task.apply_async(countdown=5)
    bench.app.backend.revoke([bench.task.delay().id], bench.clock.time() + 1000)
    assert Kind.DEFERRED not in kinds(bench.step())
    assert bench.starts == []
    bench.work()
    assert bench.starts == [5]


def test_revoking_reaches_what_waits() -> None:
    """A message revoked while it waits for its slot never runs."""
    bench = Limited("1/m")
    results = [bench.task.delay() for _ in range(2)]
    bench.step()
    bench.app.backend.revoke([results[1].id], bench.clock.time() + 1000)
    assert kinds(bench.work()) == [Kind.REVOKED]
    assert bench.starts == [0]


def test_a_slot_after_the_expiry_is_not_taken() -> None:
    """What cannot start in time is revoked at once and takes nothing from those that can; the urgent come first."""
    bench = Limited("1/m")
    bench.task.delay()
    results = [bench.task.apply_async(expires=expires) for expires in (100, 100, 100, 50, None)]
    bench.work()
    assert bench.starts == [0, 60, 120, 180]
    assert [result.state for result in results] == ["SUCCESS", "REVOKED", "REVOKED", "SUCCESS", "SUCCESS"]
    with pytest.raises(TaskRevokedError, match="expired: its rate limit, 1/m, has no slot for it in time"):
        results[1].get(timeout=0)


def test_overload_of_expiring_messages_goes_on() -> None:
    """Twice what the limit allows, each good for ten seconds: the limit is used up for as long as it lasts."""
    bench = Limited("1/s")
    for second in range(60):
        for _ in range(2):
            bench.task.apply_async(expires=10)
        bench.clock.advance(bench.begun + second + 1 - bench.clock.time())
        while bench.step():
            pass
    assert len(bench.starts) >= 55


def test_a_message_that_is_much_too_late_asks_again() -> None:
    """What a fleet missed while it was down does not start at once when it is back."""
    bench = Limited("10/s")
    for _ in range(10):
        bench.task.delay()
    bench.step()
    bench.clock.advance(3600)
    bench.starts.clear()
    bench.work()
    assert [round(start - bench.starts[0], 3) for start in bench.starts] == [n / 10 for n in range(9)]


def test_a_message_that_is_a_little_late_runs() -> None:
    """Queues hand out messages when they can; a slot is good for a minute."""
    bench = Limited("10/s")
    for _ in range(10):
        bench.task.delay()
    bench.step()
    bench.clock.advance(59)
    assert kinds(bench.step()) == [Kind.SUCCESS] * 9


def test_another_limit_takes_over() -> None:
    """What waits for a slot of the old limit asks the new one when it comes."""
    bench = Limited("1/h")
    results = [bench.task.delay() for _ in range(2)]
    bench.step()
    after = Limited("1/s", settings={"broker": bench.app.conf.broker_url, "backend": bench.app.conf.result_backend})
    after.clock = after.app.clock = bench.clock
    after.task.delay()
    after.app._broker, after.app._backend = bench.app.broker, bench.app.backend
    assert kinds(after.step()) == [Kind.SUCCESS]
    bench.clock.advance(3600)
    assert kinds(after.step()) == [Kind.SUCCESS]
    assert after.app.AsyncResult(results[1].id).successful()


def test_a_lost_run_takes_another_slot() -> None:
    """A slot is for one start: what comes again after a crash asks again."""
    bench = Limited("1/m")
    bench.task.delay()
    executor = bench.executor()
    [run] = executor.prepare(bench.receive())
    executor.execute(run)
    bench.clock.advance(30)
    [lost] = executor.prepare([run.delivery])
    assert kinds([lost]) == [Kind.DEFERRED]
    executor.close()


def test_a_slot_that_was_waited_for_is_used_once() -> None:
    """Neither a crash of the run it was for nor its retry starts on it again."""
    bench = Limited("1/m")
    results = [bench.task.delay(), bench.task.delay(1)]
    bench.step()
    bench.clock.advance(60)
    executor = bench.executor()
    [run] = executor.prepare(bench.receive())
    executor.execute(run)
    [lost] = executor.prepare([run.delivery])
    assert kinds([run, lost]) == [Kind.RETRY, Kind.DEFERRED]
    executor.finish([run])
    assert kinds(bench.step()) == [Kind.DEFERRED]
    assert bench.record(results[1].id).retries == 1
    executor.close()


def test_a_run_that_was_ended_fails() -> None:
    """Recording the failure of a run at its hard limit asks for no slot."""
    bench = Limited("1/m", time_limit=5)
    result = bench.task.delay()
    executor = bench.executor()
    deliveries = bench.receive()
    executor.prepare(deliveries)
    executor.abandon(deliveries[0], 5)
    executor.close()
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=0)


def test_a_backend_that_is_away_starts_nothing() -> None:
    """Without an answer a run might be over the limit: its message goes back."""

    class Away(MemoryBackend):
        def _take_slots(self, *args: Any) -> tuple[int, int]:
            raise OperationalError("throttled")

    bench = Limited("1/m")
    bench.task.delay()
    bench.executor().close()
    bench.app._backend = Away("memory://", {}, bench.clock)
    assert kinds(bench.step()) == [Kind.HANDED_BACK]
    assert bench.starts == []


@pytest.mark.parametrize(
    "settings", [{"worker_disable_rate_limits": True}, {"task_default_rate_limit": "1/h", "rate_limit_scope": "global"}]
)
def test_limits_can_be_switched_off(settings: dict[str, Any]) -> None:
    """For a worker by its setting, for a task by 0, which the default does not replace."""
    bench = Limited(0 if "task_default_rate_limit" in settings else "1/m", settings=settings)
    for _ in range(3):
        bench.task.delay()
    assert kinds(bench.step()) == [Kind.SUCCESS] * 3


def test_limits_come_from_settings_and_annotations() -> None:
    """The default is for tasks without one; annotations win."""
    settings: Any = {
        "task_default_rate_limit": "1/m", "rate_limit_scope": "global",
        "task_annotations": {"annotated": {"rate_limit": "1/s"}},
    }  # fmt: skip
    bench = Bench(**settings)
    tasks = [bench.app.task(name=name)(lambda: 1) for name in ("plain", "annotated")]
    bench.app.finalize()
    assert [task._rate and task._rate.interval for task in tasks] == [60.0, 1.0]


def test_eager_tasks_have_no_limit() -> None:
    """A call that runs in this process is nobody's to put off."""
    bench = Limited("1/h", settings={"task_always_eager": True})
    assert [bench.task.delay().get() for _ in range(3)] == [1, 2, 3]


def test_a_limited_task_keeps_a_record() -> None:
    """A lean task with a limit is not lean: the slot has to be kept somewhere."""
    bench = Limited("1/m", ignore_result=True, revocable=False)
    for _ in range(2):
        bench.task.delay()
    bench.work()
    assert bench.starts == [0, 60]


def test_unchosen_scope_warns_once() -> None:
    """Celery's limit is per worker: whoever has not chosen is told, once for an app."""
    bench = Bench(rate_limit_scope=None)
    for name in ("a", "b"):
        bench.app.task(name=name, rate_limit="10/s")(lambda: 1)
    with pytest.warns(CompatibilityWarning, match="rate_limit='10/s' of a holds for all workers together") as caught:
        bench.app.finalize()
    assert len(caught) == 1


def test_a_scope_without_a_limit_is_pointed_out() -> None:
    """A scope of a task's own says nothing without a limit; one of the app's is for tasks that have one."""
    bench = Bench(rate_limit_scope="global")
    bench.app.task(name="agreed", rate_limit_scope="global")(lambda: 1)
    bench.app.task(name="lone", rate_limit_scope="worker")(lambda: 1)
    with pytest.warns(CompatibilityWarning, match="rate_limit_scope='worker' of lone has no effect") as caught:
        bench.app.finalize()
    assert len(caught) == 1


# The scope "worker"


def test_a_worker_starts_at_its_rate() -> None:
    """The messages of one worker come back one by one, each when it may start; a second's worth goes first."""
    bench = Limited("2/s", scope="worker")
    for _ in range(8):
        bench.task.delay()
    rates = rates_of(bench.app.tasks.values(), bench.clock, prefork=False)
    bench.work(worker_rates=rates)
    assert bench.starts[:3] == [0, 0, 0]
    assert all(start >= number / 2 for number, start in enumerate(bench.starts[2:]))
    assert len(bench.starts) == 8
    assert bench.starts[-1] < 3.5


def test_the_processes_of_a_worker_share_its_rate() -> None:
    """Children take from one page of memory, and one that is killed in the middle holds up nobody."""
    bench = Limited("1/h", scope="worker")
    bench.app.finalize()
    rates, rate = rates_of(bench.app.tasks.values(), SYSTEM, prefork=True), bench.task._rate
    child = os.fork()
    if not child:
        with rates._locked():
            os._exit(0 if rates._take("limited", rate, 1) == [0.0] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert rates.take("limited", rate, 2)[0] > 3590


def test_a_worker_rate_is_kept_by_a_real_worker() -> None:
    """Every pool hands the limits to its loops."""
    bench = Limited("1/h", scope="worker")
    worker = Worker(bench.app, pool="threads", concurrency=2, handle_signals=False)
    taken = [worker._make_loop(ThreadLimits(), n).env.worker_rates for n in range(2)]
    assert taken[0] is taken[1] is not None


def test_each_worker_has_a_limit_of_its_own() -> None:
    """Two workers start twice as many, and neither more than its own."""
    bench = Limited("1/s", scope="worker")
    for _ in range(10):
        bench.task.delay()
    bench.app.finalize()
    pair = [rates_of(bench.app.tasks.values(), bench.clock, prefork=False) for _ in range(2)]
    assert kinds(bench.step(worker_rates=pair[0])).count(Kind.SUCCESS) == 2
    for _ in range(5):
        bench.task.delay()
    assert kinds(bench.step(worker_rates=pair[0])).count(Kind.SUCCESS) == 0
    for _ in range(5):
        bench.task.delay()
    assert kinds(bench.step(worker_rates=pair[1])).count(Kind.SUCCESS) == 2


def test_a_worker_limit_needs_a_worker() -> None:
    """Where nobody keeps it the limit is not dropped in silence."""
    bench = Limited("1/s", scope="worker")
    bench.task.delay()
    with pytest.raises(ImproperlyConfigured, match="task limited: rate_limit_scope='worker' can be kept by a local"):
        bench.step()
