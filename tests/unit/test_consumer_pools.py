"""The pools of one process: they share work, survive what their parts meet, and shut down warm and cold."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher import states
from dispatcher.backends import locks
from dispatcher.brokers.base import Delivery
from dispatcher.consumer.pools import AsyncioPool, SoloPool
from dispatcher.consumer.threads import ThreadPool
from dispatcher.consumer.worker import Worker
from dispatcher.exceptions import ImproperlyConfigured, OperationalError
from dispatcher.execution.executor import Executor
from dispatcher.execution.run import ShutdownNow
from dispatcher.signals import task_received
from tests.unit.consumers import Background, Scene, make_loop, until


class Setup(Scene):
    """An app with tasks that wait to be let go, and pools that end with the test."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[Any] = []

        @self.app.task(name="quick")
        def quick(value: Any) -> Any:
            return value

        @self.app.task(name="plain")
        def plain(value: Any) -> Any:
            self.started.append(value)
            assert self.go.wait(30)
            return value

        @self.app.task(name="coroutine", track_started=True)
        async def coroutine(value: Any) -> Any:
            self.started.append(value)
            await asyncio.to_thread(self.go.wait, 30)
            return value

        self.quick, self.plain, self.coroutine = quick, plain, coroutine

    def make(self, kind: Any, concurrency: int) -> Any:
        """Make a pool."""

        def loop(limits: Any, number: int, on_tick: Any = None, terminate: Any = None) -> Any:
            return make_loop(self.app, limits, on_tick=on_tick, terminate=terminate)

        return kind(loop) if kind is SoloPool else kind(loop, concurrency)

    def start(self, kind: Any, concurrency: int) -> tuple[Any, Background]:
        """Run a pool in a thread."""
        return self.run(self.make(kind, concurrency))


@pytest.fixture
def setup() -> Iterator[Setup]:
    """An app and its pools."""
    made = Setup()
    yield made
    made.close()


BOTH = pytest.mark.parametrize("kind", [ThreadPool, AsyncioPool], ids=["threads", "asyncio"])


@BOTH
def test_plain_tasks_run_at_once(setup: Setup, kind: Any) -> None:
    """As many plain tasks run at a time as the concurrency says."""
    results = [setup.plain.delay(number) for number in range(12)]
    setup.start(kind, 12)
    until(lambda: len(setup.started) == 12, "all at once")
    setup.go.set()
    assert [result.get(timeout=30) for result in results] == list(range(12))


def test_coroutines_start_beside_busy_threads(setup: Setup) -> None:
    """Plain tasks that block do not keep coroutine tasks from starting."""
    for number in range(40):
        setup.plain.delay(number)
    setup.start(AsyncioPool, 60)
    until(lambda: len(setup.started) == 40, "the plain tasks")
    result = setup.coroutine.delay("coroutine")
    until(lambda: "coroutine" in setup.started, "the coroutine")
    setup.go.set()
    assert result.get(timeout=30) == "coroutine"


@BOTH
def test_a_warm_stop_finishes_what_runs(setup: Setup, kind: Any) -> None:
    """A warm shutdown waits for what runs; the pool's exit code is 0."""
    results = [setup.coroutine.delay("a"), setup.plain.delay("b")]
    pool, background = setup.start(kind, 2)
    until(lambda: len(setup.started) == 2)
    pool.stop()
    left = setup.quick.delay("left")
    setup.go.set()
    assert background.result() == 0
    assert [result.get(timeout=30) for result in results] == ["a", "b"]
    assert left.state == states.PENDING
    assert setup.broker.counts("default") == (1, 0, 0, 0)


