"""The emulated AWS does what a task queue depends on: SQS to Lambda to DynamoDB, with real limits."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from botocore.exceptions import ClientError

from dispatcher.local import processes
from tests.emulation.endpoint import AwsEndpoint, unique_name

T = TypeVar("T")

WORKER = """
import json, os, time
import boto3

table = boto3.client("dynamodb")
queue = boto3.client("sqs")

def handler(event, context):
    failures = []
    for record in event["Records"]:
        print("handling", record["body"])
        table.update_item(
            TableName=os.environ["TABLE"],
            Key={"pk": {"S": record["body"]}},
            UpdateExpression="ADD runs :one SET pid = :pid, #record = :record, #batch = :batch",
            ExpressionAttributeNames={"#record": "record", "#batch": "batch"},
            ExpressionAttributeValues={
                ":one": {"N": "1"},
                ":pid": {"N": str(os.getpid())},
                ":record": {"S": json.dumps(record)},
                ":batch": {"N": str(len(event["Records"]))},
            },
        )
        if record["body"].startswith("poison"):
            queue.change_message_visibility(
                QueueUrl=os.environ["QUEUE"], ReceiptHandle=record["receiptHandle"], VisibilityTimeout=0
            )
            failures.append({"itemIdentifier": record["messageId"]})
        if record["body"].startswith("hang"):
            time.sleep(60)
        if record["body"].startswith("unknown"):
            return {"batchItemFailures": [{"itemIdentifier": "unknown"}]}
    return {"batchItemFailures": failures}
"""


PID_FUNCTION = {"m.py": "import os\ndef handler(event, context): return os.getpid()\n"}


class Pipeline:
    """A queue with its dead-letter queue, a function behind it, and the table that the function writes to."""

    def __init__(self, aws: AwsEndpoint, *, timeout: int = 10, visibility: int = 30, **mapping: Any) -> None:
        self.aws = aws
        self.dead = aws.create_queue(unique_name("dead"))
        self.queue = aws.create_queue(
            unique_name("queue"), dead_letter_queue=self.dead, max_receive_count=2, visibility_timeout=visibility
        )
        self.table = aws.create_table(unique_name("table"))
        self.function = unique_name("function")
        aws.create_function(
            self.function,
            handler="worker.handler",
            sources={"worker.py": WORKER},
            environment={"TABLE": self.table, "QUEUE": self.queue},
            timeout=timeout,
        )
        aws.map_queue(self.queue, self.function, **mapping)

    def send(self, *bodies: str) -> None:
        for start in range(0, len(bodies), 10):
            entries = [{"Id": str(n), "MessageBody": body} for n, body in enumerate(bodies[start : start + 10])]
            answer = self.aws.client("sqs").send_message_batch(QueueUrl=self.queue, Entries=entries)
            assert not answer.get("Failed")

    def items(self) -> dict[str, dict[str, Any]]:
        found = self.aws.client("dynamodb").scan(TableName=self.table, ConsistentRead=True)["Items"]
        return {item["pk"]["S"]: item for item in found}

    def runs(self) -> Counter[str]:
        return Counter({body: int(item["runs"]["N"]) for body, item in self.items().items()})

    def is_drained(self) -> bool:
        return not any(self.aws.queue_depth(self.queue).values())


def eventually(condition: Callable[[], T]) -> T:
    """The first true value of `condition`; the test's own timeout is the limit."""
    while not (value := condition()):
        time.sleep(0.02)
    return value


def test_messages_reach_the_table_and_the_poison_reaches_the_dead_letter_queue(aws_endpoint: AwsEndpoint) -> None:
    """A partial batch failure keeps what was reported and deletes the rest; too many receives dead-letter it."""
    pipeline = Pipeline(aws_endpoint)
    good = [f"good-{n}" for n in range(19)]
    pipeline.send(*good[:13], "poison", *good[13:])
    eventually(lambda: aws_endpoint.queue_depth(pipeline.dead)["visible"] == 1)
    eventually(pipeline.is_drained)
    assert pipeline.runs() == Counter({**dict.fromkeys(good, 1), "poison": 2})
    [letter] = aws_endpoint.client("sqs").receive_message(QueueUrl=pipeline.dead, MessageSystemAttributeNames=["All"])[
        "Messages"
    ]
    assert letter["Body"] == "poison"
    assert letter["Attributes"]["DeadLetterQueueSourceArn"] == aws_endpoint.queue_arn(pipeline.queue)
    assert "handling poison" in aws_endpoint.function_log(pipeline.function)


