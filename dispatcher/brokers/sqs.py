"""The SQS broker: standard, fair and FIFO queues, settled in batches of ten.

What differs from other brokers: counts are approximate, a purge takes leased messages too, delays are whole seconds
(rounded up, so that nothing runs early), and looking at dead letters raises their receive counts.
"""

from __future__ import annotations

import contextlib
import functools
import math
import random
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from dispatcher import aws
from dispatcher.aws_options import parse_url, read
from dispatcher.brokers.base import Broker, BrokerFeatures, DeadLetter, Delivery, Outgoing, QueueCounts, Settlement
from dispatcher.brokers.sqs_batches import (
    Calls,
    Entry,
    Job,
    check,
    delivery_of,
    entry_of,
    failure_of,
    jobs_of,
    letter_of,
)
from dispatcher.brokers.sqs_budget import Budgets
from dispatcher.brokers.sqs_dead import COUNTERS, SYSTEM_ATTRIBUTES, Walk, message_of
from dispatcher.brokers.sqs_queues import MAX_RECEIVE_COUNT, OPTIONS, REFUSED, Queues, is_lost, is_missing, own_delay
from dispatcher.clock import SYSTEM, Clock
from dispatcher.exceptions import ImproperlyConfigured, OperationalError, SendError
from dispatcher.quotas import (
    SQS_DEFAULT_RETENTION,
    SQS_MAX_BATCH,
    SQS_MAX_DELAY,
    SQS_MAX_MESSAGE_BYTES,
    SQS_MAX_VISIBILITY,
    SQS_MAX_WAIT,
    SQS_PURGE_INTERVAL,
)
from dispatcher.security import home_queue

if TYPE_CHECKING:
    from dispatcher.brokers.sqs_delays import Delays

#: Of the 12 hours a message may stay invisible, what is left for clocks that differ and calls under way.
VISIBILITY_MARGIN: Final = 30
#: Seconds that the lease of a delivery is renewed for while it is moved to the dead letters.
_MOVE_LEASE: Final = 60
#: Messages looked at to find the newest dead letters.
_MAX_PEEK: Final = 1_000
#: Times in a row that a queue may be left out because those before it filled the receive.
_MAX_SKIPS: Final = 4

#: How SQS says, depending on queue and call, that a receipt is no longer good.
_STALE: Final = ("ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue")
#: A visibility that is refused although it is no longer than this is not refused for its length.
_SAFE_VISIBILITY: Final = 3_600


