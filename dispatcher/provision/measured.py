"""What the log lines of workers tell of their use: lines of metrics by queue, of outcomes by task.

Read from what ``aws logs tail``, ``filter-log-events`` or an export writes: a JSON object in each line, anything before
it left aside, or one document of ``events`` with a ``message`` each.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.provision.demand import MONTH

_LOGGER: Final = "dispatcher.task.outcome"
#: What lines of a batch's metrics and of an outcome have.
_METRICS: Final = frozenset({"_aws", "queue", "BatchSize"})
_OUTCOME: Final = frozenset({"timestamp", "task", "outcome"})
_FAILED: Final = ("failure", "rejected")
#: Runs that end in one of these end the call.
_FINAL: Final = ("success", "ignored", "revoked", *_FAILED)


@dataclasses.dataclass
class Seen:
    """What was seen of a task or a queue."""

    final: int = 0
    failed: int = 0
    retried: int = 0
    durations: list[float] = dataclasses.field(default_factory=list)

    def known(self, seconds: float) -> dict[str, float]:
        """Return what it says of the traffic, if it was all that happened in so many seconds."""
        found = {"calls": self.final / seconds * MONTH}
        if self.durations:
            found["duration"] = fmean(self.durations)
        if self.final:
            found |= {"failures": self.failed / self.final, "retries": self.retried / self.final}
        return found


@dataclasses.dataclass
class Measured:
    """The logs' account: seconds from the first line to the last, messages of a batch by queue, traffic by task.

    ``notes`` are sentences about what they do not tell.
    """

    seconds: float
    filled: dict[str, float]
    traffic: dict[str, dict[str, float]]
    notes: list[str]


def read(path: Path, tasks: Mapping[str, str]) -> Measured:
    """Read log lines; ``tasks`` maps their names to their queues. Raises `ImproperlyConfigured` where nothing is told.

    Without lines of each outcome (they are written if ``worker_log_level`` is INFO) a queue's metrics hold for its
    tasks alike.
    """
    moments: list[float] = []
    sizes: dict[str, list[float]] = {}
    queues: dict[str, Seen] = {}
    outcomes: dict[str, Seen] = {}
    for line in _objects(path):
        if line.keys() >= _METRICS and isinstance(line["_aws"], dict):
            moments.append(line["_aws"].get("Timestamp", 0) / 1000)
            sizes.setdefault(line["queue"], []).append(line["BatchSize"])
            _add_metrics(queues.setdefault(line["queue"], Seen()), line)
        elif line.get("logger") == _LOGGER and line.keys() >= _OUTCOME:
            moments.append(_moment(line["timestamp"]))
            _add_outcome(outcomes.setdefault(line["task"], Seen()), line)
    seconds = max(moments, default=0.0) - min(moments, default=0.0)
    if seconds <= 0.0:
        raise ImproperlyConfigured(
            f"{path}: no two log lines of workers, from different times; it takes their metrics (metrics_namespace) or "
            "outcomes (worker_log_level='INFO')"
        )
    by_task, notes = _by_task(queues, outcomes, tasks, seconds)
    return Measured(seconds, {name: fmean(each) for name, each in sizes.items()}, by_task, notes)


def _by_task(
    queues: Mapping[str, Seen], outcomes: Mapping[str, Seen], tasks: Mapping[str, str], seconds: float
) -> tuple[dict[str, dict[str, float]], list[str]]:
    found: dict[str, dict[str, float]] = {}
    notes: list[str] = []
    for queue in sorted({*queues, *(tasks[name] for name in outcomes if name in tasks)}):
        names = [name for name in tasks if tasks[name] == queue]
        told = [name for name in names if name in outcomes]
        ends = sum(outcomes[name].final for name in told)
        # Successes are logged from INFO on: where all of a queue's are there, its tasks can be told apart.
        if told and ends >= (queues[queue].final if queue in queues else 1):
            found |= {name: outcomes[name].known(seconds) for name in told}
        elif names:
            known = queues.get(queue, Seen()).known(seconds)
            found |= {name: {**known, "calls": known["calls"] / len(names)} for name in names}
            if len(names) > 1:
                notes.append(f"the {len(names)} tasks of {queue} are taken to be used alike: the logs do not tell them "
                             "apart without worker_log_level='INFO'")  # fmt: skip
        else:
            notes.append(f"the logs have a queue {queue!r} that no task of this app goes to")
    return found, notes


def _add_metrics(seen: Seen, line: Mapping[str, Any]) -> None:
    failed = line.get("TasksFailed", 0)
    seen.final += line.get("TasksSucceeded", 0) + failed
    seen.failed += failed
    seen.retried += line.get("TasksRetried", 0)
    seen.durations += [value / 1000 for value in line.get("TaskDuration", ())]


def _add_outcome(seen: Seen, line: Mapping[str, Any]) -> None:
    outcome = line.get("outcome")
    seen.final += outcome in _FINAL
    seen.failed += outcome in _FAILED
    seen.retried += outcome == "retry"
    seen.durations.append(float(line.get("duration", 0.0)))


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ImproperlyConfigured(f"{path}: no log lines can be read: {error}") from None
    for line in _lines(text):
        start = line.find("{")
        try:
            found = json.loads(line[start:]) if start >= 0 else None
        except ValueError:  # a line of somebody else's
            continue
        if isinstance(found, dict):
            yield found


def _lines(text: str) -> Sequence[str]:
    try:
        document = json.loads(text)
        return [str(event["message"]) for event in document["events"]]
    except (ValueError, KeyError, TypeError):
        return text.splitlines()
