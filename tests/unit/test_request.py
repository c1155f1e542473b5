"""The request: what a task can know of its message."""

import copy
from typing import Any

import pytest

from dispatcher.message import Message
from dispatcher.request import Context, idle_request


def test_fields_come_from_the_message_when_asked_for() -> None:
    """Nothing is computed before it is asked for, and then it stays."""
    context = Context(
        Message("a", "t", (1,), {"x": 2}, eta=1_800_000_000.5, soft_time_limit=3, headers={"h": 1, "id": 5})
    )
    assert set(context.__dict__) == {"_message"}
    assert (context.id, context.root_id, context.args, context.kwargs) == ("a", "a", [1], {"x": 2})
    assert context.eta == "2027-01-15T08:00:00.500000+00:00"
    assert (context.timelimit, context.h, context.headers) == ([None, 3], 1, {"h": 1, "id": 5})
    assert context.args is context.args
    assert (context.chain, context.callbacks, context.errbacks, context.chord) == (None, None, None, None)


def test_idle_request_has_every_field() -> None:
    """A task that does not run has defaults, and containers of its own."""
    first, second = idle_request(), idle_request()
    assert (first.id, first.args, first.kwargs, first.retries, first.called_directly) == (None, [], {}, 0, True)
    first.children.append(1)
    assert second.children == []


def test_unknown_attribute_is_named() -> None:
    """A typo is an error, `get` has a default."""
    context = Context(Message("a", "t"))
    with pytest.raises(AttributeError, match="a task's request has no attribute 'retrys'"):
        context.retrys  # noqa: B018
    assert context.get("retrys", 7) == 7
    assert context.get("id") == "a"


def test_fields_can_be_set() -> None:
    """`update` and keywords win over the message."""
    context = Context(Message("a", "t"), retries=3)
    context.update({"hostname": "h"}, group="g")
    assert (context.retries, context.hostname, context.group) == (3, "h", "g")
    assert repr(context) == "<Context: id='a' task='t' retries=3>"
    assert copy.copy(context).retries == 3
    assert context.as_execution_options()["task_id"] == "a"


def test_threads_that_ask_at_the_same_time_share_what_they_fill() -> None:
    """What a task's threads add to a list of its request is all there in the end."""
    context = Context(None)

    class Asked(dict[str, Any]):
        """Another thread asks in between whenever a field is about to be kept."""

        def __setitem__(self, name: str, value: Any) -> None:
            super().setdefault(name, []).append("theirs")
            super().__setitem__(name, value)

        def setdefault(self, name: str, value: Any = None) -> Any:
            super().setdefault(name, []).append("theirs")
            return super().setdefault(name, value)

    object.__setattr__(context, "__dict__", Asked(context.__dict__))
    context.children.append("ours")
    assert context.children == ["theirs", "ours"]
