"""Routing by name: what wins, what is remembered, what is refused."""

import re
from types import SimpleNamespace
from typing import Any

import pytest

from dispatcher.exceptions import ImproperlyConfigured, QueueNotFound
from dispatcher.routing import Routes, queue_name


def _route(routes: Any, name: str = "a.b", args: Any = ()) -> dict[str, Any]:
    return Routes(routes, None, "default", True).route(name, args, {}, {}, None)


def test_exact_names_go_before_patterns_and_patterns_by_order() -> None:
    """In one table the exact name wins, then the first pattern that fits."""
    table = {"a.*": "glob", "a.b": "exact", re.compile("a.c"): "regex", "*": "all"}
    assert [_route(table, name)["queue"] for name in ("a.b", "a.c", "x")] == ["exact", "glob", "all"]
    assert _route({"x": "y"}) == {}
    assert _route(None) == {}


def test_first_router_that_knows_wins() -> None:
    """Routers are asked in order; `None` passes on; functions are asked anew for each call."""
    asked: list[Any] = []

    def router(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **more: Any) -> Any:
        asked.append(args)
        return {"queue": f"q{args[0]}"} if args else None

    routes = Routes([router, {"a.*": "table"}], None, "default", True)
    assert [routes.route("a.b", args, {}, {}, None)["queue"] for args in ((), (1,), (2,))] == ["table", "q1", "q2"]
    assert asked == [(), (1,), (2,)]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (5, "must be a queue's name or a dict of options, not 5"),
        ({"exchange": "x"}, "names exchange and no queue"),
        ({"quue": "x"}, "has the unknown option quue; known: "),
    ],
)
def test_routes_that_say_nothing_useful_are_refused(answer: Any, words: str) -> None:
    """A route is checked when it is found, naming the task."""
    with pytest.raises(ImproperlyConfigured, match=r"the route of a\.b") as caught:
        _route({"a.b": answer})
    assert words in str(caught.value)


@pytest.mark.parametrize("router", [5, object(), [5]])
def test_what_is_no_router_is_refused(router: Any) -> None:
    """A router is a table, a function, an object with ``route_for_task``, or the path of one."""
    with pytest.raises((ImproperlyConfigured, TypeError)):
        _route(router)


def test_queues_have_names() -> None:
    """A queue is its name or an object with one."""

    class Queue:
        name = "named"

    assert (queue_name("q"), queue_name(Queue())) == ("q", "named")
    for wrong in ("", 5, None, object()):
        with pytest.raises(TypeError, match="queue must be a queue's name"):
            queue_name(wrong)
    closed = Routes(None, {"a": {}}, "default", False)
    assert [closed.queue(name) for name in ("a", "default", None)] == ["a", "default", "default"]
    with pytest.raises(QueueNotFound, match="queue 'b' is not declared"):
        closed.queue("b")


def test_home_is_where_a_call_without_options_goes() -> None:
    """A task's own queue wins over the route, as it does when it is sent; without both it is the default queue."""
    routes = Routes({"shop.*": {"queue": "routed"}}, None, "default", True)
    assert routes.home(SimpleNamespace(name="shop.own", queue="own")) == "own"
    assert routes.home(SimpleNamespace(name="shop.other", queue=None)) == "routed"
    assert routes.home(SimpleNamespace(name="mail.send", queue=None)) == "default"
