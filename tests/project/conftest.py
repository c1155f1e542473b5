"""The servers beside which examples of the pages run."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.emulation.deployment import deploy
from tests.emulation.endpoint import unique_name

Servers = Callable[[str, Path], Mapping[str, str]]


@pytest.fixture
def servers(request: pytest.FixtureRequest) -> Servers:
    """Return what a block that needs a server needs: variables, and under ``redis`` the server's URL."""

    def start(kind: str, directory: Path) -> Mapping[str, str]:
        if kind == "redis":
            return {"redis": request.getfixturevalue("redis_server").url}
        if kind == "local":
            return {"XDG_CACHE_HOME": str(request.getfixturevalue("local_cache"))}
        aws = request.getfixturevalue("aws_endpoint")
        if kind == "lambda":
            return deploy(aws, app="tasks:app", sources=[directory / "tasks.py"]).environment()
        assert kind == "sqs", f"no server is called {kind!r}"
        name = unique_name("page")
        dead = aws.create_queue(f"{name}-dead")
        return {
            **aws.env(),
            "DISPATCHER_QUEUE_URL_DEFAULT": aws.create_queue(name, dead_letter_queue=dead, max_receive_count=100),
            "DISPATCHER_QUEUE_URL_DEFAULT_DEAD": dead,
            "DISPATCHER_TABLE": aws.create_table(f"{name}-results", sort_key="sk"),
        }

    return start
