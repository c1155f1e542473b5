"""One run of the model: a workload at a rate, sent by the real producer and worked off by the real handler."""

from __future__ import annotations

import gc
import logging
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

from benchmarks.scale import facts
from benchmarks.scale.dynamodb import DynamoDB, Partitions
from benchmarks.scale.fleet import Account, Fleet
from benchmarks.scale.mapping import Mapping as EventSourceMapping
from benchmarks.scale.mapping import MappingSettings
from benchmarks.scale.sqs import SQS, url_of
from benchmarks.scale.timeline import Timeline, virtual_world
from benchmarks.scale.workloads import Tasks, Workload
from dispatcher import Dispatcher
from dispatcher.lambda_runtime.batches import Worker
from dispatcher.provision.cost import dollars_of
from dispatcher.provision.demand import ITEM_OVERHEAD, LOG_INVOCATION, LOG_METRICS, MONTH, Demand
from dispatcher.provision.plan import PlannedFunction, plan
from dispatcher.provision.prices import MILLION, Prices

QUEUE: Final = "default"
#: The longest that a run may take, in virtual seconds.
_PATIENCE: Final = 24 * 3600.0
#: Seconds within which a queue that keeps up with what is sent is empty afterwards.
_KEEPS_UP: Final = 10.0
_GIB: Final = 2**30


@dataclass(frozen=True)
class Setup:
    """What a run is like: ``rate`` tasks a minute for so many ``minutes``; the rest is what a user or AWS sets.

    ``concurrency`` is ``maximum_concurrency`` of the setting ``infra``, ``warm_writes`` the write units a second that
    the table was warmed to. ``flush_after`` is how long the handler keeps outcomes to write them together, in seconds,
    if not as long as it does.
    """

    rate: int
    minutes: float = 1.0
    concurrency: int = 10
    batch_size: int | None = None
    window: int = 0
    memory: int = 512
    account: int = facts.ACCOUNT_CONCURRENCY
    warm_writes: int = facts.TABLE_WRITES
    seed: int = 1
    flush_after: float | None = None

    @property
    def infra(self) -> dict[str, Any]:
        """The app's setting."""
        size = {} if self.batch_size is None else {"batch_size": self.batch_size}
        return {
            "maximum_concurrency": self.concurrency, "memory": self.memory, "batching_window": self.window, **size
        }  # fmt: skip


@dataclass(frozen=True)
class Prediction:
    """What a run came to. Times are seconds, money dollars; counts are of the whole run."""

    workload: str
    setup: Setup
    tasks: int
    #: from the last send to the last deletion
    drained_after: float
    oldest: float
    median_wait: float
    most_concurrent: int
    most_batches: int
    cold_starts: int
    most_in_flight: int
    given_up: int
    handed_back: int
    throttled_invocations: int
    throttled_writes: int
    throttled_reads: int
    #: the key that most writes of a second went to, and how many
    hot_key: str
    hot_writes: int
    most_writes: int
    calls: Mapping[str, int]
    requests: int
    invocations: int
    gb_seconds: float
    write_units: float
    read_units: float
    dollars_per_million: float
    dollars: Mapping[str, float]
    #: calls that raised in the producer
    refused: int = 0

    @property
    def calls_a_task(self) -> float:
        """AWS calls of a task, the mapping's own and the producer's included."""
        return sum(self.calls.values()) / self.tasks

    @property
    def limit(self) -> str:
        """What kept the queue from draining sooner, by what the run ran into."""
        if self.hot_key.startswith("RATE#") and self.handed_back > self.tasks / 10:
            return "the rate limit itself"
        if self.hot_writes >= 0.8 * facts.PARTITION_WRITES:
            return f"the key {self.hot_key.partition('#')[0]}#…"
        if self.throttled_writes > self.tasks / 100:
            return "the table's capacity"
        if self.most_concurrent >= self.setup.account:
            return "the account's concurrency"
        if self.drained_after < _KEEPS_UP:
            return "nothing"
        return "`maximum_concurrency`" if self.most_batches >= self.setup.concurrency else "the mapping's growth"


