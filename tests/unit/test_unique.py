"""Keys of unique tasks: which calls are the same."""

import datetime
import decimal
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.exceptions import EncodeError, ImproperlyConfigured
from dispatcher.unique import Uniqueness, canonical
from tests.unit.bench import Bench


def rule_of(function: Callable[..., Any], unique: Any = True, **options: Any) -> Uniqueness:
    """Return the rule of a task made of a function."""
    app = Bench().app
    task = app.task(name="shop.t", unique=unique, **options)(function)
    app.finalize()
    rule = task._uniqueness
    assert rule is not None
    return rule


def some(x: int, y: int = 1, *rest: int, z: str = "z", **more: Any) -> None:
    """Take every kind of argument."""


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((1,), {}),
        ((), {"x": 1}),
        ((1, 1), {}),
        ((1,), {"y": 1}),
        ((), {"y": 1, "x": 1}),
        ((1,), {"z": "z"}),
        ((1, 1), {"z": "z"}),
    ],
)
def test_one_call_in_any_form_has_one_key(args: Any, kwargs: Any) -> None:
    """By position or by name, with a default left out or given."""
    rule = rule_of(some)
    assert rule.key_of(args, kwargs) == rule.key_of((1,), {})


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((2,), {}), ((1, 2), {}), ((1, 1, 1), {}), ((1,), {"z": "y"}), ((1,), {"other": 1}), (("1",), {}), ((True,), {})],
)
def test_other_calls_have_other_keys(args: Any, kwargs: Any) -> None:
    """Other values, other types, further arguments."""
    rule = rule_of(some)
    assert rule.key_of(args, kwargs) != rule.key_of((1,), {})


def test_keys_name_their_task() -> None:
    """The same arguments of another task are another key; the text is short enough for any store."""
    app = Bench().app
    tasks = [app.task(name=name, unique=lambda: "k")(lambda: None) for name in ("a", "b", "c" * 300)]
    app.finalize()
    keys = [task._uniqueness.key_of((), {}) for task in tasks if task._uniqueness is not None]
    assert [key.partition(":")[0] for key in keys] == ["a", "b", "c" * 200]
    assert len(set(keys)) == 3
    assert max(map(len, keys)) <= 233


def test_order_of_names_and_members_does_not_count() -> None:
    """Dicts and sets are compared by content, at any depth; lists and tuples are one, as they are once sent."""
    one = {"a": [1, {"p": 1, "q": (2, 3)}], "b": {"x", "y", "zz"}}
    other = {"b": {"zz", "y", "x"}, "a": (1, {"q": [2, 3], "p": 1})}
    assert canonical(one) == canonical(other)
    assert canonical([1, 2]) != canonical([2, 1])
    assert canonical({"a": 1}) != canonical([["a", 1]])


def test_typed_values_have_keys() -> None:
    """Whatever JSON messages carry can be compared."""
    values = [
        datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), decimal.Decimal("1.10"), decimal.Decimal("1.1"),
        uuid.UUID(int=5), b"x", "x", None, 1.5, 1,
    ]  # fmt: skip
    assert len({canonical(value) for value in values}) == len(values)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, VALUES)
def test_equal_texts_mean_equal_values(one: Any, other: Any) -> None:
    """No two values that differ have one text."""
    assert (canonical(one) == canonical(other)) == (repr_of(one) == repr_of(other))


def repr_of(value: Any) -> str:
    """Show a value with its dicts in order."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {repr_of(value[key])}" for key in sorted(value)) + "}"
    return "[" + ", ".join(map(repr_of, value)) + "]" if isinstance(value, list) else repr(value)


def test_a_function_gives_the_key() -> None:
    """It gets the task's arguments as they are, without the task, bound or not."""
    seen = []

    def key(*args: Any, **kwargs: Any) -> str:
        seen.append((args, kwargs))
        return "k"

    for options in ({}, {"bind": True}):
        rule = rule_of(lambda self, x=1: x, unique=key, **options)
        assert rule.key_of((1,), {"x": 2}) == rule.key_of((), {})
    assert seen == [((1,), {"x": 2}), ((), {})] * 2


def test_the_task_of_a_bound_function_is_no_argument() -> None:
    """``self`` is not part of what is compared."""
    rule = rule_of(lambda self, x, y=2: x, bind=True)
    assert rule.key_of((1,), {}) == rule.key_of((), {"x": 1, "y": 2})


@pytest.mark.parametrize(
    ("unique", "args", "words"),
    [
        (lambda x: x, (5,), "shop.t was not sent: its unique= function must return a text, not int"),
        (lambda x: None, (5,), "its unique= function must return a text, not NoneType"),
        (lambda x: x["id"], ({},), "its unique= function raised KeyError: 'id'"),
        (lambda: "k", (5,), "its unique= function raised TypeError"),
        (True, (object(),), "unique=True cannot compare its arguments"),
    ],
)
def test_a_key_that_cannot_be_told_is_an_error(unique: Any, args: Any, words: str) -> None:
    """The error names the task and what is wrong."""
    with pytest.raises(ImproperlyConfigured) as caught:
        rule_of(lambda x: x, unique=unique).key_of(args, {})
    assert words in str(caught.value)


def test_what_cannot_be_compared_is_no_text() -> None:
    """An object without a wire form has none here either."""
    with pytest.raises(EncodeError):
        canonical([object()])


def test_a_backend_of_this_process_is_refused_for_messages_of_others() -> None:
    """It would let every process claim for itself."""
    app = Bench(broker="redis://localhost/0", backend="memory://").app
    app.task(name="t", unique=True)(lambda: 1)
    with pytest.raises(ImproperlyConfigured, match=r"task t: unique cannot work with result_backend='memory://'"):
        app.finalize()
