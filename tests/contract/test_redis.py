"""The Redis adapters keep the ports' promises, on a real server."""

from __future__ import annotations

import pytest

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
