"""One run: the stores of a pair, producers and workers on it, deaths and faults, and the verdict."""

from __future__ import annotations

import base64
import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dispatcher import Dispatcher, chain, group
from dispatcher.backends.base import TaskRecord
from dispatcher.brokers.base import Outgoing
from dispatcher.clock import SYSTEM, Clock, ManualClock
from dispatcher.exceptions import OperationalError
from tests.fault.harness.injector import Gate, Injector, Killed
from tests.fault.harness.ledger import Ledger
from tests.fault.harness.plan import Call, Link, Plan
from tests.fault.harness.stores import LEASE, Stores, make_broker
from tests.fault.harness.tasks import add_tasks
from tests.fault.harness.verdict import Verdict
from tests.fault.harness.workers import Consumer, LambdaFunction, LocalWorker, Process

WORKERS = 3
#: How many workers may overtake one another at a time.
_DEPTH = 2
#: How much likelier faults are in one wave than in another.
_SPELLS = (0.3, 1.0, 1.0, 2.0, 4.0)
_SIGNING = {"k1": base64.b64encode(b"only for this very harness of ours").decode()}
#: Seconds of a unit where a real server's clock counts; elsewhere time is only a number.
_REAL_UNIT = 0.005
#: Turns of workers for a wave, and seconds where they are real, until what is left of it counts as hung.
_MOST_TURNS, _LONGEST_WAVE = 4_000, 240.0


