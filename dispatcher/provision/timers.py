"""What fires the beat's entries: EventBridge rules, and EventBridge Scheduler where a rule cannot serve."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.provision.naming import logical_id, rule_name
from dispatcher.provision.plan import Plan, PlannedSchedule
from dispatcher.provision.policies import Statement, allow, arn, document, queue_id, trust
from dispatcher.provision.template import Resource
from dispatcher.quotas import EVENTBRIDGE_MAX_RULES

#: How long EventBridge tries to send a firing, in seconds; the next one comes anyway, and the entry's own policy
#: says what becomes of a late one.
_RETRY: Final = {"MaximumEventAgeInSeconds": 3_600, "MaximumRetryAttempts": 60}
_WHY_AN_HOUR: Final = (
    "An hour: the next firing comes anyway, and the entry's policy decides on late ones. So no dead-letter queue."
)
RULE: Final = "rule"


def rules_by_queue(plan: Plan) -> dict[str, list[str]]:
    """Return the ids of the rules that send to each queue."""
    found: dict[str, list[str]] = {}
    for timer in plan.schedules:
        if timer.kind == RULE:
            found.setdefault(timer.queue, []).append(timer_id(timer))
    return found


def timer_id(timer: PlannedSchedule) -> str:
    """Return the logical id of what fires an entry."""
    return f"{logical_id(timer.entry)}Beat"


def timers(plan: Plan) -> Iterator[Resource]:
    """Yield the rule or schedule of each entry; raises `ImproperlyConfigured` for more rules than a bus takes."""
    rules = sum(timer.kind == RULE for timer in plan.schedules)
    if rules > EVENTBRIDGE_MAX_RULES:
        raise ImproperlyConfigured(
            f"{rules} entries of the beat need a rule each, and an event bus takes {EVENTBRIDGE_MAX_RULES}; other "
            "rules of the account count too. Join entries that run at the same times, keep some of them by "
            "app.schedules, which EventBridge Scheduler fires, or give some to an app of their own"
        )
    for timer in plan.schedules:
        yield _rule(plan, timer) if timer.kind == RULE else _schedule(plan, timer)


def _rule(plan: Plan, timer: PlannedSchedule) -> Resource:
    # The name is text inside JSON, where a `<` would begin a variable of the transformer.
    entry = json.dumps(timer.entry).replace("<", "\\u003c").replace(">", "\\u003e")
    target: dict[str, Any] = {
        "Id": "queue",
        "Arn": arn(queue_id(plan.queue(timer.queue))),
        "InputTransformer": {
            "InputPathsMap": {"at": "$.time"},
            "InputTemplate": f'{{"v":1,"beat":{entry},"at":"<at>"}}',
        },
        "RetryPolicy": dict(_RETRY),
        **_group(timer),
    }
    properties = {
        "Name": rule_name(plan, timer.entry),
        "Description": f"Fires {timer.entry}: {timer.task}."[:512],
        "ScheduleExpression": timer.expression,
        "State": "ENABLED" if timer.enabled else "DISABLED",
        "Targets": [target],
    }
    return Resource(timer_id(timer), "AWS::Events::Rule", properties, {
        "ScheduleExpression": _why(timer),
        "Targets.0.InputTransformer": "The worker takes task and arguments from the app's own schedule, by the entry's "
        "name, and derives the task's id from entry and minute, so that a double firing runs once.",
        "Targets.0.RetryPolicy": _WHY_AN_HOUR,
    })  # fmt: skip


def _schedule(plan: Plan, timer: PlannedSchedule) -> Resource:
    properties: dict[str, Any] = {
        "Name": rule_name(plan, timer.entry),
        "Description": f"Fires {timer.entry}: {timer.task}."[:512],
        "GroupName": {"Ref": "ScheduleGroup"},
        "ScheduleExpression": timer.expression,
        **({"ScheduleExpressionTimezone": timer.timezone} if timer.timezone else {}),
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "State": "ENABLED" if timer.enabled else "DISABLED",
        "Target": {
            "Arn": arn(queue_id(plan.queue(timer.queue))),
            "RoleArn": arn("SchedulerRole"),
            "Input": json.dumps({"v": 1, "beat": timer.entry, "at": "<aws.scheduler.scheduled-time>"}),
            "RetryPolicy": dict(_RETRY),
            **_group(timer),
        },
    }
    return Resource(timer_id(timer), "AWS::Scheduler::Schedule", properties, {
        "": "A schedule, since a rule knows neither time zones nor this expression.",
        "ScheduleExpression": _why(timer),
        "Target.RetryPolicy": _WHY_AN_HOUR,
        "FlexibleTimeWindow": "On time: the worker counts on the minute it was meant for.",
    })  # fmt: skip


def _why(timer: PlannedSchedule) -> str:
    if timer.every is not None:
        return f"Once a minute; the worker fans out to a run every {timer.every:g} s."
    return (
        "As the entry." if timer.exact else f"The nearest that there is, of which the worker chooses: {timer.reason}."
    )


def _group(timer: PlannedSchedule) -> dict[str, Any]:
    return {"SqsParameters": {"MessageGroupId": timer.group}} if timer.group else {}


def scheduler(plan: Plan) -> Iterator[Resource]:
    """Yield the group and the role of schedules, where there are any or tasks may be delayed by them."""
    if not plan.scheduler and all(timer.kind == RULE for timer in plan.schedules):
        return
    yield Resource("ScheduleGroup", "AWS::Scheduler::ScheduleGroup", {"Name": _group_name(plan)}, {
        "": "Schedules of this app alone, so that the role and the permissions reach no others.",
    })  # fmt: skip
    group = {
        "Fn::Sub": "arn:${AWS::Partition}:scheduler:${AWS::Region}:${AWS::AccountId}:schedule-group/${ScheduleGroup}"
    }
    condition = {
        "StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}},
        "ArnEquals": {"aws:SourceArn": group},
    }
    targets = [arn(queue_id(queue)) for queue in plan.queues]
    targets += [arn(queue_id(queue, "LostQueue")) for queue in plan.queues if not queue.fifo]
    statements: list[Statement] = [allow("SendWhenDue", ["sqs:SendMessage"], targets)]
    if plan.kms_key is not None:
        statements.append(allow("UseKey", ["kms:Decrypt", "kms:GenerateDataKey"], plan.kms_key))
    yield Resource(
        "SchedulerRole",
        "AWS::IAM::Role",
        {
            "AssumeRolePolicyDocument": trust("scheduler.amazonaws.com", condition),
            "Policies": [{"PolicyName": "SendWhenDue", "PolicyDocument": document(statements)}],
        },
        {
            "": "Taken by the Scheduler for schedules of this group alone; it may send and nothing else.",
            "Policies.0.PolicyDocument.Statement.0": "The lost queues take what it cannot deliver for a day. Those of "
            "FIFO cannot: a schedule's dead-letter queue is a standard one, which would forget the group. "
            "https://docs.aws.amazon.com/scheduler/latest/UserGuide/configuring-schedule-dlq.html",
        },
    )


def _group_name(plan: Plan) -> Any:
    return {"Fn::Sub": "${AWS::StackName}"} if plan.prefix is None else plan.prefix.rstrip("-")
