"""What follows a batch is sent together: stopped or refused anywhere, each run's end is as if it had been alone."""

from __future__ import annotations

import itertools
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from dispatcher import Dispatcher, chain, chord
from dispatcher.brokers.base import Broker, BrokerFeatures, Delivery, Outgoing
from dispatcher.brokers.memory import MemoryBroker
from dispatcher.canvas.plan import derived_id
from dispatcher.execution.executor import Executor
from dispatcher.execution.run import Run, ShutdownNow
from tests.fault.fuse import Fuse, MortalStores
from tests.fault.test_step_boundaries import World
from tests.unit.bench import Bench

#: Longer than any test takes, in seconds.
_NEVER = 3600.0


class NamedFuse(Fuse):
    """A fuse that knows what was reached."""

    def __init__(self, at: int | None = None, kills: bool = True) -> None:
        super().__init__(at, kills)
        self.names: list[str] = []

    def reach(self, name: str) -> None:
        super().reach(name)
        self.names.append(name)


class Strike(Fuse):
    """A cold shutdown strikes once; it kills nobody, so that the worker finishes or hands back what it has begun."""

    def reach(self, name: str) -> None:
        point, self.points = self.points, self.points + 1
        if point == self.at:
            self.where = name
            raise ShutdownNow


class Batches(World):
    """A world whose batches are written as a whole, however slow the machine is."""

    def _process(self, executor: Executor, deliveries: list[Delivery]) -> list[Run]:
        _write_whole_batches(executor)
        try:
            return super()._process(executor, deliveries)
        except ShutdownNow:
            return []

    def _receive(self, broker: Broker) -> list[Delivery]:
        return broker.receive(["default"], 20, _NEVER)


def _write_whole_batches(executor: Executor) -> None:
    executor.flush_after = _NEVER
    executor.env.durations.update(dict.fromkeys(executor.env.app.tasks, 0.0))


IDS = [str(uuid.UUID(int=number)) for number in range(1, 7)]


def _send_everything(app: Dispatcher) -> Any:
    """Send a task of each kind of continuation, all in one batch."""
    add, fail, handle = app.tasks["add"], app.tasks["fail"], app.tasks["handle"]
    chain(add.s(1, 2), add.s(10), add.s(100).set(task_id=IDS[0])).apply_async()
    add.apply_async((1, 2), task_id=IDS[1], link=[add.s(10), add.s(20)])
    fail.apply_async(task_id=IDS[2], link_error=[handle.s(), app.tasks["handle_all"].s()])
    app.tasks["other_arguments"].apply_async((0,), task_id=IDS[3], link=add.s(1))
    chord([add.s(1, 1), add.s(2, 2)], handle.s().set(task_id=IDS[4])).apply_async()
    return add.apply_async((5, 5), task_id=IDS[5])


ENDS = [*IDS, *(derived_id(each, f"{kind}/{n}") for each in IDS for kind in ("link", "link_error") for n in range(2))]


@pytest.fixture
def worlds(stores: MortalStores) -> Iterator[Callable[[], Batches]]:
    """Make worlds with all kinds of continuations under way; they are closed after the test."""
    made: list[Batches] = []

    def make() -> Batches:
        made.append(Batches(stores))
        made[-1].send(_send_everything)
        return made[-1]

    yield make
    for world in made:
        world.close()


def _clean(worlds: Callable[[], Batches]) -> tuple[dict[str, Any], NamedFuse]:
    world, fuse = worlds(), NamedFuse()
    world.work(fuse)
    ended = world.end(ENDS)
    values = {task_id: record[-1] for task_id, record in ended["records"].items() if task_id in IDS}
    assert values == dict(zip(IDS, [113, 3, "ValueError('no')", 2, [2, 4], 10], strict=True))
    assert len(ended["records"]) == len(IDS) + 5
    return ended, fuse


