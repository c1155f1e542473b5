"""Signed messages on every broker: what we did not sign for a queue is dead there, its arguments undecoded."""

from __future__ import annotations

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
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from dispatcher.message import Message, encode
from dispatcher.security import SIGNATURE_LENGTH, Signer
from dispatcher.serialization import codecs, pack, register

OLD, NEW, OTHER = bytes(range(32)), bytes(range(32, 64)), bytes(64)
DAY = 86_400.0
MAX_AGE = 30 * DAY
DECODED: list[str] = []


def _decode(text: str) -> Any:
    DECODED.append(text)
    return json.loads(text)


ACCEPTED = frozenset({"json", "noted"})

pytestmark = pytest.mark.usefixtures("_alone")


@pytest.fixture
def _alone() -> Iterator[None]:
    """Have a serializer that notes what it decodes; put back the app that was current, which commands change."""
    before = state._current_app
    DECODED.clear()
    register("noted", json.dumps, _decode, binary=False)
    yield
    del codecs._CODECS["noted"]
    state.set_current_app(before)


@pytest.fixture(params=["memory", "sqlite", "redis", "sqs"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Every broker."""
    if request.param == "redis":
        return str(request.getfixturevalue("redis_server").url)
    if request.param == "sqs":
        request.getfixturevalue("aws_env")
        return "sqs://"
    return f"memory://{uuid.uuid4().hex}" if request.param == "memory" else f"sqlite:///{tmp_path}/signed.db"


class Place:
    """An app that signs, on one broker, and a worker that is moved by hand."""

    def __init__(self, broker: str, **settings: Any) -> None:
        self.queue = f"signed-{uuid.uuid4().hex[:8]}"
        self.ran: list[Any] = []
        self.app = Dispatcher(
            "signed", broker=broker, backend=f"memory://{uuid.uuid4().hex}", set_as_current=False,
            task_default_queue=self.queue, accept_content=sorted(ACCEPTED), task_serializer="noted",
            signing_keys={"new": NEW, "old": OLD}, signing_max_age=MAX_AGE, unknown_grace=0, **settings,
        )  # fmt: skip
        self.app.task(name="note")(self.ran.append)
        self.app.finalize()

    def work(self, until: Callable[[], bool]) -> None:
        """Run what the queue has until something is so."""
        executor = Executor(Environment(self.app, self.app.backend, BrokerTransport(self.app.broker), hostname="e2e"))
        try:
            for _ in range(60):
                if until():
                    return
                executor.process(self.app.broker.receive([self.queue], 10, 1.0))
        finally:
            executor.close()
        raise AssertionError(f"still not so; the queue has {self.app.broker.counts(self.queue)}")

    def dead(self) -> int:
        """Count the dead letters."""
        return self.app.broker.counts(self.queue).dead


def body(task_id: str = "") -> str:
    """Return an unsigned body whose arguments are noted when they are decoded."""
    packed = pack([[1], {}], "noted", accept_content=ACCEPTED)
    return encode(Message(id=task_id or str(uuid.uuid4()), task="note", packed=packed))


def forgeries(queue: str, now: float) -> dict[str, str]:
    """Return bodies that must not be trusted, by what is wrong with them."""
    ours = Signer({"new": NEW})
    signed = ours.sign(body(), queue, now)
    content, member = signed[: -SIGNATURE_LENGTH - 1], signed[-SIGNATURE_LENGTH - 1 : -1]
    return {
        "is not signed": body(),
        "unknown key": Signer({"new2": NEW}).sign(body(), queue, now),
        "another key": Signer({"new": OTHER}).sign(body(), queue, now),
        "altered arguments": signed.replace('"data":"W', '"data":"X'),
        "altered id": signed.replace('"id":"', '"id":"0'),
        "for another queue": ours.sign(body(), "elsewhere", now),
        "for a queue of a like name": ours.sign(body(), f"{queue}-deadly", now),
        "too old": ours.sign(body(), queue, now - MAX_AGE - 5),
        "from the future": ours.sign(body(), queue, now + 600),
        "signature first": "{" + member[1:] + "," + content[1:] + "}",
        "signed twice": content + member + member + "}",
        "a member after it": content + member + ',"eta":1}',
        "a key twice": content + ',"task":"note"' + member + "}",
        "white space": content + " " + member + "}",
        "white space at the end": signed + " ",
        "an escape": content.replace('"note"', '"\\u006eote"') + member + "}",
        "the key escaped": content + member.replace('"sig"', '"\\u0073ig"') + "}",
        "upper case": content + member.replace('"sig"', '"SIG"') + "}",
        "another's signature": body()[:-1] + member + "}",
        "the signature inside": json.dumps({"v": 1, "id": "x", "task": "note", "args": [signed]}),
        "cut off": signed[: len(signed) // 2],
    }


def test_what_is_not_ours_is_dead_and_never_decoded(broker: str) -> None:
    """Also after a redrive, which signs nothing; no record is made by it, and what is ours runs beside it."""
    place = Place(broker)
    bodies = forgeries(place.queue, place.app.clock.time())
    place.app.broker.send([Outgoing(place.queue, text, str(n)) for n, text in enumerate(bodies.values())])
    place.work(lambda: place.dead() == len(bodies))
    letters = place.app.broker.dead_letters(place.queue)
    assert {letter.body for letter in letters} == set(bodies.values())
    assert {letter.reason["reason"] for letter in letters} == {"undecodable"}
    kinds = {letter.reason["exception"].partition(": ")[0] for letter in letters}
    assert kinds == {"SecurityError", "UnsignedMessage"}
    assert (DECODED, place.ran) == ([], [])
    ids = [json.loads(text)["id"] for name, text in bodies.items() if name != "cut off"]
    assert place.app.backend.read(ids) == {}

    assert place.app.broker.redrive(next(iter(place.app.broker.walk_dead_letters(place.queue)))) > 0
    place.work(lambda: place.dead() == len(bodies))
    assert (DECODED, place.ran) == ([], [])

    place.app.send_task("note", (1,))
    place.work(lambda: bool(place.ran))
    assert (len(DECODED), place.ran) == (1, [1])


def test_both_keys_of_a_rotation_are_good_and_the_first_signs(broker: str) -> None:
    """Messages of producers that have only the old key run; retries and dead letters are signed with the new one."""
    place = Place(broker, task_publish_retry=False)
    fails = [True]

    @place.app.task(name="flaky", bind=True)
    def flaky(self: Any, number: int) -> int:
        if self.request.retries == 0:
            raise self.retry(args=(number + 1,), countdown=0)
        if fails:
            raise ValueError("not yet")
        return number

    task_id = str(uuid.uuid4())
    packed = pack([[1], {}], "noted", accept_content=ACCEPTED)
    sent = encode(Message(id=task_id, task="flaky", packed=packed))
    place.app.broker.send(
        [Outgoing(place.queue, Signer({"old": OLD}).sign(sent, place.queue, place.app.clock.time()), task_id)]
    )
    place.work(lambda: place.dead() == 1)
    [letter] = place.app.broker.dead_letters(place.queue)
    assert '"sig":"new.....:' in letter.body
    fails.clear()
    assert main(["-b", broker, "--result-backend", "memory://x", "dlq", "redrive", "--yes", "-Q", place.queue]) == 0
    place.work(lambda: place.app.AsyncResult(task_id).state == "SUCCESS")
    assert place.app.AsyncResult(task_id).get() == 3
