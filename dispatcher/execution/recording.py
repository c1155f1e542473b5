"""Step 5, second half: one conditional write per decided run, in batches; a final state never regresses."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from dispatcher import signals, states
from dispatcher.backends.base import Revocation, TaskRecord, Write
from dispatcher.backends.meta import ResultMeta, plain_text, with_slot, without_slot
from dispatcher.exceptions import (
    BackendError,
    EncodeError,
    ImproperlyConfigured,
    MessageTooLarge,
    OperationalError,
    Reject,
)
from dispatcher.execution import handover, leasing, workflow
from dispatcher.execution.acknowledging import write_outcomes
from dispatcher.execution.admission import is_light, runs_once, suspect
from dispatcher.execution.concealing import conceal, marks_of, shown_error
from dispatcher.execution.environment import Environment
from dispatcher.execution.run import Kind, Outcome, Run, ShutdownNow, format_traceback
from dispatcher.message import Message
from dispatcher.sensitive import masked
from dispatcher.serialization import json_encode

logger = logging.getLogger("dispatcher.worker")

#: Seconds from the end of a place's time to when its runs are surely over.
_LEASE_MARGIN = 60.0
_FINAL = {
    Kind.SUCCESS: states.SUCCESS,
    Kind.FAILURE: states.FAILURE,
    Kind.UNREADABLE: states.FAILURE,
    Kind.REJECTED: states.REJECTED,
    Kind.IGNORED: states.IGNORED,
    Kind.REVOKED: states.REVOKED,
}


def record_start(env: Environment, run: Run) -> bool:
    """Record that a run starts, where it must be known before the code runs.

    That is so on a redelivery, for ``track_started``, and where a run may start once only (``acks_late=False``).

    Returns false when the record says that somebody else decided meanwhile; the outcome is set then.
    """
    task, delivery = run.task, run.delivery
    assert task is not None and run.message is not None
    once = runs_once(run) and not env.eager
    counted = once or delivery.receive_count > 1
    if not counted and not task.track_started:
        return True
    now = env.clock.time()
    record = _goes_on_from(run)
    status = states.STARTED if task.track_started else record.status if record else states.PENDING
    write = write_of(env, run, status, now)
    # A first delivery's start is shown, but only redelivered ones count towards the crash budget.
    write.starts = (record.starts if record else 0) + (1 if counted else 0)
    write.started_at = now
    if once:
        write.only_start = True
        write.not_before = now + _lease(env)  # a duplicate that comes while it runs does not mean that it is lost
    if task.track_started:
        where = {"pid": os.getpid(), "hostname": env.hostname}
        meta = _meta_of(env, run, now)
        meta.date_done = meta.visible_until = meta.args = meta.kwargs = None
        meta.result, meta.worker = where, env.hostname
        write.data = meta.encode()
    elif record is not None:
        write.data = without_slot(record.data)
    try:
        stood = env.backend.write([write])[0]
    except (OperationalError, BackendError) as error:
        logger.error("the start of %s cannot be recorded, it goes back: %s", run.id, error)
        run.outcome = Outcome(Kind.HANDED_BACK, delay=env.backoff(delivery.receive_count))
        return False
    if stood is not None:
        lost_to(env, run, stood)
        return False
    run.record = write.record(run.record.revoked if run.record else Revocation.NONE)
    run.attempt = write.retries
    return True


def _goes_on_from(run: Run) -> TaskRecord | None:
    """Return the record that a run goes on from; a generation that failed says nothing of the one brought back."""
    return run.record if run.record is not None and not run.record.final else None


def _lease(env: Environment) -> float:
    """Return for how long a run that has just started is surely alive, as far as a duplicate delivery can tell."""
    return env.time_left() + _LEASE_MARGIN if env.time_left is not None else env.transport.lease or 0.0


def record_loss(env: Environment, run: Run) -> None:
    """Count a start that ended its process, unless it was recorded before the run, and hand the message back.

    Where the count cannot be written the message goes back without it.
    """
    delivery = run.delivery
    run.outcome = Outcome(Kind.HANDED_BACK, delay=env.backoff(delivery.receive_count))
    logger.error("the worker died while it ran %s[%s]", run.task.name if run.task is not None else "?", run.id)
    if delivery.receive_count > 1 or runs_once(run):
        return
    record = _goes_on_from(run)
    write = write_of(env, run, record.status if record is not None else states.PENDING, env.clock.time())
    write.starts, write.started_at = 1, env.clock.time()
    if record is not None:
        write.starts, write.data = record.starts + 1, without_slot(record.data)
    try:
        stood = env.backend.write([write])[0]
    except (OperationalError, BackendError) as error:
        logger.error("the lost start of %s cannot be recorded: %s", run.id, error)
        return
    if stood is not None:
        lost_to(env, run, stood)


def record(env: Environment, runs: Sequence[Run]) -> None:
    """Write the outcomes; a run whose record moved on meanwhile gives up its own outcome.

    Where the backend cannot be reached the deliveries are handed back, never acknowledged.
    """
    now = env.clock.time()
    writes: list[tuple[Run, Write]] = []
    texts: dict[tuple[str | None, ...], str] = {}
    for run in runs:
        write = _tellable_write(env, run, now, texts)
        if write is not None:
            writes.append((run, write))
    locked = [(run, write) for run, write in writes if run.lock is not None]
    for run, write in locked:
        _record_locked(env, run, write)
    writes = [(run, write) for run, write in writes if run.lock is None]
    if not writes:
        return
    try:
        losers = write_outcomes(env, writes)
    except (OperationalError, BackendError) as error:
        logger.error("%d outcomes cannot be recorded, their messages go back: %s", len(writes), error)
        for run, _ in writes:
            run.outcome = Outcome(Kind.HANDED_BACK, delay=env.backoff(run.delivery.receive_count))
        return
    for (run, write), stood in zip(writes, losers, strict=True):
        _conclude(env, run, write, stood)


def _conclude(env: Environment, run: Run, write: Write, stood: TaskRecord | None) -> None:
    """Take note of a write that took effect, or of the record that stood against it."""
    if stood is not None:
        lost_to(env, run, stood)
        return
    run.write = write
    if run.outcome is not None and run.outcome.kind is Kind.RETRY:
        run.sent_on = run.successor is not None
    elif run.outcome is not None and run.outcome.kind is Kind.REVOKED:
        _tell_revoked(run, run.outcome)


def _tell_revoked(run: Run, outcome: Outcome) -> None:
    expired = "expired" in str(outcome.error)
    request = run.request if run.place is not None else run.message
    signals.task_revoked.announce(
        run.task, request=request, terminated=outcome.signum is not None, signum=outcome.signum, expired=expired
    )


def _record_locked(env: Environment, run: Run, write: Write) -> None:
    """Write the outcome of a unique task together with what it means for its lock."""
    try:
        stood = leasing.write(env, run, write)
    except leasing.LeaseLost:
        logger.error("the outcome of %s was dropped: another run has taken its lease over", run.id)
    except (OperationalError, BackendError) as error:
        logger.error("the outcome of %s cannot be recorded, its message goes back: %s", run.id, error)
    else:
        _conclude(env, run, write, stood)
        return
    run.outcome = Outcome(Kind.HANDED_BACK, delay=env.backoff(run.delivery.receive_count))


def lost_to(env: Environment, run: Run, stood: TaskRecord) -> None:
    """Give up a run's own outcome for the one that stands in the record."""
    assert run.message is not None
    run.record = stood
    if run.outcome is not None and run.outcome.kind is Kind.UNREADABLE:
        return  # whatever became of the task, this body goes to the dead letters
    logger.warning("the outcome of %s was dropped: another delivery had recorded %s", run.id, stood.status)
    if stood.gen > run.message.gen or (stood.gen == run.message.gen and handover.successor(stood) is not None):
        run.outcome = Outcome(Kind.SUPERSEDED)
    elif stood.final:
        run.outcome = Outcome(Kind.REPEATED)
    else:
        run.attempt = run.retries = stood.retries
        # Another attempt is under way: this delivery must not remove a message that attempt may still need.
        wait = 1.0 if stood.not_before is None else max(1.0, stood.not_before - env.clock.time())
        run.outcome = Outcome(Kind.HANDED_BACK, delay=wait)


