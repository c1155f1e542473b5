"""Steps 1 and 2: read the body, and compare the message with the record before any code runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from dispatcher import signals, states
from dispatcher.backends.base import TaskRecord
from dispatcher.backends.meta import slot_of
from dispatcher.exceptions import (
    USER_ERRORS,
    BackendError,
    ChordError,
    DecodeError,
    ImproperlyConfigured,
    NotRegistered,
    OperationalError,
    SecurityError,
    TaskRevokedError,
    WorkerLostError,
)
from dispatcher.execution import handover, leasing
from dispatcher.execution.environment import Environment
from dispatcher.execution.run import SUCCESS, Kind, Outcome, Run, format_traceback
from dispatcher.execution.workflow import results_of_header
from dispatcher.message import BARE, Message, UnsupportedMessage
from dispatcher.task import Task

logger = logging.getLogger("dispatcher.worker")


def decode(env: Environment, runs: Sequence[Run]) -> None:
    """Step 1: turn bodies into messages and tasks; what cannot be read is decided here."""
    tasks, read_message = env.app.tasks, env.app.read_message
    for run in runs:
        try:
            run.message = message = read_message(run.delivery)
        except UnsupportedMessage as error:
            _wait_for_newer_worker(env, run, error, error.task_id)
            continue
        except (DecodeError, SecurityError) as error:
            fired = _fired(env, run, error)
            if fired is None:
                continue
            run.message = message = fired
        task = tasks.get(message.task) or _built_in(tasks, message.task)
        if task is None:
            unknown = NotRegistered(
                f"no task named {message.task!r} is registered here; this worker knows {len(tasks)} tasks: is the "
                "module with it in imports= or include=?"
            )
            signals.task_unknown.announce(env.app, message=message, exc=unknown, name=message.task, id=message.id)
            _wait_for_newer_worker(env, run, unknown, message.id)
            continue
        run.task = task
        if run.fired is None:
            run.bare = bare = BARE.issuperset(message.__dict__)
            run.lean = task._lean and run.delivery.receive_count <= 1 and (bare or not _is_followed(message))
        if not run.bare:
            run.retries = run.attempt = message.retries
        check = task._check_call
        if check is not None and (run.bare or not is_fetched(run)):  # else they are checked when they are there
            try:
                check(*message.args, **message.kwargs)
            except TypeError as error:
                _refuse_arguments(run, error)


def _fired(env: Environment, run: Run, error: Exception) -> Message | None:
    """Return the message that a body stands for which is a firing of the beat; what is none is decided here."""
    message: Message | None = None
    why: BaseException = error
    try:
        if '"beat"' in run.delivery.body:
            from dispatcher.execution import firing  # of use to those who have a beat only

            message = firing.read(env, run, error)
    except UnsupportedMessage as unknown:
        _wait_for_newer_worker(env, run, unknown, unknown.task_id)
        return None
    except OperationalError as trouble:
        logger.error("what a firing starts cannot be made out, it goes back: %s", trouble)
        run.outcome = Outcome(Kind.HANDED_BACK, delay=env.backoff(run.delivery.receive_count))
    except USER_ERRORS as problem:  # of a router of the user's, say; the neighbours have no part in it
        why = problem
    if message is None and run.outcome is None:
        _unreadable(run, why, getattr(why, "task_id", None))
    return message


def _built_in(tasks: Mapping[str, Task[Any, Any]], name: str) -> Task[Any, Any] | None:
    """Return a task of the registry that is not listed there."""
    try:
        return tasks[name]
    except KeyError:
        return None


def _refuse_arguments(run: Run, error: TypeError) -> None:
    run.outcome = Outcome(Kind.FAILURE, error=error, traceback=format_traceback(error))


def load(env: Environment, run: Run) -> bool:
    """Fetch arguments from the payload store, or a group's results, only now that the run is sure to start.

    Returns false where that decides the run: what cannot be read is dead, what cannot be reached goes back.
    """
    assert run.message is not None
    try:
        run.message = env.app.load_arguments(run.message)
        if run.message.header is not None:
            run.message = run.message.with_header(results_of_header(env, run.message))
    except (UnsupportedMessage, ImproperlyConfigured) as error:
        _wait_for_newer_worker(env, run, error, run.id)
    except (DecodeError, SecurityError) as error:
        _unreadable(run, error, run.id)
    except ChordError as error:
        run.outcome = Outcome(Kind.FAILURE, error=error, traceback=format_traceback(error))
    except (OperationalError, BackendError) as error:
        logger.error("the arguments of %s cannot be fetched, it goes back: %s", run.id, error)
        run.outcome = Outcome(Kind.HANDED_BACK, delay=env.backoff(run.delivery.receive_count))
    else:
        assert run.task is not None
        try:
            run.task.check_arguments(run.message.args, run.message.kwargs)
        except TypeError as error:
            _refuse_arguments(run, error)
        if run.outcome is None and run.lock is None:
            leasing.name(env, run)
    return run.outcome is None


def lease(env: Environment, run: Run) -> bool:
    """Take the lease of a unique task's run; what was read is read again where it does not hold any more.

    Returns false where that decides the run.
    """
    try:
        while not leasing.take(env, run):
            leasing.read(env, [run])
            run.record = env.backend.read([run.id]).get(run.id)
            run.outcome = decide_by_record(env, run, env.clock.time())
            if run.outcome is not None:
                return False
    except (OperationalError, BackendError) as error:
        logger.error("the lease of %s cannot be taken, it goes back: %s", run.id, error)
        run.outcome = Outcome(Kind.HANDED_BACK, delay=env.backoff(run.delivery.receive_count))
        return False
    return True


def _unreadable(run: Run, error: BaseException, task_id: str | None) -> None:
    logger.error("message %s of %s cannot be run: %s", run.delivery.message_id, run.delivery.queue, error)
    if run.message is None:
        run.message = getattr(error, "envelope", None)
    if run.message is None and task_id is not None:
        # Of a generation before any: the same body must run once somebody can read it, a newer release after a redrive.
        run.message = Message(id=task_id, task="?", gen=-1)
    run.outcome = Outcome(Kind.UNREADABLE, error=error)


def _wait_for_newer_worker(env: Environment, run: Run, error: BaseException, task_id: str | None) -> None:
    """Hand a message back that a newer release may know, until the grace for rolling deploys is over."""
    sent_at = run.delivery.sent_at
    age = env.clock.time() - sent_at if sent_at is not None else 0.0
    # Hand-backs grow to a minute each. A message that waited long, for its ETA or behind others, has its grace too.
    handed_back = env.backoff(run.delivery.receive_count) * run.delivery.receive_count
    waited = handed_back if sent_at is None else min(age, handed_back)
    if waited < env.app.conf.unknown_grace and not env.eager:
        logger.warning("handing back %s: %s", task_id or run.delivery.message_id, error)
        run.outcome = Outcome(Kind.HANDED_BACK, delay=env.backoff(run.delivery.receive_count))
    else:
        _unreadable(run, error, task_id)


def admit(env: Environment, runs: Sequence[Run]) -> None:
    """Step 2: decide by the record whether a message may run: one batch read for all that need it.

    A lean task on its first delivery needs no record.
    """
    open_runs = [run for run in runs if run.outcome is None or run.outcome.kind is Kind.FAILURE]
    asked = [run for run in open_runs if not run.lean]
    buried = [] if len(open_runs) == len(runs) else [run for run in runs if _is_buried(run)]
    if asked or buried:
        asked += buried
        read_records(env, asked)
        for run in buried:
            catch_up(run)
    now = env.clock.time()
    seen: set[str] = set()
    for run in open_runs:
        outcome = run.outcome
        if outcome is not None and outcome.kind is Kind.HANDED_BACK:
            continue
        decided = None if run.bare and run.lean else decide_by_record(env, run, now)
        assert run.message is not None
        task_id = run.message.id
        if decided is not None:
            run.outcome = decided
        elif outcome is None and task_id in seen:
            # The same message twice in one batch: the second waits for what the first decides.
            run.outcome = Outcome(Kind.HANDED_BACK, delay=1.0)
            run.ours = False
        seen.add(task_id)
        run.plain = run.bare and run.record is None and begins_at_once(run)


def _is_buried(run: Run) -> bool:
    return run.message is not None and run.outcome is not None and run.outcome.kind is Kind.UNREADABLE


def read_records(env: Environment, runs: Sequence[Run]) -> bool:
    """Read the records and the leases that runs are decided by, in one batch; where that fails, hand them back."""
    try:
        leasing.read(env, runs)
        records = _records_of(env, runs)
    except (OperationalError, BackendError) as error:
        logger.error("the result backend cannot be read, %d messages go back: %s", len(runs), error)
        for run in runs:
            run.outcome = Outcome(Kind.HANDED_BACK, delay=env.backoff(run.delivery.receive_count))
        return False
    for run in runs:
        run.record = records.get(run.id)
    return True


def _records_of(env: Environment, runs: Sequence[Run]) -> dict[str, TaskRecord]:
    """Return the records of runs; what came with a delivery is as new as its lease, and is used once.

    It is of no use to a unique task's run, whose record has to be read after its lock, nor to one that is over.
    """
    brought: dict[str, bytes | None] = {}
    ids = [run.id for run in runs]
    for run, task_id in zip(runs, ids, strict=True):
        found = run.delivery.brought
        if found is not None:
            if run.lock is None and not run.ended and task_id in found:
                brought[task_id] = found[task_id]
            run.delivery.brought = None
    return env.backend.read_unbrought(ids, brought) if brought else env.backend.read(ids)


def catch_up(run: Run) -> None:
    """Let a message that cannot be run end the attempt its record is at: earlier ones may have been retried."""
    message, record, error = run.message, run.record, run.outcome.error if run.outcome is not None else None
    if message is None or record is None:
        return
    if message.gen < 0 and isinstance(error, UnsupportedMessage) and error.gen == record.gen and not record.final:
        # A newer release has begun it. Whoever waits is told; brought back to such a release, it goes on.
        run.message = message = message.replace(gen=record.gen)
        run.successor = handover.UNREAD
    if record.gen == message.gen and handover.successor(record) is None:
        run.attempt = run.retries = record.retries


def _is_followed(message: Message) -> bool:
    """Say whether a message is more than a call whose outcome nobody hears of."""
    return bool(
        message.unique or message.gen or message.link or message.link_error or message.chain or message.chord
        or message.group or message.ignore_result is False or message.eta is not None
    )  # fmt: skip


def is_fetched(run: Run) -> bool:
    """Say whether a run's arguments, or some of them, are not in its message."""
    message = run.message
    return message is not None and (message.payload is not None or message.header is not None)


