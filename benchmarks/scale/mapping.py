"""The event source mapping as the model has it: polls, batches, scales, deletes, and counts what it calls.

https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.scale import facts
from benchmarks.scale.fleet import Fleet
from benchmarks.scale.sqs import SQS, Message, Queue
from benchmarks.scale.timeline import Timeline
from dispatcher.quotas import SQS_MAX_BATCH, SQS_MAX_WAIT

#: Answers a batch's records; the time that this takes passes meanwhile.
Invoke = Callable[[list[dict[str, Any]]], Any]


@dataclass(frozen=True)
class MappingSettings:
    """What a user sets of a mapping; ``concurrency`` of `None` is no ``MaximumConcurrency``."""

    batch_size: int = 10
    window: float = 0.0
    concurrency: int | None = None


class Usage:
    """What the invocations of a mapping came to."""

    def __init__(self) -> None:
        self.invocations = 0
        self.received = 0
        self.failed = 0
        self.seconds = 0.0
        self.most_batches = 0
        #: seconds between a message's sending and the start of its batch, of first receipts
        self.waits: list[float] = []


class Mapping:
    """Feeds a function from a queue.

    It begins with five batches at a time, and adds 300 a minute while messages wait. One batch at a time polls, invokes
    and deletes in turn; when a poll finds nothing, all but the first five end.
    """

    def __init__(
        self, timeline: Timeline, sqs: SQS, queue: Queue, fleet: Fleet, invoke: Invoke, settings: MappingSettings
    ) -> None:
        self.usage = Usage()
        self.last_deleted = timeline.now
        self._timeline = timeline
        self._sqs = sqs
        self._queue = queue
        self._fleet = fleet
        self._invoke = invoke
        self._settings = settings
        self._most = min(facts.MOST_BATCHES, settings.concurrency or facts.MOST_BATCHES)
        self._least = min(facts.FIRST_BATCHES, self._most)
        self._batches = 0
        #: batches that wait for messages in a long poll, by when each poll began
        self._polling: list[float] = []
        self._scaling = False
        queue.arrived = self._wake

    def start(self) -> None:
        """Begin to poll."""
        for _ in range(self._least):
            self._batches += 1
            self._poll()
        self.usage.most_batches = self._batches

    # Scaling

    def _wake(self) -> None:
        """Answer polls that wait with what has come, and go on growing while there is more."""
        while self._polling and self._queue.ready:
            self._polling.pop()
            self._poll()
        if self._queue.ready and not self._scaling:
            self._scaling = True
            self._timeline.after(60 / facts.MORE_BATCHES_A_MINUTE, self._grow)

    def _grow(self) -> None:
        if not self._queue.ready or self._batches >= self._most:
            self._scaling = False
            return
        self._batches += 1
        self.usage.most_batches = max(self.usage.most_batches, self._batches)
        self._timeline.after(60 / facts.MORE_BATCHES_A_MINUTE, self._grow)
        self._poll()

    # One batch at a time

    def _poll(self) -> None:
        """Receive; wait for messages where there are none, if this is one of the batches that stay."""
        messages = self._receive(min(self._settings.batch_size, SQS_MAX_BATCH))
        if messages:
            self._timeline.after(facts.SQS_LATENCY, partial(self._gather, messages, self._timeline.now))
        elif self._batches > self._least:
            self._sqs.count("ReceiveMessage")
            self._batches -= 1
        else:
            began = self._timeline.now
            self._polling.append(began)
            self._timeline.after(SQS_MAX_WAIT, partial(self._end_poll, began))

    def _end_poll(self, began: float) -> None:
        """End a long poll that found nothing, and begin another."""
        if began in self._polling:
            self._polling.remove(began)
            self._sqs.count("ReceiveMessage")
            self._poll()

    def _receive(self, limit: int) -> list[Message]:
        messages = self._queue.take(limit)
        if messages:
            self._sqs.count("ReceiveMessage", sum(len(message.body) for message in messages))
        return messages

    def _gather(self, messages: list[Message], opened: float) -> None:
        """Receive on until the batch is full or its window over, or the queue empty where there is no window."""
        settings, now = self._settings, self._timeline.now
        wanted = settings.batch_size - len(messages)
        if wanted > 0 and settings.batch_size > SQS_MAX_BATCH and now < opened + settings.window:
            more = self._receive(min(wanted, SQS_MAX_BATCH))
            pause = facts.SQS_LATENCY if more else opened + settings.window - now
            self._timeline.after(pause, partial(self._gather, messages + more, opened))
        else:
            self._run(messages, facts.FIRST_BACKOFF)

    def _run(self, messages: list[Message], backoff: float) -> None:
        """Invoke the function; where it is throttled, again after a pause, while the messages are still ours."""
        wait = self._fleet.acquire()
        if wait is None:
            if all(self._timeline.now + backoff < message.hidden_until for message in messages):
                following = min(2 * backoff, facts.LONGEST_BACKOFF)
                self._timeline.after(backoff, partial(self._run, messages, following))
            else:
                self._queue.give_back(messages)
                self._poll()
            return
        usage, started = self.usage, self._timeline.now
        with self._timeline.aside():
            self._timeline.sleep(wait)
            running = self._timeline.now
            usage.waits += [running - message.sent for message in messages if message.receives == 1]
            answer = self._invoke([message.record(self._queue.arn) for message in messages])
            ended = self._timeline.now
        usage.invocations += 1
        usage.received += len(messages)
        usage.seconds += math.ceil((ended - started) * 1000) / 1000  # billed by the millisecond, the start as well
        failed = {each["itemIdentifier"] for each in answer["batchItemFailures"]}
        usage.failed += len(failed)
        self._timeline.at(ended, partial(self._finish, messages, failed))

    def _finish(self, messages: list[Message], failed: set[str]) -> None:
        self._fleet.release()
        done = [message for message in messages if message.id not in failed]
        for _ in range(0, len(done), SQS_MAX_BATCH):
            self._sqs.count("DeleteMessageBatch")
        if done:
            self._queue.delete(done)
            self.last_deleted = self._timeline.now
        if failed:
            self._queue.give_back([message for message in messages if message.id in failed])
        self._timeline.after(facts.SQS_LATENCY if done else 0.0, self._poll)
