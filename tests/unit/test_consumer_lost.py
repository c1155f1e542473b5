"""A local worker looks for lost messages now and then, whatever becomes of that."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from dispatcher.brokers.base import Delivery
from dispatcher.consumer.lost import LostReader
from dispatcher.exceptions import OperationalError
from tests.unit.lossy import LOST, QUEUE, Fleet


class Time:
    """Stands for the module `time`."""

    now = 1000.0

    def monotonic(self) -> float:
        """Return the time of the test."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    """The time that readers go by; jitter is at its most."""
    time = Time()
    monkeypatch.setattr("dispatcher.consumer.lost.time", time)
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    return time


@pytest.fixture
def fleet() -> Fleet:
    """An app whose broker gives messages up."""
    return Fleet()


def reader(fleet: Fleet, clock: Time, names: Callable[[], list[str]]) -> tuple[LostReader, list[float]]:
    """Return a reader, and the list of what it asked the broker."""
    asked: list[float] = []

    def lost_queues(queues: Sequence[str]) -> list[str]:
        assert list(queues) == [QUEUE]
        asked.append(clock.now)
        return names()

    fleet.broker.lost_queues = lost_queues  # type: ignore[method-assign]
    return LostReader(fleet.broker, [QUEUE], fleet.env), asked


def look(subject: LostReader) -> None:
    """Look as a consumer does."""
    if subject.is_due():
        subject.look()


def test_a_look_a_minute_and_more_where_there_is_something(fleet: Fleet, clock: Time) -> None:
    """What is found is decided on at once, and followed by another look."""
    result = fleet.task().delay()
    subject, asked = reader(fleet, clock, lambda: [LOST])
    look(subject)
    clock.now += 70
    look(subject)
    assert asked == [1000.0]
    fleet.lose()
    fleet.clock.advance(361)
    clock.now += 10
    look(subject)
    assert fleet.counts() == [1, 0, 0]
    look(subject)
    assert asked == [1000.0, 1080.0, 1080.0]
    fleet.live(lambda delivery: "run", result.ready)


def test_where_nothing_can_be_lost_nobody_looks(fleet: Fleet, clock: Time) -> None:
    """Queues of an earlier release have no lost queue, and most brokers know none."""
    subject, asked = reader(fleet, clock, list)
    for _ in range(60):
        look(subject)
        clock.now += 60
    assert len(asked) == 2


@pytest.mark.parametrize("error", [OperationalError("AccessDenied"), ValueError("a fault")], ids=repr)
def test_a_reader_that_fails_ends_no_worker(
    fleet: Fleet, clock: Time, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so and looks again later."""

    def fail() -> list[str]:
        raise error

    subject, asked = reader(fleet, clock, fail)
    look(subject)
    look(subject)
    assert (len(asked), str(error) in caplog.text) == (1, True)


def test_a_message_that_the_rule_cannot_take_comes_again(
    fleet: Fleet, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in deciding leaves the message in its queue."""

    def fail(env: object, deliveries: Sequence[Delivery]) -> None:
        raise ValueError("a fault")

    fleet.task().delay()
    fleet.lose()
    fleet.clock.advance(361)
    subject, _ = reader(fleet, clock, lambda: [LOST])
    monkeypatch.setattr("dispatcher.execution.lost.process", fail)
    look(subject)
    assert fleet.counts() == [0, 1, 0]
