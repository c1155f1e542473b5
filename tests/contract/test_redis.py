"""The Redis adapters keep the ports' promises, on a real server."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import pytest

from dispatcher import Dispatcher, ResultSet
from dispatcher.backends.base import Write
from dispatcher.brokers.base import Delivery, Outgoing
from dispatcher.brokers.redis import RedisBroker
from dispatcher.clock import SYSTEM, SystemClock
from dispatcher.redis_connection import RedisConnections
from dispatcher.redis_settings import parse
from tests.contract.backend_contract import BackendContract
from tests.contract.broker_contract import BrokerContract
from tests.contract.harness import Kind, Recipe
from tests.emulation.redis_server import RedisServer


class TestRedisBroker(BrokerContract):
    """Time is the server's, so these tests run in real time."""

    @pytest.fixture
    def kind(self, redis_server: RedisServer, permitted: dict[str, str]) -> Kind:
        """The server, as a user who may do no more than is documented."""
        return Kind(Recipe("dispatcher.brokers.redis:RedisBroker", redis_server.url, permitted))


class TestRedisBackend(BackendContract):
    """Records live on one server."""

    @pytest.fixture
    def kind(self, redis_server: RedisServer, permitted: dict[str, str]) -> Kind:
        """The server, as a user who may do no more than is documented."""
        return Kind(Recipe("dispatcher.backends.redis:RedisBackend", redis_server.url, permitted))


class Sleepless(SystemClock):
    """A clock by which nobody may wait."""

    @staticmethod
    def sleep(seconds: float) -> None:  # type: ignore[override]
        """Fail."""
        raise AssertionError("slept, where the server would have told")


def test_a_set_of_results_waits_to_be_told(redis_server: RedisServer) -> None:
    """Waiting for several results is blocking on the server, not sleeping and asking again."""
    app = Dispatcher("told", broker="memory://told", backend=redis_server.url, clock=Sleepless(), set_as_current=False)
    ids = [str(uuid.uuid4()) for _ in range(3)]

    def finish() -> None:
        for task_id in ids:
            life = app.clock.time() + 60
            app.backend.write([Write(task_id, "SUCCESS", 0, 0, 0, True, "t", life, data='{"result": 1}')])

    results = ResultSet([app.AsyncResult(task_id) for task_id in ids])
    worker = threading.Timer(0.05, finish)
    worker.start()
    assert results.get(timeout=30) == [1, 1, 1]
    worker.join()
    app.close()


def test_threads_that_begin_together_hold_leases_under_one_name(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one still looks up the host's name the other does without: neither's leases could be settled later on."""
    broker = RedisBroker(redis_server.url, {"global_keyprefix": f"{uuid.uuid4().hex}:"})
    broker.send([Outgoing("q", "{}", number) for number in "12"])
    asked, go_on = threading.Event(), threading.Event()

    def host() -> str:
        if asked.is_set():
            go_on.set()
        asked.set()
        assert go_on.wait(60)
        return "host"

    monkeypatch.setattr("socket.gethostname", host)
    taken: list[Delivery] = []
    first = threading.Thread(target=lambda: taken.extend(broker.receive(["q"], 1)))
    first.start()
    assert asked.wait(60)
    taken += broker.receive(["q"], 1)
    go_on.set()
    first.join()
    assert len({delivery.receipt.consumer for delivery in taken}) == 1
    broker.close()


def test_threads_of_a_child_share_no_connection_of_its_parent(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once one has found that the process is another, no connection is left for the next."""
    left: list[list[Any]] = []

    class Forked(RedisConnections):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "_pid":
                left.append(list(getattr(self, "_idle", ())))

    connections = Forked(parse(redis_server.url, {}), SYSTEM)
    connections.call("PING")
    inherited = connections._idle
    monkeypatch.setattr("os.getpid", lambda: 1)
    connections.call("PING")
    assert inherited
    assert left == [[], []]
    connections.close()


def test_a_priority_is_known_to_a_server_that_has_lost_everything(redis_executable: str) -> None:
    """A producer that finds a new server as it sends makes the queue and its level known there."""
    with RedisServer(redis_executable) as server:
        producer = RedisBroker(server.url)
        for number in "12":
            producer.send([Outgoing("q", "{}", number, priority=5)])
        server.restart()
        producer.send([Outgoing("q", "{}", "3", priority=5)])
        consumer = RedisBroker(server.url)
        assert len(consumer.receive(["q"], 5)) == 1
        assert consumer.queues() == ["q"]
        producer.close()
        consumer.close()
