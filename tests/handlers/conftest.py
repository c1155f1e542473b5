"""The deployed handler under AWS's runtime client, for the tests that need a process of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher.config.environment import queue_variable
from dispatcher.local.sandbox import Function, Sandbox
from tests.emulation import environments
from tests.emulation.endpoint import AwsEndpoint
from tests.handlers.lab import Lab, MakeLab

MakeSandbox = Callable[..., Sandbox]


@pytest.fixture
def lab(aws_env: AwsEndpoint, request: pytest.FixtureRequest) -> Lab:
    """A queue, of a parameter's kind ("fifo"), and a table; the app is the sandbox's own."""
    return Lab(aws_env, fifo=getattr(request, "param", "") == "fifo")


@pytest.fixture
def make_lab(aws_env: AwsEndpoint) -> Iterator[MakeLab]:
    """Make an app with a queue of its own."""
    made: list[Lab] = []

    def make(**settings: Any) -> Lab:
        made.append(Lab(aws_env, **settings))
        return made[-1]

    yield make
    for lab in made:
        lab.worker.close()


@pytest.fixture
def make_sandbox(tmp_path: Path, lab: Lab, lambda_python: str, app_source: str) -> Iterator[MakeSandbox]:
    """Deploy an app's source, ``app_source`` if none is given, with the handler of this repository."""
    made: list[Sandbox] = []

    def make(
        source: str = app_source, *, timeout: float = 10.0, handler: str = "handlers.worker.handler", **variables: str
    ) -> Sandbox:
        (tmp_path / "app.py").write_text(source)
        environment = {
            **lab.aws.env(),
            "DISPATCHER_APP": "app:app",
            "DISPATCHER_BROKER_URL": "sqs://",
            "DISPATCHER_RESULT_BACKEND": str(lab.app.conf.result_backend),
            **{queue_variable(queue): url for queue, url in lab.urls.items()},
            "DISPATCHER_TASK_DEFAULT_QUEUE": lab.queue,
            "PYTHONDONTWRITEBYTECODE": "1",
            **variables,
        }
        function = Function(
            code=tmp_path, handler=handler, python=lambda_python, timeout=timeout,
            environment=environment, path=[environments.ROOT],
        )  # fmt: skip
        made.append(Sandbox(function))
        return made[-1]

    yield make
    for sandbox in made:
        sandbox.close()
