"""The executor as a whole: what it touches, what it survives, and what it leaves behind."""

import asyncio
import contextvars
import dataclasses
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dispatcher import state
from dispatcher.backends.base import TaskRecord, Write
from dispatcher.backends.memory import MemoryBackend
from dispatcher.brokers.base import Settlement
from dispatcher.brokers.memory import MemoryBroker
from dispatcher.exceptions import BackendStoreError, OperationalError, SoftTimeLimitExceeded, WorkerLostError
from dispatcher.execution.limits import AlarmLimits, LimitKeeper, NoLimits, ThreadLimits
from dispatcher.execution.run import Kind, Run, ShutdownNow
from tests.unit.bench import Bench


class RecordingBackend(MemoryBackend):
    """A memory backend that notes each call."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls: list[str] = []
        self.fails: Exception | None = None

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if self.fails is not None:
            raise self.fails

    def _read(self, ids: Sequence[str]) -> dict[str, TaskRecord]:
        self._note(f"read {len(ids)}")
        return super()._read(ids)

    def _write(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        self._note(f"write {len(writes)}")
        return super()._write(writes)


def _recording(bench: Bench) -> RecordingBackend:
    backend = RecordingBackend(bench.app.conf.result_backend, {}, bench.clock)
    bench.app._backend = backend
    return backend


def test_lean_task_touches_the_backend_not_at_all() -> None:
    """``ignore_result`` with ``revocable=False`` succeeds on its first delivery without a single call."""
    bench = Bench()
    backend = _recording(bench)
    lean = bench.app.task(name="lean", ignore_result=True, revocable=False)(lambda x: x)
    for n in range(7):
        lean.delay(n)
    runs = bench.work()
    assert len(runs) == 7
    assert backend.calls == []


@pytest.mark.parametrize(
    "how",
    [
        {"ignore_result": False},
        {"countdown": 1},
        {"link": True},
        {"link_error": True},
        {"group_id": "g"},
    ],
)
def test_lean_task_is_recorded_where_that_is_needed(how: Any) -> None:
    """A call that wants its result, is linked, delayed or a member of a group has a record."""
    bench = Bench()
    lean = bench.app.task(name="lean", ignore_result=True, revocable=False)(lambda: 1)
    other = bench.app.task(name="other")(lambda *args: None)
    result = lean.apply_async(**{key: other.s() if value is True else value for key, value in how.items()})
    bench.work()
    assert bench.record(result.id).status == "SUCCESS"


def test_lean_task_is_recorded_when_it_fails_retries_or_shows_a_state() -> None:
    """Only a plain success leaves no record; a redelivered one does."""
    bench = Bench()

    @bench.app.task(name="lean", ignore_result=True, revocable=False, bind=True)
    def lean(self: Any, how: str) -> None:
        if how == "state":
            self.update_state(state="HALF", meta=1)
        elif how == "retry" and not self.request.retries:
            self.retry(countdown=1)
        elif how == "fail":
            raise ValueError(how)

    results = {how: lean.delay(how).id for how in ("state", "retry", "fail", "plain")}
    again = lean.delay("plain").id
    [delivery] = [each for each in bench.receive() if again in str(each.body)]
    bench.app.broker.settle([Settlement(delivery, "release")])
    bench.clock.advance(3600)
    bench.work()
    states = {how: bench.record(task_id) and bench.record(task_id).status for how, task_id in results.items()}
    assert states == {"state": "SUCCESS", "retry": "SUCCESS", "fail": "FAILURE", "plain": "SUCCESS"}
    assert bench.record(again).status == "SUCCESS"


def test_batch_costs_one_read_and_one_write() -> None:
    """Quick tasks of a batch share a read and, once their duration is known, a write."""
    bench = Bench()
    backend = _recording(bench)
    task = bench.app.task(name="quick")(lambda: 1)
    executor = bench.executor()
    task.delay()
    executor.process(bench.receive())
    backend.calls.clear()
    for _ in range(10):
        task.delay()
    executor.process(bench.receive())
    executor.close()
    assert backend.calls == ["read 10", "write 10"]


@pytest.mark.parametrize("error", [OperationalError("away"), BackendStoreError("refused")])
@pytest.mark.parametrize("call", [0, 1, 2])
def test_messages_go_back_while_the_backend_is_away(error: Exception, call: int) -> None:
    """Whichever call fails, nothing is acknowledged, and everything is done once the backend is back."""
    bench = Bench()
    backend = _recording(bench)
    runs: list[int] = []

    @bench.app.task(name="count", track_started=True)
    def count() -> int:
        runs.append(1)
        return len(runs)

    def note(name: str) -> None:
        backend.calls.append(name)
        if len(backend.calls) == call + 1:
            raise error

    backend._note = note  # type: ignore[method-assign]
    result = count.delay()
    [run] = bench.step()
    assert run.outcome is not None
    assert run.outcome.kind is Kind.HANDED_BACK
    assert bench.left() == 1
    bench.work()
    assert result.get() >= 1
    assert len(runs) == (2 if call == 2 else 1)


class BadRepr:
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("repr")

    def __json__(self) -> str:
        return "data"


class BadText(Exception):
    """Cannot be worded."""

    def __str__(self) -> str:
        raise RuntimeError("str")

    __repr__ = __str__


class Eccentric(Exception):
    """Takes other arguments than it keeps."""

    def __init__(self, code: int, *, detail: object) -> None:
        super().__init__(code)
        self.detail = detail


def test_strange_values_and_errors_disturb_no_neighbour() -> None:
    """Results and exceptions that misbehave, and exits, end their own task and nothing else."""
    bench = Bench()

    def act(how: str) -> Any:
        if how == "result":
            return BadRepr()
        if how == "text":
            raise BadText("x")
        if how == "eccentric":
            raise Eccentric(5, detail=object())
        if how == "exit":
            raise SystemExit(3)
        if how == "interrupt":
            raise KeyboardInterrupt
        if how == "group":
            raise ExceptionGroup("several", [ValueError("one"), KeyError("two")])
        if how == "object":
            return object()
        if how == "deep":
            return act(how)
        return how

    task = bench.app.task(name="act")(act)
    results = {
        how: task.delay(how)
        for how in ("result", "text", "eccentric", "exit", "interrupt", "group", "object", "deep", "fine")
    }
    runs = bench.work()
    assert len(runs) == len(results)
    assert {how: result.state for how, result in results.items()} == {
        "result": "SUCCESS", "text": "FAILURE", "eccentric": "FAILURE", "exit": "FAILURE", "interrupt": "FAILURE",
        "group": "FAILURE", "object": "FAILURE", "deep": "FAILURE", "fine": "SUCCESS",
    }  # fmt: skip
    assert results["result"].get() == "data"
    assert "object" in str(results["object"].result)
    assert isinstance(results["eccentric"].result, Eccentric)
    assert isinstance(results["deep"].result, RecursionError)
    assert state.current_frame() is None


def test_hooks_and_receivers_cannot_change_an_outcome() -> None:
    """A hook that raises is logged; the outcome and the batch stand."""
    from dispatcher import Task

    bench = Bench()

    class Broken(Task):
        def on_success(self, *args: Any) -> None:
            raise RuntimeError("hook")

        def on_failure(self, *args: Any) -> None:
            raise SystemExit(1)

        def after_return(self, *args: Any) -> None:
            raise RuntimeError("hook")

    @bench.app.task(base=Broken, name="broken")
    def broken(fail: bool) -> str:
        if fail:
            raise ValueError("task")
        return "value"

    fine, failed = broken.delay(False), broken.delay(True)
    bench.work()
    assert fine.get() == "value"
    with pytest.raises(ValueError, match="task"):
        failed.get()


def test_a_task_that_runs_once_is_recorded_before_it_starts() -> None:
    """``acks_late=False`` writes the start first; a retry that the task asks for is another run and is kept."""
    bench = Bench()
    seen: list[Any] = []

    @bench.app.task(name="once", acks_late=False, bind=True)
    def once(self: Any) -> Any:
        record = bench.record(self.request.id)
        seen.append((record.status, record.retries, record.starts))
        if not self.request.retries:
            self.retry(countdown=5)
        return self.request.retries

    result = once.delay()
    bench.work()
    assert seen == [("PENDING", 0, 1), ("RETRY", 1, 1)]
    assert (result.get(), bench.record(result.id).starts) == (1, 0)


def test_a_task_that_runs_once_is_lost_with_its_worker_and_says_so() -> None:
    """Its worker died: the message comes again, no code runs, and whoever waits is told; the message is kept."""
    bench = Bench()
    runs: list[int] = []
    bench.app.task(name="once", acks_late=False)(lambda: runs.append(1))
    result = bench.app.send_task("once")
    executor = bench.executor()
    [run] = executor.prepare(bench.receive())
    assert executor._begin(run)  # and here it dies
    assert result.state == "PENDING"
    bench.work()
    with pytest.raises(WorkerLostError, match="acks_late=False keeps it from being run again"):
        result.get()
    assert runs == []
    assert [letter.reason["reason"] for letter in bench.dead()] == ["failed"]


def test_a_task_that_runs_once_is_not_run_again_for_its_result(tmp_path: Path) -> None:
    """Its result cannot be stored just now: the function has run, so that the task is lost."""
    store = tmp_path / "store"
    store.write_text("no directory")
    bench = Bench(payload_bucket=store.as_uri(), payload_threshold=1_024)
    runs: list[int] = []

    @bench.app.task(name="once", acks_late=False)
    def once() -> str:
        runs.append(1)
        return "x" * 5_000

    result = once.delay()
    bench.step()
    store.unlink()
    bench.work()
    assert runs == [1]
    assert isinstance(result.result, WorkerLostError)


def test_a_duplicate_waits_while_a_task_that_runs_once_may_be_running() -> None:
    """A second delivery within the lease of the first one neither runs the task nor takes it for lost."""
    bench = Bench()
    bench.app.task(name="once", acks_late=False)(lambda: "done")
    result = bench.app.send_task("once")
    executor = bench.executor()
    [delivery] = bench.receive()
    [run] = executor.prepare([delivery])
    assert executor._begin(run)
    [second] = executor.process([dataclasses.replace(delivery, receipt=(0, 0), message_id="copy")])
    assert second.outcome is not None
    assert (second.outcome.kind, second.outcome.delay) == (Kind.HANDED_BACK, bench.app.broker.visibility_timeout)
    executor.execute(run)
    executor.finish([run])
    assert result.get() == "done"


def test_two_copies_of_a_task_that_runs_once_run_once() -> None:
    """Of two deliveries that both found nothing recorded, as SQS may hand one message out twice, one starts."""
    bench = Bench()
    runs: list[int] = []
    bench.app.task(name="once", acks_late=False)(lambda: runs.append(1))
    bench.app.send_task("once")
    executor = bench.executor()
    [delivery] = bench.receive()
    first, second = executor.prepare([delivery]), executor.prepare([dataclasses.replace(delivery)])
    executor.execute(first[0])
    executor.execute(second[0])
    assert runs == [1]
    assert second[0].outcome is not None
    assert second[0].outcome.kind is Kind.HANDED_BACK


def test_a_task_that_runs_once_does_not_start_unrecorded() -> None:
    """Where its start cannot be written the function does not run, and the message goes back."""
    bench = Bench()
    runs: list[int] = []
    bench.app.task(name="once", acks_late=False)(lambda: runs.append(1))
    bench.app.send_task("once")
    executor = bench.executor()

    class Deaf(MemoryBackend):
        def _write(self, writes: Any) -> Any:
            raise OperationalError("no")

    executor.env.backend = Deaf(bench.app.conf.result_backend, {}, bench.clock)
    [run] = executor.process(bench.receive())
    assert run.outcome is not None
    assert run.outcome.kind is Kind.HANDED_BACK
    assert runs == []
    bench.work()
    assert runs == [1]


def test_a_cold_shutdown_ends_a_task_that_runs_once() -> None:
    """What may not run again, and was interrupted, has failed; it says why."""
    bench = Bench()

    @bench.app.task(name="once", acks_late=False)
    def once() -> None:
        raise ShutdownNow

    result = once.delay()
    with pytest.raises(ShutdownNow):
        bench.step()
    with pytest.raises(WorkerLostError, match="stopped while it ran"):
        result.get()


def test_cold_shutdown_hands_back_and_counts_no_crash() -> None:
    """What was running when the worker was told to stop at once goes back, as often as that happens."""
    bench = Bench(max_worker_losses=2)
    stops = [True] * 5

    @bench.app.task(name="long")
    def long() -> str:
        if stops:
            stops.pop()
            raise ShutdownNow
        return "done"

    result = long.delay()
    for _ in range(5):
        with pytest.raises(ShutdownNow):
            bench.step()
    assert state.current_frame() is None
    bench.work()
    assert result.get() == "done"


def test_deadline_starts_the_first_and_hands_back_what_does_not_fit() -> None:
    """The first message of a batch always starts; another only if it is expected to end in time."""
    bench = Bench()
    left = [10.0]
    task = bench.app.task(name="long", soft_time_limit=5)(lambda: left.__setitem__(0, 0.0))
    for _ in range(3):
        task.delay()
    runs = bench.step(time_left=lambda: left[0])
    assert [run.outcome.kind for run in runs if run.outcome] == [Kind.SUCCESS, Kind.HANDED_BACK, Kind.HANDED_BACK]
    assert [run.settlement.delay for run in runs[1:] if run.settlement] == [0.0, 0.0]


def test_what_follows_a_message_that_is_not_ours_any_more_is_not_the_first() -> None:
    """A batch whose first message was lost starts another only if it is expected to end in time."""
    bench = Bench()
    ran: list[str] = []
    bench.app.task(name="note")(ran.append)
    for name in ("a", "b"):
        bench.app.send_task("note", (name,))
    runs = bench.executor(time_left=lambda: 0.0).process(
        bench.receive(), lambda run: run.message is None or run.message.args != ("a",)
    )
    assert ran == []
    assert [run.outcome and run.outcome.kind for run in runs] == [None, Kind.HANDED_BACK]


def test_runs_of_a_batch_do_not_see_each_other() -> None:
    """Each run of a batch is current in its own code only, whoever is told of it and whatever becomes of it."""
    bench = Bench()
    seen: list[str | None] = []

    def current() -> str | None:
        frame = state.current_frame()
        return None if frame is None else frame.request.id

    class Told:
        def started(self, run: Run) -> None:
            seen.append(current())

        def ended(self, run: Run) -> bool:
            seen.append(current())
            return True

    def work(fails: bool) -> None:
        seen.append(current())
        if fails:
            raise ValueError

    bench.app.task(name="work", ignore_result=True, revocable=False)(work)
    ids = [bench.app.send_task("work", (fails,)).id for fails in (False, True, False)]
    bench.step(watch=Told())
    assert seen == [each for task_id in ids for each in (None, task_id, None)]


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")


def test_coroutine_tasks_leave_no_context_behind() -> None:
    """What one coroutine sets in its context is not there for the next, in a batch of several at a time neither."""
    bench = Bench()

    @bench.app.task(name="leak", bind=True)
    async def leak(self: Any) -> list[Any]:
        found = variable.get()
        variable.set("dirty")
        await asyncio.sleep(0)
        return [found, self.request.id, state.current_frame() is not None]

    results = [leak.delay() for _ in range(4)]
    executor = bench.executor()
    executor.process(bench.receive(limit=2))
    executor.concurrency = 2
    executor.process(bench.receive())
    executor.close()
    assert [result.get() for result in results] == [["clean", result.id, True] for result in results]
    assert state.current_frame() is None


def test_alarm_is_off_after_every_kind_of_end() -> None:
    """No soft limit survives its run, whatever the run did."""
    bench = Bench()

    @bench.app.task(name="ends", soft_time_limit=30, bind=True)
    def ends(self: Any, how: str) -> str:
        if how == "raise":
            raise ValueError(how)
        if how == "retry" and not self.request.retries:
            self.retry(countdown=1)
        return how

    limits = AlarmLimits()
    limits.install()
    for how in ("return", "raise", "retry"):
        ends.delay(how)
    bench.work(limits=limits)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert not limits.stop()


def test_library_that_turns_the_limit_into_its_own_error() -> None:
    """The fired flag counts, not the exception's type: the failure is the time limit, with the other as its cause."""
    bench = Bench()

    @bench.app.task(name="wraps", soft_time_limit=0.01)
    def wraps() -> None:
        try:
            while True:
                sum(range(100))
        except BaseException:  # noqa: BLE001 - some libraries do this
            raise ConnectionError("lost") from None

    limits = AlarmLimits()
    limits.install()
    result = wraps.delay()
    bench.work(limits=limits)
    assert isinstance(result.result, SoftTimeLimitExceeded)
    assert isinstance(result.result.__cause__, ConnectionError)


