"""Firings of the beat in the Lambda worker, as EventBridge sends them, and `app.schedules` there."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dispatcher.beat.dynamic import timer_name
from dispatcher.beat.entries import identity
from dispatcher.beat.firing import Firing, firing_id
from dispatcher.exceptions import DispatcherError
from dispatcher.schedules import crontab
from tests.handlers.lab import Lab, MakeLab

ROLE = "arn:aws:iam::000000000000:role/scheduler"


def this_minute() -> datetime:
    """Return when this minute began."""
    return datetime.now(UTC).replace(second=0, microsecond=0)


def text(at: datetime) -> str:
    """Return a time as EventBridge writes it."""
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def fire(lab: Lab, name: str, at: datetime) -> None:
    """Send what a rule's input transformer makes of its template: the time is put in as JSON."""
    lab.sqs.send_message(
        QueueUrl=lab.url, MessageBody=f'{{"v":1,"beat":{json.dumps(name)},"at":{json.dumps(text(at))}}}'
    )


def test_a_rules_message_runs_the_entrys_task_once(make_lab: MakeLab) -> None:
    """Two firings of one minute, in one batch and in two, are one task with a result of its own."""
    lab = make_lab(fifo=False)
    calls: list[Any] = []
    lab.task(calls.append, name="lab.note", ignore_result=True, revocable=False)
    lab.app.conf.beat_schedule = {"each minute": {"task": "lab.note", "schedule": crontab(), "args": ["x"]}}
    at = this_minute()
    fire(lab, "each minute", at)
    fire(lab, "each minute", at + timedelta(seconds=7))
    reported = lab.invoke()
    assert len(reported) == 1  # the second waits for what becomes of the first
    fire(lab, "each minute", at)
    assert lab.invoke() == []
    assert calls == ["x"]
    assert lab.app.AsyncResult(firing_id(identity(lab.app), "each minute", at.timestamp())).state == "SUCCESS"


def test_a_minute_fans_out(make_lab: MakeLab) -> None:
    """The message of a minute becomes one for each time in it, delayed, and is gone."""
    lab = make_lab()
    lab.task(lambda: None, name="lab.tick")
    lab.app.conf.beat_schedule = {"tick": {"task": "lab.tick", "schedule": 20, "catch_up": "all"}}
    fire(lab, "tick", this_minute() + timedelta(minutes=1))
    assert lab.invoke() == []
    depth = lab.depth()
    assert depth["delayed"] + depth["visible"] == 3


def test_a_fifo_queue_takes_firings(make_lab: MakeLab) -> None:
    """On a FIFO queue an entry's firings are a group of their own, and one time is one task."""
    lab = make_lab(fifo=True)
    ran: list[str] = []
    lab.task(lambda this: ran.append(this.request.headers["beat_at"]), name="lab.tick", bind=True)
    lab.app.conf.beat_schedule = {"tick": {"task": "lab.tick", "schedule": 60}}
    entry = lab.app.beat_entry("tick")
    assert entry is not None
    at = this_minute().timestamp()
    for _ in range(2):  # the second is swallowed by the queue, or by the record
        lab.app.send_firings([(entry, Firing("tick", at))])
    while (event := lab.take())["Records"]:
        assert event["Records"][0]["attributes"]["MessageGroupId"] == entry.own_group
        assert lab.invoke(event) == []
    assert ran == [text(datetime.fromtimestamp(at, UTC))]


def test_a_fifo_queue_takes_firings_of_unique_tasks(make_lab: MakeLab) -> None:
    """The call of a unique task follows its firing into the same queue, which takes both."""
    lab = make_lab(fifo=True)
    ran: list[int] = []
    lab.task(lambda: ran.append(1), name="lab.tick", unique=True)
    lab.app.conf.beat_schedule = {"tick": {"task": "lab.tick", "schedule": 60}}
    entry = lab.app.beat_entry("tick")
    assert entry is not None
    lab.app.send_firings([(entry, Firing("tick", this_minute().timestamp()))])
    for _ in range(2):
        assert lab.invoke() == []
    assert ran == [1]


def test_an_unknown_entry_goes_back_and_is_dead_after_the_grace(make_lab: MakeLab) -> None:
    """Within the grace the function hands it back; past it the message is a dead letter that says why."""
    lab = make_lab()
    fire(lab, "gone", this_minute())
    assert len(lab.invoke()) == 1
    strict = make_lab(unknown_grace=0)
    fire(strict, "gone", this_minute())
    assert strict.invoke() == []
    [letter] = strict.dead_letters()
    assert "the beat has no entry 'gone'" in letter["MessageAttributes"]["exception"]["StringValue"]


def test_a_stored_entry_has_a_schedule_and_is_found_by_the_worker(make_lab: MakeLab) -> None:
    """With a role, `app.schedules` makes, pauses and deletes a schedule at EventBridge, which names the entry."""
    lab = make_lab()
    app = lab.app
    app.conf.broker_transport_options = {**app.conf.broker_transport_options, "scheduler_role": ROLE}
    app.conf.timezone = "Europe/Berlin"
    lab.task(lambda kind: kind, name="lab.report")
    app.schedules.put("mine", "lab.report", crontab(minute=30, hour=2), ["long"], catch_up_within=86_400 * 3)
    scheduler = lab.aws.client("scheduler")
    name = timer_name(app, "mine")
    found = scheduler.get_schedule(Name=name, GroupName="default")
    assert found["ScheduleExpression"] == "cron(30 2 * * ? *)"
    assert found["ScheduleExpressionTimezone"] == "Europe/Berlin"
    assert found["State"] == "ENABLED"
    assert found["Target"]["Arn"] == lab.arn
    body = json.loads(found["Target"]["Input"])
    assert body == {"v": 1, "beat": "mine", "at": "<aws.scheduler.scheduled-time>"}

    entry = app.schedules.get("mine")
    assert entry is not None
    due = entry.latest_due(entry.next_after(time.time() - 2 * 86_400) or 0.0, time.time())
    fire(lab, "mine", datetime.fromtimestamp(due, UTC))
    assert lab.invoke() == []
    assert app.AsyncResult(firing_id(identity(app), "mine", due)).get(timeout=0) == "long"

    with pytest.raises(DispatcherError, match="whole seconds"):
        app.schedules.put("mine", "lab.report", 0.5, ["long"])
    assert app.schedules.get("mine") == entry

    app.schedules.pause("mine")
    assert scheduler.get_schedule(Name=name, GroupName="default")["State"] == "DISABLED"
    assert app.schedules.delete("mine")
    with pytest.raises(scheduler.exceptions.ResourceNotFoundException):
        scheduler.get_schedule(Name=name, GroupName="default")
    fire(lab, "mine", datetime.fromtimestamp(due, UTC))
    assert lab.invoke() == []  # dropped: it was deleted


def test_without_a_role_it_is_said_that_a_beat_is_needed(make_lab: MakeLab, caplog: pytest.LogCaptureFixture) -> None:
    """An entry that nothing at AWS fires is stored with a warning."""
    lab = make_lab()
    lab.task(lambda: None, name="lab.report")
    lab.app.schedules.put("mine", "lab.report", 60)
    assert "fires only while `dispatcher beat` runs" in caplog.text
