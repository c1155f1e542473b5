"""The plan of an app: what follows from tasks, routes, limits and schedules, and what is refused."""

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from dispatcher import Dispatcher
from dispatcher.beat.entries import entries
from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.provision import plan
from dispatcher.provision.naming import rule_name, slug
from dispatcher.provision.resources import ALARM_TOPIC, resources, template

LAYER = "arn:aws:lambda:eu-west-1:111122223333:layer:fonts:3"
IMAGE = "111122223333.dkr.ecr.eu-west-1.amazonaws.com/film/cut:1"
SNAPSHOT = Path(__file__).parent / "press.json"


def app_with(**settings: Any) -> Dispatcher:
    """Return an app without tasks."""
    app = Dispatcher("shop", set_as_current=False)
    app.conf.update(**settings)
    return app


def test_plan_of_the_example_is_as_recorded() -> None:
    """The plan of an app with several queues, FIFO, limits, rates and schedules; DISPATCHER_TEST_RECORD renews it."""
    from tests.provision.apps.press import app

    made = json.loads(json.dumps(dataclasses.asdict(plan(app, spec="press:app"))))
    if os.environ.get("DISPATCHER_TEST_RECORD"):
        SNAPSHOT.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    assert made == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


def test_plan_is_a_value() -> None:
    """The same app has the same plan, however often it is asked for, and the plan cannot be changed."""
    from tests.provision.apps.press import app

    assert plan(app, spec="press:app") == plan(app, spec="press:app")
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan(app).queues = ()  # type: ignore[misc]


def test_stage_names_and_changes() -> None:
    """A stage has its own names and what `stages` says of it; the rest is as everywhere."""
    from tests.provision.apps.press import app

    made = plan(app, spec="press:app", stage="prod")
    assert made.prefix == "press-prod-"
    video = made.queue("video").function
    assert video is not None
    assert (video.maximum_concurrency, video.memory) == (40, 3008)
    assert template(made)["VideoQueue"].properties["QueueName"] == "press-prod-video"
    with pytest.raises(ImproperlyConfigured, match="no stage 'test'; it has prod"):
        plan(app, stage="test")
    with pytest.raises(ImproperlyConfigured, match="letters, digits and dashes"):
        plan(app, stage="prod/eu")


def test_limit_beyond_lambda_is_refused_with_the_way_out() -> None:
    """900 s is the end of every function; a queue without one takes longer tasks."""
    app = app_with()

    @app.task(name="film.cut", queue="film", time_limit=901)
    def cut() -> None: ...

    with pytest.raises(ImproperlyConfigured, match=r"film.cut may run for 901 s.*'function': False.*worker -Q film"):
        plan(app)
    app.conf.infra = {"queues": {"film": {"function": False}}}
    made = plan(app)
    assert made.queue("film").function is None
    assert "FilmFunction" not in {resource.id for resource in resources(made)}
    assert made.notes == ("no function reads film: run `dispatcher worker -Q film` for it",)


def test_timeout_follows_from_the_longest_limit() -> None:
    """The longest task of a queue and the margins; a configured timeout must keep every limit."""
    app = app_with(infra={"queues": {"b": {"timeout": 100}}})

    @app.task(queue="a", time_limit=200)
    def long() -> None: ...

    @app.task(queue="a", soft_time_limit=10)
    def short() -> None: ...

    @app.task(queue="b", time_limit=101)
    def longer() -> None: ...

    with pytest.raises(
        ImproperlyConfigured, match=r"longer may run for 101 s, but the function of queue b has .* 100 s"
    ):
        plan(app)
    app.conf.infra = {}
    queue = plan(app).queue("a")
    assert queue.function is not None
    assert (queue.function.timeout, queue.visibility_timeout, queue.function.batch_size) == (205, 1230, 1)
    assert "long may run for 200 s" in queue.function.timeout_reason


