"""SQS, DynamoDB and Scheduler inside this process (moto) at the time of a clock that the test moves.

The real adapters and the Lambda handler run above it. Where moto is milder or stricter than AWS it is corrected: what
is older than the retention is gone, rows past their TTL are gone at once, the 12 hours of visibility count from the
receipt, a FIFO queue remembers deduplication ids of deleted messages for five minutes, PartiQL is understood as far
as the result backend speaks it, and one-time schedules fire, at any moment of the minute after their time.
"""

from __future__ import annotations

import json
import random
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any
from unittest import mock

import boto3
import moto
from botocore.exceptions import EndpointConnectionError
from moto.dynamodb.models import DynamoDBBackend, dynamodb_backends
from moto.scheduler.models import scheduler_backends
from moto.sqs import models as sqs

from dispatcher import Dispatcher, aws
from dispatcher.clock import ManualClock
from dispatcher.lambda_runtime.batches import Worker

REGION, ACCOUNT, TABLE = "us-east-1", "123456789012", "records"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/schedules"
DAY = 86_400.0
VISIBILITY = 5_400
DEDUPLICATION = 300.0


class Context:
    """What the runtime client passes beside the event."""

    aws_request_id = "1"
    function_name = "worker"
    memory_limit_in_mb = "512"
    invoked_function_arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:worker"

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        """Return the 15 minutes that an invocation has; no real time passes in one."""
        return 900_000


