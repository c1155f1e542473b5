"""Redis restarts, hangs, fills up and forgets; workers die: no message is lost, and errors say what to do."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

import pytest
import redis

from dispatcher.backends.base import Write
from dispatcher.backends.redis import RedisBackend
from dispatcher.brokers.base import Delivery, Outgoing, Settlement
from dispatcher.brokers.redis import RedisBroker
from dispatcher.clock import ManualClock
from dispatcher.exceptions import OperationalError, SendError, SoftTimeLimitExceeded, TimeoutError
from tests.emulation.redis_server import RedisServer

DURABLE = {"appendonly": "yes", "appendfsync": "always"}
PATIENT = {"max_retries": 200, "interval_start": 0.05, "interval_step": 0.0}


@pytest.fixture
def start(redis_executable: str) -> Iterator[Callable[..., RedisServer]]:
    """Start servers for one test, with lines of redis.conf as keywords."""
    servers: list[RedisServer] = []

    def start(**options: str) -> RedisServer:
        servers.append(RedisServer(redis_executable, options=options).start())
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def outgoing(body: str, **fields: Any) -> Outgoing:
    """A message for the queue of these tests."""
    return Outgoing("q", body, f"id of {body}", **fields)


def write(task_id: str) -> Write:
    """A final write."""
    return Write(task_id, "SUCCESS", 0, 0, 0, True, "run", time.time() + 60)


def bodies(deliveries: list[Delivery]) -> list[str | bytes]:
    """The bodies in order."""
    return sorted(delivery.body for delivery in deliveries)


def ack(broker: RedisBroker, deliveries: list[Delivery]) -> None:
    """Ack deliveries in one call."""
    broker.settle([Settlement(delivery, "ack") for delivery in deliveries])


def take(broker: RedisBroker, count: int) -> list[Delivery]:
    """Receive until so many messages have come."""
    taken: list[Delivery] = []
    while len(taken) < count:
        more = broker.receive(["q"], count - len(taken), wait=20.0)
        assert more, f"only {len(taken)} of {count} came"
        taken += more
    return taken


# The server


def test_a_killed_server_loses_nothing(start: Callable[..., RedisServer]) -> None:
    """With appendfsync always every state of a message survives the server's crash, leases and counts included."""
    server = start(**DURABLE)
    broker = RedisBroker(server.url, PATIENT)
    broker.send([outgoing(str(number)) for number in range(6)] + [outgoing("urgent no more", priority=5)])
    broker.send([outgoing("delayed", delay=3600.0)])
    acked, dead, released, held = (take(broker, 1)[0] for _ in range(4))
    reason = {"reason": "rejected"}
    broker.settle([Settlement(acked, "ack"), Settlement(dead, "dead", reason=reason), Settlement(released, "release")])
    server.kill()
    server.start()
    assert broker.counts("q") == (4, 1, 1, 1)
    left = take(broker, 4)
    assert bodies(left) == ["2", "4", "5", "urgent no more"]
    assert {delivery.body: delivery.receive_count for delivery in left}["2"] == 2
    ack(broker, [*left, held])
    assert broker.counts("q") == (0, 1, 0, 1)
    assert [letter.body for letter in broker.dead_letters("q")] == ["1"]
    broker.close()


def test_a_waiting_worker_survives_a_restart(start: Callable[..., RedisServer]) -> None:
    """A receive that waits when the server goes away gets the message that is sent once it is back."""
    server = start(**DURABLE)
    worker, producer = RedisBroker(server.url, PATIENT), RedisBroker(server.url, PATIENT)
    assert worker.receive(["q"], 1) == []
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(worker.receive, ["q"], 1, 30.0)
        server.restart()
        producer.send([outgoing("after")])
        assert bodies(waiting.result(40)) == ["after"]
    worker.close()
    producer.close()


