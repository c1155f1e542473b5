"""An AWS-shaped endpoint on loopback, with the resources that an application of ours needs.

    with AwsEndpoint(duplicates=0.3, shuffle=True) as aws:
        stack = aws.deploy("orders", app="orders.tasks:app", sources=[Path("examples/orders")])
        ...  # stack.environment() configures a producer; the function runs under the real runtime client

`AwsEndpoint` starts the emulator of `tests.emulation.ministack` in an environment and a process of its own.
"""

import json
import re
import threading
import urllib.parse
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dispatcher.local.emulator import ACCESS_KEY, REGION, SECRET_KEY, Emulator
from tests.emulation import environments
from tests.emulation.archive import archive

_TIMEOUT_SECONDS = 60.0
_PERMISSIVE_ROLE = "functions-that-may-do-anything"


class AwsEndpoint(Emulator):
    """SQS, DynamoDB, Lambda with event source mappings, EventBridge, Scheduler, S3, CloudFormation … on one URL.

    `duplicates` (0.0 to 1.0) and `shuffle` make standard queues use the freedom that at-least-once delivery gives them;
    `auth` enforces IAM; `search` are more places for its modules (the SAM transform, if it is to be known). Use as a
    context manager, or call `start` and `close`. The first time ever, its environments are made (20 s).
    """

    def __init__(
        self,
        *,
        duplicates: float = 0.0,
        shuffle: bool = False,
        auth: bool = False,
        search: Iterable[Path] = (),
    ) -> None:
        python = environments.ministack_python()
        super().__init__(
            python,
            auth=auth,
            command=[str(python), "-m", "tests.emulation.ministack"],
            arguments=[
                *("--python", str(environments.lambda_python())),
                *("--duplicates", str(duplicates)),
                *(["--shuffle"] if shuffle else []),
                *(argument for path in search for argument in ("--search", str(path))),
            ],
            directory=environments.ROOT,
        )
        self._clients: dict[str, Any] = {}
        self._clients_lock = threading.Lock()

    def close(self) -> None:
        """Stop the emulator and every process that its functions started; remove its files."""
        super().close()
        with self._clients_lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def reset(self) -> None:
        """Remove every resource. Unique names (`unique_name`) isolate tests as well and leave other tests' alone."""
        request = urllib.request.Request(f"{self.url}/_ministack/reset", method="POST")
        urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS).close()

    def calls(self) -> Counter[str]:
        """How often each operation was called since the start, by anybody: `AmazonSQS.SendMessage` and the like."""
        with urllib.request.urlopen(f"{self.url}/_ministack/calls", timeout=_TIMEOUT_SECONDS) as answer:
            return Counter(json.load(answer))

    def env(self) -> dict[str, str]:
        """Environment variables that point any AWS SDK at this endpoint."""
        return self.environment()

    def client(self, service: str) -> Any:
        """A botocore client of the service; shared, and safe to use from several threads."""
        import botocore.session
        from botocore.config import Config

        with self._clients_lock:
            if service not in self._clients:
                self._clients[service] = botocore.session.Session().create_client(
                    service,
                    region_name=REGION,
                    endpoint_url=self.url,
                    aws_access_key_id=ACCESS_KEY,
                    aws_secret_access_key=SECRET_KEY,
                    # A retry would hide what the endpoint answered.
                    config=Config(retries={"total_max_attempts": 1}, read_timeout=70, max_pool_connections=32),
                )
            return self._clients[service]

    # Resources

    def create_queue(
        self,
        name: str,
        *,
        dead_letter_queue: str | None = None,
        max_receive_count: int = 3,
        visibility_timeout: int = 30,
        attributes: Mapping[str, str] | None = None,
    ) -> str:
        """Create a queue, FIFO if the name ends in `.fifo`; its URL. `dead_letter_queue` is a URL too."""
        settings = {"VisibilityTimeout": str(visibility_timeout), **dict(attributes or {})}
        if name.endswith(".fifo"):
            settings["FifoQueue"] = "true"
        if dead_letter_queue is not None:
            target = self.queue_arn(dead_letter_queue)
            settings["RedrivePolicy"] = json.dumps(
                {"deadLetterTargetArn": target, "maxReceiveCount": max_receive_count}
            )
        url: str = self.client("sqs").create_queue(QueueName=name, Attributes=settings)["QueueUrl"]
        return url

    def queue_arn(self, url: str) -> str:
        """The ARN of the queue at `url`."""
        answer = self.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        arn: str = answer["Attributes"]["QueueArn"]
        return arn

    def queue_depth(self, url: str) -> dict[str, int]:
        """Messages in the queue: `visible`, `in_flight`, `delayed`."""
        names = {
            "visible": "ApproximateNumberOfMessages",
            "in_flight": "ApproximateNumberOfMessagesNotVisible",
            "delayed": "ApproximateNumberOfMessagesDelayed",
        }
        answer = self.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=list(names.values()))
        return {word: int(answer["Attributes"][name]) for word, name in names.items()}

    def messages(self, url: str) -> list[dict[str, Any]]:
        """Every message of the queue, leased ones too: `Body`, `VisibleAt` (epoch seconds), `ReceiveCount` and more."""
        query = urllib.parse.urlencode({"QueueUrl": url})
        with urllib.request.urlopen(f"{self.url}/_ministack/sqs/messages?{query}", timeout=_TIMEOUT_SECONDS) as answer:
            accounts = json.load(answer)["messages"]
        return [message for regions in accounts.values() for queues in regions.values() for message in queues[url]]

    def end_waits(self, url: str) -> None:
        """Make every message of the queue visible, as if the time had passed for which it is leased or delayed."""
        headers = {"X-Amz-Target": "AmazonSQS.EndWaits", "Content-Type": "application/x-amz-json-1.0"}
        request = urllib.request.Request(self.url, json.dumps({"QueueUrl": url}).encode(), headers)
        urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS).close()

    def create_table(self, name: str, *, key: str = "pk", sort_key: str | None = None, ttl: str | None = "ttl") -> str:
        """Create an on-demand table with string keys and, by default, TTL on the attribute `ttl`; its name."""
        keys = {key: "HASH"} if sort_key is None else {key: "HASH", sort_key: "RANGE"}
        dynamodb = self.client("dynamodb")
        dynamodb.create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[{"AttributeName": attribute, "KeyType": kind} for attribute, kind in keys.items()],
            AttributeDefinitions=[{"AttributeName": attribute, "AttributeType": "S"} for attribute in keys],
        )
        if ttl is not None:
            specification = {"Enabled": True, "AttributeName": ttl}
            dynamodb.update_time_to_live(TableName=name, TimeToLiveSpecification=specification)
        return name

    def create_function(
        self,
        name: str,
        *,
        handler: str,
        sources: Sequence[Path] | Mapping[str, str],
        environment: Mapping[str, str] | None = None,
        timeout: int = 10,
        memory_mb: int = 512,
        runtime: str = "python3.11",
        role: str | None = None,
    ) -> str:
        """Create a function from directories and files, or from `{path: text}`; its ARN.

        A directory lands in the archive under its own name, as a package; so does a file. The `role` is one that may
        do anything unless given; it matters with `auth` only.
        """
        answer = self.client("lambda").create_function(
            FunctionName=name,
            Runtime=runtime,
            Handler=handler,
            Role=role or self._permissive_role(),
            Code={"ZipFile": archive(sources)},
            Timeout=timeout,
            MemorySize=memory_mb,
            Environment={"Variables": dict(environment or {})},
        )
        arn: str = answer["FunctionArn"]
        return arn

    def create_role(self, name: str, *actions: str) -> str:
        """Create a role that functions can take and that allows `actions` on everything; its ARN."""
        trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
        iam = self.client("iam")
        arn: str = iam.create_role(RoleName=name, AssumeRolePolicyDocument=_policy(trust))["Role"]["Arn"]
        if actions:
            allow = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
            iam.put_role_policy(RoleName=name, PolicyName="allow", PolicyDocument=_policy(allow))
        return arn

    def _permissive_role(self) -> str:
        iam = self.client("iam")
        try:
            arn: str = iam.get_role(RoleName=_PERMISSIVE_ROLE)["Role"]["Arn"]
            return arn
        except iam.exceptions.NoSuchEntityException:
            return self.create_role(_PERMISSIVE_ROLE, "*")

    def map_queue(
        self,
        url: str,
        function: str,
        *,
        batch_size: int = 10,
        window: int = 0,
        report_failures: bool = True,
        max_concurrency: int | None = None,
    ) -> str:
        """Create an event source mapping from the queue to the function; its id."""
        request: dict[str, Any] = {"BatchSize": batch_size, "MaximumBatchingWindowInSeconds": window}
        if report_failures:
            request["FunctionResponseTypes"] = ["ReportBatchItemFailures"]
        if max_concurrency is not None:
            request["ScalingConfig"] = {"MaximumConcurrency": max_concurrency}
        mapping: str = self.client("lambda").create_event_source_mapping(
            EventSourceArn=self.queue_arn(url), FunctionName=function, **request
        )["UUID"]
        return mapping

    def function_log(self, function: str) -> list[str]:
        """The lines that the function logged so far, the platform's START, END and REPORT included."""
        logs = self.client("logs")
        try:
            events = logs.filter_log_events(logGroupName=f"/aws/lambda/{function}")["events"]
        except logs.exceptions.ResourceNotFoundException:
            return []
        return [line for event in events for line in event["message"].splitlines()]


def _policy(statement: Mapping[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def unique_name(prefix: str) -> str:
    """A name for a resource that no other test uses."""
    return f"{re.sub(r'[^A-Za-z0-9-]', '-', prefix)[:40]}-{uuid.uuid4().hex[:8]}"