def test_limits_of_routes_and_entries_count() -> None:
    """A message has the limit of its route, or of its entry; the function of its queue keeps it."""
    app = app_with(
        task_routes={"mail.*": {"queue": "mail", "time_limit": 300}},
        beat_schedule={"n": {"task": "mail.send", "schedule": 60, "options": {"queue": "night", "time_limit": 400}}},
    )
    app.task(name="mail.send", time_limit=20)(lambda: None)
    made = plan(app)
    timeouts = {queue.name: queue.function.timeout for queue in made.queues if queue.function}
    assert timeouts == {"mail": 305, "night": 405}
    assert made.queue("night").tasks == ("mail.send",)


@pytest.mark.parametrize(("timeout", "receives"), [(30, 100), (60, 100), (300, 100), (600, 60), (900, 40)])
def test_transport_budget_is_spent_before_the_queue_deletes(timeout: int, receives: int) -> None:
    """As many receives as fit well within the retention, each of them as long as the visibility timeout."""
    app = app_with(infra={"timeout": timeout})
    queue = plan(app).queue("default")
    assert queue.max_receive_count == receives
    assert queue.max_receive_count * queue.visibility_timeout < 0.75 * queue.retention
    assert queue.retention < queue.lost_retention < queue.dead_retention


def test_queues_come_from_routes_declarations_and_entries() -> None:
    """Whatever a task, a route, a declaration or an entry names is planned; the default queue only if used."""
    app = app_with(
        task_routes={"mail.*": {"queue": "mail"}, "orders.*": "orders.fifo"},
        task_queues=["extra"],
        beat_schedule={"daily": {"task": "mail.send", "schedule": 86400, "options": {"queue": "nightly"}}},
    )
    app.task(name="mail.send")(lambda: None)
    app.task(name="orders.take")(lambda: None)
    app.task(name="other", queue="own")(lambda: None)
    made = plan(app)
    assert [queue.name for queue in made.queues] == ["extra", "mail", "nightly", "orders.fifo", "own"]
    assert made.queue("orders.fifo").lost == "orders-lost.fifo"
    assert [queue.name for queue in plan(app_with()).queues] == ["default"]


@pytest.mark.parametrize(
    ("infra", "words"),
    [
        ({"memmory": 512}, "infra['memmory'] means nothing; did you mean 'memory'?"),
        ({"memory": 64}, "infra['memory'] must be a whole number from 128 to 10,240, not 64"),
        ({"queues": {"other": {}}}, "infra['queues'] has 'other', but no task goes there"),
        ({"queues": {"default": {"tiemout": 3}}}, "did you mean 'timeout'?"),
        ({"queues": {"default": {"function": False, "memory": 128}}}, "has no function, so it cannot have memory"),
        ({"batch_size": 100}, "a batch_size over 10 needs a batching_window of at least 1 s"),
        ({"maximum_concurrency": 1}, "must be a whole number from 2 to 1,000"),
        ({"vpc": {"subnets": ["subnet-1"]}}, "must have 'subnets' and 'security_groups'"),
        ({"image": IMAGE, "layers": [LAYER]}, "both an image and layers"),
        ({"image": "film:1"}, "must be an image in ECR with its tag or digest"),
        ({"image": IMAGE.rpartition(":")[0]}, "must be an image in ECR with its tag or digest"),
        ({"layers": ["fonts"]}, "must be ARNs of layers with their version"),
        ({"layers": [LAYER, LAYER.rpartition(":")[0]]}, "layer:<name>:<version>), not 'arn:aws:lambda:eu"),
        ({"queues": {"default": {"layers": ["fonts"]}}}, "infra['queues']['default']['layers'] must be ARNs"),
        ({"vpc": {"subnets": ["subnet-1"], "security_groups": ["sg-0a1b2c3d"]}}, "['subnets'] must be ids of subnets"),
        ({"vpc": {"subnets": ["subnet-0a1b2c3d"], "security_groups": ["default"]}}, "must be ids of security groups"),
        ({"environment": {"MY-VAR": "1"}}, "a name in infra['environment'] must be two or more letters"),
        ({"kms_key": "alias/mine"}, "must be the ARN of a key"),
        ({"producers": ["somebody"]}, "account numbers of 12 digits"),
        ({"payload_days": 30}, "a message can need its payload for 34 days"),
        ({"architecture": "arm"}, "must be 'arm64' or 'x86_64'"),
        ({"runtime": "python3.6"}, "must be a Python runtime of Lambda from 'python3.11' on"),
        ({"queues": {"default": {"runtime": "python3.10"}}}, "from 'python3.11' on, such as 'python3.13'"),
        ({"runtime": "python3.100"}, "not 'python3.100'"),
    ],
)
def test_wrong_infra_is_named(infra: dict[str, Any], words: str) -> None:
    """What cannot be meant is named with its place and the remedy."""
    with pytest.raises(ImproperlyConfigured) as raised:
        plan(app_with(infra=infra))
    assert words in str(raised.value)


