"""The pools that run in one process: solo, threads and asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from dispatcher.brokers.base import Delivery
from dispatcher.consumer.loop import FAULT, ConsumerLoop
from dispatcher.consumer.terminations import Terminate
from dispatcher.exceptions import OperationalError
from dispatcher.execution.limits import AlarmLimits, NoLimits
from dispatcher.execution.run import Kind, Outcome, Run, ShutdownNow, shut_down_now

logger = logging.getLogger("dispatcher.worker")

MakeLoop = Callable[[Any, int, Callable[[], None] | None, Terminate | None], ConsumerLoop]


class Pool(Protocol):
    """Runs consumer loops until stopped."""

    def run(self) -> int:
        """Run until stopped; return the exit code."""
        ...

    def stop(self) -> None:
        """Begin a warm shutdown; callable from a signal handler."""
        ...

    def terminate(self) -> None:
        """Begin a cold shutdown; callable from a signal handler."""
        ...


class SoloPool:
    """Runs one task at a time, in the main thread."""

    def __init__(self, make_loop: MakeLoop) -> None:
        self._limits = AlarmLimits()
        self._loop = make_loop(self._limits, 0, None, None)

    def run(self) -> int:
        """Run until stopped."""
        self._limits.install()
        try:
            self._loop.run()
        except ShutdownNow:
            logger.info("handed back what was not finished")
        return 0

    def stop(self) -> None:
        """Finish the run, hand back the rest."""
        self._loop.stop()

    def terminate(self) -> None:
        """Hand everything back now."""
        self._loop.stop()  # a task may swallow the exception
        shut_down_now()


class AsyncioPool:
    """Runs ``async def`` tasks together in one event loop, and plain tasks in threads beside it.

    The main thread receives; the event loop has a thread of its own, and so has whatever records and settles, because
    those wait for the network.
    """

    def __init__(self, make_loop: MakeLoop, concurrency: int) -> None:
        self._consumer = make_loop(NoLimits(), 0, None, self._terminate)
        self._concurrency = concurrency
        self._done: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._slots = threading.Semaphore(concurrency)
        self._coroutines: dict[int, Any] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        #: runs that were cancelled because their tasks were revoked
        self._revoked: dict[int, signal.Signals] = {}
        self._loop = asyncio.new_event_loop()

    def run(self) -> int:
        """Run until stopped."""
        consumer = self._consumer
        loop_thread = threading.Thread(target=self._run_loop, name="dispatcher-asyncio", daemon=True)
        finisher = threading.Thread(target=self._finish, name="dispatcher-finisher", daemon=True)
        loop_thread.start()
        finisher.start()
        consumer.start_threads()
        try:
            while not consumer.stopping:
                self._cycle()
            for _ in range(self._concurrency):  # wait for what runs
                while not self._slots.acquire(timeout=0.2):
                    pass
        except ShutdownNow:
            consumer.stop()
            consumer.leases.give_back_all()
            for future in list(self._coroutines.values()):
                future.cancel()
        finally:
            self._done.put(None)
            with contextlib.ExitStack() as stack:  # a signal may strike in each of these; the last is called first
                stack.callback(loop_thread.join, timeout=5)
                stack.callback(self._loop.call_soon_threadsafe, self._loop.stop)
                stack.callback(consumer.executor.close)
                stack.callback(consumer.stop_threads)
                finisher.join(timeout=10)
        return 0

    def stop(self) -> None:
        """Finish the runs, hand back the rest."""
        self._consumer.stop()

    def terminate(self) -> None:
        """Hand everything back now."""
        shut_down_now()

    def _run_loop(self) -> None:
        loop = self._loop
        try:
            loop.run_forever()
            # Coroutines end in their own time; the process does not wait for this thread.
            loop.run_until_complete(_cancel_others())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    def _cycle(self) -> None:
        consumer = self._consumer
        consumer.read_lost()
        free = self._take_slots()
        if not free:
            return
        started = 0
        try:
            deliveries = consumer.broker.receive(consumer.queues, free, consumer.broker.poll_wait)
            if deliveries:
                consumer.leases.hold(deliveries)
                for run in self._admit(deliveries):
                    # A slot goes with the run, and comes back when it is settled.
                    started += 1
                    self._start(run)
            consumer.note_success()
        except OperationalError as error:
            consumer.pause(error)
        finally:
            for _ in range(free - started):
                self._slots.release()

    def _admit(self, deliveries: Sequence[Delivery]) -> list[Run]:
        """Return the runs of deliveries that are still ours after admission; the others have gone back."""
        consumer = self._consumer
        try:
            runs = consumer.executor.prepare(deliveries)
        except Exception:  # as in the consumer loop
            logger.exception(FAULT, len(deliveries))
            consumer.hand_back_later(deliveries)
            return []
        if consumer.stopping:
            consumer.leases.give_back_unstarted()
        return [run for run in runs if consumer.leases.begin(run.delivery, run)]

    def _take_slots(self) -> int:
        """Take every free slot, waiting a moment for the first."""
        if not self._slots.acquire(timeout=0.2):
            return 0
        taken = 1
        while taken < min(self._concurrency, 100) and self._slots.acquire(blocking=False):
            taken += 1
        return taken

    def _start(self, run: Run) -> None:
        if run.outcome is not None:
            self._done.put(run)
        elif run.task is not None and run.task._is_async:
            future = asyncio.run_coroutine_threadsafe(self._run_coroutine(run), self._loop)
            self._coroutines[id(run)] = future
            future.add_done_callback(lambda done: self._coroutine_ended(run, done))
        else:
            # Not asyncio's own threads: those are few, and a process cannot end before they do.
            threading.Thread(target=self._run_plain, args=(run,), name="dispatcher-plain", daemon=True).start()

    async def _run_coroutine(self, run: Run) -> None:
        if id(run) in self._revoked:
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks[id(run)] = task
        try:
            await self._consumer.executor.execute_async(run)
        finally:
            del self._tasks[id(run)]

    def _terminate(self, run: Run, signum: signal.Signals) -> bool:
        """Cancel a coroutine whose task was revoked; one that goes on all the same keeps its outcome."""
        if run.task is None or not run.task._is_async:
            return False
        self._loop.call_soon_threadsafe(self._cancel, run, signum)
        return True

    def _cancel(self, run: Run, signum: signal.Signals) -> None:
        if id(run) in self._coroutines:
            self._revoked[id(run)] = signum
        task = self._tasks.get(id(run))
        if task is not None:  # else its turn is yet to come, and it does not begin
            task.cancel()

    def _run_plain(self, run: Run) -> None:
        error: BaseException | None = None
        try:
            self._consumer.executor.execute(run)
        except BaseException as raised:  # noqa: BLE001 - its slot has to come back whatever it is
            error = raised
        self._ended(run, error)

    def _coroutine_ended(self, run: Run, done: Any) -> None:
        self._coroutines.pop(id(run), None)
        self._ended(run, None if done.cancelled() else done.exception())

    def _ended(self, run: Run, error: BaseException | None) -> None:
        signum = self._revoked.pop(id(run), None)
        if run.outcome is None and error is None and signum is not None:
            run.outcome = Outcome.terminated(signum)
        if run.outcome is None:
            if error is not None:
                logger.error("%r could not be run", run, exc_info=error)
            run.outcome = Outcome(Kind.HANDED_BACK, delay=1.0)
        self._done.put(run)

    def _finish(self) -> None:
        """Record and settle runs as they end, as many at a time as are there."""
        while True:
            runs = self._gather_done()
            if runs is None:
                return
            deliveries = [run.delivery for run in runs]
            try:
                self._finish_runs(runs, deliveries)
            except OperationalError as error:
                logger.error("%d runs cannot be settled, their messages come again: %s", len(runs), error)
            self._consumer.leases.drop(deliveries)
            if self._consumer.on_runs is not None:
                self._consumer.on_runs(runs)
            for _ in runs:
                self._slots.release()

    def _finish_runs(self, runs: Sequence[Run], deliveries: Sequence[Delivery]) -> None:
        try:
            self._consumer.executor.finish(runs)
        except OperationalError:
            raise
        except Exception:  # as in the consumer loop
            logger.exception(FAULT, len(runs))
            self._consumer.hand_back_later(deliveries)

    def _gather_done(self) -> Sequence[Run] | None:
        first = self._done.get()
        if first is None:
            return None
        runs = [first]
        while len(runs) < 100:
            try:
                following = self._done.get_nowait()
            except queue.Empty:
                break
            if following is None:
                self._done.put(None)
                break
            runs.append(following)
        return runs


async def _cancel_others() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
