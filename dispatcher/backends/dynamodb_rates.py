"""Rate limits in DynamoDB: one item a limit, ``pk = RATE#<bucket>``, ``sk = META``, whose ``next`` is its next slot.

An update adds to ``next`` where that is ahead, and sets it where it has passed. ``next`` only grows, so a caller whose
guess was wrong is right the second time, and whoever contends with it has got ahead: hundreds of callers at once wait
for the item's own order and for nothing else. An item takes 1,000 updates a second; each may reserve for a whole batch.
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from dispatcher import aws
from dispatcher.backends.base import slots_until

KEY_PREFIX: Final = "RATE#"
_NAMES: Final = {"#next": "next"}


class Rates:
    """The rate limits of one table; ``call`` calls DynamoDB, ``attempts`` yields, waiting, until it gives up."""

    def __init__(
        self, table: str, sort_key: str, call: Callable[..., Any], attempts: Callable[[str], Iterable[int]]
    ) -> None:
        self._table = table
        self._sort_key = sort_key
        self._call = call
        self._attempts = attempts
        #: the last slots seen, by which the first guess is made
        self._known: dict[str, int] = {}

    def take(self, bucket: str, floor: int, step: int, count: int, latest: int | None) -> tuple[int, int]:
        """Take slots; see `ResultBackend._take_slots`."""
        for _ in self._attempts("reserve a slot"):
            for _ in range(2):  # what is seen in vain is the better guess
                known = self._known.get(bucket, 0)
                first = max(known, floor)
                taken = slots_until(first, step, count, latest)
                if not taken:
                    return first, 0
                if known > floor:
                    bound = None if latest is None else latest - (taken - 1) * step
                    done, following = self._put_off(bucket, floor, taken * step, bound)
                else:
                    done, following = self._set(bucket, floor, first + taken * step)
                if done:
                    self._known[bucket] = (following or first) + taken * step
                    return following or first, taken
                self._known[bucket] = following
        raise AssertionError  # attempts end with an error

    def _put_off(self, bucket: str, floor: int, span: int, bound: int | None) -> tuple[bool, int]:
        """Put the next slot off, if it is still to come and not after ``bound``; return whether, and when it was."""
        condition, values = "#next > :floor", {":span": span, ":floor": floor}
        if bound is not None:
            condition, values = f"{condition} AND #next <= :bound", {**values, ":bound": bound}
        return self._update(bucket, "SET #next = #next + :span", condition, values)

    def _set(self, bucket: str, floor: int, following: int) -> tuple[bool, int]:
        """Set the next slot, if it is not after ``floor``; return whether, and when it is if not."""
        condition = "attribute_not_exists(#next) OR #next <= :floor"
        done, seen = self._update(bucket, "SET #next = :next", condition, {":next": following, ":floor": floor})
        return done, 0 if done else seen

    def _update(self, bucket: str, update: str, condition: str, values: Mapping[str, int]) -> tuple[bool, int]:
        """Return whether the condition held, and when the next slot was before, 0 for never."""
        try:
            answer = self._call(
                "update_item",
                TableName=self._table,
                Key={"pk": {"S": KEY_PREFIX + bucket}, "sk": {"S": self._sort_key}},
                UpdateExpression=update,
                ConditionExpression=condition,
                ExpressionAttributeNames=_NAMES,
                ExpressionAttributeValues={name: {"N": str(value)} for name, value in values.items()},
                ReturnValues="UPDATED_OLD",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except aws.ServiceError as error:
            if error.code != "ConditionalCheckFailedException":
                raise
            done, item = False, error.response.get("Item")
        else:
            done, item = True, answer.get("Attributes")
        return done, int(item["next"]["N"]) if item else 0
