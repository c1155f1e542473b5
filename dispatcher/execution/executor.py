"""The executor: takes deliveries through the seven steps of a run.

decode → admit → start → run → decide and record → continue → settle

Decode, admit, record, continue and settle work on batches, so that a batch costs one read and one write; start and run
work on one delivery. A crash between any two steps leads to a redelivery that ends in the same place: what is recorded
is final, continuations have derived ids, and the broker is told last.
"""

from __future__ import annotations

import functools
import logging
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from dispatcher.brokers.base import Delivery
from dispatcher.exceptions import TimeLimitExceeded, WorkerLostError
from dispatcher.execution import (
    admission,
    invocation,
    leasing,
    recording,
    renewal,
    retrying,
    settling,
    throttling,
)
from dispatcher.execution.concealing import conceal
from dispatcher.execution.environment import Environment
from dispatcher.execution.ordering import Groups
from dispatcher.execution.run import Kind, Outcome, Run, ShutdownNow, format_traceback
from dispatcher.execution.watch import Decided

if TYPE_CHECKING:
    from dispatcher.execution.coroutines import Loop

logger = logging.getLogger("dispatcher.worker")

#: A finished run's outcome waits at most about this long for others to be written with, in seconds.
FLUSH_AFTER = 0.02

#: How long a coroutine has to end after the cancellation at its hard limit, in seconds.
HARD_GRACE = 1.0


