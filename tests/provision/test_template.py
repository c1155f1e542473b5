"""The template keeps the rules of its construction, and the checks that say so can fail."""

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.emulation.availability import unavailable
from tests.emulation.environments import ROOT
from tests.provision import template as rules

TOOLS = ROOT / ".tools-venv" / "bin"


@pytest.mark.parametrize("rule", rules.RULES.values(), ids=rules.RULES)
def test_template_keeps_the_rule(rule: rules.Rule) -> None:
    """The template breaks no rule, whatever its parameters."""
    assert not list(rule(rules.load()))


def _resource(name: str) -> Callable[[rules.Template], dict[str, Any]]:
    return lambda template: template["Resources"][name]["Properties"]  # type: ignore[no-any-return]


queue, lost, dead = _resource("TaskQueue"), _resource("LostQueue"), _resource("DeadLetterQueue")
reader = _resource("DeadLetterFunction")
bucket = _resource("PayloadBucket")
function, results, role = _resource("WorkerFunction"), _resource("ResultTable"), _resource("WorkerRole")


def mapping(template: rules.Template) -> dict[str, Any]:
    """The properties of the event source mapping."""
    return function(template)["Events"]["Tasks"]["Properties"]  # type: ignore[no-any-return]


def statements(template: rules.Template) -> list[dict[str, Any]]:
    """The statements of the worker's role."""
    return role(template)["Policies"][0]["PolicyDocument"]["Statement"]  # type: ignore[no-any-return]


BREAKS: list[tuple[str, Callable[[rules.Template], Any]]] = [
    ("visibility", lambda t: queue(t).update(VisibilityTimeout=359)),
    ("visibility", lambda t: queue(t).pop("VisibilityTimeout")),
    ("visibility", lambda t: t["Mappings"]["Transport"]["900"].update(Visibility=900)),
    ("visibility", lambda t: mapping(t).update(MaximumBatchingWindowInSeconds=5)),
    ("redrive", lambda t: queue(t).pop("RedrivePolicy")),
    ("redrive", lambda t: queue(t)["RedrivePolicy"].update(maxReceiveCount=3)),
    ("redrive", lambda t: dead(t).pop("MessageRetentionPeriod")),
    ("redrive", lambda t: queue(t).update(FifoQueue=True)),
    ("redrive", lambda t: lost(t).pop("RedrivePolicy")),
    ("redrive", lambda t: lost(t).pop("MessageRetentionPeriod")),
    ("redrive", lambda t: lost(t).pop("RedriveAllowPolicy")),
    (
        "redrive",
        lambda t: dead(t)["RedriveAllowPolicy"].update(
            sourceQueueArns=lost(t)["RedriveAllowPolicy"]["sourceQueueArns"]
        ),
    ),
    ("budget", lambda t: t["Mappings"]["Transport"]["900"].update(Receives=100)),
    ("budget", lambda t: lost(t)["RedrivePolicy"].update(maxReceiveCount=100)),
    ("budget", lambda t: queue(t).update(MessageRetentionPeriod=400000)),
    ("budget", lambda t: reader(t)["Environment"]["Variables"].update(DISPATCHER_BROKER_URL="sqs://")),
    ("visibility", lambda t: lost(t).update(VisibilityTimeout=360)),
    ("partial_batches", lambda t: reader(t)["Events"]["LostMessages"]["Properties"].pop("FunctionResponseTypes")),
    ("functions", lambda t: reader(t).update(Role=function(t)["Role"])),
    ("partial_batches", lambda t: mapping(t).pop("FunctionResponseTypes")),
    ("partial_batches", lambda t: mapping(t).update(ScalingConfig={"MaximumConcurrency": 1})),
    ("partial_batches", lambda t: mapping(t).update(BatchSize=100)),
    ("partial_batches", lambda t: mapping(t).update(FilterCriteria={"Filters": [{}]})),
    ("functions", lambda t: function(t).pop("RecursiveLoop")),
    ("functions", lambda t: function(t).pop("LoggingConfig")),
    ("functions", lambda t: function(t)["Environment"]["Variables"].pop("DISPATCHER_APP")),
    ("functions", lambda t: function(t).pop("Role")),
    ("least_privilege", lambda t: statements(t)[0].update(Resource="*")),
    ("least_privilege", lambda t: statements(t)[0].update(Action="sqs:*")),
    ("least_privilege", lambda t: role(t).update(ManagedPolicyArns=["arn:aws:iam::aws:policy/AdministratorAccess"])),
    ("encryption", lambda t: queue(t).pop("SqsManagedSseEnabled")),
    ("encryption", lambda t: t["Resources"].pop("QueuesOverTlsOnly")),
    ("encryption", lambda t: _resource("QueuesOverTlsOnly")(t)["Queues"].pop()),
    ("table", lambda t: results(t).pop("TimeToLiveSpecification")),
    ("table", lambda t: results(t).update(BillingMode="PROVISIONED")),
    ("table", lambda t: results(t)["KeySchema"].pop()),
    ("table", lambda t: t["Resources"].pop("ResultTable")),
    ("payloads", lambda t: t["Resources"]["PayloadBucket"].pop("Condition")),
    ("payloads", lambda t: bucket(t)["PublicAccessBlockConfiguration"].update(BlockPublicPolicy=False)),
    ("payloads", lambda t: t["Resources"].pop("PayloadsOverTlsOnly")),
    ("payloads", lambda t: bucket(t).pop("LifecycleConfiguration")),
    ("payloads", lambda t: bucket(t)["LifecycleConfiguration"]["Rules"][0].update(Status="Disabled")),
    ("payloads", lambda t: t["Parameters"]["PayloadDays"]["AllowedValues"].append("7")),
]


