"""The consumer loop: it survives what it meets, and stops when told."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from dispatcher import states
from dispatcher.backends.base import Write
from dispatcher.brokers.base import Delivery, Outgoing
from dispatcher.exceptions import ImproperlyConfigured, NotRegistered, OperationalError
from dispatcher.execution.run import ShutdownNow
from tests.unit.consumers import Background, Scene, make_loop, memory_app, until


class Setup(Scene):
    """An app with a task that waits to be let go, its parts, and loops that end with the test."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[Any] = []
        self.started = threading.Event()

        @self.app.task(name="quick")
        def quick(value: Any) -> Any:
            self.ran.append(value)
            return value

        @self.app.task(name="slow")
        def slow(value: Any) -> Any:
            self.started.set()
            assert self.go.wait(30)
            self.ran.append(value)
            return value

        self.quick, self.slow = quick, slow

    def start(self, **options: Any) -> tuple[Any, Background]:
        """Run a loop in a thread."""
        return self.run(make_loop(self.app, **options))


@pytest.fixture
def setup() -> Iterator[Setup]:
    """An app and its loops."""
    made = Setup()
    yield made
    made.close()


def test_runs_are_recorded_and_settled(setup: Setup) -> None:
    """What is sent runs; its result is stored and its message gone."""
    results = [setup.quick.delay(number) for number in range(10)]
    setup.start()
    assert [result.get(timeout=30) for result in results] == list(range(10))
    until(lambda: setup.broker.counts("default") == (0, 0, 0, 0))


def test_large_messages_come_a_few_at_a_time(setup: Setup) -> None:
    """However quick their runs are, a consumer asks for no more than the prefetch or a million characters."""
    loop, sizes = make_loop(setup.app, prefetch=4), {}
    for length in (300_000, 100_000, 1):
        for _ in range(2):
            setup.quick.delay("x" * length)
        loop._process(loop.broker.receive(["default"], 2))
        loop._average = 0.0001  # whatever these took
        sizes[length] = loop._batch_size()
    assert sizes == {300_000: 4, 100_000: 9, 1: 100}


@pytest.mark.parametrize("operation", ["receive", "settle"])
def test_a_broker_away_for_a_while(setup: Setup, operation: str) -> None:
    """Calls that fail are waited out, and the loop goes on."""
    setup.broker.visibility_timeout = 0.3
    setup.broker.failures[operation] = [OperationalError("away"), OperationalError("away")]
    result = setup.quick.delay(1)
    setup.start()
    assert result.get(timeout=30) == 1
    until(lambda: setup.broker.counts("default") == (0, 0, 0, 0))
    assert setup.ran == [1]


@pytest.mark.parametrize("operation", ["read", "write"])
def test_a_backend_away_hands_back(setup: Setup, operation: str) -> None:
    """Where the record cannot be read or written the message goes back, and is never acknowledged without it."""
    setup.backend.failures[operation] = [OperationalError("away")]
    result = setup.quick.delay(1)
    setup.start()
    assert result.get(timeout=30) == 1
    assert setup.broker.settled[0].action == "release"


def test_the_last_batch_is_acknowledged_before_the_loop_ends(setup: Setup) -> None:
    """An acknowledgement waits for the next receive, and where there is none for the end of the loop."""
    results = [setup.quick.delay(number) for number in range(3)]
    _, background = setup.start(max_tasks=3)
    background.result()
    assert [result.get(timeout=30) for result in results] == [0, 1, 2]
    assert setup.broker.counts("default") == (0, 0, 0, 0)


def test_an_acknowledgement_that_fails_is_repeated(setup: Setup) -> None:
    """What is done with is acknowledged once the broker is back, while its lease lasts."""
    setup.broker.failures["settle"] = [OperationalError("away")]
    result = setup.quick.delay(1)
    setup.start()
    assert result.get(timeout=30) == 1
    until(lambda: setup.broker.counts("default") == (0, 0, 0, 0))
    assert [settled.action for settled in setup.broker.settled] == ["ack"]


