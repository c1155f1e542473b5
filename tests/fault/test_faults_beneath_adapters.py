"""Every broker with every backend under faults from a seed: nothing is lost, hung, regressed, doubled or run too late.

How to repeat a run, and what is injected where: `tests.fault.harness`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.emulation.redis_server import RedisServer
from tests.fault.harness.verdict import Verdict
from tests.fault.harness.world import World

PAIRS = [
    "sqlite/sqlite", "sqlite/redis", "sqlite/dynamodb", "redis/sqlite", "redis/redis",
    "redis/dynamodb", "sqs/sqlite", "sqs/redis", "sqs/dynamodb", "lambda/redis", "lambda/dynamodb",
    "fifo/dynamodb", "lambda-fifo/dynamodb",
]  # fmt: skip
SEED, SIZE = 1, 100
#: Other runs: DISPATCHER_TEST_FAULTS="redis/dynamodb 12345 20000, sqs/redis 7 500", or "all 1 10000" for every pair.
CHOSEN = os.environ.get("DISPATCHER_TEST_FAULTS", f"all {SEED} {SIZE}")


def _chosen() -> list[tuple[str, int, int]]:
    runs = []
    for text in CHOSEN.split(","):
        pair, seed, size = text.split()
        runs += [(each, int(seed), int(size)) for each in (PAIRS if pair == "all" else [pair])]
    return runs


_OF_WORKERS = {"killed in a run", "overtaken"}
_OF_CALLS = {"killed before", "killed after"}
_OF_AWS = {"throttled", "server error", "refused", "reset", "lost answer", "half-failed batch"}
#: What must have been injected for a run to mean anything, by what the pair has.
EXPECTED = {
    "sqlite": _OF_WORKERS | _OF_CALLS | {"locked", "disk full", "disk error", "disk error after commit"},
    "redis": _OF_WORKERS
    | _OF_CALLS
    | {"cut before", "cut in a command", "cut in a reply", "swallowed reply", "dribble"},
    "dynamodb": _OF_WORKERS | _OF_CALLS | _OF_AWS,
    "sqs": _OF_WORKERS | _OF_CALLS | _OF_AWS | {"twin", "disorder"},
    "lambda": _OF_WORKERS | _OF_CALLS | _OF_AWS | {"twin", "disorder", "killed in an answer"},
    "fifo": _OF_WORKERS | _OF_CALLS | _OF_AWS,
    "lambda-fifo": _OF_WORKERS | _OF_CALLS | _OF_AWS | {"killed in an answer"},
}


def run(pair: str, seed: int, size: int, directory: Path, request: pytest.FixtureRequest) -> Verdict:
    """Run a plan of so many calls on a pair, on a Redis of the test run's if it needs one."""
    port = None
    if "redis" in pair:
        with RedisServer(request.getfixturevalue("redis_executable")) as server:
            return World(pair, seed, size, directory, server.port).run()
    return World(pair, seed, size, directory, port).run()


@pytest.mark.timeout(3600 if "DISPATCHER_TEST_FAULTS" in os.environ else 120)
@pytest.mark.parametrize(("pair", "seed", "size"), _chosen(), ids=lambda value: str(value).replace("/", "-"))
def test_nothing_goes_wrong(pair: str, seed: int, size: int, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Lost, hung, regressed, late, doubled, wrong, unburied, wrongly buried, unexcused: none, on any pair."""
    verdict = run(pair, seed, size, tmp_path, request)
    print(f"\n{pair} {seed} {size}: {verdict}")
    assert not verdict.violations, f'repeat it by DISPATCHER_TEST_FAULTS="{pair} {seed} {size}"\n{verdict}'
    assert verdict.reruns <= verdict.exposed
    if size >= 2_000:  # small runs do not meet everything
        for part in pair.split("/"):
            assert not (missing := EXPECTED[part] - verdict.faults.keys()), missing
