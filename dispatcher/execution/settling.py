"""Steps 6 and 7: send what follows from a confirmed outcome, then tell the broker what became of the delivery."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from dispatcher import states
from dispatcher.backends.meta import ResultMeta
from dispatcher.brokers.base import Settlement
from dispatcher.canvas.plan import derived_id
from dispatcher.exceptions import USER_ERRORS, BackendError, DispatcherError, OperationalError, Reject
from dispatcher.execution import workflow
from dispatcher.execution.concealing import conceal, log_error, shown_error
from dispatcher.execution.environment import Environment
from dispatcher.execution.errbacks import errback_call
from dispatcher.execution.launching import PartsMissing
from dispatcher.execution.recording import goes_back
from dispatcher.execution.renewal import longest_wait
from dispatcher.execution.run import SUCCESS, Kind, Outcome, Run, ShutdownNow, format_traceback
from dispatcher.message import Message
from dispatcher.quotas import LAMBDA_MAX_TIMEOUT

if TYPE_CHECKING:
    from dispatcher.outbox import Outbox

logger = logging.getLogger("dispatcher.worker")
#: SQS attributes are texts that count towards the message; a traceback is for people, its end says most.
_MAX_TRACEBACK = 8_000

#: Makes a settlement of all of its fields, in a third of the time that its constructor takes.
_settlement: Final[Callable[[tuple[Any, ...]], Settlement]] = functools.partial(tuple.__new__, Settlement)


def continue_(env: Environment, runs: Sequence[Run]) -> None:
    """Step 6: send callbacks and error callbacks under derived ids, so that doing it twice creates nothing new.

    What all runs send goes together. A delivery whose continuations cannot be sent goes back; its next admission finds
    the outcome and repeats them.
    """
    companies = _companies(runs)
    if not companies:
        return
    outbox = env.app.outbox()
    for run, beside in companies:
        assert run.message is not None
        outbox.owner = run
        messages = [each.message for each in beside if each.message is not None]
        try:
            _put_continuations(env, outbox, run, run.message, messages)
        except USER_ERRORS as error:
            if env.eager and not _passes(error):
                raise
            outbox.refuse(error)
    outbox.send()
    wrong = outbox.refused
    stopped = [(run, why) for run, _ in companies if (why := wrong.get(_canvas_of(run))) and not _passes(why)]
    untold = _tell_waiting(env, stopped) if stopped else {}
    for run, beside in companies:
        troubles = [why for why in (wrong.get(_canvas_of(run)), wrong.get(run), untold.get(run)) if why]
        passing = next(filter(_passes, troubles), None)
        if passing is not None:
            for each in (run, *beside):
                logger.error("what follows %s cannot be sent, its message goes back: %s", each.id, passing)
                each.outcome = Outcome(Kind.HANDED_BACK, delay=env.backoff(each.delivery.receive_count))
        elif troubles:
            # Trying again would not help: the callback itself is wrong, or the user's code that was asked for it.
            # Those beside it are marked by then.
            for why in troubles:
                log_error(logger, run, why, "what follows %s can never be sent, its message is dead", run.id)
            run.uncontinued = troubles[0]


def _passes(error: BaseException) -> bool:
    """Say whether trying again later can help."""
    return isinstance(error, OperationalError | BackendError)


def _canvas_of(run: Run) -> Hashable:
    """Return who owns what a canvas sends after a run; what else follows the run is its own."""
    return run, "canvas"


def _companies(runs: Sequence[Run]) -> Collection[tuple[Run, list[Run]]]:
    """Return the runs that something follows, each with those that can be marked beside it: of the same join."""
    found: dict[object, tuple[Run, list[Run]]] = {}
    for run in runs:
        message = run.message
        if message is None or not (message.link or message.link_error or workflow.follows(message)):
            continue
        succeeded = run.outcome is not None and run.outcome.kind is Kind.SUCCESS and not run.added
        company = (workflow.join_to_mark(message) if succeeded else None) or id(run)
        if company in found:
            found[company][1].append(run)
        else:
            found[company] = run, []
    return found.values()


def _put_continuations(env: Environment, outbox: Outbox, run: Run, message: Message, beside: Sequence[Message]) -> None:
    status, meta = _decided(env, run)
    if status != states.PENDING and workflow.follows(message) and not env.eager:
        outbox.owner = _canvas_of(run)
        workflow.follow(env, outbox, message, status, meta, beside)
    outbox.owner = run
    if status == states.SUCCESS:
        for index, sig in enumerate(message.link):
            env.app.send_linked(sig, (meta.result,), message, derived_id(message.id, f"link/{index}"), outbox)
    elif status == states.FAILURE:
        error = meta.error if meta.error is not None else DispatcherError("failed")
        for index, sig in enumerate(message.link_error):
            called, args = errback_call(env.app.tasks, sig, message, error, meta.traceback)
            task_id = derived_id(message.id, _position_of_error(message, index))
            env.app.send_linked(called, args, message, task_id, outbox)


def _tell_waiting(env: Environment, stopped: Sequence[tuple[Run, BaseException]]) -> Mapping[Hashable, BaseException]:
    """Fail all that waits for runs after which their canvas can never go on; return for which that went wrong, and why.

    They fail in the generation before, so that they run once the message is brought back and can be continued.
    """
    outbox = env.app.outbox()
    for run, error in stopped:
        outbox.owner = run
        try:
            _give_up(env, outbox, run, error)
        except USER_ERRORS as second:  # the run's, which is told
            outbox.refuse(second)
    outbox.send()
    return outbox.refused


def _give_up(env: Environment, outbox: Outbox, run: Run, error: BaseException) -> None:
    assert run.message is not None
    status, _ = _decided(env, run)
    if status != states.SUCCESS:
        return  # all was told that it failed already
    before = run.message.replace(gen=run.message.gen - 1, link_error=())  # it did not fail: none was called
    if isinstance(error, PartsMissing):
        before = before.replace(chain=tuple(error.steps))
    shown = shown_error(run, error)
    workflow.give_up(env, outbox, workflow.Failure(before, before.id, states.FAILURE, shown, str(shown)))


def _position_of_error(message: Message, index: int) -> str:
    """Return the place of an error callback.

    A task that failed, was brought back and fails again has failed twice, in two generations; it succeeds once at most.
    """
    return f"link_error/{index}" if message.gen <= 0 else f"link_error/{index}/{message.gen}"


def _decided(env: Environment, run: Run) -> tuple[str, ResultMeta]:
    """Return the final state whose continuations are due: this run's own, or the one it found in the record."""
    outcome = run.outcome
    assert outcome is not None
    if outcome.kind is Kind.REPEATED and run.record is not None:
        return run.record.status, env.app.read_meta(run.record).complete()
    if outcome.kind is Kind.SUCCESS:
        return states.SUCCESS, ResultMeta(result=outcome.value, added=run.added)
    if outcome.kind in (Kind.FAILURE, Kind.UNREADABLE):
        return states.FAILURE, ResultMeta(error=outcome.error, traceback=outcome.traceback)
    if outcome.kind is Kind.REVOKED:
        return states.REVOKED, ResultMeta(error=outcome.error)
    if outcome.kind is Kind.IGNORED or (outcome.kind is Kind.REJECTED and not goes_back(outcome)):
        return states.REJECTED if outcome.kind is Kind.REJECTED else states.IGNORED, ResultMeta()
    return states.PENDING, ResultMeta()


