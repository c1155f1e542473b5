"""Real workers on real brokers: killed, stopped, starved and misused. Nothing is lost, nothing hangs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.emulation.redis_server import RedisServer
from tests.fault.fleet import Fleet
from tests.fault.storm import Storm

DURABLE = {"appendonly": "yes", "appendfsync": "always"}


@pytest.fixture(params=["sqlite", "redis"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet on each broker that several processes of one machine share."""
    if request.param == "redis":
        executable = request.getfixturevalue("redis_executable")
        with RedisServer(executable, options=DURABLE) as server, Fleet(tmp_path, server.url) as fleet:
            yield fleet
    else:
        with Fleet(tmp_path, f"sqlite:///{tmp_path / 'store.db'}") as fleet:
            yield fleet


def test_killed_workers_lose_nothing(fleet: Fleet) -> None:
    """Workers and children killed at random moments lose, hang, regress and double nothing."""
    report = Storm(fleet, seed=1, tasks=400, kills=5).run()
    assert report.kills == 5
    assert not report.hung, fleet.logs()
    assert not report.lost
    assert not report.regressed
    assert not report.wrong
    assert not report.late_starts
    assert not report.unburied
    assert not report.continuations
    assert report.reruns <= report.in_flight