def test_function_timeout_is_enforced_and_counts_as_a_failed_batch(aws_endpoint: AwsEndpoint) -> None:
    """A hanging function is killed at its timeout, and its message comes again until it is dead-lettered."""
    pipeline = Pipeline(aws_endpoint, timeout=1, visibility=2)
    pipeline.send("hang")
    eventually(lambda: aws_endpoint.queue_depth(pipeline.dead)["visible"] == 1)
    item = eventually(lambda: pipeline.runs()["hang"] == 2 and pipeline.items()["hang"])
    assert isinstance(item, dict)
    eventually(lambda: not processes.command(int(item["pid"]["N"])))
    assert any("Task timed out after 1.00 seconds" in line for line in aws_endpoint.function_log(pipeline.function))


def test_unusable_batch_response_fails_the_whole_batch(aws_endpoint: AwsEndpoint) -> None:
    """An identifier that is not in the batch makes every message of the batch come again."""
    pipeline = Pipeline(aws_endpoint, timeout=2, visibility=2)
    pipeline.send("unknown")
    eventually(lambda: aws_endpoint.queue_depth(pipeline.dead)["visible"] == 1)
    assert pipeline.runs() == {"unknown": 2}


def test_batching_window_gathers_messages(aws_endpoint: AwsEndpoint) -> None:
    """With a window, messages that arrive one after the other make one batch."""
    pipeline = Pipeline(aws_endpoint, window=2, batch_size=25)
    pipeline.send("a")
    pipeline.send("b", "c")
    eventually(pipeline.is_drained)
    items = pipeline.items()
    assert {item["batch"]["N"] for item in items.values()} == {"3"}


def test_event_record_has_the_shape_of_the_service(aws_endpoint: AwsEndpoint) -> None:
    """A record carries what the service's SQS event carries, the tenant of a fair queue included."""
    pipeline = Pipeline(aws_endpoint)
    aws_endpoint.client("sqs").send_message(
        QueueUrl=pipeline.queue,
        MessageBody="one",
        MessageGroupId="tenant",
        MessageAttributes={"kind": {"DataType": "String", "StringValue": "x"}},
    )
    record = json.loads(eventually(pipeline.items)["one"]["record"]["S"])
    assert record["eventSource"] == "aws:sqs"
    assert record["eventSourceARN"] == aws_endpoint.queue_arn(pipeline.queue)
    assert record["messageAttributes"]["kind"]["stringValue"] == "x"
    assert record["attributes"]["ApproximateReceiveCount"] == "1"
    assert record["attributes"]["MessageGroupId"] == "tenant"
    assert {"messageId", "receiptHandle", "md5OfBody", "awsRegion", "body"} <= record.keys()


@pytest.mark.parametrize(
    ("visibility", "settings", "message"),
    [
        (9, {}, "Queue visibility timeout: 9 seconds is less than Function timeout: 10 seconds"),
        (30, {"batch_size": 100}, "Maximum batch window in seconds must be greater than 0"),
    ],
)
def test_mapping_is_validated_at_creation(
    aws_endpoint: AwsEndpoint, visibility: int, settings: dict[str, int], message: str
) -> None:
    """A mapping that cannot work is refused as the service refuses it."""
    with pytest.raises(ClientError, match=message) as refusal:
        Pipeline(aws_endpoint, visibility=visibility, **settings)
    assert refusal.value.response["Error"]["Code"] == "InvalidParameterValueException"


def test_redrive_counts_receives_of_each_queue_afresh(aws_endpoint: AwsEndpoint) -> None:
    """A dead-letter queue with a redrive policy of its own gives a message its own number of receives."""
    sqs = aws_endpoint.client("sqs")
    last = aws_endpoint.create_queue(unique_name("last"))
    middle = aws_endpoint.create_queue(
        unique_name("middle"), dead_letter_queue=last, max_receive_count=2, visibility_timeout=0
    )
    first = aws_endpoint.create_queue(
        unique_name("first"), dead_letter_queue=middle, max_receive_count=3, visibility_timeout=0
    )
    sqs.send_message(QueueUrl=first, MessageBody="x")
    received: Counter[str] = Counter()
    while not aws_endpoint.queue_depth(last)["visible"]:
        for queue in (first, middle):
            received[queue] += len(sqs.receive_message(QueueUrl=queue).get("Messages", []))
    assert received == {first: 3, middle: 2}


