"""The models of SQS and DynamoDB that the fault harness uses keep the same contracts as the emulator over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher.brokers.base import Broker, Settlement
from dispatcher.clock import ManualClock
from tests.contract.backend_contract import BackendContract
from tests.contract.broker_contract import BrokerContract, bodies
from tests.contract.harness import Harness, Kind, Recipe
from tests.fault.harness.dynamodb import DynamoDb
from tests.fault.harness.injector import Gate, Injector
from tests.fault.harness.sqs import Sqs
from tests.fault.harness.stores import AWS_OPTIONS, connect
from tests.fault.harness.wire import Wire

CALM = Injector(0, scale=0.0)
GATE = Gate(CALM, lambda: None, lambda: False)


@pytest.fixture(scope="module")
def wires() -> Iterator[tuple[Wire, Wire]]:
    """What clients of this module's tests use; a new one for each test would cost a session each."""
    wires = Wire("sqs", Sqs(ManualClock(), CALM), CALM, GATE), Wire("dynamodb", DynamoDb(), CALM, GATE)
    with pytest.MonkeyPatch.context() as patch:
        connect(patch, *wires)
        yield wires


class Modelled:
    """Fixtures of a store that lives in this process, by a clock that the test moves."""

    recipe: Recipe

    @pytest.fixture
    def kind(self) -> Kind:
        """Standard queues, which a send makes; a table that the first write makes."""
        return Kind(self.recipe)

    @pytest.fixture
    def harness(self, kind: Kind, wires: tuple[Wire, Wire]) -> Iterator[Harness[Any]]:
        """The models without any fault."""
        clock = ManualClock()
        wires[0].service, wires[1].service = Sqs(clock, CALM), DynamoDb()
        harness: Harness[Any] = Harness(kind, clock)
        yield harness
        harness.close()


class TestSqsModel(Modelled, BrokerContract):
    """The broker contract, kept by `SQSBroker` on the model of SQS."""

    recipe = Recipe("dispatcher.brokers.sqs:SQSBroker", "sqs://", AWS_OPTIONS)

    # It lives in one process, and only the test moves its clock.
    test_a_waiting_receive_wakes_up = None  # type: ignore[assignment]
    test_a_broker_used_before_a_fork_works_on_both_sides = None  # type: ignore[assignment]
    test_consumers_in_processes_share_the_work = None  # type: ignore[assignment]
    test_a_waiting_receive_sees_another_process = None  # type: ignore[assignment]
    test_messages_of_a_killed_process_come_again = None  # type: ignore[assignment]

    def test_purging_leaves_leased_messages(self, harness: Harness[Broker]) -> None:
        """SQS purges leased messages too; other queues are left alone."""
        broker, queue, other = harness.open(), harness.queue(), harness.queue()
        broker.send([harness.outgoing(queue, str(number)) for number in range(4)])
        broker.send([harness.outgoing(other, "other")])
        (leased,) = harness.take(broker, queue, 1)
        assert broker.purge(queue) == 3
        broker.settle([Settlement(leased, "release")])
        assert broker.receive([queue], 10) == []
        assert bodies([harness.take_one(broker, other)]) == ["other"]


class TestDynamoDbModel(Modelled, BackendContract):
    """The backend contract, kept by `DynamoDBBackend` on the model of DynamoDB."""

    recipe = Recipe("dispatcher.backends.dynamodb:DynamoDBBackend", "dynamodb://contract", AWS_OPTIONS)

    # As above.
    test_waiting_sees_another_thread = None  # type: ignore[assignment]
    test_waiting_sees_another_process = None  # type: ignore[assignment]
    test_processes_write_once_per_attempt = None  # type: ignore[assignment]
    test_a_backend_used_before_a_fork_works_on_both_sides = None  # type: ignore[assignment]
    test_processes_take_turns_with_a_lock = None  # type: ignore[assignment]
    test_processes_never_exceed_the_rate = None  # type: ignore[assignment]