@pytest.mark.parametrize(("name", "damage"), BREAKS, ids=[f"{name}-{n}" for n, (name, _) in enumerate(BREAKS)])
def test_broken_template_is_found(name: str, damage: Callable[[rules.Template], Any]) -> None:
    """A rule reports a template that was broken by hand."""
    template = copy.deepcopy(rules.load())
    damage(template)
    assert list(rules.RULES[name](template))


def test_every_rule_can_fail() -> None:
    """Each rule is broken by at least one test."""
    assert {name for name, _ in BREAKS} == set(rules.RULES)


def test_role_allows_what_the_worker_does() -> None:
    """The role allows the calls of the SQS broker and the DynamoDB backend, and no others."""
    allowed = rules.granted(rules.load(), "WorkerRole")
    assert allowed["TaskQueue"] == {
        "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ChangeMessageVisibility",
        "sqs:SendMessage",
    }  # fmt: skip
    assert allowed["DeadLetterQueue"] == {"sqs:SendMessage"}
    assert allowed["ResultTable"] == {
        "dynamodb:GetItem", "dynamodb:BatchGetItem", "dynamodb:UpdateItem", "dynamodb:BatchWriteItem",
        "dynamodb:PartiQLInsert", "dynamodb:PartiQLUpdate",
    }  # fmt: skip


def test_role_allows_what_the_reader_of_lost_messages_does() -> None:
    """It takes from the lost queue alone, and never deletes from, or receives from, the task queue."""
    allowed = rules.granted(rules.load(), "DeadLetterRole")
    assert allowed["LostQueue"] == {
        "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ChangeMessageVisibility",
    }  # fmt: skip
    assert allowed["TaskQueue"] == allowed["DeadLetterQueue"] == {"sqs:SendMessage"}
    assert allowed["ResultTable"] == {
        "dynamodb:GetItem", "dynamodb:BatchGetItem", "dynamodb:UpdateItem", "dynamodb:PartiQLInsert",
        "dynamodb:PartiQLUpdate",
    }  # fmt: skip


