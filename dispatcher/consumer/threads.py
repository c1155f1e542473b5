"""The threads pool: threads that share one consumer, what it has received and what it is to record.

There is no thread for either. Whoever finds too little in hand receives for all; whoever meets outcomes that are due
records and settles them for all. So both cost as little as in one thread, and who ends a run has the next one at hand.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from dispatcher.brokers.base import Delivery
from dispatcher.consumer.loop import FAULT
from dispatcher.consumer.pools import MakeLoop
from dispatcher.exceptions import OperationalError
from dispatcher.execution import leasing
from dispatcher.execution.executor import FLUSH_AFTER, Executor
from dispatcher.execution.limits import ThreadLimits
from dispatcher.execution.run import Kind, Outcome, Run, ShutdownNow, shut_down_now

logger = logging.getLogger("dispatcher.worker")

#: For how long outcomes are gathered while much is ready, in seconds.
_GATHER: Final = FLUSH_AFTER / 2
#: For how long a thread waits for messages beside another one, in seconds.
_BESIDE: Final = 0.02
#: How often a thread that may run nothing looks whether outcomes wait for runs that take longer than usual, in seconds.
_LOOK: Final = 0.5


class ThreadPool:
    """Runs tasks in threads that share one consumer."""

    def __init__(self, make_loop: MakeLoop, concurrency: int) -> None:
        self._consumer = consumer = make_loop(ThreadLimits(), 0, None, None)
        self._concurrency = concurrency
        # One thread more than may run something, so that receiving and recording keep none from it.
        self._executors = [Executor(consumer.env) for _ in range(concurrency + 1)]
        self._threads: list[threading.Thread] = []
        self._failed = False
        #: guards all that follows; whoever has nothing to do waits for a change
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        #: what may start: runs alone, and the members of a FIFO group together
        self._ready: deque[list[Run]] = deque()
        #: threads that have nothing to do, that run something, and that receive; how much the last ask for
        self._idle = self._busy = self._receiving = self._asked = 0
        #: how many messages are to be in hand; whether the last receipt brought all it asked for, or anything
        self._target = concurrency * consumer._batch_size()
        self._plenty = self._coming = False
        #: whether a thread sits out an outage for all
        self._pausing = False
        #: what is to be recorded, since when the first of it waits, and whether it was left to who has nothing to do
        self._decided: list[Run] = []
        self._since = 0.0
        self._left = False

    def run(self) -> int:
        """Run until stopped; the exit code is 1 where a thread could not go on."""
        consumer = self._consumer
        self._threads = [
            threading.Thread(target=self._consume, args=(executor,), name=f"dispatcher-{number}", daemon=True)
            for number, executor in enumerate(self._executors)
        ]
        consumer.start_threads()
        for thread in self._threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in self._threads):
                self._watch()
            consumer.executor.close()
            consumer.stop_threads()
        except ShutdownNow:
            # A thread cannot be ended: its messages go back, and the process ends without it.
            self.stop()
            self._wake()
            consumer.leases.give_back_all()
        return 1 if self._failed else 0

    def stop(self) -> None:
        """Finish the runs, hand back the rest."""
        self._consumer.stop()

    def terminate(self) -> None:
        """Hand everything back now."""
        shut_down_now()

    def _watch(self) -> None:
        # Joining in slices lets the main thread see signals.
        for thread in self._threads:
            thread.join(timeout=0.2)
            if self._consumer.stopping:
                self._wake()

    def _wake(self) -> None:
        with self._lock:
            self._changed.notify_all()

    # -- what each thread does

    def _consume(self, executor: Executor) -> None:
        try:
            while not self._consumer.stopping:
                self._cycle(executor)
            self._consumer.leases.give_back_unstarted()
            self._record()
            self._consumer._give_up_owed()
        except BaseException:  # no thread must go missing without a word
            logger.critical("a thread cannot go on; the worker stops", exc_info=True)
            self._failed = True
            self.stop()
        finally:
            executor.close_loop()

    def _cycle(self, executor: Executor) -> None:
        """Run what is ready; else record what is decided; else receive, unless others do; else wait for them.

        Where little is ready somebody receives at once, so that there is more before the last run has started.
        """
        consumer, runs, limit, wait, records = self._consumer, None, 0, 0.0, False
        with self._lock:
            low, full = self._is_low(), self._busy >= self._concurrency
            if self._ready and not full and (self._idle or not low):
                runs = self._ready.popleft()
                self._busy += 1
                if low:
                    self._changed.notify()  # whoever has nothing to do can receive
            elif self._decided and (self._left or not self._ready or time.monotonic() - self._since > _GATHER):
                records = True
            elif low or not full:
                limit, wait = self._share(full)
            if limit:
                self._receiving += 1
                self._asked += limit
            elif runs is None and not records and not consumer.owes:
                self._idle += 1
                self._changed.wait(_GATHER if self._decided else _LOOK if full else None)
                self._idle -= 1
                return
        if runs is not None:
            try:
                self._work(executor, runs)
            finally:
                with self._lock:
                    self._busy -= 1
        elif records:
            self._record()
        elif limit:
            self._receive(limit, wait)
        else:
            consumer._give_up_owed()

    # -- receiving

    def _is_low(self) -> bool:
        """Say whether so little is ready that it is time to ask for more."""
        return self._plenty and not self._receiving and 2 * len(self._ready) < self._target - self._concurrency

    def _share(self, full: bool) -> tuple[int, float]:
        """Return how many messages a thread is to ask for, and for how long it may wait for the first.

        One thread waits. Others ask beside it while messages come, for a moment only: what it gets may be for them.
        """
        room = self._target - len(self._ready) - self._busy - self._asked
        limit = min(room, self._consumer.longest_batch())
        if not self._receiving:
            return max(1, limit), 0.0 if self._ready or full else self._consumer.broker.poll_wait
        if self._coming:
            return max(1, limit), _BESIDE
        return (max(0, limit) if self._plenty else 0), 0.0

    def _receive(self, limit: int, wait: float) -> None:
        """Receive for all."""
        consumer = self._consumer
        deliveries: Sequence[Delivery] = ()
        ready: list[list[Run]] = []
        try:
            consumer.read_lost()
            deliveries = consumer.receive(limit, wait)
            if deliveries:
                ready = self._admit(deliveries)
            consumer.note_success()
        except OperationalError as error:
            consumer.leases.give_back_unstarted()
            self._sit_out(error)
        finally:
            with self._lock:
                self._receiving -= 1
                self._asked -= limit
                self._plenty = len(deliveries) >= limit
                self._coming = bool(deliveries) and not consumer.broker.features.charged
                self._ready += ready
                # This thread starts one of them; somebody has to receive.
                self._changed.notify(max(0, len(ready) - (self._receiving > 0)))

    def _sit_out(self, error: OperationalError) -> None:
        """Pause for all threads that meet an outage; the others can run and record what is there, and ask no more."""
        with self._lock:
            others, self._pausing = self._pausing, True
            self._plenty = self._coming = False
        if not others:
            try:
                self._consumer.pause(error)
            finally:
                self._pausing = False

    def _admit(self, deliveries: Sequence[Delivery]) -> list[list[Run]]:
        """Return what may start of the deliveries."""
        consumer = self._consumer
        consumer.hold(deliveries)
        try:
            runs = consumer.executor.prepare(deliveries)
        except OperationalError:
            raise
        except BaseException:  # as in the consumer loop; nothing ends a thread but what is raised for its run
            logger.exception(FAULT, len(deliveries))
            consumer.hand_back_later(deliveries)
            return []
        decided = [run for run in runs if run.outcome is not None and run.delivery.order is None and self._keep(run)]
        if decided:
            self._decide(decided)
        return _apart([run for run in runs if run.outcome is None or run.delivery.order is not None])

    # -- running

    def _keep(self, run: Run) -> bool:
        return not self._consumer.stopping and self._consumer.leases.begin(run.delivery, run)

    def _work(self, executor: Executor, runs: list[Run]) -> None:
        if runs[0].delivery.order is not None:
            self._record()
            self._settle(runs, lambda runs: executor.work_off(runs, self._keep))
            return
        [run] = runs
        if self._decided and self._is_due(run):
            self._have_recorded(run)
        self._consumer._give_up_owed()  # as this thread receives nothing now
        if self._keep(run):
            try:
                executor.execute(run)
            except BaseException:  # as above
                logger.exception(FAULT, 1)
            if run.outcome is None:
                run.outcome = Outcome(Kind.HANDED_BACK, delay=executor.env.backoff(run.delivery.receive_count))
            self._decide(runs)

    def _decide(self, runs: Sequence[Run]) -> None:
        with self._lock:
            if not self._decided:
                self._since = time.monotonic()
            self._decided += runs

    def _is_due(self, run: Run) -> bool:
        """Say whether outcomes should not wait for the end of this run as well.

        They wait for more only while more is ready than all threads can start.
        """
        if len(self._ready) < self._concurrency or not run.plain or time.monotonic() - self._since > _GATHER:
            return True
        assert run.task is not None
        expected = self._consumer.env.durations.get(run.task.name)
        return expected is None or expected > FLUSH_AFTER

    # -- recording

    def _have_recorded(self, run: Run) -> None:
        """Record what is decided, or leave it to whoever has nothing to do, if this run cannot harm it."""
        with self._lock:
            self._left = self._idle > 0 and run.plain
            self._changed.notify(self._left)
        if not self._left:
            self._record()

    def _record(self) -> None:
        """Record and settle what is decided."""
        with self._lock:
            runs, self._decided, self._left = self._decided, [], False
        if runs:
            self._settle(runs, self._consumer.executor.finish)

    def _settle(self, runs: list[Run], finish: Callable[[list[Run]], object]) -> None:
        """Have runs settled, and let go of their messages whatever comes of it."""
        consumer, begun = self._consumer, time.monotonic()
        deliveries = [run.delivery for run in runs]
        consumer.begin_batch(deliveries)
        try:
            try:
                finish(runs)
            except OperationalError:
                raise
            except BaseException:  # as above
                logger.exception(FAULT, len(runs))
                consumer.hand_back_later(deliveries)
        except OperationalError as error:
            logger.error("%d runs cannot be settled, their messages come again: %s", len(runs), error)
            consumer.leases.give_back_unstarted()
        finally:
            consumer.leases.drop(deliveries)
            leasing.forget(consumer.env, runs)
        consumer.note_runs(runs, max(time.monotonic() - begun, sum([run.duration for run in runs])))
        self._target = self._concurrency * consumer._batch_size()


def _apart(runs: Sequence[Run]) -> list[list[Run]]:
    """Return runs each alone, but the members of a FIFO group together."""
    apart: list[list[Run]] = []
    groups: dict[str, list[Run]] = {}
    for run in runs:
        order = run.delivery.order
        if order is not None and order in groups:
            groups[order].append(run)
            continue
        apart.append([run])
        if order is not None:
            groups[order] = apart[-1]
    return apart