def test_newer_runtime_is_taken_and_noted() -> None:
    """One that Lambda gets later works without a release of this package; the plan says that it is not known."""
    assert not [note for note in plan(app_with(infra={"runtime": "python3.14"})).notes if "python3" in note]
    made = plan(app_with(infra={"runtime": "python3.99"}))
    assert [note for note in made.notes if note.startswith("python3.99 is newer than the runtimes of Lambda known")]


def test_values_of_the_cdk_have_no_form() -> None:
    """What stands for a text that is known at synthesis is taken as it is."""
    token = "${Token[TOKEN.42]}"
    made = plan(app_with(), functions={"layers": [token]})
    assert made.queues[0].function is not None
    assert made.queues[0].function.layers == (token,)
    assert plan(app_with(), functions={"image": f"{token}.dkr.ecr/x:{token}"}).queues[0].function


@pytest.mark.parametrize(
    ("given", "taken"),
    [("", True), ("arn:aws-cn:sns:cn-north-1:111122223333:on-call", True), ("on-call", False),
     ("arn:aws:sqs:eu-west-1:111122223333:on-call", False)],
)  # fmt: skip
def test_alarms_tell_topics_of_sns_alone(given: str, taken: bool) -> None:
    """What is none is refused when the stack is deployed, and not when the first alarm rings."""
    assert (re.fullmatch(ALARM_TOPIC.properties["AllowedPattern"], given) is not None) == taken


def test_fifo_queue_takes_no_window() -> None:
    """AWS allows FIFO queues neither a batching window nor batches over ten."""
    app = app_with(task_queues=["a.fifo"], infra={"batching_window": 5})
    with pytest.raises(ImproperlyConfigured, match="FIFO queue takes no batching_window"):
        plan(app)


def test_settings_of_a_function_reach_its_resource() -> None:
    """VPC, layers, environment, architecture, image and key; the actions without a resource come with the VPC alone."""
    key = "arn:aws:kms:eu-west-1:111122223333:key/0d9a4ff2-5a3c-4cc5-9a3e-3d8be2f7a6a5"
    infra = {
        "kms_key": key, "layers": ["arn:aws:lambda:eu-west-1:111122223333:layer:fonts:3"], "environment": {"AA": "1"},
        "vpc": {"subnets": ["subnet-0a1b2c3d"], "security_groups": ["sg-0123456789abcdef0"]},
        "queues": {"film": {"image": "111122223333.dkr.ecr.eu-west-1.amazonaws.com/film:1", "layers": [],
                            "environment": {"BB": "2"}}},
    }  # fmt: skip
    made = template(plan(app_with(task_queues=["default", "film"], infra=infra)))
    own, film = made["DefaultFunction"].properties, made["FilmFunction"].properties
    assert own["VpcConfig"] == {"SubnetIds": ["subnet-0a1b2c3d"], "SecurityGroupIds": ["sg-0123456789abcdef0"]}
    assert own["Layers"] == infra["layers"]
    assert own["KmsKeyArn"] == made["DefaultQueue"].properties["KmsMasterKeyId"] == key
    assert made["ResultTable"].properties["SSESpecification"]["KMSMasterKeyId"] == key
    assert film["PackageType"] == "Image"
    assert "Runtime" not in film
    assert film["Environment"]["Variables"].items() >= {"AA": "1", "BB": "2"}.items()
    statements = made["DefaultRole"].properties["Policies"][0]["PolicyDocument"]["Statement"]
    assert [each["Sid"] for each in statements if each["Resource"] == "*"] == ["JoinNetwork"]
    assert [each["Resource"] for each in statements if each["Sid"] == "UseKey"] == [key]


