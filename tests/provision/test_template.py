"""`template.yaml` is what the code says, keeps the rules of its construction, and the checks that say so can fail."""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

import pytest

from dispatcher import Dispatcher
from dispatcher.loading import find_app
from dispatcher.provision import plan, rules, sam
from dispatcher.provision.check import unfolded
from dispatcher.provision.reading import parse
from dispatcher.provision.resources import template
from tests.emulation.archive import FOR_THIS_MACHINE
from tests.emulation.availability import unavailable
from tests.emulation.environments import ROOT

TOOLS = ROOT / ".tools-venv" / "bin"
TEMPLATE = ROOT / "template.yaml"
Template = dict[str, Any]


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dispatcher]:
    """The app that `template.yaml` deploys."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    yield find_app("shop:app")
    sys.modules.pop("shop", None)


def load() -> Template:
    """Return the template in the plain form that rules read."""
    return unfolded(parse(TEMPLATE.read_text(encoding="utf-8")))


def press() -> Template:
    """Return the plain template of an app with everything that a plan can hold."""
    from tests.provision.apps.press import app

    return copy.deepcopy(template(plan(app, spec="press:app")).cloudformation())


def test_template_is_what_the_code_says(shop: Dispatcher) -> None:
    """`dispatcher -A shop:app infra sam` has nothing to renew."""
    text = TEMPLATE.read_text(encoding="utf-8")
    assert sam.render(plan(shop, spec="shop:app"), text) == text


@pytest.mark.parametrize("made", [load, press], ids=["template.yaml", "press"])
@pytest.mark.parametrize("rule", rules.RULES.values(), ids=rules.RULES)
def test_template_keeps_the_rule(rule: rules.Rule, made: Callable[[], Template]) -> None:
    """Neither template breaks a rule."""
    assert not list(rule(made()))


def _resource(name: str) -> Callable[[Template], dict[str, Any]]:
    return lambda template: template["Resources"][name]["Properties"]  # type: ignore[no-any-return]


queue, lost, dead = _resource("DefaultQueue"), _resource("DefaultLostQueue"), _resource("DefaultDeadQueue")
function, results, role = _resource("DefaultFunction"), _resource("ResultTable"), _resource("DefaultRole")
mapping, lost_mapping = _resource("DefaultMapping"), _resource("DefaultLostMapping")
reader, bucket, producers = _resource("LostFunction"), _resource("PayloadBucket"), _resource("ProducerPolicy")
guarding, alarm = _resource("DefaultQueuePolicy"), _resource("DefaultOldMessages")


def statements(template: Template) -> list[dict[str, Any]]:
    """The statements of the worker's role."""
    return role(template)["Policies"][0]["PolicyDocument"]["Statement"]  # type: ignore[no-any-return]


def variables(template: Template) -> dict[str, Any]:
    """The variables of the worker."""
    return function(template)["Environment"]["Variables"]  # type: ignore[no-any-return]


def redirected(template: Template) -> None:
    """Let the dead-letter queue take what the task queue gives up."""
    dead(template)["RedriveAllowPolicy"] = lost(template)["RedriveAllowPolicy"]


