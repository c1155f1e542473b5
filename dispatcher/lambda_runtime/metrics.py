"""Metrics of a batch, as one line of CloudWatch's embedded metric format: no call, no agent.

`docs/lambda.md` lists them. Powertools writes the same format, in thirty times the time a batch.
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Final, NamedTuple

from dispatcher import states
from dispatcher.execution.run import SUCCESS, Kind, Run

#: Values of one metric in one line; a larger batch leaves the rest of its samples out.
MAX_VALUES: Final = 100

_COUNT: Final = "Count"
_MILLISECONDS: Final = "Milliseconds"
UNITS: Final = {
    "BatchSize": _COUNT,
    "TasksStarted": _COUNT,
    "TasksSucceeded": _COUNT,
    "TasksFailed": _COUNT,
    "TasksRetried": _COUNT,
    "TasksHandedBack": _COUNT,
    "TasksDeferred": _COUNT,
    "TaskDuration": _MILLISECONDS,
    "QueueLatency": _MILLISECONDS,
}
_FAILURES: Final = frozenset({Kind.FAILURE, Kind.UNREADABLE, Kind.REJECTED})


class Tally(NamedTuple):
    """What became of the runs of a batch; durations and latencies in milliseconds."""

    started: int
    succeeded: int
    failed: int
    retried: int
    handed_back: int
    deferred: int
    durations: list[float]
    latencies: list[float]


def tally(runs: Iterable[Run], now: float) -> Tally:
    """Count the runs of a batch that arrived at ``now``, in epoch seconds."""
    succeeded = failed = retried = handed_back = deferred = 0
    durations: list[float] = []
    latencies: list[float] = []
    for run in runs:
        outcome, delivery = run.outcome, run.delivery
        if run.duration:
            durations.append(run.duration * 1000)
        kind = outcome.kind if outcome is not None else Kind.HANDED_BACK
        if kind is SUCCESS:
            succeeded += 1
        elif kind in _FAILURES:
            failed += 1
        elif kind is Kind.DEFERRED:
            deferred += 1
        elif kind is Kind.RETRY or (run.write is not None and run.write.status == states.RETRY):
            retried += 1
        elif kind is Kind.HANDED_BACK:
            handed_back += 1
        since = delivery.sent_at
        if since is not None and delivery.receive_count == 1:
            if not run.bare and run.message is not None and run.message.eta is not None:
                since = max(since, run.message.eta)
            latencies.append((now - since) * 1000 if now > since else 0.0)
    return Tally(len(durations), succeeded, failed, retried, handed_back, deferred, durations, latencies)


class Metrics:
    """Writes the metrics of batches of one app."""

    def __init__(self, namespace: str, service: str) -> None:
        self._namespace = json.dumps(namespace)
        self._service = json.dumps(service)
        self._forms: dict[tuple[str, ...], str] = {}
        self._queues: dict[str, str] = {}

    def write(self, queue: str, runs: Sequence[Run], now: float) -> None:
        """Write the line of a batch that arrived at ``now``, in epoch seconds, to where Lambda reads it: the output."""
        if runs:
            sys.stdout.write(self.line(queue, len(runs), tally(runs, now), now))

    def line(self, queue: str, size: int, counts: Tally, now: float) -> str:
        """Return the line of a batch.

        A count of nothing is left out, as each byte is billed, and a metric without values must not be named. Most of
        the line is the same for each batch.
        """
        values = (  # in the order of `UNITS`
            size, counts.started, counts.succeeded, counts.failed, counts.retried, counts.handed_back, counts.deferred,
            _written("%.3f", counts.durations[:MAX_VALUES]), _written("%.1f", counts.latencies[:MAX_VALUES]),
        )  # fmt: skip
        if queue not in self._queues:
            self._queues[queue] = json.dumps(queue)
        there = tuple(filter(None, values))
        form = self._forms.get(names := tuple(compress(UNITS, values)))
        if form is None:
            form = self._forms[names] = self._form(names)
        return form % (now * 1000, self._queues[queue], *there)

    def _form(self, names: tuple[str, ...]) -> str:
        """Return the line of batches that have these metrics, with places for time, queue and values."""
        metrics = [{"Name": name, "Unit": UNITS[name]} for name in names]
        directive = (
            f'"CloudWatchMetrics":[{{"Namespace":{self._namespace},"Dimensions":[["service","queue"]],'
            f'"Metrics":{json.dumps(metrics, separators=(",", ":"))}}}]'
        ).replace("%", "%%")
        members = ",".join([f'"{name}":' + ("%d" if UNITS[name] is _COUNT else "[%s]") for name in names])
        service = self._service.replace("%", "%%")
        return f'{{"_aws":{{"Timestamp":%d,{directive}}},"service":{service},"queue":%s,{members}}}\n'


def _written(form: str, values: list[float]) -> str:
    """Return values as they are written, by one call of the formatter."""
    return ",".join([form] * len(values)) % tuple(values)
