"""Runs of unique tasks: one of a key at a time, and only the outcome of the last one counts."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from dispatcher.backends import locks
from dispatcher.backends.base import TaskRecord, Write
from dispatcher.backends.locks import CLOCK_SKEW, Lock
from dispatcher.backends.memory import MemoryBackend
from dispatcher.brokers.base import Delivery, Outgoing
from dispatcher.clock import ManualClock
from dispatcher.exceptions import OperationalError, TimeLimitExceeded, WorkerLostError
from dispatcher.execution.executor import Executor
from dispatcher.execution.heartbeat import LEASE, Heartbeat
from dispatcher.execution.run import Kind, Outcome, Run, ShutdownNow
from dispatcher.execution.watch import Decided
from dispatcher.message import Message, encode
from tests.unit.bench import Bench

#: The default lease of a message on the memory broker, in seconds.
VISIBILITY = 60.0


class LeaseBench(Bench):
    """A bench with a unique task that does what it is told in the middle of its first run."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.fences: list[int] = []
        self.meanwhile: Callable[[], Any] | None = None

        def run(self_: Any, x: Any = None) -> int:
            number = len(self.fences)
            self.fences.append(self_.request.fence)
            meanwhile, self.meanwhile = self.meanwhile, None
            if meanwhile is not None:
                meanwhile()
            return number

        given = {"unique": True, "unique_scope": "running", **options}
        self.task: Any = self.app.task(name="t", bind=True, **given)(run)
        self.app.finalize()

    def key(self, *args: Any) -> str:
        """Return the key of a call."""
        rule = self.task._uniqueness
        return str(rule.key_of(args, {}))

    def lock(self, *args: Any) -> Lock:
        """Read the lock of a call."""
        return locks.read(self.app.backend, self.key(*args))

    def hold(self, seconds: float, *args: Any, running: str = "somebody") -> None:
        """Let a run elsewhere have the lease."""
        now, lock = self.clock.time(), self.lock(*args)
        leased = lock.with_lease(running, "elsewhere", now + seconds, now)
        assert locks.swap(self.app.backend, lock, leased, now) is None


def test_each_run_has_a_larger_fence() -> None:
    """The number is there while the task runs, and grows from run to run."""
    bench = LeaseBench()
    for _ in range(3):
        bench.task.delay(1)
    bench.work()
    assert bench.fences == sorted(set(bench.fences))
    assert len(bench.fences) == 3
    assert bench.lock(1).runner == ""


def test_other_tasks_have_no_fence() -> None:
    """Nor do eager runs: nothing else could run."""
    bench = Bench()
    seen = []
    plain: Any = bench.app.task(name="p", bind=True)(lambda self: seen.append(self.request.fence))
    unique: Any = bench.app.task(name="u", bind=True, unique=True)(lambda self: seen.append(self.request.fence))
    plain.delay()
    bench.work()
    unique.apply()
    assert seen == [None, None]


def test_a_run_waits_for_the_lease_of_another() -> None:
    """It is handed back, at first for a second or two, never beyond the lease; no retry and no start is counted."""
    bench = LeaseBench()
    result = bench.task.delay(1)
    bench.hold(1000, 1)
    delays = []
    for _ in range(8):
        [run] = bench.step()
        assert run.outcome is not None
        assert run.outcome.kind is Kind.HANDED_BACK
        delays.append(run.outcome.delay)
        bench.clock.advance(run.outcome.delay)
    assert 1 <= delays[0] <= 2
    assert max(delays) <= 60
    assert min(delays[5:]) >= 30
    assert bench.record(result.id) is None
    bench.work()
    assert result.get(timeout=0) == 0


def test_a_lease_is_taken_over_after_its_end() -> None:
    """And after a margin for clocks that differ."""
    bench = LeaseBench()
    result = bench.task.delay(1)
    bench.hold(10, 1)
    begun = bench.clock.time()
    bench.work()
    assert result.get(timeout=0) == 0
    assert bench.clock.time() >= begun + 10 + CLOCK_SKEW


def test_other_keys_do_not_wait() -> None:
    """Exclusion is by key."""
    bench = LeaseBench()
    bench.hold(1000, 1)
    bench.task.delay(1)
    other = bench.task.delay(2)
    bench.step()
    assert other.get(timeout=0) == 0