class SimulatedAws:
    """A queue with its dead letters, a table, and an app with its Lambda worker, fed one batch at a time."""

    def __init__(
        self, *, fifo: bool = False, receives: int = 100, retention: float = 4 * DAY, scheduler: bool = False,
        **settings: Any,
    ) -> None:  # fmt: skip
        self.clock = ManualClock(float(int(time.time())))
        self.suffix = ".fifo" if fifo else ""
        self.queue = f"default{self.suffix}"
        self.retention = retention
        self.dropped: list[str] = []
        self.swallowed: list[str] = []
        self.calls: Counter[str] = Counter()
        self.database_away = self.scheduler_away = False
        #: how often each batch is delivered
        self.deliveries = 1
        #: how often each schedule fires, and how late, in seconds
        self.firings = 1
        self.lateness: Callable[[], float] = lambda: random.uniform(0, 59.9)
        self.fired: list[str] = []
        self._due: dict[str, float] = {}
        self._remembered: dict[str, float] = {}
        self._stack = ExitStack()
        self._patch()
        self.sqs = boto3.client("sqs", REGION)
        self.scheduler = boto3.client("scheduler", REGION)
        self.dead_url = self._make_queue(f"default-dead{self.suffix}", 14 * DAY)
        arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:default-dead{self.suffix}"
        self.url = self._make_queue(
            self.queue, retention, RedrivePolicy=f'{{"deadLetterTargetArn":"{arn}","maxReceiveCount":{receives}}}'
        )
        # Keys of their own, so that the session, which other tests use as well, does not remember any.
        config = {
            "client-config": {"retries": {"total_max_attempts": 1}}, "access_key_id": "a", "secret_access_key": "b",
        }  # fmt: skip
        role = {"scheduler_role": ROLE if scheduler else None}
        urls = {"predefined_queues": {f"default{kind}{self.suffix}": {"url": url} for kind, url in self._urls()}}
        self.app = Dispatcher(
            f"simulated-{uuid.uuid4().hex[:6]}", clock=self.clock, broker=f"sqs://{REGION}",
            backend=f"dynamodb://{REGION}/{TABLE}", broker_transport_options={**urls, **config, **role},
            result_backend_transport_options={**config, "create_table": True, "retry_timeout": 0},
            task_default_queue=self.queue, set_as_current=False, metrics_namespace=None, task_publish_retry=False,
            **settings,
        )  # fmt: skip
        self.worker = Worker(lambda: self.app, self.clock)
        self.app.finalize()
        self.app.backend.open()
        settings = self.app.backend._settings  # type: ignore[attr-defined]
        clients = [aws.client("dynamodb", settings), self.app.broker._queues.client("")]  # type: ignore[attr-defined]
        if scheduler:
            clients.append(aws.client("scheduler", self.app.broker.delays.scheduler("")._settings))  # type: ignore[attr-defined]
            self.scheduler_events = clients[-1].meta.events
        for client in clients:
            client.meta.events.register("before-call", self._count)
            self._stack.callback(client.meta.events.unregister, "before-call", self._count)

    def _urls(self) -> list[tuple[str, str]]:
        return [("", self.url), ("-dead", self.dead_url)]

    def _make_queue(self, name: str, retention: float, **more: str) -> str:
        attributes = {"MessageRetentionPeriod": str(int(retention)), "VisibilityTimeout": str(VISIBILITY), **more}
        if self.suffix:
            attributes["FifoQueue"] = "true"
        return str(self.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])

    def _patch(self) -> None:
        enter = self._stack.enter_context
        enter(moto.mock_aws())
        enter(mock.patch.object(sqs, "unix_time", self.clock.time))
        enter(mock.patch.object(sqs, "unix_time_millis", self._milliseconds))
        enter(mock.patch.object(DynamoDBBackend, "batch_execute_statement", _execute))
        enter(mock.patch.object(sqs.SQSBackend, "change_message_visibility", _change_visibility))
        enter(mock.patch.object(sqs.Message, "mark_received", _noting_receipt(sqs.Message.mark_received)))
        enter(mock.patch.object(sqs.Queue, "add_message", self._adding(sqs.Queue.add_message)))

    def _milliseconds(self) -> float:
        return self.clock.time() * 1000

    def _count(self, model: Any, **more: Any) -> None:
        self.calls[model.name] += 1
        if self.database_away and model.service_model.service_name == "dynamodb":
            raise EndpointConnectionError(endpoint_url="dynamodb")
        if self.scheduler_away and model.service_model.service_name == "scheduler":
            raise EndpointConnectionError(endpoint_url="scheduler")

    def _adding(self, add: Callable[..., None]) -> Callable[..., None]:
        def remembering(queue: Any, message: Any) -> None:
            known, now = message.deduplication_id, self.clock.time()
            if known is not None:
                key = f"{queue.name}/{known}"
                if now - self._remembered.get(key, -DEDUPLICATION) < DEDUPLICATION:
                    self.swallowed.append(known)
                    return
                self._remembered[key] = now
            add(queue, message)

        return remembering

    def close(self) -> None:
        """Close connections and leave moto."""
        self.worker.close()
        self._stack.close()

    # Looking beneath

    def _messages(self, name: str) -> list[Any]:
        messages: list[Any] = sqs.sqs_backends[ACCOUNT][REGION].queues[name]._messages
        return messages

    @property
    def messages(self) -> list[Any]:
        """The messages of the queue, whether visible or not."""
        return self._messages(self.queue)

    @property
    def dead(self) -> list[Any]:
        """The dead letters."""
        return self._messages(f"default-dead{self.suffix}")

    def _rows(self) -> Iterator[tuple[dict[Any, Any], Any, float]]:
        table = dynamodb_backends[ACCOUNT][REGION].tables.get(TABLE)
        for rows in table.items.values() if table is not None else ():
            for key, row in list(rows.items()):
                yield rows, key, float(row.attrs["ttl"].value)

    def record(self, task_id: str) -> Any:
        """Return a task's record, `None` without one."""
        return self.app.backend.read([task_id]).get(task_id)

    # Time and work

    def expire(self) -> None:
        """Drop what is past its time."""
        now = self.clock.time()
        for rows, key, ttl in self._rows():
            if ttl <= now:
                del rows[key]
        for message in list(self.messages):
            if message.sent_timestamp / 1000 + self.retention <= now:
                self.messages.remove(message)
                self.dropped.append(message.body)

    @property
    def schedules(self) -> dict[str, Any]:
        """The schedules there are, by name."""
        found: dict[str, Any] = scheduler_backends[ACCOUNT][REGION].schedule_groups["default"].schedules
        return found

    def fire(self) -> None:
        """Let the schedules fire that are due, and be gone."""
        for name, schedule in list(self.schedules.items()):
            at = datetime.fromisoformat(schedule.schedule_expression[3:-1]).replace(tzinfo=UTC).timestamp()
            if self._due.setdefault(name, at + self.lateness()) <= self.clock.time():
                self._deliver(schedule.target)
                self.fired.append(name)
                del self.schedules[name], self._due[name]

    def _deliver(self, target: Any) -> None:
        if target["Arn"].endswith("aws-sdk:sqs:sendMessage"):
            sent = json.loads(target["Input"])
        else:
            assert target["Arn"] == f"arn:aws:sqs:{REGION}:{ACCOUNT}:{self.queue}"
            sent = {"QueueUrl": self.url, "MessageBody": target["Input"], **target.get("SqsParameters", {})}
        for _ in range(self.firings):
            self.sqs.send_message(**sent)

    def wait(self) -> None:
        """Let time pass until a message is visible, or a schedule fires."""
        now = self.clock.time()
        times = [max(message.visible_at, message.delayed_until) / 1000 for message in self.messages]
        times += self._due.values()
        later = [due for due in times if due >= now]  # those before wait behind others of their group
        self.clock.advance(min(later, default=now + 1) - now + 0.002)

    def take(self) -> list[dict[str, Any]]:
        """Receive up to ten messages as records of an event."""
        answer = self.sqs.receive_message(
            QueueUrl=self.url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["All"]
        )
        return [
            {
                "messageId": message["MessageId"], "receiptHandle": message["ReceiptHandle"], "body": message["Body"],
                "attributes": message["Attributes"], "messageAttributes": {}, "eventSource": "aws:sqs",
                "eventSourceARN": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{self.queue}", "awsRegion": REGION,
            }
            for message in answer.get("Messages", ())
        ]  # fmt: skip

    def invoke(self, records: list[dict[str, Any]]) -> None:
        """Run a batch, as often as it is delivered, and delete what the handler does not report."""
        for _ in range(self.deliveries):
            answer = self.worker({"Records": records}, Context)
            reported = {item["itemIdentifier"] for item in answer["batchItemFailures"]}
            self._delete(records, reported)

    def _delete(self, records: list[dict[str, Any]], reported: set[str]) -> None:
        for record in records:
            if record["messageId"] not in reported:
                self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=record["receiptHandle"])

    def step(self) -> None:
        """Hand the next batch to the worker, as soon as there is one."""
        self.expire()
        self.fire()
        records = self.take()
        if records:
            self.invoke(records)
        elif self.messages or self.schedules:
            self.wait()

    def work(self, until: Callable[[], bool] | None = None, steps: int = 5_000) -> None:
        """Go on until the queue is empty or the condition holds; nothing may be lost or given up on the way."""
        for _ in range(steps):
            if until is not None and until():
                return
            if not self.messages and not self.schedules:
                assert until is None, "the queue is empty, and it never came to that"
                return
            self.step()
            assert not self.dropped, "a message was older than the queue's retention"
        raise AssertionError(f"not done after {steps} steps")

    def rotate(self) -> None:
        """Put what was received behind what was not, and the rest into another order, as a standard queue may."""
        random.shuffle(self.messages)
        self.messages.sort(key=lambda message: message.approximate_receive_count)