def _tellable_write(env: Environment, run: Run, now: float, texts: dict[tuple[str | None, ...], str]) -> Write | None:
    """Return the write of a run's outcome, or of what stands in for one that cannot be stored.

    ``texts`` keeps what records of this moment say that say the same for every run of a task and its parents.
    """
    try:
        return _outcome_write(env, run, now, texts)
    except OperationalError as error:
        logger.error("the result of %s cannot be stored, its message goes back: %s", run.id, error)
        run.outcome = Outcome(Kind.HANDED_BACK, delay=env.backoff(run.delivery.receive_count))
        if runs_once(run):
            return None  # its start stands: it must not run again
    except ShutdownNow:
        raise
    except BaseException as error:  # noqa: BLE001 - of the user's code that words an exception or shows a result
        run.outcome = _unspeakable(run, error)
    return _outcome_write(env, run, now, texts)


def _outcome_write(env: Environment, run: Run, now: float, texts: dict[tuple[str | None, ...], str]) -> Write | None:
    outcome, message = run.outcome, run.message
    if outcome is None or message is None:
        return None
    if is_light(run):
        return None
    if outcome.kind is Kind.RETRY:
        return _retry_write(env, run, outcome, now)
    if outcome.slot is not None:
        return _slot_write(env, run, outcome.slot, now)
    if goes_back(outcome) or (outcome.kind is Kind.SUPERSEDED and run.lock is None and suspect(run)):
        return _end_of_start(env, run, now)
    status = _FINAL.get(outcome.kind)
    if status is None:
        return None
    write = write_of(env, run, status, now)
    write.final = True
    if run.successor is not None:
        write.token = handover.naming(write.token, run.successor)
    write.data = _plain_data(env, run, now, texts) or _final_data(env, run, now)
    if run.outcome is not outcome:  # the result could not be stored: the outcome became a failure
        write.status = states.FAILURE
    elif outcome.kind is Kind.IGNORED and run.state_written is not None:
        write.status = run.state_written[0]
    return write