def settle(env: Environment, runs: Iterable[Run]) -> None:
    """Step 7: acknowledge, release or dead-letter each delivery; always last."""
    settlements = []
    for run in runs:
        if run.settlement is not None:  # its message went with its record
            continue
        if run.uncontinued is not None:
            settlement = _uncontinued(run)
        elif run.sent_on or (run.outcome is not None and run.outcome.kind is SUCCESS):
            settlement = _settlement((run.delivery, "ack", 0.0, None, None))
        else:
            settlement = settlement_of(env, run)
        run.settlement = settlement
        settlements.append(settlement)
    if settlements:
        env.transport.settle(settlements)


def settlement_of(env: Environment, run: Run) -> Settlement:
    """Return what becomes of a delivery whose run has not succeeded, and which was not sent on."""
    outcome, delivery = run.outcome or Outcome(Kind.HANDED_BACK), run.delivery
    kind = outcome.kind
    if kind in (Kind.HANDED_BACK, Kind.RETRY, Kind.DEFERRED):
        longest = longest_wait(env, delivery)
        delay = outcome.delay if longest is None else min(outcome.delay, longest)
        return Settlement(delivery, "release", delay)
    error = outcome.error
    if kind is Kind.REJECTED and isinstance(error, Reject) and error.requeue:
        return Settlement(delivery, "release", outcome.delay)
    reason = _why_dead(env, run, outcome)
    if reason is None:
        return Settlement(delivery, "ack")
    if kind is Kind.REPEATED and (left := _left_to_decider(env, run)) > 0:
        logger.info("%s failed already; its message rests for %.0f s, as another delivery may be about to bury it",
                    run.id, left)  # fmt: skip
        return Settlement(delivery, "release", left)
    return Settlement(delivery, "dead", reason=reason, body=_next_body(env, run))


