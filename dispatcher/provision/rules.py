"""The rules of construction, for templates that somebody wrote or changed: each a function from template to violations.

They read the plain form (`dispatcher.provision.check.unfolded`), and know what linters do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from dispatcher.provision.policies import UNSCOPED
from dispatcher.quotas import (
    LAMBDA_MAX_MAPPING_CONCURRENCY,
    LAMBDA_MIN_MAPPING_CONCURRENCY,
    LAMBDA_VISIBILITY_FACTOR,
    SQS_DEFAULT_RETENTION,
    SQS_MAX_BATCH,
    SQS_MAX_RETENTION,
)

#: The fewest receives that a few throttles do not use up.
#: https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html
LEAST_RECEIVES: Final = 5
#: How much of its time in a queue a message may need to be moved, if it only comes back after its visibility timeout.
RETENTION_SHARE: Final = 0.75
#: How many times more receives a lost queue gives than the queue before it.
LOST_FACTOR: Final = 5
_DEFAULT_VISIBILITY: Final = 30
_DAY: Final = 86_400

Template = Mapping[str, Any]
Rule = Callable[[Template], Iterator[str]]


def of_type(template: Template, kind: str) -> dict[str, dict[str, Any]]:
    """Return the properties of all resources of a type."""
    return {
        name: resource.get("Properties", {})
        for name, resource in template["Resources"].items()
        if resource["Type"] == kind
    }


def referred(value: Any) -> str:
    """Return the resource that a Ref or GetAtt means, empty for anything else."""
    match value:
        case {"Ref": name}:
            return str(name)
        case {"Fn::GetAtt": [name, *_]}:
            return str(name)
    return ""


def listed(value: Any) -> list[Any]:
    """Return a list, or one of what is not one."""
    return value if isinstance(value, list) else [value]


def numbers(template: Template, value: Any) -> list[int]:
    """Return what a number may be: of a parameter its default and each value that it allows."""
    match value:
        case {"Ref": name} if name in template.get("Parameters", {}):
            parameter = template["Parameters"][name]
            allowed = (parameter.get("Default", 0), *parameter.get("AllowedValues", ()))
            return [int(each) for each in allowed if _is_number(each)]
        case dict():
            return []  # an expression: what it comes to is known at the deployment
    return [int(each) for each in [value] if _is_number(each)]


def _number(template: Template, value: Any) -> int:
    """Return the largest that a number may be; 0 for an expression, whose value only the deployment knows."""
    return max(numbers(template, value), default=0)


def _is_number(value: Any) -> bool:
    """Whether it is a number, or the text of one; what is none differs from what the app needs anyway."""
    return isinstance(value, int) or (isinstance(value, str) and value.isdecimal())


def _mappings(template: Template) -> Iterator[tuple[str, dict[str, Any], str, str]]:
    """Yield (mapping's name, mapping, queue's name, function's name) of each event source mapping of a queue here."""
    queues = of_type(template, "AWS::SQS::Queue")
    for name, mapping in of_type(template, "AWS::Lambda::EventSourceMapping").items():
        queue = referred(mapping.get("EventSourceArn"))
        if queue in queues:
            yield name, mapping, queue, referred(mapping.get("FunctionName"))


def visibility(template: Template) -> Iterator[str]:
    """A queue's visibility is six times its function's timeout, plus the batching window."""
    queues, functions = (of_type(template, kind) for kind in ("AWS::SQS::Queue", "AWS::Lambda::Function"))
    for _, mapping, queue, function in _mappings(template):
        window = _number(template, mapping.get("MaximumBatchingWindowInSeconds", 0))
        timeouts = numbers(template, functions.get(function, {}).get("Timeout", 3))
        for seconds in numbers(template, queues[queue].get("VisibilityTimeout", _DEFAULT_VISIBILITY)):
            for timeout in timeouts:
                if seconds < LAMBDA_VISIBILITY_FACTOR * timeout + window:
                    yield (
                        f"{queue}: VisibilityTimeout is {seconds} s, for {function} with a timeout of {timeout} s "
                        f"and a window of {window} s it must be {LAMBDA_VISIBILITY_FACTOR * timeout + window} s"
                    )


def redrive(template: Template) -> Iterator[str]:
    """A queue that a function reads has a dead-letter queue of its kind, and its own, that keeps messages longer."""
    queues = of_type(template, "AWS::SQS::Queue")
    for _, _, name, _ in _mappings(template):
        policy = queues[name].get("RedrivePolicy", {})
        target = queues.get(referred(policy.get("deadLetterTargetArn")))
        if target is None:
            yield f"{name}: no dead-letter queue"
            continue
        for receives in numbers(template, policy.get("maxReceiveCount", 0)):
            if receives < LEAST_RECEIVES:
                yield f"{name}: maxReceiveCount under {LEAST_RECEIVES}: a few throttles would kill messages"
        allowed = target.get("RedriveAllowPolicy", {})
        sources = [_text(each) for each in allowed.get("sourceQueueArns", [])]
        own = f":{_text(queues[name].get('QueueName'))}"
        if allowed.get("redrivePermission") != "byQueue" or [each.endswith(own) for each in sources] != [True]:
            yield f"{name}: its dead-letter queue takes messages of other queues, or not those of this one"
        kept, before = (_kept(template, each) for each in (target, queues[name]))
        if kept and before and kept <= before:
            yield f"{name}: its dead letters are kept no longer than itself"
        if "RedrivePolicy" not in target and kept not in (0, SQS_MAX_RETENTION):
            yield f"{name}: its dead letters are kept for {kept} s, not for 14 days"
        if bool(target.get("FifoQueue")) != bool(queues[name].get("FifoQueue")):
            yield f"{name}: its dead-letter queue is of another kind"


def _kept(template: Template, queue: Mapping[str, Any]) -> int:
    """Return how long a queue keeps messages, 0 where only the deployment knows."""
    return _number(template, queue.get("MessageRetentionPeriod", SQS_DEFAULT_RETENTION))


def _text(value: Any) -> str:
    """Return a text, or that of a Sub."""
    return str(value["Fn::Sub"]) if isinstance(value, Mapping) and isinstance(value.get("Fn::Sub"), str) else str(value)


def budget(template: Template) -> Iterator[str]:
    """Nothing is deleted by its queue before it is moved, receives may be counted on, and functions know all that."""
    queues, functions = (of_type(template, kind) for kind in ("AWS::SQS::Queue", "AWS::Lambda::Function"))
    for _, _, name, function in _mappings(template):
        source = queues[name]
        policy = source.get("RedrivePolicy", {})
        following = queues.get(referred(policy.get("deadLetterTargetArn")), {}).get("RedrivePolicy")
        if following is None:
            continue  # the last of the chain: what is moved from there is beyond help
        kept = _kept(template, source)
        for receives in numbers(template, policy.get("maxReceiveCount", 0)):
            for seconds in numbers(template, source.get("VisibilityTimeout", _DEFAULT_VISIBILITY)):
                if kept and receives * seconds > RETENTION_SHARE * kept:
                    yield f"{name}: a throttled message would be deleted before its {receives} receives are over"
            if any(each < LOST_FACTOR * receives for each in numbers(template, following.get("maxReceiveCount", 0))):
                yield f"{name}: the lost queue would give a message up when it comes"
            url = _text(_variables(functions.get(function, {})).get("DISPATCHER_BROKER_URL"))
            told = re.findall(r"(max_receive_count|message_retention)=(\d+)", url)
            if kept and told != [("max_receive_count", str(receives)), ("message_retention", str(kept))]:
                yield f"{name}: {receives} receives and {kept} s, but {function} is told {url}"


def _variables(function: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = function.get("Environment", {}).get("Variables", {})
    return found


def partial_batches(template: Template) -> Iterator[str]:
    """Every mapping takes partial batch responses, and a concurrency that AWS allows, or pollers in its place."""
    for name, mapping, queue, _ in _mappings(template):
        if mapping.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
            yield f"{name} of {queue}: no ReportBatchItemFailures: one failed task would repeat its batch"
        scaling = mapping.get("ScalingConfig", {}).get("MaximumConcurrency")
        if scaling is None and mapping.get("ProvisionedPollerConfig"):
            scaling = LAMBDA_MAX_MAPPING_CONCURRENCY  # limited by its pollers, which exclude the setting
        for concurrency in numbers(template, scaling or 0):
            if not LAMBDA_MIN_MAPPING_CONCURRENCY <= concurrency <= LAMBDA_MAX_MAPPING_CONCURRENCY:
                yield f"{name} of {queue}: MaximumConcurrency must be 2 to 1000"
        if _number(template, mapping.get("BatchSize", SQS_MAX_BATCH)) > SQS_MAX_BATCH and not mapping.get(
            "MaximumBatchingWindowInSeconds"
        ):
            yield f"{name} of {queue}: a batch of more than 10 needs a window"
        if mapping.get("FilterCriteria"):
            yield f"{name} of {queue}: a filter deletes the messages that it does not match"


def functions(template: Template) -> Iterator[str]:
    """Functions run on with chains of tasks, log JSON, find their app, and have a role of the template's own."""
    roles = of_type(template, "AWS::IAM::Role")
    readers = {function for _, _, _, function in _mappings(template)}
    seen: set[str] = set()
    for name, function in of_type(template, "AWS::Lambda::Function").items():
        if name not in readers:
            continue  # somebody's own, for something else
        role = referred(function.get("Role"))
        if role in seen:
            yield f"{name}: shares its role with another function"
        seen.add(role)
        if role not in roles:
            yield f"{name}: no role of its own; the one that SAM makes may read every queue"
        if function.get("RecursiveLoop") != "Allow":
            yield f"{name}: without RecursiveLoop: Allow Lambda cuts chains of tasks at the 16th"
        if function.get("LoggingConfig", {}).get("LogFormat") != "JSON":
            yield f"{name}: does not log JSON"
        missing = {"DISPATCHER_APP", "DISPATCHER_BROKER_URL", "DISPATCHER_TABLE"} - _variables(function).keys()
        if missing:
            yield f"{name}: no {', '.join(sorted(missing))}"


def least_privilege(template: Template) -> Iterator[str]:
    """No role allows all actions of a service, or acts on all resources but for what knows no resource."""
    own = {
        referred(function.get("Role"))
        for function in of_type(template, "AWS::Lambda::Function").values()
        if "DISPATCHER_APP" in _variables(function)
    }
    policies = [
        (name, policy["PolicyDocument"])
        for name, role in of_type(template, "AWS::IAM::Role").items()
        if name in own
        for policy in role.get("Policies", [])
    ]
    policies += [
        (name, each["PolicyDocument"])
        for kind in ("AWS::IAM::ManagedPolicy", "AWS::IAM::Policy")
        for name, each in of_type(template, kind).items()
    ]
    for name in own:
        if of_type(template, "AWS::IAM::Role").get(name, {}).get("ManagedPolicyArns"):
            yield f"{name}: managed policies reach further than this stack"
    for name, document in policies:
        for statement in listed(document["Statement"]):
            actions = listed(statement["Action"])
            if any("*" in action for action in actions):
                yield f"{name}.{statement.get('Sid')}: allows all of {actions}"
            if "*" in listed(statement["Resource"]) and not set(actions) <= set(UNSCOPED):
                yield f"{name}.{statement.get('Sid')}: allows {', '.join(actions)} on everything"


def encryption(template: Template) -> Iterator[str]:
    """Queues are encrypted and refuse plain HTTP."""
    guarded: set[str] = set()
    for policy in of_type(template, "AWS::SQS::QueuePolicy").values():
        for statement in listed(policy["PolicyDocument"]["Statement"]):
            if statement["Effect"] == "Deny" and _denies_plain_http(statement.get("Condition")):
                guarded |= {referred(queue) for queue in policy["Queues"]} & {
                    referred(target) for target in listed(statement["Resource"])
                }
    for name, queue in of_type(template, "AWS::SQS::Queue").items():
        if not (queue.get("SqsManagedSseEnabled") or queue.get("KmsMasterKeyId")):
            yield f"{name}: not encrypted"
        if name not in guarded:
            yield f"{name}: takes plain HTTP"


def _denies_plain_http(condition: Any) -> bool:
    secure = (condition or {}).get("Bool", {}).get("aws:SecureTransport")
    return str(secure).lower() == "false"


def senders(template: Template) -> Iterator[str]:
    """Queues take messages from services for resources of this account alone, and from nobody in general."""
    first: dict[str, str] = {}
    for name, policy in of_type(template, "AWS::SQS::QueuePolicy").items():
        for queue in filter(None, map(referred, listed(policy["Queues"]))):
            if first.setdefault(queue, name) != name:
                yield f"{queue}: has the policies {first[queue]} and {name}, of which SQS keeps one"
        for statement in listed(policy["PolicyDocument"]["Statement"]):
            if statement["Effect"] != "Allow":
                continue
            principal = statement["Principal"]
            if principal == "*" or (isinstance(principal, Mapping) and "*" in listed(principal.get("AWS"))):
                yield f"{name}.{statement.get('Sid')}: anybody may send"
            conditions = {key for each in statement.get("Condition", {}).values() for key in each}
            if isinstance(principal, Mapping) and "Service" in principal and "aws:SourceArn" not in conditions:
                yield f"{name}.{statement.get('Sid')}: no aws:SourceArn: rules of other accounts may send"


def table(template: Template) -> Iterator[str]:
    """The table is on demand, has the backend's keys, and removes what has expired."""
    used = {
        referred(_variables(function).get("DISPATCHER_TABLE"))
        for function in of_type(template, "AWS::Lambda::Function").values()
    }
    tables = {name: each for name, each in of_type(template, "AWS::DynamoDB::Table").items() if name in used}
    if not tables:
        yield "ResultTable: no table that a function is told of"
    for name, properties in tables.items():
        if properties.get("BillingMode") != "PAY_PER_REQUEST":
            yield f"{name}: not on demand"
        keys = [(key["AttributeName"], key["KeyType"]) for key in properties["KeySchema"]]
        if keys != [("pk", "HASH"), ("sk", "RANGE")]:
            yield f"{name}: the keys must be pk and sk, not {keys}"
        if properties.get("TimeToLiveSpecification") != {"AttributeName": "ttl", "Enabled": True}:
            yield f"{name}: no time to live on 'ttl': records would stay for ever"


def payloads(template: Template) -> Iterator[str]:
    """The bucket is closed to the public and plain HTTP, and empties itself, but not too soon."""
    bucket = of_type(template, "AWS::S3::Bucket").get("PayloadBucket")
    if bucket is None:
        return
    guarded = {
        referred(policy["Bucket"])
        for policy in of_type(template, "AWS::S3::BucketPolicy").values()
        for statement in listed(policy["PolicyDocument"]["Statement"])
        if statement["Effect"] == "Deny" and _denies_plain_http(statement.get("Condition"))
    }
    block = bucket.get("PublicAccessBlockConfiguration", {})
    if len(block) != 4 or not all(value is True for value in block.values()):
        yield "PayloadBucket: may be opened to the public"
    if "PayloadBucket" not in guarded:
        yield "PayloadBucket: takes plain HTTP"
    rules = bucket.get("LifecycleConfiguration", {}).get("Rules", [])
    if not any(rule.get("Status") == "Enabled" and "Prefix" not in rule for rule in rules):
        yield "PayloadBucket: nothing removes old payloads"
    kept = {_kept(template, queue) for queue in of_type(template, "AWS::SQS::Queue").values()}
    for rule in rules:
        for days in numbers(template, rule.get("ExpirationInDays", 0)):
            # Some days must be left for delays.
            if days * _DAY < sum(kept) + 7 * _DAY:
                yield f"PayloadBucket: {days} days are less than a message can need it"


def alarms(template: Template) -> Iterator[str]:
    """Somebody is told of old messages, dead letters, errors and throttles."""
    watched = {
        (alarm["MetricName"], referred(dimension["Value"]))
        for alarm in of_type(template, "AWS::CloudWatch::Alarm").values()
        for dimension in alarm.get("Dimensions", [])
    }
    queues = of_type(template, "AWS::SQS::Queue")
    for name, queue in queues.items():
        lost = referred(queue.get("RedrivePolicy", {}).get("deadLetterTargetArn"))
        if not lost and ("ApproximateNumberOfMessagesVisible", name) not in watched and name in _targets(queues):
            yield f"{name}: nobody is told of dead letters"
        first = lost and name not in _targets(queues)
        if first and ("ApproximateAgeOfOldestMessage", name) not in watched:
            yield f"{name}: nobody is told that messages wait"
    for name in {function for _, _, _, function in _mappings(template)}:
        for metric in ("Errors", "Throttles"):
            if (metric, name) not in watched:
                yield f"{name}: nobody is told of its {metric.lower()}"


def _targets(queues: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {referred(queue.get("RedrivePolicy", {}).get("deadLetterTargetArn")) for queue in queues.values()}


RULES: Final[Mapping[str, Rule]] = {
    rule.__name__: rule
    for rule in (
        visibility, redrive, budget, partial_batches, functions, least_privilege, encryption, senders, table, payloads,
        alarms,
    )
}  # fmt: skip
