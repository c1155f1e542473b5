"""`dispatcher infra apply` and `check --stack` against an emulator: made, used, changed by hand, found."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher import Dispatcher, aws
from dispatcher.aws_options import ClientSettings
from dispatcher.cli.root import run
from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.provision import plan
from dispatcher.provision.apply import apply
from dispatcher.provision.live import DeployedStack, check_stack
from dispatcher.provision.resources import template
from dispatcher.schedules import crontab
from tests.emulation.availability import unavailable
from tests.emulation.endpoint import AwsEndpoint, archive, unique_name
from tests.emulation.environments import ROOT, EnvironmentUnavailable
from tests.provision.apps.press import app as press

APP = """
from dispatcher import Dispatcher
app = Dispatcher("adder")
app.conf.infra = {"timeout": 10}

@app.task
def add(x: int, y: int) -> int:
    return x + y
"""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[AwsEndpoint]:
    """An emulator."""
    try:
        started = AwsEndpoint().start()
    except EnvironmentUnavailable as error:
        unavailable(f"no environment for the AWS emulator: {error}")
    yield started
    started.close()


@pytest.fixture
def url(endpoint: AwsEndpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The emulator's address, with its keys in the environment."""
    variables = endpoint.env()
    address = variables.pop("AWS_ENDPOINT_URL")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    yield address
    for service in (
        "cloudformation",
        "s3",
        "sqs",
        "dynamodb",
        "lambda",
        "iam",
        "logs",
        "events",
        "scheduler",
        "cloudwatch",
    ):
        aws.release(service, ClientSettings(endpoint_url=address))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, endpoint: AwsEndpoint) -> Path:
    """A package with the app of `APP`; the emulator's functions find msgpack in their own environment."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "adder.py").write_text(APP, encoding="utf-8")
    (folder / "dispatcher").symlink_to(ROOT / "dispatcher")
    return folder


def _adder(package: Path, monkeypatch: pytest.MonkeyPatch) -> Dispatcher:
    monkeypatch.syspath_prepend(str(package))
    from dispatcher.loading import find_app

    return find_app("adder:app")


def test_applied_plan_runs_a_task(
    url: str, package: Path, endpoint: AwsEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queues, table, functions and mappings are made; a task goes through them; nothing changes the second time."""
    made = plan(_adder(package, monkeypatch), spec="adder:app")
    stack = unique_name("adder")
    outputs = apply(made, endpoint=url, stack=stack, code=package)
    assert not check_stack(template(made), stack, ClientSettings(endpoint_url=url))
    variables = {
        "DISPATCHER_BROKER_URL": outputs["BrokerUrl"], "DISPATCHER_RESULT_BACKEND": "dynamodb://",
        "DISPATCHER_TABLE": outputs["Table"], "AWS_ENDPOINT_URL": url,
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with Dispatcher("adder", set_as_current=False) as producer:
        assert producer.send_task("adder.add", (20, 22)).get(timeout=60) == 42
    assert apply(made, endpoint=url, stack=stack, code=package) == outputs


def _change_queue(client: Any, outputs: dict[str, str]) -> None:
    attributes = {"VisibilityTimeout": "30"}
    client("sqs").set_queue_attributes(QueueUrl=outputs["DefaultQueueUrl"], Attributes=attributes)


def _change_policy(client: Any, outputs: dict[str, str]) -> None:
    client("sqs").set_queue_attributes(QueueUrl=outputs["DefaultQueueUrl"], Attributes={"Policy": ""})


def _change_function(client: Any, outputs: dict[str, str]) -> None:
    client("lambda").update_function_configuration(FunctionName=outputs["VideoFunction"], Timeout=3)


def _change_recursion(client: Any, outputs: dict[str, str]) -> None:
    client("lambda").put_function_recursion_config(FunctionName=outputs["VideoFunction"], RecursiveLoop="Terminate")


def _change_mapping(client: Any, outputs: dict[str, str]) -> None:
    mappings = client("lambda").list_event_source_mappings(FunctionName=outputs["VideoFunction"])["EventSourceMappings"]
    client("lambda").update_event_source_mapping(UUID=mappings[0]["UUID"], BatchSize=7)


def _change_rule(client: Any, outputs: dict[str, str]) -> None:
    rules = client("events").list_rules(NamePrefix="press-prod-poll")["Rules"]
    client("events").disable_rule(Name=rules[0]["Name"])


def _change_role(client: Any, outputs: dict[str, str]) -> None:
    iam = client("iam")
    role = client("lambda").get_function_configuration(FunctionName=outputs["VideoFunction"])["Role"].rsplit("/", 1)[1]
    document = iam.get_role_policy(RoleName=role, PolicyName="RunTasks")["PolicyDocument"]
    document["Statement"][0]["Action"].append("sqs:PurgeQueue")
    iam.put_role_policy(RoleName=role, PolicyName="RunTasks", PolicyDocument=json.dumps(document))


def _remove_table(client: Any, outputs: dict[str, str]) -> None:
    client("dynamodb").delete_table(TableName=outputs["Table"])


DRIFTS = [
    (_change_queue, 'DefaultQueue.VisibilityTimeout: "30", but the app needs 360'),
    (_change_policy, "DefaultQueuePolicy.PolicyDocument."),
    (_change_function, "VideoFunction.Timeout: 3, but the app needs 285"),
    (_change_recursion, 'VideoFunction.RecursiveLoop: "Terminate", but the app needs "Allow"'),
    (_change_mapping, "VideoMapping.BatchSize: 7, but the app needs 1"),
    (_change_rule, 'PollBeat.State: "DISABLED", but the app needs "ENABLED"'),
    (_change_role, "VideoRole.Policies[RunTasks].PolicyDocument.Statement[TakeMessages].Action"),
    (_remove_table, "ResultTable: is gone, though the stack knows it"),
]


def test_drift_is_found_by_what_changed(url: str, package: Path, endpoint: AwsEndpoint) -> None:
    """A stack as applied has no drift; each change by hand is named, with what is there and what the app needs."""
    planned = plan(press, spec="press:app", stage="prod")
    made, settings = template(planned), ClientSettings(endpoint_url=url)
    outputs = apply(planned, endpoint=url, code=package)
    assert check_stack(made, "press-prod", settings) == []
    for number, (change, said) in enumerate(DRIFTS, start=1):
        change(endpoint.client, outputs)
        found = [str(each) for each in check_stack(made, "press-prod", settings)]
        assert any(line.startswith(said) for line in found), (said, found)
        assert len({line.split(".")[0].split(":")[0] for line in found}) <= number, found


KEY = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-0000-0000-000000000000"
OTHER_KEY = KEY.replace("key/0", "key/1")


def _vault(layer: str) -> Dispatcher:
    """An app with a network, a layer, a key, a bucket and a time zone of its own."""
    app = Dispatcher("vault", set_as_current=False)
    app.conf.update(
        timezone="Europe/Berlin",
        beat_schedule={"chime": {"task": "vault.open", "schedule": crontab(minute=0)}},
        infra={
            "kms_key": KEY, "payload_days": 40, "layers": [layer],
            "vpc": {"subnets": ["subnet-0a1b2c3d", "subnet-0a1b2c3e"], "security_groups": ["sg-0a1b2c3d"]},
        },
    )  # fmt: skip
    app.task(name="vault.open")(list)
    return app


def _change_dashboard(client: Any, stack: str) -> None:
    body = json.loads(client("cloudwatch").get_dashboard(DashboardName=stack)["DashboardBody"])
    body["widgets"][1]["properties"]["period"] = 300
    client("cloudwatch").put_dashboard(DashboardName=stack, DashboardBody=json.dumps(body))


def _function_of(client: Any, stack: str) -> str:
    return _physical(client, stack, "DefaultFunction")


def _physical(client: Any, stack: str, id: str) -> str:
    found = client("cloudformation").describe_stack_resource(StackName=stack, LogicalResourceId=id)
    name: str = found["StackResourceDetail"]["PhysicalResourceId"]
    return name


def _configure(**settings: Any) -> Any:
    return lambda client, stack: client("lambda").update_function_configuration(
        FunctionName=_function_of(client, stack), **settings
    )


def _reserve_none(client: Any, stack: str) -> None:
    client("lambda").put_function_concurrency(FunctionName=_function_of(client, stack), ReservedConcurrentExecutions=0)


def _filter_mapping(client: Any, stack: str) -> None:
    mappings = client("lambda").list_event_source_mappings(FunctionName=_function_of(client, stack))
    client("lambda").update_event_source_mapping(
        UUID=mappings["EventSourceMappings"][0]["UUID"], FilterCriteria={"Filters": [{"Pattern": '{"body": ["x"]}'}]}
    )


def _disable_mapping(client: Any, stack: str) -> None:
    mappings = client("lambda").list_event_source_mappings(FunctionName=_function_of(client, stack))
    client("lambda").update_event_source_mapping(UUID=mappings["EventSourceMappings"][0]["UUID"], Enabled=False)


def _change_alarm(**settings: Any) -> Any:
    def change(client: Any, stack: str) -> None:
        name = _physical(client, stack, "DefaultDeadLetters")
        (found,) = client("cloudwatch").describe_alarms(AlarmNames=[name])["MetricAlarms"]
        keys = ("AlarmName", "AlarmDescription", "Namespace", "MetricName", "Dimensions", "Statistic", "Period",
                "EvaluationPeriods", "Threshold", "ComparisonOperator", "TreatMissingData", "AlarmActions",
                "OKActions", "ActionsEnabled")  # fmt: skip
        client("cloudwatch").put_metric_alarm(**{**{key: found[key] for key in keys if key in found}, **settings})

    return change


def _attach_policy(client: Any, stack: str) -> None:
    role = _physical(client, stack, "DefaultRole")
    policy = client("iam").create_policy(PolicyName=unique_name("all"), PolicyDocument=json.dumps(
        {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}))  # fmt: skip
    client("iam").attach_role_policy(RoleName=role, PolicyArn=policy["Policy"]["Arn"])


def _change_table_key(client: Any, stack: str) -> None:
    key = {"Enabled": True, "SSEType": "KMS", "KMSMasterKeyId": OTHER_KEY}
    client("dynamodb").update_table(TableName=_physical(client, stack, "ResultTable"), SSESpecification=key)


def _change_bucket_key(client: Any, stack: str) -> None:
    by_key = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": OTHER_KEY}
    rules = [{"ApplyServerSideEncryptionByDefault": by_key, "BucketKeyEnabled": True}]
    bucket, encrypted = _physical(client, stack, "PayloadBucket"), {"Rules": rules}
    client("s3").put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=encrypted)


