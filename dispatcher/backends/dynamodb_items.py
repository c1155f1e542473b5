"""The items of the DynamoDB backend: how a record is laid out in one, and what an item says about a write.

A record is the item ``pk = TASK#<id>``, ``sk = META``, the lock of a unique task ``pk = LOCK#<key>``. The attributes'
names are short because DynamoDB bills them: ``s`` status, ``g`` gen, ``r`` retries, ``f`` final, ``t`` token, ``n``
starts, ``b`` not before, ``a`` started at, ``d`` data, ``v`` revoked, ``ttl`` the epoch second from which on the item
counts as absent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from dispatcher.backends.base import Revocation, TaskRecord, Write
from dispatcher.message import LOCK_PREFIX

KEY_PREFIX: Final = "TASK#"
SORT_KEY: Final = "META"
TTL: Final = "ttl"

# Columns in the order of `values`; the key and the revoked flag ("v") come beside them.
COLUMNS: Final = ("s", "g", "r", "f", "t", "n", "b", "a", "d", TTL)
ASSIGNMENTS: Final = ", ".join(f"#{name} = :{name}" for name in COLUMNS)
NAMES: Final = {f"#{name}": name for name in COLUMNS}

#: More starts than a record ever counts.
_ANY_STARTS: Final = 10**9

Item = Mapping[str, Mapping[str, Any]]


class Undecided:
    """Stands for a write whose statement guessed wrong."""


UNDECIDED: Final = Undecided()


def key(task_id: str) -> dict[str, dict[str, str]]:
    """Return the primary key of a task's item, or of a lock's."""
    prefix = "" if task_id.startswith(LOCK_PREFIX) else KEY_PREFIX
    return {"pk": {"S": prefix + task_id}, "sk": {"S": SORT_KEY}}


def values(write: Write) -> list[dict[str, Any]]:
    """Return the row in the order of `COLUMNS`; nothing is left out, lest a value of an older row show through."""
    return [
        {"S": write.status},
        {"N": str(write.gen)},
        {"N": str(write.retries)},
        {"BOOL": write.final},
        {"S": write.token},
        {"N": str(write.starts)},
        _time(write.not_before),
        _time(write.started_at),
        {"S": write.data},
        {"N": str(math.ceil(write.expires_at))},
    ]


def _time(seconds: float | None) -> dict[str, Any]:
    return {"NULL": True} if seconds is None else {"N": repr(float(seconds))}


def checks(write: Write) -> dict[str, Any]:
    """Return what the condition of an update compares a row with, beside the write's own columns and the time."""
    starts = 0 if write.only_start else _ANY_STARTS
    return {":open": {"BOOL": False}, ":attempt": {"N": str(write.attempt)}, ":starts": {"N": str(starts)}}


#: A row as PartiQL, in the order of `_literals`, to insert it and to replace another.
_INSERTED: Final = ", ".join(f"'{name}': %s" for name in COLUMNS)
_REPLACED: Final = " ".join(f'SET "{name}" = %s' for name in COLUMNS)


def insert_statement(table: str, write: Write) -> dict[str, Any]:
    """Return a PartiQL statement that makes a row and fails where there is one."""
    at = key(write.id)
    return {
        "Statement": f"INSERT INTO \"{table}\" VALUE {{'pk': ?, 'sk': ?, {_INSERTED % _literals(write)}}}",
        "Parameters": [at["pk"], at["sk"], *_texts(write)],
    }


def update_statement(table: str, write: Write, now: float) -> dict[str, Any]:
    """Return a PartiQL statement that replaces a living row of the write's generation and attempt."""
    at, unstarted = key(write.id), ' AND "n" = 0' if write.only_start else ""
    return {
        "Statement": f'UPDATE "{table}" {_REPLACED % _literals(write)} WHERE "pk" = ? AND "sk" = ? '
        f'AND "g" = {write.gen} AND "r" = {write.attempt} AND "f" = FALSE AND "{TTL}" > {now!r}{unstarted}',
        "Parameters": [*_texts(write), at["pk"], at["sk"]],
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }


def _literals(write: Write) -> tuple[Any, ...]:
    """Return a row as PartiQL in the order of `COLUMNS`: numbers written out, texts as parameters, by `_texts`."""
    due, started = write.not_before, write.started_at
    return (
        "?", write.gen, write.retries, "TRUE" if write.final else "FALSE", "?", write.starts,
        "NULL" if due is None else repr(float(due)), "NULL" if started is None else repr(float(started)), "?",
        math.ceil(write.expires_at),
    )  # fmt: skip


def _texts(write: Write) -> tuple[dict[str, str], ...]:
    return {"S": write.status}, {"S": write.token}, {"S": write.data}


def record_of(item: Item) -> TaskRecord:
    """Read an item."""
    due, started = item["b"].get("N"), item.get("a", {}).get("N")
    return TaskRecord(
        id=item["pk"]["S"].removeprefix(KEY_PREFIX),
        status=item["s"]["S"],
        gen=int(item["g"]["N"]),
        retries=int(item["r"]["N"]),
        final=item["f"]["BOOL"],
        token=item["t"]["S"],
        starts=int(item["n"]["N"]),
        revoked=int(item["v"]["N"]) if "v" in item else Revocation.NONE,
        not_before=None if due is None else float(due),
        data=item["d"]["S"],
        started_at=None if started is None else float(started),
    )


def is_alive(item: Item, now: float) -> bool:
    """Say whether a row counts: DynamoDB deletes expired ones up to days late."""
    return float(item[TTL]["N"]) > now


def judge(item: Item, write: Write, now: float) -> TaskRecord | Undecided | None:
    """Say what a row that failed a write's condition means for it: the loser, our own earlier write, or nothing yet."""
    if not item or not is_alive(item, now):
        return UNDECIDED
    record = record_of(item)
    if write.applies_to(record):
        return UNDECIDED
    return None if _is_own(record, write) else record


def _is_own(record: TaskRecord, write: Write) -> bool:
    """Say whether a record is what this very write left; botocore repeats a call whose answer was lost."""
    return bool(write.token) and record == write.record(record.revoked)
