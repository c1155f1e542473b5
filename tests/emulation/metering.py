"""What AWS would bill for the calls of botocore clients: requests of SQS and S3, capacity units of DynamoDB.

    with Meter(sqs, dynamodb) as meter:
        ...
    meter.calls["sqs:SendMessageBatch"], meter.sqs_requests, meter.write_units, meter.read_units

Units are those that the endpoint answers with, but where the emulator is wrong or silent: reads in batches (an item
that is not there takes a unit too), PartiQL statements, refused updates. Those are counted by the items' sizes.
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html
"""

import math
import re
import threading
from collections import Counter
from typing import Any, Self

_CHUNK = 65_536
"""Bytes of a payload that SQS takes for one request: https://aws.amazon.com/sqs/pricing/"""

_COLUMN = re.compile(r"""["'](\w+)["'](?:: | = )(\?|[\w.+-]+)""")


class Meter:
    """Counts the calls of clients, from any thread; ``calls`` has them by ``service:Operation``."""

    def __init__(self, *clients: Any) -> None:
        self._clients = clients
        self.calls: Counter[str] = Counter()
        self.sqs_requests = 0
        self.write_units = 0.0
        self.read_units = 0.0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        for client in self._clients:
            client.meta.events.register("provide-client-params", self._ask)
            client.meta.events.register("after-call", self._count)
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.meta.events.unregister("provide-client-params", self._ask)
            client.meta.events.unregister("after-call", self._count)

    def _ask(self, params: dict[str, Any], model: Any, context: dict[str, Any], **_: Any) -> None:
        context["metered"] = params
        if "ReturnConsumedCapacity" in (model.input_shape.members if model.input_shape else ()):
            params["ReturnConsumedCapacity"] = "TOTAL"

    def _count(self, model: Any, parsed: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        service, params = model.service_model.service_name, context.get("metered", {})
        with self._lock:
            self.calls[f"{service}:{model.name}"] += 1
            if service == "sqs":
                self.sqs_requests += max(1, math.ceil(_payload(params, parsed) / _CHUNK))
            elif service == "dynamodb":
                self._count_units(model.name, params, parsed)

    def _count_units(self, operation: str, params: dict[str, Any], parsed: dict[str, Any]) -> None:
        used = parsed.get("ConsumedCapacity")
        units = sum(each["CapacityUnits"] for each in (used if isinstance(used, list) else [used] if used else []))
        if operation == "BatchGetItem":
            self.read_units += _units_of_batch(params, parsed)
        elif operation in ("GetItem", "Query", "Scan"):
            self.read_units += units
        elif operation == "BatchExecuteStatement":
            self.write_units += sum(_write_units(statement_size(each)) for each in params["Statements"])
        elif "Error" in parsed:
            self.write_units += _write_units(item_size(parsed.get("Item", {})))
        else:
            self.write_units += units


def _payload(params: dict[str, Any], parsed: dict[str, Any]) -> int:
    sent = [params, *params.get("Entries", ())]
    size = sum(len(each.get("MessageBody", "").encode()) + _attributes(each) for each in sent)
    received = parsed.get("Messages") or ()
    return size + sum(len(each["Body"].encode()) + _attributes(each) for each in received)


def _attributes(message: dict[str, Any]) -> int:
    """Return the size of message attributes: names, types and values count."""
    attributes = message.get("MessageAttributes") or {}
    return sum(
        len(name) + len(each["DataType"]) + len(each.get("StringValue", "").encode())
        for name, each in attributes.items()
    )


def _units_of_batch(params: dict[str, Any], parsed: dict[str, Any]) -> float:
    """Return the units of a BatchGetItem that left nothing for another call: of each item by itself, at least one."""
    total = 0.0
    for table, wanted in params["RequestItems"].items():
        found = parsed.get("Responses", {}).get(table, [])
        units = len(wanted["Keys"]) - len(found) + sum(max(1, math.ceil(item_size(item) / 4096)) for item in found)
        total += units if wanted.get("ConsistentRead") else units / 2
    return total


def _write_units(size: int) -> int:
    return max(1, math.ceil(size / 1024))


def statement_size(statement: dict[str, Any]) -> int:
    """Return the bytes of the item that a PartiQL statement writes, all of whose attributes it names."""
    head, parameters = statement["Statement"].partition(" WHERE ")[0], list(statement["Parameters"])
    item: dict[str, Any] = {}
    for name, literal in _COLUMN.findall(head):
        if literal == "?":
            item[name] = parameters.pop(0)
        else:
            item[name] = {"NULL": True} if literal in ("NULL", "TRUE", "FALSE") else {"N": literal}
    if "pk" not in item:  # an UPDATE names its key behind WHERE
        item["pk"], item["sk"] = parameters[:2]
    return item_size(item)


def item_size(item: dict[str, Any]) -> int:
    """Return the bytes that DynamoDB counts for an item of texts, numbers, flags and sets of numbers.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html
    """
    total = 0
    for name, value in item.items():
        ((kind, content),) = value.items()
        numbers = content if kind == "NS" else [content] if kind == "N" else []
        total += len(name) + sum(len(number) // 2 + 2 for number in numbers)
        total += len(content.encode()) if kind == "S" else 3 if kind == "NS" else 1 if kind in ("BOOL", "NULL") else 0
    return total
