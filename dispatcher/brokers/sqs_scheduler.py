"""EventBridge Scheduler: schedules that put a body on a queue of SQS, once or again and again.

A schedule belongs to a group and acts by a role that it is given, the *execution role*. It is at least once, as SQS is:
whoever reads the queue has to know a body that comes twice. What cannot be delivered for a day goes to the schedule's
dead-letter queue, where it has one.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from dispatcher import aws
from dispatcher.aws_options import LOCALSTACK, ClientSettings
from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.quotas import SCHEDULER_MAX_INPUT_BYTES, SCHEDULER_MAX_PAGE, SCHEDULER_MAX_RETRIES

#: The group that every account has.
DEFAULT_GROUP: Final = "default"

_NAME: Final = re.compile(r"[0-9A-Za-z_.-]{1,64}")
#: The API call as a target, which takes what the target "queue" cannot: a deduplication id.
#: https://docs.aws.amazon.com/scheduler/latest/UserGuide/managing-targets-universal.html
_SEND_MESSAGE: Final = "scheduler:::aws-sdk:sqs:sendMessage"


class QueueTarget(NamedTuple):
    """The queue that a schedule sends to: its ARN, and of a FIFO queue its URL and both ids.

    ``dead`` is the ARN of the standard queue for what cannot be delivered, `None` for nowhere.
    """

    arn: str
    url: str = ""
    group_id: str | None = None
    deduplication_id: str | None = None
    dead: str | None = None

    @property
    def fifo(self) -> bool:
        """Whether it is a FIFO queue."""
        return self.arn.endswith(".fifo")


@dataclasses.dataclass(frozen=True, slots=True)
class Schedule:
    """A named schedule: at the times of ``expression`` (``at(…)``, ``rate(…)``, ``cron(…)``) ``body`` is sent.

    ``timezone`` is an IANA zone, `None` for UTC. ``note`` is a text of up to 512 characters for whoever reads it.
    """

    name: str
    expression: str
    body: str = dataclasses.field(repr=False)  # arguments may be sensitive
    target: QueueTarget = dataclasses.field(repr=False)
    timezone: str | None = None
    enabled: bool = True
    note: str = ""

    @property
    def once(self) -> bool:
        """Whether it fires once, and is gone then."""
        return self.expression.startswith("at(")


class Scheduler:
    """The schedules of one group; safe to use from several threads.

    ``settings`` are the client's; ``role`` is the ARN of the execution role, which must be allowed to send to each
    target. Every method raises `OperationalError` where AWS refuses or is out of reach, saying what to do.
    """

    def __init__(self, settings: ClientSettings, role: str, group: str = DEFAULT_GROUP) -> None:
        self._settings = settings
        self.role = role
        self.group = group

    def create(self, schedule: Schedule) -> bool:
        """Make a schedule; return false where one of that name exists, which stays as it is."""
        try:
            self._call("create_schedule", schedule.name, **self._parameters(schedule))
        except aws.ServiceError as error:
            if error.code != "ConflictException":
                raise
            return False
        return True

    def put(self, schedule: Schedule) -> None:
        """Make a schedule, or change the one of that name into it."""
        if not self.create(schedule):
            self._call("update_schedule", schedule.name, **self._parameters(schedule))

    def get(self, name: str) -> Schedule | None:
        """Return the schedule of a name."""
        try:
            return _schedule_of(self._call("get_schedule", name, Name=name, GroupName=self.group))
        except aws.ServiceError as error:
            if error.code != "ResourceNotFoundException":
                raise
            return None

    def pause(self, name: str, paused: bool = True) -> bool:
        """Stop a schedule from firing, or let it go on; return whether there is one."""
        found = self.get(name)
        if found is None:
            return False
        self._call("update_schedule", name, **self._parameters(dataclasses.replace(found, enabled=not paused)))
        return True

    def delete(self, name: str) -> bool:
        """Delete a schedule; return whether there was one."""
        try:
            self._call("delete_schedule", name, Name=name, GroupName=self.group)
        except aws.ServiceError as error:
            if error.code != "ResourceNotFoundException":
                raise
            return False
        return True

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the names of the group's schedules that begin with a prefix."""
        page: dict[str, str] = {}
        while True:
            answer = self._call(
                "list_schedules", f"{prefix}…", GroupName=self.group, NamePrefix=prefix, MaxResults=SCHEDULER_MAX_PAGE,
                **page,
            )  # fmt: skip
            yield from (found["Name"] for found in answer.get("Schedules", ()))
            if not answer.get("NextToken"):
                return
            page = {"NextToken": answer["NextToken"]}

    def list(self, prefix: str) -> Iterator[Schedule]:
        """Yield the group's schedules whose names begin with a prefix, one call for each."""
        for name in self.names(prefix):
            found = self.get(name)
            if found is not None:
                yield found

    def release(self) -> None:
        """Drop the client."""
        aws.release("scheduler", self._settings)

    def _call(self, operation: str, name: str, **parameters: Any) -> Any:
        client = aws.client("scheduler", self._settings)
        try:
            return aws.call(client, operation, f"schedule {self.group}/{name}", **parameters)
        except aws.ServiceError as error:
            hint = _hint(operation, error.code, self.group)
            if not hint:
                raise
            raise aws.ServiceError(f"{error} ({hint})", error.code, error.response) from error

    def _parameters(self, schedule: Schedule) -> dict[str, Any]:
        target = schedule.target
        wanted: dict[str, Any] = {
            "RoleArn": self.role,
            "RetryPolicy": {"MaximumEventAgeInSeconds": 86_400, "MaximumRetryAttempts": SCHEDULER_MAX_RETRIES},
            "Input": schedule.body,
            "Arn": target.arn,
        }
        if target.fifo:
            wanted.update(Arn=f"{target.arn.split(':sqs:')[0]}:{_SEND_MESSAGE}", Input=_message_of(schedule))
        elif target.group_id is not None:
            wanted["SqsParameters"] = {"MessageGroupId": target.group_id}
        if target.dead is not None:
            wanted["DeadLetterConfig"] = {"Arn": target.dead}
        check(schedule.name, wanted["Input"])
        return {
            "Name": schedule.name,
            "GroupName": self.group,
            "ScheduleExpression": schedule.expression,
            "State": "ENABLED" if schedule.enabled else "DISABLED",
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "ActionAfterCompletion": "DELETE" if schedule.once else "NONE",
            "Target": wanted,
            **({"ScheduleExpressionTimezone": schedule.timezone} if schedule.timezone is not None else {}),
            **({"Description": schedule.note} if schedule.note else {}),
        }


