"""What an app costs on AWS: dollars of each task and of each month.

    estimate(Use(plan(app), {"tasks.add": Traffic(calls=1_000_000)}, Prices.of("us-east-1")))

Left out: data transfer, customer keys of KMS, X-Ray, cold starts, and whatever tasks call themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Final

from dispatcher.provision.demand import MONTH, Demand, Traffic, fill, of_call
from dispatcher.provision.monitoring import alarms
from dispatcher.provision.plan import Plan, PlannedQueue, PlannedTask
from dispatcher.provision.prices import MILLION, FreeTier, Prices
from dispatcher.quotas import SQS_MAX_BATCH, SQS_MAX_WAIT

#: Long polls that a mapping has open while nothing comes: it starts with these, and keeps them where its concurrency is
#: bounded.
#: https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html
POLLERS: Final = 5
#: Metrics of a queue that are always there, and those that a retry, a failure and a rate limit add.
METRICS: Final = 5

_NO_TRAFFIC: Final = Traffic()


@dataclasses.dataclass(frozen=True, slots=True)
class Dollars:
    """Money by service."""

    sqs: float = 0.0
    compute: float = 0.0
    dynamodb: float = 0.0
    s3: float = 0.0
    scheduler: float = 0.0
    cloudwatch: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.sqs + self.compute + self.dynamodb + self.s3 + self.scheduler + self.cloudwatch

    def __mul__(self, times: float) -> Dollars:
        """Return so many times as much."""
        return Dollars(*(getattr(self, field.name) * times for field in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """A task: what one call of it asks for with ``filled`` messages to a batch, and what a million of them cost."""

    task: str
    queue: str
    traffic: Traffic
    filled: float
    demand: Demand
    per_million: Dollars

    @property
    def per_month(self) -> float:
        """Dollars of a month."""
        return self.per_million.total * self.traffic.calls / MILLION


@dataclasses.dataclass(frozen=True, slots=True)
class Fixed:
    """What a month costs whether there is work or not; a discount is negative."""

    what: str
    dollars: float


@dataclasses.dataclass(frozen=True, slots=True)
class Use:
    """A plan and how it is used, at which prices.

    ``traffic`` is that of tasks by name; those that are left out have no calls. ``filled`` is the messages of a batch
    by queue, where they were measured, ``firings`` how often entries of the beat are due in a month. ``free`` is what
    the account has free, ``metrics`` whether workers write them.
    """

    plan: Plan
    traffic: Mapping[str, Traffic]
    prices: Prices
    filled: Mapping[str, float] = dataclasses.field(default_factory=dict)
    firings: Mapping[str, float] = dataclasses.field(default_factory=dict)
    free: FreeTier | None = None
    metrics: bool = True

    def tasks(self, queue: PlannedQueue) -> list[PlannedTask]:
        """Return the tasks of a queue."""
        return [task for task in self.plan.tasks if task.queue == queue.name]

    def of(self, task: PlannedTask) -> Traffic:
        """Return the traffic of a task."""
        return self.traffic.get(task.name, _NO_TRAFFIC)

    def deliveries(self, queue: PlannedQueue) -> float:
        """Return how many messages of a queue are received in a month."""
        return sum(each.calls * each.deliveries for each in map(self.of, self.tasks(queue)))

    def batch(self, queue: PlannedQueue) -> float:
        """Return how many messages a queue's batches have."""
        if queue.name in self.filled and queue.function is not None:
            return min(self.filled[queue.name], float(queue.function.batch_size))
        return fill(self.deliveries(queue), queue.function)

    def kept_metrics(self, queue: PlannedQueue) -> int:
        """Return how many of a queue's metrics have a value, and so are billed."""
        used = [each for each in map(self.of, self.tasks(queue)) if each.calls]
        if not used or not self.metrics or queue.function is None:
            return 0
        limited = any(task.rate_limit is not None for task in self.tasks(queue))
        return METRICS + sum((any(each.retries for each in used), any(each.failures for each in used), limited))


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """The whole, in dollars of a month of 730 hours."""

    lines: tuple[Line, ...]
    fixed: tuple[Fixed, ...]

    @property
    def per_month(self) -> float:
        """What all calls and everything fixed cost a month."""
        return sum(line.per_month for line in self.lines) + sum(each.dollars for each in self.fixed)


def estimate(use: Use) -> Estimate:
    """Return what a plan costs."""
    lines = tuple(_line(use, task, queue) for queue in use.plan.queues for task in use.tasks(queue))
    fixed = [*(each for queue in use.plan.queues for each in _fixed(use, queue)), *_watched(use), *_fired(use)]
    if use.free is not None:
        fixed.append(Fixed("free tier", -_discount(use, use.free, lines)))
    return Estimate(lines, tuple(fixed))


