"""The consumer loop: receive, run, settle, again; one per thread that runs tasks."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from dispatcher.backends.base import ResultBackend
from dispatcher.brokers.base import Broker, Delivery, Settlement, Together
from dispatcher.consumer.leases import SLOW_RUN, Leases
from dispatcher.consumer.lost import LostReader
from dispatcher.consumer.terminations import Terminate, Terminations
from dispatcher.exceptions import OperationalError
from dispatcher.execution.environment import Environment, WorkerRates
from dispatcher.execution.executor import Executor
from dispatcher.execution.limits import LimitKeeper
from dispatcher.execution.run import Run

logger = logging.getLogger("dispatcher.worker")

#: How much work a consumer takes at a time while runs are quick, in seconds, characters and messages. Redis takes twice
#: the time for a message of 100 KB whose reply has ten megabytes.
_BATCH_SECONDS = 0.05
_BATCH_LENGTH = 1_000_000
_MAX_BATCH = 100
#: Pauses while the broker is away: doubling from the first to the last, in seconds, with jitter.
_FIRST_PAUSE, _LAST_PAUSE = 0.2, 15.0
FAULT = "%d messages could not be processed and go back: this is a fault of the library"
#: How soon a pause notices that it is to end, in seconds.
_NOTICE = 0.1


class BrokerTransport:
    """Settles the executor's decisions on a broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Carry out settlements."""
        self._broker.settle(settlements)

    def together(self, backend: ResultBackend) -> Together | None:
        """Return what runs a function in one transaction of the broker and the backend, where they are one store."""
        return self._broker.together(backend.store)

    def removals(self, deliveries: Sequence[Delivery], backend: ResultBackend) -> Sequence[Any]:
        """Return what removes messages with their outcomes where one server has both."""
        return self._broker.removals(deliveries, backend.store)

    @property
    def lease(self) -> float | None:
        """The broker's visibility timeout."""
        return self._broker.visibility_timeout

    @property
    def doubles(self) -> bool:
        """Whether the broker delivers a message twice at a time."""
        return self._broker.features.doubles

    def longest_release(self, delivery: Delivery) -> float | None:
        """Return the broker's longest release delay."""
        return self._broker.features.max_release

    def retention_of(self, delivery: Delivery) -> float | None:
        """Return the retention of a delivery's queue."""
        return self._broker.retention_of(delivery.queue)

    def budget_spent(self, delivery: Delivery) -> float:
        """Return the share of the broker's budget."""
        return self._broker.budget_spent(delivery)


class BatchTransport(threading.local, BrokerTransport):
    """A consumer's: acknowledgements that end a batch are kept for the call that receives the next one.

    Threads that share it have batches of their own.
    """

    def __init__(self, broker: Broker, leases: Leases) -> None:
        BrokerTransport.__init__(self, broker)
        self._leases = leases
        #: what is yet to be carried out
        self.owed: list[Settlement] = []
        self._unsettled = 0

    def begin(self, deliveries: Sequence[Delivery]) -> None:
        """Take note of the deliveries of a batch."""
        self._unsettled = len(deliveries)

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Carry out settlements, unless they are the batch's last and acknowledge."""
        self._unsettled -= len(settlements)
        if self._unsettled == 0 and all(each.action == "ack" for each in settlements):
            self.owed += settlements
            self._leases.drop([each.delivery for each in settlements])  # whatever happens now, they do not go back
        else:
            super().settle(settlements)


