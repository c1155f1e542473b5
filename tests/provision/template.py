"""The rules that the template keeps beyond what linters know: each a function from a template to its violations."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

TEMPLATE = Path(__file__).parents[2] / "template.yaml"

#: https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html
VISIBILITY_FACTOR = 6
LEAST_RECEIVES = 5
#: How much of its time in a queue a message may need to be moved, if it only comes back after its visibility timeout.
RETENTION_SHARE = 0.75
#: How many times more receives a lost queue gives than the queue before it.
LOST_FACTOR = 5

Template = dict[str, Any]
Rule = Callable[[Template], Iterator[str]]


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's tags as the functions they are short for: ``!Ref x`` as ``{"Ref": "x"}``."""


def _construct(loader: _Loader, suffix: str, node: yaml.Node) -> Any:
    name = suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
        return {name: value.split(".", 1) if suffix == "GetAtt" else value}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    assert isinstance(node, yaml.MappingNode)
    return {name: loader.construct_mapping(node, deep=True)}


_Loader.add_multi_constructor("!", _construct)  # type: ignore[no-untyped-call]


def load() -> Template:
    """Read the template."""
    template: Template = yaml.load(TEMPLATE.read_text(encoding="utf-8"), _Loader)
    return template


def resources(template: Template, kind: str) -> dict[str, dict[str, Any]]:
    """Return the properties of all resources of a type."""
    return {
        name: resource.get("Properties", {})
        for name, resource in template["Resources"].items()
        if resource["Type"] == kind
    }


def numbers(template: Template, value: Any, given: Mapping[str, str]) -> int:
    """Evaluate what a property's number comes from, with these parameters."""
    match value:
        case {"Ref": name}:
            return int(given[name])
        case {"Fn::FindInMap": [name, key, member]}:
            return int(template["Mappings"][name][str(numbers(template, key, given))][member])
    return int(value)


def parameter_sets(template: Template) -> list[dict[str, str]]:
    """Return the parameters' defaults, and every allowed value of one with the others at their defaults."""
    parameters = template["Parameters"]
    defaults = {name: str(parameter["Default"]) for name, parameter in parameters.items()}
    return [defaults] + [
        {**defaults, name: str(value)}
        for name, parameter in parameters.items()
        for value in parameter.get("AllowedValues", [])
    ]


def _mappings(template: Template) -> Iterator[tuple[str, dict[str, Any], str, dict[str, Any]]]:
    """Yield (event's name, event, function's name, function) of each SQS event source mapping."""
    for name, function in resources(template, "AWS::Serverless::Function").items():
        for event, source in function.get("Events", {}).items():
            if source["Type"] == "SQS":
                yield event, source["Properties"], name, function


def _referred(value: Any) -> str:
    """Return the resource that a Ref or GetAtt means."""
    match value:
        case {"Ref": name}:
            return str(name)
        case {"Fn::GetAtt": [name, *_]}:
            return str(name)
    return ""


def visibility(template: Template) -> Iterator[str]:
    """A queue's visibility is six times its function's timeout, plus the batching window."""
    queues = resources(template, "AWS::SQS::Queue")
    for event, mapping, name, function in _mappings(template):
        queue = queues[_referred(mapping["Queue"])]
        for given in parameter_sets(template):
            timeout = numbers(template, function["Timeout"], given)
            window = int(mapping.get("MaximumBatchingWindowInSeconds", 0))
            seconds = numbers(template, queue.get("VisibilityTimeout", 30), given)
            if seconds < VISIBILITY_FACTOR * timeout + window:
                yield f"{name}.{event}: visibility {seconds} s for a timeout of {timeout} s and a window of {window} s"


def redrive(template: Template) -> Iterator[str]:
    """A queue that a function reads has a dead-letter queue of its kind that keeps messages longer."""
    queues = resources(template, "AWS::SQS::Queue")
    for _, mapping, _, _ in _mappings(template):
        name = _referred(mapping["Queue"])
        policy = queues[name].get("RedrivePolicy", {})
        target = queues.get(_referred(policy.get("deadLetterTargetArn")))
        if target is None:
            yield f"{name}: no dead-letter queue"
            continue
        for given in parameter_sets(template):
            if numbers(template, policy.get("maxReceiveCount", 0), given) < LEAST_RECEIVES:
                yield f"{name}: maxReceiveCount under {LEAST_RECEIVES}: a few throttles would kill messages"
        allowed = target.get("RedriveAllowPolicy", {})
        sources = [str(arn.get("Fn::Sub", "")) for arn in allowed.get("sourceQueueArns", [])]
        own = f":{queues[name]['QueueName']['Fn::Sub']}"
        if allowed.get("redrivePermission") != "byQueue" or [arn.endswith(own) for arn in sources] != [True]:
            yield f"{name}: its dead-letter queue takes messages of other queues, or not those of this one"
        if int(target.get("MessageRetentionPeriod", 345600)) <= int(queues[name].get("MessageRetentionPeriod", 345600)):
            yield f"{name}: its dead letters are kept no longer than itself"
        if bool(target.get("FifoQueue")) != bool(queues[name].get("FifoQueue")):
            yield f"{name}: its dead-letter queue is of another kind"


