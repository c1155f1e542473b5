"""From the plan to the resources: the one form that templates, constructs and checks come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.provision.functions import CODE, mapping, reader_function, worker_function
from dispatcher.provision.monitoring import alarms, dashboard
from dispatcher.provision.naming import check_ids, queue_name
from dispatcher.provision.plan import Plan, PlannedQueue
from dispatcher.provision.policies import (
    REFUSE_PLAIN_HTTP,
    arn,
    producer_policy,
    queue_id,
    queue_policies,
    reader_role,
    refuse_plain_http,
    schedules_policy,
    worker_role,
)
from dispatcher.provision.template import Output, Parameter, Resource, Template
from dispatcher.provision.timers import rules_by_queue, scheduler, timers
from dispatcher.quotas import CLOUDFORMATION_MAX_RESOURCES, SQS_MAX_RECEIVE_COUNT, SQS_MAX_WAIT

#: How long SQS may use one key of KMS for a queue. Each use is a call that is paid for.
#: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-key-management.html
KEY_REUSE: Final = 3_600

LOG_LEVEL: Final = Parameter(
    "LogLevel",
    {
        "Type": "String",
        "Default": "INFO",
        "AllowedValues": ["DEBUG", "INFO"],
        "Description": "The least level of the lines that tasks log.",
    },
    {
        "AllowedValues": "No higher ones: Lambda takes a line without a level, such as those of the metrics, for INFO. "
        "https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-log-level.html"
    },
)
ALARM_TOPIC: Final = Parameter("AlarmTopic", {
    "Type": "String",
    "Default": "",
    "AllowedPattern": r"(arn:[a-z-]+:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_.-]+)?",
    "ConstraintDescription": "must be the ARN of an SNS topic, or empty",
    "Description": "The ARN of an SNS topic that alarms are told to; without one they only show.",
})  # fmt: skip


def template(plan: Plan) -> Template:
    """Return everything that a plan comes to; raises `ImproperlyConfigured` for names and numbers AWS does not take."""
    check_ids("queue", (queue.name for queue in plan.queues))
    check_ids("entry", (schedule.entry for schedule in plan.schedules))
    return Template(
        description=f"{plan.name}: queues with their lost messages and dead letters, a table of results, and the "
        "functions that run tasks.",
        resources=resources(plan),
        parameters=(LOG_LEVEL, ALARM_TOPIC, *CODE),
        conditions={"TellsAlarms": {"Fn::Not": [{"Fn::Equals": [{"Ref": "AlarmTopic"}, ""]}]}},
        outputs=tuple(_outputs(plan)),
    )


def resources(plan: Plan) -> tuple[Resource, ...]:
    """Return the resources of a plan in the order a reader wants them."""
    made = tuple(_resources(plan))
    taken: set[str] = set()
    for resource in made:
        if resource.id in taken:
            raise ImproperlyConfigured(
                f"two resources would be {resource.id} in the template; rename the queue or entry behind it"
            )
        taken.add(resource.id)
    if len(made) > CLOUDFORMATION_MAX_RESOURCES:
        raise ImproperlyConfigured(
            f"the app needs {len(made)} resources, and a stack has {CLOUDFORMATION_MAX_RESOURCES} at most; give some "
            "of its queues or entries to an app of their own"
        )
    return made


def emulated(made: Template, endpoint: str) -> Template:
    """Return a template as an endpoint can have it: one of plain HTTP without the statements that refuse plain HTTP."""
    if not endpoint.startswith("http:"):
        return made
    kept = (_without_tls(each) for each in made.resources)
    return replace(made, resources=tuple(each for each in kept if each is not None))


def _without_tls(resource: Resource) -> Resource | None:
    if resource.type not in ("AWS::SQS::QueuePolicy", "AWS::S3::BucketPolicy"):
        return resource
    document = resource.properties["PolicyDocument"]
    kept = [each for each in document["Statement"] if each["Sid"] != REFUSE_PLAIN_HTTP]
    if not kept:
        return None
    return replace(resource, properties={**resource.properties, "PolicyDocument": {**document, "Statement": kept}})


def _resources(plan: Plan) -> Iterator[Resource]:
    for queue in plan.queues:
        yield from _queues(plan, queue)
    yield from queue_policies(plan, rules_by_queue(plan))
    yield _table(plan)
    if plan.bucket is not None and plan.bucket.days is not None:
        yield from _bucket(plan, plan.bucket.days)
    for queue in plan.queues:
        if queue.function is not None:
            yield worker_function(plan, queue, queue.function)
            yield mapping(queue_id(queue, "Mapping"), queue_id(queue), queue_id(queue, "Function"), queue.function)
            yield _logs(queue_id(queue, "Logs"), queue.function.log_days)
            yield worker_role(plan, queue, queue.function)
    yield reader_function(plan)
    for queue in plan.queues:
        yield mapping(queue_id(queue, "LostMapping"), queue_id(queue, "LostQueue"), "LostFunction", plan.reader)
    yield _logs("LostLogs", plan.reader.log_days)
    yield reader_role(plan, plan.reader)
    yield producer_policy(plan)
    if plan.scheduler:
        yield schedules_policy(plan)
    yield from scheduler(plan)
    yield from timers(plan)
    yield from alarms(plan)
    yield dashboard(plan)


def _queues(plan: Plan, queue: PlannedQueue) -> Iterator[Resource]:
    yield _own_queue(plan, queue)
    yield _lost_queue(plan, queue)
    yield _dead_queue(plan, queue)


def _shared(plan: Plan, queue: PlannedQueue) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the properties that a queue and those behind it have alike, and their reasons."""
    properties: dict[str, Any] = {"SqsManagedSseEnabled": True}
    reasons = {}
    if plan.kms_key is not None:
        properties = {"KmsMasterKeyId": plan.kms_key, "KmsDataKeyReusePeriodSeconds": KEY_REUSE}
        reasons["KmsDataKeyReusePeriodSeconds"] = "An hour: each new key is a call of KMS for every user of the queue."
    if queue.fifo:
        properties |= {
            "FifoQueue": True, "DeduplicationScope": "messageGroup", "FifoThroughputLimit": "perMessageGroupId"
        }  # fmt: skip
        reasons["FifoThroughputLimit"] = "High throughput: groups do not wait for one another."
    return properties, reasons