class World:
    """A run of ``plan`` on a pair, such as ``redis/dynamodb``.

    ``lambda/…`` is SQS with Lambda functions, ``fifo/…`` and ``lambda-fifo/…`` are the same with FIFO queues.
    Odd seeds sign their messages.

    ``worker`` makes a local worker, for runs of one whose order of steps is wrong.
    """

    def __init__(
        self, pair: str, seed: int, size: int, directory: Path, redis_port: int | None = None, scale: float = 1.0,
        worker: Callable[[Dispatcher, random.Random, float], Consumer] = LocalWorker,
    ) -> None:  # fmt: skip
        entry, _, backend = pair.partition("/")
        self._lambda, fifo = entry.startswith("lambda"), entry.endswith("fifo")
        broker = "sqs" if self._lambda or fifo else entry
        self._queue = "default.fifo" if fifo else "default"
        self._keys = {"signing_keys": _SIGNING} if seed % 2 else {}
        real = broker == "redis"
        self.unit = _REAL_UNIT if real else 1.0
        self._manual = None if real else ManualClock(float(int(time.time())))
        self.clock: Clock = self._manual or SYSTEM
        self.injector = Injector(seed, scale)
        self.gate = Gate(self.injector, self._overtake, lambda: bool(self._stack) and self._stack[-1].dead)
        self.gate.kill, self.gate.felt = self._kill, self._felt
        self.ledger = Ledger()
        self.verdict = Verdict()
        self._stores = Stores(broker, backend, self.clock, self.unit, self.injector, self.gate, directory, redis_port)
        self._plan = Plan(seed, size, priorities=broker != "sqs", groups=fifo)
        self._make_worker = worker
        self._stack: list[Process] = []
        self._workers: list[Consumer] = []
        self._ids: list[str] = []

    def run(self) -> Verdict:
        """Send the plan's tasks wave by wave, work each off under faults, judge it; end after one that went wrong."""
        with self._stores.opened(), _silence():
            self._onlooker = self._make_app(onlooker=True)
            self._watch = make_broker(self._stores, self.clock)
            self._look = self._stores.look(self._onlooker)
            with self.injector.calm():
                self._watch.send([Outgoing(self._queue, "{}", "the first makes the queue")])
                self._watch.purge(self._queue)
            self._producer = Process(self._make_app())
            self._workers = [self._hire() for _ in range(WORKERS)]
            for wave in self._plan:
                self._ids = [task_id for call in wave for task_id in call.ends]
                self.injector.spell = self.injector.random.choice(_SPELLS)
                for call in wave:
                    self._send(call)
                if not self._work_off():
                    self.verdict.hung.append(f"{self._left()} messages are left of a wave")
                    break
                self._judge(wave)
                if self._sum_up().violations:
                    break
        return self._sum_up()

    # Processes

    def _make_app(self, onlooker: bool = False) -> Dispatcher:
        # A producer's own repeats are immediate: what they wait for are faults, which come and go at any time.
        policy = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
        app = Dispatcher(
            "faults", set_as_current=False, clock=self.clock, max_worker_losses=1_000_000,
            unknown_grace=5 * self.unit, metrics_namespace=None, task_publish_retry_policy=policy,
            task_default_queue=self._queue, **self._keys, **self._stores.settings(onlooker),
        )  # fmt: skip
        add_tasks(app, self._started, self.unit)
        return app

    def _hire(self) -> Consumer:
        app = self._make_app()
        if self._lambda:
            return LambdaFunction(app, self._stores.sqs, self.injector)
        return self._make_worker(app, self.injector.random, self.unit)

    @contextlib.contextmanager
    def _as(self, process: Any) -> Iterator[None]:
        self._stack.append(process)
        try:
            yield
        finally:
            self._stack.pop()

    def _turn(self, place: int) -> int:
        """Let a worker take its turn; if it dies another takes its place. Returns how many messages it took."""
        worker = self._workers[place]
        batch = worker.batch = self.ledger.begin(self._look(self._ids))
        try:
            with self._as(worker):
                return worker.cycle()
        except Killed:
            worker.dead = True
            return 1
        finally:
            self.ledger.end(batch)
            worker.batch = None
            if worker.dead:
                with self.injector.calm():
                    self._workers[place] = self._hire()

    def _overtake(self) -> None:
        """Let another worker take a turn while this one is in the middle of something."""
        if len(self._stack) > _DEPTH or threading.current_thread() is not threading.main_thread():
            return
        free = [place for place, worker in enumerate(self._workers) if worker not in self._stack]
        if free:
            self._turn(self.injector.random.choice(free))

    def _kill(self) -> None:
        self._stack[-1].dead = True
        self.verdict.kills += 1
        batch = self._stack[-1].batch
        if batch is not None:
            batch.disturbed = batch.killed = True

    def _felt(self, kind: str) -> None:
        if self._stack and self._stack[-1].batch is not None:
            self._stack[-1].batch.disturbed = True

    def _started(self, task: Any) -> int:
        """A task's code begins: its worker may die, be overtaken, or stand still for longer than its lease."""
        process = self._stack[-1]
        if process.dead:
            raise Killed
        assert process.batch is not None
        args = task.request.args
        repeats = task.name == "lean" or (task.name != "handle_all" and args[1:2] and args[1][:1] == ["again"])
        self.ledger.start(task.request, process.batch, repeats)
        if self._manual is not None and self.gate.draw("stalled"):
            self._manual.advance(LEASE + 1.0)
            self._overtake()
        self.gate.inside()
        return len(self.ledger.starts[task.request.id])

    # A wave

    def _send(self, call: Call) -> None:
        waits = call.countdown is not None
        if call.revoked and not waits:
            self._insist(lambda app: app.AsyncResult(call.id).revoke())
        for _ in range(call.times):
            self._insist(lambda app: self._publish(app, call))
        if call.revoked and waits:
            self._insist(lambda app: app.AsyncResult(call.id).revoke())

    def _insist(self, act: Callable[[Dispatcher], Any]) -> None:
        """Let a producer do something until it has succeeded, as one that dies on the way and is asked again."""
        while True:
            try:
                with self._as(self._producer):
                    act(self._producer.app)
                return
            except OperationalError:
                continue
            except Killed:
                with self.injector.calm():
                    self._producer = Process(self._make_app())

    def _publish(self, app: Dispatcher, call: Call) -> None:
        if call.body is not None:
            app.broker.send([Outgoing(self._queue, call.body, call.id, group_id=call.group)])
            return
        if call.header:
            steps = [app.tasks["step"].s(*call.args, list(script)) for script in call.header]
            first = group(*steps, app=app) if len(steps) > 1 else steps[0]
            then = [app.tasks["follow"].s(list(script)) for script in call.then]
            chain(first, *then, app=app).apply_async(task_id=call.id)
            return
        times = {"countdown": call.countdown, "expires": call.expires}
        app.send_task(
            call.task, call.args, task_id=call.id, priority=call.priority,
            MessageGroupId=call.group, link=[self._link(app, link) for link in call.links],
            link_error=[app.tasks[name].s() for name in call.errbacks],
            **{name: value * self.unit for name, value in times.items() if value is not None},
        )  # fmt: skip

    @staticmethod
    def _link(app: Dispatcher, link: Link) -> Any:
        signature = app.tasks[link.task].s(list(link.script))
        return signature.set(link_error=app.tasks[link.errback].s()) if link.errback else signature

    def _work_off(self) -> bool:
        """Let workers take turns until nothing is left; return false if that has no end."""
        ends = time.monotonic() + _LONGEST_WAVE
        turns = 0
        while turns < _MOST_TURNS or self._manual is None:
            turns += 1
            if self._turn(self.injector.random.randrange(WORKERS)):
                continue
            if self._left() == 0:
                self.ledger.look(self._look(self._ids))
                return True
            if self._manual is not None:
                self._manual.advance(self.injector.random.choice([1.0, 5.0, 20.0]))
            elif time.monotonic() > ends:
                return False
            else:
                time.sleep(_REAL_UNIT / 2)
        return False

    def _left(self) -> int:
        with self.injector.calm():
            counts = self._watch.counts(self._queue)
        return counts.ready + counts.delayed + counts.in_flight

    # The end

    def _judge(self, wave: Sequence[Call]) -> None:
        letters = []
        with self.injector.calm(), contextlib.closing(self._watch.walk_dead_letters(self._queue)) as pages:
            for page in pages:
                letters += page
                self._watch.remove_dead_letters(page)
        records = self._look(self._ids)
        self.verdict.judge(wave, records, letters, self.ledger, self._value, self._stores.sqs.doubled)
        self.ledger.forget(list(self.ledger.starts))
        self.ledger.forget(list(self.ledger.closed))
        self._stores.sqs.doubled.clear()

    def _value(self, record: TaskRecord) -> Any:
        meta = self._onlooker.read_meta(record)
        return type(meta.error).__name__ if meta.error is not None else meta.result

    def _sum_up(self) -> Verdict:
        verdict, ledger = self.verdict, self.ledger
        verdict.regressed, verdict.late, verdict.unexcused = ledger.regressed, ledger.late, ledger.unexcused
        verdict.reruns, verdict.exposed = ledger.reruns, ledger.exposed
        verdict.faults = self.injector.counts
        return verdict


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Let nobody log: thousands of faults are each worth a line."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)
