"""The functions and their event source mappings."""

from __future__ import annotations

from typing import Any, Final

from dispatcher.config import queue_variable
from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.provision.plan import Plan, PlannedFunction, PlannedQueue
from dispatcher.provision.policies import arn, budgets, queue_id
from dispatcher.provision.template import Parameter, Resource
from dispatcher.quotas import LAMBDA_MAX_ENVIRONMENT_BYTES

WORKER_HANDLER: Final = "dispatcher.lambda_runtime.worker.handler"
READER_HANDLER: Final = "dispatcher.lambda_runtime.dead_letter.handler"
#: The parameters of the plain template that say where the package is; SAM knows it by itself.
CODE: Final = (
    Parameter("CodeBucket", {"Type": "String", "Description": "The bucket of the package."}),
    Parameter("CodeKey", {"Type": "String", "Description": "The package's key, a ZIP archive."}),
)
#: What a reference in a variable comes to at most: the URL of a queue of the longest name.
_REFERENCE_BYTES: Final = 130


def worker_function(plan: Plan, queue: PlannedQueue, function: PlannedFunction) -> Resource:
    """Return the function that runs a queue's tasks."""
    variables = {
        **_shared(plan, (queue.max_receive_count, queue.retention)),
        **{
            queue_variable(each.name): {"Ref": queue_id(each)}
            for each in plan.queues
            if each is queue or not plan.asks_by_name
        },
        queue_variable(queue.dead): {"Ref": queue_id(queue, "DeadQueue")},
    }
    return _function(
        queue_id(queue, "Function"), f"Runs the tasks of {queue.name}.", WORKER_HANDLER, function,
        role=queue_id(queue, "Role"), logs=queue_id(queue, "Logs"), variables=variables, key=plan.kms_key,
        reasons={
            "RecursiveLoop": "A task that sends a task is a chain of SQS and Lambda, which Lambda would cut at its "
            "16th link. Runaways are stopped by task_max_depth instead. "
            "https://docs.aws.amazon.com/lambda/latest/dg/invocation-recursion.html",
            "Environment.Variables.DISPATCHER_BROKER_URL": "What its queue gives a message, so that the worker need "
            "not ask for it: half of it is when a message that waits is sent anew.",
            "Environment.Variables.DISPATCHER_RECORD_RETENTION": "A record that goes before its message forgets "
            "retries and duplicates: as long as the lost queue keeps messages.",
        },
    )  # fmt: skip


def reader_function(plan: Plan) -> Resource:
    """Return the function that decides on lost messages."""
    common = budgets(plan)
    variables = {
        **_shared(plan, common.pop() if len(common) == 1 else None),
        "DISPATCHER_LOST_AFTER": str(plan.longest_timeout),
        **{
            queue_variable(name): {"Ref": queue_id(each, kind)}
            for each in ([] if plan.asks_by_name else plan.queues)
            for name, kind in ((each.name, "Queue"), (each.lost, "LostQueue"), (each.dead, "DeadQueue"))
        },
    }
    return _function(
        "LostFunction", "Decides on the messages that SQS gave up, by their records; runs no task.", READER_HANDLER,
        plan.reader, role="LostRole", logs="LostLogs", variables=variables, key=plan.kms_key,
        reasons={
            "RecursiveLoop": "What it sends home may be lost once more.",
            "Environment.Variables.DISPATCHER_LOST_AFTER": "The longest timeout of the functions: nothing that was "
            "started longer ago than this still runs.",
        },
    )  # fmt: skip


def _shared(plan: Plan, budget: tuple[int, int] | None) -> dict[str, Any]:
    options = [] if budget is None else [f"max_receive_count={budget[0]}", f"message_retention={budget[1]}"]
    if plan.asks_by_name:
        options.append(f"queue_name_prefix={plan.prefix or '${AWS::StackName}-'}")
    if plan.scheduler:
        options += ["scheduler_role=${SchedulerRole.Arn}", "scheduler_group=${ScheduleGroup}"]
    url = "sqs://" + ("?" + "&".join(options) if options else "")
    variables: dict[str, Any] = {
        "DISPATCHER_APP": plan.app,
        "DISPATCHER_BROKER_URL": {"Fn::Sub": url} if "${" in url else url,
        "DISPATCHER_RESULT_BACKEND": "dynamodb://",
        "DISPATCHER_TABLE": {"Ref": "ResultTable"},
        "DISPATCHER_RECORD_RETENTION": str(plan.record_retention),
    }
    if plan.bucket is not None and plan.bucket.days is not None and plan.bucket.name is None:
        variables["DISPATCHER_PAYLOAD_BUCKET"] = {"Ref": "PayloadBucket"}
    return variables