def _line(use: Use, task: PlannedTask, queue: PlannedQueue) -> Line:
    traffic, batch = use.of(task), use.batch(queue)
    demand = of_call(task, queue.function, traffic, batch, use.plan.record_retention, metrics=use.metrics)
    return Line(task.name, queue.name, traffic, batch, demand, dollars_of(demand, use.prices, queue) * MILLION)


def _idle(use: Use, queue: PlannedQueue) -> dict[str, float]:
    """Return how many polls of a queue and of its lost queue find nothing in a month."""
    polls = POLLERS * MONTH / SQS_MAX_WAIT
    if queue.function is None:  # workers of somebody else's read it; the lost queue has a function all the same
        return {queue.lost: polls}
    busy = use.deliveries(queue) / min(use.batch(queue), SQS_MAX_BATCH)
    return {queue.name: max(0.0, polls - busy), queue.lost: polls}


def _fixed(use: Use, queue: PlannedQueue) -> Iterator[Fixed]:
    prices = use.prices
    request = (prices.sqs_fifo if queue.fifo else prices.sqs_standard) / MILLION
    for name, polls in _idle(use, queue).items():
        yield Fixed(f"polls of {name} that find nothing", polls * request)
    if metrics := use.kept_metrics(queue):
        yield Fixed(f"{metrics} metrics of {queue.name}", metrics * prices.metric)


def _watched(use: Use) -> Iterator[Fixed]:
    count = len(tuple(alarms(use.plan)))
    yield Fixed(f"{count} alarms", count * use.prices.alarm)
    yield Fixed("the dashboard", use.prices.dashboard)


def _fired(use: Use) -> Iterator[Fixed]:
    """Yield what firings of EventBridge Scheduler cost; those of rules cost nothing."""
    entries = [schedule.entry for schedule in use.plan.schedules if schedule.kind == "scheduler"]
    if entries:
        count = sum(use.firings.get(entry, 0.0) for entry in entries)
        yield Fixed(f"{count:,.0f} firings by EventBridge Scheduler", count * use.prices.scheduler / MILLION)


def _discount(use: Use, free: FreeTier, lines: tuple[Line, ...]) -> float:
    """Return what an account saves that has nothing else in it."""
    prices, queues = use.prices, [queue for queue in use.plan.queues if queue.function]
    total = sum((line.demand * line.traffic.calls for line in lines), Demand())
    idle = sum(sum(_idle(use, queue).values()) for queue in use.plan.queues)
    metrics = sum(use.kept_metrics(queue) for queue in queues)
    scheduled = total.schedules * prices.scheduler / MILLION + sum(each.dollars for each in _fired(use))
    # Of different prices the least, so that it never promises too much.
    second = min((_second(prices, queue) for queue in queues), default=0.0)
    return (
        min(free.sqs, total.sqs + idle) * prices.sqs_standard / MILLION
        + min(free.invocations, total.invocations) * prices.lambda_requests / MILLION
        + min(free.gb_seconds, total.gb_seconds) * second
        + min(free.stored, total.stored) * prices.dynamodb_storage
        + min(free.schedules * prices.scheduler / MILLION, scheduled)
        + min(free.logs, total.logs) * prices.logs
        + min(free.metrics, metrics) * prices.metric
        + min(free.alarms, len(tuple(alarms(use.plan)))) * prices.alarm
        + min(free.dashboards, 1) * prices.dashboard
    )


def dollars_of(demand: Demand, prices: Prices, queue: PlannedQueue) -> Dollars:
    """Return what a demand on a queue costs."""
    request = prices.sqs_fifo if queue.fifo else prices.sqs_standard
    return Dollars(
        sqs=demand.sqs * request / MILLION,
        compute=demand.invocations * prices.lambda_requests / MILLION + demand.gb_seconds * _second(prices, queue),
        dynamodb=(demand.writes * prices.dynamodb_write + demand.reads * prices.dynamodb_read) / MILLION
        + demand.stored * prices.dynamodb_storage,
        s3=(demand.puts * prices.s3_put + demand.gets * prices.s3_get) / MILLION,
        scheduler=demand.schedules * prices.scheduler / MILLION,
        cloudwatch=demand.logs * prices.logs,
    )


def _second(prices: Prices, queue: PlannedQueue) -> float:
    arm = queue.function is not None and queue.function.architecture == "arm64"
    return prices.lambda_arm64 if arm else prices.lambda_x86_64