def budget(template: Template) -> Iterator[str]:
    """Nothing is deleted by its queue before it is moved, receives may be counted on, and functions know all that."""
    queues = resources(template, "AWS::SQS::Queue")
    for event, mapping, name, _ in _mappings(template):
        source = queues[_referred(mapping["Queue"])]
        policy = source.get("RedrivePolicy", {})
        following = queues.get(_referred(policy.get("deadLetterTargetArn")), {}).get("RedrivePolicy")
        for given in parameter_sets(template):
            receives = numbers(template, policy.get("maxReceiveCount", 0), given)
            kept = int(source.get("MessageRetentionPeriod", 345600))
            if following is None:
                continue  # the last of the chain: what is moved from there is beyond help
            if receives * numbers(template, source.get("VisibilityTimeout", 30), given) > RETENTION_SHARE * kept:
                yield f"{name}.{event}: a throttled message would be deleted before its {receives} receives are over"
            if int(following["maxReceiveCount"]) < LOST_FACTOR * receives:
                yield f"{name}.{event}: the lost queue would give a message up when it comes"
            for reader in resources(template, "AWS::Serverless::Function").values():
                url = _text(template, reader["Environment"]["Variables"]["DISPATCHER_BROKER_URL"], given)
                if url != f"sqs://?max_receive_count={receives}&message_retention={kept}":
                    yield f"{name}.{event}: {receives} receives and {kept} s, but a function is told {url}"


def _text(template: Template, value: Any, given: Mapping[str, str]) -> str:
    """Evaluate a Sub with numbers, with these parameters."""
    match value:
        case {"Fn::Sub": [text, names]}:
            for name, number in names.items():
                text = text.replace(f"${{{name}}}", str(numbers(template, number, given)))
            return str(text)
    return str(value)


def partial_batches(template: Template) -> Iterator[str]:
    """Every mapping takes partial batch responses, and a concurrency that AWS allows."""
    for event, mapping, name, _ in _mappings(template):
        if mapping.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
            yield f"{name}.{event}: no ReportBatchItemFailures: one failed task would repeat its batch"
        for given in parameter_sets(template):
            concurrency = mapping.get("ScalingConfig", {}).get("MaximumConcurrency", 0)
            if not 2 <= numbers(template, concurrency, given) <= 1000:
                yield f"{name}.{event}: MaximumConcurrency must be 2 to 1000"
        if int(mapping.get("BatchSize", 10)) > 10 and not mapping.get("MaximumBatchingWindowInSeconds"):
            yield f"{name}.{event}: a batch of more than 10 needs a window"
        if mapping.get("FilterCriteria"):
            yield f"{name}.{event}: a filter deletes the messages that it does not match"


def functions(template: Template) -> Iterator[str]:
    """Functions run on with chains of tasks, log JSON, find their app, and have a role of the template's."""
    roles = resources(template, "AWS::IAM::Role")
    seen: set[str] = set()
    for name, function in resources(template, "AWS::Serverless::Function").items():
        if _referred(function.get("Role")) in seen:
            yield f"{name}: shares its role with another function"
        seen.add(_referred(function.get("Role")))
        if function.get("RecursiveLoop") != "Allow":
            yield f"{name}: without RecursiveLoop: Allow Lambda cuts chains of tasks at the 16th"
        if function.get("LoggingConfig", {}).get("LogFormat") != "JSON":
            yield f"{name}: does not log JSON"
        variables = function.get("Environment", {}).get("Variables", {})
        missing = {"DISPATCHER_APP", "DISPATCHER_BROKER_URL", "DISPATCHER_TABLE"} - variables.keys()
        if missing:
            yield f"{name}: no {', '.join(sorted(missing))}"
        if _referred(function.get("Role")) not in roles:
            yield f"{name}: no role of its own; the one that SAM makes may read every queue"


