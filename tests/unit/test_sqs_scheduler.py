"""Schedules of EventBridge Scheduler: what is asked for, what comes back, and which errors say what to do."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import boto3
import moto
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from dispatcher import aws
from dispatcher.aws_options import LOCALSTACK, ClientSettings, Credentials
from dispatcher.brokers.base import Outgoing
from dispatcher.brokers.sqs import SQSBroker
from dispatcher.brokers.sqs_delays import name_of
from dispatcher.brokers.sqs_scheduler import QueueTarget, Schedule, Scheduler, settings_for
from dispatcher.clock import ManualClock
from dispatcher.exceptions import ImproperlyConfigured, MessageTooLarge, OperationalError, SendError

ROLE = "arn:aws:iam::123456789012:role/later"
QUEUE = "arn:aws:sqs:eu-west-1:123456789012:orders"
SETTINGS = ClientSettings("eu-west-1", credentials=Credentials("a", "b"))
NINE = Schedule(
    "beat-nine", "cron(0 9 * * ? *)", '{"v":1}', QueueTarget(QUEUE), timezone="Europe/Berlin", note="orders"
)
ONCE = Schedule("task-1", "at(2030-01-01T00:00:00)", "{}", QueueTarget(QUEUE, dead=f"{QUEUE}-lost"))


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of an account in this process."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with moto.mock_aws():
        yield boto3.client("scheduler", "eu-west-1", aws_access_key_id="a", aws_secret_access_key="b")
        for service in ("sqs", "scheduler"):
            aws.release(service, SETTINGS)


@pytest.fixture
def scheduler(account: Any) -> Scheduler:
    """Its default group."""
    return Scheduler(SETTINGS, ROLE)


def test_a_schedule_comes_back_as_it_was(scheduler: Scheduler) -> None:
    """Times, zone, body, target and note; a FIFO queue's ids and URL too, which go with a call of SendMessage."""
    fifo = QueueTarget(f"{QUEUE}.fifo", "https://sqs.eu-west-1.amazonaws.com/123456789012/orders.fifo", "g", "d")
    fair = QueueTarget(QUEUE, group_id="tenant")
    for name, schedule in {
        "nine": NINE, "once": ONCE, "fifo": dataclasses.replace(ONCE, target=fifo),
        "fair": dataclasses.replace(NINE, target=fair, enabled=False),
    }.items():  # fmt: skip
        named = dataclasses.replace(schedule, name=name)
        assert scheduler.create(named)
        assert scheduler.get(name) == named
    assert sorted(scheduler.names("f")) == ["fair", "fifo"]
    assert [schedule.name for schedule in scheduler.list("n")] == ["nine"]
    assert scheduler.get("none") is None


def test_what_aws_is_asked_for(scheduler: Scheduler, account: Any) -> None:
    """One-time schedules are deleted when they have fired, every one is punctual, and tried again for a day."""
    scheduler.put(NINE)
    scheduler.put(ONCE)
    nine, once = (account.get_schedule(Name=schedule.name) for schedule in (NINE, ONCE))
    assert [nine["ActionAfterCompletion"], once["ActionAfterCompletion"]] == ["NONE", "DELETE"]
    assert once["FlexibleTimeWindow"] == {"Mode": "OFF"}
    assert once["Target"] == {
        "Arn": QUEUE, "RoleArn": ROLE, "Input": "{}", "DeadLetterConfig": {"Arn": f"{QUEUE}-lost"},
        "RetryPolicy": {"MaximumEventAgeInSeconds": 86_400, "MaximumRetryAttempts": 185},
    }  # fmt: skip


