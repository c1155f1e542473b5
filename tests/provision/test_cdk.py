"""The CDK constructs make the resources of the plan, and give way to what a stack has already."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dispatcher.loading import find_app
from dispatcher.provision.check import broken_rules, check_template
from dispatcher.provision.plan import plan
from dispatcher.provision.resources import template
from dispatcher.provision.sam import render
from tests.emulation.availability import unavailable
from tests.emulation.environments import ROOT
from tests.provision.cdk_synth import APPS, PATIENCE, synthesise

HERE = Path(__file__).parent
#: The first test of a module waits for Node as well.
pytestmark = pytest.mark.timeout(2 * PATIENCE)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands for a built package; synthesis does not look inside."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "shop.py").write_text("", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, package: Path) -> Path:
    """Where `infra/app.py` was synthesised to."""
    folder = tmp_path_factory.mktemp("shop")
    synthesise(ROOT / "infra" / "app.py", folder, code=str(package))
    return folder


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, package: Path) -> Path:
    """Where the stack with things of its own was synthesised to."""
    folder = tmp_path_factory.mktemp("own")
    synthesise(HERE / "cdk_own_stack.py", folder, code=str(package))
    return folder


def read(folder: Path, stack: str) -> dict[str, Any]:
    """A synthesised template, without what the CDK notes for itself."""
    found: dict[str, Any] = json.loads((folder / f"{stack}.template.json").read_text("utf-8"))
    for resource in found["Resources"].values():
        resource.pop("Metadata", None)
    found["Resources"].pop("CDKMetadata", None)
    return found


def of_type(found: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    """The properties of the resources of a type."""
    return {id: each["Properties"] for id, each in found["Resources"].items() if each["Type"] == f"AWS::{kind}"}


def test_a_stack_is_the_plan(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each resource, parameter and output of the plan is there under its own id, and no other; only the code moves."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "examples"), *sys.path])
    planned = json.loads(json.dumps(template(plan(find_app("shop:app"), spec="shop:app")).cloudformation()))
    found = read(shop, "shop")
    for resources in (planned["Resources"], found["Resources"]):
        for resource in resources.values():
            if resource["Type"] == "AWS::Lambda::Function":
                code = resource["Properties"].pop("Code")
                assert set(code) == {"S3Bucket", "S3Key"}
    assert found["Resources"] == planned["Resources"]
    assert found["Outputs"] == planned["Outputs"]
    assert found["Conditions"].items() >= planned["Conditions"].items()
    assert found["Description"] == planned["Description"]
    of_cdk = {"BootstrapVersion"}
    assert set(found["Parameters"]) - of_cdk == set(planned["Parameters"]) - {"CodeBucket", "CodeKey"}


# The official translator, which is part of the SAM CLI, and stands for the transform of CloudFormation.
_TRANSLATE = """
import json, sys
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse
class NoManagedPolicies:
    def load(self): return {}
template = yaml_parse(sys.stdin.read())
for resource in template["Resources"].values():
    if resource["Type"] == "AWS::Serverless::Function":
        resource["Properties"]["CodeUri"] = {"Bucket": "b", "Key": "k"}
        resource.pop("Metadata", None)
