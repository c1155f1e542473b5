"""One suite for every broker and one for every backend.

An adapter comes under contract in a file of its own, ``test_<store>.py``: a subclass of `BrokerContract` or of
`BackendContract` whose ``kind`` fixture returns a `Kind`. A store that needs a server asks for its fixture there.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from dispatcher.clock import SYSTEM

pytest.register_assert_rewrite("tests.contract.broker_contract", "tests.contract.backend_contract")

from tests.contract.harness import Harness, Kind  # noqa: E402 - asserts are rewritten first
from tests.emulation.redis_server import RedisServer  # noqa: E402


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


@pytest.fixture(scope="session")
def permitted(redis_server: RedisServer) -> dict[str, str]:
    """Options by which Redis adapters log in as a user who may do what docs/redis.md says, with any prefix."""
    page = Path(__file__).parents[2] / "docs" / "redis.md"
    keys, commands = re.findall(r"`([^`]+)`", page.read_text("utf-8").partition("## Permissions")[2])[:2]
    allowed = [f"+{command.lower()}" for command in commands.split()]
    client = redis.Redis(port=redis_server.port)
    client.execute_command(
        "ACL", "SETUSER", "permitted", "reset", "on", ">secret", keys.replace("<global_keyprefix>", "~*"), *allowed
    )
    client.close()
    return {"username": "permitted", "password": "secret"}


@pytest.fixture
def shared(kind: Kind) -> Iterator[Harness[Any]]:
    """The store under test in real time, for tests with several processes; stores of one process only skip."""
    harness: Harness[Any] = Harness(kind, SYSTEM)
    adapter = harness.open()
    if not getattr(adapter, "features", adapter).shared:
        pytest.skip(f"{adapter.describe()} is not shared between processes")
    yield harness
    harness.close()