def test_runs_of_one_key_in_a_batch_take_turns() -> None:
    """The outcome of one is recorded before the next starts."""
    bench = LeaseBench()
    results = [bench.task.delay(1) for _ in range(5)]
    assert [run.outcome and run.outcome.kind for run in bench.step()] == [Kind.SUCCESS] * 5
    assert [result.get(timeout=0) for result in results] == [0, 1, 2, 3, 4]


def test_coroutines_of_one_key_do_not_overlap() -> None:
    """Where a batch's coroutines run together, those of one key still take turns."""
    bench = Bench()
    running, most = [], [0]

    @bench.app.task(name="co", unique=lambda x: "one", unique_scope="running")
    async def co(x: int) -> int:
        running.append(x)
        most[0] = max(most[0], len(running))
        await asyncio.sleep(0)
        running.remove(x)
        return x

    results = [co.delay(n) for n in range(4)]
    executor = Executor(bench.executor().env, concurrency=4)
    while bench.left():
        executor.process(bench.receive(wait=1000))
    executor.close()
    assert [result.get(timeout=0) for result in results] == [0, 1, 2, 3]
    assert most == [1]


def test_a_duplicate_delivery_waits_for_the_run() -> None:
    """A message that comes again while it runs is handed back; later it finds the outcome."""
    bench = LeaseBench()
    result = bench.task.delay(1)
    kinds = []

    def deliver_again() -> None:
        bench.clock.advance(VISIBILITY + 1)
        lock, now = bench.lock(1), bench.clock.time()
        assert locks.swap(bench.app.backend, lock, lock.changed(now, leased_until=now + LEASE), now) is None
        kinds.extend(run.outcome and run.outcome.kind for run in bench.step())

    bench.meanwhile = deliver_again
    bench.step()
    assert kinds == [Kind.HANDED_BACK]
    bench.work()
    assert (len(bench.fences), result.get(timeout=0)) == (1, 0)


def test_a_run_elsewhere_between_two_reads_is_noticed() -> None:
    """A message that comes twice at once, as on SQS: one worker is through with it while the other still reads."""
    bench = LeaseBench()
    result = bench.task.delay(1)
    slow = Interrupted("memory://", {}, bench.clock)
    slow._store = bench.app.backend._store  # type: ignore[attr-defined]
    [delivery] = bench.receive()
    slow.between = lambda: bench.executor().process([delivery])
    [run] = bench.executor(backend=slow).process([delivery])
    assert run.outcome is not None
    assert run.outcome.kind is Kind.REPEATED
    assert (len(bench.fences), result.get(timeout=0)) == (1, 0)


class Interrupted(MemoryBackend):
    """A backend after whose first read something happens."""

    between: Callable[[], Any] | None = None

    def _read(self, ids: Sequence[str]) -> dict[str, TaskRecord]:
        found = super()._read(ids)
        between, self.between = self.between, None
        if between is not None:
            between()
        return found


def test_a_run_that_lost_its_lease_counts_for_nothing() -> None:
    """Its message was run by another meanwhile, which is done: that one's outcome stands."""
    bench = LeaseBench()
    result = bench.task.delay(1)

    def stand_still() -> None:
        bench.clock.advance(VISIBILITY + LEASE + CLOCK_SKEW)
        bench.step()

    bench.meanwhile = stand_still
    [run] = bench.step()
    assert run.outcome is not None
    assert run.outcome.kind is Kind.REPEATED
    bench.work()
    assert (result.get(timeout=0), len(bench.fences)) == (1, 2)


@pytest.mark.parametrize("done", [True, False])
def test_a_run_whose_key_another_message_took_over_runs_again(done: bool) -> None:
    """Whether that other run is done or not: the first one's outcome is not recorded, and it is repeated."""
    bench = LeaseBench()
    first = bench.task.delay(1)
    later = []

    def stand_still() -> None:
        bench.clock.advance(LEASE + CLOCK_SKEW + 1)
        if done:
            later.append(bench.task.delay(1))
            bench.step()
        else:
            bench.hold(5, 1)

    bench.meanwhile = stand_still
    bench.step()
    assert bench.record(first.id) is None
    bench.work()
    assert [result.get(timeout=0) for result in later] == [1] * done
    assert first.get(timeout=0) == 1 + done


