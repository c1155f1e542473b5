"""Deliveries in any order, doubled, interrupted and taken at once by several workers end as they would one by one.

Several workers share a broker and a backend in memory, with a clock that only the test moves. Each takes its
deliveries through the executor phase by phase, so that any phase of one comes between any two of another; a worker may
die after any phase, and before any call to the stores within one.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher import Dispatcher, states
from dispatcher.backends.base import TaskRecord, Write
from dispatcher.backends.memory import MemoryBackend
from dispatcher.brokers.base import Delivery, Outgoing, Settlement
from dispatcher.brokers.memory import MemoryBroker
from dispatcher.clock import ManualClock
from dispatcher.consumer.loop import BrokerTransport
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from dispatcher.execution.run import Run
from dispatcher.execution.settling import derived_id
from dispatcher.message import decode

LEASE = 60.0
_numbers = itertools.count()


class Killed(BaseException):
    """The worker that made a call is dead."""


class Fuse:
    """Lets so many calls to the stores through, then kills; `None` lets all through."""

    def __init__(self) -> None:
        self.calls: int | None = None

    def burn(self) -> None:
        """Count a call."""
        if self.calls is not None:
            if self.calls <= 0:
                raise Killed
            self.calls -= 1


class MortalBroker(MemoryBroker):
    """A broker whose callers may die before a call."""

    fuse = Fuse()

    def _send(self, messages: Sequence[Outgoing]) -> Mapping[str, str]:
        self.fuse.burn()
        return super()._send(messages)

    def settle(self, settlements: Sequence[Settlement]) -> None:
        self.fuse.burn()
        super().settle(settlements)


class MortalBackend(MemoryBackend):
    """A backend whose callers may die before a call."""

    fuse = Fuse()

    def _write(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        self.fuse.burn()
        return super()._write(writes)


#: What a task does at each attempt, and the final status, result and number of retries that follow.
PLANS: Mapping[str, tuple[list[str], str, Any, int]] = {
    "once": (["return"], states.SUCCESS, "once", 0),
    "thrice": (["retry", "retry", "return"], states.SUCCESS, "thrice", 2),
    "fails": (["raise"], states.FAILURE, None, 0),
    "gives up": (["retry", "raise"], states.FAILURE, None, 1),
    "moves": (["move", "retry", "move", "return"], states.SUCCESS, "moves++", 3),
}


class World:
    """The stores, the tasks, and the runs that workers have in hand."""

    def __init__(self, plans: Sequence[str]) -> None:
        url = f"memory://orders-{next(_numbers)}"
        self.clock = ManualClock()
        self.fuse = Fuse()
        self.app = Dispatcher("orders", broker=url, backend=url, set_as_current=False, clock=self.clock,
                              max_worker_losses=1000, task_publish_retry=False)  # fmt: skip
        self.broker = self.app._broker = MortalBroker(url, {"visibility_timeout": LEASE}, self.clock)
        self.backend = self.app._backend = MortalBackend(url, {}, self.clock)
        self.broker.fuse = self.backend.fuse = self.fuse
        self.attempts: Counter[tuple[str, int]] = Counter()
        #: of which the transport gave out one receipt twice, so that one copy cannot tell that another died
        self.doubled: set[str] = set()
        self.due: dict[tuple[str, int], float] = {}
        self.seen: dict[str, TaskRecord] = {}
        self.known: list[Delivery] = []
        #: deliveries in hand, with what was done of each: nothing, admitted, run
        self.hands: list[tuple[Executor, Delivery, Run | None, bool]] = []
        self._add_tasks()
        self.ids: dict[str, str] = {}
        for number, plan in enumerate(plans):
            link = self.app.tasks["after"].s()
            result = self.app.tasks["planned"].apply_async(
                (plan, plan), link=link, link_error=link, task_id=f"task-{number}"
            )
            self.ids[result.id] = plan

    def _add_tasks(self) -> None:
        @self.app.task(name="planned", bind=True, max_retries=None)
        def planned(task: Any, plan: str, value: str) -> str:
            request = task.request
            self.attempts[request.id, request.retries] += 1
            now = self.clock.time()
            assert now >= self.due.get((request.id, request.retries), 0.0), "a retry before its time"
            step = PLANS[plan][0][request.retries]
            following = request.id, request.retries + 1
            if step == "retry":
                self.due.setdefault(following, now + 10)
                raise task.retry(countdown=10)
            if step == "move":
                self.due.setdefault(following, now + 5)
                raise task.retry(args=(plan, f"{value}+"), countdown=5)
            if step == "raise":
                raise ValueError(plan)
            return value

        @self.app.task(name="after", bind=True)
        def after(task: Any, given: Any) -> Any:
            self.attempts[task.request.id, task.request.retries] += 1
            return given

    def executor(self) -> Executor:
        """Make a worker."""
        transport = BrokerTransport(self.broker)
        return Executor(Environment(app=self.app, backend=self.backend, transport=transport, clock=self.clock))

    # -- what may happen

    def receive(self, choice: int) -> None:
        """A worker takes some messages."""
        executor = self.executor()
        if not self.hands and self.broker.counts("default").ready == 0:
            self.clock.advance(LEASE + 1.0)  # else nothing would happen for a long while
        for delivery in self.broker.receive(["default"], 1 + choice % 3):
            self.known.append(delivery)
            self.hands.append((executor, delivery, None, False))

    def duplicate(self, choice: int) -> None:
        """The transport hands out an earlier delivery once more, sometimes long after; either copy settles both."""
        if self.known:
            known = self.known[choice % len(self.known)]
            again = dataclasses.replace(known, receive_count=known.receive_count + choice % 2)
            self.doubled.add(decode(known.body).id)
            self.hands.append((self.executor(), again, None, False))

    def advance(self, choice: int) -> None:
        """Time passes; some leases and delays end."""
        self.clock.advance([1.0, 5.0, 10.0, LEASE + 1.0][choice % 4])

    def go_on(self, choice: int) -> None:
        """A delivery in hand takes its next phase."""
        if not self.hands:
            return
        index = choice % len(self.hands)
        executor, delivery, run, ran = self.hands.pop(index)
        if run is None:
            before = self.backend.read([*self.ids, *self._after_ids()])
            [run] = executor.prepare([delivery])
            record = before.get(run.id)
            if record is not None and run.message is not None and run.outcome is None:
                newer = record.gen > run.message.gen
                assert not newer, "an old generation may run"
                assert not (record.final and record.gen == run.message.gen), "what is decided may run"
            self.hands.insert(index, (executor, delivery, run, run.outcome is not None))
        elif not ran:
            executor.execute(run)
            self.hands.insert(index, (executor, delivery, run, True))
        else:
            executor.finish([run])

    def die(self, choice: int) -> None:
        """A worker goes on with a delivery and dies before one of the calls that needs."""
        if not self.hands:
            return
        held, index = len(self.hands), choice % len(self.hands)
        self.fuse.calls = choice // 7 % 4
        try:
            self.go_on(choice)
        except Killed:
            pass
        else:
            if len(self.hands) == held:
                del self.hands[index]
        finally:
            self.fuse.calls = None

    def look(self) -> None:
        """Nothing final ever changes within its generation, and no attempt comes again once it was counted."""
        for task_id, record in self.backend.read([*self.ids, *self._after_ids()]).items():
            seen = self.seen.get(task_id)
            if seen is not None:
                assert (seen.gen, seen.retries) <= (record.gen, record.retries)
            if seen is not None and seen.final:
                assert (seen.status, seen.gen, seen.data) == (record.status, record.gen, record.data)
            self.seen[task_id] = record

    def _after_ids(self) -> list[str]:
        return [derived_id(task_id, f"{kind}/0") for task_id in self.ids for kind in ("link", "link_error")]

    # -- the end

    def drain(self) -> None:
        """Workers that do not die take what is left, one by one, after everything in hand was forgotten."""
        self.hands.clear()
        executor = self.executor()
        for _ in range(1000):
            if self.broker.counts("default")[:3] == (0, 0, 0):
                return
            executor.process(self.broker.receive(["default"], 1))
            self.clock.advance(7.0)
        raise AssertionError("the queue never became empty")

    def check(self) -> None:
        """Everything is as if each task had run alone."""
        records = self.backend.read([*self.ids, *self._after_ids()])
        for task_id, plan in self.ids.items():
            steps, status, value, retries = PLANS[plan]
            record = records[task_id]
            assert (record.status, record.final, record.retries) == (status, True, retries), plan
            meta = self.app.read_meta(record)
            assert meta.result == value
            assert {attempt for known, attempt in self.attempts if known == task_id} == set(range(len(steps)))
            link, errback = (derived_id(task_id, f"{kind}/0") for kind in ("link", "link_error"))
            called, other = (link, errback) if status == states.SUCCESS else (errback, link)
            assert records[called].status == states.SUCCESS
            assert self.app.read_meta(records[called]).result == (value if called == link else task_id)
            assert other not in records
        buried = {letter.reason.get("task_id") for letter in self.broker.dead_letters("default")}
        failed = {task_id for task_id, plan in self.ids.items() if PLANS[plan][1] == states.FAILURE}
        assert failed - self.doubled <= buried <= failed
        # Every run belongs to a task that was sent, or to its one continuation.
        assert {known for known, _ in self.attempts} <= {*self.ids, *self._after_ids()}


EVENTS: Mapping[Callable[[World, int], None], int] = {
    World.receive: 2, World.go_on: 6, World.duplicate: 1, World.die: 2, World.advance: 1,
}  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(sorted(PLANS)), min_size=1, max_size=3), st.integers(0, 2**32), st.integers(0, 150))
def test_any_order_ends_like_the_sequence(plans: list[str], seed: int, length: int) -> None:
    """States, results, retries, callbacks and dead letters do not depend on what happened on the way."""
    world, chance = World(plans), random.Random(seed)
    for event in chance.choices(list(EVENTS), list(EVENTS.values()), k=length):
        event(world, chance.randrange(1000))
        world.look()
    world.drain()
    world.look()
    world.check()
