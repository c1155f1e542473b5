"""The DynamoDB backend under contract, over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher import aws
from dispatcher.aws_options import ClientSettings
from dispatcher.backends.base import ResultBackend
from dispatcher.states import STARTED
from tests.contract.backend_contract import BackendContract, make_write
from tests.contract.harness import Harness, Kind, Recipe
from tests.emulation.endpoint import AwsEndpoint


class TestDynamoDBBackend(BackendContract):
    """The backend contract, kept by `DynamoDBBackend`."""

    @pytest.fixture
    def kind(self, aws_env: AwsEndpoint) -> Kind:
        """A table that the first write makes."""
        return Kind(Recipe("dispatcher.backends.dynamodb:DynamoDBBackend", "dynamodb://contract"))

    def test_a_usual_outcome_takes_one_write_unit(self, harness: Harness[ResultBackend]) -> None:
        """Insert, update and upsert of a row below 1 KB: what DynamoDB bills is one unit each."""
        backend, ids = harness.open(), [harness.task_id() for _ in range(10)]
        backend.read(ids)
        with consumed_units() as units:
            backend.write([make_write(harness, key, data="x" * 700, status=STARTED, final=False) for key in ids])
            backend.write([make_write(harness, key, data="x" * 700, exists=True) for key in ids])
            backend.write([make_write(harness, harness.task_id(), data="x" * 700)])
        assert units == [("BatchExecuteStatement", 10.0), ("BatchExecuteStatement", 10.0), ("UpdateItem", 1.0)]

    def test_slots_take_one_update_a_call(self, harness: Harness[ResultBackend]) -> None:
        """A second one where somebody else was faster, and none where what is known already is too late."""
        first, second, bucket = harness.open(), harness.open(), harness.task_id()
        updates: list[str] = []

        def note(model: Any, **_: Any) -> None:
            updates.append(model.name)

        first.read(["unknown"])
        events = aws.client("dynamodb", ClientSettings()).meta.events
        events.register("before-call.dynamodb", note)
        counts = []
        for backend, latest in ((first, None), (first, None), (second, None), (first, None), (first, 0.0)):
            backend.reserve(bucket, 10, 100.0, latest=latest)
            counts.append(len(updates))
            updates.clear()
        events.unregister("before-call.dynamodb", note)
        assert counts == [1, 1, 2, 1, 0]

    def test_a_wrong_guess_is_no_wrong_answer(self, harness: Harness[ResultBackend]) -> None:
        """What the caller believes of a row decides about calls only."""
        backend, ids = harness.open(), [harness.task_id() for _ in range(4)]
        assert backend.write([make_write(harness, key, exists=True, token="first") for key in ids[:2]]) == [None] * 2
        answers = backend.write([make_write(harness, key, exists=key not in ids[:2], token="later") for key in ids])
        assert [answer and answer.token for answer in answers] == ["first", "first", None, None]


@contextlib.contextmanager
def consumed_units() -> Iterator[list[tuple[str, float]]]:
    """Collect the capacity units of each call."""
    events = aws.client("dynamodb", ClientSettings()).meta.events
    units: list[tuple[str, float]] = []

    def ask(params: dict[str, Any], **_: Any) -> None:
        params["ReturnConsumedCapacity"] = "TOTAL"

    def note(parsed: dict[str, Any], model: Any, **_: Any) -> None:
        used = parsed["ConsumedCapacity"]
        units.append((model.name, sum(part["CapacityUnits"] for part in (used if isinstance(used, list) else [used]))))

    events.register("provide-client-params.dynamodb", ask)
    events.register("after-call.dynamodb", note)
    yield units
    events.unregister("provide-client-params.dynamodb", ask)
    events.unregister("after-call.dynamodb", note)