def _open_bucket(client: Any, stack: str) -> None:
    bucket = _physical(client, stack, "PayloadBucket")
    document = json.loads(client("s3").get_bucket_policy(Bucket=bucket)["Policy"])
    who, what = {"AWS": "444455556666"}, f"arn:aws:s3:::{bucket}/*"
    document["Statement"].append(
        {"Sid": "Open", "Effect": "Allow", "Principal": who, "Action": "s3:GetObject", "Resource": what}
    )
    client("s3").put_bucket_policy(Bucket=bucket, Policy=json.dumps(document))


def _drop_bucket_policy(client: Any, stack: str) -> None:
    client("s3").delete_bucket_policy(Bucket=_physical(client, stack, "PayloadBucket"))


VAULT_DRIFTS = [
    (_change_dashboard, "Dashboard.DashboardBody.widgets[1].properties.period: 300, but the app needs 60"),
    (_configure(Layers=[]), "DefaultFunction.Layers: [], but the app needs"),
    (_configure(KMSKeyArn=OTHER_KEY), f'DefaultFunction.KmsKeyArn: "{OTHER_KEY}", but the app needs "{KEY}"'),
    (
        _configure(VpcConfig={"SubnetIds": ["subnet-0a1b2c3d"], "SecurityGroupIds": ["sg-0a1b2c3d"]}),
        'DefaultFunction.VpcConfig.SubnetIds: ["subnet-0a1b2c3d"], but the app needs',
    ),
    (_configure(Description="mine"), 'DefaultFunction.Description: "mine", but'),
    (_reserve_none, 'DefaultFunction.ReservedConcurrentExecutions: 0, but the app needs "unreserved"'),
    (_filter_mapping, "DefaultMapping.FilterCriteria: {"),
    (_disable_mapping, 'DefaultMapping.Enabled: "false", but the app needs "true"'),
    (_change_alarm(AlarmActions=[]), "DefaultDeadLetters.AlarmActions: "),
    (_change_alarm(ActionsEnabled=False), 'DefaultDeadLetters.ActionsEnabled: "false", but the app needs "true"'),
    (_change_alarm(TreatMissingData="breaching"), 'DefaultDeadLetters.TreatMissingData: "breaching", but'),
    (_attach_policy, "DefaultRole.ManagedPolicyArns: "),
    (_change_table_key, "ResultTable.SSESpecification.KMSMasterKeyId: "),
    (_change_bucket_key, "PayloadBucket.BucketEncryption.ServerSideEncryptionConfiguration[0]"),
    (_open_bucket, "PayloadBucketPolicy.PolicyDocument.Statement[Open]: "),
    (_drop_bucket_policy, "PayloadBucketPolicy.PolicyDocument."),
]