def test_functions_may_change_schedules_where_that_is_declared() -> None:
    """Those of the beat's stored entries, of this app, and no function but the one that asks for it."""
    app = app_with(task_queues=["default", "mail"], infra={"queues": {"mail": {"schedules": True}}})
    made = template(plan(app))
    statements = {id: {each["Sid"]: each for each in made[id].properties["Policies"][0]["PolicyDocument"]["Statement"]}
                  for id in ("DefaultRole", "MailRole", "LostRole")}  # fmt: skip
    assert [id for id, own in statements.items() if "KeepSchedules" in own] == ["MailRole"]
    allowed = statements["MailRole"]["KeepSchedules"]
    assert allowed["Action"] == [f"scheduler:{each}Schedule" for each in ("Create", "Update", "Get", "Delete")]
    assert allowed["Resource"]["Fn::Sub"].endswith(":schedule/${ScheduleGroup}/beat-*")
    with pytest.raises(ImproperlyConfigured, match="there is no EventBridge Scheduler"):
        plan(app_with(infra={"schedules": True, "scheduler": False}))


def test_senders_may_find_what_schedules_fall_back_to() -> None:
    """The lost queues, by name; not those of FIFO, which no schedule takes."""
    app = app_with(task_queues=["default", "a.fifo"])
    made = template(plan(app))
    documents = [made[id].properties["Policies"][0]["PolicyDocument"] for id in ("DefaultRole", "AFifoRole")]
    documents.append(made["ProducerPolicy"].properties["PolicyDocument"])
    for document in documents:
        found = [each for each in document["Statement"] if each["Sid"] == "FindLostQueues"]
        assert [(each["Action"], each["Resource"]) for each in found] == [
            ("sqs:GetQueueUrl", {"Fn::GetAtt": ["DefaultLostQueue", "Arn"]})
        ]


def test_producers_of_other_accounts_may_send_and_nothing_else() -> None:
    """The queue's policy names them; an account stands for whom it allows itself."""
    role = "arn:aws:iam::444455556666:role/shop"
    made = template(plan(app_with(infra={"producers": ["111122223333", role]})))
    (statement,) = [
        each
        for each in made["DefaultQueuePolicy"].properties["PolicyDocument"]["Statement"]
        if each["Sid"] == "TakeFromOtherAccounts"
    ]
    assert statement["Principal"]["AWS"] == [{"Fn::Sub": "arn:${AWS::Partition}:iam::111122223333:root"}, role]
    assert statement["Action"] == ["sqs:SendMessage", "sqs:GetQueueUrl"]


def test_rule_names_are_short_legal_and_distinct() -> None:
    """64 restricted characters, whatever an entry is called."""
    names = ["Ünïcode & spaces", "x" * 300, "x" * 299, "a/b", "a.b", "日次"]
    made = {slug(name, 31) for name in names}
    assert len(made) == len(names)
    assert all(len(name) <= 31 and name.replace("-", "").isalnum() and name.isascii() for name in made)
    named = rule_name(plan(app_with(), stage="production"), "x" * 300)
    assert len(named) <= 64
    assert named.startswith("shop-production-xxx")


