"""Canvases written for Celery: what each comes to was observed with Celery 5.7 and a worker on Redis."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dispatcher import ResultSet, chain, chord, group, maybe_signature, signature
from dispatcher.canvas import Signature, StampingVisitor
from dispatcher.exceptions import Ignore
from dispatcher.result import GroupResult, result_from_tuple
from tests.unit.bench import Bench, Globals


class World(Bench):
    """A bench with the tasks that the programs are made of, and what was noted by them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.noted: list[Any] = []
        self.looks: list[dict[str, Any]] = []
        task = self.app.task
        self.add = task(name="add")(lambda *numbers: sum(numbers))
        self.total = task(name="total")(lambda numbers, *more: sum(numbers) + sum(more))
        self.echo = task(name="echo")(lambda *args, **kwargs: [*args, kwargs] if kwargs else list(args))
        self.fail = task(name="fail")(self._fail)
        self.keep = task(name="keep")(lambda *args: self.noted.append(list(args)))
        self.note = task(name="note")(lambda request, error, traceback: self.noted.append(type(error).__name__))
        self.who = task(name="who")(lambda request, error, traceback: self.noted.append((request.id, request.task)))
        self.old = task(name="old")(lambda task_id: self.noted.append(task_id))
        self.look = task(name="look", bind=True)(lambda task, *args: self._look(task, *args))
        self.look_again = task(name="look_again", bind=True)(lambda task, *args: self._look_again(task, *args))
        self.flaky = task(name="flaky", bind=True, max_retries=5)(lambda task, *args: self._flaky(task, *args))
        self.become = task(name="become", bind=True)(lambda task, kind: self._become(task, kind))
        self.stamps = task(name="stamps", bind=True)(lambda task, *args: self._stamps(task, *args))
        self.silent = task(name="silent", ignore_result=True)(lambda value: value)

    @staticmethod
    def _fail(*args: Any) -> None:
        raise ValueError("no")

    def _look(self, task: Any, *args: Any) -> Any:
        request = task.request
        self.looks.append({
            "name": args[-1], "id": request.id, "root": request.root_id, "parent": request.parent_id,
            "group": request.group, "index": request.group_index, "retries": request.retries,
            "priority": request.delivery_info["priority"], "queue": request.delivery_info["routing_key"],
            "tag": request.get("tag"), "expires": bool(request.expires), "eta": bool(request.eta),
            "limit": request.timelimit[0], "chain": bool(request.chain), "chord": bool(request.chord),
        })  # fmt: skip
        return args[-1]

    def _look_again(self, task: Any, *args: Any) -> Any:
        if not task.request.retries:
            raise task.retry(countdown=0)
        return self._look(task, *args)

    def _stamps(self, task: Any, *args: Any) -> dict[str, Any]:
        if args and not task.request.retries:
            raise task.retry(countdown=0)
        assert list(task.request.stamps) == (task.request.stamped_headers or [])
        self.noted.append(task.request.stamps)
        stamps: dict[str, Any] = task.request.stamps
        return stamps

    @staticmethod
    def _flaky(task: Any, *args: Any) -> int:
        if task.request.retries < 2:
            raise task.retry(countdown=0)
        retries: int = task.request.retries
        return retries

    def _become(self, task: Any, kind: str) -> None:
        raise task.replace({
            "task": lambda: self.echo.s("new"),
            "chain": lambda: self.echo.s("new") | self.echo.s(1),
            "group": lambda: group(self.add.s(1), self.add.s(2)),
            "chord": lambda: chord([self.add.s(1), self.add.s(2)], self.echo.s("inner")),
            "nested": lambda: self.become.s("chord"),
            "failing": lambda: self.fail.s(),
            "failing chord": lambda: chord([self.fail.s(), self.add.s(1)], self.echo.s()),
            "nothing": lambda: group(),
        }[kind]())  # fmt: skip

    def done(self) -> None:
        """Run all there is."""
        self.app.finalize()
        self.work(self.app.conf.task_default_queue, "other", "third")

    def send(self, canvas: Any, *args: Any, **options: Any) -> Any:
        """Send a canvas, run all, return its result."""
        result = canvas.apply_async(args, **options)
        self.done()
        return result

    def value(self, result: Any) -> Any:
        """Run all, return a result's value."""
        self.done()
        return result.get(timeout=0)


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    """Keep apps of one test from the next."""
    with Globals():
        yield


@pytest.fixture
def w() -> World:
    """A world."""
    return World()


Program = Callable[[World], Any]

