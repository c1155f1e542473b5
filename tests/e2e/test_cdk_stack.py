"""The CDK way of docs/infra-cdk.md: an app written for a start, synthesised, deployed by CloudFormation, and at work.

Only AWS is an emulator, and only the publishing of assets is done here, for the CDK's own CLI is no Python package.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher import Dispatcher
from dispatcher.beat.entries import identity
from dispatcher.beat.firing import firing_id
from tests.e2e import lambda_stack
from tests.e2e.commands import run
from tests.emulation.archive import RUNTIME
from tests.emulation.availability import unavailable
from tests.emulation.endpoint import AwsEndpoint, unique_name
from tests.emulation.environments import ROOT, EnvironmentUnavailable
from tests.provision.cdk_synth import PATIENCE, synthesise

TIMEOUT = 120.0
MINUTE = 60
#: The first test waits for Node, the wheels, the endpoint and the deployment as well.
pytestmark = pytest.mark.timeout(4 * PATIENCE)

APP = """
from dispatcher import Dispatcher
from dispatcher.schedules import crontab

app = Dispatcher("bakery")
app.conf.infra = {"runtime": "RUNTIME"}
app.conf.beat_schedule = {"tidy": {"task": "tasks.tidy", "schedule": crontab()}}

@app.task(bind=True, max_retries=1)
def add(self, x, y):
    if not self.request.retries:
        raise self.retry(countdown=0)
    return x + y

@app.task
def burn():
    raise ValueError("too hot")

@app.task
def tidy():
    return "tidied"
"""


@pytest.fixture(scope="module")
def aws() -> Iterator[AwsEndpoint]:
    """An endpoint."""
    try:
        endpoint = AwsEndpoint().start()
    except EnvironmentUnavailable as error:
        unavailable(f"no environment for the AWS emulator: {error}")
    yield endpoint
    endpoint.close()


@pytest.fixture(scope="module")
def outputs(aws: AwsEndpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the deployed stack gives out."""
    project = tmp_path_factory.mktemp("project")
    # Its bytecode is compiled by a Python of the same version, and this one is sure to be there.
    (project / "tasks.py").write_text(APP.replace("RUNTIME", RUNTIME))
    (project / "requirements.txt").write_text(f"serverless-dispatcher @ {ROOT.as_uri()}\n")
    written = run(project, "-A", "tasks", "infra", "cdk")
    assert written.returncode == 0, written.stderr
    folder = tmp_path_factory.mktemp("cdk")
    template = synthesise(project / "infra" / "app.py", folder)["bakery"]
    _publish(aws, folder)
    cloudformation, stack = aws.client("cloudformation"), unique_name("bakery")
    cloudformation.create_stack(
        StackName=stack, TemplateBody=json.dumps(template), Capabilities=["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"]
    )
    deadline = time.monotonic() + PATIENCE
    while (made := cloudformation.describe_stacks(StackName=stack)["Stacks"][0])["StackStatus"].endswith("PROGRESS"):
        assert time.monotonic() < deadline, f"{made['StackStatus']} for {PATIENCE:g} s\n{aws.log()}"
        time.sleep(0.05)
    assert made["StackStatus"] == "CREATE_COMPLETE", cloudformation.describe_stack_events(StackName=stack)
    return {output["OutputKey"]: output["OutputValue"] for output in made["Outputs"]}


def _publish(aws: AwsEndpoint, folder: Path) -> None:
    """Do what `cdk bootstrap` and the publishing of assets do."""
    aws.client("ssm").put_parameter(Name="/cdk-bootstrap/hnb659fds/version", Value="30", Type="String")
    account = aws.client("sts").get_caller_identity()["Account"]
    s3 = aws.client("s3")
    known = {"${AWS::AccountId}": account, "${AWS::Region}": s3.meta.region_name}
    for asset in json.loads((folder / "bakery.assets.json").read_text("utf-8"))["files"].values():
        source: dict[str, Any] = asset["source"]
        (destination,) = asset["destinations"].values()
        bucket = destination["bucketName"]
        for name, value in known.items():
            bucket = bucket.replace(name, value)
        if source["packaging"] == "zip":
            s3.create_bucket(Bucket=bucket)
            package = lambda_stack.zipped(folder / source["path"])
            s3.put_object(Bucket=bucket, Key=destination["objectKey"], Body=package)


@pytest.fixture
def app(aws: AwsEndpoint, outputs: dict[str, str]) -> Iterator[Dispatcher]:
    """A producer for the stack."""
    with lambda_stack.producer("bakery", aws, outputs) as app:
        yield app


def test_tasks_run(app: Dispatcher) -> None:
    """Tasks sent to the stack's queue run in its function, a retry included, and their results are read."""
    results = [app.send_task("tasks.add", (number, 1)) for number in range(12)]
    assert [result.get(timeout=TIMEOUT) for result in results] == list(range(1, 13))


def test_failures_reach_the_dead_letters(aws: AwsEndpoint, outputs: dict[str, str], app: Dispatcher) -> None:
    """A task that failed for good is copied to the stack's dead letters."""
    with pytest.raises(ValueError, match="too hot"):
        app.send_task("tasks.burn").get(timeout=TIMEOUT)
    answer = aws.client("sqs").receive_message(QueueUrl=outputs["DefaultDeadQueueUrl"], WaitTimeSeconds=20)
    assert len(answer["Messages"]) == 1


def test_rules_fire(aws: AwsEndpoint, app: Dispatcher) -> None:
    """The stack's rule fires into its queue, and whoever knows entry and minute finds the result."""
    began, limit = int(time.time()) // MINUTE * MINUTE - MINUTE, time.monotonic() + PATIENCE
    while True:
        minutes = range(began, int(time.time()) + 1, MINUTE)
        done = [app.AsyncResult(firing_id(identity(app), "tidy", float(minute))) for minute in minutes]
        if any(result.ready() for result in done):
            break
        assert time.monotonic() < limit, f"the rule did not fire\n{aws.log()}"
        time.sleep(0.5)
    assert next(result for result in done if result.ready()).get(timeout=1) == "tidied"
