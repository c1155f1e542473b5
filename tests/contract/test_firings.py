"""Firings of the beat on every broker and result backend: what is fired twice is one task, and one beat leads."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher import Dispatcher
from dispatcher.beat.firing import Firing, firing_id
from dispatcher.beat.service import Beat
from dispatcher.consumer.loop import BrokerTransport
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from tests.emulation.endpoint import unique_name

MakeApp = Callable[[], Dispatcher]


@pytest.fixture(params=["memory", "sqlite", "redis", "sqs"])
def make_app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeApp]:
    """Make apps on one store, each with connections of its own."""
    made: list[Dispatcher] = []
    url, backend, transport = f"memory://{uuid.uuid4().hex}", None, {}
    queue, kind = f"q-{uuid.uuid4().hex}", request.param
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path}/tasks.db"
    elif kind == "redis":
        url = request.getfixturevalue("redis_server").url
    elif kind == "sqs":
        aws: Any = request.getfixturevalue("aws_env")
        name = unique_name("firings")
        url, backend = "sqs://", f"dynamodb://{aws.create_table(name, sort_key='sk')}"
        transport = {"predefined_queues": {queue: {"url": aws.create_queue(name)}}}

    def make() -> Dispatcher:
        app = Dispatcher(
            queue, broker=url, backend=backend or url, task_default_queue=queue, broker_transport_options=transport,
            set_as_current=False,
        )  # fmt: skip
        app.task(lambda: None, name="note", ignore_result=True, revocable=False)
        app.conf.beat_schedule = {"often": {"task": "note", "schedule": 60}}
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()


def work(app: Dispatcher) -> list[str]:
    """Process what is on the queue; return what became of each delivery."""
    env = Environment(app=app, backend=app.backend, transport=BrokerTransport(app.broker), clock=app.clock)
    executor = Executor(env)
    queue = app.conf.task_default_queue
    kinds = []
    while deliveries := app.broker.receive([queue], 10, 1.0):
        kinds += [str(run.outcome.kind.value) for run in executor.process(deliveries) if run.outcome is not None]
        if "success" in kinds and len(kinds) >= 3:
            break
    return kinds


def test_a_time_that_is_fired_twice_is_one_task(make_app: MakeApp) -> None:
    """Two processes fire the same time: it runs once, also as a task without a result."""
    app, other = make_app(), make_app()
    entry = app.beat_entry("often")
    assert entry is not None
    at = time.time() // 60 * 60
    for each in (app, other, app):
        each.send_firings([(entry, Firing("often", at))])
    kinds = work(app)
    assert kinds.count("success") == 1
    assert set(kinds) <= {"success", "repeated", "handed_back"}
    assert app.AsyncResult(firing_id(entry.app, "often", at)).state == "SUCCESS"


def test_one_of_two_beats_leads_until_it_stops(make_app: MakeApp) -> None:
    """The lease is one beat's on every store, and another's when it is given up."""
    first, second = Beat(make_app()), Beat(make_app())
    first.tick()
    second.tick()
    assert (first.leads, second.leads) == (True, False)
    first.stop()
    first.start()
    second.tick()
    assert second.leads


def test_stored_entries_are_seen_by_all(make_app: MakeApp) -> None:
    """What one process puts, changes or removes, another reads."""
    app, other = make_app(), make_app()
    app.schedules.put("mine", "note", 60, options={"priority": None})
    assert list(other.schedules.list()) == ["mine"]
    other.schedules.pause("mine")
    found = app.schedules.get("mine")
    assert found is not None
    assert not found.enabled
    assert app.schedules.delete("mine")
    assert other.schedules.get("mine") is None
    assert other.schedules.list() == {}
