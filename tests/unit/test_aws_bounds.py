"""Bounds on AWS calls: nobody waits longer than is left, and nothing is bound where no end is known."""

from __future__ import annotations

import contextvars
import math
import threading
from collections.abc import Iterator

import pytest

from dispatcher import aws_bounds
from dispatcher.aws_bounds import OutOfTime, in_time
from dispatcher.lambda_runtime.deadline import call_bounds

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")


@pytest.fixture(autouse=True)
def unbound() -> Iterator[None]:
    """Leave nothing bound."""
    yield
    aws_bounds.bound({})


@pytest.mark.parametrize("left", [None, 1e9])
def test_calls_with_time_enough_are_made_as_they_are(left: float | None) -> None:
    """In the calling thread, at no cost."""
    if left is not None:
        aws_bounds.bound({"sqs": lambda: left})
    assert in_time("sqs", threading.get_ident) == threading.get_ident()
    assert aws_bounds.time_left("sqs") == (math.inf if left is None else left)


def test_a_call_in_time_returns_or_raises_what_it_did() -> None:
    """Also a `TimeoutError` of its own; context variables are those of the caller."""
    aws_bounds.bound({"sqs": lambda: 30.0})
    VARIABLE.set("seen")
    assert in_time("sqs", VARIABLE.get) == "seen"

    def fail() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        in_time("sqs", fail)


def test_a_call_that_hangs_is_given_up() -> None:
    """It may end later, and nobody cares."""
    aws_bounds.bound({"sqs": lambda: 0.01})
    go = threading.Event()
    with pytest.raises(OutOfTime, match=r"no answer in the 0\.0 s"):
        in_time("sqs", lambda: go.wait(30))
    go.set()


def test_no_call_begins_once_the_time_is_over() -> None:
    """Other services are not concerned."""
    aws_bounds.bound({"sqs": lambda: -1.0})
    called: list[int] = []
    with pytest.raises(OutOfTime):
        in_time("sqs", lambda: called.append(1))
    in_time("dynamodb", lambda: called.append(2))
    assert called == [2]


def test_records_leave_the_queue_time_before_the_end() -> None:
    """A part of the settle margin is for writes, the next for releases; half of it is left for the guard."""
    bounds = call_bounds(100.0, 2.0)
    left = {service: bound() for service, bound in bounds.items()}
    assert left["dynamodb"] == pytest.approx(98.4, abs=0.3)
    assert left["sqs"] == pytest.approx(left["dynamodb"] + 0.5, abs=0.05)
    assert call_bounds(None, 2.0) == {}