class SQSBroker(Broker):
    """Keeps messages in SQS queues. URLs and options: ``docs/aws.md``."""

    features = BrokerFeatures(
        max_delay=SQS_MAX_DELAY, max_release=SQS_MAX_VISIBILITY - VISIBILITY_MARGIN, max_body=SQS_MAX_MESSAGE_BYTES,
        at_once=SQS_MAX_BATCH, max_receives=MAX_RECEIVE_COUNT, retention=SQS_DEFAULT_RETENTION,
        priorities=False, groups=True, doubles=True, charged=True,
    )  # fmt: skip

    def __init__(self, url: str, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        super().__init__(url, options, clock)
        parsed = parse_url(url)
        if parsed.name:
            raise ImproperlyConfigured(
                f"an sqs:// URL names a region, 'localstack' or host:port, not {parsed.name!r}; "
                "queues are named by task_default_queue, task_routes and queue="
            )
        checked = read("sqs", {**parsed.options, **self.options}, OPTIONS, REFUSED)
        self.visibility_timeout = checked.get("visibility_timeout", self.visibility_timeout)
        self._longest_wait = int(checked.get("wait_time_seconds", SQS_MAX_WAIT))
        # A shutdown waits for the poll under way, and each poll is billed.
        self.poll_wait = min(5.0, self._longest_wait or self.poll_wait)
        self._pause: float = checked.get("polling_interval", 0.0 if self._longest_wait else 1.0)
        self._queues = Queues(checked)
        self._calls = Calls(self._queues, clock)
        self._budgets = Budgets(self._calls, checked, clock)
        self._scheduler: tuple[Any, Any] = (checked.get("scheduler_role"), checked.get("scheduler_group", "default"))
        self._skips: dict[tuple[str, ...], int] = {}

    def describe(self) -> str:
        """Name the broker for people."""
        return "SQS"

    def open(self) -> None:
        """Make the client."""
        self._queues.client("")

    def close(self) -> None:
        """Drop the clients; the broker takes new ones when it is used again."""
        self._queues.release()
        if "delays" in self.__dict__ and self.delays:
            self.delays.release()

    @functools.cached_property
    def delays(self) -> Delays | None:
        """What keeps long delays, where there is a role for that; most workers and producers never need it."""
        if self._scheduler[0] is None:
            return None
        from dispatcher.brokers.sqs_delays import Delays

        return Delays(self._queues, self.clock, *self._scheduler)

    def longest_delay(self, queue: str) -> float | None:
        """Return the longest delay of a message: any with ``scheduler_role``, else 900 s, and none on a FIFO queue."""
        return own_delay(queue) if self._scheduler[0] is None else None

    def largest_body(self, queue: str, delay: float) -> int:
        """Return the largest body with a delay, in bytes: less where EventBridge Scheduler keeps it meanwhile."""
        return SQS_MAX_MESSAGE_BYTES if self.delays is None else self.delays.largest(queue, delay)

    def bring_forward(self, task_ids: Sequence[str]) -> None:
        """Send scheduled messages now; see `Broker.bring_forward`."""
        if self.delays:
            self.delays.bring_forward(task_ids, self.send)

    def budget_spent(self, delivery: Delivery) -> float:
        """Return the share of its receipts or its retention that a message has used up; see `Broker.budget_spent`."""
        return self._budgets.spent(delivery, self.clock.time())

    def retention_of(self, queue: str) -> float | None:
        """Return how long a queue keeps a message, in seconds; the queue is asked once unless an option says it."""
        return self._budgets.of(queue).seconds

    def lost_queues(self, queues: Sequence[str]) -> list[str]:
        """Return those lost queues of these queues that exist."""
        own = [queue for queue in queues if home_queue(queue) == queue]
        return [lost for queue in own if (lost := self._queues.find_lost(queue)) is not None]

    def local_name(self, sqs_name: str, known: Iterable[str] = ()) -> str:
        """Return what a queue is called here by its SQS name: one of those known, else that name without the prefix."""
        return self._queues.local_name(sqs_name, known)

    # Sending

    def _check(self, message: Outgoing) -> None:
        super()._check(message)
        check(message)
        self._queues.check(message.queue)

    def _send(self, messages: Sequence[Outgoing]) -> Mapping[str, str]:
        failures: dict[str, str] = {}
        error: OperationalError | None = None
        sent = messages
        if self._scheduler[0] is not None and any(message.delay > 0 for message in messages) and self.delays:
            sent, failures, error = self.delays.schedule(messages)
        jobs = jobs_of(
            "send_message_batch", [(message.queue, entry_of(str(n), message)) for n, message in enumerate(sent)]
        )
        for outcome in aws.together(self._calls.run, jobs):
            error = error or outcome.error
            failures |= {sent[int(entry["Id"])].id: failure_of(failed) for entry, failed in outcome.failed}
            failures |= {sent[int(entry["Id"])].id: str(outcome.error) for entry in outcome.unsent}
        if error is not None and len(failures) == len({message.id for message in messages}):
            raise error
        return failures

    # Receiving

    def receive(self, queues: Sequence[str], limit: int, wait: float = 0.0) -> list[Delivery]:
        """Lease up to ``limit`` messages, waiting up to ``wait`` seconds for the first.

        Queues are served in their order; after some receives that did not reach the last one, another one goes first.
        """
        if limit < 1 or not queues:
            return []
        deadline = self.clock.monotonic() + wait
        if len(queues) == 1 and wait >= 1:
            taken = self._poll(queues[0], limit, self._slice(deadline, 1))
        else:
            taken = self._sweep(tuple(queues), limit)
        while not taken and (left := deadline - self.clock.monotonic()) > 0:
            # Less than a second is too short for a long poll: wait here and look once more.
            pause = self._pause if left >= 1 and self._longest_wait else self._pause or 1.0
            if pause:
                self.clock.sleep(min(left, pause))
            for queue in queues:
                taken = self._poll(queue, limit, self._slice(deadline, len(queues)))
                if taken:
                    break
        return taken

    def _slice(self, deadline: float, queues: int) -> int:
        """Return the whole seconds of a long poll: all that is left for one queue, one second if there are several."""
        left = int(deadline - self.clock.monotonic())
        return max(0, min(self._longest_wait, left, left if queues == 1 else 1))

    def _sweep(self, queues: tuple[str, ...], limit: int) -> list[Delivery]:
        """Take what is there, queue by queue."""
        order, skips = queues, self._skips.get(queues, 0)
        if skips >= _MAX_SKIPS:
            turn = random.randrange(1, len(queues))
            order, skips = queues[turn:] + queues[:turn], -1
        taken: list[Delivery] = []
        for queue in order:
            if len(taken) >= limit:
                skips += 1
                break
            taken += self._poll(queue, limit - len(taken), 0)
        else:
            skips = 0
        if len(queues) > 1:
            self._skips[queues] = skips
        return taken

    def _poll(self, queue: str, limit: int, wait: int) -> list[Delivery]:
        """Receive from one queue, going on while full batches come."""
        taken: list[Delivery] = []
        while True:
            wanted = min(limit - len(taken), SQS_MAX_BATCH)
            latest = self.clock.monotonic() + wait
            try:
                answer = self._calls.call(
                    queue,
                    "receive_message",
                    MaxNumberOfMessages=wanted,
                    WaitTimeSeconds=wait,
                    VisibilityTimeout=math.ceil(self.visibility_timeout),
                    MessageSystemAttributeNames=SYSTEM_ATTRIBUTES,
                )
            except OperationalError:
                if not taken:
                    raise
                return taken
            messages = answer.get("Messages", ())
            # A poll that takes longer than it was to stood still, here or on its way, and the leases went on.
            now, leased_at = self.clock.time(), min(latest, self.clock.monotonic())
            taken += [delivery_of(queue, message, now, leased_at) for message in messages]
            if len(messages) < wanted or len(taken) >= limit:
                return taken
            wait = 0

    # Settling

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Delete, release or dead-letter each delivery; those whose lease was lost are left alone.

        Raises `OperationalError` after everything that could be done has been done.
        """
        gone, problem = self._move([settlement for settlement in settlements if settlement.action == "dead"])
        gone += [settlement.delivery for settlement in settlements if settlement.action == "ack"]
        released = [
            (settlement.delivery, settlement.delay) for settlement in settlements if settlement.action == "release"
        ]
        lost = self._finish([*self._deletions(gone), *self._changes(released)])
        if lost or problem:
            raise lost or problem  # type: ignore[misc]

    def extend(self, deliveries: Sequence[Delivery], seconds: float) -> None:
        """Lease deliveries for this much longer, as far as 12 hours from their receipt."""
        problem = self._finish(self._changes([(delivery, seconds) for delivery in deliveries]))
        if problem:
            raise problem

    def _deletions(self, deliveries: Sequence[Delivery]) -> list[Job]:
        return jobs_of(
            "delete_message_batch",
            [
                (delivery.queue, {"Id": str(number), "ReceiptHandle": delivery.receipt})
                for number, delivery in enumerate(deliveries)
            ],
        )

    def _changes(self, deliveries: Sequence[tuple[Delivery, float]]) -> list[Job]:
        return jobs_of(
            "change_message_visibility_batch",
            [
                (
                    delivery.queue,
                    {
                        "Id": str(number),
                        "ReceiptHandle": delivery.receipt,
                        "VisibilityTimeout": self._visibility(delivery, seconds),
                    },
                )
                for number, (delivery, seconds) in enumerate(deliveries)
            ],
        )

    def _visibility(self, delivery: Delivery, seconds: float) -> int:
        """Return whole seconds, rounded up, within what is left of the 12 hours since the receipt."""
        received = delivery.attributes.get("received_at")
        elapsed = 0.0 if received is None else max(0.0, self.clock.time() - received)
        return max(0, min(math.ceil(seconds), int(SQS_MAX_VISIBILITY - VISIBILITY_MARGIN - elapsed)))

    def _finish(self, jobs: Sequence[Job]) -> OperationalError | None:
        """Run jobs that settle; return what went wrong, lost leases aside."""
        problem: OperationalError | None = None
        shorter: list[tuple[str, Entry]] = []
        for job, outcome in zip(jobs, aws.together(self._calls.run, jobs), strict=True):
            problem = problem or outcome.error
            for entry, failed in outcome.failed:
                if entry.get("VisibilityTimeout", 0) > _SAFE_VISIBILITY and "InvalidParameter" in str(failed["Code"]):
                    # More of the 12 hours is gone than we know of. Being early is harmless: it is released again.
                    shorter.append((job.queue, {**entry, "VisibilityTimeout": entry["VisibilityTimeout"] // 2}))
                elif not str(failed["Code"]).endswith(_STALE):
                    problem = problem or OperationalError(
                        f"SQS {job.operation} of queue {job.queue}: {failure_of(failed)}"
                    )
        if shorter:
            problem = self._finish(jobs_of("change_message_visibility_batch", shorter)) or problem
        return problem

    # Dead letters

    def _move(self, settlements: Sequence[Settlement]) -> tuple[list[Delivery], OperationalError | None]:
        """Copy deliveries to their dead-letter queues; return those that were copied and what went wrong."""
        if not settlements:
            return [], None
        # Renewing the lease first shows who has lost it: a copy of a message that runs elsewhere would be wrong.
        held = set(range(len(settlements)))
        problem: OperationalError | None = None
        renewals = self._changes([(item.delivery, _MOVE_LEASE) for item in settlements])
        for outcome in aws.together(self._calls.run, renewals):
            problem = problem or outcome.error
            held -= {int(entry["Id"]) for entry in (*outcome.unsent, *(entry for entry, _ in outcome.failed))}
        copied, failure = self.bury([settlements[n] for n in sorted(held)])
        return copied, problem or failure

    def bury(self, settlements: Sequence[Settlement]) -> tuple[list[Delivery], OperationalError | None]:
        """Copy deliveries to their dead-letter queues and do no more: who holds the lease is the caller's to know.

        Return those that were copied, and what went wrong with the others.
        """
        copies = [
            (self._queues.dead(settlement.delivery.queue), letter_of(str(number), settlement))
            for number, settlement in enumerate(settlements)
        ]
        copied = set(range(len(settlements)))
        problem: OperationalError | None = None
        for outcome in aws.together(self._calls.run, jobs_of("send_message_batch", copies)):
            problem = problem or outcome.error
            copied -= {int(entry["Id"]) for entry in (*outcome.unsent, *(entry for entry, _ in outcome.failed))}
            if outcome.failed:
                problem = problem or OperationalError(
                    f"a message was not dead-lettered: {failure_of(outcome.failed[0][1])}"
                )
        return [settlements[n].delivery for n in sorted(copied)], problem

    def dead_letters(self, queue: str, limit: int = 100) -> list[DeadLetter]:
        """Show the newest of up to 1,000 dead letters, which stay where they are; each look counts as a receive."""
        letters: list[DeadLetter] = []
        with contextlib.closing(self.walk_dead_letters(queue)) as pages:
            for page in pages:
                letters += page
                if len(letters) >= _MAX_PEEK:
                    break
        newest = sorted(letters, key=lambda letter: letter.at, reverse=True)[:limit]
        return [letter._replace(receipt=None) for letter in newest]

    def walk_dead_letters(self, queue: str) -> Generator[list[DeadLetter], None, None]:
        """Yield the dead letters that a queue has now, ten at a time; see `Broker.walk_dead_letters`.

        They are leased until the walk ends, which counts as a receive of each.
        """
        dead = self._queues.dead(queue)
        if self._queues.find(dead) is None:
            return
        walk = Walk(self._calls, self.clock, queue, dead)
        try:
            yield from walk.pages()
        finally:
            problem = self._finish(self._changes([(delivery, 0.0) for delivery in walk.held()]))
        if problem:
            raise problem

    def redrive(self, letters: Sequence[DeadLetter]) -> int:
        """Send dead letters back to their queue, then delete them; see `Broker.redrive`."""
        problem, refused = None, set[str]()
        try:
            self.send([message_of(letter) for letter in letters])
        except SendError as error:
            problem, refused = error, set(error.failures)
        sent = [letter for letter in letters if letter.message_id not in refused]
        self.remove_dead_letters(sent)
        if problem:
            raise problem
        return len(sent)

    def remove_dead_letters(self, letters: Sequence[DeadLetter]) -> int:
        """Delete dead letters for good; return how many."""
        problem = self._finish(self._deletions([letter.receipt for letter in letters]))
        if problem:
            raise problem
        for letter in letters:
            letter.receipt.receipt = None  # the walk has nothing to give free any more
        return len(letters)

    # Looking at queues

    def counts(self, queue: str) -> QueueCounts:
        """Count a queue's messages, as SQS knows them: a minute late at times. Lost ones count as the queue's own."""
        own, dead = self._count(queue), self._count(self._queues.dead(queue))
        if (lost := self._queues.find_lost(queue)) is not None:
            own = QueueCounts(*(mine + more for mine, more in zip(own, self._count(lost), strict=True)))
        return own._replace(dead=dead.ready + dead.delayed + dead.in_flight)

    def _count(self, queue: str) -> QueueCounts:
        """Count one queue; a missing one is empty."""
        if self._queues.find(queue) is None:
            return QueueCounts(0, 0, 0, 0)
        try:
            answer = self._calls.call(queue, "get_queue_attributes", AttributeNames=COUNTERS)
        except aws.ServiceError as error:
            if not (is_lost(queue) and is_missing(error)):  # a configured URL may be of a queue that was never made
                raise
            return QueueCounts(0, 0, 0, 0)
        ready, delayed, in_flight = (int(answer["Attributes"].get(name, 0)) for name in COUNTERS)
        return QueueCounts(ready, delayed, in_flight, 0)

    def purge(self, queue: str) -> int:
        """Remove every message of a queue, leased and lost ones too, within a minute; return about how many.

        Raises `OperationalError` for a second purge within a minute.
        """
        if self._queues.find(queue) is None:
            return 0
        counts = self._count(queue)
        try:
            self._calls.call(queue, "purge_queue")
        except aws.ServiceError as error:
            if is_lost(queue) and is_missing(error):
                return 0
            if not error.code.endswith("PurgeQueueInProgress"):
                raise
            raise OperationalError(
                f"queue {queue!r} was purged less than {SQS_PURGE_INTERVAL} s ago; SQS allows one purge in that time"
            ) from error
        lost = None if is_lost(queue) else self._queues.find_lost(queue)
        return counts.ready + counts.delayed + (0 if lost is None else self.purge(lost))

    def queues(self) -> list[str]:
        """Name the predefined queues, or all queues of the account and region that have the prefix."""
        return self._queues.listed()
