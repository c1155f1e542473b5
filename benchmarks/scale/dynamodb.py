"""DynamoDB as the model has it: items, capacity units, partitions that take only so many of them, and throttles."""

from __future__ import annotations

import math
import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Final

from botocore.exceptions import ClientError

from benchmarks.scale import expressions, facts
from benchmarks.scale.expressions import Item
from benchmarks.scale.timeline import Timeline
from tests.emulation.metering import item_size

_WRITE_UNIT: Final = 1_024
_READ_UNIT: Final = 4_096
_ROWS: Final = "TASK#"


class _Throttled(Exception):
    """A partition has no capacity left in this second."""


class Partitions:
    """What each partition of the table has taken in each second, and what the keys that many write to have.

    Keys lie on partitions by their hash. One partition takes 1,000 write and 3,000 read units a second; adaptive
    capacity lets a hot one have all of that. A table begins with four of them unless it was warmed, and once half an
    hour has passed takes up to twice its peak. Bursts beyond these, which AWS grants as it can, are left out.
    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/burst-adaptive-capacity.html
    """

    def __init__(self, timeline: Timeline, warm_writes: float = facts.TABLE_WRITES) -> None:
        self._timeline = timeline
        self._count = max(1, math.ceil(warm_writes / facts.PARTITION_WRITES))
        self._used: defaultdict[tuple[str, int, int], float] = defaultdict(float)
        self._grows_at = timeline.now + facts.DOUBLING_PERIOD
        self.seconds: Counter[int] = Counter()
        self.throttled: Counter[str] = Counter()
        self.writes = 0.0
        self.reads = 0.0
        #: Shared key (of a join, a limit, a lock) -> units, and its units in each second.
        self.shared: Counter[str] = Counter()
        self.shared_seconds: Counter[tuple[str, int]] = Counter()

    def take(self, kind: str, key: str, units: float) -> None:
        """Use capacity for a key; raises `_Throttled` where its partition has none left in this second."""
        now = self._timeline.now
        if now >= self._grows_at:
            self._grow()
        second = int(now)
        place = (kind, zlib.crc32(key.encode()) * self._count >> 32, second)
        if self._used[place] + units > (facts.PARTITION_WRITES if kind == "write" else facts.PARTITION_READS):
            self.throttled[kind] += 1
            raise _Throttled
        self._used[place] += units
        if kind == "write":
            self.writes += units
            self.seconds[second] += math.ceil(units)
            if not key.startswith(_ROWS):
                self.shared[key] += math.ceil(units)
                self.shared_seconds[key, second] += math.ceil(units)
        else:
            self.reads += units

    def _grow(self) -> None:
        peak = max(self.seconds.values(), default=0)
        self._count = max(self._count, math.ceil(2 * peak / facts.PARTITION_WRITES))
        self._grows_at = self._timeline.now + facts.DOUBLING_PERIOD

    def hottest(self) -> tuple[str, int]:
        """Return the shared key that took most write units in a second, and how many; an empty one if there is none."""
        if not self.shared_seconds:
            return "", 0
        (key, _), units = max(self.shared_seconds.items(), key=lambda entry: entry[1])
        return key, units