print(json.dumps(transform(template, {}, NoManagedPolicies())))
"""


@pytest.mark.parametrize("name", ["shop", "press", "clocks"])
def test_sam_and_cdk_make_the_same(name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What SAM's transform makes of our template are the resources of the CDK stack, one by one."""
    folder: Path = request.getfixturevalue("shop" if name == "shop" else "own")
    translator = ROOT / ".tools-venv" / "bin" / "python"
    if not translator.exists():
        unavailable("the SAM translator is not installed: make template")
    monkeypatch.setattr(sys, "path", [*map(str, APPS), *sys.path])
    text = render(plan(find_app(f"{name}:app"), spec=f"{name}:app"))
    done = subprocess.run(
        [str(translator), "-c", _TRANSLATE], input=text, env={**os.environ, "AWS_DEFAULT_REGION": "us-east-1"},
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    of_sam, of_cdk = (_comparable(each["Resources"]) for each in (json.loads(done.stdout), read(folder, name)))
    assert sorted(of_sam) == sorted(of_cdk)
    for id, resource in of_cdk.items():
        assert of_sam[id] == resource, id


@pytest.mark.parametrize("name", ["shop", "press", "clocks"])
def test_check_finds_no_drift_in_a_stack(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dispatcher infra check` says of the CDK's template what it says of SAM's: nothing."""
    folder: Path = request.getfixturevalue("shop" if name == "shop" else "own")
    monkeypatch.setattr(sys, "path", [*map(str, APPS), *sys.path])
    made = template(plan(find_app(f"{name}:app"), spec=f"{name}:app"))
    assert check_template(made, (folder / f"{name}.template.json").read_text("utf-8")) == []


@pytest.mark.parametrize("name", ["own", "more", "fed"])
def test_stacks_of_ones_own_keep_the_rules(own: Path, name: str) -> None:
    """Overrides and things that exist break no rule of construction."""
    assert [str(each) for each in broken_rules(read(own, name)) if "Tasks" in str(each)] == []


def _comparable(resources: dict[str, Any]) -> dict[str, Any]:
    """Resources without where their code is, and mappings under an id made of what they join: SAM makes up its own."""
    found = {}
    for id, resource in resources.items():
        name, properties = id, resource["Properties"]
        if resource["Type"] == "AWS::Lambda::Function":
            properties.pop("Code")
            properties.pop("Tags", None)  # SAM says that it was SAM
        if resource["Type"] == "AWS::Lambda::EventSourceMapping":
            name = f"{properties['EventSourceArn']['Fn::GetAtt'][0]} to {properties['FunctionName']['Ref']}"
        found[name] = resource
    return found


def test_the_package_is_an_asset(shop: Path, package: Path) -> None:
    """Both functions run what `code` held."""
    assets = json.loads((shop / "shop.assets.json").read_text("utf-8"))["files"]
    folders = [shop / each["source"]["path"] for each in assets.values() if each["source"]["packaging"] == "zip"]
    assert [sorted(path.name for path in folder.iterdir()) for folder in folders] == [["shop.py"]]
    keys = {properties["Code"]["S3Key"] for properties in of_type(read(shop, "shop"), "Lambda::Function").values()}
    assert keys == {folders[0].name.removeprefix("asset.") + ".zip"}


def test_overrides_reach_every_function(own: Path) -> None:
    """Memory, timeout, variables, network and key are those given, and what follows from them follows."""
    found = read(own, "own")
    functions = {id: each for id, each in of_type(found, "Lambda::Function").items() if "Tasks" in id}
    assert len(functions) == 2
    for function in functions.values():
        assert function["MemorySize"] == 1024
        assert function["Environment"]["Variables"]["STAGE"] == "test"
        assert function["Environment"]["Variables"]["ORDERS"] == {"Fn::GetAtt": [_one(found, "Orders"), "QueueName"]}
        assert function["LoggingConfig"]["ApplicationLogLevel"] == "DEBUG"
        assert len(function["VpcConfig"]["SubnetIds"]) == 2
        assert function["VpcConfig"]["SecurityGroupIds"] == [{"Fn::GetAtt": [_one(found, "Group"), "GroupId"]}]
        assert function["KmsKeyArn"] == {"Fn::GetAtt": [_one(found, "Key"), "Arn"]}
    worker = next(each for id, each in functions.items() if "DefaultFunction" in id)
    assert worker["Timeout"] == 120
    made = of_type(found, "SQS::Queue")
    assert made[_one(found, "Orders")]["VisibilityTimeout"] == 720
    assert all(each.get("KmsMasterKeyId") for id, each in made.items() if "Tasks" in id)
    concurrency = {
        id: each["ScalingConfig"]["MaximumConcurrency"]
        for id, each in of_type(read(own, "more"), "Lambda::EventSourceMapping").items()
    }
    assert sorted(concurrency.values()) == [2, 2, 7, 7]


def _one(found: dict[str, Any], name: str) -> str:
    id: str
    (id,) = [id for id in found["Resources"] if id[:-8] == name]
    return id


def test_what_exists_is_used(own: Path) -> None:
    """A queue and a table of the stack take the place of those that would be made, in every reference."""
    found = read(own, "own")
    queue, table = _one(found, "Orders"), _one(found, "Own")
    assert list(of_type(found, "DynamoDB::Table")) == [table]
    assert len(of_type(found, "SQS::Queue")) == 3
    text = json.dumps({id: each for id, each in found["Resources"].items() if id.startswith("Tasks")})
    assert "ResultTable" not in text
    assert f'"Fn::GetAtt": ["{table}", "Arn"]' in text
    mapped = [each["EventSourceArn"]["Fn::GetAtt"][0] for each in of_type(found, "Lambda::EventSourceMapping").values()]
    lost = next(id for id in of_type(found, "SQS::Queue") if "LostQueue" in id)
    assert sorted(mapped) == sorted([queue, lost])
    assert of_type(found, "SQS::Queue")[queue]["RedrivePolicy"] == {
        "deadLetterTargetArn": {"Fn::GetAtt": [lost, "Arn"]}, "maxReceiveCount": 100,
    }  # fmt: skip


def test_rules_may_send_to_what_exists(own: Path) -> None:
    """The queue's policy takes from the rules of the stack, and its key may be used by EventBridge."""
    found = read(own, "fed")
    queue, rules = _one(found, "News"), of_type(found, "Events::Rule")
    assert len(rules) == 4
    policy = next(each for each in of_type(found, "SQS::QueuePolicy").values() if each["Queues"] == [{"Ref": queue}])
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert (statement["Action"], statement["Principal"]) == ("sqs:SendMessage", {"Service": "events.amazonaws.com"})
    allowed = {arn["Fn::GetAtt"][0] for arn in statement["Condition"]["ArnEquals"]["aws:SourceArn"]}
    assert allowed == set(rules)
    for rule in rules.values():
        assert [target["Arn"] for target in rule["Targets"]] == [{"Fn::GetAtt": [queue, "Arn"]}]
    (key,) = of_type(found, "KMS::Key").values()
    assert {"Service": "events.amazonaws.com"} in [each["Principal"] for each in key["KeyPolicy"]["Statement"]]


def test_a_queue_from_elsewhere_is_left_alone(own: Path) -> None:
    """Nothing of it is changed, its URL and ARN are used, and a warning says what it needs."""
    found = read(own, "far")
    assert {len(of_type(found, kind)) for kind in ("SQS::Queue", "SQS::QueuePolicy")} == {2}
    arn = "arn:aws:sqs:us-east-1:111122223333:far"
    assert arn in [each["EventSourceArn"] for each in of_type(found, "Lambda::EventSourceMapping").values()]
    noted = (own / "far.metadata.json").read_text("utf-8")
    assert "its visibility timeout is 360 s, and that after 100 receives it moves messages to the queue" in noted


def test_a_role_is_granted_the_right_to_send(own: Path) -> None:
    """A service's role gets the policies of producers and of schedules, and finds the queue by the variables."""
    found = read(own, "own")
    policies = list(of_type(found, "IAM::ManagedPolicy"))
    assert [re.sub(r"Tasks|Resources|[0-9A-F]{8}$", "", id) for id in policies] == ["ProducerPolicy", "SchedulesPolicy"]
    arns = [{"Ref": policy} for policy in policies]
    assert of_type(found, "IAM::Role")[_one(found, "Service")]["ManagedPolicyArns"] == arns
    producer = found["Metadata"]["producer"]
    broker = "".join(
        part if isinstance(part, str) else str(part) for part in producer.pop("DISPATCHER_BROKER_URL")["Fn::Join"][1]
    )
    assert broker.startswith("sqs://?queue_name_prefix={'Ref': 'AWS::StackName'}-&scheduler_role={'Fn::GetAtt'")
    assert "&scheduler_group={'Ref'" in broker
    assert producer == {
        "DISPATCHER_RESULT_BACKEND": "dynamodb://",
        "DISPATCHER_TABLE": {"Ref": _one(found, "Own")},
        "DISPATCHER_QUEUE_URL_DEFAULT": {"Ref": _one(found, "Orders")},
    }


def test_a_function_is_granted_more(own: Path) -> None:
    """What a construct grants to the function goes to its role, beside what the plan gives."""
    found = read(own, "own")
    (policy,) = of_type(found, "IAM::Policy").values()
    assert "sqs:PurgeQueue" in policy["PolicyDocument"]["Statement"][0]["Action"]
    (role,) = policy["Roles"]
    assert "DefaultRole" in role["Ref"]


REFUSALS = {
    "app": "has no 'nothing'",
    "code": "'/no/such/place', which does not exist",
    "no_code": "code= is missing; it must be a Package",
    "queue": "no queue 'mail'; it has default",
    "memory": "must be a whole number from 128",
    "unknown": "did you mean 'memory'?",
    "groups": "needs security_groups",
    "no_vpc": "give vpc= too",
    "existing": "takes the place of one queue",
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_work_is_refused(own: Path, name: str) -> None:
    """The error says what is wrong."""
    assert REFUSALS[name] in json.loads((own / "refusals.json").read_text("utf-8"))[name]


def test_templates_are_lint_clean(shop: Path, own: Path) -> None:
    """cfn-lint has nothing to say about the templates."""
    linter = ROOT / ".tools-venv" / "bin" / "cfn-lint"
    if not linter.exists():
        unavailable("cfn-lint is not installed: make template")
    templates = [str(path) for folder in (shop, own) for path in sorted(folder.glob("*.template.json"))]
    assert len(templates) == 7
    done = subprocess.run(
        [str(linter), "--region", "us-east-1", "--", *templates],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
