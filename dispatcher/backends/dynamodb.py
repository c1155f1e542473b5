"""Records in one DynamoDB table, on demand: conditions are the table's own, reads are strongly consistent.

One write is one UpdateItem that inserts or updates. Several go as BatchExecuteStatement, 25 at a time, on a guess
whether the item exists (`Write.exists`, else by the attempt); those that guessed wrong go again alone.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from dispatcher import aws, aws_bounds
from dispatcher.aws_options import COMMON, FLAG, TEXT, Expected, client_settings, number, parse_url, read
from dispatcher.backends.base import Revocation, TaskRecord, Write
from dispatcher.backends.dynamodb_items import (
    ASSIGNMENTS,
    COLUMNS,
    KEY_PREFIX,
    NAMES,
    SORT_KEY,
    TTL,
    UNDECIDED,
    Item,
    Undecided,
    checks,
    insert_statement,
    is_alive,
    judge,
    key,
    record_of,
    update_statement,
    values,
)
from dispatcher.backends.dynamodb_joins import DynamoDBJoins
from dispatcher.backends.dynamodb_rates import Rates
from dispatcher.clock import SYSTEM, Clock
from dispatcher.exceptions import BackendStoreError, ImproperlyConfigured, OperationalError
from dispatcher.quotas import (
    DYNAMODB_MAX_BATCH_GET,
    DYNAMODB_MAX_BATCH_STATEMENTS,
    DYNAMODB_MAX_BATCH_WRITE,
    DYNAMODB_MAX_ITEM_BYTES,
    DYNAMODB_MAX_PARTITION_KEY_BYTES,
)
from dispatcher.states import PENDING

DEFAULT_TABLE: Final = "dispatcher"

#: What an item needs beside its data: key, columns and their names.
_ROW_OVERHEAD: Final = 4_096
#: Seconds a new table may take to become active.
_CREATION_PATIENCE: Final = 120.0
_TABLE_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{3,255}")
_RETRIED: Final = frozenset(
    {
        "InternalServerError",
        "ProvisionedThroughputExceeded",
        "RequestLimitExceeded",
        "ThrottlingError",
        "TransactionConflict",
    }
)

#: What may keep a transaction from taking effect without anything being wrong with it.
_CANCELLED: Final = _RETRIED | {"None", "ConditionalCheckFailed"}

OPTIONS: Final[dict[str, Expected]] = {
    **COMMON,
    "table": TEXT,
    "default_table": TEXT,
    "create_table": FLAG,
    "retry_timeout": number(0, 900),
}
REFUSED: Final = {
    "read": "the table is on demand; a table of your own may be provisioned, this package does not change it",
    "write": "the table is on demand; a table of your own may be provisioned, this package does not change it",
    "ttl_seconds": "the setting result_expires says how long results live",
}

# An expired row counts as absent. It is replaced on `_EXPIRED`, because its revoked flag must go with it.
_APPLIES: Final = (
    "attribute_not_exists(pk) OR "
    "(#ttl > :now AND (#g < :g OR (#g = :g AND #f = :open AND #r = :attempt AND #n <= :starts)))"
)
_EXPIRED: Final = "#ttl <= :now"


class DynamoDBBackend(DynamoDBJoins):
    """Keeps the records of tasks in a DynamoDB table.

    URLs: ``dynamodb://table``, ``dynamodb://region/table``, ``dynamodb://host:port/table``. Options: ``docs/aws.md``.
    """

    max_data = DYNAMODB_MAX_ITEM_BYTES - _ROW_OVERHEAD

    def __init__(self, url: str, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        super().__init__(url, options, clock)
        parsed = parse_url(url)
        checked = read("dynamodb", {**parsed.options, **self.options}, OPTIONS, REFUSED)
        self.table: str = checked.get("table") or parsed.name or checked.get("default_table") or DEFAULT_TABLE
        if not _TABLE_NAME.fullmatch(self.table):
            raise ImproperlyConfigured(
                f"{self.table!r} is no name of a DynamoDB table: 3 to 255 letters, digits, '-', '_' and '.'"
            )
        self._settings = client_settings("dynamodb", checked)
        self._create: bool | None = checked.get("create_table")
        self._patience: float = checked.get("retry_timeout", 10.0)
        self._rates = Rates(self.table, SORT_KEY, self._call, self._attempts)

    def describe(self) -> str:
        """Name the backend for people."""
        return f"the DynamoDB table {self.table!r}"

    def open(self) -> None:
        """Make the client."""
        aws.client("dynamodb", self._settings)

    def close(self) -> None:
        """Drop the client; the backend takes a new one when it is used again."""
        aws.release("dynamodb", self._settings)

    # Reading

    def _read(self, ids: Sequence[str]) -> dict[str, TaskRecord]:
        now = self.clock.time()
        if len(ids) == 1:
            item = self._call("get_item", TableName=self.table, Key=key(ids[0]), ConsistentRead=True).get("Item")
            return {ids[0]: record_of(item)} if item and is_alive(item, now) else {}
        records = {}
        for items in self._get_all([key(task_id) for task_id in ids]):
            records.update({record.id: record for record in (record_of(item) for item in items if is_alive(item, now))})
        return records

    def _get_all(self, keys: Sequence[Any]) -> Iterable[list[Item]]:
        return aws.together(self._get, list(aws.chunks(keys, DYNAMODB_MAX_BATCH_GET)))

    def _get(self, keys: Sequence[Any]) -> list[Item]:
        """Read the items of up to 100 keys, asking again for those the table had no capacity or room for."""
        wanted: dict[str, Any] = {self.table: {"Keys": keys, "ConsistentRead": True}}
        items: list[Item] = []
        for _ in self._attempts("read"):
            response = self._call("batch_get_item", RequestItems=wanted)
            items += response.get("Responses", {}).get(self.table, ())
            wanted = response.get("UnprocessedKeys")
            if not wanted:
                break
        return items

    # Writing

    def _write(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        for write in writes:
            self._check_size(write)
        losers: list[TaskRecord | None] = [None] * len(writes)
        for positions in _rounds(writes):
            batch = [writes[position] for position in positions]
            for position, loser in zip(positions, self._write_distinct(batch), strict=True):
                losers[position] = loser
        return losers

    def _check_size(self, write: Write) -> None:
        size = len(write.data) if write.data.isascii() else len(write.data.encode())
        if size > self.max_data:
            raise BackendStoreError(
                f"the result of task {write.id} has {size:,} bytes, over the {self.max_data:,} that fit an item of "
                f"{self.describe()}; return a reference to the data instead, or set ignore_result",
                state=write.status,
                task_id=write.id,
            )
        if len(write.id.encode()) > DYNAMODB_MAX_PARTITION_KEY_BYTES - len(KEY_PREFIX):
            raise BackendStoreError(f"the task id {write.id[:40]!r}… is too long for a DynamoDB key", task_id=write.id)

    def _write_distinct(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        """Apply writes of different tasks."""
        if len(writes) == 1:
            return [self._upsert(writes[0])]
        answers: list[TaskRecord | Undecided | None] = [
            answer
            for batch in aws.together(self._execute, list(aws.chunks(writes, DYNAMODB_MAX_BATCH_STATEMENTS)))
            for answer in batch
        ]
        open_positions = [position for position, answer in enumerate(answers) if isinstance(answer, Undecided)]
        alone = aws.together(self._upsert, [writes[position] for position in open_positions])
        decided = dict(zip(open_positions, alone, strict=True))
        return [decided[n] if isinstance(answer, Undecided) else answer for n, answer in enumerate(answers)]

    def _upsert(self, write: Write) -> TaskRecord | None:
        """Apply one write by UpdateItem, whatever is there; return the record that stood against it."""
        row = dict(zip((f":{name}" for name in COLUMNS), values(write), strict=True))
        compared = checks(write)
        for _ in self._attempts("write"):
            now = self.clock.time()
            moment = {":now": {"N": repr(now)}}
            old = self._update_item(write.id, f"SET {ASSIGNMENTS}", _APPLIES, NAMES, {**row, **compared, **moment})
            if old and not is_alive(old, now):
                old = self._update_item(write.id, f"SET {ASSIGNMENTS} REMOVE v", _EXPIRED, NAMES, {**row, **moment})
            if old is None:
                return None
            answer = judge(old, write, self.clock.time())
            if not isinstance(answer, Undecided):
                return answer
        return None

    def _execute(self, writes: Sequence[Write]) -> list[TaskRecord | Undecided | None]:
        """Apply up to 25 writes of different tasks in one call; leave undecided what was guessed wrong."""
        answers: list[TaskRecord | Undecided | None] = [UNDECIDED] * len(writes)
        pending = list(range(len(writes)))
        for _ in self._attempts("write"):
            now = self.clock.time()
            statements = [self._statement(writes[position], now) for position in pending]
            responses = self._call("batch_execute_statement", Statements=statements)["Responses"]
            throttled = []
            for position, response in zip(pending, responses, strict=True):
                error = response.get("Error")
                if error is None:
                    answers[position] = None
                elif error["Code"] in _RETRIED:
                    throttled.append(position)
                elif error["Code"] not in {"ConditionalCheckFailed", "DuplicateItem", "ResourceNotFound"}:
                    reason = f"{error['Code']}: {error.get('Message', '')}"
                    raise aws.ServiceError(
                        f"a write of task {writes[position].id} to {self.describe()} failed: {reason}"
                    )
                else:
                    answers[position] = judge(error.get("Item", {}), writes[position], now)
            pending = throttled
            if not pending:
                break
        return answers

    def _statement(self, write: Write, now: float) -> dict[str, Any]:
        """Return an INSERT or an UPDATE, by what is known or likely of the row."""
        exists = write.exists
        if exists is None:
            exists = bool(write.attempt or write.gen)
        if not exists:
            return insert_statement(self.table, write)
        return update_statement(self.table, write, now)

    def _write_together(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        for write in writes:
            self._check_size(write)
        expired: set[str] = set()  # rows that count as absent, and must be so still
        for _ in self._attempts("write"):
            now = self.clock.time()
            items = [{"Update": self._conditional_update(write, write.id in expired, now)} for write in writes]
            reasons = self._transact(items)
            losers: list[TaskRecord | None] = [None] * len(writes)
            for position, (write, reason) in enumerate(zip(writes, reasons, strict=False)):
                if reason.get("Code") != "ConditionalCheckFailed":
                    continue
                item = reason.get("Item", {})
                (expired.add if item and not is_alive(item, now) else expired.discard)(write.id)
                answer = judge(item, write, now)
                if answer is None:
                    return [None] * len(writes)  # the lot was applied before, and the call repeated
                if not isinstance(answer, Undecided):
                    losers[position] = answer
            if not reasons or any(losers):
                return losers
        raise AssertionError("unreachable")

    def _transact(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Carry out a transaction; return nothing if it took effect, else for each item why it did not."""
        try:
            self._call("transact_write_items", TransactItems=items)
        except aws.ServiceError as error:
            reasons: list[dict[str, Any]] = error.response.get("CancellationReasons", [])
            codes = {str(reason.get("Code", "None")) for reason in reasons}
            if error.code != "TransactionCanceledException" or not codes <= _CANCELLED:
                raise
            return reasons
        return []

    def _conditional_update(self, write: Write, expired: bool, now: float) -> dict[str, Any]:
        row = dict(zip((f":{name}" for name in COLUMNS), values(write), strict=True))
        compared = {} if expired else checks(write)
        return {
            "TableName": self.table,
            "Key": key(write.id),
            "UpdateExpression": f"SET {ASSIGNMENTS} REMOVE v" if expired else f"SET {ASSIGNMENTS}",
            "ConditionExpression": _EXPIRED if expired else _APPLIES,
            "ExpressionAttributeNames": NAMES,
            "ExpressionAttributeValues": {**row, **compared, ":now": {"N": repr(now)}},
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }

    def _update_item(
        self, task_id: str, update: str, condition: str, names: Mapping[str, str], values: Mapping[str, Any]
    ) -> Item | None:
        """Update an item on a condition; return `None` if it held, else the item, empty if there is none."""
        try:
            self._call(
                "update_item",
                TableName=self.table,
                Key=key(task_id),
                UpdateExpression=update,
                ConditionExpression=condition,
                ExpressionAttributeNames=names,
                ExpressionAttributeValues=values,
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except aws.ServiceError as error:
            if error.code == "TransactionConflictException":  # a transaction has the item: look again
                return {}
            if error.code != "ConditionalCheckFailedException":
                raise
            item: Item = error.response.get("Item", {})
            return item
        return None

    def _take_slots(self, bucket: str, floor: int, step: int, count: int, latest: int | None) -> tuple[int, int]:
        return self._rates.take(bucket, floor, step, count, latest)

    # Revoking and forgetting

    def revoke(self, ids: Sequence[str], expires_at: float, revocation: Revocation = Revocation.FLAG) -> None:
        """Say that tasks are not wanted any more, making a PENDING record where there is none."""
        aws.together(lambda task_id: self._revoke(task_id, expires_at, revocation), list(dict.fromkeys(ids)))

    def _revoke(self, task_id: str, expires_at: float, revocation: Revocation) -> None:
        fresh = Write(task_id, PENDING, 0, 0, 0, final=False, token="", expires_at=expires_at)
        row = dict(zip((f":{name}" for name in COLUMNS), values(fresh), strict=True))
        flag = {":v": {"N": str(int(revocation))}}
        # A mere flag takes no termination back.
        mark = "v = if_not_exists(v, :v)" if revocation is Revocation.FLAG else "v = :v"
        until, ttl = {":ttl": row[":ttl"]}, {"#ttl": TTL}
        missing = ", ".join(f"#{name} = if_not_exists(#{name}, :{name})" for name in COLUMNS[:-1])
        for _ in self._attempts("revoke"):
            now = self.clock.time()
            moment = {":now": {"N": repr(now)}}
            old = self._update_item(
                task_id,
                f"SET {missing}, #ttl = :ttl, {mark}",
                "attribute_not_exists(pk) OR (#ttl > :now AND #ttl < :ttl)",
                NAMES,
                {**row, **flag, **moment},
            )
            if old and is_alive(old, now):
                # It lives longer than the flag asks for: leave it its time.
                old = self._update_item(task_id, f"SET {mark}", "#ttl >= :ttl", ttl, {**flag, **until})
            elif old:
                update = f"SET {ASSIGNMENTS}, v = :v"
                old = self._update_item(task_id, update, _EXPIRED, NAMES, {**row, **flag, **moment})
            if old is None:
                return

    def forget(self, ids: Sequence[str]) -> None:
        """Remove records."""
        aws.together(self._delete, list(aws.chunks(list(dict.fromkeys(ids)), DYNAMODB_MAX_BATCH_WRITE)))

    def _delete(self, ids: Sequence[str]) -> None:
        wanted: Any = {self.table: [{"DeleteRequest": {"Key": key(task_id)}} for task_id in ids]}
        for _ in self._attempts("delete"):
            wanted = self._call("batch_write_item", RequestItems=wanted).get("UnprocessedItems")
            if not wanted:
                break

    # Calls and the table

    def _call(self, operation: str, **parameters: Any) -> Any:
        """Call DynamoDB, making the table where it is missing and may be made."""
        client = aws.client("dynamodb", self._settings)
        try:
            return aws.call(client, operation, f"table {self.table}", **parameters)
        except aws.ServiceError as error:
            if error.code != "ResourceNotFoundException":
                raise
            if not self._may_create(client):
                raise aws.ServiceError(
                    f"there is no DynamoDB table {self.table!r} at {client.meta.endpoint_url}: deploy the template, "
                    "check region and account, or have it made with the option create_table=True",
                    error.code,
                ) from error
        self._create_table(client)
        return aws.call(client, operation, f"table {self.table}", **parameters)

    def _may_create(self, client: Any) -> bool:
        """Say whether the table may be made: if the option says so, else at an emulator only."""
        return not aws.is_aws(client.meta.endpoint_url) if self._create is None else self._create

    def _create_table(self, client: Any) -> None:
        target = f"table {self.table}"
        try:
            aws.call(
                client,
                "create_table",
                target,
                TableName=self.table,
                BillingMode="PAY_PER_REQUEST",
                AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
                KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
            )
        except aws.ServiceError as error:
            if error.code != "ResourceInUseException":  # someone else is making it
                raise
        deadline = self.clock.monotonic() + _CREATION_PATIENCE
        while self._status(client) != "ACTIVE":
            if self.clock.monotonic() > deadline:
                raise aws.ServiceError(f"the new DynamoDB {target} did not become active in {_CREATION_PATIENCE:g} s")
            self.clock.sleep(0.2)
        specification = {"Enabled": True, "AttributeName": TTL}
        try:
            aws.call(
                client, "update_time_to_live", target, TableName=self.table, TimeToLiveSpecification=specification
            )  # fmt: skip
        except aws.ServiceError as error:
            if error.code != "ValidationException":  # it is on already
                raise

    def _status(self, client: Any) -> str:
        try:
            table = aws.call(client, "describe_table", f"table {self.table}", TableName=self.table)["Table"]
        except aws.ServiceError as error:
            if error.code != "ResourceNotFoundException":  # a new table may not be seen everywhere yet
                raise
            return ""
        return str(table["TableStatus"])

    def _attempts(self, what: str) -> Iterator[int]:
        """Count attempts, waiting longer between them, with jitter; give up after ``retry_timeout``, or out of time."""
        patience = min(self._patience, aws_bounds.time_left("dynamodb"))
        deadline = self.clock.monotonic() + patience
        for attempt in itertools.count():
            yield attempt
            left = deadline - self.clock.monotonic()
            if left <= 0:
                raise OperationalError(
                    f"{self.describe()} had no capacity to {what} within {patience:.3g} s (option retry_timeout)"
                )
            self.clock.sleep(min(left, random.uniform(0.0, min(1.0, 0.05 * 2**attempt))))


def _rounds(writes: Sequence[Write]) -> list[list[int]]:
    """Sort positions into rounds that name a task once; the writes of one task stay in their order."""
    rounds: list[list[int]] = []
    seen: dict[str, int] = {}
    for position, write in enumerate(writes):
        turn = seen.get(write.id, 0)
        seen[write.id] = turn + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(position)
    return rounds
