"""Delays on SQS beyond those of a message: EventBridge Scheduler keeps it, and sends it shortly before it is due.

A schedule fires within the minute after its time, so it is set a minute early; the worker releases what comes before
its ETA until then. This is for brokers with an execution role (``scheduler_role``). Without one a message is sent with
the longest delay that it can have, and waits in its queue, released again and again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from dispatcher import aws
from dispatcher.aws_options import ClientSettings
from dispatcher.brokers.base import Outgoing
from dispatcher.brokers.sqs_batches import entry_of
from dispatcher.brokers.sqs_queues import Queues, is_fifo, own_delay
from dispatcher.brokers.sqs_scheduler import DEFAULT_GROUP, QueueTarget, Schedule, Scheduler, settings_for
from dispatcher.clock import Clock
from dispatcher.exceptions import OperationalError, UnsupportedOption
from dispatcher.quotas import SCHEDULER_MAX_INPUT_BYTES, SCHEDULER_PRECISION, SQS_MAX_MESSAGE_BYTES

#: Shorter delays on a FIFO queue, where no message has one of its own, are waited for in the queue.
_WORTH_A_SCHEDULE: Final = 2.0 * SCHEDULER_PRECISION
#: What the call of SendMessage adds to the body for a FIFO queue, whose quotes and backslashes are doubled besides.
_CALL_BYTES: Final = 1_024


class Delays:
    """The scheduled messages of one broker; ``role`` is the execution role's ARN."""

    def __init__(self, queues: Queues, clock: Clock, role: str, group: str = DEFAULT_GROUP) -> None:
        self._queues = queues
        self._clock = clock
        self._role = role
        self._group = group
        self._schedulers: dict[str, Scheduler] = {}
        self._dead: dict[str, str | None] = {}

    def scheduler(self, queue: str) -> Scheduler:
        """Return the Scheduler that sends to a queue, with its keys and in its region."""
        return self._scheduler_with(self._queues.settings_of(queue))

    def _scheduler_with(self, settings: ClientSettings) -> Scheduler:
        key = str(settings)
        known = self._schedulers.get(key)
        if known is None:
            meta = aws.client("sqs", settings).meta
            own = settings_for(settings, meta.region_name, meta.endpoint_url)
            known = self._schedulers[key] = Scheduler(own, self._role, self._group)
        return known

    def release(self) -> None:
        """Drop every client."""
        for scheduler in self._schedulers.values():
            scheduler.release()

    def largest(self, queue: str, delay: float) -> int:
        """Return the largest body with this delay, in bytes."""
        if not _is_scheduled(queue, delay):
            return SQS_MAX_MESSAGE_BYTES
        return (SCHEDULER_MAX_INPUT_BYTES - _CALL_BYTES) // 2 if is_fifo(queue) else SCHEDULER_MAX_INPUT_BYTES

    def schedule(
        self, messages: Sequence[Outgoing]
    ) -> tuple[Sequence[Outgoing], dict[str, str], OperationalError | None]:
        """Schedule those messages that are due late enough.

        Return the others, to be sent with the delay that a message can have; the reasons of those that could not be
        scheduled, by task id; and the first error.
        """
        failures: dict[str, str] = {}
        first: OperationalError | None = None
        now, sent, made = self._clock.time(), list[Outgoing](), list[tuple[Outgoing, Schedule]]()
        for message in messages:
            if _is_scheduled(message.queue, message.delay):
                made.append((message, self._schedule_of(message, now)))
            else:
                sent.append(message._replace(delay=min(message.delay, own_delay(message.queue))))
        for (message, _), error in zip(made, aws.together(self._try, made), strict=True):
            if error is not None:
                failures[message.id] = str(error)
                first = first or error
        return sent, failures, first

    def _try(self, made: tuple[Outgoing, Schedule]) -> OperationalError | None:
        message, schedule = made
        scheduler = self.scheduler(message.queue)
        try:
            if not scheduler.create(schedule):
                _stand_beside(scheduler, schedule)
        except OperationalError as error:
            return error
        return None

    def _schedule_of(self, message: Outgoing, now: float) -> Schedule:
        at = _moment(math.floor(now + message.delay) - SCHEDULER_PRECISION)
        return Schedule(name_of(message.id), f"at({at})", message.body, self.target(message), note=message.queue)

    def target(self, message: Outgoing) -> QueueTarget:
        """Return a message's queue as the target of a schedule."""
        queue, entry = message.queue, entry_of("0", message)
        arn, url = self._queues.arn(queue), self._queues.url(queue)
        if queue not in self._dead:
            # Whoever reads what SQS gave up sends it home. A FIFO queue cannot be a schedule's.
            lost = None if is_fifo(queue) else self._queues.find_lost(queue)
            self._dead[queue] = None if lost is None else self._queues.arn(lost)
        return QueueTarget(
            arn, url if is_fifo(queue) else "", entry.get("MessageGroupId"), entry.get("MessageDeduplicationId"),
            self._dead[queue],
        )  # fmt: skip

    def bring_forward(self, ids: Sequence[str], send: Callable[[Sequence[Outgoing]], None]) -> None:
        """Send the scheduled messages of tasks now, then delete their schedules; see `Broker.bring_forward`."""
        for settings in self._queues.all_settings():
            scheduler = self._scheduler_with(settings)
            found = aws.together(scheduler.get, [name_of(task_id) for task_id in ids])
            schedules = [schedule for schedule in found if schedule is not None]
            if schedules:
                # Sent first: where it ends in between, the message comes twice, and not never.
                send([_message_of(schedule) for schedule in schedules])
                aws.together(scheduler.delete, [schedule.name for schedule in schedules])


def name_of(task_id: str) -> str:
    """Return the name of the schedule that keeps the message of a task; its id may have any characters."""
    return f"task-{hashlib.sha256(task_id.encode()).hexdigest()[:40]}"


def _is_scheduled(queue: str, delay: float) -> bool:
    return delay > max(own_delay(queue), _WORTH_A_SCHEDULE)


def _moment(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (ValueError, OverflowError, OSError) as error:
        raise UnsupportedOption(f"an ETA after the year 9999 cannot work: EventBridge Scheduler: {error}") from error


def _stand_beside(scheduler: Scheduler, schedule: Schedule) -> None:
    """Schedule a message although its name is taken, unless it is by this very message.

    A task may have two at a time: one schedule has fired and is about to go, or two runs of one attempt publish.
    """
    found = scheduler.get(schedule.name)
    if found is not None and (found.expression, found.body) == (schedule.expression, schedule.body):
        return
    digest = hashlib.sha256(f"{schedule.expression}{schedule.body}".encode()).hexdigest()[:16]
    scheduler.create(dataclasses.replace(schedule, name=f"{schedule.name}-{digest}"))


def _message_of(schedule: Schedule) -> Outgoing:
    target = schedule.target
    return Outgoing(
        schedule.note, schedule.body, schedule.name, group_id=target.group_id,
        deduplication_id=target.deduplication_id,
    )  # fmt: skip