def test_acknowledgements_that_are_refused_do_not_keep_a_loop_from_receiving(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a queue takes none the loop says which come again, and goes on to what there is besides."""
    setup.broker.failures["settle"] = [OperationalError("refused") for _ in range(1000)]
    first = setup.quick.delay(1)
    setup.start()
    assert first.get(timeout=30) == 1
    assert setup.quick.delay(2).get(timeout=30) == 2
    assert "1 messages that are done with come again: refused" in caplog.text


def test_acknowledgements_outlast_an_outage(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    """While nothing can be received either they are kept."""
    result = setup.quick.delay(1)
    loop = make_loop(setup.app)
    loop._cycle()
    setup.broker.failures["settle"] = [OperationalError("away") for _ in range(3)]
    setup.broker.failures["receive"] = [OperationalError("away") for _ in range(2)]
    for _ in range(3):
        loop._cycle()
    assert setup.broker.settled == []
    loop._cycle()
    assert result.get(timeout=30) == 1
    assert [settled.action for settled in setup.broker.settled] == ["ack"]
    assert "come again" not in caplog.text
    loop.executor.close()


def test_an_error_of_our_own_does_not_end_the_loop(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    """Should processing raise what it never should, the messages go back with a pause, and the loop goes on."""
    setup.backend.failures["read"] = [RuntimeError("a bug")]
    result = setup.quick.delay(1)
    _, background = setup.start()
    assert result.get(timeout=30) == 1
    assert background.running
    release = setup.broker.settled[0]
    assert (release.action, release.delay > 0) == ("release", True)
    assert "a bug" in caplog.text


def test_a_setting_that_cannot_work_ends_the_loop(setup: Setup) -> None:
    """A queue that cannot be read at all is no outage: the loop ends with the error."""
    setup.broker.failures["receive"] = [ImproperlyConfigured("no such queue")]
    _, background = setup.start()
    with pytest.raises(ImproperlyConfigured):
        background.result()


def test_a_warm_stop_finishes_the_run_and_gives_back_the_rest(setup: Setup) -> None:
    """Stopping finishes what runs; what waits behind it is there for others while the run goes on."""
    first = setup.slow.delay("first")
    setup.quick.delay("second")
    loop, background = setup.start()
    assert setup.started.wait(30)
    loop.stop()
    until(lambda: setup.broker.counts("default").ready == 1, "the hand-back")
    setup.go.set()
    background.result()
    assert first.get(timeout=30) == "first"
    assert setup.ran == ["first"]
    assert setup.broker.counts("default") == (1, 0, 0, 0)


def test_a_stop_ends_a_long_pause(setup: Setup) -> None:
    """A loop that waits for its broker to come back stops at once."""
    setup.broker.failures["receive"] = [OperationalError("away")] * 1000
    loop, background = setup.start()
    until(lambda: loop._failures >= 3)
    loop.stop()
    background.result()


def test_a_cold_stop_while_messages_are_looked_at(setup: Setup) -> None:
    """A cold shutdown that strikes before anything has started gives everything back at once."""
    for number in range(3):
        setup.quick.delay(number)

    def strike() -> None:
        raise ShutdownNow

    setup.backend.before_read = strike
    loop = make_loop(setup.app)
    with pytest.raises(ShutdownNow):
        loop.run()
    assert setup.broker.counts("default") == (3, 0, 0, 0)


def test_a_decided_message_is_not_given_back(setup: Setup) -> None:
    """What needs no run is settled as decided, also where another run of its batch takes long."""
    setup.slow.delay("slow")
    setup.broker.send([Outgoing("default", "no message", "id")])
    loop, _ = setup.start(prefetch=2)
    loop.env.note_duration("slow", 0.0)  # a run that is expected to be quick lets decided ones wait for it
    assert setup.started.wait(30)
    # Longer than a run may take before the deliveries behind it are given back.
    threading.Event().wait(1.8)
    setup.go.set()
    until(lambda: setup.broker.counts("default") == (0, 0, 0, 1))
    assert [s.action for s in setup.broker.settled if s.delivery.body == "no message"] == ["dead"]


def test_the_loop_ends_after_so_many_runs(setup: Setup) -> None:
    """``max_tasks`` runs end the loop, and it takes no message that it would not run."""
    for number in range(7):
        setup.quick.delay(number)
    _, background = setup.start(max_tasks=5)
    background.result()
    assert setup.ran == [0, 1, 2, 3, 4]
    assert setup.broker.counts("default") == (2, 0, 0, 0)


def test_a_message_taken_from_us_is_not_run(setup: Setup) -> None:
    """A delivery whose lease lapsed before its turn is left to whoever has it now."""
    result = setup.quick.delay("once")
    taken: list[Delivery] = []

    def be_slow() -> None:
        if not taken:  # as if this process had been stopped for longer than the lease
            setup.broker.visibility_timeout, before = 60.0, setup.broker.visibility_timeout
            threading.Event().wait(before * 1.5)
            taken.extend(setup.broker.receive(["default"], 1))

    setup.broker.visibility_timeout = 0.3
    setup.broker.failures["extend"] = [OperationalError("away")] * 10_000
    setup.backend.before_read = be_slow
    setup.start()
    until(lambda: taken)
    until(lambda: setup.broker.counts("default").in_flight == 1)
    assert result.state == states.PENDING
    assert setup.ran == []


def test_slow_tasks_are_taken_one_at_a_time(setup: Setup) -> None:
    """Once runs are known to be slow, no more is taken than can run before it would be given back anyway."""
    for number in range(2):
        setup.slow.delay(number)
    setup.start(prefetch=2)
    assert setup.started.wait(30)
    until(lambda: setup.broker.counts("default") == (1, 0, 1, 0), "the hand-back")
    taken: list[int] = []
    setup.backend.before_read = lambda: taken.append(setup.broker.counts("default").in_flight)
    setup.go.set()
    until(lambda: setup.broker.counts("default") == (0, 0, 0, 0))
    for number in range(3):
        setup.quick.delay(number)
    until(lambda: len(setup.ran) == 5)
    assert taken[:3] == [1, 1, 1]


def test_a_retry_that_no_worker_knows_any_more_fails(setup: Setup) -> None:
    """A task that was retried, and whose release was rolled back, ends with the reason after the grace."""

    @setup.app.task(name="withdrawn", bind=True)
    def withdrawn(task: Any) -> None:
        raise task.retry(countdown=0.05)

    result = withdrawn.delay()
    loop, background = setup.start()
    until(lambda: result.state == states.RETRY)
    loop.stop()
    background.result()
    older = memory_app(unknown_grace=0.0)
    older._broker, older._backend = setup.broker, setup.backend
    loop = make_loop(older)
    background = Background(loop.run)
    try:
        with pytest.raises(NotRegistered):
            result.get(timeout=30)
    finally:
        loop.stop()
        background.result()


def test_a_cold_stop_keeps_what_was_acknowledged_early(setup: Setup) -> None:
    """A run that was acknowledged before it and has ended is recorded, though a cold shutdown strikes right after."""

    @setup.app.task(name="early", acks_late=False)
    def early() -> str:
        return "done"

    @setup.app.task(name="strike")
    def strike() -> None:
        raise ShutdownNow

    result, _ = early.delay(), strike.delay()
    loop = make_loop(setup.app)
    for name in ("early", "strike"):
        loop.env.note_duration(name, 0.0)  # so that one outcome waits for the next
    with pytest.raises(ShutdownNow):
        loop.run()
    assert result.get(timeout=30) == "done"
    assert setup.broker.counts("default") == (1, 0, 0, 0)


def test_a_cold_stop_does_not_release_what_is_only_to_be_acknowledged(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lean task that has run is done with, though a cold shutdown strikes while its batch is written."""
    lean = setup.app.task(name="lean", ignore_result=True, revocable=False)(lambda: setup.ran.append("lean"))
    lean.delay()
    setup.quick.delay("quick")
    loop, write, errors = make_loop(setup.app), setup.backend.write, [ShutdownNow()]
    for name in ("lean", "quick"):
        loop.env.note_duration(name, 0.0)  # so that one outcome waits for the next

    def strike(writes: Sequence[Write]) -> Any:
        stood = write(writes)
        if errors and any(each.final for each in writes):
            raise errors.pop()
        return stood

    monkeypatch.setattr(setup.backend, "write", strike)
    with pytest.raises(ShutdownNow):
        loop.run()
    assert sorted(setup.ran) == ["lean", "quick"]
    assert [settled.action for settled in setup.broker.settled] == ["ack", "ack"]
    assert setup.broker.counts("default") == (0, 0, 0, 0)


def test_a_fault_does_not_release_what_is_only_to_be_acknowledged(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should the end of a batch raise what it never should, what is done with stays done with."""
    setup.quick.delay(1)
    loop = make_loop(setup.app)
    process = loop.executor.process

    def fail(*args: Any) -> Any:
        process(*args)
        raise RuntimeError("a bug")

    monkeypatch.setattr(loop.executor, "process", fail)
    loop._cycle()
    loop._give_up_owed()
    assert [settled.action for settled in setup.broker.settled] == ["ack"]
    assert setup.broker.counts("default") == (0, 0, 0, 0)
    loop.executor.close()


def test_a_second_stop_while_the_last_is_acknowledged_ends_the_threads(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cold shutdown that strikes in the end of a loop leaves nothing of it behind."""
    setup.quick.delay(1)
    loop = make_loop(setup.app, max_tasks=1)
    closed: list[bool] = []
    monkeypatch.setattr(loop.executor, "close", lambda: closed.append(True))
    setup.broker.failures["settle"] = [ShutdownNow()]
    with pytest.raises(ShutdownNow):
        loop.run()
    threads = [thread for owner in (loop.leases, loop.terminations) if (thread := owner._thread) is not None]
    assert threads
    for thread in threads:  # of which one is told to end, and not waited for
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in threads)
    assert closed == [True]
