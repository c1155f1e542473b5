"""A model of DynamoDB, as much of it as the adapter asks for; it reads conditions and statements as they are."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import Any

from tests.fault.harness.expressions import Item, Request, plain
from tests.fault.harness.sqs import Parameters, ServiceFault

_PAIR = re.compile(r"""["'](\w+)["'](?:: | (=|>) )(\?|[\w.+-]+)""")


def _literal(text: str, parameters: list[Any]) -> dict[str, Any]:
    if text == "?":
        return dict(parameters.pop(0))
    if text in ("TRUE", "FALSE"):
        return {"BOOL": text == "TRUE"}
    return {"NULL": True} if text == "NULL" else {"N": text}


class DynamoDb:
    """The service; every read is strongly consistent, TTL deletes nothing."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[tuple[str, str], Item]] = {}
        self._lock = threading.Lock()

    def __call__(self, operation: str, parameters: Parameters) -> Any:
        """Carry out a call; raises `ServiceFault`."""
        with self._lock:
            return getattr(self, "_" + re.sub(r"(?<!^)([A-Z])", r"_\1", operation).lower())(parameters)

    def _table(self, name: str) -> dict[tuple[str, str], Item]:
        if name not in self.tables:
            raise ServiceFault("ResourceNotFoundException")
        return self.tables[name]

    def _create_table(self, parameters: Parameters) -> Any:
        if parameters["TableName"] in self.tables:
            raise ServiceFault("ResourceInUseException")
        self.tables[parameters["TableName"]] = {}
        return {}

    def _describe_table(self, parameters: Parameters) -> Any:
        self._table(parameters["TableName"])
        return {"Table": {"TableStatus": "ACTIVE"}}

    def _update_time_to_live(self, parameters: Parameters) -> Any:
        return {}

    def _get_item(self, parameters: Parameters) -> Any:
        item = self._table(parameters["TableName"]).get(_key(parameters["Key"]))
        return {} if item is None else {"Item": item}

    def _batch_get_item(self, parameters: Parameters) -> Any:
        answer = {}
        for name, wanted in parameters["RequestItems"].items():
            table = self._table(name)
            answer[name] = [table[_key(key)] for key in wanted["Keys"] if _key(key) in table]
        return {"Responses": answer, "UnprocessedKeys": {}}

    def _batch_write_item(self, parameters: Parameters) -> Any:
        for name, requests in parameters["RequestItems"].items():
            for request in requests:
                self._table(name).pop(_key(request["DeleteRequest"]["Key"]), None)
        return {"UnprocessedItems": {}}

    def _update_item(self, parameters: Parameters) -> Any:
        table, key, request = self._table(parameters["TableName"]), _key(parameters["Key"]), Request(parameters)
        item = table.get(key)
        if not request.holds(item or {}):
            raise ServiceFault("ConditionalCheckFailedException", **({} if item is None else {"Item": item}))
        table[key] = request.apply({**parameters["Key"], **(item or {})})
        returned = table[key] if parameters.get("ReturnValues") == "ALL_NEW" else item or {}
        return {"Attributes": returned} if "ReturnValues" in parameters else {}

    def _transact_write_items(self, parameters: Parameters) -> Any:
        updates = [item["Update"] for item in parameters["TransactItems"]]
        reasons: list[dict[str, Any]] = []
        for update in updates:
            item = self._table(update["TableName"]).get(_key(update["Key"]))
            if Request(update).holds(item or {}):
                reasons.append({"Code": "None"})
            else:
                reasons.append({"Code": "ConditionalCheckFailed"} | ({} if item is None else {"Item": item}))
        if any(reason["Code"] != "None" for reason in reasons):
            raise ServiceFault("TransactionCanceledException", CancellationReasons=reasons)
        for update in updates:
            self._update_item(update)
        return {}

    def _batch_execute_statement(self, parameters: Parameters) -> Any:
        return {"Responses": [self._execute(statement) for statement in parameters["Statements"]]}

    def _execute(self, statement: Parameters) -> Any:
        text, parameters = statement["Statement"], list(statement["Parameters"])
        verb, name = text.split(" ", 1)[0], text.split('"')[1]
        table = self._table(name)
        head, _, tail = text.partition(" WHERE ")
        head = head.partition(f'"{name}"')[2]
        row = {target: _literal(value, parameters) for target, _, value in _PAIR.findall(head)}
        if verb == "INSERT":
            if _key(row) in table:
                return {"Error": {"Code": "DuplicateItem", "Message": "it exists"}}
            table[_key(row)] = row
            return {"TableName": name}
        checks = [(target, sign, _literal(value, parameters)) for target, sign, value in _PAIR.findall(tail)]
        key = _key({target: value for target, _, value in checks if target in ("pk", "sk")})
        item = table.get(key)
        if item is None or not all(_compare(item.get(target), sign, value) for target, sign, value in checks):
            shown = item if statement.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD" else None
            error = {"Code": "ConditionalCheckFailed", "Message": "the condition failed"}
            return {"Error": error | ({} if shown is None else {"Item": shown})}
        table[key] = {**item, **row}
        return {"TableName": name}


def _key(values: Mapping[str, Any]) -> tuple[str, str]:
    return values["pk"]["S"], values["sk"]["S"]


def _compare(found: Mapping[str, Any] | None, sign: str, wanted: Mapping[str, Any]) -> bool:
    if found is None:
        return False
    return bool(plain(found) == plain(wanted) if sign == "=" else plain(found) > plain(wanted))
