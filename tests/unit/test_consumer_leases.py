"""Leases of a local worker: renewed while held, given back where others can use them, not trusted once they lapsed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dispatcher.brokers.base import Delivery, Outgoing
from dispatcher.clock import ManualClock
from dispatcher.consumer.leases import Leases
from dispatcher.exceptions import ImproperlyConfigured, OperationalError
from dispatcher.execution.run import Kind, Outcome, Run
from tests.unit.consumers import FaultyBroker, until


def take(broker: FaultyBroker, count: int) -> list[Delivery]:
    """Send and lease messages."""
    broker.send([Outgoing("default", str(number), f"id{number}") for number in range(count)])
    return broker.receive(["default"], count)


def hold_one(broker: FaultyBroker) -> tuple[Leases, Delivery]:
    """Send a message, and have it in hand."""
    [delivery] = take(broker, 1)
    leases = Leases(broker)
    leases.hold([delivery])
    return leases, delivery


def test_a_delivery_in_hand_may_start_once() -> None:
    """A delivery may start when it is held; once it was given back or dropped it is no longer ours."""
    broker = FaultyBroker(clock=ManualClock())
    first, second, third = take(broker, 3)
    leases = Leases(broker)
    leases.hold([first, second, third])
    assert leases.begin(first)
    leases.drop([second])
    leases.give_back_unstarted()
    assert not leases.begin(second)
    assert not leases.begin(third)
    assert [settlement.delivery for settlement in broker.settled] == [third]
    assert broker.counts("default") == (1, 0, 2, 0)


def test_what_waits_too_long_goes_back_although_others_begin() -> None:
    """A delivery behind runs of which each ends in time goes back after a while; what came later stays."""
    broker = FaultyBroker()
    early, begun, late = take(broker, 3)
    leases = Leases(broker)
    leases.hold([early, begun])
    assert leases.begin(begun)
    for _ in range(10):
        leases._tick(0.5, renew=False)
        leases.hold([late])  # as whenever something is received or begins
    assert broker.settled == []
    leases._tick(0.5, renew=False)
    assert [settlement.delivery for settlement in broker.settled] == [early]
    assert leases.begin(late)


def test_a_lease_lasts_no_longer_for_being_noticed_late() -> None:
    """A process that stands still inside a receive has less of its leases left, or nothing."""
    clock = ManualClock()
    broker = FaultyBroker(lease=10.0, clock=clock)
    [first, second] = take(broker, 2)
    leases = Leases(broker)
    clock.advance(8.0)
    leases.hold([first, second])
    assert leases.begin(first)
    clock.advance(1.5)
    assert not leases.begin(second)


class Slow(FaultyBroker):
    """A broker that is away for a while when a lease is extended, and gives the message to another before it is."""

    def extend(self, deliveries: Sequence[Delivery], seconds: float) -> None:
        """Extend, too late."""
        self.clock.sleep(6.0)
        assert self.receive(["default"], 1)
        super().extend(deliveries, seconds)


def test_a_lease_that_ended_before_it_was_extended_is_not_ours() -> None:
    """Only the broker knows whether another had the message meanwhile, and it does not say."""
    clock = ManualClock()
    broker = Slow(lease=10.0, clock=clock)
    leases, delivery = hold_one(broker)
    clock.advance(5.0)
    leases._tick(0.5, renew=True)
    assert not leases.begin(delivery)


def test_a_lapsed_lease_is_not_ours() -> None:
    """After a pause longer than the lease, others may hold the message: it must not start here."""
    clock = ManualClock()
    broker = FaultyBroker(lease=10.0, clock=clock)
    leases, delivery = hold_one(broker)
    clock.advance(11.0)
    assert not leases.begin(delivery)
    assert broker.receive(["default"], 1)[0].receive_count == 2


@pytest.mark.parametrize("error", [OperationalError("away"), ImproperlyConfigured("odd"), ValueError("a bug")])
def test_the_thread_survives_errors(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever extending raises, the next renewal is tried, so the lease of a running task does not end."""
    broker = FaultyBroker(lease=0.6)
    leases, delivery = hold_one(broker)
    assert leases.begin(delivery)
    broker.failures["extend"] = [error]
    leases.start()
    try:
        until(lambda: not broker.failures["extend"], "the failure")
        number = delivery.receipt[0]
        due = broker._store.queues["default"].entries[number].due
        until(lambda: broker._store.queues["default"].entries[number].due > due, "a renewal after the failure")
    finally:
        leases.stop()
    assert "cannot be renewed" in caplog.text


def test_what_cannot_be_given_back_is_tried_again() -> None:
    """While the broker is away, what was to be given back is kept and given back as soon as it answers."""
    broker = FaultyBroker()
    leases, delivery = hold_one(broker)
    broker.failures["settle"] = [OperationalError("away"), OperationalError("still away")]
    leases.give_back_unstarted()
    assert not leases.begin(delivery)
    assert broker.counts("default").in_flight == 1
    leases.start()
    try:
        until(lambda: broker.counts("default").ready == 1, "the hand-back")
    finally:
        leases.stop()


def test_nothing_begins_behind_the_last_run() -> None:
    """Once a process is to end with a run no other begins there; a run that is over cannot be the last."""
    broker = FaultyBroker()
    over, ending, waiting = take(broker, 3)
    leases = Leases(broker)
    leases.hold([over, ending, waiting])
    last, finished = Run(ending), Run(over)
    assert leases.begin(ending, last)
    assert leases.begin(over, finished)
    finished.outcome = Outcome(Kind.SUCCESS)
    assert leases.running() == [last]
    assert not leases.make_last(finished)
    assert leases.make_last(last)
    assert not leases.begin(waiting)


def test_a_shutdown_gives_back_behind_a_run() -> None:
    """As soon as a shutdown begins, deliveries behind a run go back, although the run goes on."""
    broker = FaultyBroker()
    running, waiting = take(broker, 2)
    leases = Leases(broker)
    leases.hold([running, waiting])
    assert leases.begin(running)
    leases.start()
    try:
        leases.close()
        until(lambda: broker.counts("default") == (1, 0, 1, 0), "the hand-back")
        assert not leases.begin(waiting)
    finally:
        leases.stop()


def test_a_slow_run_lets_go_of_what_waits_behind_it() -> None:
    """Deliveries behind a run that takes longer than a second are given back; the running one stays leased."""
    broker = FaultyBroker(lease=1.5)
    running, waiting = take(broker, 2)
    leases = Leases(broker)
    leases.hold([running, waiting])
    assert leases.begin(running)
    leases.start()
    try:
        until(lambda: broker.counts("default").ready == 1, "the hand-back")
        assert broker.receive(["default"], 5)[0].body == waiting.body
        number = running.receipt[0]
        held_until = broker._store.queues["default"].entries[number].due
        until(lambda: broker._store.queues["default"].entries[number].due > held_until, "a renewal")
    finally:
        leases.stop()
