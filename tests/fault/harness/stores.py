"""Where messages and records of a run are kept: URLs and options for its processes, and for an undisturbed onlooker."""

from __future__ import annotations

import contextlib
import itertools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import botocore.endpoint
import pytest

from dispatcher import aws, connections
from dispatcher.backends.base import TaskRecord
from dispatcher.backends.dynamodb_items import key, record_of
from dispatcher.clock import Clock
from tests.fault.harness.disk import Disk
from tests.fault.harness.dynamodb import DynamoDb
from tests.fault.harness.injector import Gate, Injector
from tests.fault.harness.proxy import Proxy, gated
from tests.fault.harness.sqs import Sqs
from tests.fault.harness.wire import Wire

#: Of local workers and of the queue; in units of the run.
LEASE = 60.0
TABLE = "records"
#: Botocore repeats a call once by itself, so that its own repeats are met as well as errors.
AWS_OPTIONS = {
    "region": "us-east-1", "access_key_id": "key", "secret_access_key": "secret", "endpoint_url": "http://127.0.0.1:9",
    "client-config": {"retries": {"mode": "standard", "total_max_attempts": 2}},
}  # fmt: skip
_names = itertools.count()
Look = Callable[[Sequence[str]], Mapping[str, TaskRecord]]


class Stores:
    """The stores of one run on ``broker`` and ``backend``, open while it is used as a context manager."""

    def __init__(
        self, broker: str, backend: str, clock: Clock, unit: float, injector: Injector, gate: Gate,
        directory: Path, redis_port: int | None,
    ) -> None:  # fmt: skip
        self.broker, self.backend = broker, backend
        self._clock, self._unit = clock, unit
        self._injector, self._gate = injector, gate
        self._path = str(directory / f"faults-{next(_names)}.db")
        self._redis_port = redis_port
        self._prefix = f"faults-{next(_names)}:"
        self._numbers = itertools.count(1)
        self.sqs = Sqs(clock, injector)
        self.dynamodb = DynamoDb()
        self.proxy: Proxy | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Put the faults in beneath the adapters."""
        kinds = {self.broker, self.backend}
        with contextlib.ExitStack() as stack:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            if "sqlite" in kinds:
                stack.enter_context(Disk(self._path, self._gate).installed())
            if "redis" in kinds:
                assert self._redis_port is not None
                self.proxy = stack.enter_context(
                    contextlib.closing(Proxy(self._redis_port, self._injector, self._gate))
                )
                stack.enter_context(gated(self._gate, self.proxy.port))
            if kinds & {"sqs", "dynamodb"}:
                self._prepare_aws(patch)
            yield

    def _prepare_aws(self, patch: pytest.MonkeyPatch) -> None:
        # Clients of this run alone, calls made side by side in one order, and no pause between botocore's repeats.
        patch.setattr(aws, "MAX_THREADS", 1)
        patch.setattr(botocore.endpoint, "time", types.SimpleNamespace(sleep=lambda seconds: None))
        connect(patch, Wire("sqs", self.sqs, self._injector, self._gate),
                Wire("dynamodb", self.dynamodb, self._injector, self._gate))  # fmt: skip
        self.dynamodb("CreateTable", {"TableName": TABLE})

    # What a process is configured with

    def settings(self, onlooker: bool = False) -> dict[str, Any]:
        """Return the app's settings for a new process; an ``onlooker`` talks to the servers themselves."""
        number = next(self._numbers)
        return {
            "broker": self._url(self.broker, onlooker),
            "backend": self._url(self.backend, onlooker),
            "broker_visibility_timeout": LEASE * self._unit,
            "broker_transport_options": self._options(self.broker, number, onlooker),
            "result_backend_transport_options": self._options(self.backend, number, onlooker),
        }

    def _url(self, kind: str, onlooker: bool) -> str:
        if kind == "redis":
            return f"redis://127.0.0.1:{self._redis_port if onlooker or self.proxy is None else self.proxy.port}/0"
        return {"sqlite": f"sqlite:///{self._path}", "sqs": "sqs://",
                "dynamodb": f"dynamodb://{TABLE}"}[kind]  # fmt: skip

    def _options(self, kind: str, number: int, onlooker: bool) -> dict[str, Any]:
        if kind == "sqs":
            return {**AWS_OPTIONS, "sqs-creation-attributes": {"VisibilityTimeout": str(int(LEASE))}}
        if kind == "dynamodb":
            return dict(AWS_OPTIONS)
        if kind == "redis":
            hasty = {"max_retries": 1, "interval_start": 0.0, "socket_timeout": 5.0 if onlooker else 0.25}
            return {"global_keyprefix": self._prefix, **hasty}
        # Adapters with the same options share a connection, which two processes never do.
        return {"timeout": 5.0 if onlooker else 0.002 + number / 1e9} if kind == "sqlite" else {}

    def look(self, app: Any) -> Look:
        """Return what reads records without any fault."""
        if self.backend == "dynamodb":
            return self._look_at_items

        def look(ids: Sequence[str]) -> Mapping[str, TaskRecord]:
            with self._injector.calm():
                found: Mapping[str, TaskRecord] = app.backend.read(ids)
                return found

        return look

    def _look_at_items(self, ids: Sequence[str]) -> Mapping[str, TaskRecord]:
        table, found = self.dynamodb.tables[TABLE], {}
        for task_id in ids:
            item = table.get((key(task_id)["pk"]["S"], "META"))
            if item is not None:
                found[task_id] = record_of(item)
        return found


def connect(patch: pytest.MonkeyPatch, *wires: Wire) -> None:
    """Let every client that the AWS adapters make meanwhile use these wires, and forget clients of before."""
    process = aws._Process()
    process.session = aws._make_session({})
    for wire in wires:
        wire.attach(process.session)
    patch.setattr(aws, "_process", process)


def make_broker(stores: Stores, clock: Clock) -> Any:
    """Open an onlooker's broker."""
    settings = stores.settings(onlooker=True)
    options = {"visibility_timeout": settings["broker_visibility_timeout"], **settings["broker_transport_options"]}
    return connections.make_broker(settings["broker"], options, clock)
