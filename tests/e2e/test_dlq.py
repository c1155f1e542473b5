"""Dead letters redriven by the command line, on every broker with every backend: what died can still succeed."""

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher import Dispatcher, state
from dispatcher.brokers.base import Outgoing
from dispatcher.cli import main
from dispatcher.consumer.loop import BrokerTransport
from dispatcher.exceptions import NotRegistered, Reject
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor

BROKERS = ("memory", "sqlite", "redis", "sqs")
BACKENDS = ("memory", "sqlite", "redis", "dynamodb")
KEYS = {"k1": bytes(range(32))}

pytestmark = pytest.mark.usefixtures("_current_app")


@pytest.fixture
def _current_app() -> Iterator[None]:
    """Put back the app that was current: the command line makes one of its own."""
    before = state._current_app
    yield
    state.set_current_app(before)


class Place:
    """An app on one broker and backend, a worker that is moved by hand, and the command line."""

    def __init__(self, broker: str, backend: str, fifo: bool = False) -> None:
        self.broker_url, self.backend_url = broker, backend
        self.queue = f"dlq-{uuid.uuid4().hex[:8]}{'.fifo' if fifo else ''}"
        self.apps: list[Dispatcher] = []

    def app(self, **settings: Any) -> Dispatcher:
        """Make one more release of the app."""
        settings = {"task_default_queue": self.queue, "unknown_grace": 0, **settings}
        app = Dispatcher("dlq", broker=self.broker_url, backend=self.backend_url, set_as_current=False, **settings)
        self.apps.append(app)
        return app

    def work(self, app: Dispatcher, until: Callable[[], bool]) -> None:
        """Run what the queue has, as a worker would, until something is so."""
        app.finalize()
        executor = Executor(Environment(app, app.backend, BrokerTransport(app.broker), hostname="e2e"))
        try:
            for _ in range(60):
                if until():
                    return
                executor.process(app.broker.receive([self.queue], 10, 1.0))
            raise AssertionError(f"still not so; the queue has {app.broker.counts(self.queue)}")
        finally:
            executor.close()

    def work_until_dead(self, app: Dispatcher, count: int = 1) -> list[Any]:
        """Work until there are so many dead letters; return them, the newest first."""
        app.finalize()
        self.work(app, lambda: app.broker.counts(self.queue).dead >= count)
        return app.broker.dead_letters(self.queue)

    def dlq(self, *arguments: str) -> None:
        """Run a command about this queue's dead letters."""
        code = main(["-b", self.broker_url, "--result-backend", self.backend_url, "dlq", *arguments, "-Q", self.queue])
        assert code == 0


def _url(kind: str, request: pytest.FixtureRequest, directory: Path) -> str:
    if kind == "redis":
        return str(request.getfixturevalue("redis_server").url)
    if kind in ("sqs", "dynamodb"):
        request.getfixturevalue("aws_env")
        return f"{kind}://" if kind == "sqs" else "dynamodb://dlq"
    return f"memory://{uuid.uuid4().hex}" if kind == "memory" else f"sqlite:///{directory}/{kind}.db"


@pytest.fixture(params=[f"{broker}+{backend}" for broker in BROKERS for backend in BACKENDS])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Every broker with every backend."""
    yield from _opened(request, tmp_path, *request.param.split("+"))


@pytest.fixture(params=BROKERS)
def broker_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Every broker, with records in memory."""
    yield from _opened(request, tmp_path, request.param, "memory")