def test_each_step_sends_once(worlds: Callable[[], Batches]) -> None:
    """However many runs of a batch something follows, it is sent by one call; so are retries with other arguments."""
    _, fuse = _clean(worlds)
    steps = [name.removeprefix("after ") for name in fuse.names if name.startswith("after ")]
    batches = steps.count("read")
    # The retry has two rounds in batches of its own, since its countdown moves the clock, and a link at last.
    assert steps.count("send") <= batches + 2
    first = steps[: steps.index("read", 1)]
    assert first[-1] == "settle"  # SQLite settles once before: with the records, what nothing follows
    others = [step for step in first if step != "settle"]
    assert others == ["read", "send", "write", "mark_joined", "send", "close_join"]


@pytest.mark.parametrize("kills", [True, False], ids=["killed", "out-of-reach"])
def test_stop_at_any_call_ends_in_the_same_place(worlds: Callable[[], Batches], kills: bool) -> None:
    """Killed or cut off at every call of a store, with every kind of continuation in one batch."""
    expected, clean = _clean(worlds)
    for point in range(clean.points):
        world, fuse = worlds(), Fuse(point, kills)
        world.work(fuse)
        if kills:
            world.work(Fuse())
        assert world.end(ENDS) == expected, fuse.where
        assert not world.late, f"a run after the outcome: {fuse.where}"


def test_duplicates_and_a_stop_end_in_the_same_place(worlds: Callable[[], Batches]) -> None:
    """Every message twice in a batch, and a kill at every call."""
    expected, clean = _clean(worlds)
    for point in range(0, clean.points, 3):
        world, fuse = worlds(), Fuse(point)
        world.duplicate()
        world.work(fuse)
        world.work(Fuse())
        assert world.end(ENDS) == expected, fuse.where


def test_a_cold_shutdown_at_any_call_ends_in_the_same_place(worlds: Callable[[], Batches]) -> None:
    """What it finds half done is finished at once, or handed back, and is not done twice."""
    expected, _ = _clean(worlds)
    for point in itertools.count(step=2):
        world, fuse = worlds(), Strike(point)
        world.work(fuse)
        if not fuse.where:
            break
        assert world.end(ENDS) == expected, fuse.where
        assert not world.late, f"a run after the outcome: {fuse.where}"
    assert point > 40


class Picky(MemoryBroker):
    """A broker that takes no more than 2,000 bytes, and does not accept tasks by name, once or always."""

    features = BrokerFeatures(max_body=2_000, shared=False)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.refuses: Counter[str] = Counter()
        self.breaks = ""
        self.sent: list[list[str]] = []

    def _send(self, messages: Sequence[Outgoing]) -> Mapping[str, str]:
        if self.breaks and any(self.breaks in message.body for message in messages):
            raise ZeroDivisionError("broken")
        failures = {}
        for message in messages:
            name = next((name for name, left in self.refuses.items() if left and name in message.body), None)
            if name is not None:
                self.refuses[name] -= 1
                failures[message.id] = "refused"
        accepted = [message for message in messages if message.id not in failures]
        self.sent.append([message.id for message in accepted])
        super()._send(accepted)
        return failures


