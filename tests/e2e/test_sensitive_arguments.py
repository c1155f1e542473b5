"""Values of arguments that are marked as sensitive show up in nothing that the package writes or prints."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher import Dispatcher, state
from dispatcher.brokers.base import Outgoing
from dispatcher.cli import main
from dispatcher.consumer.loop import BrokerTransport
from dispatcher.exceptions import Ignore, Reject
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from dispatcher.execution.run import Run
from dispatcher.message import Message, encode

WORD = 'canary-"7f3a" grün'
CARD = 4929123456781234
PIN = "zQ7w"  # no digits alone: times and ids are full of them
MARKED = ("password", "card")

pytestmark = pytest.mark.usefixtures("_current_app")


@pytest.fixture
def _current_app() -> Iterator[None]:
    """Put back the app that was current: the command line makes one of its own."""
    before = state._current_app
    yield
    state.set_current_app(before)


class Unspeakable(Exception):
    """Words its message by what is no argument of it."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self.word = word

    def __str__(self) -> str:
        return f"they said {self.word}"


class Place:
    """An app, a worker that is moved by hand, and all that can be seen of them."""

    def __init__(self, broker: str, backend: str, caplog: pytest.LogCaptureFixture, capsys: Any) -> None:
        self.broker, self.backend = broker, backend
        self.queue = f"sensitive-{uuid.uuid4().hex[:8]}"
        self.app = Dispatcher(
            "sensitive", broker=broker, backend=backend, set_as_current=False, task_default_queue=self.queue,
            result_extended=True, unknown_grace=0, task_publish_retry=False,
        )  # fmt: skip
        self.caplog, self.capsys = caplog, capsys
        self.reprs: list[str] = []
        self.ids: list[str] = []
        caplog.set_level(logging.DEBUG, "dispatcher")

    def send(self, task: Any, *args: Any, **options: Any) -> Any:
        """Send a call, and look at it."""
        signature = task.s(*args, password=WORD, card={"number": CARD, "pin": PIN})
        result = signature.apply_async(**options)
        self.reprs += [repr(signature), repr(result), signature.reprcall()]
        self.ids.append(result.id)
        return result

    def work(self, until: Callable[[], bool]) -> None:
        """Run what the queue has until something is so."""
        self.app.finalize()
        executor = Executor(Environment(self.app, self.app.backend, BrokerTransport(self.app.broker), hostname="e2e"))
        try:
            for _ in range(60):
                if until():
                    return
                deliveries = self.app.broker.receive([self.queue], 10, 1.0)
                self.note(executor.process(deliveries))
        finally:
            executor.close()
        raise AssertionError(f"still not so; the queue has {self.app.broker.counts(self.queue)}")

    def note(self, runs: list[Run]) -> None:
        """Look at runs."""
        for run in runs:
            parts = (run, run.delivery, run.message, run.context, run.settlement, run.outcome and run.outcome.error)
            self.reprs += [repr(part) for part in parts]

    def dlq(self, *arguments: str) -> str:
        """Run a command about the dead letters; return what it printed."""
        code = main(["-b", self.broker, "--result-backend", self.backend, "dlq", *arguments, "-Q", self.queue])
        assert code == 0
        return "".join(self.capsys.readouterr())

    def everything(self) -> str:
        """Return all texts there are, but for the bodies of messages."""
        letters = self.app.broker.dead_letters(self.queue)
        for letter in letters:
            self.reprs += [repr(letter), *letter.reason.values()]
        printed = [self.dlq("list"), self.dlq("list", "--json"), self.dlq("export"), self.dlq("show", *self.ids)]
        for task_id in self.ids:
            main(["-b", self.broker, "--result-backend", self.backend, "result", task_id, "--json", "--traceback"])
        printed += self.capsys.readouterr()
        records = [record.data for record in self.app.backend.read(self.ids).values()]
        return "\n".join((self.caplog.text, *self.reprs, *printed, *records))


@pytest.fixture(params=["memory", "sqlite", "redis", "sqs"])
def place(request: pytest.FixtureRequest, tmp_path: Path, caplog: Any, capsys: Any) -> Iterator[Place]:
    """Every broker, with its own backend."""
    broker, backend = _urls(request, tmp_path)
    made = Place(broker, backend, caplog, capsys)
    yield made
    made.app.close()


near = pytest.mark.parametrize("place", ["memory", "sqlite"], indirect=True)


def _urls(request: pytest.FixtureRequest, directory: Path) -> tuple[str, str]:
    if request.param == "sqs":
        request.getfixturevalue("aws_env")
        return "sqs://", "dynamodb://sensitive"
    url = f"memory://{uuid.uuid4().hex}" if request.param == "memory" else f"sqlite:///{directory}/s.db"
    if request.param == "redis":
        url = str(request.getfixturevalue("redis_server").url)
    return url, url


