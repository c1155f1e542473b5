"""What the tests of faults share."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fault.fuse import MortalStores, memory_stores, sqlite_stores
from tests.fault.simulated_aws import MakeAws, SimulatedAws


@pytest.fixture(params=["memory", "sqlite"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> MortalStores:
    """Stores that die where a fuse says."""
    return memory_stores() if request.param == "memory" else sqlite_stores(tmp_path)


@pytest.fixture
def make_aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeAws]:
    """Make simulated clouds; they are left after the test."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    made: list[SimulatedAws] = []

    def make(**options: Any) -> SimulatedAws:
        made.append(SimulatedAws(**options))
        return made[-1]

    yield make
    for aws in made:
        aws.close()