def test_run_ended_from_outside_is_recorded_by_who_watched() -> None:
    """`abandon` records the hard limit as the failure, with hooks, and settles the message."""
    bench = Bench()
    result = bench.app.task(name="deaf", time_limit=5)(lambda: None).delay()
    executor = bench.executor()
    [delivery] = bench.receive()
    executor.abandon(delivery, 5)
    executor.close()
    assert result.state == "FAILURE"
    assert "TimeLimitExceeded(5" in str(result.result)
    assert bench.left() == 0


def test_a_revoked_run_ended_from_outside_is_recorded_by_who_watched() -> None:
    """`end_revoked` records REVOKED and settles; an outcome that was recorded before the end stays."""
    bench = Bench()
    task = bench.app.task(name="t")(lambda: "done")
    ended, finished = task.delay(), task.delay()
    executor = bench.executor()
    deliveries = bench.receive()
    executor.process(deliveries[1:])
    for delivery in deliveries:
        executor.end_revoked(delivery, signal.SIGTERM)
    executor.close()
    assert (ended.state, str(ended.result)) == ("REVOKED", "terminated")
    assert finished.get(timeout=0) == "done"
    assert bench.left() == 0


@pytest.mark.parametrize(("option", "value"), [("acks_late", False), ("track_started", True)])
def test_an_option_that_is_set_late_counts(option: str, value: bool) -> None:
    """A task whose starts are to be recorded since the app was finalized has them recorded."""
    bench = Bench()
    seen: list[bool] = []

    @bench.app.task(name="t", bind=True)
    def task(this: Any) -> None:
        seen.append(bench.record(this.request.id) is not None)

    bench.app.finalize()
    setattr(bench.app.tasks["t"], option, value)
    bench.app.tasks["t"].delay()
    bench.work()
    assert seen == [True]


