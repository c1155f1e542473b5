"""Records come with the messages that a waiting worker is woken by, where broker and result backend are one server."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from dispatcher import Dispatcher
from dispatcher.backends.base import Revocation, Write
from dispatcher.backends.redis import RedisBackend
from dispatcher.brokers.base import Delivery, Outgoing, Settlement
from dispatcher.brokers.redis import RedisBroker
from dispatcher.clock import ManualClock
from dispatcher.consumer.loop import BrokerTransport, ConsumerLoop
from dispatcher.execution import recording
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from dispatcher.execution.limits import NoLimits
from dispatcher.execution.run import Kind, Run
from dispatcher.message import Message, encode
from dispatcher.redis_connection import Command, RecordStore, RedisConnections, Removal
from tests.emulation.redis_server import RedisServer


@pytest.fixture
def backend(redis_server: RedisServer, options: dict[str, Any]) -> Iterator[RedisBackend]:
    """Where the records are."""
    with contextlib.closing(RedisBackend(redis_server.url, options)) as backend:
        yield backend


@pytest.fixture
def broker(redis_server: RedisServer, options: dict[str, Any], backend: RedisBackend) -> Iterator[RedisBroker]:
    """A broker that was told where the records are, of a worker that has looked for messages in vain.

    Its clock stands, so that it waits however slow the machine is, and never looks for delayed messages in between.
    """
    with contextlib.closing(RedisBroker(redis_server.url, options, ManualClock())) as broker:
        broker.bring_records(backend.store)
        yield broker


@pytest.fixture
def app(redis_server: RedisServer, options: dict[str, Any], permitted: dict[str, str]) -> Iterator[Dispatcher]:
    """An app on that server, whose clock stands as the broker's above, and whose user may do what is documented."""
    options = options | permitted
    app = Dispatcher(
        "brought", broker=redis_server.url, backend=redis_server.url, broker_transport_options=options,
        result_backend_transport_options=options, clock=ManualClock(time.time()), set_as_current=False,
    )  # fmt: skip
    yield app
    app.close()


def awaited(broker: RedisBroker, *ids: str, queues: tuple[str, ...] = ("q",)) -> list[Delivery]:
    """Send a message a task, and receive them all as a worker that waits does."""
    broker.receive(queues, 1)
    for queue in queues:
        broker.send([Outgoing(queue, encode(Message(id=id, task="t")), id) for id in ids])
    taken: list[Delivery] = []
    while len(taken) < len(ids) * len(queues):
        taken += broker.receive(queues, 100, wait=10)
    return taken


def final(task_id: str) -> Write:
    """A record's last write."""
    return Write(task_id, "SUCCESS", 0, 0, 0, True, "token", 9e9, data="{}")


def new_id() -> str:
    """A task's id."""
    return str(uuid.uuid4())


def test_a_message_brings_the_record_of_its_task(broker: RedisBroker, backend: RedisBackend) -> None:
    """What comes with a delivery is what reading the record gives, of a task without one that there is none."""
    known, unknown, revoked = new_id(), new_id(), new_id()
    backend.write([final(known)])
    backend.revoke([revoked], 9e9, Revocation.FLAG)
    [first, *others] = awaited(broker, known, unknown, revoked)
    assert first.brought is not None
    assert {known, unknown, revoked} == set(first.brought)
    assert all(other.brought == first.brought for other in others)
    ids = [known, unknown, revoked]
    assert backend.read_unbrought(ids, first.brought) == backend.read(ids)
    assert first.brought[unknown] is None


def test_what_was_brought_is_not_asked_for(backend: RedisBackend) -> None:
    """The server is asked for the others only."""
    here, there = new_id(), new_id()
    backend.write([final(here), final(there)])
    assert list(backend.read_unbrought([here, there], {here: None})) == [there]


def test_records_come_with_messages_of_any_queue(broker: RedisBroker, backend: RedisBackend) -> None:
    """Each stream's newest messages are looked at."""
    task_id = new_id()
    backend.write([final(task_id)])
    for _ in range(2):
        for delivery in awaited(broker, task_id, queues=("a", "b")):
            assert delivery.brought is not None
            assert delivery.brought[task_id] is not None
            broker.settle([Settlement(delivery, "ack")])


def test_records_come_with_messages_of_any_priority(broker: RedisBroker, backend: RedisBackend) -> None:
    """A worker that knows of a priority waits for its messages too."""
    broker.send([Outgoing("q", "{}", "0", priority=3)])
    broker.settle([Settlement(each, "ack") for each in broker.receive(["q"], 1)])
    task_id = new_id()
    backend.write([final(task_id)])
    broker.send([Outgoing("q", encode(Message(id=task_id, task="t")), task_id, priority=3)])
    [delivery] = broker._block([broker._queue("q")], 1, 10.0, [])
    assert delivery.brought is not None
    assert delivery.brought[task_id] is not None