class ConsumerLoop:
    """Takes deliveries from queues through an executor until told to stop.

    ``prefetch`` is how many messages it takes at a time; more while they are quick. ``max_tasks`` (runs) and
    ``over_memory`` end the loop. ``terminate`` ends a run whose task was revoked so; without it none can be ended.
    ``reads_lost`` makes it decide on lost messages too, as one consumer of a worker does.
    """

    def __init__(
        self,
        app: Any,
        queues: Sequence[str],
        limits: LimitKeeper,
        *,
        hostname: str,
        prefetch: int = 4,
        max_tasks: int | None = None,
        over_memory: Callable[[], bool] | None = None,
        concurrency: int = 1,
        on_tick: Callable[[], None] | None = None,
        on_runs: Callable[[Sequence[Run]], None] | None = None,
        terminate: Terminate | None = None,
        worker_rates: WorkerRates | None = None,
        reads_lost: bool = False,
    ) -> None:
        self.app = app
        self.queues = list(queues)
        self.prefetch = prefetch
        self.max_tasks = max_tasks
        self.over_memory = over_memory
        self.on_runs = on_runs
        broker: Broker = app.broker
        self.broker = broker
        broker.bring_records(app.backend.store)
        self.leases = Leases(broker, on_tick)
        self._transport = BatchTransport(broker, self.leases)
        self.terminations = Terminations(app.backend, self.leases.running, terminate or (lambda run, signum: False))
        self.env = Environment(
            app=app, backend=app.backend, transport=self._transport, limits=limits, clock=app.clock,
            hostname=hostname, worker_rates=worker_rates,
        )  # fmt: skip
        self.executor = Executor(self.env, concurrency=concurrency)
        self._lost = LostReader(broker, self.queues, self.env) if reads_lost else None
        self.ran = 0
        self._stopping = False
        self._average = 0.0
        #: the mean length of the bodies of the last batch
        self._length = 0.0
        self._failures = 0

    def stop(self) -> None:
        """Ask the loop to end: what runs is finished, what was not started goes back.

        Callable from a signal handler: it takes no lock that the interrupted code may hold.
        """
        self._stopping = True
        self.leases.close()

    @property
    def stopping(self) -> bool:
        """Whether the loop was asked to end."""
        return self._stopping

    def run(self) -> None:
        """Consume until stopped, or until ``max_tasks`` runs or too much memory."""
        self.start_threads()
        try:
            while not self._stopping and not self._worn_out():
                self._cycle()
        finally:
            with contextlib.ExitStack() as stack:  # a signal may strike in each of these
                stack.callback(self.executor.close)
                stack.callback(self.stop_threads)
                self._give_up_owed()

    def start_threads(self) -> None:
        """Start what looks after leases and revocations; call it after a fork."""
        self.leases.start()
        self.terminations.start()

    def stop_threads(self) -> None:
        """End both."""
        try:
            self.terminations.stop()
        finally:
            self.leases.stop()

    def read_lost(self) -> None:
        """Decide on messages that the transport gave up, if this consumer is the one to do so and it is time."""
        if self._lost is not None and self._lost.is_due():
            self._settle_owed()
            self._lost.look()

    def _cycle(self) -> None:
        try:
            self.read_lost()
            deliveries = self.receive(self._batch_size(), self.broker.poll_wait)
            if deliveries:
                self._process(deliveries)
            self.note_success()
        except OperationalError as error:
            self.pause(error)

    def receive(self, size: int, wait: float) -> list[Delivery]:
        """Receive so many messages at most, waiting for the first, and acknowledge what is yet to be."""
        owed = self._transport.owed
        if owed and self._failures:  # it may be these that are refused, which must not keep us from receiving
            self._settle_owed()
            deliveries = self.broker.receive(self.queues, size, wait)
            self._give_up_owed()
        else:
            deliveries = self.broker.settle_and_receive(owed, self.queues, size, wait)
            owed.clear()
        return deliveries

    @property
    def owes(self) -> bool:
        """Whether this thread has acknowledgements left that go with what it receives next."""
        return bool(self._transport.owed)

    def _settle_owed(self) -> None:
        """Settle them now; raise `OperationalError` where that fails for the first time."""
        try:
            if self._transport.owed:
                self.broker.settle(self._transport.owed)
                self._transport.owed.clear()
        except OperationalError:
            if not self._failures:
                raise

    def _give_up_owed(self) -> None:
        """Settle them now or never."""
        owed = self._transport.owed
        try:
            if owed:
                self.broker.settle(owed)
        except OperationalError as error:
            logger.warning("%d messages that are done with come again: %s", len(owed), error)
        owed.clear()

    def _process(self, deliveries: Sequence[Delivery]) -> None:
        self.hold(deliveries)
        self.begin_batch(deliveries)
        begun = time.monotonic()
        try:
            runs = self.executor.process(deliveries, self._keep)
        except OperationalError:
            self.leases.give_back_unstarted()
            raise
        except Exception:  # a fault of ours, or one that a message was made to cause: it must not end the worker
            logger.exception(FAULT, len(deliveries))
            self.hand_back_later(deliveries)
            return
        except BaseException:  # a cold shutdown; what the executor settled already is left alone
            self.leases.give_back_all()
            raise
        finally:
            if self._stopping:
                self.leases.give_back_unstarted()
            self.leases.drop(deliveries)
        self.note_runs(runs, time.monotonic() - begun)

    def hold(self, deliveries: Sequence[Delivery]) -> None:
        """Take deliveries that were just received in hand."""
        self.leases.hold(deliveries)
        self._length = sum([len(each.body) for each in deliveries]) / len(deliveries)

    def begin_batch(self, deliveries: Sequence[Delivery]) -> None:
        """Take note of the deliveries that this thread is about to settle."""
        self._transport.begin(deliveries)

    def note_runs(self, runs: Sequence[Run], seconds: float) -> None:
        """Take note of runs that are settled, and of how long those that were started took together."""
        ran = len([run for run in runs if run.place is not None])
        self.ran += ran
        per_run = seconds / max(1, ran)
        self._average = per_run if not self._average else self._average + 0.3 * (per_run - self._average)
        if self.on_runs is not None:
            self.on_runs(runs)

    def hand_back_later(self, deliveries: Sequence[Delivery]) -> None:
        """Release deliveries that could not be processed and are not to be acknowledged, each with its own pause.

        The pauses grow with the receive count and differ, so that one message cannot hold up its neighbours for good.
        """
        self.leases.drop(deliveries)
        done = {id(each.delivery) for each in self._transport.owed}
        back = [each for each in deliveries if id(each) not in done]
        self.broker.settle([Settlement(each, "release", self.env.backoff(each.receive_count)) for each in back])

    def _keep(self, run: Run) -> bool:
        return not self._stopping and self.leases.begin(run.delivery, run)

    def _batch_size(self) -> int:
        """Return how many messages one thread that runs tasks is to have in hand."""
        size = self.prefetch
        if self._average:
            # What cannot start within a second goes back anyway, and each time costs a receipt.
            quick = min(_BATCH_SECONDS / self._average, _BATCH_LENGTH / max(self._length, 1.0))
            size = max(min(size, int(SLOW_RUN / self._average)), int(quick))
        if self.max_tasks is not None:
            size = min(size, self.max_tasks - self.ran)
        return max(1, min(size, _MAX_BATCH))

    def longest_batch(self) -> int:
        """Return how many messages are good to receive at once."""
        return max(1, min(_MAX_BATCH, int(_BATCH_LENGTH / max(self._length, 1.0))))

    def _worn_out(self) -> bool:
        if self.max_tasks is not None and self.ran >= self.max_tasks:
            return True
        return self.over_memory is not None and self.over_memory()

    def note_success(self) -> None:
        """Start the pauses anew with the next call that fails."""
        self._failures = 0

    def pause(self, error: OperationalError) -> None:
        """Wait after a call that failed, longer each time in a row; ends early when the loop is to end."""
        self._failures += 1
        pause = min(_LAST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failures - 1, 10)) * random.uniform(0.5, 1.0)
        logger.error("the broker or backend is out of reach, trying again in %.1f s: %s", pause, error)
        until = time.monotonic() + pause
        while not self._stopping and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _NOTICE))