def _own_queue(plan: Plan, queue: PlannedQueue) -> Resource:
    shared, reasons = _shared(plan, queue)
    fires = queue.fifo and any(timer.queue == queue.name for timer in plan.schedules)
    return Resource(
        queue_id(queue, "Queue"),
        "AWS::SQS::Queue",
        {
            "QueueName": queue_name(plan, queue.name),
            "VisibilityTimeout": queue.visibility_timeout,
            "MessageRetentionPeriod": queue.retention,
            "ReceiveMessageWaitTimeSeconds": SQS_MAX_WAIT,
            **shared,
            # What a rule sends carries no deduplication id.
            **({"ContentBasedDeduplication": True} if fires else {}),
            "RedrivePolicy": {
                "deadLetterTargetArn": arn(queue_id(queue, "LostQueue")), "maxReceiveCount": queue.max_receive_count
            },
        },
        {
            "QueueName": "The package's rule: `<prefix><queue>`, and with `-lost` and `-dead` the queues behind it.",
            "VisibilityTimeout": _why_visible(queue),
            "MessageRetentionPeriod": "4 days, the default, written down because the next queues must keep messages "
            "longer: those that SQS moves keep the time they were first sent at.",
            "ReceiveMessageWaitTimeSeconds": "The longest poll: an idle queue then costs the least requests.",
            "RedrivePolicy.maxReceiveCount": "A transport budget, not a number of retries: throttles, time-outs and "
            "hand-backs count too. Few enough that a message which only comes back after its visibility timeout is "
            "moved well before its queue would delete it.",
            **reasons,
        },
    )  # fmt: skip