class DynamoDB:
    """A botocore client of DynamoDB, as far as the backend calls it; it tries again as botocore does."""

    def __init__(self, timeline: Timeline, partitions: Partitions) -> None:
        self.calls: Counter[str] = Counter()
        self.meta = SimpleNamespace(
            endpoint_url="https://dynamodb.us-east-1.amazonaws.com",
            service_model=SimpleNamespace(service_name="dynamodb"),
            config=SimpleNamespace(connect_timeout=1, read_timeout=3),
        )
        self.items: dict[str, Item] = {}
        #: Key -> the bytes of its item
        self.sizes: dict[str, int] = {}
        self.partitions = partitions
        self._timeline = timeline

    def _count(self, operation: str) -> None:
        self.calls[operation] += 1
        self._timeline.sleep(facts.DYNAMODB_LATENCY)

    def _tried(self, operation: str, call: Callable[[], Any]) -> Any:
        """Make a call, again after a growing pause where it is throttled."""
        for attempt in range(facts.SDK_TRIES):
            self._count(operation)
            try:
                return call()
            except _Throttled:
                if attempt < facts.SDK_TRIES - 1:
                    self._timeline.sleep(min(random.random() * 2**attempt, facts.SDK_LONGEST_PAUSE))
        raise _error("ProvisionedThroughputExceededException", operation)

    # Reading

    def get_item(self, Key: Item, **_: Any) -> dict[str, Any]:  # noqa: N803
        """Read an item."""
        item: Item | None = self._tried("GetItem", lambda: self._read(Key))
        return {"Item": item} if item else {}

    def batch_get_item(self, RequestItems: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N803
        """Read items; what there is no capacity for is left unprocessed."""
        ((table, wanted),) = RequestItems.items()

        def read() -> dict[str, Any]:
            found, left = [], []
            for key in wanted["Keys"]:
                try:
                    item = self._read(key)
                except _Throttled:
                    left.append(key)
                else:
                    found += [item] if item else []
            if len(left) == len(wanted["Keys"]):
                raise _Throttled
            answer: dict[str, Any] = {"Responses": {table: found}}
            return {**answer, "UnprocessedKeys": {table: {**wanted, "Keys": left}}} if left else answer

        answer: dict[str, Any] = self._tried("BatchGetItem", read)
        return answer

    def _read(self, key: Item) -> Item | None:
        pk = key["pk"]["S"]
        item = self.items.get(pk)
        self.partitions.take("read", pk, max(1, math.ceil(self.sizes.get(pk, 0) / _READ_UNIT)))
        return item

    # Writing

    def update_item(self, **request: Any) -> dict[str, Any]:
        """Update an item, on a condition if there is one."""
        answer: dict[str, Any] = self._tried("UpdateItem", lambda: self._update(request))
        return answer

    def _update(self, request: Mapping[str, Any]) -> dict[str, Any]:
        pk = request["Key"]["pk"]["S"]
        old, made = self._updated(request)
        size = self._take_write(pk, made)
        if made is None:
            raise _error("ConditionalCheckFailedException", "UpdateItem", old)
        self._keep(pk, made, size)
        returned = {"ALL_NEW": made, "ALL_OLD": old, "UPDATED_OLD": old}.get(request.get("ReturnValues", ""))
        return {"Attributes": returned} if returned else {}

    def _updated(self, request: Mapping[str, Any]) -> tuple[Item | None, Item | None]:
        """Return an item as it is, and as it would be: `None` where the condition does not hold."""
        old = self.items.get(request["Key"]["pk"]["S"])
        names, values = request.get("ExpressionAttributeNames", {}), request.get("ExpressionAttributeValues", {})
        condition = request.get("ConditionExpression")
        if condition is not None and not expressions.condition(condition)(old or {}, names, values):
            return old, None
        return old, expressions.update(request["UpdateExpression"])(old or request["Key"], names, values)

    def transact_write_items(self, TransactItems: Sequence[Any]) -> dict[str, Any]:  # noqa: N803
        """Apply updates all or none; each takes twice its units."""

        def write() -> dict[str, Any]:
            updates = [each["Update"] for each in TransactItems]
            changed = [self._updated(each) for each in updates]
            keys = [each["Key"]["pk"]["S"] for each in updates]
            sizes = [self._take_write(pk, made, factor=2) for pk, (_, made) in zip(keys, changed, strict=True)]
            if all(made is not None for _, made in changed):
                for pk, (_, made), size in zip(keys, changed, sizes, strict=True):
                    self._keep(pk, made or {}, size)
                return {}
            reasons = [
                {"Code": "None"} if made is not None else {"Code": "ConditionalCheckFailed", **_shown(old)}
                for old, made in changed
            ]
            raise ClientError(
                {"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": reasons},
                "TransactWriteItems",
            )

        answer: dict[str, Any] = self._tried("TransactWriteItems", write)
        return answer

    def batch_execute_statement(self, Statements: Sequence[Any]) -> dict[str, Any]:  # noqa: N803
        """Carry out statements, each by itself."""
        self._count("BatchExecuteStatement")
        return {"Responses": [self._execute(each) for each in Statements]}

    def _execute(self, statement: Mapping[str, Any]) -> dict[str, Any]:
        inserts, row, checks = expressions.statement(statement["Statement"], statement["Parameters"])
        key = row if inserts else {name: value for name, _, value in checks if name in ("pk", "sk")}
        pk = key["pk"]["S"]
        old = self.items.get(pk)
        made = {**(old or {}), **row}
        try:
            size = self._take_write(pk, made)
        except _Throttled:
            return {"Error": {"Code": "ProvisionedThroughputExceeded", "Message": "the partition is too busy"}}
        if inserts and old is not None:
            return {"Error": {"Code": "DuplicateItem", "Message": "there is one"}}
        if not inserts and (old is None or not expressions.holds(old, checks)):
            return {"Error": {"Code": "ConditionalCheckFailed", "Message": "it is otherwise", **_shown(old)}}
        self._keep(pk, made, size)
        return {}

    def _take_write(self, pk: str, made: Item | None, factor: int = 1) -> int:
        """Use capacity for the larger of an item and what becomes of it; return the bytes of the latter."""
        size = item_size(dict(made or {}))
        units = max(1, math.ceil(max(size, self.sizes.get(pk, 0)) / _WRITE_UNIT))
        self.partitions.take("write", pk, factor * units)
        return size

    def _keep(self, pk: str, item: Item, size: int) -> None:
        self.items[pk], self.sizes[pk] = item, size


def _shown(item: Item | None) -> dict[str, Any]:
    return {"Item": item} if item else {}


def _error(code: str, operation: str, item: Item | None = None) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "the model says so"}, **_shown(item)}, operation)
