"""Who may do what: roles of functions, the policy of producers, and the policies of queues and bucket."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from dispatcher.provision.naming import logical_id
from dispatcher.provision.plan import Plan, PlannedFunction, PlannedQueue
from dispatcher.provision.template import Resource

Statement = dict[str, Any]

#: Actions that take no resource, so that policies must name ``*``, with the reason.
#: https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html
UNSCOPED: Final[Mapping[str, str]] = dict.fromkeys(
    (
        "ec2:AssignPrivateIpAddresses",
        "ec2:CreateNetworkInterface",
        "ec2:DeleteNetworkInterface",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSubnets",
        "ec2:UnassignPrivateIpAddresses",
    ),
    "Lambda makes a function's network interfaces as its role, before there is anything to name.",
)

REFUSE_PLAIN_HTTP: Final = "RefusePlainHttp"
#: Reads of one and of a batch, and conditional writes of one (UpdateItem) and of a batch (PartiQL).
RECORDS: Final = (
    "dynamodb:GetItem",
    "dynamodb:BatchGetItem",
    "dynamodb:UpdateItem",
    "dynamodb:PartiQLInsert",
    "dynamodb:PartiQLUpdate",
)
_WHY_FIND: Final = "What the Scheduler cannot deliver for a day goes to the lost queue, which a schedule names."
TAKE: Final = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ChangeMessageVisibility")


def arn(id: str) -> dict[str, Any]:
    """Return the ARN of a resource of the template."""
    return {"Fn::GetAtt": [id, "Arn"]}


def allow(sid: str, actions: Iterable[str], resource: Any) -> Statement:
    """Return a statement that allows actions on a resource or on several."""
    listed = list(actions)
    if isinstance(resource, list) and len(resource) == 1:
        resource = resource[0]
    return {"Sid": sid, "Effect": "Allow", "Action": listed[0] if len(listed) == 1 else listed, "Resource": resource}


def document(statements: Iterable[Statement]) -> dict[str, Any]:
    """Return a policy document."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


