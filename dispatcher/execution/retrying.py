"""How a retry reaches the queue: the delivery is released until due, or the message is published anew."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from dispatcher.call_options import keywords, positional, set_options
from dispatcher.exceptions import USER_ERRORS, OperationalError, UnsupportedOption
from dispatcher.execution import handover
from dispatcher.execution.concealing import conceal
from dispatcher.execution.environment import Environment
from dispatcher.execution.renewal import publish_later
from dispatcher.execution.run import Kind, Outcome, Run, format_traceback
from dispatcher.message import Message, own_args
from dispatcher.routing import queue_name
from dispatcher.serialization import pack

logger = logging.getLogger("dispatcher.worker")

#: What `Task.retry` may change, as message fields.
_CHANGEABLE = frozenset({
    "args", "kwargs", "queue", "priority", "time_limit", "soft_time_limit", "headers", "shadow", "expires",
    "ignore_result", "link", "link_error",
})  # fmt: skip


def needs_new_generation(run: Run) -> bool:
    """Say whether a retry is another message, yet to be published: its arguments or options change.

    Any other retry waits in its delivery, or is sent on as it is (`renewal`).
    """
    outcome = run.outcome
    return outcome is not None and outcome.kind is Kind.RETRY and bool(outcome.changes) and run.successor is None


def publish_retries(env: Environment, runs: Sequence[Run]) -> None:
    """Publish the next generation of messages together, which carry their retries; they count once they are recorded.

    It comes before the record, since the old message does not have the new arguments.
    """
    outbox, names = env.app.outbox(), dict[Run, str | None]()
    for run in runs:
        assert run.outcome is not None and run.message is not None
        outbox.owner = run
        try:
            queue, following = next_generation(env, run, run.message, run.outcome)
            publish_later(env, outbox, following, queue, run.outcome.delay)
            names[run] = following.handover
        except USER_ERRORS as error:  # of the user's values, say; the neighbours have no part in it
            outbox.refuse(error)
    outbox.send()
    for run in runs:
        trouble = outbox.refused.get(run)
        if trouble is None:
            run.successor = names[run]
        elif isinstance(trouble, OperationalError):
            logger.error("the retry of %s cannot be sent, its message goes back: %s", run.id, trouble)
            run.outcome = Outcome(Kind.HANDED_BACK, delay=env.backoff(run.delivery.receive_count))
        else:
            run.outcome = Outcome(Kind.FAILURE, error=trouble, traceback=format_traceback(trouble))
            conceal(run)


def next_generation(env: Environment, run: Run, message: Message, outcome: Outcome) -> tuple[str, Message]:
    """Return the queue and the message of a retry with its changes."""
    changes = dict(outcome.changes or {})
    unknown = changes.keys() - _CHANGEABLE
    if unknown:
        raise UnsupportedOption(
            f"retry() cannot change {', '.join(sorted(unknown))}; it can: {', '.join(sorted(_CHANGEABLE))}"
        )
    wanted = changes.pop("queue", None)
    queue = run.delivery.queue if wanted is None else queue_name(wanted)
    fields: dict[str, Any] = {
        "gen": message.gen + 1,
        "handover": handover.new_name(),
        "retries": run.retries + 1,
        "eta": round(env.clock.time() + outcome.delay, 3) if outcome.delay > 0 else None,
    }
    if "args" in changes or "kwargs" in changes:
        args = positional(changes.pop("args", message.args))
        kwargs = keywords(changes.pop("kwargs", message.kwargs))
        fields.update(args=args, kwargs=kwargs, packed=None, payload=None)
        if own_args(args) is args:
            fields["header"] = None
        packed = message.packed or message.payload
        if packed is not None and (packed["enc"] != "json" or "zip" in packed):
            accept, own = frozenset(env.app.conf.accept_content), list(own_args(args))
            fields["packed"] = pack([own, dict(kwargs)], packed["enc"], packed.get("zip"), accept_content=accept)
    set_options(fields, changes, env.clock.time(), env.app.conf.timezone)
    return queue, message.replace(**fields)
