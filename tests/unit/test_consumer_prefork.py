"""Hard limits of prefork children: told to the parent, also when that is gone or the soft limit strikes at the end."""

from __future__ import annotations

import multiprocessing
from types import SimpleNamespace
from typing import Any

import pytest

from dispatcher.brokers.base import Delivery
from dispatcher.consumer.prefork import HardLimits
from dispatcher.exceptions import SoftTimeLimitExceeded
from dispatcher.execution.limits import AlarmLimits
from dispatcher.execution.run import ShutdownNow


def run_of(body: str) -> Any:
    """Something with a delivery."""
    return SimpleNamespace(delivery=Delivery("q", body, receipt=1))


def test_the_parent_is_told_of_runs_with_a_hard_limit() -> None:
    """It gets limit and delivery at the start, and nothing of runs without a limit."""
    ours, theirs = multiprocessing.Pipe()
    limits = HardLimits(theirs)
    limits.start(None, None, run_of("a"))
    limits.stop()
    assert not ours.poll()
    limits.start(None, 5.0, run_of("b"))
    limit, delivery = ours.recv()
    assert (limit, delivery.body) == (5.0, "b")
    limits.stop()
    assert ours.recv() is None
    ours.close()
    theirs.close()


def test_a_run_without_anybody_to_end_it_does_not_start() -> None:
    """Once the parent is gone nobody keeps hard limits: the run is handed back, and is not a failure of the task."""
    ours, theirs = multiprocessing.Pipe()
    ours.close()
    limits = HardLimits(theirs)
    with pytest.raises(ShutdownNow):
        limits.start(None, 5.0, run_of("a"))
    theirs.close()


def test_a_parent_that_dies_during_a_run_does_not_change_its_outcome() -> None:
    """The end of a run cannot be told to a parent that is gone, and that is no error of the task."""
    ours, theirs = multiprocessing.Pipe()
    limits = HardLimits(theirs)
    limits.start(None, 5.0, run_of("a"))
    ours.recv()
    ours.close()
    assert limits.stop() is False
    theirs.close()


def test_the_parent_is_told_although_the_alarm_strikes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A soft limit that strikes in the very moment the run ends does not leave the parent waiting to kill."""
    ours, theirs = multiprocessing.Pipe()
    limits = HardLimits(theirs)
    limits.start(None, 5.0, run_of("a"))

    def strike(self: AlarmLimits) -> bool:
        raise SoftTimeLimitExceeded(1)

    monkeypatch.setattr(AlarmLimits, "stop", strike)
    with pytest.raises(SoftTimeLimitExceeded):
        limits.stop()
    ours.recv()
    assert ours.poll()
    assert ours.recv() is None
    ours.close()
    theirs.close()