def test_drift_of_networks_keys_alarms_and_policies_is_found(url: str, package: Path, endpoint: AwsEndpoint) -> None:
    """Whatever a describe call tells of what the plan has; what is given by hand beside it is found, too."""
    layer = endpoint.client("lambda").publish_layer_version(
        LayerName=unique_name("fonts"), Content={"ZipFile": archive({"python/fonts.py": ""})}
    )["LayerVersionArn"]
    planned, stack, client = plan(_vault(layer), spec="vault:app"), unique_name("vault"), endpoint.client
    settings = ClientSettings(endpoint_url=url)
    apply(planned, endpoint=url, stack=stack, code=package)
    made = template(planned)
    # As AWS has it: with what refuses plain HTTP, and a topic for alarms.
    body, topic = made.cloudformation(), "arn:aws:sns:us-east-1:000000000000:on-call"
    parameters = [{"ParameterKey": "AlarmTopic", "ParameterValue": topic}]
    parameters += [{"ParameterKey": key, "UsePreviousValue": True} for key in ("CodeBucket", "CodeKey")]
    client("cloudformation").update_stack(StackName=stack, TemplateBody=json.dumps(body), Parameters=parameters,
                                          Capabilities=["CAPABILITY_NAMED_IAM"])  # fmt: skip
    assert "\n".join(str(each) for each in DeployedStack(stack, settings).differences(made)) == ""
    for number, (change, said) in enumerate(VAULT_DRIFTS, start=1):
        change(client, stack)
        found = [str(each) for each in DeployedStack(stack, settings).differences(made)]
        assert any(line.startswith(said) for line in found), (said, found)
        assert len({line.split(".")[0].split(":")[0] for line in found}) <= number, found