def test_putting_changes_and_creating_does_not(scheduler: Scheduler) -> None:
    """`create` leaves a schedule of that name as it is and says so; `put` changes it; `pause` stops it."""
    later = dataclasses.replace(NINE, expression="cron(0 10 * * ? *)")
    assert scheduler.create(NINE)
    assert not scheduler.create(later)
    assert scheduler.get(NINE.name) == NINE
    scheduler.put(later)
    assert scheduler.get(NINE.name) == later
    assert scheduler.pause(NINE.name)
    assert scheduler.get(NINE.name) == dataclasses.replace(later, enabled=False)
    assert scheduler.pause(NINE.name, False)
    assert scheduler.get(NINE.name) == later
    assert [scheduler.delete(NINE.name), scheduler.delete(NINE.name), scheduler.pause(NINE.name)] == [
        True,
        False,
        False,
    ]


def test_what_aws_refuses_is_refused_before(scheduler: Scheduler) -> None:
    """Names and inputs; a group that is not there is named, with what to do."""
    with pytest.raises(ImproperlyConfigured, match="cannot be the name of a schedule"):
        scheduler.put(dataclasses.replace(NINE, name="every day"))
    with pytest.raises(ImproperlyConfigured, match=r"262,145 bytes, over the 262,144"):
        scheduler.put(dataclasses.replace(NINE, body="x" * 262_145))


def test_errors_say_what_to_do(scheduler: Scheduler) -> None:
    """A missing group and a full account are told from other errors."""
    client = aws.client("scheduler", SETTINGS)

    def refuse(code: str) -> Any:
        def answer(**_: Any) -> None:
            raise ClientError({"Error": {"Code": code, "Message": "no"}}, "CreateSchedule")

        return answer

    for code, words in {
        "ResourceNotFoundException": "make the schedule group 'default': deploy the template",
        "ServiceQuotaExceededException": "have the quota raised",
        "AccessDeniedException": "docs/aws.md lists what is needed",
    }.items():
        handler = refuse(code)
        client.meta.events.register("before-call.scheduler.CreateSchedule", handler)
        with pytest.raises(OperationalError, match=words):
            scheduler.create(NINE)
        client.meta.events.unregister("before-call.scheduler.CreateSchedule", handler)


def test_the_client_goes_with_that_of_sqs() -> None:
    """In its region with its keys; an emulator's address serves both, one of AWS's own does not."""
    keys = Credentials("a", "b")
    assert (
        settings_for(ClientSettings(credentials=keys), "eu-west-1", "https://sqs.eu-west-1.amazonaws.com") == SETTINGS
    )
    emulator = ClientSettings("eu-west-1", "http://127.0.0.1:4566")
    assert settings_for(emulator, "eu-west-1", "http://127.0.0.1:4566") == emulator
    private = ClientSettings("eu-west-1", "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com")
    assert settings_for(private, "eu-west-1", str(private.endpoint_url)).endpoint_url is None
    assert settings_for(ClientSettings(endpoint_url=LOCALSTACK), None, "").endpoint_url == LOCALSTACK


# The broker


@pytest.fixture
def broker(account: Any) -> SQSBroker:
    """A broker with a role, whose queues are made when they are needed."""
    options = {
        "region": "eu-west-1", "access_key_id": "a", "secret_access_key": "b", "create_missing_queues": True,
        "scheduler_role": ROLE,
    }  # fmt: skip
    return SQSBroker("sqs://", options, ManualClock())


def test_the_shortest_delay_that_is_scheduled(broker: SQSBroker, account: Any) -> None:
    """What a message of SQS can wait for by itself it does; on FIFO queues two minutes are waited for in the queue."""
    delays = {"orders": [0.0, 900.0, 900.1], "orders.fifo": [119.0, 120.0, 120.1]}
    for queue, seconds in delays.items():
        broker.send([Outgoing(queue, f'{{"n":{delay}}}', f"{queue}-{delay}", delay) for delay in seconds])
    assert {each["Name"] for each in account.list_schedules()["Schedules"]} == {
        name_of("orders-900.1"), name_of("orders.fifo-120.1"),
    }  # fmt: skip
    assert broker.counts("orders.fifo").ready == 2
    assert broker.longest_delay("orders") is None