VALUES: dict[str, tuple[Program, Any]] = {
    "chain": (lambda w: chain(w.add.s(2, 2), w.add.s(4), w.add.s(8)), 16),
    "immutable step": (lambda w: w.add.s(1, 1) | w.echo.si("x") | w.echo.s("y"), [["x"], "y"]),
    "chain of one": (lambda w: chain(w.add.s(1, 1)), 2),
    "generator of a chord": (lambda w: chord((w.add.s(n, n) for n in range(5)), w.total.s()), 20),
    "immutable body": (lambda w: chord([w.add.s(1, 1), w.add.s(2, 2)], w.echo.si("x")), ["x"]),
    "chord in a header": (
        lambda w: chord([chord([w.add.s(1, 1), w.add.s(2, 2)], w.total.s()), w.add.s(3, 3)], w.echo.s()), [[6, 6]]),
    "body is a chord": (
        lambda w: chord([w.add.s(1, 1), w.add.s(2, 2)], chord([w.total.s(1), w.total.s(2)], w.echo.s())), [[7, 8]]),
    "body is a group": (lambda w: chord([w.add.s(1, 1), w.add.s(2, 2)], group(w.total.s(1), w.total.s(2))), [7, 8]),
    "body is a chain": (lambda w: chord([w.add.s(1, 1), w.add.s(2, 2)], w.total.s() | w.add.s(1)), 7),
    "group | group": (
        lambda w: group(w.add.s(1, 1), w.add.s(2, 2)) | group(w.echo.s("a"), w.echo.s("b")),
        [[[2, 4], "a"], [[2, 4], "b"]]),
    "group | group | task": (
        lambda w: group(w.add.s(1, 1), w.add.s(2, 2)) | group(w.total.s(1), w.total.s(2)) | w.echo.s(), [[7, 8]]),
    "task | group | group | task": (
        lambda w: chain(w.add.s(1, 1), group(w.add.s(1), w.add.s(2)), group(w.total.s(1), w.total.s(2)), w.echo.s()),
        [[8, 9]]),
    "celery#5354": (
        lambda w: group(w.add.s(1, 1), w.add.s(1, 1)) | w.total.s() | w.add.s(1) | group(w.add.s(1), w.add.s(1)),
        [6, 6]),
    "celery#3379": (lambda w: w.add.s(5, 6) | group(w.add.s(1) | w.add.s(2), w.add.s(3)), [14, 14]),
    "group of chains": (lambda w: group(w.add.s(1, 1) | w.add.s(10), w.add.s(2, 2)) | w.echo.s(), [[12, 4]]),
    "group in a group": (
        lambda w: group(w.add.s(1, 1), group(w.add.s(2, 2), w.add.s(3, 3)), w.add.s(4, 4)), [2, 4, 6, 8]),
    "celery#3506": (
        lambda w: chain(
            w.echo.si(1), group(w.echo.si(2), chain(w.echo.si(3), group(w.echo.si(4), w.echo.si(5)), w.echo.si(6))),
            w.echo.s(7)),
        [[[2], [6]], 7]),
    "celery#3885": (
        lambda w: chord(
            [chord([w.echo.s(1), w.echo.s(2)], w.echo.si("c")), chord([w.echo.s(3)], w.echo.si("c"))], w.echo.s("d")),
        [[["c"], ["c"]], "d"]),
    "group of one | task": (lambda w: group(w.add.s(1, 1)) | w.echo.s(), [[2]]),
    "chord of one": (lambda w: chord([w.add.s(1, 1)], w.echo.s()), [[2]]),
    "header is a call": (lambda w: chord(w.add.s(1, 1), w.echo.s()), [[2]]),
    "empty group | task": (lambda w: group() | w.echo.s(), [[]]),
    "empty header": (lambda w: chord([], w.echo.s()), [[]]),
    "empty group": (lambda w: group(), []),
    "chord | task | task": (
        lambda w: chord([w.add.s(1, 1), w.add.s(2, 2)], w.total.s()) | w.add.s(1) | w.echo.s(), [7]),
    "chord | group": (
        lambda w: chord([w.add.s(1, 1), w.add.s(2, 2)], w.total.s()) | group(w.add.s(1), w.add.s(2)), [7, 8]),
    "chord | chord": (
        lambda w: chord([w.add.s(1, 1), w.add.s(2, 2)], w.total.s()) | chord([w.add.s(1), w.add.s(2)], w.echo.s()),
        [[7, 8]]),
    "chain | chord | task": (
        lambda w: chain(w.add.s(1, 1), w.add.s(1)) | chord([w.add.s(1), w.add.si(2, 2)], w.echo.s()) | w.echo.s("z"),
        [[[4, 4]], "z"]),
    "chunks": (lambda w: w.add.chunks([(n, n) for n in range(5)], 2).group() | w.echo.s(), [[[0, 2], [4, 6], [8]]]),
    "starmap": (lambda w: w.add.starmap([(1, 2), (3, 4)]) | w.total.s(), 10),
    "ignored results in a header": (lambda w: chord([w.silent.s(1), w.silent.s(2)], w.echo.s()), [[1, 2]]),
    "ignored result in a chain": (lambda w: chain(w.silent.s(1), w.echo.s()), [1]),
    "retried member": (lambda w: chord([w.flaky.s(), w.add.s(1, 1)], w.echo.s()), [[2, 2]]),
    "retried body": (lambda w: chord([w.add.s(1, 1), w.add.s(2, 2)], w.flaky.s()), 2),
    "retried step": (lambda w: chain(w.add.s(1, 1), w.flaky.s(), w.echo.s()), [2]),
    "replaced by a task": (lambda w: chain(w.become.s("task"), w.echo.s("next")), [["new"], "next"]),
    "replaced by a chain": (lambda w: chain(w.become.s("chain"), w.echo.s("next")), [[["new"], 1], "next"]),
    "replaced by a group": (lambda w: chain(w.become.s("group"), w.echo.s("next")), [[1, 2], "next"]),
    "replaced by a chord": (lambda w: chain(w.become.s("chord"), w.echo.s("next")), [[[1, 2], "inner"], "next"]),
    "replaced by nothing": (lambda w: w.become.s("nothing"), []),
    "replacement is replaced": (lambda w: chain(w.become.s("nested"), w.echo.s("next")), [[[1, 2], "inner"], "next"]),
    "member replaced by a group": (lambda w: group(w.become.s("group"), w.echo.s(1)), [[1, 2], [1]]),
    "member replaced by a chord": (
        lambda w: chord([w.become.s("chord"), w.echo.s(1)], w.echo.s("body")), [[[[1, 2], "inner"], [1]], "body"]),
    "body replaced by a group": (lambda w: chord([w.add.s(1, 1)], w.become.si("group")), [1, 2]),
    "changed parts": (lambda w: _changed(chord([w.add.s(1)], w.echo.s()), w), [[10], "new"]),
    "|=": (lambda w: _grown(w.add.s(1, 1), w.add.s(2), w.add.s(3)), 7),
    "Celery's JSON": (
        lambda w: signature({
            "task": "celery.chord", "args": [], "options": {}, "subtask_type": "chord", "immutable": False,
            "kwargs": {"kwargs": {}, "header": [dict(w.add.s(1, 2)), dict(w.add.s(1, 2))], "body": dict(w.echo.s())},
        }), [[3, 3]]),
}  # fmt: skip