def test_no_more_is_read_than_was_leased(broker: RedisBroker, backend: RedisBackend) -> None:
    """Messages that this process has in hand already are not looked at again."""
    earlier, later = new_id(), new_id()
    awaited(broker, earlier)
    [delivery] = awaited(broker, later)
    assert delivery.brought == {later: None}


class Standing(RedisConnections):
    """Those of a process that stands still, suspended say, before it reads what it was sent."""

    def send(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands, and return their replies long after they came."""
        replies = super().send(commands)
        self._clock.sleep(10.0)
        return replies


def test_records_that_are_read_late_are_asked_for_anew(broker: RedisBroker, redis_server: RedisServer) -> None:
    """While the process stood still, another may have run the task, or somebody revoked it."""
    broker.receive(["q"], 1)
    broker.send([Outgoing("q", encode(Message(id=new_id(), task="t")), "1")])
    broker._connections = Standing(broker._settings, broker.clock)
    before = broker.clock.monotonic()
    [delivery] = broker.receive(["q"], 1, wait=10)
    assert delivery.brought is None
    assert delivery.leased_at == before  # while it stood still, its lease went on


def test_a_script_that_the_server_forgot_is_loaded_again(
    broker: RedisBroker, backend: RedisBackend, redis_server: RedisServer
) -> None:
    """A restarted server knows no scripts."""
    awaited(broker, new_id())
    broker._connections.call("SCRIPT", "FLUSH")
    task_id = new_id()
    [delivery] = awaited(broker, task_id)
    assert delivery.brought == {task_id: None}


@pytest.mark.parametrize("task_id", ['with"quote', "with\\backslash", "größe", "x" * 255])
def test_ids_that_callers_choose_are_taken_for_no_others(
    broker: RedisBroker, backend: RedisBackend, task_id: str
) -> None:
    """A record comes with its message or is read afterwards; it is never that of another task."""
    backend.write([final(task_id)])
    [delivery] = awaited(broker, task_id)
    assert set(delivery.brought or ()) <= {task_id}
    assert backend.read_unbrought([task_id], delivery.brought or {}) == backend.read([task_id])


def test_a_body_that_is_no_message_brings_nothing(broker: RedisBroker) -> None:
    """What cannot be read names no task."""
    broker.receive(["q"], 1)
    broker.send([Outgoing("q", "no message", "x")])
    [delivery] = broker.receive(["q"], 1, wait=10)
    assert delivery.brought is None


@pytest.mark.parametrize("elsewhere", ["memory", "database", "user"])
def test_records_of_another_store_do_not_come(
    redis_server: RedisServer, options: dict[str, Any], elsewhere: str
) -> None:
    """A broker brings nothing from a place that it is not."""
    broker = RedisBroker(redis_server.url, options)
    if elsewhere == "database":
        backend = RedisBackend(redis_server.url.rpartition("/")[0] + "/1", options)
        broker.bring_records(backend.store)
    elif elsewhere == "user":
        broker._connections.call("ACL", "SETUSER", "other", "on", ">secret", "~*", "&*", "+@all")
        backend = RedisBackend(redis_server.url, {**options, "username": "other", "password": "secret"})
        broker.bring_records(backend.store)
        broker._connections.call("ACL", "DELUSER", "other")
    else:
        broker.bring_records(None)
    [delivery] = awaited(broker, new_id())
    assert delivery.brought is None
    broker.close()


def test_a_worker_asks_for_what_is_brought(app: Dispatcher) -> None:
    """A worker's deliveries come with their records, which serve one admission."""
    app.task(name="t")(lambda: None)
    app.finalize()
    executor = ConsumerLoop(app, ["q"], NoLimits(), hostname="w").executor
    [delivery] = awaited(app.broker, new_id())
    assert delivery.brought
    executor.prepare([delivery])
    assert delivery.brought is None


def test_a_run_that_is_over_is_decided_by_what_the_record_says_now(app: Dispatcher) -> None:
    """Whoever ends or loses a run reads its record then."""
    app.task(name="t")(lambda: None)
    app.finalize()
    executor = ConsumerLoop(app, ["q"], NoLimits(), hostname="w").executor
    [delivery] = awaited(app.broker, task_id := new_id())
    app.backend.write([final(task_id)])
    run = executor.abandon(delivery, 1.0)
    assert run.outcome is not None
    assert run.outcome.kind is Kind.REPEATED


def test_a_run_that_is_given_up_is_settled_by_what_the_record_says_now(app: Dispatcher) -> None:
    """Nothing is written of it, so no condition would tell that what came with the message is old."""
    app.task(name="t")(lambda: None)
    app.finalize()
    executor = ConsumerLoop(app, ["q"], NoLimits(), hostname="w").executor
    [delivery] = awaited(app.broker, task_id := new_id())
    delivery.brought = {task_id: None}
    app.backend.write([final(task_id)])
    run = executor.give_up(delivery)
    assert run.outcome is not None
    assert run.outcome.kind is Kind.REPEATED
    assert run.record is not None
    assert run.record.final


def test_the_record_of_a_unique_task_is_read_after_its_lock(app: Dispatcher) -> None:
    """What came before its lock was read could be older than the end of the run that had it."""
    ran = []

    @app.task(unique=True, name="once")
    def once() -> None:
        ran.append(1)

    app.finalize()
    result = once.delay()
    [delivery] = app.broker.receive(["default"], 1)
    app.backend.write([final(result.id)])
    delivery.brought = {result.id: None}
    env = Environment(app=app, backend=app.backend, transport=BrokerTransport(app.broker), limits=NoLimits())
    Executor(env).process([delivery])
    assert not ran


def executor_of(app: Dispatcher) -> Executor:
    """What a worker takes deliveries through, told where the records are."""
    app.finalize()
    app.broker.bring_records(app.backend.store)
    env = Environment(app=app, backend=app.backend, transport=BrokerTransport(app.broker), limits=NoLimits())
    return Executor(env)


def in_flight(app: Dispatcher) -> int:
    """How many messages are leased."""
    return app.broker.counts("default").in_flight


def recorded(executor: Executor, deliveries: Sequence[Delivery]) -> list[Run]:
    """Take deliveries up to their records, and die."""
    runs = executor.prepare(deliveries)
    for run in runs:
        executor.execute(run)
    recording.record(executor.env, runs)
    return runs


def test_a_message_goes_with_the_record_of_its_success(app: Dispatcher) -> None:
    """Whoever dies after the one has done the other; a failure's message waits to be settled."""

    @app.task(name="t")
    def divide(number: int) -> float:
        return 1 / number

    executor = executor_of(app)
    results = [divide.delay(number) for number in (1, 0, 2)]
    runs = recorded(executor, app.broker.receive(["default"], 3))
    assert [result.state for result in results] == ["SUCCESS", "FAILURE", "SUCCESS"]
    assert [run.settlement is not None for run in runs] == [True, False, True]
    assert in_flight(app) == 1
    assert app.broker.counts("default").ready == 0


def test_a_message_stays_with_a_record_that_stands(app: Dispatcher) -> None:
    """What was decided elsewhere meanwhile settles it: the write that loses removes nothing."""
    t = app.task(name="t")(lambda: None)
    executor = executor_of(app)
    results = [t.delay(), t.delay()]
    deliveries = app.broker.receive(["default"], 2)
    runs = executor.prepare(deliveries)
    for run in runs:
        executor.execute(run)
    app.backend.write([dataclasses.replace(final(results[0].id), token="another's")])
    recording.record(executor.env, runs)
    assert [run.outcome and run.outcome.kind for run in runs] == [Kind.REPEATED, Kind.SUCCESS]
    assert in_flight(app) == 1


def test_a_message_that_something_follows_stays_until_it_is_sent(app: Dispatcher) -> None:
    """A crash between the record and the callback must find the message again."""
    t = app.task(name="t")(lambda: None)
    executor = executor_of(app)
    t.apply_async(link=t.si())
    recorded(executor, app.broker.receive(["default"], 1))
    assert in_flight(app) == 1


def test_a_write_whose_answer_was_lost_is_repeated(app: Dispatcher) -> None:
    """The record is found to be its own, and the message is gone already."""
    app.task(name="t")(lambda: None).delay()
    executor = executor_of(app)
    [delivery] = app.broker.receive(["default"], 1)
    [run] = recorded(executor, [delivery])
    assert run.write is not None
    assert run.write.removal is not None
    assert app.backend.write([run.write]) == [None]
    assert in_flight(app) == 0


def test_messages_go_by_themselves_where_their_lease_is_doubtful(app: Dispatcher) -> None:
    """A lease that was extended, or may have ended, is looked at first; of many messages all go at once."""
    broker, store = app.broker, app.backend.store
    executor_of(app)
    broker.send([Outgoing("q", "{}", str(number)) for number in range(9)])
    many = broker.receive(["q"], 9)
    assert broker.removals(many, store) == ()
    few = many[:3]
    broker.extend(few[:1], 60.0)
    few[1].receipt = few[1].receipt._replace(until=broker.clock.monotonic())
    extended, late, sure = broker.removals(few, store)
    assert (extended, late) == (None, None)
    assert sure == Removal(broker._queue("q").stream("0"), "workers", few[2].receipt.id)
    assert broker.removals(few, None) == ()
    assert broker.removals(few, RecordStore(store.server, "elsewhere", "")) == ()