BREAKS: list[tuple[str, Callable[[Template], Any]]] = [
    ("visibility", lambda t: queue(t).update(VisibilityTimeout=359)),
    ("visibility", lambda t: queue(t).pop("VisibilityTimeout")),
    ("visibility", lambda t: function(t).update(Timeout=61)),
    ("visibility", lambda t: mapping(t).update(MaximumBatchingWindowInSeconds=5)),
    ("visibility", lambda t: lost(t).update(VisibilityTimeout=360)),
    ("redrive", lambda t: queue(t).pop("RedrivePolicy")),
    ("redrive", lambda t: queue(t)["RedrivePolicy"].update(maxReceiveCount=3)),
    ("redrive", lambda t: dead(t).pop("MessageRetentionPeriod")),
    ("redrive", lambda t: dead(t).update(MessageRetentionPeriod=900_000)),
    ("redrive", lambda t: queue(t).update(FifoQueue=True)),
    ("redrive", lambda t: lost(t).pop("RedrivePolicy")),
    ("redrive", lambda t: lost(t).pop("MessageRetentionPeriod")),
    ("redrive", lambda t: lost(t).pop("RedriveAllowPolicy")),
    ("redrive", redirected),
    ("budget", lambda t: queue(t)["RedrivePolicy"].update(maxReceiveCount=900)),
    ("budget", lambda t: queue(t).update(VisibilityTimeout=5400)),
    ("budget", lambda t: lost(t)["RedrivePolicy"].update(maxReceiveCount=100)),
    ("budget", lambda t: queue(t).update(MessageRetentionPeriod=400000)),
    ("budget", lambda t: variables(t).update(DISPATCHER_BROKER_URL="sqs://")),
    ("partial_batches", lambda t: lost_mapping(t).pop("FunctionResponseTypes")),
    ("partial_batches", lambda t: mapping(t).pop("FunctionResponseTypes")),
    ("partial_batches", lambda t: mapping(t).update(ScalingConfig={"MaximumConcurrency": 1})),
    ("partial_batches", lambda t: mapping(t).pop("ScalingConfig")),
    ("partial_batches", lambda t: mapping(t).update(BatchSize=100)),
    ("partial_batches", lambda t: mapping(t).update(FilterCriteria={"Filters": [{}]})),
    ("functions", lambda t: reader(t).update(Role=function(t)["Role"])),
    ("functions", lambda t: function(t).pop("RecursiveLoop")),
    ("functions", lambda t: function(t).pop("LoggingConfig")),
    ("functions", lambda t: variables(t).pop("DISPATCHER_APP")),
    ("functions", lambda t: function(t).pop("Role")),
    ("least_privilege", lambda t: statements(t)[0].update(Resource="*")),
    ("least_privilege", lambda t: statements(t)[0].update(Action="sqs:*")),
    ("least_privilege", lambda t: role(t).update(ManagedPolicyArns=["arn:aws:iam::aws:policy/AdministratorAccess"])),
    ("least_privilege", lambda t: producers(t)["PolicyDocument"]["Statement"][0].update(Resource="*")),
    ("encryption", lambda t: queue(t).pop("SqsManagedSseEnabled")),
    ("encryption", lambda t: t["Resources"].pop("DefaultQueuePolicy")),
    ("encryption", lambda t: guarding(t)["Queues"].pop()),
    ("senders", lambda t: guarding(t)["PolicyDocument"]["Statement"][1].update(Principal="*")),
    ("senders", lambda t: guarding(t)["PolicyDocument"]["Statement"][2].pop("Condition")),
    ("table", lambda t: results(t).pop("TimeToLiveSpecification")),
    ("table", lambda t: results(t).update(BillingMode="PROVISIONED")),
    ("table", lambda t: results(t)["KeySchema"].pop()),
    ("table", lambda t: t["Resources"].pop("ResultTable")),
    ("payloads", lambda t: bucket(t)["PublicAccessBlockConfiguration"].update(BlockPublicPolicy=False)),
    ("payloads", lambda t: t["Resources"].pop("PayloadBucketPolicy")),
    ("payloads", lambda t: bucket(t).pop("LifecycleConfiguration")),
    ("payloads", lambda t: bucket(t)["LifecycleConfiguration"]["Rules"][0].update(Status="Disabled")),
    ("payloads", lambda t: bucket(t)["LifecycleConfiguration"]["Rules"][0].update(ExpirationInDays=7)),
    ("alarms", lambda t: t["Resources"].pop("DefaultOldMessages")),
    ("alarms", lambda t: t["Resources"].pop("DefaultDeadLetters")),
    ("alarms", lambda t: t["Resources"].pop("DefaultFunctionThrottles")),
    ("alarms", lambda t: alarm(t).update(MetricName="NumberOfMessagesSent")),
]


