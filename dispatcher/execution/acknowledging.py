"""Where broker and backend are one store: outcomes, and the messages that are done with by them, in one step."""

from __future__ import annotations

from collections.abc import Sequence

from dispatcher.backends.base import TaskRecord, Write
from dispatcher.brokers.base import Settle, Settlement
from dispatcher.execution import workflow
from dispatcher.execution.environment import Environment
from dispatcher.execution.run import Kind, Run


def write_outcomes(env: Environment, writes: Sequence[tuple[Run, Write]]) -> list[TaskRecord | None]:
    """Write outcomes, and acknowledge what is done with by them if one store can do both; see `ResultBackend.write`.

    A message that something follows is not done with yet.
    """
    done = [(run, write) for run, write in writes if _is_done(run)]
    together = env.transport.together(env.backend) if done else None
    if together is None:
        return _write_with_removals(env, writes, done)

    def work(settle: Settle) -> tuple[list[TaskRecord | None], list[Run], list[Settlement]]:
        losers = env.backend.write([write for _, write in writes])
        over = [run for (run, _), stood in zip(writes, losers, strict=True) if stood is None and _is_done(run)]
        acks = [Settlement(run.delivery, "ack") for run in over]
        settle(acks)
        return losers, over, acks

    losers, over, acks = together(work)
    for run, ack in zip(over, acks, strict=True):
        run.settlement = ack
    return losers


def _write_with_removals(
    env: Environment, writes: Sequence[tuple[Run, Write]], done: Sequence[tuple[Run, Write]]
) -> list[TaskRecord | None]:
    """Write outcomes; those that remove a message do so as they take effect."""
    removals = env.transport.removals([run.delivery for run, _ in done], env.backend) if done else ()
    for (_, write), removal in zip(done, removals, strict=False):
        write.removal = removal
    losers = env.backend.write([write for _, write in writes])
    for (run, write), stood in zip(writes, losers, strict=True):
        if stood is None and write.removal is not None:
            run.settlement = Settlement(run.delivery, "ack")
    return losers


def _is_done(run: Run) -> bool:
    """Say whether a run is over with its record: it succeeded, and nothing follows."""
    message, outcome = run.message, run.outcome
    assert message is not None
    succeeded = outcome is not None and outcome.kind is Kind.SUCCESS
    return succeeded and (run.bare or not (message.link or message.link_error or workflow.follows(message)))
