"""What the tests of faults share."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fault.simulated_aws import MakeAws, SimulatedAws


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
