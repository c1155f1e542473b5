"""What several of these files run on."""

from pathlib import Path

import pytest

from tests.fault.fuse import MortalStores, memory_stores, sqlite_stores


@pytest.fixture(params=["memory", "sqlite"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> MortalStores:
    """Stores that die where a fuse says."""
    return memory_stores() if request.param == "memory" else sqlite_stores(tmp_path)
