"""What calls of a task ask of AWS: requests, capacity units, seconds and bytes, as a pure function of the plan.

The counts are those of this package's own code, and a test holds them to what is counted at an endpoint. What the code
does not decide (how long tasks take, how many messages a batch has) is the caller's `Traffic`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Final

from dispatcher.execution.executor import FLUSH_AFTER
from dispatcher.provision.plan import PlannedFunction, PlannedTask
from dispatcher.quotas import SQS_MAX_BATCH

#: What SQS takes for one request. https://aws.amazon.com/sqs/pricing/
SQS_REQUEST: Final = 65_536
#: Bytes of an item that a write and a read unit pay for.
#: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html
WRITE_UNIT: Final = 1_024
READ_UNIT: Final = 4_096
#: What DynamoDB adds to an item's own bytes when it bills storage; same page.
ITEM_OVERHEAD: Final = 100
#: Seconds of a month of 730 hours, AWS's own for monthly prices. https://aws.amazon.com/lambda/pricing/
MONTH: Final = 730 * 3600.0
#: Seconds of an invocation beside its tasks: a read and a write of DynamoDB, some milliseconds each. An assumption.
OVERHEAD: Final = 0.015
#: Bytes of log lines: of an invocation (Lambda's own lines as JSON), of a batch's metrics, of a retry, of a failure
#: with a short traceback. The last three as this package writes them; CloudWatch adds 26 to each line.
#: https://aws.amazon.com/cloudwatch/pricing/
LOG_INVOCATION: Final = 700
LOG_METRICS: Final = 760
LOG_RETRY: Final = 760
LOG_FAILURE: Final = 1_150
#: Bytes of the reason that a dead letter carries: exception, traceback, what the task was.
DEAD_REASON: Final = 1_000


@dataclasses.dataclass(frozen=True, slots=True)
class Traffic:
    """How a task is used: counts and shares are means of one call.

    ``calls`` a month, ``duration`` of a run in seconds, messages that are sent ``together``, ``retries``; the share of
    ``failures``, of calls that are ``joined`` (members of a chord, or of a group that something follows), of calls that
    are ``linked`` (another call follows), of those ``following`` another's outcome (a later step of a chain, a link, an
    error callback), of ``payloads`` (arguments in the bucket), of calls ``scheduled`` by EventBridge Scheduler (delays)
    and of those that the beat has ``fired``; ``reads`` of the result, each poll of ``get()`` being one; bytes of a
    message ``body``, of its ``record``.
    """

    calls: float = 0.0
    duration: float = 0.1
    together: float = 1.0
    retries: float = 0.0
    failures: float = 0.0
    joined: float = 0.0
    linked: float = 0.0
    following: float = 0.0
    payloads: float = 0.0
    scheduled: float = 0.0
    fired: float = 0.0
    reads: float = 0.0
    body: int = 300
    record: int = 400

    @property
    def deliveries(self) -> float:
        """How often a message is received until it is done with."""
        return 1.0 + self.retries + self.scheduled


@dataclasses.dataclass(frozen=True, slots=True)
class Demand:
    """What is billed, in the units that it is billed by.

    Requests of SQS by what they do, invocations and GB-seconds of Lambda, units of DynamoDB and the GB-months that its
    records lie there, requests of S3, invocations of Scheduler, GB of logs.
    """

    sends: float = 0.0
    receives: float = 0.0
    deletes: float = 0.0
    changes: float = 0.0
    invocations: float = 0.0
    gb_seconds: float = 0.0
    writes: float = 0.0
    reads: float = 0.0
    stored: float = 0.0
    puts: float = 0.0
    gets: float = 0.0
    schedules: float = 0.0
    logs: float = 0.0

    @property
    def sqs(self) -> float:
        """Requests of SQS."""
        return self.sends + self.receives + self.deletes + self.changes

    def __add__(self, other: Demand) -> Demand:
        """Return both together."""
        return Demand(*(one + two for one, two in zip(_values(self), _values(other), strict=True)))

    def __mul__(self, times: float) -> Demand:
        """Return so many times as much."""
        return Demand(*(one * times for one in _values(self)))


def _values(demand: Demand) -> tuple[float, ...]:
    return tuple(getattr(demand, field.name) for field in dataclasses.fields(Demand))


def fill(deliveries: float, function: PlannedFunction | None) -> float:
    """Return how many messages a batch has where so many arrive in a month, evenly.

    The first one opens the batch, and those that arrive within the batching window join it. Without a window they come
    alone: bursts fill batches better, which only a measurement tells.
    """
    if function is None:
        return 1.0
    return min(float(function.batch_size), 1.0 + deliveries / MONTH * function.batching_window)


def of_call(
    task: PlannedTask,
    function: PlannedFunction | None,
    traffic: Traffic,
    filled: float,
    retention: float,
    *,
    metrics: bool = True,
) -> Demand:
    """Return the demand of one call.

    ``filled`` is the messages of a batch, ``retention`` the life of records in seconds, and ``metrics`` says whether
    workers write them. Without a function the queue's workers are somebody else's: runs cost no Lambda, and polls that
    find nothing are not counted.
    """
    batches, batch = traffic.deliveries / filled, min(filled, SQS_MAX_BATCH)
    received = traffic.deliveries / batch
    again = (traffic.retries + traffic.scheduled) / traffic.deliveries
    dead = received * _any(traffic.failures / traffic.deliveries, batch)
    writes, reads = _units(task, traffic, filled)
    return Demand(
        sends=_sent(traffic, filled) + dead * _requests(traffic.body + DEAD_REASON),
        receives=received * _requests(traffic.body * batch),
        deletes=received * _any(1.0 / traffic.deliveries, batch),
        changes=received * _any(again, batch),
        invocations=batches if function else 0.0,
        gb_seconds=(traffic.deliveries * traffic.duration + batches * OVERHEAD) * function.memory / 1024
        if function
        else 0.0,
        writes=writes,
        reads=reads + traffic.reads * math.ceil(traffic.record / READ_UNIT),
        stored=_records(task, traffic) * (traffic.record + ITEM_OVERHEAD) / 1e9 * retention / MONTH,
        puts=traffic.payloads,
        gets=traffic.payloads * traffic.deliveries,
        schedules=traffic.scheduled,
        logs=_logged(traffic, batches, metrics) / 1e9 if function else 0.0,
    )


def _sent(traffic: Traffic, filled: float) -> float:
    """Return the requests that send a call's message.

    Those that Scheduler and rules send come alone, those that follow others with what follows the rest of a flush,
    which is taken to have as many messages, and runs as long, as their own.
    """
    alone = min(1.0, traffic.scheduled + traffic.fired)
    following = min(1.0 - alone, traffic.following)
    together, flushed = min(traffic.together, SQS_MAX_BATCH), _flushed(traffic, filled)
    own = (1.0 - alone - following) * _requests(traffic.body * together) / together
    return own + following * _requests(traffic.body * flushed) / flushed + alone * _requests(traffic.body)


def _flushed(traffic: Traffic, filled: float) -> float:
    """Return how many runs of a batch are recorded together, and what follows them sent."""
    return min(filled, SQS_MAX_BATCH, max(1.0, FLUSH_AFTER / traffic.duration) if traffic.duration else filled)


def _requests(size: float) -> int:
    """Return what a request of so many bytes counts for."""
    return max(1, math.ceil(size / SQS_REQUEST))


def _any(share: float, batch: float) -> float:
    """Return the chance that one of a batch's messages is of those that have a share of all."""
    return float(1.0 - (1.0 - min(1.0, share)) ** batch)