@pytest.mark.parametrize("revoked", [False, True])
def test_the_end_of_a_run_that_was_acknowledged_early_is_recorded(revoked: bool) -> None:
    """Its record says that it may be running; whoever has ended it knows better, and nobody waits for ever."""
    bench = Bench()
    task = bench.app.task(name="t", acks_late=False)(lambda: None)
    result = task.delay()
    executor = bench.executor()
    [delivery] = bench.receive()
    [run] = executor.prepare([delivery])
    assert executor._begin(run)
    if revoked:
        result.revoke(terminate=True)
        executor.end_revoked(delivery, signal.SIGKILL)
    else:
        executor.abandon(delivery, 5)
    executor.close()
    assert result.state == ("REVOKED" if revoked else "FAILURE")


class LosingBroker(MemoryBroker):
    """A memory broker that can lose contact while it settles."""

    fails = False

    def settle(self, settlements: Sequence[Settlement]) -> None:
        if self.fails:
            raise OperationalError("away")
        super().settle(settlements)


def test_outcome_is_kept_when_the_broker_cannot_be_told() -> None:
    """The record comes first: a message whose settling failed comes again and runs no code."""
    bench = Bench()
    runs: list[int] = []

    @bench.app.task(name="once")
    def once() -> str:
        runs.append(1)
        return "value"

    broker = bench.app._broker = LosingBroker(bench.app.conf.broker_url, {}, bench.clock)
    result = once.delay()
    broker.fails = True
    with pytest.raises(OperationalError):
        bench.step()
    broker.fails = False
    assert result.get() == "value"
    bench.clock.advance(3600)
    [run] = bench.work()
    assert run.outcome is not None
    assert (run.outcome.kind, runs) == (Kind.REPEATED, [1])