def test_a_retry_of_a_run_that_lost_its_lease_is_not_recorded() -> None:
    """The attempt is repeated, with the same number of retries, also where its arguments had changed."""
    bench = LeaseBench(max_retries=None, unique=lambda *args: "one")
    first = bench.task.delay(1)

    def stand_still() -> None:
        bench.clock.advance(LEASE + CLOCK_SKEW + 1)
        bench.hold(5)
        raise bench.task.retry(args=(2,), countdown=0)

    bench.meanwhile = stand_still
    bench.step()
    record = bench.record(first.id)
    assert record is None or record.retries == 0
    bench.work()
    assert first.get(timeout=0) == 1
    assert len(bench.fences) == 2


def test_heartbeats_keep_the_lease() -> None:
    """A run of ten minutes is left alone; the claim lasts with it."""
    bench = LeaseBench(unique_scope="queued", unique_for=60)
    first = bench.task.delay(1)
    executor = bench.executor()
    seen = []

    def take_long() -> None:
        heartbeat = executor.env.heartbeat
        assert heartbeat is not None
        for _ in range(60):
            bench.clock.advance(10)
            heartbeat.beat()
            seen.append(bench.task.delay(1).id)
        bench.step()

    bench.meanwhile = take_long
    executor.process(bench.receive())
    executor.close()
    assert set(seen) == {first.id}
    assert (first.get(timeout=0), len(bench.fences)) == (0, 1)


def test_a_heartbeat_that_comes_too_late_takes_nothing_back(caplog: pytest.LogCaptureFixture) -> None:
    """It says so; the other run goes on."""
    bench = LeaseBench()
    bench.task.delay(1)
    executor = bench.executor()

    def stand_still() -> None:
        bench.clock.advance(LEASE + CLOCK_SKEW + 1)
        bench.hold(50, 1)
        heartbeat = executor.env.heartbeat
        assert heartbeat is not None
        heartbeat.beat()

    bench.meanwhile = stand_still
    executor.process(bench.receive())
    executor.close()
    assert "has lost its lease" in caplog.text
    assert bench.lock(1).runner == "elsewhere"


def test_a_heartbeat_survives_a_backend_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    """The next one may reach it; the outcome counts if nobody came in between."""
    bench = LeaseBench()
    result = bench.task.delay(1)
    executor = bench.executor(backend=Flaky("memory://", {}, bench.clock))
    executor.env.backend._store = bench.app.backend._store  # type: ignore[attr-defined]
    flaky: Any = executor.env.backend

    def lose_it() -> None:
        heartbeat = executor.env.heartbeat
        assert heartbeat is not None
        flaky.away = True
        heartbeat.beat()
        flaky.away = False
        bench.clock.advance(LEASE * 2)

    bench.meanwhile = lose_it
    executor.process(bench.receive())
    executor.close()
    assert "cannot be extended at the moment: away" in caplog.text
    assert result.get(timeout=0) == 0