MakeAws = Callable[..., SimulatedAws]


def _noting_receipt(mark: Callable[..., None]) -> Callable[..., None]:
    def marking(message: Any, visibility_timeout: int | None = None) -> None:
        message.received_at = sqs.unix_time()
        mark(message, visibility_timeout)

    return marking


def _change_visibility(backend: Any, queue_name: str, receipt_handle: str, visibility_timeout: int) -> None:
    """Change the visibility of a message, within 12 hours of its receipt (moto: of its sending)."""
    queue = backend.get_queue(queue_name)
    for message in queue._messages:
        if message.receipt_handle == receipt_handle:
            if sqs.unix_time() + int(visibility_timeout) - message.received_at > 43_200:
                raise sqs.InvalidParameterValue("Total VisibilityTimeout for the message is beyond the limit")
            message.change_visibility(visibility_timeout)
            if not int(visibility_timeout):
                queue.pending_messages.discard(message)
            return
    raise sqs.ReceiptHandleIsInvalid


def _execute(backend: Any, statements: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Carry out statements that insert or update one row; moto cannot read parameters in an INSERT."""
    return [_execute_one(backend, each["Statement"], iter(each["Parameters"])) for each in statements]


def _execute_one(backend: Any, statement: str, parameters: Iterator[Any]) -> dict[str, Any]:
    inserts = statement.startswith("INSERT")
    pattern = r"'(\w+)': ([^,}]+)" if inserts else r'SET "(\w+)" = (\S+)'
    row = {name: _value(literal, parameters) for name, literal in re.findall(pattern, statement)}
    key = {name: row.pop(name) if inserts else next(parameters) for name in ("pk", "sk")}
    found = backend.get_item(TABLE, key)
    old = None if found is None else found.to_json()["Attributes"]
    if inserts and old is not None:
        return {"Error": {"Code": "DuplicateItem", "Message": "Duplicate primary key exists in table"}}
    if not inserts:
        wanted = re.search(r'"g" = (\d+) AND "r" = (\d+) AND "f" = FALSE AND "ttl" > ([\d.]+)$', statement)
        assert wanted is not None, statement
        gen, retries, now = wanted.groups()
        if (
            old is None
            or (old["g"]["N"], old["r"]["N"], old["f"]["BOOL"]) != (gen, retries, False)
            or (float(old["ttl"]["N"]) <= float(now))
        ):
            return {"Error": {"Code": "ConditionalCheckFailed", "Message": "", "Item": old or {}}}
    backend.put_item(TABLE, {**(old or {}), **key, **row})
    return {"TableName": TABLE}


def _value(literal: str, parameters: Iterator[Any]) -> Any:
    if literal == "?":
        return next(parameters)
    if literal in ("TRUE", "FALSE"):
        return {"BOOL": literal == "TRUE"}
    return {"NULL": True} if literal == "NULL" else {"N": literal}