def test_rule_sends_its_entry_and_time() -> None:
    """The transformer makes JSON of any entry's name; the policy of the queue takes this rule alone."""
    from tests.provision.apps.press import app

    made = template(plan(app, spec="press:app"))
    target = made["MorningReportBeat"].properties["Targets"][0]
    text = target["InputTransformer"]["InputTemplate"].replace("<at>", "2026-11-22T06:00:00Z")
    assert json.loads(text) == {"v": 1, "beat": "morning <report>", "at": "2026-11-22T06:00:00Z"}
    assert text.count("<") == 0
    statements = made["DefaultQueuePolicy"].properties["PolicyDocument"]["Statement"]
    (rules,) = [each for each in statements if each["Sid"] == "TakeFromRules"]
    sources = rules["Condition"]["ArnEquals"]["aws:SourceArn"]
    assert {"Fn::GetAtt": ["MorningReportBeat", "Arn"]} in sources
    assert {"Fn::GetAtt": ["CloseBeat", "Arn"]} not in sources
    # The name of an entry may have spaces, which a message group may not.
    assert made["CloseBeat"].properties["Targets"][0]["SqsParameters"] == {
        "MessageGroupId": entries(app)["close"].own_group
    }
    assert made["OffBeat"].properties["State"] == "DISABLED"


def test_zones_are_the_scheduler_s() -> None:
    """A crontab outside UTC is a schedule with a zone, under a role that can only send."""
    from dispatcher.schedules import crontab

    app = app_with(timezone="Europe/Paris")
    app.task(name="wake")(lambda: None)
    app.conf.beat_schedule = {"wake": {"task": "wake", "schedule": crontab(minute=0, hour=7)}}
    made = template(plan(app))
    schedule = made["WakeBeat"].properties
    assert schedule["ScheduleExpressionTimezone"] == "Europe/Paris"
    assert json.loads(schedule["Target"]["Input"])["at"] == "<aws.scheduler.scheduled-time>"
    (statement,) = made["SchedulerRole"].properties["Policies"][0]["PolicyDocument"]["Statement"]
    assert statement["Action"] == "sqs:SendMessage"


def test_limits_of_aws_are_checked() -> None:
    """Too many rules for a bus, variables for a function, characters for a queue, and names that collide."""
    app = app_with(beat_schedule={f"e{n}": {"task": "t", "schedule": 60} for n in range(301)})
    app.task(name="t")(lambda: None)
    with pytest.raises(ImproperlyConfigured, match=r"301 entries .* an event bus takes 300"):
        template(plan(app))
    many = app_with(
        infra={"scheduler": False}, beat_schedule={f"e{n}": {"task": "t", "schedule": 60} for n in range(290)}
    )
    many.conf.task_queues = [f"q{n}" for n in range(15)]
    many.task(name="t")(lambda: None)
    with pytest.raises(ImproperlyConfigured, match=r"needs \d+ resources, and a stack has 500"):
        template(plan(many))
    with pytest.raises(ImproperlyConfigured, match=r"the variables of DefaultFunction may come to .* takes 4,096"):
        template(plan(app_with(infra={"environment": {"BIG": "x" * 4_000}})))
    with pytest.raises(ImproperlyConfigured, match=r"'a-b' and 'a\.b' would both be AB"):
        template(plan(app_with(task_queues=["a-b", "a.b"])))
    with pytest.raises(ImproperlyConfigured, match="cannot be the name of an SQS queue"):
        template(plan(app_with(task_queues=["aÄ"])))
    with pytest.raises(ImproperlyConfigured, match="80 at most; shorten"):
        template(plan(app_with(task_queues=["q" * 70]), stage="production"))


