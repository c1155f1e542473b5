"""The executor is stopped at every step boundary and started again: the end is as if nothing had happened.

The stop comes from beneath: the real broker and backend die in the middle of what they do, and everything after that
fails too, as for a process that was killed. Then the lease runs out and the next worker takes over.
"""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from dispatcher import Dispatcher
from dispatcher.backends.base import TaskRecord
from dispatcher.brokers.base import Broker, Delivery, Outgoing, Settlement
from dispatcher.canvas.plan import derived_id
from dispatcher.clock import ManualClock
from dispatcher.consumer.loop import BrokerTransport
from dispatcher.exceptions import Ignore, OperationalError, Reject
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from dispatcher.execution.run import Run
from dispatcher.message import decode
from tests.fault.fuse import Fuse, Killed, MortalStores

QUEUE = "default"
LEASE = 60.0
SEED = 20_260_726


def _add_plain_tasks(app: Dispatcher, started: Callable[[Any], int]) -> None:
    @app.task(name="add", bind=True)
    def add(self: Any, x: int, y: int) -> int:
        started(self)
        return x + y

    @app.task(name="quiet", bind=True, ignore_result=True)
    def quiet(self: Any, x: int) -> int:
        started(self)
        return x

    @app.task(name="tracked", bind=True, track_started=True)
    def tracked(self: Any) -> str:
        started(self)
        return "done"

    @app.task(name="fail", bind=True)
    def fail(self: Any, *args: Any) -> None:
        started(self)
        raise ValueError("no")

    @app.task(name="expected", bind=True, throws=(KeyError,))
    def expected(self: Any) -> None:
        started(self)
        raise KeyError("fine")


def _add_further_tasks(app: Dispatcher, started: Callable[[Any], int]) -> None:
    @app.task(name="fickle", bind=True)
    def fickle(self: Any, n: int) -> int:
        if started(self) == 1:
            self.retry(args=(n + 1,), countdown=5)
        return n

    @app.task(name="once", bind=True, acks_late=False)
    def once(self: Any) -> str:
        started(self)
        return "done"

    @app.task(name="again", bind=True, max_retries=5)
    def again(self: Any) -> int:
        started(self)
        if self.request.retries < 2:
            self.retry(countdown=10)
        return int(self.request.retries)

    @app.task(name="other_arguments", bind=True)
    def other_arguments(self: Any, n: int) -> int:
        started(self)
        if n < 2:
            self.retry(args=(n + 1,), countdown=5)
        return n

    @app.task(name="reject", bind=True)
    def reject(self: Any) -> None:
        started(self)
        raise Reject("not mine")

    @app.task(name="ignore", bind=True)
    def ignore(self: Any) -> None:
        started(self)
        raise Ignore

    @app.task(name="handle", bind=True)
    def handle(self: Any, task_id: str) -> str:
        started(self)
        return task_id

    @app.task(name="handle_all", bind=True)
    def handle_all(self: Any, request: Any, exc: BaseException, traceback: str) -> list[str]:
        started(self)
        return [request["id"] if isinstance(request, dict) else request.id, type(exc).__name__]


