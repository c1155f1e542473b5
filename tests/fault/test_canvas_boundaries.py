"""Workers that run a canvas are stopped at every call of a store: what comes out is what would have anyway."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dispatcher import Dispatcher, chain, chord, group
from dispatcher.brokers.base import BrokerFeatures
from dispatcher.canvas.plan import leaf_id
from dispatcher.clock import ManualClock
from dispatcher.consumer.loop import BrokerTransport
from dispatcher.exceptions import OperationalError
from dispatcher.execution import launching
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from tests.fault.fuse import Fuse, Killed, MortalStores
from tests.unit.bench import Globals


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    """Keep apps of one test from the next."""
    with Globals():
        yield


class World:
    """A store, an app, and workers that come one after the other."""

    def __init__(self, stores: MortalStores) -> None:
        self.stores = stores
        self.url = stores.new_url()
        self.clock = ManualClock()
        self.ended: list[str] = []
        self.waits = False
        self.app = Dispatcher("world", broker=self.url, backend=self.url, clock=self.clock, task_publish_retry=False,
                              max_worker_losses=1000, result_expires=None)  # fmt: skip
        self.app.task(name="add")(lambda *numbers: sum(numbers))
        self.app.task(name="total")(lambda numbers: sum(numbers))
        self.app.task(name="fail")(self._fail)
        self.app.task(name="become", bind=True)(self._become)
        self.app.task(name="adding", bind=True)(self._adding)
        self.app.task(name="late", bind=True)(lambda task: self._late(task))
        self.app.task(name="note")(lambda request, error, traceback: None)
        self.app.finalize()

    @staticmethod
    def _fail(*args: Any) -> None:
        raise ValueError("no")

    @staticmethod
    def _become(task: Any, number: int) -> None:
        raise task.replace(task.app.signature("add", (number, 1)) | task.app.signature("add", (10,)))

    @staticmethod
    def _adding(task: Any, *names: str) -> int:
        for name in names:
            task.add_to_chord(task.app.signature(name, (10,)))
        return 1

    def _late(self, task: Any) -> int:
        if task.request.retries == 0:
            self.waits = True
            raise task.retry(countdown=10 * 86_400)  # longer than records live
        return 1

    def work(self, fuse: Fuse) -> None:
        """Run until nothing is left, by workers of which the first has the fuse; a store out of reach comes back."""
        for _ in range(200):
            broker, backend = self._stores(fuse)
            try:
                while True:
                    counts = broker.counts("default")
                    if not counts.ready + counts.delayed + counts.in_flight:
                        return
                    self._step(broker, backend)
            except (Killed, OperationalError):  # a worker's loop goes on after the second
                fuse = Fuse()
            finally:
                broker.close()
                backend.close()
        raise AssertionError(f"still not done: {fuse.where}")

    def _stores(self, fuse: Fuse) -> tuple[Any, Any]:
        broker = self.stores.broker(self.url, {}, self.clock)
        backend = self.stores.backend(self.url, {}, self.clock)
        broker.fuse = backend.fuse = fuse
        return broker, backend

    def _step(self, broker: Any, backend: Any) -> None:
        self.app._broker, self.app._backend = broker, backend
        env = Environment(
            app=self.app, backend=backend, transport=BrokerTransport(broker), clock=self.clock, hostname="w"
        )
        executor = Executor(env)
        try:
            if self.waits and not broker.counts("default").ready:
                self.clock.advance(86_400)
            executor.process(broker.receive(["default"], 10, 0.0 if self.waits else 400.0))
        finally:
            executor.close()

    def outcome(self, canvas: Callable[[Dispatcher], Any], fuse: Fuse) -> list[Any]:
        """Send a canvas, run it, and return the ends of all its tasks, by their place."""
        self.app._broker, self.app._backend = self._stores(Fuse())
        result = canvas(self.app).apply_async(task_id="canvas")
        ids = _ids(result)
        self.work(fuse)
        self.app._broker, self.app._backend = self._stores(Fuse())
        results = [self.app.AsyncResult(task_id) for task_id in ids]
        ends = [(each.state, repr(each.get(timeout=0, propagate=False))) for each in results]
        dead = sorted(letter.reason["task"] for letter in self.app.broker.dead_letters("default"))
        return [*ends, dead]


def _ids(result: Any) -> list[str]:
    """Return the ids of all tasks of a canvas, the last first."""
    if result is None:
        return []
    members = [task_id for each in getattr(result, "results", ()) for task_id in _ids(each)]
    own = [] if hasattr(result, "results") else [result.id]
    return [*own, *members, *_ids(result.parent)]


def _sig(app: Dispatcher, name: str, *args: Any) -> Any:
    return app.signature(name, args)


CANVASES: dict[str, Callable[[Dispatcher], Any]] = {
    "chain": lambda app: chain(_sig(app, "add", 1), _sig(app, "add", 2), _sig(app, "add", 3)),
    "chord in a chain": lambda app: (
        _sig(app, "add", 1) | group(_sig(app, "add", 2), _sig(app, "add", 3) | _sig(app, "add", 4))
        | _sig(app, "total") | _sig(app, "add", 5)
    ),
    "chord in a chord": lambda app: chord(
        [chord([_sig(app, "add", 1), _sig(app, "add", 2)], _sig(app, "total")), _sig(app, "add", 3)], _sig(app, "total")
    ),
    "failed member": lambda app: chord(
        [_sig(app, "add", 1), _sig(app, "fail")], _sig(app, "total").on_error(_sig(app, "note"))
    ) | _sig(app, "add", 1),
    "failed step": lambda app: chain(_sig(app, "fail"), _sig(app, "add", 1), _sig(app, "add", 1)),
    "replaced member": lambda app: chord([_sig(app, "become", 1), _sig(app, "add", 2)], _sig(app, "total")),
    "member that adds": lambda app: chord(
        [_sig(app, "adding", "add"), _sig(app, "add", 2)], _sig(app, "total")
    ),
    "member that is late": lambda app: chord(
        [chord([_sig(app, "late"), _sig(app, "add", 1)], _sig(app, "total")), _sig(app, "adding", "add")],
        _sig(app, "total"),
    ),
    "failed addition": lambda app: chord(
        [_sig(app, "adding", "fail")], _sig(app, "total").on_error(_sig(app, "note"))
    ),
}  # fmt: skip


@pytest.mark.parametrize("kills", [True, False], ids=["killed", "out of reach"])
@pytest.mark.parametrize("name", CANVASES)
def test_a_canvas_ends_the_same_wherever_it_is_stopped(stores: MortalStores, name: str, kills: bool) -> None:
    """At every call of a store, before it and after: the same states, values and dead letters in the end."""
    whole = Fuse()
    expected = World(stores).outcome(CANVASES[name], whole)
    assert whole.points > 5
    for point in range(whole.points):
        fuse = Fuse(point, kills)
        assert World(stores).outcome(CANVASES[name], fuse) == expected, f"{name}: stopped {fuse.where}"


@pytest.mark.parametrize("max_body", [None, 9 * 1024], ids=["in the message", "in parts"])
def test_a_producer_that_dies_has_sent_all_or_nothing(
    stores: MortalStores, max_body: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every call of a store, while it sends a chord that the broker does not take at once."""
    monkeypatch.setattr(launching, "PART", 500)
    counter, ends = Fuse(), set()
    _produce(stores, max_body, counter)
    for point in range(counter.points):
        fuse = Fuse(point, True)
        world = _produce(stores, max_body, fuse)
        world.work(Fuse())
        world.app._broker, world.app._backend = world._stores(Fuse())
        members = world.app.backend.read([leaf_id("header", number) for number in range(60)])
        body = world.app.AsyncResult("canvas")
        end = (len(members), body.state, body.get(timeout=0) if body.ready() else None)
        assert end in {(0, "PENDING", None), (60, "SUCCESS", sum(range(60)))}, fuse.where
        ends.add(end)
    assert len(ends) == 2
    assert (counter.points > 6) == (max_body is not None)


def _produce(stores: MortalStores, max_body: int | None, fuse: Fuse) -> World:
    world = World(stores)
    world.app._broker, world.app._backend = world._stores(fuse)
    world.app.broker.features = BrokerFeatures(at_once=10, max_body=max_body)
    members = [_sig(world.app, "add", n) for n in range(60)]
    try:
        chord(group(members, task_id="header"), _sig(world.app, "total")).apply_async(task_id="canvas")
    except Killed:
        pass
    return world
