"""What the Redis adapters leave in the database, and promises beyond the ports; see docs/redis.md."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from dispatcher.backends.base import Write
from dispatcher.backends.redis import RedisBackend
from dispatcher.brokers.base import Delivery, Outgoing, Settlement
from dispatcher.brokers.redis import RedisBroker
from dispatcher.exceptions import DecodeError, OperationalError, TimeoutError, UnsupportedOption
from dispatcher.message import decode
from dispatcher.redis_connection import RecordStore
from tests.emulation.redis_server import RedisServer


@pytest.fixture
def broker(redis_server: RedisServer, options: dict[str, Any]) -> Iterator[RedisBroker]:
    """A broker of its own."""
    with contextlib.closing(RedisBroker(redis_server.url, options)) as broker:
        yield broker


@pytest.fixture
def raw(redis_server: RedisServer) -> Iterator[Any]:
    """A plain client."""
    client: Any = redis.Redis(port=redis_server.port, decode_responses=True)
    yield client
    client.close()


def outgoing(body: str, **fields: Any) -> Outgoing:
    """A message for queue q."""
    return Outgoing("q", body, body, **fields)


def settle(broker: RedisBroker, action: Any, *deliveries: Delivery, **fields: Any) -> None:
    """Settle deliveries in one call."""
    broker.settle([Settlement(delivery, action, **fields) for delivery in deliveries])


def keys(raw: Any, options: dict[str, Any]) -> dict[str, str]:
    """The keys of this test without their prefix, and their types."""
    prefix = options["global_keyprefix"] + "dispatcher:"
    return {key.removeprefix(prefix): raw.type(key) for key in raw.scan_iter(f"{prefix}*")}


def test_a_drained_queue_leaves_an_empty_stream(broker: RedisBroker, raw: Any, options: dict[str, Any]) -> None:
    """After sends, delays, priorities, releases, extensions and acks only empty streams and two sets of names stay."""
    broker.send([outgoing("1"), outgoing("2", priority=4), outgoing("3", delay=0.001)])
    taken: list[Delivery] = []
    while len(taken) < 3:
        taken += broker.receive(["q"], 10, wait=5.0)
    broker.extend(taken, 100.0)
    settle(broker, "release", *taken)
    again = broker.receive(["q"], 10, wait=5.0)
    assert len(again) == 3
    settle(broker, "ack", *again)
    assert keys(raw, options) == {"{q}:ready": "stream", "{q}:ready:4": "stream", "{q}:levels": "set", "queues": "set"}
    assert broker.counts("q") == (0, 0, 0, 0)


@pytest.mark.parametrize("action", ["dead", "release"])
@pytest.mark.parametrize(
    "fields",
    [
        {"x": "y"}, {"x": "y", "z": "1"}, {"x": "y", "b": "2"}, {"t": "y", "n": "1", "i": "2", "b": "3"},
        {"b": "y", "n": "many", "i": "2", "t": "3"}, {"b": "y", "n": "1", "i": b"\xff", "t": "3"},
        {"b": "y", "n": "1", "i": "2", "t": ""}, {"b": "y", "n": "9" * 5000, "i": "2", "t": "9" * 5000},
    ],
)  # fmt: skip
def test_an_entry_of_another_program_can_be_settled(
    broker: RedisBroker, raw: Any, options: dict[str, Any], fields: dict[str, str], action: str
) -> None:
    """What has no body of ours is not kept at the head of the queue for ever."""
    raw.xadd(f"{options['global_keyprefix']}dispatcher:{{q}}:ready", fields)
    [delivery] = broker.receive(["q"], 10)
    settle(broker, action, delivery)
    assert [each.body for each in (broker.dead_letters("q") if action == "dead" else broker.receive(["q"], 10))] == [
        "y"
    ]


@pytest.mark.parametrize("values", [("an id", "1"), ("id", "soon"), ("", "")])
def test_an_entry_of_another_program_delays_nothing_else(
    broker: RedisBroker, raw: Any, options: dict[str, Any], values: tuple[str, str]
) -> None:
    """Released until later, or put among what is, it comes when it is due, and what is due after it as well."""
    fields = dict(zip("bnit", ("y", "1", *values), strict=True))
    key = f"{options['global_keyprefix']}dispatcher:{{q}}"
    raw.xadd(f"{key}:ready", fields)
    [delivery] = broker.receive(["q"], 10)
    broker.settle([Settlement(delivery, "release", 0.001)])
    raw.zadd(f"{key}:delayed", {"z": 0.0})
    broker.send([Outgoing("q", "ours", "1", delay=0.01)])
    taken: list[Delivery] = []
    for _ in range(10):
        if len(taken) < 3:
            taken += broker.receive(["q"], 10, wait=1.0)
    assert sorted(each.body for each in taken) == ["ours", "y", "z"]


def test_an_entry_that_is_no_text_can_be_settled(broker: RedisBroker, raw: Any, options: dict[str, Any]) -> None:
    """Bytes that are not UTF-8 are shown as a text that is no message, and stay what they are."""
    body = b'{"v":1,"id":"\xff","args":["\xe9"]}'
    broker.bring_records(RecordStore(broker._settings.server, "", ""))
    broker.receive(["q"], 1)
    raw.xadd(f"{options['global_keyprefix']}dispatcher:{{q}}:ready", {"b": body})
    [delivery] = broker.receive(["q"], 10, wait=5.0)
    assert delivery.brought is None
    with pytest.raises(DecodeError):
        decode(delivery.body)
    settle(broker, "dead", delivery)
    [letter] = broker.dead_letters("q")
    assert letter.body == body.decode("utf-8", "backslashreplace")
    assert broker.redrive([letter]) == 1
    [(_, fields)] = broker._connections.call("XRANGE", broker._queue("q").keys[0], "-", "+")
    assert fields == [b"b", body]


def test_a_prefix_keeps_apps_apart(redis_server: RedisServer, options: dict[str, Any]) -> None:
    """The same queue name under another prefix is another queue, and is not listed."""
    mine = RedisBroker(redis_server.url, {**options, "queue_name_prefix": "mine-"})
    yours = RedisBroker(redis_server.url, {**options, "queue_name_prefix": "yours-"})
    mine.send([outgoing("1")])
    assert yours.receive(["q"], 1) == []
    assert (mine.queues(), yours.queues()) == (["q"], [])
    mine.close()
    yours.close()


def test_a_unix_socket_serves_as_well(redis_server: RedisServer, options: dict[str, Any]) -> None:
    """Celery's redis+socket:// and unix:// reach the same server as the port."""
    for scheme in ("unix", "redis+socket"):
        broker = RedisBroker(f"{scheme}://{redis_server.socket_path}", options)
        broker.send([outgoing(scheme)])
        broker.close()
    over_tcp = RedisBroker(redis_server.url, options)
    assert [delivery.body for delivery in over_tcp.receive(["q"], 10)] == ["unix", "redis+socket"]
    over_tcp.close()


