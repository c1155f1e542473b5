"""What joins cost on DynamoDB: a member of a large group as much as one of a small one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher.backends.dynamodb import DynamoDBBackend
from dispatcher.backends.joins import Join
from dispatcher.clock import ManualClock
from tests.fault.harness.dynamodb import DynamoDb
from tests.fault.harness.injector import Gate, Injector
from tests.fault.harness.sqs import Sqs
from tests.fault.harness.stores import AWS_OPTIONS, connect
from tests.fault.harness.wire import Wire

CALM = Injector(0, scale=0.0)


class Metered(DynamoDb):
    """The model, which counts the write units of updates: one for each KB of the larger item, before or after.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html
    """

    def __init__(self) -> None:
        super().__init__()
        self.units = 0

    def _update_item(self, parameters: Any) -> Any:
        place = (parameters["Key"]["pk"]["S"], parameters["Key"]["sk"]["S"])
        table = self.tables.get(parameters["TableName"], {})
        before = _size(table.get(place, {}))
        answer = super()._update_item(parameters)
        self.units += math.ceil(max(before, _size(self.tables[parameters["TableName"]][place]), 1) / 1024)
        return answer


def _size(item: Any) -> int:
    """Return how many bytes DynamoDB counts: names, and values by their kind.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html
    """
    total = 0
    for name, value in item.items():
        ((kind, content),) = value.items()
        numbers = content if kind == "NS" else [content] if kind == "N" else []
        total += len(name) + sum(len(number) // 2 + 2 for number in numbers)
        total += len(content.encode()) if kind == "S" else 1 if kind == "BOOL" else 3 if kind == "NS" else 0
    return total


@pytest.fixture
def metered() -> Iterator[tuple[DynamoDBBackend, Metered]]:
    """A backend on the model."""
    clock, model = ManualClock(), Metered()
    gate = Gate(CALM, lambda: None, lambda: False)
    with pytest.MonkeyPatch.context() as patch:
        connect(patch, Wire("sqs", Sqs(clock, CALM), CALM, gate), Wire("dynamodb", model, CALM, gate))
        yield DynamoDBBackend("dynamodb://joins", AWS_OPTIONS, clock), model


def test_a_member_of_a_large_group_costs_what_one_of_a_small_one_does(metered: Any) -> None:
    """At most a tenth more write units for each member at 10,000 than at 100, opening and closing included."""
    backend, model = metered

    def units_per_member(size: int) -> float:
        before, life = model.units, backend.clock.time() + 86_400
        backend.open_join(Join(f"join-{size}", size, '{"then":[]}' + " " * 500), life)
        complete = [backend.mark_joined(f"join-{size}", [index], size, life) for index in range(size)]
        assert [join is not None for join in complete] == [False] * (size - 1) + [True]
        backend.close_join(f"join-{size}", fired=True)
        return float(model.units - before) / size

    small, large = units_per_member(100), units_per_member(10_000)
    assert small < 1.1
    assert large <= 1.1 * small


def test_members_of_a_batch_share_the_writes_of_their_shards(metered: Any) -> None:
    """Ten to a call are a tenth of the units; the last of a shard takes one more."""
    backend, model = metered
    life = backend.clock.time() + 86_400
    backend.open_join(Join("join", 1_000, "{}"), life)
    before = model.units
    joins = [backend.mark_joined("join", range(start, start + 10), 1_000, life) for start in range(0, 1_000, 10)]
    assert [join is not None for join in joins] == [False] * 99 + [True]
    assert model.units - before == 100 + 10
    assert backend.mark_joined("join", range(995, 1_000), 1_000, life) is not None