def trust(service: str, condition: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return who may take a role: a service of AWS."""
    statement: Statement = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    return document([statement | ({"Condition": dict(condition)} if condition else {})])


def queue_id(queue: PlannedQueue, kind: str = "Queue") -> str:
    """Return the logical id of a queue, or of something of it: ``LostQueue``, ``Function``, …"""
    return logical_id(queue.name) + kind


def worker_role(plan: Plan, queue: PlannedQueue, function: PlannedFunction) -> Resource:
    """Return the role of the function that runs a queue's tasks."""
    others = [arn(queue_id(each)) for each in plan.queues if each is not queue]
    statements = [
        allow("TakeMessages", (*TAKE, "sqs:SendMessage"), arn(queue_id(queue))),
        *([allow("SendTasks", ["sqs:SendMessage", *_asking(plan)], others)] if others else []),
        allow("BuryMessages", ["sqs:SendMessage"], arn(queue_id(queue, "DeadQueue"))),
        allow("KeepRecords", (*RECORDS, "dynamodb:BatchWriteItem"), arn("ResultTable")),
        *_shared(plan, function, queue_id(queue, "Logs")),
        *_delays(plan),
        *_finding(plan),
        *([_changing()] if function.schedules else []),
    ]
    reasons = {
        "": "Explicit: the role that SAM would make may receive from, and delete in, every queue of the account.",
        **_reasons(
            statements,
            TakeMessages="The event source mapping receives and deletes as this role; the worker itself changes "
            "visibility (retries, hand-backs), deletes (acks_late=False), and sends (tasks that send tasks).",
            KeepRecords="Reads of one and of a batch, conditional writes of one (UpdateItem) and of a batch (PartiQL), "
            "and AsyncResult.forget() (BatchWriteItem).",
            TellMissingFromForbidden="Without it S3 answers 403 for an object that is not there, and the message would "
            "be tried again for days.",
            JoinNetwork=UNSCOPED["ec2:CreateNetworkInterface"],
            FindLostQueues=_WHY_FIND,
            KeepSchedules="As configured: its tasks use app.schedules, whose schedules are called beat-…",
        ),
    }
    return _role(queue_id(queue, "Role"), "RunTasks", statements, reasons)


def reader_role(plan: Plan, reader: PlannedFunction) -> Resource:
    """Return the role of the function that decides on lost messages."""
    queues = plan.queues
    statements = [
        allow("TakeLostMessages", (*TAKE, *_asking(plan)), [arn(queue_id(each, "LostQueue")) for each in queues]),
        allow(
            "SendHomeOrBury",
            ["sqs:SendMessage", *_asking(plan)],
            [arn(queue_id(each, kind)) for each in queues for kind in ("Queue", "DeadQueue")],
        ),
        *([allow("AskForBudgets", ["sqs:GetQueueAttributes"], [arn(queue_id(each)) for each in queues])]
          if len(budgets(plan)) > 1 else []),
        allow("KeepRecords", RECORDS, arn("ResultTable")),
        *_shared(plan, reader, "LostLogs"),
        *_delays(plan),
    ]  # fmt: skip
    reasons = _reasons(
        statements,
        TakeLostMessages="The event source mapping receives and deletes as this role; the function changes visibility.",
        SendHomeOrBury="Messages that can still run, and error callbacks, go to the task queue.",
        AskForBudgets="Its queues differ in what they give a message, so it asks each of them once.",
        JoinNetwork=UNSCOPED["ec2:CreateNetworkInterface"],
    )
    return _role("LostRole", "DecideOnLostMessages", statements, reasons)


def _asking(plan: Plan) -> list[str]:
    return ["sqs:GetQueueUrl"] if plan.asks_by_name else []


def budgets(plan: Plan) -> set[tuple[int, int]]:
    """Return what the queues give a message: (receives, seconds); one if they agree."""
    return {(queue.max_receive_count, queue.retention) for queue in plan.queues}


def producer_policy(plan: Plan) -> Resource:
    """Return the managed policy that a service is given which sends tasks and waits for their results."""
    statements = [
        allow("SendTasks", ["sqs:SendMessage", "sqs:GetQueueUrl"], [arn(queue_id(each)) for each in plan.queues]),
        allow("UseResults", (*RECORDS, "dynamodb:BatchWriteItem"), arn("ResultTable")),
        *_payloads(plan),
        *_key(plan),
        *_delays(plan, revokes=True),
        *_finding(plan),
    ]
    reasons = {
        "": "Attach it to the role of each service that sends tasks; it receives nothing and deletes nothing.",
        **_reasons(
            statements,
            UseResults="Waiting, revoking, unique tasks, chords, and AsyncResult.forget() (BatchWriteItem).",
            FindLostQueues=_WHY_FIND,
        ),
    }
    properties = {
        "Description": f"Sends tasks of {plan.name} and reads their results.",
        "PolicyDocument": document(statements),
    }
    return Resource("ProducerPolicy", "AWS::IAM::ManagedPolicy", properties, {
        path.replace("Policies.0.", ""): text for path, text in reasons.items()
    })  # fmt: skip


def schedules_policy(plan: Plan) -> Resource:
    """Return the managed policy that a service is given which changes entries of the beat, by `app.schedules`."""
    statements = [
        allow("KeepEntries", RECORDS, arn("ResultTable")),
        _changing(),
        _pass_role(),
        *_key(plan),
    ]
    properties = {
        "Description": f"Changes the stored entries of the beat of {plan.name}.",
        "PolicyDocument": document(statements),
    }
    reason = "Attach it to the role of each service that uses app.schedules; its schedules are called beat-…"
    return Resource("SchedulesPolicy", "AWS::IAM::ManagedPolicy", properties, {"": reason})


def _role(id: str, policy: str, statements: list[Statement], reasons: Mapping[str, str]) -> Resource:
    properties = {
        "AssumeRolePolicyDocument": trust("lambda.amazonaws.com"),
        "Policies": [{"PolicyName": policy, "PolicyDocument": document(statements)}],
    }
    return Resource(id, "AWS::IAM::Role", properties, reasons)


def _reasons(statements: list[Statement], **sids: str) -> dict[str, str]:
    return {
        f"Policies.0.PolicyDocument.Statement.{index}": sids[statement["Sid"]]
        for index, statement in enumerate(statements)
        if statement["Sid"] in sids
    }


def _shared(plan: Plan, function: PlannedFunction, logs: str) -> Iterable[Statement]:
    """Yield what every function needs beside its queue and records."""
    yield allow("WriteLogs", ["logs:CreateLogStream", "logs:PutLogEvents"], arn(logs))
    yield from _payloads(plan)
    yield from _key(plan)
    if function.vpc is not None:
        yield allow("JoinNetwork", sorted(UNSCOPED), "*")


def _payloads(plan: Plan) -> Iterable[Statement]:
    if plan.bucket is None:
        return
    prefix = f"{plan.bucket.prefix}/*" if plan.bucket.prefix else "*"
    if plan.bucket.days is None:
        bucket: Any = {"Fn::Sub": f"arn:${{AWS::Partition}}:s3:::{plan.bucket.name}"}
        objects: Any = {"Fn::Sub": f"arn:${{AWS::Partition}}:s3:::{plan.bucket.name}/{prefix}"}
    else:
        bucket, objects = arn("PayloadBucket"), {"Fn::Sub": f"${{PayloadBucket.Arn}}/{prefix}"}
    # A copy of an object onto itself, which begins its days anew, is a read and a write.
    yield allow("KeepPayloads", ["s3:GetObject", "s3:PutObject"], objects)
    yield allow("TellMissingFromForbidden", ["s3:ListBucket"], bucket)


def _key(plan: Plan) -> Iterable[Statement]:
    if plan.kms_key is not None:
        yield allow("UseKey", ["kms:Decrypt", "kms:GenerateDataKey"], plan.kms_key)


def _delays(plan: Plan, revokes: bool = False) -> Iterable[Statement]:
    """Yield what long delays need: one-time schedules, and the right to hand the Scheduler its role."""
    if not plan.scheduler:
        return
    more = ["scheduler:DeleteSchedule"] if revokes else []
    yield allow("DelayTasks", ["scheduler:CreateSchedule", "scheduler:GetSchedule", *more], _schedules("task-*"))
    yield _pass_role()


def _finding(plan: Plan) -> Iterable[Statement]:
    """Yield the right to find the queues that become dead-letter queues of schedules; one of FIFO cannot be."""
    lost = [arn(queue_id(each, "LostQueue")) for each in plan.queues if not each.fifo]
    if plan.scheduler and lost:
        yield allow("FindLostQueues", ["sqs:GetQueueUrl"], lost)


def _changing() -> Statement:
    """Return the right to change the schedules of the beat's stored entries."""
    actions = [f"scheduler:{action}Schedule" for action in ("Create", "Update", "Get", "Delete")]
    return allow("KeepSchedules", actions, _schedules("beat-*"))


def _schedules(names: str) -> dict[str, str]:
    group = "arn:${AWS::Partition}:scheduler:${AWS::Region}:${AWS::AccountId}:schedule/${ScheduleGroup}"
    return {"Fn::Sub": f"{group}/{names}"}


def _pass_role() -> Statement:
    """Return the right to hand the Scheduler its role, and no one else."""
    condition = {"StringEquals": {"iam:PassedToService": "scheduler.amazonaws.com"}}
    return allow("PassSchedulerRole", ["iam:PassRole"], arn("SchedulerRole")) | {"Condition": condition}


def refuse_plain_http(actions: str, resources: Any) -> Statement:
    """Return the statement that takes requests over TLS only."""
    return {
        "Sid": REFUSE_PLAIN_HTTP,
        "Effect": "Deny",
        "Principal": "*",
        "Action": actions,
        "Resource": resources,
        "Condition": {"Bool": {"aws:SecureTransport": False}},
    }


def queue_policies(plan: Plan, rules: Mapping[str, list[str]]) -> Iterable[Resource]:
    """Yield the policies of all queues; ``rules`` are the ids of the EventBridge rules that send to a queue."""
    for queue in plan.queues:
        own = queue_id(queue)
        statements = [refuse_plain_http("sqs:*", arn(own))]
        if plan.producers:
            statements.append(
                {
                    "Sid": "TakeFromOtherAccounts",
                    "Effect": "Allow",
                    "Principal": {"AWS": [_principal(each) for each in plan.producers]},
                    "Action": ["sqs:SendMessage", "sqs:GetQueueUrl"],
                    "Resource": arn(own),
                }
            )
        if sources := rules.get(queue.name):
            statements.append(
                {
                    "Sid": "TakeFromRules",
                    "Effect": "Allow",
                    "Principal": {"Service": "events.amazonaws.com"},
                    "Action": "sqs:SendMessage",
                    "Resource": arn(own),
                    "Condition": {"ArnEquals": {"aws:SourceArn": [arn(rule) for rule in sources]}},
                }
            )
        yield _queue_policy(f"{own}Policy", [own], statements)
    behind = [queue_id(queue, kind) for queue in plan.queues for kind in ("LostQueue", "DeadQueue")]
    for id in behind:
        yield _queue_policy(f"{id}Policy", [id], [refuse_plain_http("sqs:*", arn(id))])


def _queue_policy(id: str, queues: list[str], statements: list[Statement]) -> Resource:
    properties = {"Queues": [{"Ref": queue} for queue in queues], "PolicyDocument": document(statements)}
    return Resource(id, "AWS::SQS::QueuePolicy", properties)


def _principal(producer: str) -> Any:
    return {"Fn::Sub": f"arn:${{AWS::Partition}}:iam::{producer}:root"} if producer.isdigit() else producer
