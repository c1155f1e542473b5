"""The in-memory broker and backend under contract."""

from __future__ import annotations

import uuid

import pytest

from tests.contract.backend_contract import BackendContract
from tests.contract.broker_contract import BrokerContract
from tests.contract.harness import Kind, Recipe


class TestMemoryBroker(BrokerContract):
    """The broker contract, kept by `MemoryBroker`."""

    @pytest.fixture
    def kind(self) -> Kind:
        """A store of its own in this process."""
        recipe = Recipe("dispatcher.brokers.memory:MemoryBroker", f"memory://{uuid.uuid4().hex}")
        return Kind(recipe, manual_clock=True)


class TestMemoryBackend(BackendContract):
    """The backend contract, kept by `MemoryBackend`."""

    @pytest.fixture
    def kind(self) -> Kind:
        """A store of its own in this process."""
        recipe = Recipe("dispatcher.backends.memory:MemoryBackend", f"memory://{uuid.uuid4().hex}")
        return Kind(recipe, manual_clock=True)
