"""An application of ours on an AWS-shaped endpoint: queues, table, functions and mappings, as `template.yaml` lays out.

deployment = deploy(aws, app="shop.tasks:app", sources=[Path("examples/shop")])
monkeypatch.setenv(...)  # deployment.environment() configures a producer in this process or another one
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.emulation.endpoint import AwsEndpoint, unique_name
from tests.emulation.environments import ROOT

WORKER = "handlers.worker.handler"

MAX_RECEIVE_COUNT = 100
LOST_MAX_RECEIVE_COUNT = 500


@dataclass(frozen=True)
class DeployedQueue:
    """URLs of a queue, of the queue that too many receives lead to, and of its dead letters."""

    url: str
    lost: str
    dead: str


@dataclass(frozen=True)
class Deployment:
    """What `deploy` made."""

    aws: AwsEndpoint
    worker: str
    table: str
    queues: Mapping[str, DeployedQueue]

    def environment(self) -> dict[str, str]:
        """Variables by which a producer, a local worker or the CLI finds the deployment."""
        return {**self.aws.env(), **_variables(self.table, self.queues)}

    def log(self) -> list[str]:
        """The worker function's log."""
        return self.aws.function_log(self.worker)


def deploy(
    aws: AwsEndpoint,
    *,
    app: str,
    sources: Sequence[Path],
    queues: Sequence[str] = ("default",),
    handler: str = WORKER,
    dead_letter_handler: str | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: int = 30,
    visibility_timeout: int | None = None,
    max_receive_count: int = MAX_RECEIVE_COUNT,
    memory_mb: int = 512,
    batch_size: int = 10,
    window: int = 0,
    max_concurrency: int | None = None,
) -> Deployment:
    """Deploy the app `module:attribute` whose modules are `sources`, with the package and the repository's handlers.

    `visibility_timeout` is six times the function's `timeout` by default, as AWS advises; `dead_letter_handler` reads
    the lost queues when given. Names are unique to this call; dependencies come from `requirements-lambda.txt`.
    """
    name = unique_name("app")
    visibility = 6 * timeout if visibility_timeout is None else visibility_timeout
    made = {queue: _create_queues(aws, f"{name}-{queue}", visibility, max_receive_count) for queue in queues}
    table = aws.create_table(f"{name}-results", sort_key="sk")
    variables = {"DISPATCHER_APP": app, **_variables(table, made), **dict(environment or {})}
    package = [path for path in (ROOT / "dispatcher", ROOT / "handlers") if path.exists()]

    def create_function(suffix: str, entry: str) -> str:
        function = f"{name}-{suffix}"
        aws.create_function(
            function,
            handler=entry,
            sources=[*package, *sources],
            environment=variables,
            timeout=timeout,
            memory_mb=memory_mb,
        )
        return function

    worker = create_function("worker", handler)
    for queue in made.values():
        fifo = queue.url.endswith(".fifo")
        aws.map_queue(
            queue.url,
            worker,
            batch_size=min(batch_size, 10) if fifo else batch_size,
            window=0 if fifo else window,
            max_concurrency=max_concurrency,
        )
    if dead_letter_handler is not None:
        reader = create_function("dead-letter", dead_letter_handler)
        for queue in made.values():
            aws.map_queue(queue.lost, reader)
    return Deployment(aws, worker, table, made)


def _create_queues(aws: AwsEndpoint, name: str, visibility: int, max_receive_count: int) -> DeployedQueue:
    dead = aws.create_queue(_derived(name, "-dead"), visibility_timeout=visibility)
    lost = aws.create_queue(
        _derived(name, "-lost"),
        dead_letter_queue=dead,
        max_receive_count=LOST_MAX_RECEIVE_COUNT,
        visibility_timeout=visibility,
    )
    url = aws.create_queue(
        name, dead_letter_queue=lost, max_receive_count=max_receive_count, visibility_timeout=visibility
    )
    return DeployedQueue(url, lost, dead)


def _derived(queue: str, suffix: str) -> str:
    """`orders.fifo` and `-dead` make `orders-dead.fifo`."""
    return f"{queue.removesuffix('.fifo')}{suffix}.fifo" if queue.endswith(".fifo") else queue + suffix


def _variables(table: str, queues: Mapping[str, DeployedQueue]) -> dict[str, str]:
    variables = {
        "DISPATCHER_BROKER_URL": "sqs://",
        "DISPATCHER_RESULT_BACKEND": "dynamodb://",
        "DISPATCHER_TABLE": table,
    }
    for name, queue in queues.items():
        for alias, url in (
            (name, queue.url),
            (_derived(name, "-lost"), queue.lost),
            (_derived(name, "-dead"), queue.dead),
        ):
            variables["DISPATCHER_QUEUE_URL_" + re.sub(r"[^A-Z0-9]", "_", alias.upper())] = url
    return variables
