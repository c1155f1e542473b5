"""One suite for every broker and one for every backend.

An adapter comes under contract in a file of its own, ``test_<store>.py``: a subclass of `BrokerContract` or of
`BackendContract` whose ``kind`` fixture returns a `Kind`. A store that needs a server asks for its fixture there.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher.clock import SYSTEM

pytest.register_assert_rewrite("tests.contract.broker_contract", "tests.contract.backend_contract")

from tests.contract.harness import Harness, Kind  # noqa: E402 - asserts are rewritten first


@pytest.fixture
def harness(kind: Kind) -> Iterator[Harness[Any]]:
    """The store under test, on a clock the test may move where the store allows it."""
    harness: Harness[Any] = Harness(kind)
    yield harness
    harness.close()


@pytest.fixture
def options() -> dict[str, Any]:
    """Options by which Redis adapters have a corner of the shared server for one test."""
    return {"global_keyprefix": f"{uuid.uuid4().hex}:"}


@pytest.fixture
def shared(kind: Kind) -> Iterator[Harness[Any]]:
    """The store under test in real time, for tests with several processes; stores of one process only skip."""
    harness: Harness[Any] = Harness(kind, SYSTEM)
    adapter = harness.open()
    if not getattr(adapter, "features", adapter).shared:
        pytest.skip(f"{adapter.describe()} is not shared between processes")
    yield harness
    harness.close()