def test_reader_of_lost_messages_knows_the_worker() -> None:
    """It waits for runs that may go on for as long as the worker's timeout, and has the worker's app."""
    template = rules.load()
    worker, variables = (each(template)["Environment"]["Variables"] for each in (function, reader))
    assert variables["DISPATCHER_LOST_AFTER"] == function(template)["Timeout"]
    assert variables.items() >= worker.items()
    kept = {int(each["DISPATCHER_RECORD_RETENTION"]) for each in (worker, variables)}
    assert kept == {lost(template)["MessageRetentionPeriod"]}


def test_payloads_are_kept_where_they_are_asked_for() -> None:
    """The function gets the bucket's name and may do what the payload store does; without days there is neither."""
    template = rules.load()
    variable = function(template)["Environment"]["Variables"]["DISPATCHER_PAYLOAD_BUCKET"]
    assert variable == {"Fn::If": ["KeepsPayloads", {"Ref": "PayloadBucket"}, {"Ref": "AWS::NoValue"}]}
    assert template["Parameters"]["PayloadDays"]["Default"] == "0"
    for name, given in (("PayloadAccess", "WorkerRole"), ("LostPayloadAccess", "DeadLetterRole")):
        assert template["Resources"][name]["Condition"] == "KeepsPayloads"
        access = _resource(name)(template)
        assert access["RoleName"] == {"Ref": given}
        allowed = {str(s["Resource"]): s["Action"] for s in access["PolicyDocument"]["Statement"]}
        assert allowed == {
            "{'Fn::Sub': '${PayloadBucket.Arn}/*'}": ["s3:GetObject", "s3:PutObject"],
            "{'Fn::GetAtt': ['PayloadBucket', 'Arn']}": "s3:ListBucket",
        }


def test_function_finds_its_queues_by_the_package_s_names() -> None:
    """The variables of the queues' URLs, and the queues' names, are those that the package derives."""
    from dispatcher.brokers.sqs_queues import Queues
    from dispatcher.config import queue_variable

    template = rules.load()
    variables = reader(template)["Environment"]["Variables"]
    for name, resource in (
        ("default", "TaskQueue"), (Queues.lost("default"), "LostQueue"), (Queues.dead("default"), "DeadLetterQueue")
    ):  # fmt: skip
        assert variables[queue_variable(name)] == {"Ref": resource}
        assert _resource(resource)(template)["QueueName"] == {"Fn::Sub": f"${{AWS::StackName}}-{name}"}


def _tool(name: str) -> str:
    path = TOOLS / name
    if not path.exists():
        unavailable(f"{name} is not installed: make template")
    return str(path)


def _run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "AWS_DEFAULT_REGION": "us-east-1", "SAM_CLI_TELEMETRY": "0", **variables}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False)


def test_template_lints_clean() -> None:
    """cfn-lint has nothing to say."""
    done = _run(_tool("cfn-lint"), "template.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_template_validates() -> None:
    """`sam validate --lint` accepts the template."""
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    done = _run(_tool("sam"), "validate", "--lint", "--template", "template.yaml", **keys)
    assert done.returncode == 0, done.stdout + done.stderr


def test_built_package_holds_what_the_function_needs(tmp_path: Path) -> None:
    """`sam build` packs the package, the entry points, the app and its dependency, and nothing of the repository's."""
    if shutil.which("make") is None:
        unavailable("make is not installed")
    done = _run(_tool("sam"), "build", "--build-dir", str(tmp_path / "built"), "--template", "template.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    package = tmp_path / "built" / "WorkerFunction"
    other = tmp_path / "built" / "DeadLetterFunction"
    assert {path.name for path in other.iterdir()} == {path.name for path in package.iterdir()}
    names = {path.name for path in package.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"dispatcher", "handlers", "shop.py", "msgpack"}
    assert not list(package.rglob("__pycache__"))
    # The handler's module is found as Lambda finds it, from the package's directory.
    code = (
        "import importlib.util as u; assert all(map(u.find_spec, ('handlers.worker', 'handlers.dead_letter', 'shop')))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=package, check=True, timeout=60)