class Executor:
    """Runs deliveries in an `Environment`; one per thread that runs tasks.

    ``concurrency`` is how many coroutine tasks of a batch run at a time. ``flush_after`` (seconds) bounds how long an
    outcome waits for the rest of its batch before it is written.
    """

    def __init__(self, env: Environment, *, concurrency: int = 1, flush_after: float = FLUSH_AFTER) -> None:
        self.env = env
        self.concurrency = concurrency
        self.flush_after = flush_after

    def process(self, deliveries: Sequence[Delivery], keep: Callable[[Run], bool] | None = None) -> list[Run]:
        """Take a batch through all steps and return its runs, settled.

        ``keep`` is asked before each start whether the run's delivery is still ours. What does not fit the time left is
        handed back, and with it the rest of its FIFO group. On a cold shutdown (`ShutdownNow`) what is not finished is
        handed back, and the exception goes on.
        """
        return self.work_off(self.prepare(deliveries), keep)

    def work_off(self, runs: list[Run], keep: Callable[[Run], bool] | None = None) -> list[Run]:
        """Steps 3 to 7 for prepared runs, as in `process`."""
        pending = [run for run in runs if run.outcome is not None and (keep is None or keep(run))]
        groups = Groups(runs)
        todo = groups.in_turn([run for run in runs if run.outcome is None])
        try:
            rest = self._run_coroutines(todo, pending) if self.concurrency > 1 else todo
            turns = self._turns(rest, pending, groups, keep, starts=len(rest) == len(todo))
            invocation.perform(self.env, turns)
            self.finish(pending)
        except ShutdownNow:
            self._hand_back(runs)
            raise
        finally:
            leasing.forget(self.env, runs)
        return runs

    def prepare(self, deliveries: Sequence[Delivery]) -> list[Run]:
        """Steps 1 and 2, decode and admit: what needs no run, or must wait, has its outcome afterwards."""
        runs = self._admitted(deliveries)
        for run in runs:
            if not run.plain or run.outcome is not None:
                break
        else:
            return runs
        throttling.throttle(self.env, runs)
        for run in runs:
            if run.outcome is not None and run.outcome.kind is Kind.FAILURE:
                invocation.tell_unrun(self.env, run)
        return runs

    def execute(self, run: Run) -> None:
        """Steps 3 to 5 for one run: start it, run it, decide; coroutine functions run in this executor's event loop."""
        if not self._begin(run):
            return
        assert run.task is not None
        if run.task._is_async:
            invocation.start(self.env, run)
            self._run_coroutine(run)
        else:
            invocation.perform(self.env, (run,))
        self.env.note_duration(run.task.name, run.duration)

    async def execute_async(self, run: Run) -> None:
        """Steps 3 to 5 for one coroutine run, in the running event loop."""
        begun = self._begin(run) if admission.begins_at_once(run) else await _to_its_end(self._begin, run)
        if not begun:
            return
        invocation.start(self.env, run)
        await invocation.perform_async(self.env, run)
        if run.task is not None:
            self.env.note_duration(run.task.name, run.duration)

    def finish(self, runs: Sequence[Run]) -> None:
        """Steps 5 to 7, record, continue, settle, for runs that are decided."""
        weighty = [run for run in runs if not admission.is_light(run)]
        if weighty:
            self._record_and_continue(weighty)
        settling.settle(self.env, runs)
        for run in runs:
            if not run.plain and admission.is_fetched(run):
                run.forget_arguments()  # of a batch of large messages, one is in memory at a time

    def abandon(self, delivery: Delivery, limit: float) -> Run:
        """Record that a delivery's run was ended at its hard limit by whoever watches it, and settle it."""
        [run] = self._admitted([delivery], ended=True)
        if _may_overrule(run):
            self._fail(run, TimeLimitExceeded(limit))
        self.finish([run])
        return run

    def end_revoked(self, delivery: Delivery, signum: signal.Signals) -> Run:
        """Record that a delivery's run was ended because its task was revoked, and settle it."""
        [run] = self._admitted([delivery], ended=True)
        if _may_overrule(run):
            run.outcome = Outcome.terminated(signum)
        self.finish([run])
        return run

    def lose(self, delivery: Delivery) -> Run:
        """Record that a delivery's run ended its process, and hand the message back: it may run a few times more."""
        [run] = self._admitted([delivery], ended=True)
        if run.task is not None and _may_overrule(run):
            lost = admission.lost_for_good(self.env, run)
            if lost is not None:
                self._fail(run, lost)
            else:
                recording.record_loss(self.env, run)
        self.finish([run])
        return run

    def give_up(self, delivery: Delivery) -> Run:
        """Hand back a delivery whose run was stopped without being at fault; if it was recorded, finish it instead."""
        [run] = self._admitted([delivery], ended=True)
        if _may_overrule(run):
            run.outcome = Outcome(Kind.HANDED_BACK)
            if delivery.receive_count > 1 and not admission.runs_once(run):
                run.place = self.env  # its start was recorded, and is taken back
        self.finish([run])
        return run

    def conclude(self, ended: Sequence[tuple[Delivery, Decided]]) -> list[Run]:
        """Steps 5 to 7 for runs that another process decided; what it has recorded already is not decided again."""
        runs = self._admitted([delivery for delivery, _ in ended], ended=True)
        for run, (_, decided) in zip(runs, ended, strict=True):
            if not _may_overrule(run) or _has_moved_on(run, decided):
                continue
            run.outcome = None
            if not decided.outcome.changes or admission.load(self.env, run):  # a retry keeps what it does not change
                run.outcome, run.attempt, run.retries = decided.outcome, decided.attempt, decided.retries
                run.place = self.env
                run.request.update(**decided.extras)
        self.finish(runs)
        return runs

    def close(self) -> None:
        """Close the event loop, end the heartbeat."""
        self.close_loop()
        self.env.heartbeat.stop()

    def close_loop(self) -> None:
        """Close the event loop alone, where others share the `Environment`."""
        if "loop" in self.__dict__:
            self.loop.close()

    @functools.cached_property
    def loop(self) -> Loop:
        """The event loop of coroutine tasks; asyncio is a twentieth of a cold start, which others are spared."""
        from dispatcher.execution.coroutines import Loop

        return Loop()

    def _admitted(self, deliveries: Sequence[Delivery], ended: bool = False) -> list[Run]:
        runs = [Run(delivery) for delivery in deliveries]
        if ended:
            for run in runs:
                run.ended = True
        admission.decode(self.env, runs)
        admission.admit(self.env, runs)
        return runs

    def _fail(self, run: Run, error: Exception) -> None:
        run.outcome = Outcome(Kind.FAILURE, error=error, traceback=format_traceback(error))
        invocation.tell_unrun(self.env, run)

    def _record_and_continue(self, runs: Sequence[Run]) -> None:
        unwritten = [run for run in runs if run.write is None]  # others were, before a cold shutdown struck
        for run in unwritten:
            outcome = run.outcome
            if outcome is not None and outcome.error is not None:
                conceal(run)
            if outcome is not None and (outcome.kind is Kind.RETRY or outcome.slot is not None):
                from dispatcher.execution import awaiting  # of use to those who retry only

                awaiting.keep(self.env, run)
        if changed := [run for run in unwritten if retrying.needs_new_generation(run)]:
            retrying.publish_retries(self.env, changed)
        recording.record(self.env, unwritten)
        leasing.release(self.env, runs)
        renewal.renew(self.env, runs)
        settling.continue_(self.env, runs)

    # -- parts of process()

    def _run_coroutine(self, run: Run) -> None:
        """Run one coroutine; one that never awaits is ended a moment after its hard limit, where those are kept."""
        _, hard = invocation.limits_of(run)
        if hard is None:
            self.loop.run(invocation.perform_async(self.env, run))
            return
        self.env.limits.start(None, hard + HARD_GRACE, run)
        try:
            self.loop.run(invocation.perform_async(self.env, run))
        finally:
            self.env.limits.stop()

    def _begin(self, run: Run) -> bool:
        """Start a run: fetch its arguments, record the start where it must be known."""
        if not run.plain and not self._begin_with_calls(run):
            return False
        env = self.env
        if env.watch is not None:
            env.watch.started(run)
        return True

    def _begin_with_calls(self, run: Run) -> bool:
        if admission.is_fetched(run) and not admission.load(self.env, run):
            if run.outcome is not None and run.outcome.kind is Kind.FAILURE:
                invocation.tell_unrun(self.env, run)
            return False
        if run.lock is not None and not admission.lease(self.env, run):
            return False
        return recording.record_start(self.env, run)

    def _turns(
        self,
        todo: Sequence[Run],
        pending: list[Run],
        groups: Groups,
        keep: Callable[[Run], bool] | None,
        *,
        starts: bool,
    ) -> Iterator[Run]:
        """Yield the runs of plain functions that are to be performed, in turn; coroutines run here, one at a time.

        ``starts`` says that nothing of the batch has run yet.
        """
        env, ordered, first, oldest = self.env, bool(groups), starts, time.monotonic()
        watch, durations, time_left, now = env.watch, env.durations, env.time_left, oldest
        for run in todo:
            if keep is not None and not keep(run):
                first = False
                continue
            if ordered and groups.await_settling(run, pending):
                self._flush(pending)
            task = run.task
            assert task is not None
            expected = durations.get(task.name)
            fits = first or time_left is None or time_left() > (_unknown(run) if expected is None else expected)
            first = False
            if not fits or (ordered and groups.hold_up(run)):
                run.outcome = Outcome(Kind.HANDED_BACK)
                pending.append(run)
                continue
            if not pending:
                oldest = now
            elif (
                expected is None
                or expected > self.flush_after
                or now - oldest > self.flush_after
                or (not run.plain and _is_risky(run, pending))
            ):  # it may take long, or take the process with it
                self._flush(pending)
                oldest = time.monotonic()
            if run.plain and not task._is_async:
                if watch is not None:
                    watch.started(run)
                yield run
                env.note_duration(task.name, run.duration)
                now = run.begun + run.duration
            else:
                self.execute(run)
                now = time.monotonic()
            pending.append(run)
            if watch is not None and not watch.ended(run):
                self._flush(pending)

    def _flush(self, pending: list[Run]) -> None:
        self.finish(pending)
        pending.clear()

    def _run_coroutines(self, todo: Sequence[Run], pending: list[Run]) -> list[Run]:
        """Run the coroutine tasks of a batch together; return the rest.

        Members of a FIFO group keep their order, and a suspect runs alone: it may take the process with it.
        """
        together = [
            run for run in todo
            if run.task is not None and run.task._is_async and run.delivery.order is None and not admission.suspect(run)
        ]  # fmt: skip
        if len(together) < 2:
            return list(todo)
        self.loop.run(self._gather(together))
        pending.extend(together)
        chosen = set(map(id, together))
        return [run for run in todo if id(run) not in chosen]

    async def _gather(self, runs: Sequence[Run]) -> None:
        import asyncio

        slots = asyncio.Semaphore(self.concurrency)

        async def one(run: Run) -> None:
            async with slots:
                assert run.task is not None
                time_left, expected = self.env.time_left, self.env.durations.get(run.task.name)
                needed = _unknown(run) if expected is None else expected
                if run is not runs[0] and time_left is not None and time_left() <= needed:
                    run.outcome = Outcome(Kind.HANDED_BACK)
                    return
                await self.execute_async(run)
                if self.env.watch is not None:
                    self.env.watch.ended(run)

        await asyncio.gather(*(one(run) for run in runs))

    def _hand_back(self, runs: Sequence[Run]) -> None:
        """Settle what is decided, and release the rest at once."""
        unsettled = [run for run in runs if run.settlement is None]
        for run in unsettled:
            if run.outcome is None and run.place is not None and admission.runs_once(run):
                lost = WorkerLostError(
                    f"the worker was stopped while it ran {run.task}; acks_late=False keeps it from being run again"
                )
                run.outcome = Outcome(Kind.FAILURE, error=lost, traceback=str(lost))
            elif run.outcome is None:
                run.outcome = Outcome(Kind.HANDED_BACK)
                run.ours = False  # it may have been given back already
        self.finish(unsettled)


