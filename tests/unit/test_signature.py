"""Signatures: calls as values."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher import Signature, maybe_signature, signature
from dispatcher.exceptions import NotRegistered
from tests.unit.bench import Bench, Globals


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    """Keep apps of one test from the next."""
    with Globals():
        yield


@pytest.fixture
def bench() -> Bench:
    """An app with a task ``add``."""
    made = Bench()
    made.app.task(name="add")(lambda *args, **kwargs: [list(args), kwargs])
    return made


def test_signature_is_celery_s_dict(bench: Bench) -> None:
    """The keys are Celery's, and so are the ways to make one."""
    add = bench.app.tasks["add"]
    wanted = {
        "task": "add", "args": (1,), "kwargs": {"x": 2}, "options": {"queue": "q"}, "subtask_type": None,
        "immutable": False,
    }  # fmt: skip
    made = [
        add.signature((1,), {"x": 2}, queue="q"),
        add.subtask((1,), {"x": 2}, {"queue": "q"}),
        add.s(1, x=2).set(queue="q"),
        signature("add", args=(1,), kwargs={"x": 2}, queue="q"),
        bench.app.signature("add", (1,), {"x": 2}, queue="q"),
        signature(wanted),
        maybe_signature(json.loads(json.dumps(wanted))),
        Signature(add, (1,), {"x": 2}, {"queue": "q"}),
    ]
    assert made == [wanted] * len(made)
    assert (made[0].task, made[0].name, made[0].args, made[0].kwargs, made[0].options) == (
        "add", "add", (1,), {"x": 2}, {"queue": "q"}
    )  # fmt: skip
    assert repr(made[0]) == "add(1, x=2)"
    assert made[0].reprcall(0) == "add(0, 1, x=2)"
    assert maybe_signature(None) is None


@pytest.mark.parametrize("wrong", [5, None, object()])
def test_what_is_no_call_is_refused(wrong: Any) -> None:
    """A signature needs a task or its name."""
    with pytest.raises(TypeError, match="needs a task or a task's name"):
        signature(wrong)


def test_text_as_arguments_is_refused() -> None:
    """A text is not a list of arguments."""
    with pytest.raises(TypeError, match="must be a list or tuple, not a text"):
        signature("add", args="ab")
    with pytest.raises(TypeError, match="a signature or its dict form is needed, not 5"):
        maybe_signature(5)


def test_later_arguments_come_first(bench: Bench) -> None:
    """Arguments given when it is called are put before its own, keywords and options over them; not if immutable."""
    add = bench.app.tasks["add"]
    results = [
        add.s(1, x=1).delay(0, x=2),
        add.s(1).apply_async((0,), {"y": 3}, queue="default"),
        add.s(1).clone((0,), {"y": 3}).delay(),
        add.si(1, x=1).delay(0, x=2),
        add.s(1).set(immutable=True).delay(5),
    ]
    bench.work()
    assert [result.get() for result in results] == [
        [[0, 1], {"x": 2}], [[0, 1], {"y": 3}], [[0, 1], {"y": 3}], [[1], {"x": 1}], [[1], {}],
    ]  # fmt: skip
    assert add.s(1)(0) == [[0, 1], {}]
    assert add.s(1).apply((0,)).get() == [[0, 1], {}]


def test_copies_are_independent(bench: Bench) -> None:
    """A clone's options and links are its own; `replace` changes parts."""
    sig = bench.app.tasks["add"].s(1)
    sig.link(bench.app.tasks["add"].s(2))
    copy = sig.clone()
    copy.link(bench.app.tasks["add"].s(3))
    copy.set(queue="q")
    assert (len(sig.options["link"]), "queue" in sig.options) == (1, False)
    replaced = sig.replace(args=(9,), kwargs={"k": 1}, options={"queue": "z"})
    assert (replaced.args, replaced.kwargs, replaced.options, sig.args) == ((9,), {"k": 1}, {"queue": "z"}, (1,))
    assert [each.args for each in copy.flatten_links()] == [(1,), (2,), (3,)]


def test_links_are_added_once(bench: Bench) -> None:
    """Linking the same call twice is linking it once; `on_error` returns the signature itself."""
    sig, other = bench.app.tasks["add"].s(1), bench.app.tasks["add"].s(2)
    assert sig.link(other) is other
    sig.link(bench.app.tasks["add"].s(2))
    assert sig.on_error(other) is sig
    assert (len(sig.options["link"]), len(sig.options["link_error"])) == (1, 1)


def test_frozen_signature_has_its_id(bench: Bench) -> None:
    """`freeze` fixes the id once, and returns the result to come."""
    sig = bench.app.tasks["add"].s(1)
    result = sig.freeze()
    assert sig.id == result.id == sig.freeze().id
    sig.delay()
    bench.work()
    assert result.get() == [[1], {}]
    assert bench.app.tasks["add"].s().freeze("mine").id == "mine"


def test_unknown_task_is_sent_by_name(bench: Bench) -> None:
    """A signature of a task this process does not know can be sent, not run here."""
    sig = bench.app.signature("elsewhere", (1,), queue="q")
    sig.delay()
    assert bench.left("q") == 1
    with pytest.raises(NotRegistered):
        sig.type  # noqa: B018


def test_the_operator_takes_signatures_only(bench: Bench) -> None:
    """Anything else after ``|`` is Python's own error."""
    with pytest.raises(TypeError, match="unsupported operand"):
        bench.app.tasks["add"].s(1) | 5
