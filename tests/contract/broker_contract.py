"""What every broker promises; see `dispatcher.brokers.base`."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dispatcher.brokers.base import Broker, DeadLetter, Delivery, Settlement
from dispatcher.clock import SYSTEM
from dispatcher.exceptions import MessageTooLarge, UnsupportedOption
from tests.contract import children
from tests.contract.harness import Harness, Kind

REASON = {"reason": "rejected", "task": "shop.charge", "task_id": "4f", "exception": "ValueError('é')", "retries": "3"}


def bodies(deliveries: list[Delivery]) -> list[str]:
    """The bodies as text."""
    return [d.body if isinstance(d.body, str) else d.body.decode() for d in deliveries]


def ack(broker: Broker, *deliveries: Delivery) -> None:
    """Ack deliveries in one call."""
    broker.settle([Settlement(delivery, "ack") for delivery in deliveries])


def bury(harness: Harness[Broker], broker: Broker, queue: str, *texts: str, **fields: Any) -> None:
    """Send messages and dead-letter them, in this order; the reason names the task after the body."""
    for text in texts:
        broker.send([harness.outgoing(queue, text, **fields)])
        taken = harness.take_one(broker, queue)
        broker.settle([Settlement(taken, "dead", reason={**REASON, "task": text[:50]})])


def walked(broker: Broker, queue: str) -> list[DeadLetter]:
    """All dead letters of a queue; their receipts are no longer good on SQS."""
    with contextlib.closing(broker.walk_dead_letters(queue)) as pages:
        return [letter for page in pages for letter in page]


class BrokerContract:
    """Tests for one adapter; subclasses have a ``kind`` fixture that returns its `Kind`."""

    # Sending and receiving

    def test_a_sent_message_is_received(self, harness: Harness[Broker]) -> None:
        """A delivery carries the body, the queue, a first receive count and an id of the transport's."""
        broker, queue = harness.open(), harness.queue()
        broker.send([harness.outgoing(queue, '{"v":1}')])
        delivery = harness.take_one(broker, queue)
        assert (bodies([delivery]), delivery.queue, delivery.receive_count) == (['{"v":1}'], queue, 1)
        assert delivery.message_id
        assert delivery.sent_at is None or abs(delivery.sent_at - harness.clock.time()) < 60

    def test_another_adapter_on_the_same_store_receives(self, harness: Harness[Broker]) -> None:
        """Producer and consumer need not share an object."""
        queue = harness.queue()
        harness.open().send([harness.outgoing(queue, "one")])
        assert bodies([harness.take_one(harness.open(), queue)]) == ["one"]

    def test_a_large_batch_is_sent_whole(self, harness: Harness[Broker]) -> None:
        """A batch may be larger than what the transport takes in one call."""
        broker, queue = harness.open(), harness.queue()
        sent = [f"body {number}" for number in range(35)]
        broker.send([harness.outgoing(queue, body) for body in sent])
        assert sorted(bodies(harness.take(broker, queue, 35))) == sorted(sent)

    def test_one_batch_may_name_several_queues(self, harness: Harness[Broker]) -> None:
        """Each message goes to the queue it names."""
        broker, first, second = harness.open(), harness.queue(), harness.queue()
        broker.send([harness.outgoing(first, "1"), harness.outgoing(second, "2"), harness.outgoing(first, "3")])
        assert sorted(bodies(harness.take(broker, first, 2))) == ["1", "3"]
        assert bodies(harness.take(broker, second, 1)) == ["2"]

    def test_a_receive_leases_no_more_than_its_limit(self, harness: Harness[Broker]) -> None:
        """What one receive left can be received by another, and nothing twice."""
        broker, other, queue = harness.open(), harness.open(), harness.queue()
        broker.send([harness.outgoing(queue, str(number)) for number in range(5)])
        first = harness.eventually(lambda: broker.receive([queue], 2))
        assert len(first) <= 2
        rest = harness.take(other, queue, 5 - len(first))
        assert sorted(bodies(first + rest)) == ["0", "1", "2", "3", "4"]

    def test_messages_of_one_priority_keep_their_order(self, harness: Harness[Broker]) -> None:
        """First in, first out, where the store promises it."""
        if not harness.kind.ordered:
            pytest.skip("the store promises no order")
        broker, queue = harness.open(), harness.queue()
        for start in (0, 10):
            broker.send([harness.outgoing(queue, str(number)) for number in range(start, start + 10)])
        assert bodies(harness.take(broker, queue, 20)) == [str(number) for number in range(20)]

    def test_queues_are_served_in_the_order_given(self, harness: Harness[Broker]) -> None:
        """A message of the first queue comes before one of the second."""
        broker, first, second = harness.open(), harness.queue(), harness.queue()
        broker.send([harness.outgoing(second, "2"), harness.outgoing(first, "1")])
        taken: list[Delivery] = []
        while len(taken) < 2:
            taken += harness.eventually(lambda: broker.receive([first, second], 1))
        assert [delivery.queue for delivery in taken] == [first, second]

    def test_one_receive_fills_up_from_further_queues(self, harness: Harness[Broker]) -> None:
        """Both queues are served by receives that name both."""
        broker, first, second = harness.open(), harness.queue(), harness.queue()
        broker.send([harness.outgoing(first, "1"), harness.outgoing(second, "2")])
        taken: list[Delivery] = []
        while len(taken) < 2:
            taken += harness.eventually(lambda: broker.receive([first, second], 10))
        assert sorted((d.queue, b) for d, b in zip(taken, bodies(taken), strict=True)) == sorted(
            [(first, "1"), (second, "2")]
        )

    def test_empty_calls_do_nothing(self, harness: Harness[Broker]) -> None:
        """No messages, no settlements, no queues and a limit of 0 are no errors."""
        broker, queue = harness.open(), harness.queue()
        broker.send([])
        broker.settle([])
        broker.extend([], 10.0)
        assert broker.receive([], 10) == []
        broker.send([harness.outgoing(queue)])
        assert broker.receive([queue], 0) == []

    def test_a_missing_queue_is_empty(self, harness: Harness[Broker]) -> None:
        """Receiving from a queue that nobody has sent to finds nothing, without an error."""
        assert harness.open().receive([f"{harness.kind.queue_prefix}-nobody-sent-here"], 10) == []

    def test_a_waiting_receive_wakes_up(self, kind: Kind) -> None:
        """A message that is sent while another thread waits is received by it."""
        real = Harness[Broker](kind, SYSTEM)
        broker, queue = real.open(), real.queue()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(broker.receive, [queue], 1, 20.0)
            broker.send([real.outgoing(queue, "late")])
            assert bodies(waiting.result(30)) == ["late"]
        real.close()

    def test_a_receive_waits_no_longer_than_told(self, harness: Harness[Broker]) -> None:
        """An empty queue ends the wait without a message."""
        assert harness.open().receive([harness.queue()], 10, wait=0.3) == []

    # Bodies

    @pytest.mark.parametrize(
        "body",
        ['{"text":"Grüße, 世界, 🚀"}', " leading and trailing \n", "<&>'\"\\", '{"a":"\\u0000"}', "x"],
    )
    def test_bodies_come_back_as_they_were(self, harness: Harness[Broker], body: str) -> None:
        """No character is lost or changed."""
        broker, queue = harness.open(), harness.queue()
        broker.send([harness.outgoing(queue, body)])
        assert bodies([harness.take_one(broker, queue)]) == [body]

    def test_a_body_of_the_largest_size_passes(self, harness: Harness[Broker]) -> None:
        """A body of the documented limit, or of a million bytes where there is none, comes back whole."""
        broker, queue = harness.open(), harness.queue()
        body = "0123456789abcdef" * 62_500
        body = body if broker.features.max_body is None else (body * 2)[: broker.features.max_body]
        broker.send([harness.outgoing(queue, body)])
        assert bodies([harness.take_one(broker, queue)]) == [body]

    def test_a_body_over_the_limit_is_refused(self, harness: Harness[Broker]) -> None:
        """Nothing of a batch is sent when one of its bodies is too large."""
        broker, queue = harness.open(), harness.queue()
        if broker.features.max_body is None:
            pytest.skip("bodies have no limit here")
        with pytest.raises(MessageTooLarge):
            broker.send([harness.outgoing(queue), harness.outgoing(queue, "x" * (broker.features.max_body + 1))])
        assert broker.receive([queue], 10) == []

    # Options

    def test_priority_overtakes_or_is_refused(self, harness: Harness[Broker]) -> None:
        """0 is the most urgent and the default, 9 the least; a transport without priorities refuses the option."""
        broker, queue = harness.open(), harness.queue()
        batch = [harness.outgoing(queue, str(priority), priority=priority) for priority in (9, 3, 0, 6)]
        if broker.features.priorities:
            broker.send(batch)
            broker.send([harness.outgoing(queue, "default")])
            assert bodies(harness.take(broker, queue, 5)) == ["0", "default", "3", "6", "9"]
        else:
            with pytest.raises(UnsupportedOption, match="priority"):
                broker.send(batch)

    def test_groups_are_refused_where_they_mean_nothing(self, harness: Harness[Broker]) -> None:
        """A message group that the transport would ignore is an error."""
        broker, queue = harness.open(), harness.queue()
        if broker.features.groups:
            pytest.skip("the transport has groups")
        with pytest.raises(UnsupportedOption, match="MessageGroupId"):
            broker.send([harness.outgoing(queue, group_id="tenant")])

    def test_a_delayed_message_is_not_early(self, harness: Harness[Broker]) -> None:
        """The message comes once its delay is over, and later messages do not wait for it."""
        broker, queue = harness.open(), harness.queue()
        start = harness.clock.time()
        broker.send([harness.outgoing(queue, "later", delay=1.0), harness.outgoing(queue, "now")])
        assert bodies([harness.take_one(broker, queue)]) == ["now"]
        assert bodies([harness.take_one(broker, queue)]) == ["later"]
        assert harness.clock.time() - start >= 1.0 - harness.kind.tolerance

    def test_a_delay_over_the_limit_is_refused(self, harness: Harness[Broker]) -> None:
        """A delay the transport cannot do is an error, not a shorter delay."""
        broker, queue = harness.open(), harness.queue()
        if broker.features.max_delay is None:
            broker.send([harness.outgoing(queue, delay=400 * 86_400.0)])
            assert broker.receive([queue], 1) == []
        else:
            with pytest.raises(UnsupportedOption, match="delay"):
                broker.send([harness.outgoing(queue, delay=broker.features.max_delay + 1)])

    # Leases

    def test_a_leased_message_is_not_received_again(self, harness: Harness[Broker]) -> None:
        """While the lease runs nobody else gets the message."""
        broker, other, queue = harness.open(), harness.open(), harness.queue()
        broker.send([harness.outgoing(queue)])
        harness.take_one(broker, queue)
        assert broker.receive([queue], 10) == []
        assert other.receive([queue], 10, wait=0.2) == []

    def test_a_delivery_says_when_its_lease_began(self, harness: Harness[Broker]) -> None:
        """Not by the time at which a receiver that stood still came to know of it."""
        broker, queue = harness.open(), harness.queue()
        broker.send([harness.outgoing(queue)])
        before = broker.clock.monotonic()
        delivery = harness.take_one(broker, queue)
        assert delivery.leased_at is not None
        assert before <= delivery.leased_at <= broker.clock.monotonic()

    def test_an_acked_message_is_gone(self, harness: Harness[Broker]) -> None:
        """It does not come again, not even when its lease would have ended."""
        lease = harness.kind.shortest_lease
        broker, queue = harness.open(visibility_timeout=lease), harness.queue()
        broker.send([harness.outgoing(queue)])
        ack(broker, harness.take_one(broker, queue))
        harness.clock.sleep(lease * 1.5)
        assert broker.receive([queue], 10) == []

    def test_an_ended_lease_redelivers(self, harness: Harness[Broker]) -> None:
        """The message comes again with a higher receive count, not before the lease has ended."""
        lease = harness.kind.shortest_lease
        broker, queue = harness.open(visibility_timeout=lease), harness.queue()
        broker.send([harness.outgoing(queue, "again")])
        start = harness.clock.time()
        first = harness.take_one(broker, queue)
        second = harness.take_one(broker, queue)
        assert harness.clock.time() - start >= lease - harness.kind.tolerance
        assert (bodies([second]), second.receive_count) == (["again"], 2)
        assert second.message_id == first.message_id

    @pytest.mark.parametrize("action", ["ack", "release", "dead"])
    def test_an_old_receipt_does_not_touch_the_new_lease(self, harness: Harness[Broker], action: Any) -> None:
        """Settling by a receipt whose lease was passed on is a no-op."""
        slow = harness.open(visibility_timeout=harness.kind.shortest_lease)
        quick, queue = harness.open(visibility_timeout=60.0), harness.queue()
        slow.send([harness.outgoing(queue)])
        old = harness.take_one(slow, queue)
        new = harness.take_one(quick, queue)
        slow.settle([Settlement(old, action, reason=REASON)])
        assert quick.receive([queue], 1) == []
        assert quick.dead_letters(queue) == []
        quick.settle([Settlement(new, "release")])
        assert harness.take_one(quick, queue).receive_count == 3

    def test_a_late_release_does_not_double_a_message(self, harness: Harness[Broker]) -> None:
        """A receipt whose lease ended, while nobody else got the message, still leaves one message."""
        lease = harness.kind.shortest_lease
        broker, queue = harness.open(visibility_timeout=lease), harness.queue()
        broker.send([harness.outgoing(queue, "a"), harness.outgoing(queue, "b")])
        late = harness.take(broker, queue, 2)
        harness.clock.sleep(lease * 1.5)
        patient = harness.open(visibility_timeout=60.0)
        first = harness.take_one(patient, queue)
        broker.settle([Settlement(delivery, "release") for delivery in late])
        other = harness.take_one(patient, queue)
        assert sorted(bodies([first, other])) == ["a", "b"]
        assert patient.receive([queue], 10) == []

    def test_extending_keeps_the_lease(self, harness: Harness[Broker]) -> None:
        """The lease ends the given time after the call."""
        lease = harness.kind.shortest_lease
        broker, queue = harness.open(visibility_timeout=lease), harness.queue()
        broker.send([harness.outgoing(queue, str(number)) for number in range(12)])
        deliveries = harness.take(broker, queue, 12)
        start = harness.clock.time()
        broker.extend(deliveries, 3 * lease)
        again = harness.take_one(broker, queue)
        assert harness.clock.time() - start >= 3 * lease - harness.kind.tolerance
        assert again.receive_count == 2

    def test_an_extended_delivery_can_be_settled(self, harness: Harness[Broker]) -> None:
        """Extending leaves the receipt valid."""
        lease = harness.kind.shortest_lease
        broker, queue = harness.open(visibility_timeout=lease), harness.queue()
        broker.send([harness.outgoing(queue)])
        delivery = harness.take_one(broker, queue)
        broker.extend([delivery], 2 * lease)
        ack(broker, delivery)
        harness.clock.sleep(2.5 * lease)
        assert broker.receive([queue], 10) == []

    def test_a_release_hands_the_message_back(self, harness: Harness[Broker]) -> None:
        """Without a delay it comes again at once, with a higher receive count."""
        broker, queue = harness.open(), harness.queue()
        broker.send([harness.outgoing(queue, "back")])
        for count in (1, 2, 3):
            delivery = harness.take_one(broker, queue)
            assert (bodies([delivery]), delivery.receive_count) == (["back"], count)
            broker.settle([Settlement(delivery, "release")])

    def test_a_release_with_a_delay_is_not_early(self, harness: Harness[Broker]) -> None:
        """It comes again once the delay is over."""
        broker, queue = harness.open(), harness.queue()
        broker.send([harness.outgoing(queue)])
        delivery = harness.take_one(broker, queue)
        start = harness.clock.time()
        broker.settle([Settlement(delivery, "release", delay=1.0)])
        assert broker.receive([queue], 1) == []
        assert harness.take_one(broker, queue).receive_count == 2
        assert harness.clock.time() - start >= 1.0 - harness.kind.tolerance

    def test_a_release_may_last_longer_than_the_lease(self, harness: Harness[Broker]) -> None:
        """The end of the lease it had does not bring a released message back early."""
        lease = harness.kind.shortest_lease
        broker, queue = harness.open(visibility_timeout=lease), harness.queue()
        broker.send([harness.outgoing(queue)])
        delivery = harness.take_one(broker, queue)
        start = harness.clock.time()
        broker.settle([Settlement(delivery, "release", delay=2 * lease)])
        harness.take_one(broker, queue)
        assert harness.clock.time() - start >= 2 * lease - harness.kind.tolerance

    def test_settlements_of_all_kinds_go_in_one_call(self, harness: Harness[Broker]) -> None:
        """A large mixed batch over two queues does to each delivery what it says."""
        broker, first, second = harness.open(), harness.queue(), harness.queue()
        for queue in (first, second):
            broker.send([harness.outgoing(queue, f"{action} {n}") for action in "ARD" for n in range(5)])
        taken = harness.take(broker, first, 15) + harness.take(broker, second, 15)
        actions: dict[str, Any] = {"A": "ack", "R": "release", "D": "dead"}
        broker.settle([Settlement(d, actions[b[0]], reason=REASON) for d, b in zip(taken, bodies(taken), strict=True)])
        for queue in (first, second):
            released = harness.take(broker, queue, 5)
            assert sorted(bodies(released)) == [f"R {n}" for n in range(5)]
            assert sorted(letter.body for letter in broker.dead_letters(queue)) == [f"D {n}" for n in range(5)]
            assert broker.receive([queue], 10) == []

    # Dead letters

    def test_settling_and_receiving_go_in_one_call(self, harness: Harness[Broker]) -> None:
        """Between two batches a consumer needs one call: what it settles is settled, what it receives is leased."""
        broker, queue = harness.open(), harness.queue()
        sent = [str(number) for number in range(6)]
        broker.send([harness.outgoing(queue, body) for body in sent])
        first = harness.take_one(broker, queue)
        seen, owed = bodies([first]), [Settlement(first, "release")]
        while len(seen) < len(sent) + 1:  # one comes twice
            taken = broker.settle_and_receive(owed, [queue], 2, 0.5)
            seen += bodies(taken)
            owed = [Settlement(delivery, "ack") for delivery in taken]
        assert sorted(seen) == sorted([*sent, first.body])
        assert broker.settle_and_receive(owed, [queue], 2, 0.3) == []
        assert broker.settle_and_receive([], [queue], 2) == []
        broker.send([harness.outgoing(queue, "last")])
        assert broker.settle_and_receive([Settlement(harness.take_one(broker, queue), "ack")], [], 1) == []
        harness.eventually(lambda: broker.counts(queue) == (0, 0, 0, 0))

    def test_a_dead_letter_is_kept_with_its_reason(self, harness: Harness[Broker]) -> None:
        """It is listed with every text of the reason and not received again."""
        lease = harness.kind.shortest_lease
        broker, queue = harness.open(visibility_timeout=lease), harness.queue()
        broker.send([harness.outgoing(queue, "poison")])
        delivery = harness.take_one(broker, queue)
        broker.settle([Settlement(delivery, "dead", reason=REASON)])
        (letter,) = harness.eventually(lambda: broker.dead_letters(queue))
        assert (letter.queue, letter.body, dict(letter.reason)) == (queue, "poison", REASON)
        assert abs(letter.at - harness.clock.time()) < 60
        assert letter.message_id
        harness.clock.sleep(lease * 1.5)
        assert broker.receive([queue], 10) == []

    def test_a_dead_letter_may_have_another_body(self, harness: Harness[Broker]) -> None:
        """A settlement's body replaces the one that was received."""
        broker, queue = harness.open(), harness.queue()
        broker.send([harness.outgoing(queue, '{"gen":0}')])
        broker.settle([Settlement(harness.take_one(broker, queue), "dead", reason=REASON, body='{"gen":1}')])
        (letter,) = harness.eventually(lambda: broker.dead_letters(queue))
        assert letter.body == '{"gen":1}'

    def test_showing_dead_letters_does_not_remove_them(self, harness: Harness[Broker]) -> None:
        """They can be listed again; the limit is kept; other queues' are not shown."""
        broker, queue, other = harness.open(), harness.queue(), harness.queue()
        broker.send([harness.outgoing(queue, str(number)) for number in range(3)])
        broker.settle([Settlement(delivery, "dead", reason=REASON) for delivery in harness.take(broker, queue, 3)])
        for _ in range(2):
            letters = harness.eventually(lambda: [x for x in [broker.dead_letters(queue)] if len(x) == 3])[0]
            assert sorted(letter.body for letter in letters) == ["0", "1", "2"]
        assert len(broker.dead_letters(queue, limit=2)) == 2
        assert broker.dead_letters(other) == []

    def test_a_walk_shows_every_dead_letter_once(self, harness: Harness[Broker]) -> None:
        """However many there are; afterwards all are there to be seen again, and other queues' are not shown."""
        broker, queue, other = harness.open(), harness.queue(), harness.queue()
        sent = [f"body {number}" for number in range(130)]
        broker.send([harness.outgoing(queue, text) for text in sent])
        for _ in range(13):
            taken = harness.take(broker, queue, 10)
            broker.settle([Settlement(delivery, "dead", reason=REASON) for delivery in taken])
        bury(harness, broker, other, "other")
        for _ in range(2):
            letters = harness.eventually(lambda: [x for x in [walked(broker, queue)] if len(x) == 130])[0]
            assert Counter(letter.body for letter in letters) == Counter(sent)
            assert all((letter.queue, dict(letter.reason)) == (queue, REASON) for letter in letters)
        assert walked(broker, harness.queue()) == []

    def test_a_redriven_letter_is_a_new_message(self, harness: Harness[Broker]) -> None:
        """It comes with the bytes that were kept and a first receive count; what was not chosen stays."""
        broker, queue = harness.open(), harness.queue()
        bury(harness, broker, queue, '{"é": 1}', "not a message", "kept")
        harness.eventually(lambda: len(walked(broker, queue)) == 3)
        with contextlib.closing(broker.walk_dead_letters(queue)) as pages:
            for page in pages:
                chosen = [letter for letter in page if letter.body != "kept"]
                assert broker.redrive(chosen) == len(chosen)
        taken = harness.take(broker, queue, 2)
        assert sorted(bodies(taken)) == ["not a message", '{"é": 1}']
        assert {delivery.receive_count for delivery in taken} == {1}
        assert {delivery.queue for delivery in taken} == {queue}
        ack(broker, *taken)
        assert broker.receive([queue], 10) == []
        assert [letter.body for letter in harness.eventually(lambda: walked(broker, queue))] == ["kept"]

    def test_a_redriven_letter_can_die_again(self, harness: Harness[Broker]) -> None:
        """With the same body, any number of times; a walk under way does not show it again."""
        broker, queue = harness.open(), harness.queue()
        bury(harness, broker, queue, "poison")
        for _ in range(2):
            (old,) = harness.eventually(lambda: walked(broker, queue))
            harness.clock.sleep(1.1)  # SQS tells letters apart by seconds
            with contextlib.closing(broker.walk_dead_letters(queue)) as pages:
                (letter,) = next(pages)
                assert broker.redrive([letter]) == 1
                broker.settle([Settlement(harness.take_one(broker, queue), "dead", reason={"reason": "again"})])
                harness.clock.sleep(1.1)
                bury(harness, broker, queue, "late")
                assert "late" not in [other.body for page in pages for other in page]
            left = harness.eventually(lambda: [x for x in [walked(broker, queue)] if len(x) == 2])[0]
            assert sorted(other.body for other in left) == ["late", "poison"]
            assert old.message_id not in {other.message_id for other in left}
            with contextlib.closing(broker.walk_dead_letters(queue)) as pages:
                broker.remove_dead_letters([other for page in pages for other in page if other.body == "late"])

    def test_a_redriven_letter_keeps_its_priority(self, harness: Harness[Broker]) -> None:
        """It overtakes what it would have overtaken before it died."""
        broker, queue = harness.open(), harness.queue()
        if not broker.features.priorities:
            pytest.skip(f"{broker.describe()} has no priorities")
        bury(harness, broker, queue, "low", priority=7)
        broker.send([harness.outgoing(queue, "lower", priority=9), harness.outgoing(queue, "high", priority=3)])
        assert broker.redrive(walked(broker, queue)) == 1
        assert bodies(harness.take(broker, queue, 3)) == ["high", "low", "lower"]

    def test_a_letter_is_redriven_once(self, harness: Harness[Broker]) -> None:
        """Where the store can tell, of two operators who act on the same letter one moves it."""
        broker, other, queue = harness.open(), harness.open(), harness.queue()
        bury(harness, broker, queue, "once")
        harness.eventually(lambda: len(walked(broker, queue)) == 1)
        with contextlib.closing(broker.walk_dead_letters(queue)) as mine:
            (letter,) = next(mine)
            with contextlib.closing(other.walk_dead_letters(queue)) as theirs:
                moved = sum(other.redrive(page) for page in theirs)
            moved += broker.redrive([letter]) if not moved or harness.kind.exact_counts else 0
        assert moved == 1
        ack(broker, harness.take_one(broker, queue))
        assert broker.receive([queue], 10) == []

    def test_removed_dead_letters_are_gone(self, harness: Harness[Broker]) -> None:
        """Only those; they are not sent, and removing or redriving none is no error."""
        broker, queue = harness.open(), harness.queue()
        bury(harness, broker, queue, "a", "b", "c")
        harness.eventually(lambda: len(walked(broker, queue)) == 3)
        assert (broker.redrive([]), broker.remove_dead_letters([])) == (0, 0)
        with contextlib.closing(broker.walk_dead_letters(queue)) as pages:
            for page in pages:
                chosen = [letter for letter in page if letter.body in "ab"]
                assert broker.remove_dead_letters(chosen) == len(chosen)
        assert [letter.body for letter in harness.eventually(lambda: walked(broker, queue))] == ["c"]
        assert broker.receive([queue], 10) == []

    def test_a_walk_may_be_left_early(self, harness: Harness[Broker]) -> None:
        """What it showed and what it did not show can be seen at once by the next one."""
        broker, queue = harness.open(), harness.queue()
        bury(harness, broker, queue, *(str(number) for number in range(12)))
        harness.eventually(lambda: len(walked(broker, queue)) == 12)
        with contextlib.closing(broker.walk_dead_letters(queue)) as pages:
            next(pages)
        assert len(walked(broker, queue)) == 12

    # Looking at queues

    def test_counts_tell_states_apart(self, harness: Harness[Broker]) -> None:
        """Ready, delayed, leased and dead messages are counted as such."""
        broker, queue = harness.open(), harness.queue()
        broker.send([harness.outgoing(queue, str(number)) for number in range(4)])
        broker.send([harness.outgoing(queue, "delayed", delay=600.0)])
        leased = harness.take(broker, queue, 2)
        broker.settle([Settlement(leased[0], "dead", reason=REASON)])
        if harness.kind.exact_counts:
            assert broker.counts(queue) == (2, 1, 1, 1)
        else:
            harness.eventually(lambda: broker.counts(queue) == (2, 1, 1, 1))

    def test_purging_leaves_leased_messages(self, harness: Harness[Broker]) -> None:
        """Ready and delayed messages go; a leased one can still be settled; other queues are left alone."""
        broker, queue, other = harness.open(), harness.queue(), harness.queue()
        broker.send([harness.outgoing(queue, str(number)) for number in range(4)])
        broker.send([harness.outgoing(queue, delay=600.0), harness.outgoing(other, "other")])
        (leased,) = harness.take(broker, queue, 1)
        removed = broker.purge(queue)
        assert removed == 4 or not harness.kind.exact_counts
        assert broker.receive([queue], 10) == []
        assert bodies([harness.take_one(broker, other)]) == ["other"]
        broker.settle([Settlement(leased, "release")])
        assert harness.take_one(broker, queue).receive_count == 2

    def test_queues_are_listed(self, harness: Harness[Broker]) -> None:
        """A queue that holds messages is named, once, and its dead letters are no queue."""
        broker, first, second = harness.open(), harness.queue(), harness.queue()
        broker.send([harness.outgoing(queue) for queue in (first, second, first)])
        broker.settle([Settlement(harness.take_one(broker, first), "dead", reason=REASON)])
        names = [name for name in broker.queues() if name.startswith(first.rsplit("-", 1)[0])]
        assert sorted(names) == sorted([first, second])

    # Threads, processes, connections

    def test_threads_share_one_broker(self, harness: Harness[Broker]) -> None:
        """Eight threads send and four receive; every message comes once."""
        broker, queue = harness.open(), harness.queue()
        taken: list[str] = []
        with ThreadPoolExecutor(8) as pool:
            for sent in [
                pool.submit(broker.send, [harness.outgoing(queue, f"{t}/{n}") for n in range(10)]) for t in range(8)
            ]:
                sent.result()
        lock = threading.Lock()

        def drain() -> None:
            while deliveries := broker.receive([queue], 7):
                with lock:
                    taken.extend(bodies(deliveries))
                ack(broker, *deliveries)

        with ThreadPoolExecutor(4) as pool:
            for drained in [pool.submit(drain) for _ in range(4)]:
                drained.result()
        taken += bodies(harness.take(broker, queue, 80 - len(taken))) if len(taken) < 80 else []
        assert Counter(taken) == Counter(f"{t}/{n}" for t in range(8) for n in range(10))

    def test_a_closed_broker_opens_again(self, harness: Harness[Broker]) -> None:
        """Messages outlive the connection; closing twice is no error."""
        broker, queue = harness.open(), harness.queue()
        broker.send([harness.outgoing(queue, "kept")])
        broker.close()
        broker.close()
        delivery = harness.take_one(broker, queue)
        broker.close()
        ack(broker, delivery)
        assert bodies([delivery]) == ["kept"]

    def test_a_broker_used_before_a_fork_works_on_both_sides(self, shared: Harness[Broker]) -> None:
        """Parent and child do not disturb each other's connection."""
        broker, queue, answers = shared.open(), shared.queue(), shared.queue()
        broker.send([shared.outgoing(queue, "for the child")])
        child = children.Child(
            children.use_inherited_broker, broker, queue, shared.outgoing(answers, "from the child"), method="fork"
        )
        assert child.result() == ["for the child"]
        assert bodies([shared.take_one(broker, answers)]) == ["from the child"]
        assert broker.receive([queue], 1) == []

    def test_consumers_in_processes_share_the_work(self, shared: Harness[Broker]) -> None:
        """No leased message reaches two processes and none is lost."""
        broker, queue = shared.open(), shared.queue()
        sent = [f"body {number}" for number in range(200)]
        broker.send([shared.outgoing(queue, body) for body in sent])
        consumers = [children.Child(children.consume, shared.recipe, queue, 5) for _ in range(2)]
        assert Counter(consumers[0].result() + consumers[1].result()) == Counter(sent)

    def test_a_waiting_receive_sees_another_process(self, shared: Harness[Broker]) -> None:
        """A message that another process sends ends the wait."""
        broker, queue = shared.open(), shared.queue()
        child = children.Child(children.send, shared.recipe, [shared.outgoing(queue, "hello")])
        assert bodies(broker.receive([queue], 1, wait=30.0)) == ["hello"]
        child.result()

    def test_messages_of_a_killed_process_come_again(self, shared: Harness[Broker]) -> None:
        """What a consumer held when it was killed is received once its leases end."""
        lease = shared.kind.shortest_lease
        broker, queue = shared.open(), shared.queue()
        broker.send([shared.outgoing(queue, str(number)) for number in range(3)])
        child = children.Child(children.receive_and_die, shared.recipe, queue, 3, lease)
        child.finish()
        again = shared.take(broker, queue, 3)
        assert sorted(bodies(again)) == ["0", "1", "2"]
        assert min(delivery.receive_count for delivery in again) >= 2
