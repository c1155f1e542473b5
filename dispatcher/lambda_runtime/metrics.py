"""Metrics of a batch, as one line of CloudWatch's embedded metric format: no call, no agent.

`docs/lambda.md` lists them. Powertools writes the same format, for about 25 ms more at a cold start and several times
the time a batch.
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from dispatcher import states
from dispatcher.execution.run import Kind, Run

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
    "TaskDuration": _MILLISECONDS,
    "QueueLatency": _MILLISECONDS,
}
_FAILURES: Final = frozenset({Kind.FAILURE, Kind.UNREADABLE, Kind.REJECTED})


class Tally(NamedTuple):
    """What became of the runs of a batch; durations and latencies in milliseconds, as they are written."""

    started: int
    succeeded: int
    failed: int
    retried: int
    handed_back: int
    durations: list[str]
    latencies: list[str]


def tally(runs: Iterable[Run], now: float) -> Tally:
    """Count the runs of a batch that arrived at ``now``, in epoch seconds."""
    succeeded = failed = retried = handed_back = 0
    durations: list[str] = []
    latencies: list[str] = []
    for run in runs:
        outcome, delivery, message = run.outcome, run.delivery, run.message
        if run.duration:
            durations.append(f"{run.duration * 1000:.3f}")
        kind = outcome.kind if outcome is not None else Kind.HANDED_BACK
        if kind is Kind.SUCCESS:
            succeeded += 1
        elif kind in _FAILURES:
            failed += 1
        elif kind is Kind.RETRY or (run.write is not None and run.write.status == states.RETRY):
            retried += 1
        elif kind is Kind.HANDED_BACK:
            handed_back += 1
        since = delivery.sent_at
        if since is not None and delivery.receive_count == 1:
            if message is not None and message.eta is not None and message.eta > since:
                since = message.eta
            latencies.append(f"{(now - since) * 1000:.1f}" if now > since else "0.0")
    return Tally(len(durations), succeeded, failed, retried, handed_back, durations, latencies)


class Metrics:
    """Writes the metrics of batches of one app."""

    def __init__(self, namespace: str, service: str) -> None:
        self._namespace = json.dumps(namespace)
        self._service = json.dumps(service)
        self._directives: dict[tuple[bool, bool], str] = {}

    def write(self, queue: str, runs: Sequence[Run], now: float) -> None:
        """Write the line of a batch that arrived at ``now``, in epoch seconds, to where Lambda reads it: the output."""
        if runs:
            sys.stdout.write(self.line(queue, len(runs), tally(runs, now), now))

    def line(self, queue: str, size: int, counts: Tally, now: float) -> str:
        """Return the line of a batch; put together by hand, as the most of it is the same for each."""
        durations = ",".join(counts.durations[:MAX_VALUES])
        latencies = ",".join(counts.latencies[:MAX_VALUES])
        values = "".join(
            (
                f'"TaskDuration":[{durations}],' if durations else "",
                f'"QueueLatency":[{latencies}],' if latencies else "",
            )
        )
        return (
            f'{{"_aws":{{"Timestamp":{int(now * 1000)},{self._directive(bool(durations), bool(latencies))}}},'
            f'"service":{self._service},"queue":{json.dumps(queue)},{values}'
            f'"BatchSize":{size},"TasksStarted":{counts.started},"TasksSucceeded":{counts.succeeded},'
            f'"TasksFailed":{counts.failed},"TasksRetried":{counts.retried},"TasksHandedBack":{counts.handed_back}}}\n'
        )

    def _directive(self, durations: bool, latencies: bool) -> str:
        """Return what tells CloudWatch which members are metrics; a metric without values must not be named."""
        known = self._directives.get((durations, latencies))
        if known is None:
            absent = {name for name, there in (("TaskDuration", durations), ("QueueLatency", latencies)) if not there}
            metrics = [{"Name": name, "Unit": unit} for name, unit in UNITS.items() if name not in absent]
            known = (
                f'"CloudWatchMetrics":[{{"Namespace":{self._namespace},"Dimensions":[["service","queue"]],'
                f'"Metrics":{json.dumps(metrics, separators=(",", ":"))}}}]'
            )
            self._directives[durations, latencies] = known
        return known
