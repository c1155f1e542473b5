"""The SQS broker under contract, over HTTP."""

from __future__ import annotations

import pytest

from dispatcher.brokers.base import Broker, Settlement
from tests.contract.broker_contract import BrokerContract, bodies
from tests.contract.harness import Harness, Kind, Recipe
from tests.emulation.endpoint import AwsEndpoint


class TestSQSBroker(BrokerContract):
    """The broker contract, kept by `SQSBroker`."""

    @pytest.fixture
    def kind(self, aws_env: AwsEndpoint) -> Kind:
        """Standard queues, which a send makes."""
        return Kind(Recipe("dispatcher.brokers.sqs:SQSBroker", "sqs://"), ordered=False, exact_counts=False)

    def test_purging_leaves_leased_messages(self, harness: Harness[Broker]) -> None:
        """SQS purges leased messages too; other queues are left alone."""
        broker, queue, other = harness.open(), harness.queue(), harness.queue()
        broker.send([harness.outgoing(queue, str(number)) for number in range(4)])
        broker.send([harness.outgoing(queue, delay=600.0), harness.outgoing(other, "other")])
        (leased,) = harness.take(broker, queue, 1)
        assert broker.purge(queue) == 4
        broker.settle([Settlement(leased, "release")])
        assert broker.receive([queue], 10) == []
        assert bodies([harness.take_one(broker, other)]) == ["other"]