def _changed(canvas: Any, w: World) -> Any:
    canvas.body = w.echo.s("new")
    canvas.tasks = group(w.add.s(5, 5))
    return canvas


def _grown(sig: Any, *others: Any) -> Any:
    for other in others:
        sig |= other
    return sig


@pytest.mark.parametrize("name", VALUES)
def test_values(w: World, name: str) -> None:
    """What a canvas comes to; as JSON and back it comes to the same."""
    make, wanted = VALUES[name]
    assert w.value(make(w).apply_async()) == wanted
    again = maybe_signature(json.loads(json.dumps(make(w).__json__())), w.app)
    assert w.value(again.apply_async()) == wanted


@pytest.mark.parametrize("name", VALUES)
def test_eager_values(name: str) -> None:
    """In this process it comes to the same."""
    make, wanted = VALUES[name]
    assert make(World(task_always_eager=True)).delay().get() == wanted


CALLS: dict[str, tuple[Program, Any]] = {
    "chain(args)": (lambda w: (w.add.s(4) | w.add.s(8))(16), 28),
    "chain(kwargs)": (lambda w: chain(w.echo.s(1, k=1, j=2))(k=5), [1, {"k": 5, "j": 2}]),
    "chain.delay(args)": (lambda w: chain(w.add.s(n) for n in range(4)).delay(10), 16),
    "keywords of a chain": (lambda w: chain(w.echo.s(1), w.echo.s()).apply_async((), {"k": 5}), [[1, {"k": 5}]]),
    "group(args)": (lambda w: group(w.add.s(1), w.add.s(2))(10), [11, 12]),
    "keywords of a group": (
        lambda w: group(w.echo.s(1, k=1), w.echo.si(2)).apply_async((), {"k": 5}), [[1, {"k": 5}], [2]]),
    "chord(body)": (lambda w: chord([w.add.s(1, 1), w.add.s(2, 2)])(w.total.s()), 6),
    "keywords of a chord": (
        lambda w: chord([w.echo.s(1), w.echo.s(2)], w.echo.s()).apply_async((), {"k": 5}),
        [[[1, {"k": 5}], [2, {"k": 5}]]]),
    "arguments of a chord": (
        lambda w: chord([w.echo.s(1), w.echo.s(2)], w.echo.s("b")).apply_async((10,)), [[[10, 1], [10, 2]], "b"]),
    "body among the keywords": (lambda w: chord([w.add.s(1, 1)]).apply_async(kwargs={"body": w.echo.s()}), [[2]]),
    "keywords of a call": (
        lambda w: w.echo.s(1, k=1).apply_async((0,), {"k": 2, "j": 3}), [0, 1, {"k": 2, "j": 3}]),
    "immutable group": (lambda w: (w.add.s(1, 1) | _fixed(group(w.echo.s(1), w.echo.s(2)))).delay(), [[1], [2]]),
    "immutable chord": (
        lambda w: chain(w.add.s(1, 1), _fixed(chord([w.echo.s(1), w.echo.s(2)], w.echo.s()))).delay(), [[[1], [2]]]),
    "immutable chain": (lambda w: _fixed(chain(w.echo.s(1), w.echo.s(2))).delay(9), [[1], 2]),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_eager_arguments(name: str) -> None:
    """In this process they go there too."""
    call, wanted = CALLS[name]
    assert call(World(task_always_eager=True)).get() == wanted


def _fixed(canvas: Any) -> Any:
    canvas.set_immutable(True)
    return canvas


@pytest.mark.parametrize("name", CALLS)
def test_arguments(w: World, name: str) -> None:
    """Where the arguments of a call go."""
    call, wanted = CALLS[name]
    assert w.value(call(w)) == wanted


LOOKS: dict[str, tuple[Program, dict[str, Any], str, dict[str, Any]]] = {
    "chain": (lambda w: chain(w.look.s("a"), w.look.s("b")), {"priority": 5}, "priority", {"a": 5, "b": None}),
    "chain's own": (
        lambda w: chain(w.look.s("a"), w.look.s("b")).set(queue="other"), {}, "queue", {"a": "other", "b": "default"}),
    "group": (
        lambda w: group(w.look.s("a"), w.look.s("b").set(priority=2)), {"priority": 5}, "priority", {"a": 5, "b": 5}),
    "group's own": (lambda w: group([w.look.s("a"), w.look.s("b")], priority=5), {}, "priority", {"a": 5, "b": 5}),
    "chord": (
        lambda w: chord([w.look.s("a")], w.look.s("body").set(priority=2)), {"priority": 5}, "priority",
        {"a": 5, "body": 5}),
    "chord's own": (
        lambda w: chord([w.look.s("a")], w.look.s("body")).set(queue="other"), {}, "queue",
        {"a": "other", "body": "other"}),
    "chord whose body is a chain": (
        lambda w: chord([w.look.s("a")], w.look.s("body") | w.look.s("end")), {"priority": 5}, "priority",
        {"a": 5, "body": 5, "end": None}),
    "chain that starts with a group": (
        lambda w: chain(group(w.look.s("a")), w.look.s("b")), {"queue": "other"}, "queue",
        {"a": "other", "b": "other"}),
    "chain with a group": (
        lambda w: chain(w.look.s("a"), group(w.look.s("b"), w.look.s("c")), w.look.s("d")), {"priority": 5}, "priority",
        {"a": 5, "b": None, "c": None, "d": None}),
    "chain in a group": (
        lambda w: group(w.look.s("a") | w.look.s("b"), w.look.s("c")), {"priority": 5}, "priority",
        {"a": 5, "b": None, "c": 5}),
    "headers of a chord": (
        lambda w: chord([w.look.s("a")], w.look.s("b")), {"headers": {"tag": "t"}}, "tag", {"a": "t", "b": "t"}),
    "headers are not merged": (
        lambda w: w.look.s("a").set(headers={"tag": "own"}), {"headers": {"other": "t"}}, "tag", {"a": None}),
    "expires of a chain": (
        lambda w: chain(w.look.s("a"), w.look.s("b")), {"expires": 100}, "expires", {"a": True, "b": False}),
    "expires of a chord": (
        lambda w: chord([w.look.s("a")], w.look.s("b")), {"expires": 100}, "expires", {"a": True, "b": True}),
    "time limit of a chord": (
        lambda w: chord([w.look.s("a")], w.look.s("b")), {"time_limit": 100}, "limit", {"a": 100, "b": 100}),
    "countdown of a chord": (
        lambda w: chord([w.look.s("a")], w.look.s("b")), {"countdown": 1}, "eta", {"a": True, "b": False}),
    "countdown of a body": (
        lambda w: chord([w.look.s("a")], w.look.s("b").set(countdown=1)), {}, "eta", {"a": False, "b": True}),
    "link": (lambda w: w.look.s("a").set(link=[w.look.s("b")]), {"priority": 5}, "priority", {"a": 5, "b": None}),
    "place of members": (lambda w: group(w.look.s("a"), w.look.s("b")) | w.look.s("c"), {}, "index",
                         {"a": 0, "b": 1, "c": None}),
    "members know their chord": (
        lambda w: group(w.look.s("a"), w.look.s("b")) | w.look.s("c"), {}, "chord", {"a": True, "b": True, "c": False}),
    "steps know their chain": (lambda w: w.look.s("a") | w.look.s("b"), {}, "chain", {"a": True, "b": False}),
    "retried members keep their place": (
        lambda w: group(w.look_again.s("a"), w.look_again.s("b")), {}, "index", {"a": 0, "b": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOKS)
def test_options(w: World, name: str) -> None:
    """Which tasks of a canvas get the options of its call, or of its own."""
    make, options, field, wanted = LOOKS[name]
    w.send(make(w), **options)
    assert {look["name"]: look[field] for look in w.looks} == wanted


def test_inherited_priority() -> None:
    """With ``task_inherit_parent_priority`` what follows is as urgent as what it follows."""
    w = World(task_inherit_parent_priority=True)
    w.send(chain(w.look.s("a").set(priority=5), group(w.look.s("b"), w.look.s("c")), w.look.s("d")))
    w.send(w.look.s("e").set(priority=5, link=[w.look.s("f")]))
    assert {look["name"]: look["priority"] for look in w.looks} == dict.fromkeys("abcdef", 5)


LINKS: dict[str, tuple[Program, Any, list[Any]]] = {
    "link of a call": (
        lambda w: w.add.s(1, 1), lambda w: {"link": [w.keep.s("a"), w.keep.s("b")]}, [[2, "a"], [2, "b"]]),
    "link of a chain": (lambda w: chain(w.add.s(1, 1), w.add.s(1)), lambda w: {"link": w.keep.s("l")}, [[3, "l"]]),
    "link of a chord": (lambda w: chord([w.add.s(1, 1)], w.total.s()), lambda w: {"link": w.keep.s("l")}, [[2, "l"]]),
    "link instead of its own": (
        lambda w: _linked(chain(w.add.s(1, 1), w.add.s(1)), w), lambda w: {"link": w.keep.s("call")}, [[3, "call"]]),
    "link beside the step's": (
        lambda w: w.add.s(1, 1) | w.add.s(1).set(link=[w.keep.s("own")]), lambda w: {"link": w.keep.s("call")},
        [[3, "call"], [3, "own"]]),
    "link beside the body's": (
        lambda w: _linked(chord([w.add.s(1, 1)], w.total.s()), w), lambda w: {"link": w.keep.s("call")},
        [[2, "call"], [2, "own"]]),
    "chain.link()": (lambda w: _linked(chain(w.add.s(1, 1), w.add.s(1)), w), None, [[3, "own"]]),
    "chord.link()": (lambda w: _linked(chord([w.add.s(1, 1)], w.total.s()), w), None, [[2, "own"]]),
    "group.link()": (lambda w: _linked(group(w.add.s(1, 1), w.add.s(2, 2)), w), None, [["own"]]),
    "chain as a link": (lambda w: w.add.s(1, 1), lambda w: {"link": w.add.s(1) | w.keep.s("l")}, [[3, "l"]]),
    "group as a link": (
        lambda w: w.add.s(1, 1), lambda w: {"link": group(w.keep.s("a"), w.keep.s("b"))}, [[2, "a"], [2, "b"]]),
    "chord as a link": (
        lambda w: w.add.s(1, 1), lambda w: {"link": chord([w.add.s(1), w.add.s(2)], w.keep.s("l"))}, [[[3, 4], "l"]]),
    "link in a chain": (
        lambda w: chain(_linked(w.add.s(1, 1), w), w.add.s(5), w.keep.s("end")), None, [[2, "own"], [7, "end"]]),
    "link in a header": (
        lambda w: chord([_linked(w.add.s(1, 1), w), w.add.s(2, 2)], w.keep.s("body")), None,
        [[2, "own"], [[2, 4], "body"]]),
    "links of a task that is replaced": (
        lambda w: w.become.s("chain"), lambda w: {"link": w.keep.s("l")}, [[[["new"], 1], "l"]]),
    "errback with arguments": (lambda w: w.fail.s().on_error(w.keep.si("called")), None, [["called"]]),
    "errback of a call": (lambda w: w.fail.s().on_error(w.note.s()), None, ["ValueError"]),
    "errback of the first step": (lambda w: chain(w.fail.s(), w.add.s(1)).on_error(w.note.s()), None, ["ValueError"]),
    "errback of a chain's call": (
        lambda w: chain(w.add.s(1, 1), w.fail.s(), w.add.s(1)), lambda w: {"link_error": w.note.s()}, ["ValueError"]),
    "errback of a joined chain": (
        lambda w: chain(w.add.s(1, 1)) | chain(w.fail.s(), w.add.s(1)).on_error(w.note.s()), None, ["ValueError"]),
    "errback of the other chain": (
        lambda w: chain(w.add.s(1, 1), w.add.s(1)).on_error(w.note.s()) | w.fail.s(), None, []),
    "errback of a body": (
        lambda w: chord([w.fail.s(), w.fail.s()], w.total.s().on_error(w.note.s())), None, ["ChordError"]),
    "errback of a chord": (
        lambda w: chord([w.fail.s(), w.add.s(1)], w.total.s()).on_error(w.note.s()), None, ["ChordError"]),
    "errback of a chord's call": (
        lambda w: chord([w.fail.s(), w.add.s(1)], w.total.s()), lambda w: {"link_error": w.note.s()}, ["ChordError"]),
    "errback of a member": (
        lambda w: chord([w.fail.s().on_error(w.note.s()), w.add.s(1)], w.total.s()), None, ["ValueError"]),
    "errback of a failing body": (lambda w: chord([w.add.s(1)], w.fail.s().on_error(w.note.s())), None, ["ValueError"]),
    "errback of a group": (
        lambda w: group(w.fail.s(1), w.fail.s(2), w.add.s(1)).on_error(w.note.s()), None, ["ValueError"] * 2),
    "errback of a header": (
        lambda w: group(w.fail.s(1), w.fail.s(2)).on_error(w.note.s()) | w.total.s(), None, ["ValueError"] * 2),
    "errback of a chain with a group": (
        lambda w: chain(w.add.s(1), group(w.fail.s(), w.fail.s()), w.total.s(), w.add.s(1)).on_error(w.note.s()), None,
        ["ChordError"]),
    "errback after a chord": (
        lambda w: (group(w.add.s(1), w.add.s(1)) | w.total.s() | w.fail.s()).on_error(w.note.s()), None,
        ["ValueError"]),
    "failing chain in a header": (
        lambda w: chord([chain(w.fail.s(), w.add.s(1)), w.add.s(1)], w.total.s().on_error(w.note.s())), None,
        ["ChordError"]),
    "celery#6441": (
        lambda w: chain(w.add.s(1), w.become.si("failing")).on_error(w.note.s()), None, ["ValueError"]),
    "failing chord in a task's place": (
        lambda w: w.become.s("failing chord"), lambda w: {"link_error": w.note.s()}, ["ChordError"]),
}  # fmt: skip


def _linked(canvas: Any, w: World) -> Any:
    canvas.link(w.keep.s("own"))
    return canvas


@pytest.mark.parametrize("name", LINKS)
def test_links(w: World, name: str) -> None:
    """Which callbacks and error callbacks are called, and with what."""
    make, options, wanted = LINKS[name]
    w.send(make(w), **(options(w) if options is not None else {}))
    assert sorted(w.noted, key=str) == wanted


@pytest.mark.parametrize("name", LINKS)
def test_eager_links(name: str) -> None:
    """In this process the same are called, also where Celery raises instead."""
    make, options, wanted = LINKS[name]
    w = World(task_always_eager=True)
    make(w).apply_async(**(options(w) if options is not None else {}))
    assert sorted(w.noted, key=str) == wanted


def test_options_of_later_steps_are_checked_first(w: World) -> None:
    """What could never be sent is an error of whoever sends the canvas, and nothing is sent."""
    wrong = w.add.s(1).set(countdwn=3)
    behind, within = group(w.add.s(1), w.add.s(1) | wrong), [w.add.s(1) | wrong]
    for canvas in (w.add.s(1) | wrong, w.add.s(1) | behind, chord([w.add.s(1)], wrong), chord(within, w.total.s())):
        with pytest.raises(TypeError, match="did you mean 'countdown'"):
            canvas.apply_async()
    assert w.left() == 0


def test_what_an_error_callback_of_a_chord_is_told(w: World) -> None:
    """The request, or the id of old-style callbacks, is the body's."""
    result = w.send(chord([w.fail.s(1), w.add.s(1)], w.total.s(7).on_error(w.who.s()).on_error(w.old.s())))
    assert w.noted == [(result.id, "total"), result.id]


def test_a_canvas_is_not_sent_as_a_call(w: World) -> None:
    """Nobody could run its message: among many calls, and by its name, it is refused before anything is sent."""
    for canvas in (chain(w.add.s(1)), group(w.add.s(1)), chord([w.add.s(1)], w.total.s())):
        with pytest.raises(TypeError, match="is no task but a canvas: send it by its own apply_async"):
            w.app.send_many([w.add.s(1, 1), canvas])
        with pytest.raises(TypeError, match="is no task but a canvas"):
            w.app.send_task(canvas.task)
    assert not w.left()


def test_a_group_has_no_result_to_call_back_with(w: World) -> None:
    """``link=`` of a group is refused, as by Celery."""
    with pytest.raises(TypeError, match=r"use group \| callback"):
        group(w.add.s(1), w.add.s(2)).apply_async(link=w.keep.s())


def test_lineage(w: World) -> None:
    """Root, parent and group; a body's parent is the task before its group, in Celery the member that ended last."""
    result = w.send(chain(w.look.s("a"), group(w.look.s("b"), w.look.s("c")), w.look.s("d"), w.look.s("e")))
    names = {look["id"]: look["name"] for look in w.looks}
    assert {look["name"]: (names[look["root"]], names.get(look["parent"])) for look in w.looks} == {
        "a": ("a", None), "b": ("a", "a"), "c": ("a", "a"), "d": ("a", "a"), "e": ("a", "d")
    }  # fmt: skip
    group_id = result.parent.parent.id
    assert [look["group"] for look in w.looks] == [None, group_id, group_id, group_id, None]


# Signatures


def test_what_follows_cannot_be_changed_by_a_task(w: World) -> None:
    """In Celery ``self.request.chain = None`` ends a chain and leaves those who wait for it waiting."""

    def stop(task: Any, how: str) -> None:
        if how == "ignore":
            raise Ignore
        setattr(task.request, how, None)

    stopping = w.app.task(name="stop", bind=True)(stop)
    for how in ("chain", "callbacks"):
        with pytest.raises(AttributeError, match=r"raise Ignore\(\) to end a chain here"):
            w.send(stopping.s(how) | w.keep.s()).get(timeout=0)
    assert (w.send(stopping.s("ignore") | w.keep.s()).state, w.noted) == ("FAILURE", [])


def test_structure(w: World) -> None:
    """Types, lengths and the order of operators."""
    a, b, c, d = (w.add.s(n) for n in range(4))
    g = group(a, b)
    assert [len(each.tasks) for each in ((a | b) | c, a | (b | c), (a | b) | (c | d), chain(chain(a, b), c))] == [
        3, 3, 4, 3
    ]  # fmt: skip
    made = (a | b, a | g, g | a, g | g, g | a | b, a | g | b, chord([a], b) | a, (a | b) | chord([a], b))
    assert [type(each).__name__ for each in made] == [
        "chain", "chain", "chord", "chord", "chord", "chain", "chord", "chain"
    ]  # fmt: skip
    assert chain().apply_async() is None


def test_attributes_can_be_set(w: World) -> None:
    """A signature's parts, and a chain's steps."""
    sig = w.add.s(1)
    sig.args, sig.kwargs, sig.options, sig.immutable, sig.task = (5, 6), {"k": 1}, {"countdown": 0}, True, "echo"
    assert sig == {
        "task": "echo", "args": (5, 6), "kwargs": {"k": 1}, "options": {"countdown": 0}, "subtask_type": None,
        "immutable": True,
    }  # fmt: skip
    steps = chain(w.add.s(1, 1), w.add.s(1))
    steps.tasks = [w.add.s(5, 5), w.add.s(5)]
    steps.tasks.append(w.add.s(100))
    assert w.value(steps.delay()) == 115
    assert ~World(task_always_eager=True).add.s(1, 1) == 2


def test_unchained_tasks_have_the_chain_s_links(w: World) -> None:
    """The last has its callbacks, all have its error callbacks; the chain's own steps are not touched."""
    steps = chain(w.add.s(1, 1), w.add.s(2))
    steps.link(w.echo.s())
    steps.link_error(w.old.s())
    assert [sorted(task.options) for task in steps.unchain_tasks()] == [["link_error"], ["link", "link_error"]]
    assert [task.options for task in steps.tasks] == [{}, {}]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [({}, [1, 2, 3, 4, 5]), ({"start": 0.5, "stop": 1.5, "step": 0.5}, [0.5, 1, 1.5, 1.5, 1.5])],
)
def test_skew(w: World, arguments: dict[str, float], wanted: list[float]) -> None:
    """The countdown grows up to the stop, and stays there."""
    assert [task.options["countdown"] for task in group(w.add.s(n) for n in range(5)).skew(**arguments).tasks] == wanted


class _Steps(StampingVisitor):
    """Stamps calls with their names, and what they are in with what that is."""

    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        """Return the name."""
        return {"name": sig.task}

    def on_group_start(self, group: Any, **headers: Any) -> dict[str, Any]:
        """Return a stamp that counts, and one that does not."""
        return {"group": "g", "other": 1, "stamped_headers": ["group"]}

    def on_chain_start(self, chain: Any, **headers: Any) -> dict[str, Any]:
        """Return a stamp."""
        return {"chain": "c"}

    def on_chord_body(self, sig: Any, **headers: Any) -> dict[str, Any]:
        """Return a stamp."""
        return {"body": "b"}

    def on_callback(self, callback: Any, **headers: Any) -> dict[str, Any]:
        """Return a stamp."""
        return {"callback": 1}

    def on_errback(self, errback: Any, **headers: Any) -> dict[str, Any]:
        """Return a stamp."""
        return {"errback": 1}


def _stamped(canvas: Any, *args: Any, **kwargs: Any) -> Any:
    canvas.stamp(*args, **kwargs)
    return canvas


STAMPS: dict[str, tuple[Program, Any]] = {
    "call": (lambda w: _stamped(w.stamps.s(), x=1, y=[1, 2]), {"x": 1, "y": [1, 2]}),
    "none": (lambda w: w.stamps.s(), {}),
    "newest": (lambda w: _stamped(_stamped(w.stamps.s(), x=1), x=2), {"x": 2}),
    "appended": (lambda w: _stamped(_stamped(w.stamps.s(), x=1), append_stamps=True, x=2), {"x": [2, 1]}),
    "named": (lambda w: _stamped(w.stamps.s(), x=1, y=2, stamped_headers=["x"]), {"x": 1}),
    "chain": (lambda w: _stamped(chain(w.stamps.si(), w.stamps.si()), x=1), {"x": 1}),
    "group": (lambda w: _stamped(group(w.stamps.si(), w.stamps.si()), x=1), [{"x": 1}, {"x": 1}]),
    "chord": (lambda w: _stamped(chord([w.stamps.si()], w.echo.s()), x=1), [[{"x": 1}]]),
    "body": (lambda w: _stamped(chord([w.stamps.si()], w.stamps.si()), x=1), {"x": 1}),
    "visitor": (lambda w: _stamped(w.stamps.s(), _Steps(), x=1), {"x": 1, "name": "stamps"}),
    "visitor of a chain that ends in a group": (
        lambda w: _stamped(chain(w.add.s(1), group(w.stamps.si())), _Steps()),
        [{"chain": "c", "group": "g", "name": "stamps"}]),
    "visitor of a chord": (
        lambda w: _stamped(chord([w.stamps.si()], w.stamps.si()), _Steps()),
        {"group": "g", "body": "b", "name": "stamps"}),
    "retry": (lambda w: _stamped(w.stamps.s(1), x=1), {"x": 1}),
    "dict": (lambda w: Signature.from_dict(json.loads(json.dumps(_stamped(chain(w.stamps.s()), x=1)))), {"x": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", STAMPS)
def test_stamps(w: World, name: str) -> None:
    """Each call has those of itself and of what it is in, in workers and in eager mode."""
    program, wanted = STAMPS[name]
    assert w.value(program(w).apply_async()) == wanted
    assert program(w).apply().get() == wanted


def test_callbacks_have_stamps(w: World) -> None:
    """Those of what they are linked to, and those of the visitor for them; not what a task sends by itself."""
    for sig in (w.add.s(1, 1).set(link=w.stamps.si()), w.fail.s().set(link_error=[w.stamps.si()])):
        _stamped(sig, _Steps(), x=1).apply_async()
    w.done()
    assert w.noted == [{"x": 1, "callback": 1, "name": "stamps"}, {"x": 1, "errback": 1, "name": "stamps"}]


def test_stamps_are_options_by_their_names(w: World) -> None:
    """As in Celery; one that is named like another option is refused."""
    assert _stamped(w.stamps.s(), x=1).options == {"x": 1, "stamped_headers": ["x"]}
    assert w.value(w.stamps.apply_async(stamped_headers=["x"], x=7)) == {"x": 7}
    with pytest.raises(TypeError, match="a stamp cannot be named 'queue'"):
        _stamped(w.stamps.s(), queue="q").apply_async()


# Results


def test_results(w: World) -> None:
    """Parents, tuples and lists lead through a chain; collect and get_leaf follow the children."""
    result = w.send(chain(w.add.s(1, 1), group(w.add.s(1), w.add.s(2)), w.total.s(), w.add.s(1)))
    kinds = []
    each = result
    while each is not None:
        kinds.append((type(each).__name__, each.get()))
        each = each.parent
    assert kinds == [("AsyncResult", 8), ("AsyncResult", 7), ("GroupResult", [3, 4]), ("AsyncResult", 2)]
    result = w.send(chain(w.add.s(1, 1), w.add.s(1), w.add.s(1)))
    assert result.as_list() == [result.id, result.parent.id, result.parent.parent.id]
    assert result_from_tuple(result.as_tuple(), w.app) == result
    first = result.parent.parent
    assert ([value for _, value in first.collect()], first.get_leaf(), len(list(first.graph))) == ([2, 3, 4], 4, 3)


def test_group_results(w: World) -> None:
    """Results of nested groups are in line, so that progress is a part of the whole."""
    result = w.send(
        group(w.add.s(1, 1), group(w.add.s(2, 2), w.add.s(3, 3)), w.add.s(1) | group(w.add.s(1), w.add.s(2)))
    )
    assert (len(result), result.completed_count(), result.get()) == (5, 5, [2, 4, 6, 2, 3])
    assert [child.get() for child in result.children] == [2, 4, 6, 2, 3]
    assert result[4].parent.get() == 1
    assert (result.as_tuple()[1][0], result.join(), result.join_native()) == (
        ((result[0].id, None), None),
        *[result.get()] * 2,
    )
    assert sorted(meta["result"] for _, meta in result.iter_native()) == [2, 2, 3, 4, 6]
    result.save()
    assert GroupResult.restore(result.id, app=w.app) == result
    assert isinstance(result, ResultSet)
    assert len(w.send(w.add.s(1) | group(w.add.s(1), group(w.add.s(1), w.add.s(2)))).parent.children[0]) == 3


# What differs, on purpose: the program, what it comes to in Celery, and here.

DIFFERENCES: dict[str, tuple[Program, Any, Any]] = {
    "group of one in a chain": (lambda w: chain(w.add.s(1, 1), group(w.add.s(2)), w.echo.s()), [4], [[4]]),
    "empty group in a chain": (lambda w: chain(w.add.s(1, 1), group(), w.echo.s()), [2], [[]]),
    "group in a header": (
        lambda w: chord(group(w.add.s(1, 1), group(w.add.s(2, 2), w.add.s(3, 3)), w.add.s(4, 4)), w.echo.s()),
        [[2, 6, 4, 8]], [[2, 4, 6, 8]]),
    "chain that ends in a group": (
        lambda w: chord([w.add.s(1, 1) | group(w.add.s(1), w.add.s(2)), w.add.s(9, 9)], w.echo.s()),
        [[[3, 4], 18]], [[3, 4, 18]]),
    "chain as a header": (lambda w: chord(chain(w.add.s(1, 1), w.add.s(2, 2)), w.echo.s()), [[2, 4]], [[6]]),
    "arguments of a cloned group": (
        lambda w: group(w.echo.s(1), w.echo.s(2)).clone((7,)), [[1], [2]], [[7, 1], [7, 2]]),
    "immutable chain in a group": (
        lambda w: w.add.s(1, 1) | group(_fixed(chain(w.echo.s(1), w.echo.s(2)))), [[[2, 1], 2]], [[[1], 2]]),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENCES)
def test_differences(w: World, name: str) -> None:
    """What docs/migrating-from-celery.md lists as different."""
    make, theirs, ours = DIFFERENCES[name]
    assert w.value(make(w).apply_async()) == ours != theirs