@BOTH
def test_an_outage_at_a_cold_shutdown(setup: Setup, kind: Any) -> None:
    """A broker that is away while a cold shutdown hands back does not make it fail: the leases end by themselves."""
    setup.plain.delay(1)
    setup.plain.delay(2)
    pool = setup.make(kind, 2)
    struck = threading.Event()

    def strike(*_: Any) -> None:
        if not struck.is_set():
            struck.set()
            raise ShutdownNow

    # In a real worker the exception is raised by a signal handler of the main thread.
    done: list[int] = []

    def run() -> None:
        original = pool._watch if kind is ThreadPool else pool._cycle

        def watched() -> None:
            if len(setup.started) == 2:
                setup.broker.failures["settle"] = [OperationalError("away")] * 1000
                strike()
            original()

        setattr(pool, "_watch" if kind is ThreadPool else "_cycle", watched)
        done.append(pool.run())

    Background(run).result()
    assert done == [0]


def test_a_thread_that_cannot_consume_ends_the_pool(setup: Setup) -> None:
    """A thread that meets a setting that cannot work ends the others, and the exit code tells."""
    setup.broker.failures["receive"] = [ImproperlyConfigured("no such queue")]
    _, background = setup.start(ThreadPool, 3)
    assert background.result() == 1


def test_threads_share_what_one_of_them_receives(setup: Setup) -> None:
    """What one thread receives all threads run, before anything goes back."""
    received: list[int] = []
    original = setup.broker.receive

    def receive(queues: Any, limit: int, wait: float = 0.0) -> Any:
        deliveries = original(queues, limit, wait)
        received.append(len(deliveries))
        return deliveries

    setup.broker.receive = receive  # type: ignore[method-assign]
    results = [setup.plain.delay(number) for number in range(8)]
    setup.start(ThreadPool, 8)
    until(lambda: len(setup.started) == 8, "all at once")
    assert max(received) == 8
    assert setup.broker.settled == []
    setup.go.set()
    assert [result.get(timeout=30) for result in results] == list(range(8))


def test_an_outcome_waits_for_no_run_that_may_take_long(setup: Setup) -> None:
    """A thread records what it has done before it starts what may keep it."""
    first = setup.quick.delay(1)
    setup.plain.delay(2)
    setup.start(ThreadPool, 1)
    until(lambda: setup.started, "the long run")
    assert first.get(timeout=30) == 1


def test_outcomes_of_several_threads_are_recorded_together(setup: Setup) -> None:
    """Threads that go on running leave their outcomes to whoever records next, who records all."""
    pool = setup.make(ThreadPool, 3)
    pool._consumer.env.durations["plain"] = 0.0  # expected to be quick, so that nobody records before it
    written: list[int] = []
    original = setup.backend._write

    def write(writes: Any) -> Any:
        written.append(len(writes))
        return original(writes)

    setup.backend._write = write  # type: ignore[method-assign]
    results = [setup.plain.delay(number) for number in range(3)]
    ready = pool._admit(setup.broker.receive(["default"], 3))
    pool._ready.extend(ready)  # as if there were much more to do
    setup.go.set()
    for executor, runs in zip(pool._executors, ready, strict=False):
        thread = threading.Thread(target=pool._work, args=(executor, runs))
        pool._since = float("inf")  # however slow this machine is
        thread.start()
        thread.join(30)
    pool._record()
    assert written == [3]
    assert [result.get(timeout=30) for result in results] == [0, 1, 2]