def test_every_number_has_a_reason() -> None:
    """Numbers of queues, functions, mappings and alarms are explained where they are written."""
    from tests.provision.apps.press import app

    kinds = {"AWS::SQS::Queue", "AWS::Lambda::Function", "AWS::Lambda::EventSourceMapping", "AWS::Logs::LogGroup"}
    for resource in template(plan(app, spec="press:app")).resources:
        if resource.type in kinds:
            for name, value in resource.properties.items():
                if isinstance(value, int) and not isinstance(value, bool):
                    explained = resource.reasons.get(name)
                    assert explained or name == "ReceiveMessageWaitTimeSeconds", f"{resource.id}.{name}"


def test_functions_of_many_queues_ask_by_name() -> None:
    """Beyond a few queues their URLs would not fit a function's variables: it knows its own, and the names' prefix."""
    few, many = (template(plan(app_with(task_queues=[f"q{n}" for n in range(count)]))) for count in (5, 30))
    known = [
        {name for name in each["LostFunction"].properties["Environment"]["Variables"] if "_QUEUE_URL_" in name}
        for each in (few, many)
    ]
    assert [len(names) for names in known] == [15, 0]
    own = many["Q7Function"].properties["Environment"]["Variables"]
    assert {name for name in own if "_QUEUE_URL_" in name} == {
        "DISPATCHER_QUEUE_URL_Q7", "DISPATCHER_QUEUE_URL_Q7_DEAD",
    }  # fmt: skip
    assert "queue_name_prefix=${AWS::StackName}-" in own["DISPATCHER_BROKER_URL"]["Fn::Sub"]
    statements = many["Q7Role"].properties["Policies"][0]["PolicyDocument"]["Statement"]
    (others,) = [each for each in statements if each["Sid"] == "SendTasks"]
    assert others["Action"] == ["sqs:SendMessage", "sqs:GetQueueUrl"]


def test_key_of_a_customer_needs_a_policy_for_those_who_send() -> None:
    """The key is the user's, so the plan can only say whom its policy must let use it."""
    key = "arn:aws:kms:eu-west-1:111122223333:key/0d9a4ff2-5a3c-4cc5-9a3e-3d8be2f7a6a5"
    app = app_with(infra={"kms_key": key, "producers": ["444455556666"]})
    assert plan(app).notes[0].endswith("must let 444455556666 use it (Decrypt, GenerateDataKey)")
    fired = app_with(infra={"kms_key": key}, beat_schedule={"e": {"task": "t", "schedule": 60}})
    fired.task(name="t")(lambda: None)
    assert "must let events.amazonaws.com use it" in plan(fired).notes[0]


def test_app_without_a_name_is_refused() -> None:
    """Functions would not find it."""
    with pytest.raises(ImproperlyConfigured, match="no name to be found by"):
        plan(Dispatcher(set_as_current=False))


def test_other_broker_or_backend_is_noted_without_its_password() -> None:
    """The functions' environment names SQS and DynamoDB; who has others in the code is told."""
    app = app_with(broker_url="redis://:secret@localhost/0", result_backend="sqlite:///x.db")
    broker, backend = plan(app).notes
    assert broker.startswith("broker_url is one of redis here; functions are told sqs://")
    assert backend.startswith("result_backend is one of sqlite here; functions are told dynamodb://")
    assert backend.endswith("producers must be too, by DISPATCHER_RESULT_BACKEND")
    assert "secret" not in broker + backend


@pytest.mark.parametrize("name", ["AWS_REGION", "AWS_LAMBDA_FUNCTION_NAME", "LAMBDA_TASK_ROOT"])
def test_variables_that_lambda_sets_are_refused(name: str) -> None:
    """Lambda would refuse the function when it is deployed."""
    with pytest.raises(ImproperlyConfigured, match=name):
        plan(app_with(infra={"environment": {name: "x"}}))
    assert plan(app_with(infra={"environment": {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/x"}})).queues


def test_mistakes_of_a_stage_are_found_without_it() -> None:
    """What CI plans without a stage says what would fail when that stage is deployed."""
    with pytest.raises(ImproperlyConfigured, match="memry"):
        plan(app_with(infra={"stages": {"prod": {"memry": 1}}}))