def test_a_server_that_lost_everything_is_used_like_a_new_one(start: Callable[..., RedisServer]) -> None:
    """Consumer groups, scripts and the list of queues are made again, without an error."""
    server = start()
    broker = RedisBroker(server.url, PATIENT)
    broker.send([outgoing("lost", priority=3), outgoing("lost too")])
    assert len(take(broker, 2)) == 2
    server.restart()
    assert broker.receive(["q"], 10) == []
    broker.send([outgoing("kept", priority=3)])
    broker.send([outgoing("kept too")])
    assert bodies(take(broker, 2)) == ["kept", "kept too"]
    assert broker.queues() == ["q"]
    broker.close()


def test_a_flushed_database_does_not_stop_a_waiting_worker(start: Callable[..., RedisServer]) -> None:
    """FLUSHALL takes the stream away under a blocked read; the next message arrives all the same."""
    server = start()
    worker, producer, raw = RedisBroker(server.url), RedisBroker(server.url), redis.Redis(port=server.port)
    producer.send([outgoing("first")])
    ack(worker, take(worker, 1))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(worker.receive, ["q"], 1, 30.0)
        raw.flushall()
        producer.send([outgoing("second")])
        assert bodies(waiting.result(40)) == ["second"]
    for client in (worker, producer, raw):
        client.close()


def test_a_hanging_server_is_reported(start: Callable[..., RedisServer]) -> None:
    """A call ends with socket_timeout, says so, and is not repeated; once the server answers all is well."""
    server = start()
    options = {"socket_timeout": 0.3}
    broker, backend = RedisBroker(server.url, options), RedisBackend(server.url, options)
    broker.send([outgoing("before")])
    assert backend.read(["a task"]) == {}
    server.pause()
    try:
        for call in (lambda: broker.send([outgoing("meanwhile")]), lambda: backend.read(["a task"])):
            with pytest.raises(OperationalError, match=r"did not answer within socket_timeout=0.3 s"):
                call()
    finally:
        server.resume()
    assert take(broker, 1)[0].body == "before"
    broker.close()
    backend.close()


@pytest.mark.parametrize("adapter", [RedisBroker, RedisBackend])
def test_a_missing_server_is_named(adapter: Any, free_port: int) -> None:
    """The error names the address, without the password, and what to look at."""
    store = adapter(f"redis://user:secret@127.0.0.1:{free_port}/2", {"max_retries": 1, "interval_max": 0})
    use = store.queues if adapter is RedisBroker else lambda: store.read(["a task"])
    with pytest.raises(
        OperationalError, match=rf"127.0.0.1:{free_port}/2 cannot be reached after 2 tries.*running"
    ) as e:
        use()
    assert "secret" not in str(e.value)


def test_a_wrong_password_is_named(start: Callable[..., RedisServer]) -> None:
    """Logging in is not tried again and again."""
    server = start()
    raw = redis.Redis(port=server.port)
    raw.config_set("requirepass", "right")
    raw.close()
    with pytest.raises(OperationalError, match="refused to log us in"):
        RedisBroker(server.url, {**PATIENT, "password": "wrong"}).queues()
    broker = RedisBroker(server.url, {"password": "right"})
    assert broker.queues() == []
    broker.close()


def test_a_full_server_refuses_and_drains(start: Callable[..., RedisServer]) -> None:
    """Out of memory: sends and writes fail with the remedy; receiving and acking, which free memory, go on."""
    server = start()
    broker, backend, raw = RedisBroker(server.url), RedisBackend(server.url), redis.Redis(port=server.port)
    broker.send([outgoing(str(number)) for number in range(3)])
    broker.send([outgoing("due", delay=0.001)])
    raw.config_set("maxmemory", "1")
    with pytest.raises(SendError, match="out of memory; raise maxmemory") as refused:
        broker.send([outgoing("too much"), outgoing("as well", delay=1.0)])
    assert set(refused.value.failures) == {"id of too much", "id of as well"}
    with pytest.raises(OperationalError, match="out of memory"):
        backend.write([write("task")])
    taken = take(broker, 3)
    ack(broker, taken)
    assert broker.counts("q")[:3] == (0, 1, 0)
    raw.config_set("maxmemory", "0")
    assert bodies(take(broker, 1)) == ["due"]
    for client in (broker, backend, raw):
        client.close()


