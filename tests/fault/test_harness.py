"""The fault harness can fail: workers whose steps are in a wrong order are found out by it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dispatcher.brokers.base import Delivery
from dispatcher.consumer.loop import ConsumerLoop
from dispatcher.execution import recording, settling
from dispatcher.execution.executor import Executor
from dispatcher.execution.run import Kind, Run
from tests.fault.harness.workers import LocalWorker
from tests.fault.harness.world import World

SEED, SIZE = 3, 240


class SettlesFirst(Executor):
    """Tells the broker before the outcome is recorded."""

    def finish(self, runs: Sequence[Run]) -> None:
        settling.settle(self.env, runs)
        super().finish(runs)


class AcksWhatItCannotRecord(Executor):
    """Settles by the outcome although the write of it failed."""

    def finish(self, runs: Sequence[Run]) -> None:
        decided = [run.outcome for run in runs]
        recording.record(self.env, [run for run in runs if run.write is None])
        for run, outcome in zip(runs, decided, strict=True):
            run.outcome = outcome
        settling.continue_(self.env, runs)
        settling.settle(self.env, runs)


class ForgetsContinuations(Executor):
    """Settles what an earlier delivery finished, without sending what follows from it again."""

    def prepare(self, deliveries: Sequence[Delivery]) -> list[Run]:
        runs = super().prepare(deliveries)
        for run in runs:
            if run.outcome is not None and run.outcome.kind is Kind.REPEATED and run.message is not None:
                run.message = run.message.replace(link=(), link_error=())
        return runs


class RunsWhatIsFinished(Executor):
    """Runs what an earlier delivery finished once more."""

    def prepare(self, deliveries: Sequence[Delivery]) -> list[Run]:
        runs = super().prepare(deliveries)
        for run in runs:
            if run.outcome is not None and run.outcome.kind is Kind.REPEATED:
                run.outcome = None
        return runs


def worker_with(executor: type[Executor]) -> type[LocalWorker]:
    """A local worker that has this executor."""

    class Wrong(LocalWorker):
        def make_loop(self, **options: Any) -> ConsumerLoop:
            loop = super().make_loop(**options)
            loop.executor = executor(loop.env)
            return loop

    return Wrong


@pytest.mark.parametrize(
    ("executor", "sign"),
    [
        (SettlesFirst, "lost"),
        (AcksWhatItCannotRecord, "lost"),
        (ForgetsContinuations, "lost"),
        (RunsWhatIsFinished, "late"),
    ],
)
def test_a_wrong_order_of_steps_is_found_out(executor: type[Executor], sign: str, tmp_path: Path) -> None:
    """An executor that acknowledges too early, forgets, or asks nobody is caught, each by its own count."""
    verdict = World("sqlite/dynamodb", SEED, SIZE, tmp_path, worker=worker_with(executor)).run()
    assert sign in verdict.violations, str(verdict)


def test_without_faults_nothing_is_repeated(tmp_path: Path) -> None:
    """A run in which nothing goes wrong runs each attempt once."""
    verdict = World("sqs/dynamodb", SEED, SIZE, tmp_path, scale=0.0).run()
    assert (verdict.violations, verdict.kills, sum(verdict.faults.values())) == ({}, 0, 0)
    assert verdict.reruns == 0
