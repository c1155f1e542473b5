"""Bounds on AWS calls: nobody waits longer than is left, and nothing is bound where no end is known."""

from __future__ import annotations

import contextvars
import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher import aws, aws_bounds
from dispatcher.aws_bounds import AMPLE, OutOfTime, in_time, longest_call, longest_try
from dispatcher.aws_options import ClientSettings, Credentials
from dispatcher.lambda_runtime.deadline import call_bounds
from tests.unit.aws_wire import Refused, Wire

SETTINGS = ClientSettings(
    region="eu-west-1",
    credentials=Credentials("AKIDEXAMPLE", "secret"),
    config=(("retries", {"mode": "standard", "total_max_attempts": 2}), ("connect_timeout", 1), ("read_timeout", 3)),
)
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


@pytest.fixture
def dynamodb() -> Iterator[Wire]:
    """Answers for a client whose timeouts are those in a function."""
    wire = Wire(aws.client("dynamodb", SETTINGS))
    yield wire
    wire.close()
    aws.release("dynamodb", SETTINGS)


def test_a_client_that_gives_up_in_time_needs_no_thread(dynamodb: Wire) -> None:
    """A function of a minute's timeout makes its calls as they are until there is little left."""
    threads: list[int] = []

    def answer(_: Any) -> Any:
        threads.append(threading.get_ident())
        return {}

    dynamodb.on("ListTables", answer)
    client = aws.client("dynamodb", SETTINGS)
    assert longest_try(client) < 45
    for left in (45.0, 5.0):
        aws_bounds.bound({"dynamodb": lambda left=left: left})  # type: ignore[misc]
        aws.call(client, "list_tables", "tables")
    assert threads[0] == threading.get_ident() != threads[1]


@pytest.mark.parametrize(("left", "tries"), [(math.inf, 2), (45.0, 2), (20.0, 1)])
def test_no_try_begins_that_may_end_too_late(dynamodb: Wire, left: float, tries: int) -> None:
    """A call that fails is repeated while there is time for a pause and another try."""
    dynamodb.script("ListTables", Refused("InternalServerError", status=500))
    aws_bounds.bound({"dynamodb": lambda: left})
    with pytest.raises(aws.ServiceError, match="InternalServerError"):
        aws.call(aws.client("dynamodb", SETTINGS), "list_tables", "tables")
    assert len(dynamodb.calls) == tries


def test_a_call_that_has_succeeded_late_is_made_once(dynamodb: Wire) -> None:
    """Whatever a version of botocore makes of what handlers of its events say."""
    dynamodb.on("ListTables", lambda _: {})
    aws_bounds.bound({"dynamodb": lambda: 5.0})
    aws.call(aws.client("dynamodb", SETTINGS), "list_tables", "tables")
    assert len(dynamodb.calls) == 1


def test_tries_that_are_not_made_take_no_quota(dynamodb: Wire) -> None:
    """The client has its retries again once there is time for them."""
    client = aws.client("dynamodb", SETTINGS)
    dynamodb.script("ListTables", Refused("InternalServerError", status=500))
    aws_bounds.bound({"dynamodb": lambda: 5.0})
    for _ in range(100):  # a retry takes 5 of 500
        with pytest.raises(aws.ServiceError):
            aws.call(client, "list_tables", "tables")
    aws_bounds.bound({})
    with pytest.raises(aws.ServiceError):
        aws.call(client, "list_tables", "tables")
    assert len(dynamodb.calls) == 100 + 2


def test_clients_that_are_not_kept_from_retries_are_bound_by_a_thread() -> None:
    """As those would be whose botocore decides on them in another way."""
    assert longest_call(aws.client("dynamodb", SETTINGS)) < 45
    assert longest_call(object()) == AMPLE
    aws.release("dynamodb", SETTINGS)


def test_timeouts_that_never_end_are_not_relied_on() -> None:
    """A client without timeouts of its own is bound by a thread."""
    settings = SETTINGS._replace(config=(("read_timeout", None),))
    assert longest_try(aws.client("dynamodb", settings)) > aws_bounds.AMPLE
    aws.release("dynamodb", settings)