def test_what_was_leased_is_kept_where_acknowledgements_are_refused(
    start: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    """Messages that came in the same write as a refused acknowledgement are handed out; without any it is raised."""
    server = start()
    broker = RedisBroker(server.url, clock=ManualClock())
    broker.send([outgoing(str(number)) for number in range(4)])
    owed = [Settlement(delivery, "ack") for delivery in broker.receive(["q"], 2)]
    redis.Redis(port=server.port).execute_command("ACL", "SETUSER", "default", "-xack")
    assert bodies(broker.settle_and_receive(owed, ["q"], 2)) == ["2", "3"]
    assert "come again: Redis at" in caplog.text
    with pytest.raises(OperationalError, match="lacks a permission"):
        broker.settle_and_receive(owed, ["q"], 2)
    broker.close()


def test_a_read_only_server_is_named(start: Callable[..., RedisServer]) -> None:
    """A replica refuses writes until it is promoted; the error says that the URL has to name the primary."""
    server = start()
    raw = redis.Redis(port=server.port)
    broker = RedisBroker(server.url, {"max_retries": 1, "interval_max": 0})
    broker.send([outgoing("before")])
    raw.replicaof("127.0.0.1", server.port)
    with pytest.raises(OperationalError, match="the URL has to name the primary"):
        broker.send([outgoing("refused")])
    with pytest.raises(OperationalError, match="the URL has to name the primary"):
        broker.receive(["q"], 1)
    raw.replicaof("NO", "ONE")
    broker.send([outgoing("after")])
    assert bodies(take(broker, 2)) == ["after", "before"]
    broker.close()
    raw.close()


# Waiting for results


def test_a_wait_outlives_a_restart(start: Callable[..., RedisServer]) -> None:
    """A server that has forgotten who waits is asked again."""
    server = start(**DURABLE)
    waiter, worker = RedisBackend(server.url, PATIENT), RedisBackend(server.url, PATIENT)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(waiter.wait, "task", 60.0)
        server.restart()
        worker.write([write("task")])
        assert waiting.result(60).final
    waiter.close()
    worker.close()


@pytest.mark.parametrize("refusing", [("min-replicas-to-write", "1"), ("maxmemory", "1")])
def test_a_result_is_read_where_writes_are_refused(
    start: Callable[..., RedisServer], refusing: tuple[str, str]
) -> None:
    """What is finished needs no write to be handed out; what is not says why it cannot be waited for, or times out."""
    server = start()
    backend = RedisBackend(server.url)
    backend.write([write("done")])
    backend.wait("done", timeout=30)
    redis.Redis(port=server.port).config_set(*refusing)
    for _ in range(3):
        assert backend.wait("done", timeout=30).status == "SUCCESS"
    with pytest.raises((OperationalError, TimeoutError), match=r"min-replicas-to-write|no result"):
        backend.wait("other", timeout=0.1)
    backend.close()


def test_a_lost_push_is_made_up_for(start: Callable[..., RedisServer]) -> None:
    """Where the note that we wait is gone, the record is found by looking again."""
    server = start()
    waiter, worker, raw = RedisBackend(server.url), RedisBackend(server.url), redis.Redis(port=server.port)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(waiter.wait, "task", 60.0)
        while not raw.keys("*:waiters"):
            time.sleep(0.001)
        raw.delete(*raw.keys("*:waiters"))
        worker.write([write("task")])
        assert waiting.result(60).final
    for client in (waiter, worker, raw):
        client.close()


# Workers


def test_a_worker_killed_between_the_halves_of_an_ack_leaves_nothing(start: Callable[..., RedisServer]) -> None:
    """A removed message whose lease was not removed does not come back; the next look clears the lease up."""
    server = start()
    broker, raw = RedisBroker(server.url, {"visibility_timeout": 0.2}), redis.Redis(port=server.port)
    broker.send([outgoing("done"), outgoing("not done")])
    done, _ = take(broker, 2)
    raw.xdel("dispatcher:{q}:ready", done.receipt.id)
    assert bodies(take(broker, 1)) == ["not done"]
    broker.settle([Settlement(done, "release")])
    assert broker.counts("q") == (0, 0, 1, 0)
    broker.close()
    raw.close()


def _consume(url: str, seen: Connection) -> None:
    broker = RedisBroker(url, {"visibility_timeout": 0.3})
    while True:
        for delivery in broker.receive(["q"], 7, wait=1.0):
            seen.send(delivery.body)
            broker.settle([Settlement(delivery, "release" if delivery.receive_count == 1 else "ack")])


@pytest.mark.parametrize("killed", [3, 11, 29])
def test_killed_workers_lose_nothing(start: Callable[..., RedisServer], killed: int) -> None:
    """Workers die while they receive, release and ack: all messages reach somebody, and are acked in the end."""
    server = start()
    broker = RedisBroker(server.url)
    sent = {str(number) for number in range(60)}
    broker.send([outgoing(body) for body in sent])
    seen: set[str] = set()
    while sum(broker.counts("q")):
        reader, writer = multiprocessing.Pipe(duplex=False)
        worker = multiprocessing.get_context("fork").Process(target=_consume, args=(server.url, writer))
        worker.start()
        writer.close()
        assert worker.pid is not None
        for _ in range(killed):
            if not reader.poll(2.0):
                break
            seen.add(reader.recv())
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        while reader.poll():
            try:
                seen.add(reader.recv())
            except EOFError:
                break
        reader.close()
    assert seen == sent
    broker.close()


def test_a_time_limit_in_the_middle_of_a_call_leaves_no_answer_behind(start: Callable[..., RedisServer]) -> None:
    """A soft limit that strikes while a reply is awaited drops the connection; the next call gets its own reply."""

    def strike(signum: int, frame: object) -> None:
        raise SoftTimeLimitExceeded(0.05)

    server = start()
    backend, broker = RedisBackend(server.url), RedisBroker(server.url)
    backend.write([write("done")])
    broker.send([outgoing("kept")])
    before = signal.signal(signal.SIGALRM, strike)
    try:
        for wait in (lambda: backend.wait("never", 60.0), lambda: broker.receive(["empty"], 1, 60.0)):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(SoftTimeLimitExceeded):
                wait()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert list(backend.read(["done"])) == ["done"]
    assert bodies(take(broker, 1)) == ["kept"]
    backend.close()
    broker.close()


# Several queues


def test_a_queue_that_cannot_be_read_keeps_no_message_of_another(start: Callable[..., RedisServer]) -> None:
    """What was leased from one queue is delivered though the next is refused; that alone is an error."""
    server = start()
    broker = RedisBroker(server.url, PATIENT)
    broker.send([outgoing("whole")])
    with redis.Redis.from_url(server.url) as client:
        client.set(broker._queue("broken").keys[0], "no stream")
    assert bodies(broker.receive(["q", "broken"], 5)) == ["whole"]
    with pytest.raises(OperationalError, match="WRONGTYPE"):
        broker.receive(["q", "broken"], 5)
    broker.close()


def test_a_release_that_is_refused_keeps_no_message_of_another(start: Callable[..., RedisServer]) -> None:
    """Where queues give more than was asked for, what is asked for is delivered even if the rest cannot go back."""
    server = start()
    broker = RedisBroker(server.url, PATIENT)
    assert broker.receive(["q", "r"], 1) == []
    broker.send([outgoing("first"), Outgoing("r", "second", "id of second")])
    for name in "qr":
        broker._queue(name).turn = float("inf")  # nothing but new messages is looked for
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", 1)
    assert len(broker.receive(["q", "r"], 1, wait=20.0)) == 1
    broker.close()