def _lost_queue(plan: Plan, queue: PlannedQueue) -> Resource:
    shared, reasons = _shared(plan, queue)
    return Resource(
        queue_id(queue, "LostQueue"),
        "AWS::SQS::Queue",
        {
            "QueueName": queue_name(plan, queue.lost),
            "VisibilityTimeout": 6 * plan.reader.timeout,
            "MessageRetentionPeriod": queue.lost_retention,
            "ReceiveMessageWaitTimeSeconds": SQS_MAX_WAIT,
            **shared,
            "RedrivePolicy": {
                "deadLetterTargetArn": arn(queue_id(queue, "DeadQueue")), "maxReceiveCount": SQS_MAX_RECEIVE_COUNT
            },
            "RedriveAllowPolicy": _only_from(plan, queue.name),
        },
        {
            "": "What SQS gives up waits here for LostFunction, which finds out why and tells whoever waits.",
            "VisibilityTimeout": f"Six times the {plan.reader.timeout} s of LostFunction.",
            "MessageRetentionPeriod": "9 days: longer than the queue before it, shorter than the one behind it, and as "
            "long as records live (DISPATCHER_RECORD_RETENTION).",
            "RedrivePolicy.maxReceiveCount": "The most there is, since SQS may go on counting where the task queue "
            "ended. Only what LostFunction can never handle gets there by itself.",
            "RedriveAllowPolicy.sourceQueueArns": "By name, since the queue itself refers to this one.",
            **reasons,
        },
    )  # fmt: skip


def _dead_queue(plan: Plan, queue: PlannedQueue) -> Resource:
    shared, reasons = _shared(plan, queue)
    return Resource(
        queue_id(queue, "DeadQueue"),
        "AWS::SQS::Queue",
        {
            "QueueName": queue_name(plan, queue.dead),
            "MessageRetentionPeriod": queue.dead_retention,
            **shared,
            "RedriveAllowPolicy": _only_from(plan, queue.lost),
        },
        {
            "MessageRetentionPeriod": "14 days, the longest there is: a message keeps its first sending time when SQS "
            "moves it here.",
            **reasons,
        },
    )


def _why_visible(queue: PlannedQueue) -> str:
    if queue.function is None:
        return "broker_visibility_timeout: workers of your own lease a message for so long, and renew the lease."
    window = f" and the batching window of {queue.function.batching_window} s" if queue.function.batching_window else ""
    return (
        f"Six times the function's {queue.function.timeout} s{window}, as AWS advises: while a function is throttled, "
        "its mapping tries the same batch again and again, and nobody else must get it. Retries and hand-backs do not "
        "wait for it: they set the visibility of their message. "
        "https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html"
    )


def _only_from(plan: Plan, queue: str) -> dict[str, Any]:
    name = queue_name(plan, queue)
    text = name["Fn::Sub"] if isinstance(name, dict) else name
    source = {"Fn::Sub": f"arn:${{AWS::Partition}}:sqs:${{AWS::Region}}:${{AWS::AccountId}}:{text}"}
    return {"redrivePermission": "byQueue", "sourceQueueArns": [source]}


def _table(plan: Plan) -> Resource:
    encrypted = {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": plan.kms_key}
    return Resource(
        "ResultTable",
        "AWS::DynamoDB::Table",
        {
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{"AttributeName": key, "AttributeType": "S"} for key in ("pk", "sk")],
            "KeySchema": [
                {"AttributeName": "pk", "KeyType": "HASH"},
                {"AttributeName": "sk", "KeyType": "RANGE"},
            ],
            "TimeToLiveSpecification": {"AttributeName": "ttl", "Enabled": True},
            **({"SSESpecification": encrypted} if plan.kms_key is not None else {}),
        },
        {
            "BillingMode": "Traffic of a task queue comes in bursts, and a throttled write holds up a whole batch.",
            "TimeToLiveSpecification": "Records carry the second from which on they may go; DynamoDB removes them "
            "within days, at no cost.",
        },
    )