def test_chaos_brings_duplicates_and_disorder_and_loses_nothing(aws_endpoint_chaos: AwsEndpoint) -> None:
    """With chaos every message is handled, some more than once, and none is dead-lettered for it."""
    pipeline = Pipeline(aws_endpoint_chaos)
    bodies = [f"message-{n:03}" for n in range(60)]
    pipeline.send(*bodies)
    eventually(pipeline.is_drained)
    runs = pipeline.runs()
    assert sorted(runs) == bodies
    assert runs.total() > len(bodies)
    assert aws_endpoint_chaos.queue_depth(pipeline.dead) == {"visible": 0, "in_flight": 0, "delayed": 0}


def test_chaos_spares_fifo_queues(aws_endpoint_chaos: AwsEndpoint) -> None:
    """FIFO queues keep their order and deliver once."""
    sqs = aws_endpoint_chaos.client("sqs")
    queue = aws_endpoint_chaos.create_queue(unique_name("orders") + ".fifo")
    for number in range(20):
        sqs.send_message(
            QueueUrl=queue, MessageBody=str(number), MessageGroupId="g", MessageDeduplicationId=str(number)
        )
    received = []
    while messages := sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages"):
        for message in messages:
            received.append(int(message["Body"]))
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    assert received == list(range(20))


def test_stale_receipts_are_treated_as_the_service_treats_them(aws_endpoint: AwsEndpoint) -> None:
    """Deleting by an old handle is confirmed and deletes nothing; changing its visibility is refused."""
    sqs = aws_endpoint.client("sqs")
    queue = aws_endpoint.create_queue(unique_name("queue"), visibility_timeout=0)
    sqs.send_message(QueueUrl=queue, MessageBody="x")
    old = sqs.receive_message(QueueUrl=queue)["Messages"][0]["ReceiptHandle"]
    sqs.receive_message(QueueUrl=queue)
    sqs.delete_message(QueueUrl=queue, ReceiptHandle=old)
    assert aws_endpoint.queue_depth(queue)["visible"] == 1
    with pytest.raises(ClientError, match="not available for visibility timeout change"):
        sqs.change_message_visibility(QueueUrl=queue, ReceiptHandle=old, VisibilityTimeout=5)


@pytest.mark.parametrize(
    "request_",
    [
        {"MessageBody": "x", "DelaySeconds": 901},
        {"MessageBody": "x", "MessageDeduplicationId": "d"},
        {"MessageBody": "x" * 1_048_577},
        {
            "MessageBody": "x",
            "MessageAttributes": {str(n): {"DataType": "String", "StringValue": "v"} for n in range(11)},
        },
        {"MessageBody": "x" * 1_048_570, "MessageAttributes": {"a": {"DataType": "String", "StringValue": "v"}}},
    ],
    ids=["delay", "deduplication on standard", "size", "attributes", "size with attributes"],
)
def test_sends_over_the_limits_are_refused(aws_endpoint: AwsEndpoint, request_: dict[str, Any]) -> None:
    """What the service refuses to queue is refused."""
    queue = aws_endpoint.create_queue(unique_name("queue"))
    with pytest.raises(ClientError) as refusal:
        aws_endpoint.client("sqs").send_message(QueueUrl=queue, **request_)
    assert refusal.value.response["Error"]["Code"] == "InvalidParameterValue"


def test_no_message_is_lost_between_senders_and_the_mapping(aws_endpoint: AwsEndpoint) -> None:
    """Messages that are sent while others are received and deleted all arrive."""
    pipeline = Pipeline(aws_endpoint)
    for number in range(0, 200, 10):
        pipeline.send(*(f"m{n}" for n in range(number, number + 10)))
    eventually(lambda: pipeline.is_drained() and len(pipeline.items()) == 200)