def begins_at_once(run: Run) -> bool:
    """Say whether nothing has to be fetched, taken or recorded before a run's code starts, or waited for."""
    task = run.task
    if task is None or task.acks_late is False:
        return False
    if run.lean and run.bare:
        return True  # such a task shows no start, has no rate and no key, and this is its first delivery
    if task.track_started or task._rate is not None:
        return False
    if run.lock is not None or run.delivery.receive_count > 1:
        return False
    return run.bare or not is_fetched(run)


def is_light(run: Run) -> bool:
    """Say whether a run is over but for its message: a lean success, with nothing to record and nothing to follow."""
    outcome = run.outcome
    if outcome is None or outcome.kind is not SUCCESS or not run.lean:
        return False
    return run.context is None or run.state_written is None


def decide_by_record(env: Environment, run: Run, now: float) -> Outcome | None:
    """Return the outcome of a run that must not start, or not yet, by its record and its times."""
    message, record = run.message, run.record
    assert message is not None
    if record is not None:
        revived = handover.revived(message, record)
        if revived is not message:
            run.message, run.bare, message = revived, False, revived
    elif run.fired is not None and not run.ended:
        by_entry = _decide_by_entry(env, run)
        if by_entry is not None:
            return by_entry
    by_claim = _decide_by_claim(env, run, message) if message.handover is not None else None
    if by_claim is not None:
        return by_claim
    by_record = _admit_by_record(env, run, message, record, now) if record is not None else None
    if by_record is not None and by_record.kind in (Kind.SUPERSEDED, Kind.REPEATED):
        return by_record
    if run.lock is not None:
        held = leasing.held_by_another(env, run, now)
        if held is not None:
            return held  # the run that has it decides, if it is of this very message
    if by_record is not None:
        return by_record
    if message.expires is not None and message.expires <= now:
        return Outcome(Kind.REVOKED, error=TaskRevokedError("expired"))
    if message.eta is not None and message.eta > now:
        until = message.eta if message.expires is None else min(message.eta, message.expires)
        return Outcome(Kind.HANDED_BACK, delay=until - now)
    return None