def test_priorities_outside_the_range_are_refused(broker: RedisBroker) -> None:
    """A priority is never clamped silently."""
    for priority in (-1, 10):
        with pytest.raises(UnsupportedOption, match="0 \\(the most urgent\\) to 9"):
            broker.send([outgoing("1", priority=priority)])


def test_a_new_priority_reaches_a_waiting_worker(redis_server: RedisServer, broker: RedisBroker, options: Any) -> None:
    """A worker that waits for messages of the levels it knows finds those of a level that was never used before."""
    producer = RedisBroker(redis_server.url, options)
    assert broker.receive(["q"], 1) == []
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(broker.receive, ["q"], 1, 30.0)
        producer.send([outgoing("low", priority=9)])
        assert [delivery.body for delivery in waiting.result(40)] == ["low"]
    producer.close()


def test_a_blocked_receive_over_many_queues_keeps_its_limit(redis_server: RedisServer, options: Any) -> None:
    """What several queues give at once beyond the limit is handed back, not held."""
    worker, producer = RedisBroker(redis_server.url, options), RedisBroker(redis_server.url, options)
    names = [f"q{number}" for number in range(5)]
    producer.send([Outgoing(name, name, name) for name in names])
    # As a receive does whose queues were all empty a moment ago.
    first = worker._block([worker._queue(name) for name in names], 2, 5.0, [])
    assert len(first) == 2
    rest = producer.receive(names, 10)
    assert sorted(delivery.queue for delivery in first + rest) == names
    worker.close()
    producer.close()


