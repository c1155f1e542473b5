"""An AWS-shaped endpoint on loopback, with the resources that an application of ours needs.

    with AwsEndpoint(duplicates=0.3, shuffle=True) as aws:
        stack = aws.deploy("orders", app="orders.tasks:app", sources=[Path("examples/orders")])
        ...  # stack.environment() configures a producer; the function runs under the real runtime client

`AwsEndpoint` starts the emulator of `tests.emulation.ministack` in an environment and a process of its own.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.emulation import environments, processes
from tests.emulation.archive import archive

REGION = "us-east-1"
ACCESS_KEY = "test"
SECRET_KEY = "test"

_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
_PERMISSIVE_ROLE = "functions-that-may-do-anything"


class EndpointFailed(RuntimeError):
    """The emulator did not start or did not answer; the message ends with its log."""


class AwsEndpoint:
    """SQS, DynamoDB, Lambda with event source mappings, EventBridge, Scheduler, S3, CloudFormation … on one URL.

    `duplicates` (0.0 to 1.0) and `shuffle` make standard queues use the freedom that at-least-once delivery gives them;
    `auth` enforces IAM. Use as a context manager, or call `start` and `close`.
    """

    def __init__(self, *, duplicates: float = 0.0, shuffle: bool = False, auth: bool = False) -> None:
        self._options = ["--duplicates", str(duplicates)]
        self._options += ["--shuffle"] if shuffle else []
        self._options += ["--auth"] if auth else []
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: Path | None = None
        self._tag = f"{os.environ.get(processes.TAG_VARIABLE, '')}/endpoint-{uuid.uuid4().hex}"
        self._clients: dict[str, Any] = {}
        self._clients_lock = threading.Lock()
        self._port = 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """What to put into `AWS_ENDPOINT_URL`."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """The emulator's process while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self) -> Self:
        """Start the emulator and return when it answers; the first time ever, its environments are made (20 s)."""
        command = [str(environments.ministack_python()), "-m", "tests.emulation.ministack"]
        command += ["--python", str(environments.lambda_python()), *self._options]
        self._scratch = Path(tempfile.mkdtemp(prefix="aws-endpoint-"))
        command += ["--scratch", str(self._scratch)]
        with (self._scratch / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=environments.ROOT,
                env=self._process_environment(self._scratch),
                stdin=subprocess.PIPE,  # its end tells the emulator that we are gone, however that came about
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._port = self._announced_port(self._process)
            urllib.request.urlopen(f"{self.url}/_ministack/health", timeout=_START_SECONDS).close()
        except Exception:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Stop the emulator and every process that its functions started; remove its files."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            processes.kill_tree(process)
            processes.kill(processes.tagged(self._tag))
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                stream.close()
        with self._clients_lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()
        scratch, self._scratch = self._scratch, None
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)

    def _process_environment(self, scratch: Path) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL") if name in os.environ}
        return {
            **inherited,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "LOG_LEVEL": "WARNING",
            "PYTHONUNBUFFERED": "1",
            "STATE_DIR": str(scratch / "state"),
            "S3_DATA_DIR": str(scratch / "s3"),
            "TMPDIR": str(scratch),
            processes.TAG_VARIABLE: self._tag,
        }

    def _announced_port(self, process: subprocess.Popen[bytes]) -> int:
        """The port from the line that the emulator prints once it listens."""
        assert process.stdout is not None
        watchdog = threading.Timer(_START_SECONDS, process.kill)
        watchdog.start()
        line = process.stdout.readline()
        watchdog.cancel()
        if not line:
            raise EndpointFailed(f"the emulator ended with status {process.wait()} instead of serving:\n{self.log()}")
        return int(json.loads(line)["port"])

    def log(self) -> str:
        """What the emulator wrote: warnings, and failed batches with the function's output."""
        return (self._scratch / "log").read_text(errors="replace") if self._scratch is not None else ""

    def reset(self) -> None:
        """Remove every resource. Unique names (`unique_name`) isolate tests as well and leave other tests' alone."""
        request = urllib.request.Request(f"{self.url}/_ministack/reset", method="POST")
        urllib.request.urlopen(request, timeout=_START_SECONDS).close()

    def env(self) -> dict[str, str]:
        """Environment variables that point any AWS SDK at this endpoint."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

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