def test_members_of_a_fifo_group_run_one_after_another(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that are free leave the members of a group of a FIFO queue to the one that has the first."""
    original = setup.broker.receive

    def receive(queues: Any, limit: int, wait: float = 0.0) -> Any:
        deliveries = original(queues, limit, wait)
        for delivery in deliveries:
            delivery.group_id = "group"
        return deliveries

    setup.broker.receive = receive  # type: ignore[method-assign]
    monkeypatch.setattr(Delivery, "order", property(lambda self: self.group_id))
    results = [setup.plain.delay(number) for number in range(3)]
    pool, _ = setup.start(ThreadPool, 4)
    until(lambda: setup.started and pool._idle == 3 and pool._receiving == 1, "the others rest, but for one")
    assert setup.started == [0]
    setup.go.set()
    assert [result.get(timeout=30) for result in results] == [0, 1, 2]
    assert setup.started == [0, 1, 2]


def test_outcomes_are_recorded_before_a_fifo_group_begins(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its members run one after another, which can take long; what was decided before does not wait for them."""
    seen: list[str] = []
    before = setup.quick.delay(1)

    @setup.app.task(name="member")
    def member() -> None:
        seen.append(before.state)

    member.delay()
    monkeypatch.setattr(Delivery, "order", property(lambda self: self.group_id))
    pool = setup.make(ThreadPool, 1)
    consumer, executor = pool._consumer, pool._executors[0]
    deliveries = consumer.receive(2, 0.0)
    deliveries[1].group_id = "group"
    [decided], members = pool._admit(deliveries)
    pool._since = float("inf")  # however slow this machine is
    pool._ready += [[decided]] * 2  # as if there were much more to do
    pool._work(executor, [decided])
    pool._work(executor, members)
    assert seen == [states.SUCCESS]


def test_threads_lose_nothing_however_they_are_switched(setup: Setup) -> None:
    """With a switch after every few instructions each task runs once and is told of, and nothing stays in hand."""
    ran: list[int] = []

    @setup.app.task(name="counted", ignore_result=True, revocable=False)
    def counted(value: int) -> None:
        ran.append(value)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        results = [(counted if number % 3 else setup.quick).delay(number) for number in range(150)]
        pool, background = setup.start(ThreadPool, 8)
        results += [(counted if number % 3 else setup.quick).delay(number) for number in range(150, 300)]
        assert [result.get(timeout=60) for result in results[::3]] == list(range(0, 300, 3))
        until(lambda: setup.broker.counts("default") == (0, 0, 0, 0), "all acknowledged")
        pool.stop()
        assert background.result() == 0
    finally:
        sys.setswitchinterval(interval)
    assert sorted(ran) == [number for number in range(300) if number % 3]
    assert (pool._busy, pool._receiving, pool._asked, pool._idle, len(pool._ready), pool._decided) == (
        0,
        0,
        0,
        0,
        0,
        [],
    )


def test_threads_that_meet_one_outage_pause_once(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    """Of four threads that ask at once and are refused one sits it out; the others can run what is there."""
    pool = setup.make(ThreadPool, 4)
    pool._consumer._failures = 10  # so that the pause is long
    setup.broker.failures["receive"] = [OperationalError("away")] * 4
    threads = [threading.Thread(target=pool._receive, args=(1, 0.0), daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: sum(not thread.is_alive() for thread in threads) >= 3, "three threads that go on")
    pool.stop()
    for thread in threads:
        thread.join(30)
    assert caplog.text.count("out of reach") == 1
    assert not pool._pausing


@pytest.mark.parametrize("where", ["run", "receiver"])
def test_no_exception_of_a_user_takes_a_thread_or_a_message_along(
    setup: Setup, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What raises where no task's outcome can hold it goes back, and every thread lives on."""
    error = SystemExit if where == "run" else KeyboardInterrupt

    @setup.app.task(name="child")
    async def child() -> None:
        async def leave() -> None:
            raise error

        setup.started.append("child")
        if where == "run":
            left = asyncio.create_task(leave())
            await asyncio.sleep(30)
            del left

    def receiver(sender: Any = None, **_: Any) -> None:
        if where == "receiver" and sender.name == "child":
            setup.started.append("received")
            raise error

    task_received.connect(receiver)
    try:
        child.delay()
        pool, background = setup.start(ThreadPool, 1)
        until(lambda: [each for each in setup.broker.settled if each.action == "release"], "a message that goes back")
        assert setup.broker.counts("default").in_flight == 0
        assert setup.quick.delay(1).get(timeout=30) == 1
        assert all(thread.is_alive() for thread in pool._threads)
        pool.stop()
        assert background.result() == 0
    finally:
        task_received.disconnect(receiver)
    assert error.__name__ in caplog.text


def test_outcomes_do_not_wait_for_a_run_that_takes_longer_than_usual(setup: Setup) -> None:
    """A thread beside one that is kept by its run records what was decided before, though more is ready."""
    result = setup.quick.delay(1)
    pool = setup.make(ThreadPool, 1)
    consumer, spare = pool._consumer, pool._executors[1]
    deliveries = consumer.receive(1, 0.0)
    consumer.hold(deliveries)
    [run] = consumer.executor.prepare(deliveries)
    assert pool._keep(run)
    spare.execute(run)
    pool._decide([run])
    pool._busy = 1  # as the other thread has started one of those that are ready
    pool._ready.append([run])
    Background(lambda: [pool._cycle(spare) for _ in range(2)]).result()
    assert result.get(timeout=30) == 1


def test_the_finisher_survives_errors(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever recording raises, the asyncio pool hands the message back and goes on."""
    setup.backend.failures["write"] = [RuntimeError("a bug")]
    result = setup.quick.delay(1)
    setup.start(AsyncioPool, 2)
    assert result.get(timeout=30) == 1
    assert "a bug" in caplog.text


def test_admission_survives_errors(setup: Setup) -> None:
    """Whatever admission raises, the asyncio pool hands the messages back, keeps its slots and goes on."""
    setup.backend.failures["read"] = [RuntimeError("a bug"), OperationalError("away"), RuntimeError("a bug")]
    results = [setup.quick.delay(number) for number in range(3)]
    setup.start(AsyncioPool, 1)
    assert [result.get(timeout=60) for result in results] == [0, 1, 2]


def test_a_message_given_back_during_admission_is_not_started(setup: Setup) -> None:
    """A backend that answers late lets others have the message; the asyncio pool does not start it as well."""
    late = threading.Event()
    elsewhere: list[Any] = []

    def answer_late() -> None:
        if not late.is_set():
            late.set()
            # Longer than a run may take before the deliveries behind it are given back.
            until(lambda: setup.broker.counts("default").ready)
            elsewhere.extend(setup.broker.receive(["default"], 1))

    setup.backend.before_read = answer_late
    setup.plain.delay("once")
    pool, background = setup.start(AsyncioPool, 2)
    until(lambda: elsewhere)
    pool.stop()
    setup.go.set()
    background.result()
    assert setup.started == []
    assert setup.broker.counts("default") == (0, 0, 1, 0)


def test_a_second_stop_while_the_asyncio_pool_ends_leaves_nothing_behind(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cold shutdown that strikes while the last runs are recorded ends the pool's threads and its event loop."""
    setup.quick.delay(1)
    pool = setup.make(AsyncioPool, 1)
    consumer = pool._consumer
    joined = threading.Thread.join

    def strike(thread: threading.Thread, timeout: float | None = None) -> None:
        joined(thread, timeout)
        if thread.name == "dispatcher-finisher":
            raise ShutdownNow

    closed: list[bool] = []
    monkeypatch.setattr(consumer.executor, "close", lambda: closed.append(True))
    monkeypatch.setattr(threading.Thread, "join", strike)
    consumer.on_runs = lambda runs: pool.stop()
    with pytest.raises(ShutdownNow):
        pool.run()
    monkeypatch.undo()
    for owner in (consumer.leases, consumer.terminations):
        thread = owner._thread
        until(lambda thread=thread: thread is None or not thread.is_alive())  # terminations end in their own time
    assert (pool._loop.is_closed(), closed) == (True, [True])


def test_a_coroutine_that_was_revoked_before_its_turn_does_not_begin(setup: Setup) -> None:
    """It waits for an event loop that another one holds up; it ends as revoked."""
    blocking, go_on = threading.Event(), threading.Event()

    @setup.app.task(name="blocking")
    async def block() -> None:
        blocking.set()
        go_on.wait(30)

    pool, _ = setup.start(AsyncioPool, 2)
    block.delay()
    assert blocking.wait(30)
    result = setup.coroutine.delay("late")
    leases = pool._consumer.leases
    [run] = until(lambda: [run for run in leases.running() if run.id == result.id and id(run) in pool._coroutines])
    assert pool._terminate(run, signal.SIGTERM)
    go_on.set()
    assert until(lambda: result.ready() and result.state) == states.REVOKED
    assert setup.started == []


def test_a_lease_that_is_taken_while_its_run_is_cancelled_is_given_back(setup: Setup) -> None:
    """A store that answers late gives a unique task's lease to a run that was revoked meanwhile."""
    taking, go_on = threading.Event(), threading.Event()

    @setup.app.task(name="unique", unique=True, unique_scope="running")
    async def unique() -> None:
        raise AssertionError("it was revoked")

    write = setup.backend._write

    def write_late(writes: Any) -> Any:
        if not taking.is_set() and writes[0].status == "LOCK":
            taking.set()
            assert go_on.wait(30)
        return write(writes)

    setup.backend._write = write_late  # type: ignore[method-assign]
    pool, _ = setup.start(AsyncioPool, 1)
    result = unique.delay()
    assert taking.wait(30)
    [run] = pool._consumer.leases.running()
    assert pool._terminate(run, signal.SIGTERM)
    until(lambda: pool._tasks[id(run)].cancelling() or run.outcome)
    go_on.set()
    assert until(lambda: result.ready() and result.state) == states.REVOKED
    assert unique._uniqueness is not None
    until(lambda: not pool._consumer.leases.running() and not pool._consumer.env.heartbeat._held)
    assert locks.read(setup.backend, unique._uniqueness.key_of((), {})).runner == ""


def test_a_cold_shutdown_that_is_asked_for_again_breaks_nothing_off(setup: Setup) -> None:
    """A supervisor that signals a process and its group, or somebody who is impatient, leaves no message leased."""

    @setup.app.task(name="stopped")
    def stopped() -> None:
        pool.terminate()  # as the signal's handler does, in this thread

    pool = setup.make(SoloPool, 1)
    settle = setup.broker.settle

    def interrupted(settlements: Any) -> None:
        pool.terminate()
        settle(settlements)

    setup.broker.settle = interrupted  # type: ignore[method-assign]
    stopped.delay()
    assert pool.run() == 0
    assert setup.broker.counts("default") == (1, 0, 0, 0)


def test_a_worker_that_is_stopped_before_its_start_ends_at_once(setup: Setup) -> None:
    """Whoever runs one in a thread may stop it before that thread has come so far."""
    worker = Worker(setup.app, pool="threads", concurrency=2, handle_signals=False)
    worker.stop()
    assert Background(worker.start).result() == 0


def test_a_signal_that_comes_when_a_pool_has_ended_disturbs_nothing(setup: Setup) -> None:
    """The worker closes its connections and ends; there is nothing more to hand back."""
    worker = Worker(setup.app, pool="threads", concurrency=1, handle_signals=False)
    close = setup.app.close

    def interrupted() -> None:
        worker._on_cold_signal(signal.SIGQUIT, None)
        close()

    setup.app.close = interrupted  # type: ignore[method-assign]
    worker.stop()
    assert Background(worker.start).result() == 0


def test_a_signal_that_comes_as_a_pool_ends_is_no_error(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool was about to end by itself; so does the worker."""
    worker = Worker(setup.app, pool="asyncio", concurrency=1, handle_signals=False)
    closing = Executor.close

    def interrupted(executor: Executor) -> None:
        monkeypatch.undo()
        closing(executor)
        worker._on_cold_signal(signal.SIGQUIT, None)

    monkeypatch.setattr(Executor, "close", interrupted)
    worker.stop()
    assert Background(worker.start).result() == 0