def make_tasks(app: Dispatcher, marked: Any) -> dict[str, Any]:
    """Register tasks that end in every way and tell what they know."""

    def charge(self: Any, how: str, password: str, card: dict[str, Any]) -> Any:
        if how == "fail":
            try:
                raise KeyError(card["number"])
            except KeyError as error:
                raise ValueError(f"cannot charge {card!r} of {password!r}", [password]) from error
        if how == "word":
            raise Unspeakable(password)
        if how == "retry":
            raise self.retry(exc=ConnectionError(f"no route for {password}"), countdown=0, max_retries=1)
        if how == "again" and self.request.retries == 0:
            raise self.retry(kwargs={"password": password + "!", "card": card}, args=("fail",), countdown=0)
        if how == "exhausted":
            raise self.retry(countdown=0, max_retries=0)
        if how == "reject":
            raise Reject(f"not with {password}")
        if how == "ignore":
            raise Ignore(password)
        if how == "unkept":
            return {password: object()}
        return f"charged {card['number']}"

    def clean_up(exc: BaseException, *details: Any) -> None:
        raise RuntimeError(f"the hook says {exc} and {details}")

    tasks = {
        "charge": app.task(name="charge", bind=True, sensitive=marked, dont_autoretry_for=(Ignore,))(charge),
        "hooked": app.task(name="hooked", bind=True, sensitive=marked, on_failure=clean_up)(charge),
        "sorry": app.task(name="sorry")(lambda request, exc, traceback: repr((request.args, request.kwargs, exc))),
    }
    app.finalize()
    return tasks


WAYS = ("succeed", "fail", "word", "retry", "again", "exhausted", "reject", "ignore", "unkept")


def run_all(place: Place, marked: Any) -> dict[str, Any]:
    """Let tasks end in every way, and some messages be none."""
    tasks = make_tasks(place.app, marked)
    results = {way: place.send(tasks["charge"], way) for way in WAYS}
    place.ids.remove(results["succeed"].id)  # the caller's to read, in its record
    place.send(tasks["hooked"], "fail")
    place.send(tasks["charge"], "fail", link_error=tasks["sorry"].s())
    marks = tasks["charge"]._sensitive
    for name, kwargs in (("charge", {"password": WORD, "of": 1}), ("gone", {"password": WORD})):
        message = Message(id=str(uuid.uuid4()), task=name, kwargs=kwargs, sensitive=marks)
        place.ids.append(message.id)
        place.app.broker.send([Outgoing(place.queue, encode(message), message.id)])
    damaged = encode(Message(id="x", task="charge", args=(WORD,), sensitive=marks))[:-10]
    place.app.broker.send([Outgoing(place.queue, damaged, "x")])
    place.work(
        lambda: (
            place.app.broker.counts(place.queue).dead >= 12 and place.app.broker.counts(place.queue)[:3] == (0, 0, 0)
        )
    )
    return results


def found_in(text: str) -> list[str]:
    """Return the pieces of the secrets that a text has."""
    pieces = ["canary", "7f3a", "gr\\u00fcn", "grün", "gr\\xfcn", "gr%C3%BCn", str(CARD), "56781234", PIN]
    return [piece for piece in pieces if piece in text]


def test_no_value_shows_up(place: Place) -> None:
    """Not in logs, reprs, records, reasons of dead letters, error callbacks, nor in what commands print."""
    results = run_all(place, (*MARKED, "return"))
    assert found_in(place.everything()) == []
    assert results["succeed"].get() == f"charged {CARD}"
    with pytest.raises(ValueError, match=r"cannot charge \{'number': \[sensitive\]") as failed:
        results["fail"].get()
    assert found_in(repr(failed.value) + str(failed.value.__cause__)) == []


@near
def test_no_text_shows_up(place: Place) -> None:
    """With all marked no exception says more than its class."""
    results = run_all(place, True)
    assert found_in(place.everything()) == []
    with pytest.raises(ValueError, match=r"^\[sensitive\]$"):
        results["fail"].get()


@near
def test_what_is_not_marked_shows_up(place: Place) -> None:
    """Or else the test above would look at nothing."""
    run_all(place, ())
    assert set(found_in(place.everything())) > {"canary", "7f3a", str(CARD), PIN}


@near
def test_bodies_are_whole_and_shown_on_request(place: Place) -> None:
    """The value reaches the task, also after a redrive; `dlq` prints it where it is told to."""
    tasks = make_tasks(place.app, MARKED)
    place.send(tasks["charge"], "fail")
    place.work(lambda: place.app.broker.counts(place.queue).dead == 1)
    assert found_in(place.dlq("show", *place.ids)) == []
    for command in (("show", *place.ids), ("list", "--json"), ("export",)):
        assert "canary" in place.dlq(*command, "--reveal"), command
    assert "1 of them without their sensitive arguments; --reveal" in place.dlq("export")