@pytest.fixture
def fifo_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A FIFO queue."""
    yield from _opened(request, tmp_path, "sqs", "memory", fifo=True)


def _opened(
    request: pytest.FixtureRequest, directory: Path, broker: str, backend: str, fifo: bool = False
) -> Iterator[Place]:
    made = Place(_url(broker, request, directory), _url(backend, request, directory), fifo)
    yield made
    for app in made.apps:
        app.close()


def test_a_failed_task_succeeds_once_redriven(place: Place) -> None:
    """Under its id, with fresh retries, though its record says FAILURE; a second redrive finds nothing."""
    app, broken, retries = place.app(), [True], []

    @app.task(bind=True, max_retries=2)
    def pay(self: Any, amount: int) -> int:
        retries.append(self.request.retries)
        if broken:
            raise self.retry(exc=ConnectionError("no route to bank"), countdown=0)
        return amount

    sent = pay.delay(7)
    (letter,) = place.work_until_dead(app)
    assert (letter.reason["task_id"], retries) == (sent.id, [0, 1, 2])
    assert isinstance(sent.get(timeout=5, propagate=False), ConnectionError)
    assert sent.state == "FAILURE"

    broken.clear()
    place.dlq("redrive", "--task", pay.name, "--exception", "ConnectionError")
    place.work(app, lambda: app.AsyncResult(sent.id).state == "SUCCESS")
    assert app.AsyncResult(sent.id).get(timeout=5) == 7
    assert retries == [0, 1, 2, 0]
    place.dlq("redrive", "--yes")
    assert app.broker.receive([place.queue], 10) == []


def test_a_redriven_task_may_fail_again(place: Place) -> None:
    """It uses up its retries anew and is a dead letter again, which can be redriven again."""
    app, runs = place.app(), []

    @app.task(bind=True, max_retries=1)
    def pay(self: Any) -> str:
        runs.append(self.request.retries)
        if len(runs) < 5:
            raise self.retry(exc=ConnectionError("no route"), countdown=0)
        return "paid"

    sent = pay.delay()
    for died in (1, 2):
        (letter,) = place.work_until_dead(app)
        assert letter.reason["retries"] == "1"
        assert runs == [0, 1] * died
        place.dlq("redrive", "--id", sent.id)
    place.work(app, lambda: app.AsyncResult(sent.id).state == "SUCCESS")
    assert runs == [0, 1, 0, 1, 0]


def test_an_unknown_task_runs_once_it_is_deployed(place: Place) -> None:
    """An older worker gave it up; after the deploy a redrive runs it."""
    newer, older = place.app(), place.app()

    @newer.task(name="shop.brand_new")
    def brand_new(x: int) -> int:
        return x + 1

    sent = brand_new.delay(1)
    (letter,) = place.work_until_dead(older)
    assert (letter.reason["task"], letter.reason["task_id"]) == ("shop.brand_new", sent.id)
    assert isinstance(older.AsyncResult(sent.id).get(timeout=5, propagate=False), NotRegistered)
    place.dlq("redrive", "--task", "shop.brand_new")
    place.work(newer, lambda: newer.AsyncResult(sent.id).state == "SUCCESS")
    assert newer.AsyncResult(sent.id).get(timeout=5) == 2


def test_a_rejected_task_runs_once_redriven(broker_place: Place) -> None:
    """REJECTED is no end either."""
    app, broken = broker_place.app(), [True]

    @app.task
    def parse() -> str:
        if broken:
            raise Reject("malformed", requeue=False)
        return "parsed"

    sent = parse.delay()
    broker_place.work_until_dead(app)
    broken.clear()
    broker_place.dlq("redrive", "--reason", "rejected")
    broker_place.work(app, lambda: app.AsyncResult(sent.id).state == "SUCCESS")


def test_a_lean_task_runs_once_redriven(broker_place: Place) -> None:
    """A task that keeps no result: its record of the failure does not stand in the way."""
    app, broken, ran = broker_place.app(), [True], []

    @app.task(ignore_result=True, revocable=False)
    def note() -> None:
        if broken:
            raise ValueError("no")
        ran.append(1)

    note.delay()
    broker_place.work_until_dead(app)
    broken.clear()
    broker_place.dlq("redrive", "--yes")
    broker_place.work(app, lambda: bool(ran))
    assert ran == [1]


def test_what_cannot_be_decoded_comes_back_as_it_was(broker_place: Place) -> None:
    """The bytes are kept through any number of redrives; each ends among the dead letters."""
    app = broker_place.app()
    app.finalize()
    body = '{"not": "a message", "é": [1.50, 1e3]}'
    app.broker.send([Outgoing(broker_place.queue, body, "1")])
    for _ in range(2):
        (letter,) = broker_place.work_until_dead(app)
        assert (letter.body, letter.reason["reason"]) == (body, "undecodable")
        broker_place.dlq("redrive", "--reason", "undecodable")
        assert app.broker.counts(broker_place.queue).dead == 0


def test_a_message_of_a_newer_release_runs_after_the_upgrade(place: Place) -> None:
    """What an older worker cannot read it buries and records as failed; a worker that can then runs it all the same."""
    app = place.app()

    @app.task(name="shop.soon")
    def soon() -> str:
        return "ran"

    app.finalize()
    id = str(uuid.uuid4())
    body = {"v": 1, "id": id, "task": "shop.soon", "critical": ["teleport"], "teleport": True}
    app.broker.send([Outgoing(place.queue, json.dumps(body), id)])
    (letter,) = place.work_until_dead(app)
    assert (letter.body, app.AsyncResult(id).state) == (json.dumps(body), "FAILURE")
    # An upgraded worker takes the field for known; this one does so if it is no longer critical.
    app.broker.send([Outgoing(place.queue, json.dumps({**body, "critical": []}), id)])
    place.work(app, lambda: app.AsyncResult(id).state == "SUCCESS")


def test_signed_letters_are_redriven(broker_place: Place) -> None:
    """The signature is for the home queue, and holds after the redrive; altered bodies stay out."""
    app, broken = broker_place.app(signing_keys=KEYS), [True]

    @app.task(max_retries=0)
    def pay(amount: int) -> int:
        if broken:
            raise ValueError("no")
        return amount

    sent = pay.delay(5)
    (letter,) = broker_place.work_until_dead(app)
    broken.clear()
    altered = letter.body.replace('"args":[5]', '"args":[9]')
    assert altered != letter.body
    app.broker.send([Outgoing(broker_place.queue, altered, "x")])
    letters = broker_place.work_until_dead(app, 2)
    assert sorted(each.reason["reason"] for each in letters) == ["failed", "undecodable"]
    broker_place.dlq("redrive", "--reason", "failed")
    broker_place.work(app, lambda: app.AsyncResult(sent.id).state == "SUCCESS")
    assert app.AsyncResult(sent.id).get(timeout=5) == 5


def test_fifo_letters_are_redriven_in_their_group(fifo_place: Place) -> None:
    """Again and again within five minutes, none swallowed as a duplicate, the group kept."""
    app, groups, broken = fifo_place.app(), [], [True, True]

    @app.task(bind=True)
    def ship(self: Any) -> str:
        groups.append(self.request.delivery_info.get("group_id"))
        if broken:
            raise ValueError("no")
        return "shipped"

    sent = ship.apply_async(MessageGroupId="customer-1")
    while broken:
        (letter,) = fifo_place.work_until_dead(app)
        assert letter.group_id == "customer-1"
        broken.pop()
        fifo_place.dlq("redrive", "--id", sent.id)
    fifo_place.work(app, lambda: app.AsyncResult(sent.id).state == "SUCCESS")