def goes_back(outcome: Outcome) -> bool:
    """Say whether the message returns to its queue without an outcome: handed back, deferred, or requeued."""
    error = outcome.error
    return outcome.kind in (Kind.HANDED_BACK, Kind.DEFERRED) or (isinstance(error, Reject) and error.requeue)


def _slot_write(env: Environment, run: Run, slot: float, now: float) -> Write:
    """Return the write that keeps a record as it is and says when the run's slot is."""
    assert run.message is not None and run.task is not None and run.task._rate is not None
    record = _goes_on_from(run)
    write = write_of(env, run, record.status if record is not None else states.PENDING, now)
    interval, data = run.task._rate.interval, ""
    if record is not None:
        data = record.data
        if record.gen == write.gen:
            write.starts, write.started_at = record.starts, record.started_at
    write.not_before, write.data = slot, with_slot(data, interval)
    write.expires_at += slot - now
    if env.backend.max_data is not None and len(write.data) > env.backend.max_data:
        write.data = with_slot("", interval)
    return write


def _end_of_start(env: Environment, run: Run, now: float) -> Write | None:
    """Take back a recorded start whose run left no outcome, or another task in its place: it is no crash."""
    record = run.record
    if run.place is None or record is None or run.message is None:
        return None
    if not record.starts and record.started_at is None:
        return None
    write = write_of(env, run, record.status, now)
    write.starts, write.data = max(0, record.starts - 1), record.data
    return write


def _unspeakable(run: Run, error: BaseException) -> Outcome:
    """Return the failure of a run whose outcome cannot be told: one message must not keep its batch from ending."""
    outcome = run.outcome
    what = outcome.value if outcome is not None and outcome.error is None else outcome.error if outcome else None
    told = EncodeError(f"{type(what).__name__} cannot be stored: its own code raised {type(error).__name__}")
    logger.error("the outcome of %s cannot be recorded: %s", run.id, told)
    return Outcome(Kind.FAILURE, error=told, traceback=format_traceback(told))


def _final_data(env: Environment, run: Run, now: float) -> str:
    """Encode what is kept of a final outcome; a result that cannot be kept turns the outcome into a failure."""
    outcome, task = run.outcome, run.task
    assert outcome is not None
    if not env.keeps_results:
        return ""
    meta = _meta_of(env, run, now)
    ignored = ignores_result(run)
    if outcome.kind is Kind.IGNORED:
        meta.result = run.state_written[1] if run.state_written is not None else None
    elif outcome.error is not None:
        meta.error, meta.traceback = outcome.error, outcome.traceback
    elif not ignored or (run.message is not None and is_passed_on(run.message)):
        meta.result, meta.added = outcome.value, run.added
    try:
        data = env.app.write_meta(meta, env.backend, f"the result of {task.name if task else '?'}", run.id)
    except (EncodeError, ImproperlyConfigured, MessageTooLarge) as error:
        logger.error("%s[%s]: %s", task.name if task else "?", run.id, shown_error(run, error))
        run.outcome = Outcome(Kind.FAILURE, error=error, traceback=format_traceback(error))
        conceal(run)
        meta = meta.small_part()
        meta.error = run.outcome.error
        data = meta.encode()
    return data