def test_auth_enforces_the_role_of_a_function() -> None:
    """With `auth` a function may do what its role allows and nothing else."""
    source = {
        "m.py": (
            "import boto3\n"
            "def handler(event, context):\n"
            "    boto3.client('dynamodb').describe_table(TableName=event)\n"
            "    boto3.client('dynamodb').delete_table(TableName=event)\n"
        )
    }
    with AwsEndpoint(auth=True) as aws:
        table = aws.create_table("results")
        role = aws.create_role("reader", "dynamodb:DescribeTable")
        aws.create_function("reads", handler="m.handler", sources=source, role=role)
        aws.create_function("deletes", handler="m.handler", sources=source)
        payload = json.dumps(table).encode()
        refused = aws.client("lambda").invoke(FunctionName="reads", Payload=payload)
        assert "AccessDeniedException" in refused["Payload"].read().decode()
        assert "FunctionError" not in aws.client("lambda").invoke(FunctionName="deletes", Payload=payload)


def test_reset_removes_every_resource() -> None:
    """After `reset` the endpoint is as new, and goes on serving."""
    with AwsEndpoint() as aws:
        queue = aws.create_queue("queue")
        aws.create_function("pid", handler="m.handler", sources=PID_FUNCTION)
        aws.map_queue(queue, "pid")
        pid = int(aws.client("lambda").invoke(FunctionName="pid", Payload=b"{}")["Payload"].read())
        aws.reset()
        assert not aws.client("sqs").list_queues().get("QueueUrls")
        assert aws.client("lambda").list_functions()["Functions"] == []
        assert not processes.command(pid)
        aws.create_queue("queue")


def test_environment_points_any_sdk_at_the_endpoint(aws_env: AwsEndpoint) -> None:
    """With `aws_env` a client made without arguments talks to the emulator."""
    import botocore.session

    client = botocore.session.Session().create_client("sqs")
    assert client.meta.endpoint_url == aws_env.url
    client.list_queues()
    client.close()


def test_close_ends_the_emulator_and_its_functions() -> None:
    """After `close` neither the emulator nor a function's process is left."""
    with AwsEndpoint() as aws:
        aws.create_function("pid", handler="m.handler", sources=PID_FUNCTION)
        answer = aws.client("lambda").invoke(FunctionName="pid", Payload=b"{}")
        function, emulator = int(answer["Payload"].read()), aws.pid
    assert emulator is not None
    assert not processes.command(function)
    assert not processes.command(emulator)


def test_emulator_ends_when_its_owner_is_gone() -> None:
    """The emulator, its functions and its files are gone after the process that started them, even by SIGKILL."""
    script = (
        "import os, signal\n"
        "from tests.emulation.endpoint import AwsEndpoint\n"
        "aws = AwsEndpoint().start()\n"
        f"aws.create_function('pid', handler='m.handler', sources={PID_FUNCTION!r})\n"
        "answer = aws.client('lambda').invoke(FunctionName='pid', Payload=b'{}')\n"
        "print(aws.pid, answer['Payload'].read().decode(), aws._scratch, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=os.environ)
    assert ended.stdout, ended.stderr
    emulator, function, scratch = ended.stdout.split()
    eventually(lambda: not processes.command(int(emulator)) and not processes.command(int(function)))
    assert not Path(scratch).exists()


def test_waits_can_be_seen_and_ended(aws_endpoint: AwsEndpoint) -> None:
    """Messages are shown whoever has them, and come at once when the time they wait for is made to pass."""
    queue = aws_endpoint.create_queue(unique_name("queue"), visibility_timeout=600)
    sqs = aws_endpoint.client("sqs")
    sqs.send_message(QueueUrl=queue, MessageBody="leased")
    assert len(sqs.receive_message(QueueUrl=queue)["Messages"]) == 1
    sqs.send_message(QueueUrl=queue, MessageBody="delayed", DelaySeconds=600)
    waiting = aws_endpoint.messages(queue)
    assert {message["Body"]: message["ReceiveCount"] for message in waiting} == {"leased": 1, "delayed": 0}
    assert all(message["VisibleAt"] > time.time() + 500 for message in waiting)
    aws_endpoint.end_waits(queue)
    received = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
    assert {message["Body"] for message in received} == {"leased", "delayed"}


def test_calls_are_counted_whoever_makes_them(aws_endpoint: AwsEndpoint) -> None:
    """Each call counts under its operation; asking for the counts does not."""
    url = aws_endpoint.create_queue(unique_name("counted"))
    before = aws_endpoint.calls()
    for _ in range(3):
        aws_endpoint.client("sqs").send_message(QueueUrl=url, MessageBody="hello")
    assert (aws_endpoint.calls() - before)["AmazonSQS.SendMessage"] == 3