def _function(
    id: str, description: str, handler: str, function: PlannedFunction, *, role: str, logs: str,
    variables: dict[str, Any], key: str | None, reasons: dict[str, str],
) -> Resource:  # fmt: skip
    variables = {**variables, **function.environment}
    _check_environment(id, variables)
    package: dict[str, Any] = {
        "Code": {"S3Bucket": {"Ref": CODE[0].id}, "S3Key": {"Ref": CODE[1].id}},
        "Handler": handler,
        "Runtime": function.runtime,
    }
    if function.image is not None:
        package = {"PackageType": "Image", "Code": {"ImageUri": function.image}, "ImageConfig": {"Command": [handler]}}
    properties: dict[str, Any] = {
        "Description": description,
        **package,
        "Architectures": [function.architecture],
        "MemorySize": function.memory,
        "Timeout": function.timeout,
        "Role": arn(role),
        "RecursiveLoop": "Allow",
        "LoggingConfig": {
            "LogFormat": "JSON",
            "ApplicationLogLevel": {"Ref": "LogLevel"},
            "SystemLogLevel": "WARN",
            "LogGroup": {"Ref": logs},
        },
        "Environment": {"Variables": variables},
    }
    if function.layers:
        properties["Layers"] = list(function.layers)
    if function.vpc is not None:
        properties["VpcConfig"] = {
            "SubnetIds": list(function.vpc.subnets),
            "SecurityGroupIds": list(function.vpc.security_groups),
        }
    if key is not None:
        properties["KmsKeyArn"] = key
    arm = {"Architectures": "The cheaper by a fifth: https://aws.amazon.com/lambda/pricing/"}
    return Resource(id, "AWS::Lambda::Function", properties, {
        **(arm if function.architecture == "arm64" else {}),
        "MemorySize": "1769 MB are one whole CPU, for tasks that compute. "
        "https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html",
        "Timeout": function.timeout_reason,
        "LoggingConfig.SystemLogLevel": "START, END and REPORT of each batch cost more than they tell; failures are "
        "still there.",
        **reasons,
    })  # fmt: skip


def _check_environment(id: str, variables: dict[str, Any]) -> None:
    size = sum(
        len(name) + (len(value.encode()) if isinstance(value, str) else _REFERENCE_BYTES)
        for name, value in variables.items()
    )
    if size > LAMBDA_MAX_ENVIRONMENT_BYTES:
        raise ImproperlyConfigured(
            f"the variables of {id} may come to {size:,} bytes, and a function takes {LAMBDA_MAX_ENVIRONMENT_BYTES:,}; "
            "use fewer queues, or less environment in infra, or split the app"
        )


def mapping(id: str, queue: str, function: str, settings: PlannedFunction) -> Resource:
    """Return the event source mapping from a queue to a function."""
    properties: dict[str, Any] = {
        "EventSourceArn": arn(queue),
        "FunctionName": {"Ref": function},
        "BatchSize": settings.batch_size,
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "ScalingConfig": {"MaximumConcurrency": settings.maximum_concurrency},
    }
    if settings.batching_window:
        properties["MaximumBatchingWindowInSeconds"] = settings.batching_window
    return Resource(id, "AWS::Lambda::EventSourceMapping", properties, {
        "BatchSize": settings.batch_reason,
        "MaximumBatchingWindowInSeconds": "As configured: how long a batch may wait to fill up.",
        "FunctionResponseTypes": "Without this a task that failed would run its whole batch again.",
        "ScalingConfig": "The least there is: few messages are ever lost, and none of them is urgent."
        if function == "LostFunction"
        else "Limits the receives too, so that, unlike under reserved concurrency, none is wasted on a throttle.",
    })  # fmt: skip
