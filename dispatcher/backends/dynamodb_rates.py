"""Rate limits in DynamoDB: one item a limit, ``pk = RATE#<bucket>``, ``sk = META``, whose ``next`` is its next slot.

An update adds to ``next`` where that is ahead, and sets it where it has passed. ``next`` only grows, so a caller whose
guess was wrong is right the second time, and whoever contends with it has got ahead: hundreds of callers at once wait
for the item's own order and for nothing else. An item takes 1,000 updates a second; each may reserve for a whole batch.
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from dispatcher import aws

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

    def advance(self, bucket: str, floor: int, step: int, latest: int | None) -> int | None:
        """Reserve a span; see `ResultBackend._advance`."""
        for _ in self._attempts("reserve a slot"):
            following = self._known.get(bucket, 0)
            if following > floor:
                following = self._add(bucket, floor, step, latest)
            if following <= floor:
                seen = self._set(bucket, floor, step)
                if seen is None:
                    return floor
                following = self._add(bucket, floor, step, latest)
            if following > floor:
                return following if latest is None or following <= latest else None
        return None

    def _add(self, bucket: str, floor: int, step: int, latest: int | None) -> int:
        """Return the slot that was put off; one that is too late, or has passed, is left as it is."""
        bound = {} if latest is None else {":latest": {"N": str(latest)}}
        done, item = self._update(
            bucket,
            "SET #next = #next + :step",
            "#next > :floor" + (" AND #next <= :latest" if bound else ""),
            {":step": {"N": str(step)}, ":floor": {"N": str(floor)}, **bound},
        )
        following = int(item["next"]["N"]) if item else 0
        self._known[bucket] = following + step if done else following
        return following

    def _set(self, bucket: str, floor: int, step: int) -> int | None:
        """Start anew at ``floor``; return the slot that is ahead of it, if one is."""
        done, item = self._update(
            bucket,
            "SET #next = :next",
            "attribute_not_exists(#next) OR #next <= :floor",
            {":next": {"N": str(floor + step)}, ":floor": {"N": str(floor)}},
        )
        self._known[bucket] = floor + step if done else int(item["next"]["N"])
        return None if done else self._known[bucket]

    def _update(self, bucket: str, update: str, condition: str, values: Any) -> tuple[bool, Any]:
        """Return whether the condition held, and the item as it was."""
        try:
            answer = self._call(
                "update_item",
                TableName=self._table,
                Key={"pk": {"S": KEY_PREFIX + bucket}, "sk": {"S": self._sort_key}},
                UpdateExpression=update,
                ConditionExpression=condition,
                ExpressionAttributeNames=_NAMES,
                ExpressionAttributeValues=values,
                ReturnValues="UPDATED_OLD",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except aws.ServiceError as error:
            if error.code != "ConditionalCheckFailedException":
                raise
            return False, error.response.get("Item") or {}
        return True, answer.get("Attributes") or {}