def check(name: str, content: str) -> None:
    """Raise `ImproperlyConfigured` for a name or an input that AWS refuses; emulators take some."""
    if not _NAME.fullmatch(name):
        raise ImproperlyConfigured(f"{name!r} cannot be the name of a schedule: 64 letters, digits, '_', '-' and '.'")
    if len(content.encode()) > SCHEDULER_MAX_INPUT_BYTES:
        raise ImproperlyConfigured(
            f"schedule {name!r} would send {len(content.encode()):,} bytes, over the {SCHEDULER_MAX_INPUT_BYTES:,} "
            "that EventBridge Scheduler keeps"
        )


def _message_of(schedule: Schedule) -> str:
    """Return the parameters of SendMessage for a FIFO queue."""
    target = schedule.target
    return json.dumps({
        "QueueUrl": target.url, "MessageBody": schedule.body, "MessageGroupId": target.group_id,
        "MessageDeduplicationId": target.deduplication_id,
    })  # fmt: skip


def _schedule_of(answer: Mapping[str, Any]) -> Schedule:
    target, dead = answer["Target"], answer["Target"].get("DeadLetterConfig", {}).get("Arn")
    if target["Arn"].endswith(_SEND_MESSAGE):
        sent = json.loads(target["Input"])
        body, url = sent["MessageBody"], sent["QueueUrl"]
        account, queue = url.rsplit("/", 2)[1:]
        arn = ":".join([*answer["Arn"].split(":")[:4], account, queue]).replace(":scheduler:", ":sqs:", 1)
        ids = sent["MessageGroupId"], sent["MessageDeduplicationId"]
    else:
        body, url, arn = target.get("Input", ""), "", target["Arn"]
        ids = target.get("SqsParameters", {}).get("MessageGroupId"), None
    zone = answer.get("ScheduleExpressionTimezone")
    return Schedule(
        name=answer["Name"], expression=answer["ScheduleExpression"], body=body,
        target=QueueTarget(arn, url, *ids, dead), timezone=None if zone == "UTC" else zone,
        enabled=answer.get("State", "ENABLED") == "ENABLED", note=answer.get("Description") or "",
    )  # fmt: skip


def _hint(operation: str, code: str, group: str) -> str:
    """Say what to do about an error code of this service."""
    if code == "ResourceNotFoundException" and operation == "create_schedule":
        return f"make the schedule group {group!r}: deploy the template, or say another by scheduler_group"
    if code == "ServiceQuotaExceededException":
        return "the account has as many schedules as it may in this region; have the quota raised"
    return ""


def settings_for(settings: ClientSettings, region: str | None, endpoint_url: str) -> ClientSettings:
    """Return the settings of the Scheduler client that goes with one of SQS, and where that one sends its calls.

    An emulator is one address for all services; AWS has one for each, which botocore knows.
    """
    if settings.endpoint_url == LOCALSTACK:
        return settings
    return settings._replace(region=region, endpoint_url=None if aws.is_aws(endpoint_url) else settings.endpoint_url)
