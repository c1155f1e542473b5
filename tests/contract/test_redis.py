"""The Redis adapters keep the ports' promises, on a real server."""

from __future__ import annotations

import threading
import uuid

import pytest

from dispatcher import Dispatcher, ResultSet
from dispatcher.backends.base import Write
from dispatcher.clock import SystemClock
from tests.contract.backend_contract import BackendContract
from tests.contract.broker_contract import BrokerContract
from tests.contract.harness import Kind, Recipe
from tests.emulation.redis_server import RedisServer


class TestRedisBroker(BrokerContract):
    """Time is the server's, so these tests run in real time."""

    @pytest.fixture
    def kind(self, redis_server: RedisServer) -> Kind:
        """The server that the whole run shares."""
        return Kind(Recipe("dispatcher.brokers.redis:RedisBroker", redis_server.url))


class TestRedisBackend(BackendContract):
    """Records live on one server."""

    @pytest.fixture
    def kind(self, redis_server: RedisServer) -> Kind:
        """The server that the whole run shares."""
        return Kind(Recipe("dispatcher.backends.redis:RedisBackend", redis_server.url))


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
