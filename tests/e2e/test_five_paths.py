"""One example module, unchanged, by all five ways to run it: the same results everywhere."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.e2e import commands
from tests.emulation.deployment import deploy
from tests.emulation.endpoint import AwsEndpoint, unique_name
from tests.emulation.redis_server import RedisServer

SHOP = commands.ROOT / "examples" / "shop.py"

EXPECTED = {
    "add": "SUCCESS float 20.0",
    "charge": "SUCCESS str order 42 charged at try 2",
    "decline": "FAILURE PaymentDeclined order 43: no funds",
    "notify": "SUCCESS str mail to ada@example.com",
    "render": "SUCCESS str some of 10000 pages",
    "archive": "SUCCESS dict {'invoice': b'FDP\\x00', 'week': 47, 'kept_until': datetime.datetime(2027, 11, 22, 12, 0, "
    "tzinfo=datetime.timezone.utc)}",
    "total": "SUCCESS Decimal 0.30",
    "pack": "SUCCESS int 2",
    "hold": "ON_HOLD dict {'order': 44, 'reason': 'out of stock'}",
    "restock": "SUCCESS str lamp ordered",
    "again": "SUCCESS str lamp ordered",
    "first": "SUCCESS int 3",
    "basket": "SUCCESS int 24",
    "linked": "SUCCESS int 13",
}


def _visit(directory: Path, variables: Mapping[str, str], *arguments: str) -> dict[str, str]:
    done = commands.run(directory, *arguments, variables=variables, program=(sys.executable, str(SHOP)))
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_eager(tmp_path: Path) -> None:
    """In the calling process, with nothing but the environment to say so."""
    variables = {
        "DISPATCHER_TASK_ALWAYS_EAGER": "1",
        "DISPATCHER_TASK_STORE_EAGER_RESULT": "1",
        "DISPATCHER_RESULT_BACKEND": "memory://",
    }
    assert _visit(tmp_path, variables) == EXPECTED


def test_worker_on_sqlite(tmp_path: Path) -> None:
    """By a worker on the embedded default, with no configuration at all."""
    assert _visit(tmp_path, {}) == EXPECTED


@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_worker_on_redis(tmp_path: Path, redis_server: RedisServer, pool: str) -> None:
    """By a worker on Redis."""
    variables = {
        "DISPATCHER_BROKER_URL": redis_server.url,
        "DISPATCHER_TASK_DEFAULT_QUEUE": unique_name("shop"),
        "DISPATCHER_WORKER_POOL": pool,
    }
    assert _visit(tmp_path, variables) == EXPECTED


def test_worker_on_sqs(tmp_path: Path, aws_endpoint: AwsEndpoint) -> None:
    """By a worker that polls SQS, with results in DynamoDB."""
    name = unique_name("shop")
    dead = aws_endpoint.create_queue(f"{name}-dead")
    variables = {
        **aws_endpoint.env(),
        "DISPATCHER_BROKER_URL": "sqs://",
        "DISPATCHER_TABLE": aws_endpoint.create_table(name, sort_key="sk"),
        "DISPATCHER_QUEUE_URL_DEFAULT": aws_endpoint.create_queue(name, dead_letter_queue=dead, max_receive_count=100),
        "DISPATCHER_QUEUE_URL_DEFAULT_DEAD": dead,
    }
    assert _visit(tmp_path, variables) == EXPECTED


def test_lambda(tmp_path: Path, aws_endpoint: AwsEndpoint, lambda_python: str) -> None:
    """By a Lambda function under the real runtime client, fed by an event source mapping."""
    assert os.path.exists(lambda_python)
    deployment = deploy(aws_endpoint, app="shop:app", sources=[SHOP])
    found = _visit(tmp_path, deployment.environment(), "--send-only")
    assert found == EXPECTED, "\n".join(deployment.log())


def test_lambda_under_duplicates_and_disorder(
    tmp_path: Path, aws_endpoint_chaos: AwsEndpoint, lambda_python: str
) -> None:
    """The same when SQS delivers twice and in any order, as it may."""
    assert os.path.exists(lambda_python)
    deployment = deploy(aws_endpoint_chaos, app="shop:app", sources=[SHOP])
    found = _visit(tmp_path, deployment.environment(), "--send-only")
    assert found == EXPECTED, "\n".join(deployment.log())