class World:
    """A store that outlives workers, tasks whose runs are counted, and workers that may be killed."""

    def __init__(self, stores: MortalStores) -> None:
        self.stores = stores
        self.url = stores.new_url()
        self.clock = ManualClock()
        self.runs: Counter[str] = Counter()
        self.late: list[str] = []
        self.fuse = Fuse()
        self.shuffle: random.Random | None = None
        self._opened: list[Any] = []
        self.app = self._make_app()
        self.watch = self._open(self.stores.backend, Fuse())

    def _open(self, adapter: type[Any], fuse: Fuse) -> Any:
        opened = adapter(self.url, {}, self.clock)
        opened.fuse = fuse
        self._opened.append(opened)
        return opened

    def close(self) -> None:
        for opened in self._opened:
            opened.close()

    def _make_app(self) -> Dispatcher:
        app = Dispatcher(
            "boundaries", set_as_current=False, clock=self.clock, broker=self.url, backend=self.url,
            task_publish_retry=False, unknown_grace=5,
        )  # fmt: skip

        def started(task: Any) -> int:
            record = self.watch.read([task.request.id]).get(task.request.id)
            self.runs[task.request.id] += 1
            if record is not None and record.final:  # nothing is brought back from the dead here
                self.late.append(task.request.id)
            if self.fuse.kills:
                self.fuse.reach("inside the run")
            return self.runs[task.request.id]

        _add_plain_tasks(app, started)
        _add_further_tasks(app, started)
        app.finalize()
        return app

    def send(self, plan: Callable[[Any], Any]) -> str:
        """Send what a plan asks for, undisturbed."""
        self.app._broker, self.app._backend = self._open(self.stores.broker, Fuse()), self.watch
        result = plan(self.app)
        return str(result.id)

    def duplicate(self, copies: int = 1) -> None:
        """Put every waiting message on the queue again, as an at-least-once transport may."""
        broker = self._open(self.stores.broker, Fuse())
        taken = broker.receive([QUEUE], 100)
        broker.settle([Settlement(delivery, "release") for delivery in taken])
        for delivery in taken:
            message = decode(delivery.body)
            delay = max(0.0, (message.eta or 0.0) - self.clock.time())
            broker.send([Outgoing(QUEUE, str(delivery.body), message.id, delay)] * copies)

    def work(self, fuse: Fuse, limit: int = 60) -> None:
        """Run a worker until nothing is left, or until it is killed."""
        self.fuse = fuse
        self.app._broker = broker = self._open(self.stores.broker, fuse)
        self.app._backend = backend = self._open(self.stores.backend, fuse)
        env = Environment(
            app=self.app, backend=backend, transport=BrokerTransport(broker), clock=self.clock, hostname="w",
            random=random.Random(SEED),
        )  # fmt: skip
        executor = Executor(env)
        try:
            for _ in range(limit):
                if not self._left():
                    return
                deliveries = self._receive(broker)
                try:
                    self._process(executor, deliveries)
                except OperationalError:
                    self.clock.advance(LEASE + 1)
                except Killed:
                    self.clock.advance(LEASE + 1)
                    return
        finally:
            executor.close()
        raise AssertionError(f"not done after {limit} batches: {self._left()} messages left")

    def _process(self, executor: Executor, deliveries: list[Delivery]) -> list[Run]:
        if self.shuffle is not None:
            self.shuffle.shuffle(deliveries)
        return executor.process(deliveries)

    def _receive(self, broker: Broker) -> list[Delivery]:
        return broker.receive([QUEUE], 10, 3600.0)

    def _left(self) -> int:
        counts = self.app.broker.counts(QUEUE)
        return counts.ready + counts.delayed + counts.in_flight

    def end(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return the state that must not depend on what went wrong on the way."""
        records = self.watch.read(ids)
        readable = {
            task_id: (record.status, record.gen, record.retries, record.final, self._value(record))
            for task_id, record in records.items()
        }
        dead = self._open(self.stores.broker, Fuse()).dead_letters(QUEUE)
        return {"records": readable, "dead": {(letter.reason["reason"], letter.body) for letter in dead}}

    def _value(self, record: TaskRecord) -> Any:
        meta = self.app.read_meta(record)
        return repr(meta.error) if meta.error is not None else meta.result


@pytest.fixture
def worlds(stores: MortalStores) -> Iterator[Callable[[], World]]:
    """Make worlds of the stores under test; they are closed after the test."""
    made: list[World] = []

    def make() -> World:
        made.append(World(stores))
        return made[-1]

    yield make
    for world in made:
        world.close()


ID = "11111111-1111-4111-8111-111111111111"
IDS = [ID, *(derived_id(ID, f"{kind}/{n}") for kind in ("link", "link_error") for n in range(3))]

PLANS: dict[str, Callable[[Any], Any]] = {
    "success": lambda app: app.tasks["add"].apply_async((1, 2), task_id=ID),
    "links": lambda app: app.tasks["add"].apply_async(
        (1, 2), task_id=ID, link=[app.tasks["add"].s(10), app.tasks["add"].si(1, 1), app.tasks["add"].s(5)]
    ),
    "links of a task without a result": lambda app: app.tasks["quiet"].apply_async(
        (7,), task_id=ID, link=app.tasks["add"].s(1)
    ),
    "tracked": lambda app: app.tasks["tracked"].apply_async(task_id=ID),
    "failure": lambda app: app.tasks["fail"].apply_async(task_id=ID),
    "error callbacks": lambda app: app.tasks["fail"].apply_async(
        task_id=ID, link_error=[app.tasks["handle"].s(), app.tasks["handle_all"].s()]
    ),
    "expected failure": lambda app: app.tasks["expected"].apply_async(task_id=ID),
    "retries": lambda app: app.tasks["again"].apply_async(task_id=ID, link=app.tasks["add"].s(1)),
    "retries with other arguments": lambda app: app.tasks["other_arguments"].apply_async(
        (0,), task_id=ID, link=app.tasks["add"].s(1)
    ),
    "rejected": lambda app: app.tasks["reject"].apply_async(task_id=ID),
    "ignored": lambda app: app.tasks["ignore"].apply_async(task_id=ID),
    "eta": lambda app: app.tasks["add"].apply_async((1, 2), task_id=ID, countdown=30),
    "expired": lambda app: app.tasks["add"].apply_async((1, 2), task_id=ID, countdown=30, expires=5),
    "bad arguments": lambda app: app.send_task("add", (1,), task_id=ID, link_error=app.tasks["handle"].s()),
    "unknown task": lambda app: app.send_task("nowhere", task_id=ID, link_error=app.tasks["handle"].s()),
}

#: What each plan comes to when nothing goes wrong: the state and value of the task, of what follows it, dead letters.
ENDS: dict[str, tuple[list[tuple[str, Any]], list[str]]] = {
    "success": ([("SUCCESS", 3)], []),
    "links": ([("SUCCESS", 3), ("SUCCESS", 13), ("SUCCESS", 2), ("SUCCESS", 8)], []),
    "links of a task without a result": ([("SUCCESS", 7), ("SUCCESS", 8)], []),
    "tracked": ([("SUCCESS", "done")], []),
    "failure": ([("FAILURE", "ValueError('no')")], ["failed"]),
    "error callbacks": (
        [("FAILURE", "ValueError('no')"), ("SUCCESS", ID), ("SUCCESS", [ID, "ValueError"])],
        ["failed"],
    ),
    "expected failure": ([("FAILURE", "KeyError('fine')")], []),
    "retries": ([("SUCCESS", 2), ("SUCCESS", 3)], []),
    "retries with other arguments": ([("SUCCESS", 2), ("SUCCESS", 3)], []),
    "rejected": ([("REJECTED", "reject requeue=False: not mine")], ["rejected"]),
    "ignored": ([("IGNORED", None)], []),
    "eta": ([("SUCCESS", 3)], []),
    "expired": ([("REVOKED", "TaskRevokedError('expired')")], []),
    "bad arguments": (
        [("FAILURE", "TypeError(\"add() missing 1 required positional argument: 'y'\")"), ("SUCCESS", ID)],
        ["failed"],
    ),
}


def _clean(worlds: Callable[[], World], name: str) -> tuple[World, int]:
    """Return a world in which nothing went wrong, and at how many points it could have."""
    world = worlds()
    world.send(PLANS[name])
    fuse = Fuse()
    world.work(fuse)
    if name in ENDS:
        found = world.end(IDS)
        states = [(found["records"][each][0], found["records"][each][-1]) for each in IDS if each in found["records"]]
        assert (states, sorted(reason for reason, _ in found["dead"])) == ENDS[name]
    return world, fuse.points


@pytest.mark.parametrize("kills", [True, False], ids=["killed", "out-of-reach"])
@pytest.mark.parametrize("name", PLANS)
def test_stop_at_any_boundary_ends_in_the_same_place(worlds: Callable[[], World], name: str, kills: bool) -> None:
    """Wherever a worker is killed or loses a call: the records, continuations and dead letters are the same."""
    clean, points = _clean(worlds, name)
    expected = clean.end(IDS)
    assert expected["records"], "nothing was recorded"
    assert points > 0
    for point in range(points):
        world = worlds()
        world.send(PLANS[name])
        fuse = Fuse(point, kills)
        world.work(fuse)
        if kills:
            world.work(Fuse())
        assert world.end(IDS) == expected, fuse.where
        assert not world.late, f"a run after the outcome: {fuse.where}"
        assert set(world.runs) == set(clean.runs), fuse.where
        # What was in flight at the stop may run once more.
        assert all(world.runs[task_id] <= clean.runs[task_id] + 1 for task_id in world.runs), fuse.where


@pytest.mark.parametrize("name", PLANS)
def test_duplicates_end_in_the_same_place(worlds: Callable[[], World], name: str) -> None:
    """A message that is there three times ends as one does, without a run after the outcome."""
    clean, _ = _clean(worlds, name)
    world = worlds()
    world.send(PLANS[name])
    world.duplicate(2)
    world.work(Fuse())
    assert world.end(IDS)["records"] == clean.end(IDS)["records"]
    assert world.end(IDS)["dead"] == clean.end(IDS)["dead"]
    assert not world.late


@pytest.mark.parametrize("seed", range(SEED, SEED + 12))
def test_any_mixture_ends_in_the_same_place(worlds: Callable[[], World], seed: int) -> None:
    """Two kills at any time, duplicates and disorder together change nothing in the end."""
    rng = random.Random(seed)
    name = rng.choice(sorted(PLANS))
    clean, points = _clean(worlds, name)
    world = worlds()
    world.shuffle = rng
    world.send(PLANS[name])
    for _ in range(2):
        if rng.random() < 0.5:
            world.duplicate()
        world.work(Fuse(rng.randrange(points * 2), kills=rng.random() < 0.8))
    world.work(Fuse())
    found, expected = world.end(IDS), clean.end(IDS)
    assert found == expected, f"seed {seed}, {name}"
    assert not world.late, f"seed {seed}, {name}"


@pytest.mark.parametrize("copies", [0, 1])
@pytest.mark.parametrize("kills", [True, False], ids=["killed", "out-of-reach"])
def test_a_hand_over_that_is_run_again_has_one_outcome(worlds: Callable[[], World], kills: bool, copies: int) -> None:
    """An attempt asks for other arguments, is stopped, and its second run returns: one of the two counts."""

    def plan(app: Any) -> Any:
        return app.tasks["fickle"].apply_async((0,), task_id=ID, link=app.tasks["add"].s(10))

    for point in itertools.count():
        world = worlds()
        world.send(plan)
        world.duplicate(copies)
        fuse = Fuse(point, kills)
        world.work(fuse)
        world.work(Fuse())
        if not fuse.where:
            break
        found = world.end(IDS)
        (status, _, _, _, value), link = found["records"][ID], found["records"][IDS[1]]
        assert (status, link[0], link[-1]) == ("SUCCESS", "SUCCESS", value + 10), fuse.where
        assert not found["dead"], fuse.where
        assert not world.late, f"a run after the outcome: {fuse.where}"
        assert world.runs[ID] <= 3 + copies, fuse.where
    assert point > 8


def test_a_task_that_runs_once_never_runs_twice(worlds: Callable[[], World]) -> None:
    """With acks_late=False, wherever the worker is killed: one run at most, and always an outcome."""
    ends: Counter[str] = Counter()
    for point in itertools.count():
        world = worlds()
        world.send(lambda app: app.tasks["once"].apply_async(task_id=ID))
        fuse = Fuse(point)
        world.work(fuse)
        world.work(Fuse())
        if not fuse.where:
            break
        status, _, _, final, value = world.end(IDS)["records"][ID]
        assert final
        assert value == "done" or value.startswith("WorkerLostError"), (fuse.where, value)
        assert world.runs[ID] <= 1, fuse.where
        ends[status] += 1
    assert ends.keys() == {"SUCCESS", "FAILURE"}
