"""The README's "Deploy", step by step, by the tools that it names; only AWS is an emulator."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from dispatcher import Dispatcher
from dispatcher.beat.entries import identity
from dispatcher.beat.firing import firing_id
from dispatcher.packaging.services import OWN
from dispatcher.result import AsyncResult
from tests.e2e.commands import run
from tests.e2e.lambda_stack import PATIENCE, TOOLS
from tests.emulation.archive import ARCHITECTURE, RUNTIME, spoil_sources
from tests.emulation.availability import unavailable
from tests.emulation.endpoint import AwsEndpoint, unique_name
from tests.emulation.environments import ROOT, EnvironmentUnavailable

pytestmark = pytest.mark.timeout(400)

APP = """
from dispatcher import Dispatcher
from dispatcher.schedules import crontab

app = Dispatcher("shop")
app.conf.timezone = "UTC"
app.conf.infra = {"runtime": "RUNTIME", "architecture": "ARCHITECTURE"}
app.conf.beat_schedule = {"tidy": {"task": "tasks.tidy", "schedule": crontab()}}


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def tidy() -> str:
    return "tidied"
""".replace("RUNTIME", RUNTIME).replace("ARCHITECTURE", ARCHITECTURE)

MINUTE = 60


@pytest.fixture(scope="module")
def aws() -> Iterator[AwsEndpoint]:
    """An endpoint that knows the SAM transform, as CloudFormation does."""
    if not (TOOLS / "sam").exists():
        unavailable("sam is not installed: make template")
    try:
        endpoint = AwsEndpoint(search=TOOLS.parent.glob("lib/python*/site-packages")).start()
    except EnvironmentUnavailable as error:
        unavailable(f"no environment for the AWS emulator: {error}")
    yield endpoint
    endpoint.close()


@pytest.fixture(scope="module")
def outputs(aws: AwsEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """What the stack gives out that a newcomer has deployed, its name, its first minute, and the project's directory.

    The functions' sources raise when they are run: they work from their bytecode, with the service models in use.
    """
    project = tmp_path_factory.mktemp("project")
    (project / "tasks.py").write_text(APP)
    (project / "requirements.txt").write_text(f"serverless-dispatcher @ {ROOT.as_uri()}\n")
    written = run(project, "-A", "tasks", "infra", "sam")
    assert written.returncode == 0, written.stderr
    stack = unique_name("shop")
    assert "botocore's models: dynamodb, s3, scheduler, sqs, sts (named in the code)" in _sam(aws, project, "build")
    for name in ("DefaultFunction", "LostFunction"):
        built = project / ".aws-sam" / "build" / name
        models = {path.name for path in (built / "botocore" / "data").iterdir() if path.is_dir()}
        assert models == OWN
        spoil_sources(built)
    began = int(time.time()) // MINUTE * MINUTE
    _sam(
        aws, project, "deploy", "--stack-name", stack, "--resolve-s3", "--capabilities", "CAPABILITY_IAM",
        "--no-confirm-changeset",
    )  # fmt: skip
    (made,) = aws.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    assert made["StackStatus"] == "CREATE_COMPLETE"
    found = {output["OutputKey"]: output["OutputValue"] for output in made["Outputs"]}
    return {**found, "stack": stack, "began": str(began), "project": str(project)}


def _sam(aws: AwsEndpoint, project: Path, *command: str) -> str:
    """Run the SAM CLI and return what it said."""
    variables = {**os.environ, **aws.env(), "SAM_CLI_TELEMETRY": "0", "PYTHON": sys.executable}
    done = subprocess.run(
        [str(TOOLS / "sam"), *command], cwd=project, env=variables, capture_output=True, text=True, timeout=PATIENCE,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{aws.log()}"
    return done.stdout + done.stderr


@pytest.fixture
def variables(aws: AwsEndpoint, outputs: Mapping[str, str]) -> dict[str, str]:
    """The environment of producers, as the descriptions of the outputs say."""
    return {
        **aws.env(),
        "DISPATCHER_BROKER_URL": outputs["BrokerUrl"],
        "DISPATCHER_TABLE": outputs["Table"],
    }


def test_producer_gets_the_result_of_a_deployed_function(variables: dict[str, str], tmp_path: Path) -> None:
    """The command line sends a task and reads its result, by the stack's outputs alone."""
    (tmp_path / "tasks.py").write_text(APP)
    done = run(tmp_path, "-A", "tasks", "call", "tasks.add", "--args", "[20, 22]", "--wait", variables=variables)
    assert done.stdout.splitlines() == ["42"], done.stderr


def test_check_finds_what_somebody_changed_in_the_stack(aws: AwsEndpoint, outputs: Mapping[str, str]) -> None:
    """A number that was changed by hand is named, beside what the emulator's CloudFormation leaves out by itself."""
    project = Path(outputs["project"])
    command = ("-A", "tasks", "infra", "check", "--stack", outputs["stack"], "--endpoint", aws.url)
    before = run(project, *command, variables=aws.env()).stdout.splitlines()
    properties = ("TimeToLiveSpecification.", ".RecursiveLoop")
    assert not [line for line in before if not any(name in line for name in properties)]
    aws.client("sqs").set_queue_attributes(QueueUrl=outputs["DefaultQueueUrl"], Attributes={"VisibilityTimeout": "7"})
    drifted = run(project, *command, variables=aws.env())
    aws.client("sqs").set_queue_attributes(QueueUrl=outputs["DefaultQueueUrl"], Attributes={"VisibilityTimeout": "360"})
    assert drifted.returncode == 1
    (found,) = [line for line in drifted.stdout.splitlines() if line not in before]
    assert found == 'DefaultQueue.VisibilityTimeout: "7", but the app needs 360'


def test_rule_fires_into_the_queue_and_its_result_is_readable(
    variables: dict[str, str], outputs: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """EventBridge fires the entry in its minute, the function runs it, and whoever knows both finds the result."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with Dispatcher("shop", set_as_current=False) as app:
        limit = time.monotonic() + PATIENCE
        while not (done := _ready(app, int(outputs["began"]))):
            assert time.monotonic() < limit, "the rule did not fire"
            time.sleep(0.5)
        assert done.get(timeout=1) == "tidied"


def _ready(app: Dispatcher, began: int) -> "AsyncResult[str] | None":
    """The result of a firing in one of the minutes since, as soon as one is there."""
    minutes = range(began, int(time.time()) + 1, MINUTE)
    results: list[AsyncResult[str]] = [
        app.AsyncResult(firing_id(identity(app), "tidy", float(minute))) for minute in minutes
    ]
    return next((result for result in results if result.ready()), None)