def predict(workload: Workload, setup: Setup) -> Prediction:
    """Run the model until everything that was sent is done with; raises `RuntimeError` where a task did not run."""
    run = _Run(workload, setup)
    collects = gc.isenabled()
    gc.disable()  # a million rows would be gone through again and again
    try:
        with quiet(), virtual_world(run.timeline, run.client, setup.seed) as chance:
            run.go(chance)
    finally:
        if collects:
            gc.enable()
    return run.prediction()


def keep_for(worker: Worker, seconds: float) -> None:
    """Have a worker that was started keep outcomes for so long to write them together."""
    environment = worker._environment
    assert environment is not None
    environment._executor.flush_after = seconds


@contextmanager
def quiet() -> Iterator[None]:
    """Keep lines below errors from being logged: a million retries would be a million lines."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)


class _Run:
    def __init__(self, workload: Workload, setup: Setup) -> None:
        self.timeline = timeline = Timeline()
        self._workload = workload
        self._setup = setup
        self.app = Dispatcher(
            "scale", broker="sqs://", backend="dynamodb://scale", clock=timeline, set_as_current=False,
            infra=setup.infra, worker_hijack_root_logger=False, metrics_namespace=None,
            broker_transport_options={"predefined_queues": {QUEUE: {"url": url_of(QUEUE)}}},
        )  # fmt: skip
        self.tasks = Tasks(self.app)
        self.app.finalize()
        (self._planned,) = plan(self.app).queues
        function = self._planned.function
        assert function is not None
        self._function: PlannedFunction = function
        planned = self._planned
        self.sqs = SQS(timeline, [QUEUE], planned.visibility_timeout, planned.max_receive_count)
        self.partitions = Partitions(timeline, setup.warm_writes)
        self.dynamodb = DynamoDB(timeline, self.partitions)
        self._account = Account(setup.account)
        self._fleet = Fleet(timeline, self._account)
        settings = MappingSettings(function.batch_size, function.batching_window, function.maximum_concurrency)
        self._queue = self.sqs.queues[QUEUE]
        self._worker = Worker(lambda: self.app, timeline)
        self._mapping = EventSourceMapping(timeline, self.sqs, self._queue, self._fleet, self._invoke, settings)
        self._slowdown = max(1.0, facts.ONE_CPU / setup.memory)
        self._sent = 0
        self._sending_ends = timeline.now
        self._sending = True

    def client(self, service: str, settings: Any = None) -> Any:
        """Stand in for `dispatcher.aws.client`."""
        return {"sqs": self.sqs, "dynamodb": self.dynamodb}[service]

    def go(self, chance: random.Random) -> None:
        self._worker.start()
        if self._setup.flush_after is not None:
            keep_for(self._worker, self._setup.flush_after)
        self._mapping.start()
        self._schedule(chance)
        began = self.timeline.now
        self.timeline.run(lambda: self._done() or self.timeline.now - began > _PATIENCE)
        name, lost = self._workload.name, self.tasks.owed
        if lost or not self._done():
            raise RuntimeError(f"{name}: {len(lost):,} of {self._sent:,} tasks did not run, such as {sorted(lost)[:3]}")
        if self._queue.given_up:
            raise RuntimeError(f"{name}: {self._queue.given_up:,} messages became dead letters")

    def _done(self) -> bool:
        return not self._sending and self._queue.empty

    def _schedule(self, chance: random.Random) -> None:
        """Send a minute's tasks in its first part, ten or more at a time, at most ten times a second."""
        setup, start = self._setup, self.timeline.now
        for minute in range(math.ceil(setup.minutes)):
            tasks = round(setup.rate * min(1.0, setup.minutes - minute))
            span = 60 * self._workload.share
            times = max(1, min(int(span * 10), tasks // 10))
            for number in range(times):
                due = tasks * (number + 1) // times - tasks * number // times
                last = number == times - 1 and minute == math.ceil(setup.minutes) - 1
                moment = start + 60 * minute + span * number / times
                self.timeline.at(moment, partial(self._send, due, chance, last))
        self._owed = 0

    def _send(self, due: int, chance: random.Random, last: bool) -> None:
        self._owed += due
        for few in [1] * self._owed if self._workload.singly else [self._owed]:
            with self.timeline.aside():
                sent = self._workload.send(self.tasks, few, chance)
                self._sending_ends = max(self._sending_ends, self.timeline.now)
            self._owed -= sent
            self._sent += sent
        self._sending = not last

    def _invoke(self, records: list[dict[str, Any]]) -> Any:
        """Run the handler on a batch; its CPU passes beside what its tasks and calls take."""
        calls = self._calls()
        until = self.timeline.now + self._function.timeout
        context = SimpleNamespace(
            aws_request_id="", function_name="scale", memory_limit_in_mb=str(self._setup.memory),
            invoked_function_arn="", get_remaining_time_in_millis=lambda: int((until - self.timeline.now) * 1000),
        )  # fmt: skip
        answer = self._worker({"Records": records}, context)
        made = self._calls() - calls
        cpu = facts.INVOCATION_CPU + facts.RECORD_CPU * len(records) + facts.CALL_CPU * made
        self.timeline.sleep(cpu * self._slowdown)
        return answer

    def _calls(self) -> int:
        return self.dynamodb.calls.total() + self.sqs.calls.total()

    # What it came to

    def prediction(self) -> Prediction:
        usage, partitions = self._mapping.usage, self.partitions
        hot, hot_writes = partitions.hottest()
        demand = self._demand()
        dollars = dollars_of(demand, Prices.of("us-east-1"), self._planned)
        waits = sorted(usage.waits)
        each = MILLION / max(1, self._sent)
        return Prediction(
            workload=self._workload.name,
            setup=self._setup,
            tasks=self._sent,
            drained_after=max(0.0, self._mapping.last_deleted - self._sending_ends),
            oldest=waits[-1],
            median_wait=waits[len(waits) // 2],
            most_concurrent=self._account.most,
            most_batches=usage.most_batches,
            cold_starts=self._fleet.cold_starts,
            most_in_flight=self._queue.most_in_flight,
            given_up=self._queue.given_up,
            handed_back=usage.failed,
            throttled_invocations=self._fleet.throttled,
            throttled_writes=partitions.throttled["write"],
            throttled_reads=partitions.throttled["read"],
            hot_key=hot,
            hot_writes=hot_writes,
            most_writes=max(partitions.seconds.values(), default=0),
            calls=dict(
                Counter({f"sqs:{name}": count for name, count in self.sqs.calls.items()})
                + Counter({f"dynamodb:{name}": count for name, count in self.dynamodb.calls.items()})
            ),
            requests=self.sqs.requests,
            invocations=usage.invocations,
            gb_seconds=demand.gb_seconds,
            write_units=partitions.writes,
            read_units=partitions.reads,
            dollars_per_million=dollars.total * each,
            dollars={name: getattr(dollars, name) * each for name in ("sqs", "compute", "dynamodb", "cloudwatch")},
            refused=self.tasks.refused,
        )

    def _demand(self) -> Demand:
        """Return what is billed: every request, unit and second of the run, and the rows for as long as they live."""
        usage, now = self._mapping.usage, self.timeline.now
        stored = sum(
            (self.dynamodb.sizes[pk] + ITEM_OVERHEAD) * max(0.0, float(item["ttl"]["N"]) - now)
            for pk, item in self.dynamodb.items.items()
            if "ttl" in item
        )
        return Demand(
            sends=self.sqs.requests,
            invocations=usage.invocations,
            gb_seconds=usage.seconds * self._setup.memory / 1024,
            writes=self.partitions.writes,
            reads=self.partitions.reads,
            stored=stored / _GIB / MONTH,
            logs=usage.invocations * (LOG_INVOCATION + LOG_METRICS) / _GIB,
        )
