"""What is current: frames, apps and the proxies that stand for them."""

import pickle
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import pytest

from dispatcher import Dispatcher, current_app, current_task, state
from dispatcher.exceptions import ImproperlyConfigured
from tests.unit.bench import Globals


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    """Keep apps of one test from the next."""
    with Globals():
        yield


def test_frames_nest_and_are_found_by_task() -> None:
    """The innermost request of a task is found, whoever runs above it."""
    outer = state.push_frame("a", 1)
    inner = state.push_frame("b", 2)
    again = state.push_frame("a", 3)
    assert (state.request_of("a"), state.request_of("b"), state.request_of("c")) == (3, 2, None)
    state.pop_frame(again)
    assert (state.request_of("a"), current_task._get_current_object()) == (1, "b")
    state.pop_frame(inner)
    state.pop_frame(outer)
    assert state.current_frame() is None


def test_frames_belong_to_their_context() -> None:
    """What a context makes current is not current in another."""
    copy_context().run(state.push_frame, "a", 1)
    assert state.current_frame() is None


def test_no_app_is_an_error_that_says_what_to_do() -> None:
    """Before there is an app its users hear what to create."""
    state.set_current_app(None)
    assert not state.has_current_app()
    with pytest.raises(
        ImproperlyConfigured, match=r"there is no app yet: create one with `app = Dispatcher\('name'\)`"
    ):
        current_app.conf  # noqa: B018


def test_proxy_is_what_it_stands_for() -> None:
    """A proxy passes reading, writing, calling, comparing and representing on."""

    class Thing:
        value = 1

        def __call__(self, x: int) -> int:
            return x + self.value

        def __repr__(self) -> str:
            return "<thing>"

    thing = Thing()
    proxy: Any = state.Proxy(lambda: thing, __name__="fixed")
    assert isinstance(proxy, Thing)
    assert (proxy.value, proxy(2), repr(proxy), proxy.__name__, hash(proxy)) == (1, 3, "<thing>", "fixed", hash(thing))
    proxy.value = 5
    assert thing.value == 5
    del proxy.value
    assert proxy.value == 1
    assert proxy == thing
    assert proxy == state.Proxy(lambda: thing)
    assert proxy
    assert not state.Proxy(lambda: None)


def test_current_app_is_the_last_one_that_wants_to_be() -> None:
    """`set_as_current` decides, and `set_current` changes it."""
    first = Dispatcher("first")
    second = Dispatcher("second", set_as_current=False)
    assert current_app.main == "first"
    second.set_current()
    assert current_app == second
    assert current_app != first
    with pytest.raises(TypeError, match="an app cannot be pickled"):
        pickle.dumps(current_app)