def test_thousands_of_leases_end_in_pages(redis_server: RedisServer, broker: RedisBroker, options: Any) -> None:
    """More ended leases than one page are found, and those that were extended are skipped."""
    slow = RedisBroker(redis_server.url, {**options, "visibility_timeout": 0.3})
    slow.send([outgoing(str(number)) for number in range(350)])
    held = slow.receive(["q"], 350)
    slow.extend(held[:150], 60.0)
    found: list[Delivery] = []
    deadline = time.monotonic() + 30
    while len(found) < 200:
        assert time.monotonic() < deadline
        found += broker.receive(["q"], 70, wait=0.1)
    assert {delivery.body for delivery in found} == {str(number) for number in range(150, 350)}
    assert broker.receive(["q"], 1) == []
    slow.close()


def test_silent_consumers_are_taken_off_the_list(
    broker: RedisBroker, raw: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer that holds nothing and has not been heard of goes; one that holds a lease stays, with its lease."""
    monkeypatch.setattr("dispatcher.brokers.redis.SILENCE", 0.0)
    broker.send([outgoing("1"), outgoing("2")])
    stream = options["global_keyprefix"] + "dispatcher:{q}:ready"
    raw.xgroup_createconsumer(stream, "workers", "60000-gone")
    raw.xreadgroup("workers", "60000-holds", {stream: ">"}, count=1)
    deadline = time.monotonic() + 10
    while "60000-gone" in (names := {consumer["name"] for consumer in raw.xinfo_consumers(stream, "workers")}):
        assert time.monotonic() < deadline
        broker.receive(["q"], 10)
    assert "60000-holds" in names
    assert broker.counts("q").in_flight == 2


def test_purging_takes_more_than_one_step(broker: RedisBroker) -> None:
    """A large queue is purged in pieces that do not hold up the server."""
    broker.send([outgoing(str(number)) for number in range(2500)])
    broker.send([outgoing("later", delay=60.0), outgoing("low", priority=9)])
    assert broker.purge("q") == 2502
    assert broker.counts("q") == (0, 0, 0, 0)


def test_any_text_is_a_prefix(redis_server: RedisServer, raw: Any, options: dict[str, Any]) -> None:
    """A prefix with a star and braces stands before a record's key as it is."""
    options["global_keyprefix"] += "*{}"
    backend = RedisBackend(redis_server.url, options)
    backend.write([Write("task", "SUCCESS", 0, 0, 0, True, "run", time.time() + 600)])
    assert raw.exists(options["global_keyprefix"] + "dispatcher:task:{task}") == 1
    assert backend.read(["task"])["task"].status == "SUCCESS"
    backend.close()


def test_waiting_leaves_nothing(redis_server: RedisServer, raw: Any, options: dict[str, Any]) -> None:
    """The notes of those who wait are gone with the push, or go by themselves."""
    backend = RedisBackend(redis_server.url, options)
    write = Write("task", "SUCCESS", 0, 0, 0, True, "run", time.time() + 600)
    with pytest.raises(TimeoutError):
        backend.wait("task", timeout=0.01)
    note = options["global_keyprefix"] + "dispatcher:task:{task}:waiters"
    assert 0 < raw.pttl(note) <= 10_000
    backend.write([dataclasses.replace(write, final=False, status="STARTED"), write])
    left = keys(raw, options)
    assert all(raw.pttl(options["global_keyprefix"] + "dispatcher:" + key) > 0 for key in left)
    assert sorted(kind for kind in left.values()) == ["list", "string"]
    backend.forget(["task"])
    backend.close()


def test_a_finished_task_is_not_waited_for(redis_server: RedisServer, options: dict[str, Any], raw: Any) -> None:
    """A wait that looks and blocks in one write gets a result that is there at once, and leaves nothing behind."""
    backend = RedisBackend(redis_server.url, options)
    expires = time.time() + 60
    backend.write([Write("a", "SUCCESS", 0, 0, 0, True, "t", expires, data="x" * 100_000)])
    for _ in range(3):  # the first looks alone, lest the server does not know the script
        assert len(backend.wait("a", timeout=30).data) == 100_000
    assert keys(raw, options) == {"task:{a}": "string"}
    assert raw.info("clients")["blocked_clients"] == 0
    backend.close()


def test_reading_a_finished_task_writes_nothing(redis_executable: str) -> None:
    """What is there is read without a change that would have to be saved and sent to replicas."""
    with contextlib.closing(RedisServer(redis_executable).start()) as server:
        backend, raw = RedisBackend(server.url), redis.Redis(port=server.port)
        backend.write([Write("a", "SUCCESS", 0, 0, 0, True, "t", time.time() + 60)])
        before: Any = raw.info("persistence")
        for _ in range(3):
            assert backend.wait("a", timeout=30).status == "SUCCESS"
        after: Any = raw.info("persistence")
        assert after["rdb_changes_since_last_save"] == before["rdb_changes_since_last_save"]
        backend.close()


def test_nobody_blocks_behind_a_script_that_the_server_may_not_know(redis_executable: str) -> None:
    """The first wait on a new server leaves its note before it blocks: else it would miss what it is told."""
    with contextlib.closing(RedisServer(redis_executable).start()) as server:
        backend, raw = RedisBackend(server.url), redis.Redis(port=server.port)
        with raw.monitor() as monitor:
            with pytest.raises(TimeoutError):
                backend.wait("a", timeout=0.5)  # time enough to load the script, however busy the machine is
            commands: list[str] = []
            while "BLPOP" not in commands:
                commands.append(monitor.next_command()["command"].split()[0].upper())
        assert "SADD" in commands
        backend.close()


def test_a_record_that_is_none_is_not_waited_for(redis_server: RedisServer, options: dict[str, Any], raw: Any) -> None:
    """A key of ours that another program uses is named, by a wait that looks and blocks in one write, too."""
    backend = RedisBackend(redis_server.url, options)
    with pytest.raises(TimeoutError):
        backend.wait("a", timeout=0.01)
    raw.sadd(f"{options['global_keyprefix']}dispatcher:task:{{a}}", "x")
    with pytest.raises(OperationalError, match="set global_keyprefix"):
        backend.wait("a")
    backend.close()


def test_a_task_that_has_begun_is_waited_for(redis_server: RedisServer, options: dict[str, Any], raw: Any) -> None:
    """A record that is not final keeps nobody from blocking on the server."""
    backend = RedisBackend(redis_server.url, options)
    begun = Write("a", "STARTED", 0, 0, 0, False, "t", time.time() + 60)
    backend.write([begun])
    with pytest.raises(TimeoutError):
        backend.wait("a", timeout=0.01)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(backend.wait, "a", 30)
        while not raw.info("clients")["blocked_clients"]:
            time.sleep(0.01)
        backend.write([dataclasses.replace(begun, status="SUCCESS", final=True)])
        assert waiting.result().status == "SUCCESS"
    backend.close()