def least_privilege(template: Template) -> Iterator[str]:
    """No role allows all actions of a service, or acts on all resources."""
    for name, role in resources(template, "AWS::IAM::Role").items():
        if role.get("ManagedPolicyArns"):
            yield f"{name}: managed policies reach further than this stack"
        for policy in role.get("Policies", []):
            for statement in policy["PolicyDocument"]["Statement"]:
                actions, targets = statement["Action"], statement["Resource"]
                for text in [*_listed(actions), *_listed(targets)]:
                    if isinstance(text, str) and "*" in text:
                        yield f"{name}.{statement.get('Sid')}: {text}"


def granted(template: Template, role: str) -> dict[str, set[str]]:
    """Return what a role allows: actions by the resource they are allowed on."""
    found: dict[str, set[str]] = {}
    for policy in resources(template, "AWS::IAM::Role")[role]["Policies"]:
        for statement in policy["PolicyDocument"]["Statement"]:
            for target in _listed(statement["Resource"]):
                found.setdefault(_referred(target), set()).update(_listed(statement["Action"]))
    return found


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def encryption(template: Template) -> Iterator[str]:
    """Queues are encrypted and refuse plain HTTP."""
    queues = resources(template, "AWS::SQS::Queue")
    guarded: set[str] = set()
    for policy in resources(template, "AWS::SQS::QueuePolicy").values():
        for statement in policy["PolicyDocument"]["Statement"]:
            if statement["Effect"] == "Deny" and _denies_plain_http(statement.get("Condition")):
                guarded |= {_referred(queue) for queue in policy["Queues"]} & {
                    _referred(target) for target in _listed(statement["Resource"])
                }
    for name, queue in queues.items():
        if not (queue.get("SqsManagedSseEnabled") or queue.get("KmsMasterKeyId")):
            yield f"{name}: not encrypted"
        if name not in guarded:
            yield f"{name}: takes plain HTTP"


def _denies_plain_http(condition: Any) -> bool:
    secure = (condition or {}).get("Bool", {}).get("aws:SecureTransport")
    return str(secure).lower() == "false"


def table(template: Template) -> Iterator[str]:
    """The table is on demand, has the backend's keys, and removes what has expired."""
    tables = resources(template, "AWS::DynamoDB::Table")
    if not tables:
        yield "no table"
    for name, properties in tables.items():
        if properties.get("BillingMode") != "PAY_PER_REQUEST":
            yield f"{name}: not on demand"
        keys = [(key["AttributeName"], key["KeyType"]) for key in properties["KeySchema"]]
        if keys != [("pk", "HASH"), ("sk", "RANGE")]:
            yield f"{name}: the keys must be pk and sk, not {keys}"
        if properties.get("TimeToLiveSpecification") != {"AttributeName": "ttl", "Enabled": True}:
            yield f"{name}: no time to live on 'ttl': records would stay for ever"


def payloads(template: Template) -> Iterator[str]:
    """A bucket is made on demand, closed to the public and plain HTTP, and empties itself, but not too soon."""
    guarded = {
        _referred(policy["Bucket"])
        for policy in resources(template, "AWS::S3::BucketPolicy").values()
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Deny" and _denies_plain_http(statement.get("Condition"))
    }
    longest = sum(
        int(queue.get("MessageRetentionPeriod", 0)) for queue in resources(template, "AWS::SQS::Queue").values()
    )
    for name, bucket in resources(template, "AWS::S3::Bucket").items():
        if template["Resources"][name].get("Condition") != "KeepsPayloads":
            yield f"{name}: made also where nobody asked for it"
        block = bucket.get("PublicAccessBlockConfiguration", {})
        if len(block) != 4 or not all(value is True for value in block.values()):
            yield f"{name}: may be opened to the public"
        if name not in guarded:
            yield f"{name}: takes plain HTTP"
        rules = bucket.get("LifecycleConfiguration", {}).get("Rules", [])
        if not any(rule.get("Status") == "Enabled" and "Prefix" not in rule for rule in rules):
            yield f"{name}: nothing removes old payloads"
        for rule in rules:
            for given in parameter_sets(template):
                days = numbers(template, rule.get("ExpirationInDays", 0), given)
                # Zero days mean that there is no bucket. Some days must be left for delays.
                if (days or given.get("PayloadDays") != "0") and days * 86_400 < longest + 7 * 86_400:
                    yield f"{name}: {days} days are less than a message can need it"


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (visibility, redrive, budget, partial_batches, functions, least_privilege, encryption, table, payloads)
}
