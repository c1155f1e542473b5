"""Deploying `template.yaml` as it stands to the AWS-shaped endpoint, with IAM enforced.

The endpoint has CloudFormation, but not the SAM transform nor some of the service's conversions; `deploy` does those.
"""

import contextlib
import io
import json
import os
import subprocess
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dispatcher import Dispatcher
from tests.emulation.archive import FOR_THIS_MACHINE, spoil_sources
from tests.emulation.availability import unavailable
from tests.emulation.endpoint import AwsEndpoint, unique_name
from tests.emulation.environments import ROOT

TOOLS = ROOT / ".tools-venv" / "bin"

# The official translator, which is part of the SAM CLI: source, bucket and key of the code → CloudFormation.
_TRANSLATE = """
import json, sys
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse
class NoManagedPolicies:
    def load(self): return {}
template = yaml_parse(open(sys.argv[1]).read())
for resource in template["Resources"].values():
    if resource["Type"] == "AWS::Serverless::Function":
        resource["Properties"]["CodeUri"] = {"Bucket": sys.argv[2], "Key": sys.argv[3]}
        resource.pop("Metadata", None)
print(json.dumps(transform(template, {}, NoManagedPolicies())))
"""

# The endpoint asks for these names. In AWS the permission of the single action is that of the batch, and statements of
# PartiQL need theirs on the table: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsqs.html
EMULATOR_ONLY = [
    "sqs:ChangeMessageVisibilityBatch", "sqs:DeleteMessageBatch", "sqs:SendMessageBatch",
    "dynamodb:BatchExecuteStatement",
]  # fmt: skip

#: Longer than building, translating or deploying takes on a machine that is busy with other things.
PATIENCE = 180.0


def build(folder: Path) -> Path:
    """Run `sam build` for this machine and Python, and return the function's package, which runs from bytecode only."""
    sam = TOOLS / "sam"
    if not sam.exists():
        unavailable("sam is not installed: make template")
    done = subprocess.run(
        [str(sam), "build", "DefaultFunction", "--template", str(ROOT / "template.yaml"), "--build-dir", str(folder)],
        env={**os.environ, **FOR_THIS_MACHINE, "AWS_DEFAULT_REGION": "us-east-1", "SAM_CLI_TELEMETRY": "0"}, cwd=ROOT,
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    spoil_sources(folder / "DefaultFunction")
    return folder / "DefaultFunction"


def deploy(aws: AwsEndpoint, package: Path) -> dict[str, str]:
    """Create the stack with the built package; return its outputs."""
    bucket, key = unique_name("code"), "worker.zip"
    s3 = aws.client("s3")
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key=key, Body=zipped(package))
    stack = unique_name("shop")
    cloudformation = aws.client("cloudformation")
    cloudformation.create_stack(
        StackName=stack, TemplateBody=json.dumps(_template(bucket, key)), Capabilities=["CAPABILITY_IAM"]
    )
    deadline = time.monotonic() + PATIENCE
    while (made := cloudformation.describe_stacks(StackName=stack)["Stacks"][0])["StackStatus"].endswith("PROGRESS"):
        assert time.monotonic() < deadline, f"{made['StackStatus']} for {PATIENCE:g} s\n{aws.log()}"
        time.sleep(0.05)
    assert made["StackStatus"] == "CREATE_COMPLETE", cloudformation.describe_stack_events(StackName=stack)
    return {output["OutputKey"]: output["OutputValue"] for output in made["Outputs"]}


@contextlib.contextmanager
def producer(name: str, aws: AwsEndpoint, outputs: Mapping[str, str]) -> Iterator[Dispatcher]:
    """Make an app that sends to a stack, configured by its outputs, as their descriptions say."""
    variables = {
        "DISPATCHER_BROKER_URL": "sqs://",
        "DISPATCHER_QUEUE_URL_DEFAULT": outputs["DefaultQueueUrl"],
        "DISPATCHER_TABLE": outputs["Table"],
    }
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in {**aws.env(), **variables}.items():
            patch.setenv(variable, value)
        with Dispatcher(name, set_as_current=False) as app:
            yield app


def zipped(package: Path) -> bytes:
    """Return a directory as the archive of a function's code."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in package.rglob("*"):
            if path.is_file():
                archive.write(path, path.relative_to(package))
    return buffer.getvalue()


def _template(bucket: str, key: str) -> dict[str, Any]:
    done = subprocess.run(
        [str(TOOLS / "python"), "-c", _TRANSLATE, str(ROOT / "template.yaml"), bucket, key],
        env={**os.environ, "AWS_DEFAULT_REGION": "us-east-1"}, capture_output=True, text=True, timeout=PATIENCE,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    template: dict[str, Any] = json.loads(done.stdout)
    resources = template["Resources"]
    for name in [name for name, each in resources.items() if each["Type"] == "AWS::SQS::QueuePolicy"]:
        del resources[name]  # the endpoint is plain HTTP, which these policies rightly refuse
    for role in ("DefaultRole", "LostRole"):
        policy = resources[role]["Properties"]["Policies"][0]["PolicyDocument"]
        policy["Statement"].append({"Effect": "Allow", "Action": EMULATOR_ONLY, "Resource": "*"})
    return template
