"""Where the emulator's EventBridge Scheduler is held to the service."""

import datetime
import json
import time
import zoneinfo
from typing import Any

import pytest

from dispatcher.local.schedule_corrections import ScheduleCorrections
from tests.emulation.endpoint import AwsEndpoint, unique_name

TOKYO = zoneinfo.ZoneInfo("Asia/Tokyo")
ROLE = "arn:aws:iam::000000000000:role/any"


def test_one_time_schedule_fires_in_its_zone_and_goes(aws_endpoint: AwsEndpoint) -> None:
    """It fires within seconds of a time that is read in its zone, says which it was, and is deleted."""
    queue, name = aws_endpoint.create_queue(unique_name("due")), unique_name("once")
    scheduler = aws_endpoint.client("scheduler")
    due = datetime.datetime.fromtimestamp(int(time.time()) + 1, tz=TOKYO)
    scheduler.create_schedule(
        Name=name,
        ScheduleExpression=f"at({due:%Y-%m-%dT%H:%M:%S})",
        ScheduleExpressionTimezone="Asia/Tokyo",
        FlexibleTimeWindow={"Mode": "OFF"},
        ActionAfterCompletion="DELETE",
        Target={
            "Arn": aws_endpoint.queue_arn(queue),
            "RoleArn": ROLE,
            "Input": '{"at": "<aws.scheduler.scheduled-time>"}',
        },
    )
    answer = aws_endpoint.client("sqs").receive_message(QueueUrl=queue, WaitTimeSeconds=20)
    assert json.loads(answer["Messages"][0]["Body"]) == {"at": f"{due.astimezone(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"}
    assert time.time() >= due.timestamp()
    limit = time.monotonic() + 20
    while any(each["Name"] == name for each in scheduler.list_schedules()["Schedules"]):
        assert time.monotonic() < limit, "it is deleted after the message is sent"


class Recorder:
    """Stands for MiniStack's two modules; what it is asked to fire is in `fired`, in minutes of the test's hour."""

    def __init__(self, **schedule: Any) -> None:
        stored = {"Name": "s", "Arn": "arn", "State": "ENABLED", "CreationDate": 1, "LastModificationDate": 1}
        self._schedules = type("Store", (), {"_data": {("account", "region", "default/s"): {**stored, **schedule}}})
        self.fired: list[float] = []

    def _parse_rate_seconds(self, expression: str) -> int | None:
        return 60 if expression.startswith("rate") else None

    def _to_epoch(self, value: Any) -> float | None:
        return None if value is None else float(value)

    def _invoke_target(self, target: Any, event: dict[str, Any], schedule: Any) -> None:
        self.fired.append(event["Time"])

    def new_uuid(self) -> str:
        return "id"

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def fired(monkeypatch: pytest.MonkeyPatch, looks: list[float], **schedule: Any) -> list[float]:
    """The times that a schedule fires for when it is looked at at these times."""
    recorder = Recorder(Target={"Arn": "arn"}, **schedule)
    corrections = ScheduleCorrections(recorder, recorder)
    for now in looks:
        monkeypatch.setattr(time, "time", lambda now=now: now)
        corrections.tick()
    return recorder.fired


def test_what_a_sleeping_machine_missed_is_fired_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule goes on in step, and does not catch up call by call."""
    looks = [0.0, 59.0, 60.0, 60.5, 119.0, 601.0, 601.5, 659.0, 660.0]
    assert fired(monkeypatch, looks, ScheduleExpression="rate(1 minutes)") == [60.0, 120.0, 660.0]


def test_bounds_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing fires before the start date nor after the end date, nor while it is disabled."""
    looks = [float(second) for second in range(0, 600, 30)]
    bounded = fired(monkeypatch, looks, ScheduleExpression="rate(1 minutes)", StartDate=120, EndDate=240)
    assert bounded == [120.0, 180.0, 240.0]
    assert fired(monkeypatch, looks, ScheduleExpression="rate(1 minutes)", State="DISABLED") == []