def test_deliveries_that_are_not_ours_any_more_are_left_alone() -> None:
    """``keep`` is asked before each start; what it refuses is neither run nor settled."""
    bench = Bench()
    runs: list[int] = []
    task = bench.app.task(name="n")(runs.append)
    for n in range(3):
        task.delay(n)
    executor = bench.executor()
    deliveries = bench.receive()

    def keep(run: Run) -> bool:
        return run.delivery is not deliveries[1]

    done = executor.process(deliveries, keep)
    executor.close()
    assert runs == [0, 2]
    assert done[1].settlement is None
    assert bench.left() == 1


@pytest.mark.parametrize(
    ("limits", "option", "named"),
    [
        (NoLimits(), "soft_time_limit", "soft_time_limit"),
        (NoLimits(), "time_limit", "time_limit"),
        (ThreadLimits(), "soft_time_limit", None),
        (ThreadLimits(), "time_limit", "time_limit"),
    ],
)
def test_limit_of_a_call_that_is_not_kept_is_named_once(
    caplog: pytest.LogCaptureFixture, limits: LimitKeeper, option: str, named: str | None
) -> None:
    """A limit that only a call has cannot be refused at the start: the log says that it is not kept."""
    bench = Bench()
    bench.app.task(name="t")(int)
    for _ in range(2):
        bench.app.send_task("t", **{option: 60})
    bench.step(limits=limits)
    lines = [record.getMessage() for record in caplog.records if "is not kept here" in record.getMessage()]
    assert [line.split(":")[0] for line in lines] == ([f"a {named} of t is not kept here"] if named else [])


def test_coroutines_that_used_up_the_time_leave_none_for_others() -> None:
    """The first run of a batch always starts; what comes after coroutines that ran together is not the first."""
    bench = Bench()
    left = [60.0]
    ran: list[str] = []

    @bench.app.task(name="slow")
    async def slow() -> None:
        ran.append("slow")
        left[0] = 0.0

    bench.app.task(name="plain")(lambda: ran.append("plain"))
    for name in ("slow", "slow", "plain"):
        bench.app.send_task(name)
    executor = bench.executor(time_left=lambda: left[0])
    executor.concurrency = 2
    runs = executor.process(bench.receive())
    executor.close()
    assert "plain" not in ran
    assert runs[2].outcome is not None
    assert runs[2].outcome.kind is Kind.HANDED_BACK