def test_a_schedule_is_a_minute_early_and_says_its_queue(broker: SQSBroker, account: Any) -> None:
    """Rounded down; what cannot be delivered goes to the lost queue, whose reader sends it home."""
    broker.send([Outgoing("orders", "{}", "t", 3600.9)])
    found = account.get_schedule(Name=name_of("t"))
    assert found["ScheduleExpression"] == "at(2027-01-15T08:59:00)"  # the clock says 08:00:00
    assert found["Description"] == "orders"
    assert found["Target"]["Arn"] == QUEUE
    assert found["Target"]["DeadLetterConfig"]["Arn"] == f"{QUEUE}-lost"


def test_failures_name_their_tasks(broker: SQSBroker, account: Any) -> None:
    """Of several messages, those that are scheduled or sent stay so; one that is sent again is not there twice."""

    def refuse(params: Any, **_: Any) -> None:
        if name_of("b") in params["url_path"]:
            raise EndpointConnectionError(endpoint_url="scheduler")

    assert broker.delays is not None
    client = aws.client("scheduler", broker.delays.scheduler("orders")._settings)
    messages = [Outgoing("orders", "{}", task_id, 1000.0 if task_id != "c" else 0.0) for task_id in "abc"]
    client.meta.events.register("before-call.scheduler.CreateSchedule", refuse)
    try:
        with pytest.raises(SendError) as caught:
            broker.send(messages)
    finally:
        client.meta.events.unregister("before-call.scheduler.CreateSchedule", refuse)
    assert list(caught.value.failures) == ["b"]
    broker.send(messages[:2])
    assert {each["Name"] for each in account.list_schedules()["Schedules"]} == {name_of("a"), name_of("b")}
    assert broker.counts("orders").ready == 1


def test_a_body_is_no_larger_than_its_schedule(broker: SQSBroker) -> None:
    """Half of it on a FIFO queue, where the body is a text in the parameters of a call."""
    assert [broker.largest_body("orders", delay) for delay in (900, 901)] == [1_048_576, 262_144]
    assert broker.largest_body("orders.fifo", 901) == 130_560
    with pytest.raises(MessageTooLarge, match="takes with this delay"):
        broker.send([Outgoing("orders", f'"{"x" * 262_143}"', "t", 901)])
    broker.send([Outgoing("orders", f'"{"x" * 262_142}"', "t", 901), Outgoing("orders.fifo", '"' * 130_560, "u", 901)])


def test_bringing_forward_sends_before_it_deletes(broker: SQSBroker, account: Any) -> None:
    """So that no crash in between loses the message; tasks that are not scheduled are left alone."""
    broker.send([Outgoing("orders", '{"n":1}', "t", 1000), Outgoing("orders.fifo", '{"n":2}', "u", 1000, group_id="g")])
    broker.bring_forward(["t", "u", "other"])
    assert account.list_schedules()["Schedules"] == []
    taken = [*broker.receive(["orders"], 10), *broker.receive(["orders.fifo"], 10)]
    assert [(delivery.body, delivery.group_id) for delivery in taken] == [('{"n":1}', None), ('{"n":2}', "g")]


def test_options_that_cannot_work() -> None:
    """A role that is none, and a group without a role."""
    with pytest.raises(ImproperlyConfigured, match="'scheduler_role' must be the ARN of a role, such as"):
        SQSBroker("sqs://?scheduler_role=later")
    with pytest.raises(ImproperlyConfigured, match="'scheduler_group' needs 'scheduler_role'"):
        SQSBroker("sqs://eu-west-1?scheduler_group=shop")
    told = SQSBroker(f"sqs://eu-west-1?scheduler_role={ROLE}&scheduler_group=shop").delays
    assert told is not None
    assert (told.scheduler("orders").role, told.scheduler("orders").group) == (ROLE, "shop")
