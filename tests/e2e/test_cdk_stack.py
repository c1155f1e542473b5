"""infra/app.py, synthesised with its package and deployed by CloudFormation at the endpoint, runs the example app."""

import io
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher import Dispatcher
from tests.emulation.availability import unavailable
from tests.emulation.endpoint import AwsEndpoint, unique_name
from tests.emulation.environments import ROOT, EnvironmentUnavailable
from tests.provision.cdk_synth import PATIENCE, synthesise

TIMEOUT = 60.0
#: The first test waits for Node, the wheels, the endpoint and the deployment as well.
pytestmark = pytest.mark.timeout(4 * PATIENCE)


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
    folder = tmp_path_factory.mktemp("cdk")
    template = synthesise(ROOT / "infra" / "app.py", folder)["shop"]
    _publish(aws, folder)
    # The endpoint is plain HTTP, which these policies rightly refuse.
    template["Resources"] = {
        id: each for id, each in template["Resources"].items() if each["Type"] != "AWS::SQS::QueuePolicy"
    }
    cloudformation, stack = aws.client("cloudformation"), unique_name("shop")
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
    for asset in json.loads((folder / "shop.assets.json").read_text("utf-8"))["files"].values():
        source: dict[str, Any] = asset["source"]
        (destination,) = asset["destinations"].values()
        bucket = destination["bucketName"]
        for name, value in known.items():
            bucket = bucket.replace(name, value)
        if source["packaging"] == "zip":
            s3.create_bucket(Bucket=bucket)
            s3.put_object(Bucket=bucket, Key=destination["objectKey"], Body=_zipped(folder / source["path"]))


def _zipped(package: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in package.rglob("*"):
            if path.is_file():
                archive.write(path, path.relative_to(package))
    return buffer.getvalue()


@pytest.fixture
def shop(aws: AwsEndpoint, outputs: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Dispatcher]:
    """A producer configured by the stack's outputs, as their descriptions say."""
    variables = {
        "DISPATCHER_BROKER_URL": "sqs://",
        "DISPATCHER_QUEUE_URL_DEFAULT": outputs["DefaultQueueUrl"],
        "DISPATCHER_TABLE": outputs["Table"],
    }
    for name, value in {**aws.env(), **variables}.items():
        monkeypatch.setenv(name, value)
    with Dispatcher("shop", set_as_current=False) as app:
        yield app


def test_tasks_run(shop: Dispatcher) -> None:
    """Tasks sent to the stack's queue run in its function, a retry included, and their results are read."""
    results = [shop.send_task("shop.add", (number, 1)) for number in range(12)]
    assert [result.get(timeout=TIMEOUT) for result in results] == list(range(1, 13))
    assert shop.send_task("shop.charge", (1,)).get(timeout=TIMEOUT) == "order 1 charged at try 2"


def test_failures_reach_the_dead_letters(aws: AwsEndpoint, outputs: dict[str, str], shop: Dispatcher) -> None:
    """A task that failed for good is copied to the stack's dead letters."""
    with pytest.raises(Exception, match="no funds"):
        shop.send_task("shop.decline", (1,)).get(timeout=TIMEOUT)
    answer = aws.client("sqs").receive_message(QueueUrl=outputs["DefaultDeadQueueUrl"], WaitTimeSeconds=20)
    assert len(answer["Messages"]) == 1
