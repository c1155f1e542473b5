"""What would make an app cheaper: each change is tried on the plan; it saves the difference of the two estimates."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from dispatcher.provision.cost import Estimate, Use, estimate
from dispatcher.provision.demand import MONTH, fill
from dispatcher.provision.plan import PlannedFunction, PlannedQueue, PlannedTask
from dispatcher.quotas import SQS_MAX_BATCH

#: A batching window that is suggested is no longer than this, in seconds.
LONGEST_WINDOW: Final = 20
#: Less memory than this is not suggested, in MiB: the package and botocore need some 60 of it.
LEAST_MEMORY: Final = 256
#: Nor batches over this size: a hundred messages of 60 KB are all that an invocation takes.
LARGEST_BATCH: Final = 100
#: Savings below this share of the whole are not worth a line.
WORTH: Final = 0.01


@dataclasses.dataclass(frozen=True, slots=True)
class Saving:
    """A change, where it is made, what it takes or risks, and how many dollars a month become fewer.

    ``per_million`` is what a million calls of its task cost less; `None` for a change to a queue or to the app.
    """

    what: str
    where: str
    condition: str
    per_month: float
    per_million: float | None = None


class _Change(NamedTuple):
    what: str
    where: str
    condition: str
    use: Use
    task: str | None = None


def savings(use: Use) -> list[Saving]:
    """Return the changes that save at least a hundredth of the whole, the greatest first.

    Of a task without calls, those that save a hundredth of what a million would cost.
    """
    before = estimate(use)
    idle = {line.task for line in before.lines if not line.traffic.calls}
    found = [_saving(change, before) for change in _changes(use)]
    least = WORTH * sum(max(0.0, each.dollars) for each in before.fixed)
    least += WORTH * sum(line.per_month for line in before.lines)
    worth = [each for each in found if each.per_month > least or (each.where in idle and each.per_million)]
    return sorted(worth, key=lambda each: (-each.per_month, -(each.per_million or 0.0), each.where))


def _saving(change: _Change, before: Estimate) -> Saving:
    after, per_million = estimate(change.use), None
    if change.task is not None:
        one, other = (
            next(line.per_million.total for line in each.lines if line.task == change.task) for each in (before, after)
        )
        per_million = one - other if one - other > WORTH * one else 0.0
    return Saving(change.what, change.where, change.condition, before.per_month - after.per_month, per_million)


def _changes(use: Use) -> Iterator[_Change]:
    for queue in use.plan.queues:
        yield from _changes_of_queue(use, queue)
        for task in use.tasks(queue):
            yield from _changes_of_task(use, task)
    if use.metrics and any(use.kept_metrics(queue) for queue in use.plan.queues):
        yield _Change(
            "metrics_namespace=None",
            "the app",
            "if nobody looks at the workers' metrics",
            dataclasses.replace(use, metrics=False),
        )


def _changes_of_task(use: Use, task: PlannedTask) -> Iterator[_Change]:
    traffic = use.of(task)
    if traffic.together < SQS_MAX_BATCH:
        together = {**use.traffic, task.name: dataclasses.replace(traffic, together=SQS_MAX_BATCH)}
        yield _Change(
            "send ten together", task.name, "where calls come in bulk: app.send_many, group, chunks",
            dataclasses.replace(use, traffic=together), task.name,
        )  # fmt: skip
    if not task.lean and not task.unique and task.rate_limit is None and not traffic.joined and not traffic.reads:
        lean = dataclasses.replace(task, ignore_result=True, revocable=False)
        tasks = tuple(lean if each is task else each for each in use.plan.tasks)
        yield _Change(
            "ignore_result=True, revocable=False", task.name,
            "if nobody reads its result or revokes it, and running it twice now and then does no harm",
            dataclasses.replace(use, plan=dataclasses.replace(use.plan, tasks=tasks)), task.name,
        )  # fmt: skip


def _changes_of_queue(use: Use, queue: PlannedQueue) -> Iterator[_Change]:
    function = queue.function
    if function is None:
        return
    if function.architecture != "arm64":
        yield _Change(
            "architecture arm64", queue.name, "if the packages of its tasks have wheels for it",
            _with(use, queue, architecture="arm64"),
        )  # fmt: skip
    if function.memory > LEAST_MEMORY:
        yield _Change(
            f"memory {max(LEAST_MEMORY, function.memory // 2)} MiB", queue.name,
            "if its tasks wait more than they compute: less memory is less CPU, and computing takes longer",
            _with(use, queue, memory=max(LEAST_MEMORY, function.memory // 2)),
        )  # fmt: skip
    rate = use.deliveries(queue) / MONTH
    if rate and not queue.fifo and use.batch(queue) < function.batch_size:
        window = min(LONGEST_WINDOW, max(1, round((function.batch_size - 1) / rate)))
        if window > function.batching_window:
            yield _Change(
                f"batching_window {window} s", queue.name, "if its tasks may start that much later",
                _with(use, queue, batching_window=window),
            )  # fmt: skip
    most = _largest_batch(use, queue, function)
    if most >= 2 * function.batch_size and rate * (window := max(1, function.batching_window)) >= most:
        yield _Change(
            f"batch_size {most}, batching_window {window} s", queue.name,
            "if its tasks may start that much later, and no single one holds up the others of its batch",
            _with(use, queue, batch_size=most, batching_window=window),
        )  # fmt: skip


def _largest_batch(use: Use, queue: PlannedQueue, function: PlannedFunction) -> int:
    """Return how many messages a queue's batches may have: so many runs as fit half its timeout, a hundred at most."""
    longest = max((use.of(task).duration for task in use.tasks(queue)), default=0.0)
    if queue.fifo or longest <= 0.0:
        return 0
    return min(LARGEST_BATCH, int(function.timeout / 2 / longest))


def _with(use: Use, queue: PlannedQueue, **settings: Any) -> Use:
    """Return the use of a plan with another function of a queue; measured batches become no smaller by it."""
    assert queue.function is not None
    function = dataclasses.replace(queue.function, **settings)
    changed = dataclasses.replace(queue, function=function)
    queues = tuple(changed if each is queue else each for each in use.plan.queues)
    filled = {name: batch if name != queue.name else max(batch, fill(use.deliveries(queue), function))
              for name, batch in use.filled.items()}  # fmt: skip
    return dataclasses.replace(use, plan=dataclasses.replace(use.plan, queues=queues), filled=filled)