def _decide_by_entry(env: Environment, run: Run) -> Outcome | None:
    from dispatcher.execution import firing

    return firing.decide(env, run)


def _decide_by_claim(env: Environment, run: Run, message: Message) -> Outcome | None:
    """Return the outcome of a message with a name that the record does not mean, or not yet."""
    claim, receipts = handover.claim_of(message, run.record), run.delivery.receive_count
    if claim is handover.Claim.VOID:
        return Outcome(Kind.SUPERSEDED)
    if claim is handover.Claim.GOOD or handover.has_waited(receipts, env.transport.budget_spent(run.delivery)):
        return None
    return Outcome(Kind.HANDED_BACK, delay=handover.pause(receipts))


def _admit_by_record(env: Environment, run: Run, message: Message, record: TaskRecord, now: float) -> Outcome | None:
    if record.gen > message.gen:
        return Outcome(Kind.SUPERSEDED)
    if record.gen == message.gen:
        run.attempt = record.retries
        run.retries = max(record.retries, message.retries)
        if record.final:
            return Outcome(Kind.REPEATED)
        if handover.successor(record) is not None:
            return Outcome(Kind.SUPERSEDED)
    running = record.gen == message.gen and record.starts
    if record.revoked and not running:
        return Outcome(Kind.REVOKED, error=TaskRevokedError("revoked"))
    if record.gen == message.gen:
        if record.not_before is not None and record.not_before > now:
            waits_for = Kind.HANDED_BACK if slot_of(record.data) is None else Kind.DEFERRED
            return Outcome(waits_for, delay=record.not_before - now)
        lost = lost_for_good(env, run)
        if lost is not None:
            return Outcome(Kind.FAILURE, error=lost, traceback=str(lost))
    if record.revoked:
        return Outcome(Kind.REVOKED, error=TaskRevokedError("revoked"))
    return None


def lost_for_good(env: Environment, run: Run) -> WorkerLostError | None:
    """Return the error of a run whose recorded starts without an outcome are too many, else `None`."""
    message, times = run.message, run.record.starts if run.record is not None else 0
    assert message is not None
    if times < (1 if runs_once(run) else env.app.conf.max_worker_losses):
        return None
    if runs_once(run):
        return WorkerLostError(
            f"the worker died while it ran {message.task}[{message.id}]; acks_late=False keeps it from being run again"
        )
    return WorkerLostError(
        f"the worker died {times} times while it ran {message.task}[{message.id}]; "
        "is it out of memory, or does it crash the interpreter?"
    )


def runs_once(run: Run) -> bool:
    """Say whether a run is lost with its worker: its task has ``acks_late=False``."""
    return run.task is not None and run.task.acks_late is False


def suspect(run: Run) -> bool:
    """Say whether an earlier start of this run has no outcome, so that it may take the process with it again."""
    return run.record is not None and run.record.starts > 0 and run.record.status not in states.READY_STATES
