"""The SQS broker under contract, over HTTP."""

from __future__ import annotations

import contextlib

import pytest

from dispatcher.brokers.base import Broker, Delivery, Settlement
from dispatcher.brokers.sqs_queues import MAX_RECEIVE_COUNT
from dispatcher.exceptions import DispatcherWarning
from tests.contract.broker_contract import BrokerContract, bodies, bury, walked
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

    def test_a_fifo_queue_keeps_the_order_of_each_group(self, harness: Harness[Broker]) -> None:
        """While a message of a group is leased the rest of it waits; other groups go on; repeats are swallowed."""
        broker, queue = harness.open(), harness.queue() + ".fifo"
        broker.send([harness.outgoing(queue, f"{group}{n}", group_id=group) for n in range(3) for group in "ab"])
        broker.send([harness.outgoing(queue, "a0", group_id="a")])
        seen: dict[str, list[str]] = {"a": [], "b": []}
        for _ in range(6):
            delivery = harness.take_one(broker, queue)
            assert delivery.group_id in seen
            seen[delivery.group_id] += bodies([delivery])
            broker.settle([Settlement(delivery, "ack")])
        assert seen == {"a": ["a0", "a1", "a2"], "b": ["b0", "b1", "b2"]}
        assert broker.receive([queue], 10) == []

    def test_a_fifo_message_is_dead_lettered_and_released(self, harness: Harness[Broker]) -> None:
        """A release blocks its group until it is over; the dead-letter queue is FIFO too."""
        broker, queue = harness.open(), harness.queue() + ".fifo"
        broker.send([harness.outgoing(queue, body, group_id="g") for body in ("first", "second")])
        first = harness.take_one(broker, queue)
        broker.settle([Settlement(first, "release", delay=1.0)])
        again = harness.take_one(broker, queue)
        assert (bodies([again]), again.receive_count) == (["first"], 2)
        broker.settle([Settlement(again, "dead", reason={"reason": "rejected"})])
        assert bodies([harness.take_one(broker, queue)]) == ["second"]
        assert [letter.body for letter in broker.dead_letters(queue)] == ["first"]

    def test_a_redriven_fifo_letter_keeps_its_group_and_is_not_swallowed(self, harness: Harness[Broker]) -> None:
        """The same body comes again each time it is redriven, in its group, well within the five minutes of SQS."""
        broker, queue = harness.open(), harness.queue() + ".fifo"
        broker.send([harness.outgoing(queue, "poison", group_id="g", deduplication_id="id:0")])
        for round in range(3):
            delivery = harness.take_one(broker, queue)
            assert (bodies([delivery]), delivery.group_id, delivery.receive_count) == (["poison"], "g", 1), round
            broker.settle([Settlement(delivery, "dead", reason={"reason": "undecodable"})])
            with contextlib.closing(broker.walk_dead_letters(queue)) as pages:
                assert sum(broker.redrive(page) for page in pages) == 1

    def test_a_fifo_group_of_letters_is_worked_off_in_order(self, harness: Harness[Broker]) -> None:
        """SQS shows the first ten of a group; acting on them shows the next, keeping them is told in a warning."""
        broker, queue = harness.open(), harness.queue() + ".fifo"
        texts = [str(number) for number in range(23)]
        bury(harness, broker, queue, *texts, group_id="g")
        with pytest.warns(DispatcherWarning, match="13 dead letters of .* could not be seen"):
            assert [letter.body for letter in walked(broker, queue)] == texts[:10]
        with contextlib.closing(broker.walk_dead_letters(queue)) as pages:
            assert sum(broker.redrive(page) for page in pages) == 23
        seen = []
        for _ in texts:
            (delivery,) = harness.take(broker, queue)
            seen += bodies([delivery])
            broker.settle([Settlement(delivery, "ack")])
        assert seen == texts

    def test_a_dead_letter_of_a_fair_queue_keeps_its_group(self, harness: Harness[Broker]) -> None:
        """A tenant's message is that tenant's again when it is redriven."""
        broker, queue = harness.open(), harness.queue()
        bury(harness, broker, queue, "one", group_id="tenant-7")
        with contextlib.closing(broker.walk_dead_letters(queue)) as pages:
            assert [broker.redrive(page) for page in pages] == [1]
        assert harness.take_one(broker, queue).group_id == "tenant-7"

    def test_the_redrive_policy_of_a_made_queue_works(self, harness: Harness[Broker]) -> None:
        """A message received too often is kept for the reader of lost messages, and counts as one of its queue."""
        policy = {"sqs-creation-attributes": {"VisibilityTimeout": "1"}}
        broker, queue = harness.open(**policy), harness.queue()
        broker.send([harness.outgoing(queue, "poison")])
        for _ in range(MAX_RECEIVE_COUNT):
            broker.settle([Settlement(harness.take_one(broker, queue), "release")])
        assert broker.receive([queue], 1) == []
        (lost,) = broker.lost_queues([queue])
        (delivery,) = harness.eventually(lambda: broker.receive([lost], 1))
        assert (delivery.queue, delivery.body) == (f"{queue}-lost", "poison")
        assert broker.counts(queue) == (0, 0, 1, 0)
        assert broker.budget_spent(delivery) < 0.01
        broker.settle([Settlement(delivery, "dead", reason={"reason": "failed"})])
        (letter,) = harness.eventually(lambda: broker.dead_letters(queue))
        assert (letter.queue, letter.body, dict(letter.reason)) == (queue, "poison", {"reason": "failed"})
        assert broker.counts(queue) == (0, 0, 0, 1)

    def test_a_purge_takes_lost_messages_too(self, harness: Harness[Broker]) -> None:
        """What waits for the reader of lost messages would come back to the queue."""
        broker, queue = harness.open(), harness.queue()
        broker.send([harness.outgoing(queue, "one")])
        (lost,) = broker.lost_queues([queue])
        broker.send([harness.outgoing(lost, "two")])
        assert broker.purge(queue) == 2
        assert broker.counts(queue) == (0, 0, 0, 0)

    def test_a_queue_says_what_it_gives_a_message(self, harness: Harness[Broker]) -> None:
        """Receipts and age are measured by the queue's own attributes unless options say them."""
        harness.open(max_receive_count=4, message_retention=1000).send(
            [harness.outgoing(queue := harness.queue(), "one")]
        )
        for options, receipts, age in (({}, 4, 1000), ({"max_receive_count": 8, "message_retention": 500}, 8, 500)):
            broker, now = harness.open(**options), harness.clock.time()
            assert broker.budget_spent(Delivery(queue, "", "", 2, sent_at=now)) == pytest.approx(2 / receipts, abs=0.01)
            assert broker.budget_spent(Delivery(queue, "", "", 1, sent_at=now - age)) == pytest.approx(1, abs=0.01)
            assert broker.retention_of(queue) == age