class Workshop:
    """Tasks with continuations on a picky broker."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.app = app = self.bench.app
        self.broker = Picky(app.conf.broker_url, {}, self.bench.clock)
        app._broker = self.broker
        self.first = app.task(name="first")(lambda value: value * 3)
        self.next = {name: app.task(name=f"next.{name}")(lambda value: value) for name in "abc"}

    def send(self, **values: Any) -> dict[str, Any]:
        """Send a chain for each name, which begins with a value and goes on with the task of the name."""
        return {name: chain(self.first.s(value), self.next[name].s()).apply_async() for name, value in values.items()}

    def batch(self, wait: float = 0.0) -> dict[str, Run]:
        """Run what is there as one batch; return the runs by the name of what follows."""
        self.broker.sent.clear()
        executor = self.bench.executor()
        _write_whole_batches(executor)
        try:
            runs = executor.process(self.bench.receive(wait=wait))
        finally:
            executor.close()
        return {str(run.message.chain[0]["task"])[-1]: run for run in runs if run.message and run.message.chain}


def test_only_runs_that_were_refused_go_back() -> None:
    """A message that the broker does not accept hands back its own run; the others are settled and not repeated."""
    shop = Workshop()
    results = shop.send(a=1, b=2, c=3)
    shop.broker.refuses["next.b"] = 1
    runs = shop.batch()
    assert {name: run.settlement.action for name, run in runs.items() if run.settlement} == {
        "a": "ack", "b": "release", "c": "ack"
    }  # fmt: skip
    assert shop.broker.sent == [[results["a"].id, results["c"].id]]
    shop.broker.sent.clear()
    shop.bench.work()
    assert shop.broker.sent == [[results["b"].id]]
    assert [result.get() for result in results.values()] == [3, 6, 9]


def test_a_message_too_large_stops_its_own_run_alone() -> None:
    """It is a dead letter, what waits for it fails, and the others go on by the same call."""
    shop = Workshop()
    results = shop.send(a=1, b="x" * 1_000, c=3)
    runs = shop.batch()
    assert {name: run.settlement.action for name, run in runs.items() if run.settlement} == {
        "a": "ack", "b": "dead", "c": "ack"
    }  # fmt: skip
    assert shop.broker.sent == [[results["a"].id, results["c"].id]]
    assert results["b"].state == "FAILURE"
    [letter] = shop.bench.dead()
    assert (letter.reason["reason"], "MessageTooLarge" in letter.reason["exception"]) == ("uncontinued", True)


class Waiting:
    """A chain and a chord in one batch with others, of which what comes next breaks the broker's call."""

    def __init__(self) -> None:
        self.shop = shop = Workshop()
        self.told: list[str] = []
        app = shop.app
        tell = app.task(name="tell")(lambda failed_id: self.told.append(failed_id))
        total = app.task(name="total")(lambda values: sum(values))
        steps = chain(shop.first.s(1), shop.next["b"].s(), shop.next["c"].s().on_error(tell.s()))
        self.chain = steps.apply_async()
        self.fine = shop.send(a=1, c=3)
        body = chain(total.s().set(headers={"x-mark": "next.b"}), shop.next["a"].s()).on_error(tell.s())
        self.chord = chord([shop.first.s(1), shop.first.s(2)], body).apply_async()
        self.linked = shop.first.apply_async((4,), link=[shop.next["c"].s(), shop.next["b"].s()])
        shop.broker.breaks = "next.b"

    def states(self) -> list[str]:
        """Of what follows, in turn: the rest of the chain, the chord, what is not concerned."""
        broken = [self.chain.parent, self.chain, self.chord.parent, self.chord]
        return [each.state for each in (*broken, *self.fine.values(), self.linked)]

    def work(self) -> None:
        """Run what is there to its end, in batches."""
        while self.shop.bench.left():
            self.shop.batch(_NEVER)


FAILED_ALONE = ["FAILURE"] * 4 + ["SUCCESS"] * 3


def test_a_message_that_breaks_the_call_stops_its_own_run_alone() -> None:
    """Where sending together fails for no reason that a broker gives, each goes alone, and what waits for it fails."""
    waiting = Waiting()
    shop = waiting.shop
    waiting.work()
    assert waiting.states() == FAILED_ALONE
    assert sorted(waiting.told) == sorted([waiting.chain.parent.parent.id, waiting.chord.parent.id])
    assert "broken" in str(waiting.chord.result)
    letters = shop.bench.dead()
    assert {(each.reason["reason"], each.reason["exception"]) for each in letters} == {
        ("uncontinued", "ZeroDivisionError: broken")
    }
    assert len(letters) == 3
    shop.broker.breaks = ""
    shop.broker.redrive(letters)
    waiting.work()
    assert [shop.bench.result(each.id).get() for each in (waiting.chain, waiting.chord)] == [3, 9]


def test_what_waits_is_told_though_the_broker_refuses_that_at_first() -> None:
    """The run goes back until its error callbacks are on the broker, and it is a dead letter then."""
    waiting = Waiting()
    waiting.shop.broker.refuses["tell"] = 3
    waiting.work()
    assert waiting.states() == FAILED_ALONE
    assert len(waiting.told) == 2
    assert {each.reason["reason"] for each in waiting.shop.bench.dead()} == {"uncontinued"}
