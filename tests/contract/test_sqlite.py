"""The SQLite broker and backend under contract, on a real file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.backend_contract import BackendContract
from tests.contract.broker_contract import BrokerContract
from tests.contract.harness import Kind, Recipe


class TestSQLiteBroker(BrokerContract):
    """The broker contract, kept by `SQLiteBroker`."""

    @pytest.fixture
    def kind(self, tmp_path: Path) -> Kind:
        """A file of its own."""
        recipe = Recipe("dispatcher.brokers.sqlite:SQLiteBroker", f"sqlite:///{tmp_path}/queue.db")
        return Kind(recipe, manual_clock=True)


class TestSQLiteBackend(BackendContract):
    """The backend contract, kept by `SQLiteBackend`."""

    @pytest.fixture
    def kind(self, tmp_path: Path) -> Kind:
        """A file of its own."""
        recipe = Recipe("dispatcher.backends.sqlite:SQLiteBackend", f"sqlite:///{tmp_path}/results.db")
        return Kind(recipe, manual_clock=True)