@pytest.mark.parametrize(("name", "damage"), BREAKS, ids=[f"{name}-{n}" for n, (name, _) in enumerate(BREAKS)])
def test_broken_template_is_found(name: str, damage: Callable[[Template], Any]) -> None:
    """A rule reports a template that was broken by hand."""
    broken = press()
    damage(broken)
    assert list(rules.RULES[name](broken))


def test_pollers_stand_for_a_concurrency() -> None:
    """A mapping with pollers of its own, which exclude the setting, needs none."""
    made = press()
    mapping(made).pop("ScalingConfig")
    mapping(made)["ProvisionedPollerConfig"] = {"MinimumPollers": 2, "MaximumPollers": 20}
    assert not list(rules.RULES["partial_batches"](made))


def test_every_rule_can_fail() -> None:
    """Each rule is broken by at least one test."""
    assert {name for name, _ in BREAKS} == set(rules.RULES)


def granted(template: Template, role: str) -> dict[str, set[str]]:
    """Return what a role allows: actions by the resource they are allowed on."""
    found: dict[str, set[str]] = {}
    for policy in template["Resources"][role]["Properties"]["Policies"]:
        for statement in policy["PolicyDocument"]["Statement"]:
            for target in rules.listed(statement["Resource"]):
                name = rules.referred(target) or str(target)
                found.setdefault(name, set()).update(rules.listed(statement["Action"]))
    return found


RECORDS = {
    "dynamodb:GetItem", "dynamodb:BatchGetItem", "dynamodb:UpdateItem", "dynamodb:PartiQLInsert",
    "dynamodb:PartiQLUpdate",
}  # fmt: skip


def test_role_allows_what_the_worker_does() -> None:
    """The role allows the calls of the SQS broker and the DynamoDB backend, and no others."""
    allowed = granted(load(), "DefaultRole")
    assert allowed["DefaultQueue"] == {
        "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ChangeMessageVisibility",
        "sqs:SendMessage",
    }  # fmt: skip
    assert allowed["DefaultDeadQueue"] == {"sqs:SendMessage"}
    assert allowed["ResultTable"] == {*RECORDS, "dynamodb:BatchWriteItem"}
    assert allowed["SchedulerRole"] == {"iam:PassRole"}


def test_role_allows_what_the_reader_of_lost_messages_does() -> None:
    """It takes from the lost queue alone, and never deletes from, or receives from, the task queue."""
    allowed = granted(load(), "LostRole")
    assert allowed["DefaultLostQueue"] == {
        "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ChangeMessageVisibility",
    }  # fmt: skip
    assert allowed["DefaultQueue"] == allowed["DefaultDeadQueue"] == {"sqs:SendMessage"}
    assert allowed["ResultTable"] == RECORDS


def test_worker_may_take_from_its_own_queue_alone() -> None:
    """Functions of other queues may send to a queue, and not receive from it."""
    allowed = granted(press(), "VideoRole")
    assert "sqs:ReceiveMessage" in allowed["VideoQueue"]
    for other in ("DefaultQueue", "ArchiveQueue", "OrdersFifoQueue", "GpuQueue"):
        assert allowed[other] == {"sqs:SendMessage"}


def test_reader_of_lost_messages_knows_the_worker() -> None:
    """It waits for runs that may go on for as long as the worker's timeout, and has the worker's app."""
    made = load()
    worker, own = (each(made)["Environment"]["Variables"] for each in (function, reader))
    assert own["DISPATCHER_LOST_AFTER"] == str(function(made)["Timeout"])
    assert own.items() >= worker.items()
    kept = {int(each["DISPATCHER_RECORD_RETENTION"]) for each in (worker, own)}
    assert kept == {lost(made)["MessageRetentionPeriod"]}