def test_commands_apply_and_check(
    url: str, package: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, endpoint: AwsEndpoint
) -> None:
    """The commands do the same: exit code 0 without drift, 1 with it; without code there are no functions."""
    monkeypatch.syspath_prepend(str(package))
    stack = unique_name("cli")
    assert run(["-A", "adder:app", "infra", "apply", "--endpoint", url, "--stack", stack, "--json"]) == 0
    outputs = json.loads(capsys.readouterr().out)
    assert outputs.keys() >= {"DefaultQueueUrl", "Table"}
    assert run(["-A", "adder:app", "infra", "check", "--endpoint", url, "--stack", stack]) == 1
    assert "DefaultFunction: is missing, a resource of type AWS::Lambda::Function" in capsys.readouterr().out
    apply_all = ["infra", "apply", "--endpoint", url, "--stack", stack, "--code", str(package)]
    assert run(["-A", "adder:app", *apply_all]) == 0
    capsys.readouterr()
    assert run(["-A", "adder:app", "infra", "check", "--endpoint", url, "--stack", stack]) == 0
    assert "is what the app needs" in capsys.readouterr().err
    assert run(["-A", "adder:app", "infra", "check", "--endpoint", url, "--stack", "nobody"]) == 1
    assert "there is no stack 'nobody'" in capsys.readouterr().err


def test_an_emulator_needs_neither_region_nor_keys(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where none are configured it gets some, and the region is said; an address that is none is refused plainly."""
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    aws.release("cloudformation", ClientSettings(endpoint_url=url))
    stack, command = unique_name("bare"), ["-A", "tests.provision.apps.press:app", "infra"]
    assert run([*command, "apply", "--endpoint", url, "--stack", stack]) == 0
    assert "region us-east-1: none is set" in capsys.readouterr().err
    assert run([*command, "check", "--endpoint", url, "--stack", stack]) == 1
    said = capsys.readouterr()
    assert "region us-east-1: none is set" in said.err
    assert "DefaultFunction: is missing" in said.out
    assert run([*command, "check", "--endpoint", "nowhere", "--stack", stack]) == 2
    assert capsys.readouterr().err.endswith("no cloudformation client can be made: Invalid endpoint: nowhere\n")
    assert run([*command, "check", "--endpoint", url, "--template", __file__]) == 2
    assert "--endpoint is where a stack is" in capsys.readouterr().err


def test_aws_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an endpoint there is no apply, and AWS's own is none."""
    assert run(["-A", "tests.provision.apps.press:app", "infra", "apply"]) == 2
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):  # nor is it asked for a region first
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ImproperlyConfigured, match="is AWS itself"):
        apply(plan(press), endpoint="https://cloudformation.us-east-1.amazonaws.com")