def _why_dead(env: Environment, run: Run, outcome: Outcome) -> dict[str, str] | None:
    """Return the reason of a message that is a dead letter from here on."""
    kind = outcome.kind
    if kind is Kind.UNREADABLE:
        return _reason("undecodable", run, outcome)
    if kind is Kind.REJECTED:
        return _reason("rejected", run, outcome)
    if kind is Kind.REPEATED:
        return _unburied(env, run)
    kept = env.app.conf.dead_letter_failures and not env.eager
    return _reason("failed", run, outcome) if kind is Kind.FAILURE and not outcome.expected and kept else None


def _uncontinued(run: Run) -> Settlement:
    """Bury a message whose callbacks can never be sent.

    The body stays as it is: brought back, it finds its outcome in the record and tries the callbacks again.
    """
    assert run.outcome is not None and run.uncontinued is not None
    decided = run.outcome
    run.outcome = Outcome(decided.kind, error=run.uncontinued, traceback=format_traceback(run.uncontinued))
    conceal(run)
    why, run.outcome = run.outcome, decided
    return Settlement(run.delivery, "dead", reason=_reason("uncontinued", run, why))


def _unburied(env: Environment, run: Run) -> dict[str, str] | None:
    """Return why the message is dead if an earlier delivery recorded that and probably ended before burying it."""
    record = run.record
    first = run.delivery.receive_count < 2 and not env.transport.doubles
    if first or record is None or record.status not in (states.FAILURE, states.REJECTED):
        return None
    try:
        meta = env.app.read_meta(record).complete()
    except DispatcherError as error:
        meta = ResultMeta(error=error)
    outcome = Outcome(Kind.REPEATED, error=meta.error, traceback=meta.traceback)
    if record.status == states.REJECTED:
        return _reason("rejected", run, outcome)
    throws = run.task.throws if run.task is not None else ()
    expected = bool(throws) and isinstance(meta.error, throws)
    return None if expected or not env.app.conf.dead_letter_failures else _reason("failed", run, outcome)


def _left_to_decider(env: Environment, run: Run) -> float:
    """Return for how long another delivery of this very message may still be about to bury it, in seconds.

    Until then this one must not bury it, which may be done already, nor remove it, which may be all that is left of it.
    """
    if not env.transport.doubles or run.record is None:
        return 0.0
    try:
        decided_at = env.app.read_meta(run.record).date_done
    except DispatcherError:  # it says nothing that we can read
        return 0.0
    return 0.0 if decided_at is None else decided_at + LAMBDA_MAX_TIMEOUT - env.clock.time()


def _reason(reason: str, run: Run, outcome: Outcome) -> dict[str, str]:
    message, error = run.message, outcome.error
    texts = {"reason": reason}
    if message is not None:
        texts.update(task=message.task, task_id=message.id, retries=str(run.retries))
    if error is not None:
        texts["exception"] = _described(error)
    if outcome.traceback:
        texts["traceback"] = outcome.traceback[-_MAX_TRACEBACK:]
    return texts


def _described(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:1000]
    except ShutdownNow:
        raise
    except BaseException:  # noqa: BLE001 - a user's __str__ may raise anything
        return type(error).__name__


def _next_body(env: Environment, run: Run) -> str | None:
    """Return the body a dead letter is kept as: of the next generation, so that any redrive of it runs."""
    message = run.message
    if message is None or message.task == "?":
        return None
    changes = {"gen": message.gen + 1, "retries": 0, "eta": None, "expires": None, "handover": None}
    return env.app.sealed_body(message.replace(**changes), run.delivery.queue)