def test_payloads_are_kept_where_they_are_asked_for() -> None:
    """The function gets the bucket's name and may do what the payload store does; else there is neither."""
    made = press()
    assert variables(made)["DISPATCHER_PAYLOAD_BUCKET"] == {"Ref": "PayloadBucket"}
    for name in ("DefaultRole", "LostRole"):
        allowed = granted(made, name)
        assert allowed["{'Fn::Sub': '${PayloadBucket.Arn}/*'}"] == {"s3:GetObject", "s3:PutObject"}
        assert allowed["PayloadBucket"] == {"s3:ListBucket"}
    assert "DISPATCHER_PAYLOAD_BUCKET" not in variables(load())
    assert not rules.of_type(load(), "AWS::S3::Bucket")


def test_function_finds_its_queues_by_the_package_s_names() -> None:
    """The variables of the queues' URLs, and the queues' names, are those that the package derives."""
    from dispatcher.brokers.sqs_queues import Queues
    from dispatcher.config import queue_variable

    made = press()
    known = reader(made)["Environment"]["Variables"]
    broker = Queues({"queue_name_prefix": "${AWS::StackName}-"})
    for queue, id in (("default", "Default"), ("orders.fifo", "OrdersFifo"), ("archive", "Archive")):
        for name, kind in ((queue, "Queue"), (Queues.lost(queue), "LostQueue"), (Queues.dead(queue), "DeadQueue")):
            assert known[queue_variable(name)] == {"Ref": id + kind}
            written = _resource(id + kind)(made)["QueueName"]["Fn::Sub"]
            assert written.removeprefix("${AWS::StackName}-") == broker.sqs_name(name)[len("__AWS__StackName_-") :]


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


def test_template_of_everything_lints_clean(tmp_path: Path) -> None:
    """cfn-lint has nothing to say of FIFO queues, rules and buckets, nor of the plain form for a stage."""
    from tests.provision.apps.press import app

    (tmp_path / "sam.yaml").write_text(sam.render(plan(app, spec="press:app")), encoding="utf-8")
    staged = template(plan(app, spec="press:app", stage="prod"))
    (tmp_path / "plain.json").write_text(json.dumps(staged.cloudformation()), encoding="utf-8")
    done = _run(_tool("cfn-lint"), *map(str, sorted(tmp_path.iterdir())))
    assert done.returncode == 0, done.stdout + done.stderr


def test_template_validates() -> None:
    """`sam validate --lint` accepts the template."""
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    done = _run(_tool("sam"), "validate", "--lint", "--template", "template.yaml", **keys)
    assert done.returncode == 0, done.stdout + done.stderr


def test_built_package_holds_what_the_function_needs(tmp_path: Path) -> None:
    """`sam build` packs our code, the app and what they need, all compiled, with the service models in use only."""
    if shutil.which("make") is None:
        unavailable("make is not installed")
    target = ("DefaultFunction", "--build-dir", str(tmp_path / "built"), "--template", "template.yaml")
    done = _run(_tool("sam"), "build", *target, **FOR_THIS_MACHINE)
    assert done.returncode == 0, done.stdout + done.stderr
    package = tmp_path / "built" / "DefaultFunction"
    # The others are built by the same commands.
    one, other = (_run("make", "-n", "-f", "handlers/Makefile", f"build-{name}") for name in ("Default", "Lost"))
    assert one.stdout == other.stdout != ""
    names = {path.name for path in package.iterdir() if not path.name.endswith(".dist-info")}
    libraries = {"botocore", "dateutil", "jmespath", "msgpack", "six.py", "urllib3", "bin"}
    assert names == {"dispatcher", "handlers", "shop.py", "__pycache__"} | libraries
    models = {path.name for path in (package / "botocore" / "data").iterdir() if path.is_dir()}
    assert models == {"dynamodb", "s3", "scheduler", "sqs", "sts"}
    modules = list(package.rglob("*.py"))
    assert all(Path(cache_from_source(str(path))).exists() for path in modules)
    # The handler's module is found as Lambda finds it, from the package's directory.
    code = (
        "import importlib.util as u; assert all(map(u.find_spec, ('handlers.worker', 'handlers.dead_letter', 'shop')))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=package, check=True, timeout=60)