class Flaky(MemoryBackend):
    """A backend that is away when told to be."""

    away = False

    def _read(self, ids: Sequence[str]) -> dict[str, TaskRecord]:
        self._check()
        return super()._read(ids)

    def _write(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        self._check()
        return super()._write(writes)

    def _write_together(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        self._check()
        return super()._write_together(writes)

    def _check(self) -> None:
        if self.away:
            raise OperationalError("away")


def test_an_outcome_that_cannot_be_recorded_goes_back() -> None:
    """As for any task; the lease ends by itself, and the task runs again."""
    bench = LeaseBench()
    result = bench.task.delay(1)
    flaky = Flaky("memory://", {}, bench.clock)
    flaky._store = bench.app.backend._store  # type: ignore[attr-defined]

    def fall_away() -> None:
        flaky.away = True

    bench.meanwhile = fall_away
    [run] = bench.step(backend=flaky)
    assert run.outcome is not None
    assert run.outcome.kind is Kind.HANDED_BACK
    assert bench.lock(1).runner == run.token
    bench.work()
    assert (result.get(timeout=0), len(bench.fences)) == (1, 2)


def test_a_place_that_ends_takes_the_lease_until_then() -> None:
    """In Lambda there is no heartbeat: the lease lasts until the function is surely over."""
    bench = LeaseBench()
    bench.task.delay(1)
    seen = []
    bench.meanwhile = lambda: seen.append(bench.lock(1).leased_until - bench.clock.time())
    bench.step(time_left=lambda: 100.0)
    conf = bench.app.conf
    assert seen == [100.0 + conf.cleanup_margin + conf.settle_margin]


def test_a_run_that_was_killed_ends_as_its_watcher_says() -> None:
    """The lease of the killed process is no hindrance, and is over; that of another message is."""
    bench = LeaseBench(unique_scope="queued")
    result = bench.task.delay(1)
    bench.hold(LEASE, 1, running=result.id)
    [delivery] = bench.receive()
    bench.executor().abandon(delivery, 5.0)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=0)
    assert (bench.lock(1).runner, bench.task.delay(1).duplicate) == ("", False)


@pytest.mark.parametrize("kind", [Kind.SUCCESS, Kind.RETRY, Kind.FAILURE])
def test_what_another_process_decided_is_recorded_under_its_lease(kind: Kind) -> None:
    """The guard of a Lambda function ends what the runtime was running: the lease passes on to it, and is over then."""
    bench = LeaseBench(unique_scope="queued")
    result = bench.task.delay(1)
    bench.hold(900, 1, running=result.id)
    [delivery] = bench.receive()
    outcome = Outcome(kind, value=5, error=None if kind is Kind.SUCCESS else KeyError("x"))
    [run] = bench.executor().conclude([(delivery, Decided(outcome, 0, 0))])
    assert run.write is not None
    assert run.write.status == kind.name
    assert bench.lock(1).runner == ""
    assert bench.lock(1).is_claimed(bench.clock.time()) == (kind is Kind.RETRY)


def test_what_was_decided_without_a_lease_does_not_count() -> None:
    """Another message took the key over before the guard could record it."""
    bench = LeaseBench()
    result = bench.task.delay(1)
    bench.hold(900, 1)
    [delivery] = bench.receive()
    [run] = bench.executor().conclude([(delivery, Decided(Outcome(Kind.SUCCESS, 5), 0, 0))])
    assert run.outcome is not None
    assert run.outcome.kind is Kind.HANDED_BACK
    assert (bench.record(result.id), bench.lock(1).runner) == (None, "elsewhere")


@pytest.mark.parametrize("end", [Executor.lose, Executor.give_up])
def test_a_run_that_was_seen_to_die_gives_its_lease_back(end: Callable[[Executor, Delivery], Run]) -> None:
    """Its message is handed back, and can run before the lease would have ended."""
    bench = LeaseBench()
    result = bench.task.delay(1)
    bench.hold(900, 1, running=result.id)
    [delivery] = bench.receive()
    end(bench.executor(), delivery)
    assert bench.lock(1).runner == ""
    before = bench.clock.time()
    bench.work()
    assert result.get(timeout=0) == 0
    assert bench.clock.time() < before + 300


def test_a_lock_that_was_lost_is_put_back_by_the_heartbeat() -> None:
    """Its row is gone, as after a server lost its data: others are kept out again, and the outcome counts."""
    bench = LeaseBench()
    first = bench.task.delay(1)
    executor = bench.executor()
    kinds = []

    def lose_rows() -> None:
        bench.app.backend.forget([locks.row_id(bench.key(1))])
        assert bench.lock(1).version == 0
        heartbeat = executor.env.heartbeat
        assert heartbeat is not None
        heartbeat.beat()
        bench.task.delay(1)
        kinds.extend(run.outcome and run.outcome.kind for run in bench.step())

    bench.meanwhile = lose_rows
    executor.process(bench.receive())
    executor.close()
    assert kinds == [Kind.HANDED_BACK]
    assert first.get(timeout=0) == 0
    bench.work()
    assert bench.fences == sorted(set(bench.fences))


def test_a_task_that_kills_its_workers_leaves_no_lock() -> None:
    """Its crashes are counted as for any task; then the key is free."""
    bench = LeaseBench(unique_scope="queued")
    result = bench.task.delay(1)
    dying = Dying("memory://", {}, bench.clock)
    dying._store = bench.app.backend._store  # type: ignore[attr-defined]
    for _ in range(4):  # the first delivery's start is not counted
        with pytest.raises(Dead):
            bench.step(backend=dying)
        bench.clock.advance(VISIBILITY + LEASE)
    bench.work()
    with pytest.raises(WorkerLostError):
        result.get(timeout=0)
    assert len(bench.fences) == 4
    assert not bench.task.delay(1).duplicate


class Dead(BaseException):
    """The process is dead."""


class Dying(MemoryBackend):
    """A backend whose process dies when it is to record an outcome."""

    def _write_together(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        raise Dead


def test_a_cold_shutdown_gives_the_lease_back() -> None:
    """What was interrupted can run elsewhere at once."""
    bench = LeaseBench(unique_scope="queued")
    result = bench.task.delay(1)

    def shut_down() -> None:
        raise ShutdownNow

    bench.meanwhile = shut_down
    with pytest.raises(ShutdownNow):
        bench.step()
    assert bench.lock(1).runner == ""
    assert bench.task.delay(1).id == result.id
    bench.step()
    assert result.get(timeout=0) == 1


def _send_without_key(bench: LeaseBench) -> None:
    message = Message("foreign", "t", (1,))
    bench.app.broker.send([Outgoing(bench.app.conf.task_default_queue, encode(message), message.id)])


def test_a_message_without_a_key_is_kept_apart_too() -> None:
    """A process that knows the task by name only sends no key; the worker finds it."""
    bench = LeaseBench()
    bench.hold(1000, 1)
    _send_without_key(bench)
    [run] = bench.step()
    assert run.outcome is not None
    assert run.outcome.kind is Kind.HANDED_BACK
    bench.work()
    assert bench.result("foreign").get(timeout=0) == 0


def test_a_key_that_the_worker_cannot_tell_fails_the_task() -> None:
    """With the reason, as for arguments that do not fit."""
    bench = LeaseBench(unique=lambda x: x)
    _send_without_key(bench)
    bench.work()
    assert "its unique= function must return a text, not int" in str(bench.result("foreign").result)
    assert bench.fences == []


def test_a_task_that_is_unique_no_more_frees_its_key() -> None:
    """Messages of the release before still carry the key."""
    bench = LeaseBench(unique_scope="queued")
    result, key, rule = bench.task.delay(1), bench.key(1), bench.task._uniqueness
    bench.task._uniqueness = None
    bench.work()
    assert result.get(timeout=0) == 0
    bench.task._uniqueness = rule
    assert not locks.read(bench.app.backend, key).is_claimed(bench.clock.time())


def test_unique_tasks_are_never_lean() -> None:
    """Their outcome is recorded, though no result is kept."""
    bench = LeaseBench(ignore_result=True, revocable=False)
    result = bench.task.delay(1)
    bench.work()
    assert bench.record(result.id).status == "SUCCESS"
    assert result.get() is None


def test_a_redriven_task_and_a_later_one_take_turns() -> None:
    """A call between failure and redrive is sent; both run, and both have their results."""
    bench = LeaseBench(unique_scope="queued", max_retries=0)

    def fail() -> None:
        raise KeyError("x")

    bench.meanwhile = fail
    first = bench.task.delay(1)
    bench.work()
    second = bench.task.delay(1)
    bench.app.broker.redrive(bench.dead())
    bench.work()
    assert {bench.result(id).get(timeout=0) for id in (first.id, second.id)} == {1, 2}
    assert not bench.lock(1).is_claimed(bench.clock.time())


def test_threads_of_an_environment_share_a_heartbeat() -> None:
    """It is there before the first of them needs it: with one of its own, a lease would be kept for ever."""
    bench = LeaseBench()
    bench.task.delay(1)
    executor = bench.executor()
    before = executor.env.heartbeat
    executor.process(bench.receive())
    executor.close()
    assert executor.env.heartbeat is before


def test_a_heartbeat_that_meets_the_end_of_its_run_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The outcome is recorded and the lease given back just as it is to be extended: nothing is lost."""
    run = Run(Delivery("q", "", None))
    run.lock = Lock("k").with_lease("t", run.token, 100.0, 50.0)
    run.fence = run.lock.fence

    class Ending(ManualClock):
        def time(self) -> float:
            heartbeat.drop(run)
            run.fence = 0
            return super().time()

    heartbeat = Heartbeat(MemoryBackend("memory://", own=True), Ending())
    heartbeat.hold(run)
    heartbeat.beat()
    heartbeat.stop()
    assert "has lost its lease" not in caplog.text