async def _to_its_end(begin: Callable[[Run], bool], run: Run) -> bool:
    """Begin a run in a thread; a cancellation waits for it, because a lease that is taken has to be given back."""
    import asyncio

    call = asyncio.ensure_future(asyncio.to_thread(begin, run))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait([call])
        raise


def _unknown(run: Run) -> float:
    """Return the seconds that a run must be given whose task has not run here yet."""
    return invocation.limits_of(run)[0] or 0.0


def _is_risky(run: Run, pending: Sequence[Run]) -> bool:
    """Say whether outcomes must be written before a run that is not plain: it may take the process with it."""
    return admission.suspect(run) or admission.is_fetched(run) or leasing.in_the_way(run, pending)


def _may_overrule(run: Run) -> bool:
    """Say whether what a run came to elsewhere goes before its admission here: nobody else has decided it."""
    if run.task is None:
        return False
    if run.outcome is None or run.outcome.kind in (Kind.FAILURE, Kind.REVOKED):
        return True
    # A run that may start once only is held up by its own start.
    held = run.outcome.kind is Kind.HANDED_BACK and run.record is not None and run.record.starts > 0
    return held and admission.runs_once(run)


def _has_moved_on(run: Run, decided: Decided) -> bool:
    """Say whether the record is past the attempt that was decided; that of a message brought back starts anew."""
    record, message = run.record, run.message
    return (
        record is not None and message is not None
        and record.gen == message.gen and record.retries != decided.attempt
    )  # fmt: skip