def _plain_data(env: Environment, run: Run, now: float, texts: dict[tuple[str | None, ...], str]) -> str | None:
    """Encode what is kept of a success in no canvas: the text that all of its task and parents share, and its result.

    Returns `None` where there is more to keep, or more to do for it.
    """
    outcome, message, context = run.outcome, run.message, run.context
    assert outcome is not None and message is not None
    if outcome.kind is not Kind.SUCCESS or env.app.conf.result_extended or not env.keeps_results:
        return None
    if not run.bare and (message.group or message.header or is_passed_on(message)):
        return None
    if context is not None and (context.__dict__.get("children") or run.added):
        return None
    shared = message.task, message.parent_id, message.root_id
    if (text := texts.get(shared)) is None:
        expires = env.app.conf.result_expires
        until = round(now + expires, 3) if expires else None
        text = texts[shared] = plain_text(round(now, 3), until, message.parent_id, message.root_id, message.task)
    if outcome.value is None or ignores_result(run):
        return text
    return env.app.write_result(outcome.value, text, env.backend)


def is_passed_on(message: Message) -> bool:
    """Say whether something else gets the result: it may have to be sent again, or is read later."""
    return bool(message.link or message.chain or message.chord)


def ignores_result(run: Run) -> bool:
    """Say whether nobody wants the result of a run: by its call, else by its task."""
    message, task = run.message, run.task
    if message is not None and message.ignore_result is not None:
        return message.ignore_result
    return bool(task is not None and task.ignore_result)


def _meta_of(env: Environment, run: Run, now: float) -> ResultMeta:
    message, conf = run.message, env.app.conf
    assert message is not None
    meta = ResultMeta(
        date_done=round(now, 3),
        parent_id=message.parent_id,
        root_id=message.root_id,
        group_id=message.group,
        name=message.task,
        links=len(message.link) or None,
        header=message.header["id"] if message.header else None,
        ahead=workflow.ahead(message),
    )
    if conf.result_expires:
        meta.visible_until = round(now + conf.result_expires, 3)
    children = run.context.__dict__.get("children") if run.context is not None else None
    if children:
        meta.children = [child.as_tuple() for child in children]
    if run.outcome is not None and run.outcome.kind is Kind.SUCCESS and (message.link or message.chain):
        meta.children = [*(meta.children or ()), *workflow.next_results(message)] or None
    if conf.result_extended:
        args, kwargs = masked(message.args, message.kwargs, marks_of(run))
        results = len(message.args) - len(message.own_args)  # of a header: they have records of their own
        meta.args, meta.kwargs = _shown(args[results:]), _shown(kwargs)
        meta.worker, meta.queue = env.hostname, run.delivery.queue
    return meta


def _retry_write(env: Environment, run: Run, outcome: Outcome, now: float) -> Write:
    write = write_of(env, run, states.RETRY, now)
    write.retries = run.retries + 1
    if run.successor is not None:
        write.token = handover.naming(write.token, run.successor)
    write.not_before = now + outcome.delay if outcome.delay > 0 else None
    write.expires_at += outcome.delay
    meta = _meta_of(env, run, now)
    meta.date_done = None
    meta.error, meta.traceback = outcome.error, outcome.traceback
    write.data = meta.encode()
    limit = env.backend.max_data
    if limit is not None and len(write.data) > limit:
        too_large = MessageTooLarge(f"{type(outcome.error).__name__}: its details are too large to keep")
        write.data = ResultMeta(error=too_large).encode()
    return write


def _shown(value: Any) -> Any:
    """Return arguments as they can be kept in a record: what JSON cannot take is shown as text."""
    try:
        json_encode(value)
    except EncodeError:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        shown = {key: repr(item) for key, item in pairs}
        return shown if isinstance(value, dict) else list(shown.values())
    return value


def write_of(env: Environment, run: Run, status: str, now: float) -> Write:
    """Return an open write of a run's attempt, kept as long as its message may come."""
    message = run.message
    assert message is not None
    conf = env.app.conf
    kept = max(conf.result_expires or 0.0, conf.record_retention)
    due = message.eta if message.eta is not None and message.eta > now else now
    awaited = message.chord.get("until", 0) if message.chord else 0  # by other members of its chord, and its body
    return Write(
        id=message.id, status=status, gen=message.gen, attempt=run.attempt, retries=run.retries, final=False,
        token=run.token, expires_at=max(due + kept, run.kept_until, awaited), exists=run.record is not None,
    )  # fmt: skip
