"""The outbox: messages of several owners, sent together, whoever of them is refused."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from dispatcher import signals
from dispatcher.brokers.base import Outgoing
from dispatcher.brokers.memory import MemoryBroker
from dispatcher.exceptions import MessageTooLarge, OperationalError, SendError
from dispatcher.message import Message
from tests.unit.bench import Bench


class Refusing(MemoryBroker):
    """A broker that refuses the tasks whose names begin with "bad", and everything while it is away."""

    away = False

    def _send(self, messages: Sequence[Outgoing]) -> Mapping[str, str]:
        if self.away:
            raise OperationalError("away")
        self.sizes = [*getattr(self, "sizes", []), len(messages)]
        super()._send([message for message in messages if '"bad' not in message.body])
        return {message.id: "no bad tasks" for message in messages if '"bad' in message.body}


@pytest.fixture
def bench() -> Bench:
    """An app on a broker that refuses."""
    bench = Bench()
    bench.app._broker = Refusing(bench.app.conf.broker_url, {}, bench.clock)
    bench.app.finalize()
    return bench


def _put(bench: Bench, outbox: Any, owner: str, task: str, count: int = 1) -> None:
    outbox.owner = owner
    for number in range(count):
        bench.app.publish(Message(f"{owner}-{task}-{number}", task), bench.app.conf.task_default_queue, 0.0, outbox)


def test_owners_are_told_of_their_own_messages(bench: Bench) -> None:
    """One call for all; whoever was refused knows which messages, and does not do what comes afterwards."""
    outbox, done = bench.app.outbox(), list[str]()
    for owner, task in [("a", "good"), ("b", "good"), ("b", "bad"), ("c", "good")]:
        _put(bench, outbox, owner, task)
        outbox.afterwards(lambda owner=owner: done.append(owner))
    assert not bench.left()
    outbox.send()
    assert bench.app.broker.sizes == [4]
    assert list(outbox.refused) == ["b"]
    assert outbox.refused["b"].failures == {"b-bad-0": "no bad tasks"}
    assert (done, bench.left()) == (["a", "c"], 3)


def test_what_comes_afterwards_may_fail_for_one(bench: Bench) -> None:
    """Its owner is told, the others are not."""
    outbox = bench.app.outbox()
    for owner, number in [("a", 1), ("b", 0), ("c", 1)]:
        outbox.owner = owner
        outbox.afterwards(lambda number=number: 1 / number)
    outbox.send()
    assert isinstance(outbox.refused.pop("b"), ZeroDivisionError)
    assert not outbox.refused


def test_a_broker_that_is_away_refuses_all(bench: Bench) -> None:
    """Where no message is known to be accepted, none is."""
    outbox = bench.app.outbox()
    _put(bench, outbox, "a", "good")
    _put(bench, outbox, "b", "good")
    bench.app.broker.away = True
    outbox.send()
    assert set(outbox.refused) == {"a", "b"}


def test_many_messages_are_sent_on_the_way(bench: Bench) -> None:
    """No more than a thousand are kept; an owner who was refused by then knows it at once, another at the end."""
    outbox = bench.app.outbox()
    _put(bench, outbox, "a", "bad")
    _put(bench, outbox, "b", "good", 999)
    assert bench.left() == 999
    _put(bench, outbox, "c", "bad")
    with pytest.raises(SendError, match="c-bad-0"):
        _put(bench, outbox, "c", "good", 999)
    outbox.send()
    assert set(outbox.refused) == {"a", "c"}


def test_what_is_wrong_with_a_message_shows_when_it_is_put_in(bench: Bench) -> None:
    """It is not left to the call for all, which others are in."""
    bench.app.broker.features = bench.app.broker.features.__class__(max_body=200)
    outbox = bench.app.outbox()
    with pytest.raises(MessageTooLarge):
        _put(bench, outbox, "a", "x" * 300)
    outbox.send()
    assert not outbox.refused


def test_an_owner_that_went_wrong_half_way_is_told_of_the_broker_first(bench: Bench) -> None:
    """What it has put in is sent all the same; what is to be done afterwards is not, for not all is there."""
    outbox, done = bench.app.outbox(), list[str]()
    for owner, task in [("a", "good"), ("b", "bad"), ("c", "good")]:
        _put(bench, outbox, owner, task)
        outbox.afterwards(lambda owner=owner: done.append(owner))
        if owner != "c":
            outbox.refuse(ValueError(owner))
    outbox.send()
    assert {owner: type(error) for owner, error in outbox.refused.items()} == {"a": ValueError, "b": SendError}
    assert (done, bench.left()) == (["c"], 2)


@pytest.mark.parametrize("by", ["outbox", "send_many"])
def test_signals_of_publishing_tell_the_truth(by: str, bench: Bench) -> None:
    """`before_task_publish` comes once for each message, `after_task_publish` for those accepted."""
    told: list[tuple[str, str]] = []

    def before(sender: Any, **fields: Any) -> None:
        told.append(("before", sender))

    def after(sender: Any, **fields: Any) -> None:
        told.append(("after", sender))

    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    try:
        if by == "outbox":
            outbox = bench.app.outbox()
            _put(bench, outbox, "a", "good")
            _put(bench, outbox, "b", "bad")
            outbox.send()
        else:
            with pytest.raises(SendError):
                bench.app.send_many([bench.app.signature("good"), bench.app.signature("bad")])
    finally:
        signals.before_task_publish.disconnect(before)
        signals.after_task_publish.disconnect(after)
    assert told == [("before", "good"), ("before", "bad"), ("after", "good")]
