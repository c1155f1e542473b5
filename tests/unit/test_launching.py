"""Many messages are sent by a worker that can be replaced: one message, and parts in the result backend, say which."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher import chain, chord, group
from dispatcher.brokers.base import BrokerFeatures
from dispatcher.exceptions import OperationalError, TaskError
from dispatcher.execution import launching
from tests.unit.bench import Bench, Globals


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    """Keep apps of one test from the next."""
    with Globals():
        yield


class Press(Bench):
    """A bench whose broker takes ten messages at once, and of a few kilobytes each."""

    def __init__(self, max_body: int | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.seen: list[dict[str, Any]] = []
        self.app.finalize()
        self.app.broker.features = BrokerFeatures(at_once=10, max_body=max_body)
        self.show = self.app.task(name="show", bind=True)(lambda task, value: self._show(task, value))
        self.total = self.app.task(name="total")(lambda numbers: sum(numbers))
        self.note = self.app.task(name="note")(lambda request, error, traceback: self.seen.append({"error": error}))

    def _show(self, task: Any, value: Any) -> Any:
        request = task.request
        self.seen.append({
            "value": value, "parent": request.parent_id, "root": request.root_id == request.id, "depth": request.depth,
            "eta": request.eta, "expires": request.expires,
        })  # fmt: skip
        return value


@pytest.mark.parametrize(("canvas", "messages"), [
    (lambda p: chord([p.show.s(n) for n in range(10)], p.total.s()), 10),
    (lambda p: chord([p.show.s(n) for n in range(11)], p.total.s()), 1),
    (lambda p: group(p.show.s(n) for n in range(100)), 100),
    (lambda p: group(p.show.s(n) for n in range(101)), 1),
    (lambda p: chord([chord([p.show.s(n) for n in range(11)], p.total.s())], p.total.s()), 1),
    (lambda p: chain(p.show.s(1), group(p.show.si(n) for n in range(200)), p.total.s()), 1),
    (lambda p: group(chain(group(p.show.s(n) for n in range(101)), p.total.s())), 1),
], ids=["small chord", "chord", "small group", "group", "nested chord", "chain", "nested group"])  # fmt: skip
def test_what_is_sent_by_whom(canvas: Any, messages: int) -> None:
    """Only what the broker takes at once, and a group that nobody waits for up to 100, is sent by the producer."""
    press = Press()
    result = canvas(press).apply_async()
    assert press.left() == messages
    press.work(limit=1000)
    assert result.successful()


def test_members_are_as_if_the_producer_had_sent_them() -> None:
    """They have its lineage, and their times are counted from when it sent them."""
    press = Press()
    chord([press.show.s(n) for n in range(11)], press.total.s()).apply_async(expires=600, countdown=60)
    sent = press.clock.time()
    press.clock.advance(45)
    press.work(limit=100)
    [member] = {tuple(seen.items()) for seen in press.seen if seen.pop("value") < 11}
    from datetime import UTC, datetime

    assert dict(member) == {
        "parent": None, "root": True, "depth": 0,
        "eta": datetime.fromtimestamp(sent + 60, UTC).isoformat(),
        "expires": datetime.fromtimestamp(sent + 600, UTC).isoformat(),
    }  # fmt: skip
    assert press.clock.time() < sent + 61


def test_what_is_too_large_for_a_message_is_kept_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says in how many; a worker that finds one gone fails what waits for the group."""
    monkeypatch.setattr(launching, "PART", 4096)
    press = Press(max_body=16 * 1024)
    canvas = chord([press.show.s(n) for n in range(500)], press.total.s().on_error(press.note.s()))
    result = canvas.apply_async()
    assert press.left() == 1
    press.work(limit=1000)
    assert result.get(timeout=0) == sum(range(500))

    result = canvas.apply_async()
    store = press.app.backend._store.rows
    parts = [part for part in store if part.startswith("part/") and store[part][0].data]
    assert len(parts) == 8
    press.app.backend.forget(parts[-1:])
    press.work(limit=1000)
    for each in (result, *result.parent.results):
        with pytest.raises(TaskError, match="a part of a canvas to be sent, is gone"):
            each.get(timeout=0)
    assert [letter.reason["reason"] for letter in press.dead()] == ["uncontinued"]


def test_nothing_is_sent_where_parts_cannot_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is out of reach in the middle is an error of the call."""
    press = Press(max_body=16 * 1024)
    monkeypatch.setattr(launching, "PART", 4096)
    write, written = press.app.backend.write, []

    def fail(writes: Any) -> Any:
        written.append(1)
        if len(written) == 3:
            raise OperationalError("out of reach")
        return write(writes)

    monkeypatch.setattr(press.app.backend, "write", fail)
    with pytest.raises(OperationalError, match="out of reach"):
        chord([press.show.s(n) for n in range(500)], press.total.s()).apply_async()
    assert press.left() == 0


def test_arguments_of_every_member_are_checked_first() -> None:
    """As they are where the producer sends the members."""
    press = Press()
    members = [press.show.s(n) for n in range(200)]
    members[150] = press.show.s()
    with pytest.raises(TypeError, match="missing 1 required"):
        group(members).apply_async()
    assert press.left() == 0


def test_arguments_that_only_pickle_takes_are_sent_by_the_producer() -> None:
    """They travel in messages of their own."""
    kinds = ["json", "pickle"]
    settings = {"task_serializer": "pickle", "result_serializer": "pickle", "result_accept_content": kinds}
    keys = f"k:{base64.b64encode(b'k' * 32).decode()}"
    press = Press(accept_content=kinds, signing_keys=keys, **settings)
    count = press.app.task(name="count")(len)
    result = chord([press.show.s(complex(1, n)) for n in range(20)], count.s()).apply_async()
    assert press.left() == 20
    press.work()
    assert result.get(timeout=0) == 20
