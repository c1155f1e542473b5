"""Joins in DynamoDB: one item for what is known of each, and one for every hundred of its members.

Members are marked in their shard's set, which stays under 1 KB, so that a mark costs one write unit however large the
group is, and those of a batch that share a shard share it. Whoever sees the set full afterwards marks that in the item
of the join: one caller or, by duplicates, several.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from dispatcher import aws
from dispatcher.backends.base import ResultBackend
from dispatcher.backends.dynamodb_items import key as record_key
from dispatcher.backends.joins import Join, JoinMissing

#: Members of one shard: a number of four digits takes about three bytes in a set, so all of them less than 1 KB.
SHARD: Final = 100

_ADD: Final = "ADD m :these SET #ttl = :ttl"
#: What `prolong_join` had live longer (``w``) keeps its life.
_ADD_ONLY: Final = "ADD m :these"
_NOT_LONGER: Final = "(attribute_not_exists(w) OR w <= :ttl)"
_PROLONG: Final = "SET w = :ttl, #ttl = :ttl"

_Item = Mapping[str, Mapping[str, Any]]


class DynamoDBJoins(ResultBackend):
    """The part of the DynamoDB backend that keeps joins."""

    table: str

    def _call(self, operation: str, **parameters: Any) -> Any:
        raise NotImplementedError

    def _get_all(self, keys: Sequence[Any]) -> Iterable[Sequence[_Item]]:
        raise NotImplementedError

    def open_join(self, join: Join, expires_at: float) -> None:
        """Keep a join."""
        self._update(
            _key(join.id), "SET n = :n, d = :d, #ttl = :ttl", "attribute_not_exists(pk) OR #ttl <= :now",
            {":n": {"N": str(join.size)}, ":d": {"S": join.body}, **_until(expires_at), **self._now()}, {"#ttl": "ttl"},
        )  # fmt: skip

    def mark_joined(
        self, join_id: str, members: Sequence[int], size: int, expires_at: float, ids: Sequence[str] = ()
    ) -> Join | None:
        """Mark members as done; a write for those of each shard, and another where they fill shards."""
        shards: dict[int, list[int]] = {}
        for member in members:
            shards.setdefault(member // SHARD, []).append(member)
        full = [
            shard
            for shard, those in shards.items()
            if self._add(_key(join_id, shard), those, expires_at, ids) >= min(SHARD, size - shard * SHARD)
        ]
        if not full:
            return None
        item = self._mark_shards(join_id, full, expires_at)
        return _join(join_id, item) if len(item["m"]["NS"]) >= math.ceil(size / SHARD) else None

    def _add(self, key: Mapping[str, Any], members: Sequence[int], expires_at: float, ids: Sequence[str]) -> int:
        """Add to a shard's set; return how many it has."""
        given = _numbers(members)
        held, item = self._update(key, _ADD, _NOT_LONGER, {**given, **_until(expires_at)}, {"#ttl": "ttl"})
        if not held:
            _, item = self._update(key, _ADD_ONLY, None, given, {})
            self.prolong(ids, float(item["w"]["N"]))
        return len(item["m"]["NS"])

    def _mark_shards(self, join_id: str, shards: Sequence[int], expires_at: float) -> _Item:
        given, there = _numbers(shards), "attribute_exists(n)"
        condition = f"{there} AND {_NOT_LONGER}"
        held, item = self._update(_key(join_id), _ADD, condition, {**given, **_until(expires_at)}, {"#ttl": "ttl"})
        if not held and "n" in item:
            held, item = self._update(_key(join_id), _ADD_ONLY, there, given, {})
        if not held:
            raise JoinMissing(join_id)
        return item

    def prolong_join(self, join_id: str, expires_at: float) -> None:
        """Have a join live longer: the shards that wait for members, then its own item, which says that they do."""
        item = self._call("get_item", TableName=self.table, Key=_key(join_id), ConsistentRead=True).get("Item", {})
        if "n" not in item:
            return
        given, names = _until(expires_at), {"#ttl": "ttl"}
        full = set(item["m"]["NS"]) if "m" in item else set()
        shards = [shard for shard in range(math.ceil(int(item["n"]["N"]) / SHARD)) if str(shard) not in full]
        aws.together(lambda shard: self._update(_key(join_id, shard), _PROLONG, _NOT_LONGER, given, names), shards)
        alive = f"attribute_exists(n) AND #ttl > :now AND {_NOT_LONGER}"
        self._update(_key(join_id), _PROLONG, alive, {**given, **self._now()}, names)

    def prolong(self, ids: Sequence[str], expires_at: float) -> None:
        """Have records live longer: a write for each."""
        given = {**_until(expires_at), **self._now()}
        alive = "#ttl > :now AND #ttl < :ttl"
        aws.together(
            lambda task_id: self._update(record_key(task_id), "SET #ttl = :ttl", alive, given, {"#ttl": "ttl"}), ids
        )

    def close_join(self, join_id: str, *, fired: bool = False, failed: str = "") -> Join:
        """Set flags of a join."""
        wanted: list[tuple[str, str, dict[str, Any]]] = []
        if fired:
            wanted.append(("f = :true", ":true", {"BOOL": True}))
        if failed:
            wanted.append(("x = if_not_exists(x, :failed)", ":failed", {"S": failed}))
        update = "SET " + ", ".join(clause for clause, _, _ in wanted)
        values = {name: value for _, name, value in wanted}
        held, item = self._update(_key(join_id), update, "attribute_exists(n)", values, {}, returned="ALL_OLD")
        if not held:
            raise JoinMissing(join_id)
        return _join(join_id, item)

    def read_joins(self, ids: Sequence[str]) -> dict[str, Join]:
        """Return joins, a hundred to a call."""
        now, found = self.clock.time(), {}
        for items in self._get_all([_key(join_id) for join_id in dict.fromkeys(ids)]):
            for item in items:
                join_id = item["pk"]["S"].removeprefix("CHORD#")
                if "n" in item and (until := float(item["ttl"]["N"])) > now:
                    found[join_id] = dataclasses.replace(_join(join_id, item), until=until)
        return found

    def _now(self) -> dict[str, Any]:
        return {":now": {"N": repr(self.clock.time())}}

    def _update(
        self,
        key: Mapping[str, Any],
        update: str,
        condition: str | None,
        values: Mapping[str, Any],
        names: Mapping[str, str],
        returned: str = "ALL_NEW",
    ) -> tuple[bool, _Item]:
        """Update an item, on a condition if there is one; return whether it held, and the item."""
        more: dict[str, Any] = {"ExpressionAttributeNames": names} if names else {}
        if condition is not None:
            more |= {"ConditionExpression": condition, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
        try:
            answer = self._call(
                "update_item", TableName=self.table, Key=key, UpdateExpression=update,
                ExpressionAttributeValues=values, ReturnValues=returned, **more,
            )  # fmt: skip
        except aws.ServiceError as error:
            if error.code != "ConditionalCheckFailedException":
                raise
            return False, error.response.get("Item", {})
        return True, answer.get("Attributes", {})


def _key(join_id: str, shard: int | None = None) -> dict[str, Any]:
    place = "" if shard is None else f"#{shard}"
    return {"pk": {"S": f"CHORD#{join_id}{place}"}, "sk": {"S": "META"}}


def _numbers(members: Sequence[int]) -> dict[str, Any]:
    return {":these": {"NS": [str(member) for member in sorted(set(members))]}}


def _until(expires_at: float) -> dict[str, Any]:
    return {":ttl": {"N": str(math.ceil(expires_at))}}


def _join(join_id: str, item: _Item) -> Join:
    return Join(join_id, int(item["n"]["N"]), item["d"]["S"], "f" in item, item["x"]["S"] if "x" in item else "")