def _bucket(plan: Plan, days: int) -> Iterator[Resource]:
    closed = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
    by_key = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": plan.kms_key}
    encrypted = {
        "ServerSideEncryptionConfiguration": [{"ServerSideEncryptionByDefault": by_key, "BucketKeyEnabled": True}]
    }
    name = plan.bucket.name if plan.bucket else None
    yield Resource(
        "PayloadBucket",
        "AWS::S3::Bucket",
        {
            **({"BucketName": name} if name else {}),
            "PublicAccessBlockConfiguration": dict.fromkeys(closed, True),
            **({"BucketEncryption": encrypted} if plan.kms_key is not None else {}),
            "LifecycleConfiguration": {
                "Rules": [{"Id": "RemoveOldPayloads", "Status": "Enabled", "ExpirationInDays": days}]
            },
        },
        {
            "LifecycleConfiguration.Rules.0": "The worker deletes nothing: another message may refer to the same "
            "object. A message waits for its delay, up to 4 days in its queue and 9 in the lost queue, and lies 14 "
            "days among the dead letters.",
        },
        # A bucket that holds something cannot be deleted; the rule empties it.
        {"DeletionPolicy": "Retain", "UpdateReplacePolicy": "Retain"},
    )
    both = [arn("PayloadBucket"), {"Fn::Sub": "${PayloadBucket.Arn}/*"}]
    policy = {"Version": "2012-10-17", "Statement": [refuse_plain_http("s3:*", both)]}
    yield Resource(
        "PayloadBucketPolicy", "AWS::S3::BucketPolicy", {"Bucket": {"Ref": "PayloadBucket"}, "PolicyDocument": policy}
    )


def _logs(id: str, days: int) -> Resource:
    gone = {"DeletionPolicy": "Delete", "UpdateReplacePolicy": "Delete"}
    return Resource(
        id,
        "AWS::Logs::LogGroup",
        {"RetentionInDays": days},
        {"RetentionInDays": "Kept for ever unless a time is given."},
        gone,
    )


def _outputs(plan: Plan) -> Iterator[Output]:
    from dispatcher.config import queue_variable

    url = f"sqs://?queue_name_prefix={plan.prefix or '${AWS::StackName}-'}"
    if plan.scheduler:
        url += "&scheduler_role=${SchedulerRole.Arn}&scheduler_group=${ScheduleGroup}"
    yield Output("BrokerUrl", {"Fn::Sub": url} if "${" in url else url, "DISPATCHER_BROKER_URL of producers.")
    for queue in plan.queues:
        own, lost, dead = (queue_id(queue, kind) for kind in ("Queue", "LostQueue", "DeadQueue"))
        variable = queue_variable(queue.name)
        yield Output(f"{own}Url", {"Ref": own}, f"{variable}, for producers that may not ask for queues by name.")
        yield Output(f"{lost}Url", {"Ref": lost}, "Where messages wait that SQS gave up; LostFunction empties it.")
        yield Output(f"{dead}Url", {"Ref": dead}, "Where tasks end that failed for good, each with its reason.")
        if queue.function is not None:
            yield Output(
                queue_id(queue, "Function"), {"Ref": queue_id(queue, "Function")}, f"Runs the tasks of {queue.name}."
            )
    yield Output("Table", {"Ref": "ResultTable"}, "DISPATCHER_TABLE of whoever reads results.")
    if plan.bucket is not None and plan.bucket.days is not None:
        described = "DISPATCHER_PAYLOAD_BUCKET of producers and of whoever reads results."
        yield Output("PayloadBucket", {"Ref": "PayloadBucket"}, described)
    yield Output("LostFunction", {"Ref": "LostFunction"}, "Decides on the messages that SQS gave up.")
    yield Output("ProducerPolicy", {"Ref": "ProducerPolicy"}, "Attach it to the roles of services that send tasks.")
    if plan.scheduler:
        changes = "Attach it to the roles of services that change entries by app.schedules."
        yield Output("SchedulesPolicy", {"Ref": "SchedulesPolicy"}, changes)