def _looked_up(task: PlannedTask, traffic: Traffic) -> float:
    """Return the share of calls whose record is looked for at once; of a lean task those fired, and those linked."""
    if not task.lean or task.rate_limit is not None or traffic.joined > 0:
        return 1.0
    # A lean task that something follows has a record all the same, so that what follows is sent once.
    return min(1.0, traffic.fired + traffic.linked)


def _records(task: PlannedTask, traffic: Traffic) -> float:
    """Return the share of calls that have a record; of a lean task those too that did not succeed at once."""
    return min(1.0, _looked_up(task, traffic) + traffic.retries + traffic.failures + traffic.scheduled)


def _units(task: PlannedTask, traffic: Traffic, filled: float) -> tuple[float, float]:
    """Return the write and read units that running a call takes.

    A record is read for each delivery (one that is not there yet takes a unit too), written with its outcome, and once
    more for each retry and for the start of what comes again. A unique task's outcome is a transaction of two items.
    """
    size, look = math.ceil(traffic.record / WRITE_UNIT), math.ceil(traffic.record / READ_UNIT)
    records = _records(task, traffic)
    again = traffic.retries + traffic.scheduled
    writes = (records + traffic.retries + again) * size
    reads = _looked_up(task, traffic) + again * look
    if task.counts_starts:
        writes += size
    if task.unique:
        # The claim and its confirmation, the lease, and the lock beside the outcome; a transaction's units count twice.
        writes += 3.0 + 2.0 * (1 + size) - size
        reads += traffic.deliveries
    if task.rate_limit is not None:
        writes += traffic.deliveries / filled
    # Members that end together are marked together, where they are neighbours (SQS roughly keeps the order that they
    # are sent in); one of each hundred marks the join itself; what follows reads the result.
    writes += traffic.joined * (1.0 / _flushed(traffic, filled) + 0.01)
    reads += traffic.joined * look
    return writes, reads


def _logged(traffic: Traffic, batches: float, metrics: bool) -> float:
    """Return the bytes of a call's share of log lines."""
    invocation = LOG_INVOCATION + (LOG_METRICS if metrics else 0)
    return batches * invocation + traffic.retries * LOG_RETRY + traffic.failures * LOG_FAILURE
