"""The setting ``infra``: what an app's code cannot tell of its functions and queues, checked and with defaults."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.quotas import (
    LAMBDA_MAX_BATCH,
    LAMBDA_MAX_BATCHING_WINDOW,
    LAMBDA_MAX_LAYERS,
    LAMBDA_MAX_MAPPING_CONCURRENCY,
    LAMBDA_MAX_MEMORY,
    LAMBDA_MAX_TIMEOUT,
    LAMBDA_MIN_MAPPING_CONCURRENCY,
    LAMBDA_MIN_MEMORY,
)

#: What this package runs on, and what of it Lambda had when this was written; newer ones are taken on trust.
#: https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtimes.html
_RUNTIME: Final = re.compile(r"python3\.(?:1[1-9]|[2-9]\d)")
RUNTIMES: Final = frozenset({"python3.11", "python3.12", "python3.13", "python3.14"})
#: What CloudWatch Logs takes: https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutRetentionPolicy.html
_LOG_DAYS: Final = (
    1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653,
)  # fmt: skip
_STAGE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")
_ACCOUNT: Final = re.compile(r"\d{12}")


class Vpc(NamedTuple):
    """The subnets and security groups that a function's network interfaces are in."""

    subnets: tuple[str, ...]
    security_groups: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSettings:
    """What the function of a queue is like; `None` leaves it to the plan.

    ``memory`` in MiB, ``timeout`` and ``batching_window`` in seconds. ``image`` is the URI of a container image, which
    then takes the place of ``runtime``, ``layers`` and the package. With ``schedules`` its tasks may change entries of
    the beat, by `app.schedules`.
    """

    memory: int = 512
    timeout: int | None = None
    architecture: str = "arm64"
    runtime: str = "python3.13"
    maximum_concurrency: int = 10
    batch_size: int | None = None
    batching_window: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    image: str | None = None
    vpc: Vpc | None = None
    log_days: int = 30
    schedules: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Infrastructure:
    """The setting ``infra``, checked.

    ``defaults`` holds for every function, ``queues`` has the functions that differ; `None` there means that no function
    reads the queue, but workers that somebody else runs. ``producers`` are account numbers or ARNs of roles in other
    accounts that may send. ``kms_key`` is the ARN of a customer's key for queues, table, bucket and the functions'
    variables. ``payload_days`` is how long large payloads are kept in a bucket of the stack's own. ``code`` is the
    directory that `sam build` packs, and ``build`` how: ``package`` by our Makefile, ``makefile`` by theirs, ``sam`` by
    none.
    Without ``scheduler`` delays of more than 15 minutes wait by visibility, and not in EventBridge Scheduler.
    """

    name: str | None = None
    defaults: FunctionSettings = field(default_factory=FunctionSettings)
    queues: Mapping[str, FunctionSettings | None] = field(default_factory=dict)
    kms_key: str | None = None
    producers: tuple[str, ...] = ()
    payload_days: int | None = None
    code: str = "."
    build: str = "package"
    scheduler: bool = True

    def function(self, queue: str) -> FunctionSettings | None:
        """Return the settings of a queue's function, `None` where it has none."""
        return self.queues.get(queue, self.defaults)


_FUNCTION: Final = tuple(each.name for each in dataclasses.fields(FunctionSettings))
_OWN: Final = ("name", "kms_key", "producers", "payload_days", "code", "build", "scheduler")
_KNOWN: Final = (*_OWN, *_FUNCTION, "queues", "stages")


def read(
    given: Mapping[str, Any] | None, stage: str | None = None, functions: Mapping[str, Any] | None = None
) -> Infrastructure:
    """Return the setting ``infra`` for a stage; raise `ImproperlyConfigured` naming what is wrong in it.

    What ``stages`` has for the stage wins over what is said for all; queues are merged key by key. ``functions`` wins
    over both, for every function.
    """
    if stage is not None and not _STAGE.fullmatch(stage):
        raise ImproperlyConfigured(
            f"a stage is called by letters, digits and dashes, which names can have, not {stage!r}"
        )
    values, queues = _merged(given, stage, functions)
    defaults = _function("infra", {key: values[key] for key in _FUNCTION if key in values}, FunctionSettings())
    made = Infrastructure(
        name=values.get("name"),
        defaults=defaults,
        queues={name: _of_queue(name, entry, defaults) for name, entry in queues.items()},
        kms_key=_key(values.get("kms_key")),
        scheduler=_flag("infra['scheduler']", values.get("scheduler", True)),
        code=_text("infra['code']", values.get("code", ".")),
        build=_build(values.get("build", "package")),
        producers=_producers(values.get("producers", ())),
        payload_days=_number("infra['payload_days']", values["payload_days"], 1, 3650)
        if "payload_days" in values
        else None,
    )
    if not made.scheduler and any(each and each.schedules for each in (made.defaults, *made.queues.values())):
        raise ImproperlyConfigured(
            "infra['scheduler'] is False, so there is no EventBridge Scheduler in which tasks could change schedules; "
            "leave it out, or leave out 'schedules'"
        )
    return made


def _merged(
    given: Mapping[str, Any] | None, stage: str | None, functions: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return what is said for a stage: of everything, and of each queue."""
    values = dict(given or {})
    stages = _mapping(values.pop("stages", {}), "infra['stages']")
    if stage is not None and stages and stage not in stages:
        raise ImproperlyConfigured(f"infra['stages'] has no stage {stage!r}; it has {', '.join(sorted(stages))}")
    if stage is None:
        for each in stages:  # a mistake there is to be found before that stage is deployed
            read(given, each, functions)
    queues = {
        name: _entry(entry, name) for name, entry in _mapping(values.pop("queues", {}), "infra['queues']").items()
    }
    if stage is not None and stage in stages:
        own = dict(_mapping(stages[stage], f"infra['stages'][{stage!r}]"))
        for name, entry in _mapping(own.pop("queues", {}), "infra['queues']").items():
            queues[name] = {**queues.get(name, {}), **_entry(entry, name)}
        values |= own
    if functions:
        values |= functions
        queues = {
            name: {**entry, **functions} if entry.get("function", True) else entry for name, entry in queues.items()
        }
    for key in values:
        if key not in _KNOWN:
            raise _unknown(f"infra[{key!r}]", key, _KNOWN)
    return values, queues


def _entry(entry: Any, name: str) -> dict[str, Any]:
    return dict(_mapping({} if entry is None else entry, f"infra['queues'][{name!r}]"))


def _of_queue(name: str, entry: Mapping[str, Any], defaults: FunctionSettings) -> FunctionSettings | None:
    where = f"infra['queues'][{name!r}]"
    entry = dict(entry)
    wanted = entry.pop("function", True)
    if not isinstance(wanted, bool):
        raise ImproperlyConfigured(f"{where}['function'] must be True or False, not {wanted!r}")
    if not wanted:
        if entry:
            raise ImproperlyConfigured(f"{where} has no function, so it cannot have {', '.join(sorted(entry))}")
        return None
    for key in entry:
        if key not in _FUNCTION:
            raise _unknown(f"{where}[{key!r}]", key, (*_FUNCTION, "function"))
    return _function(where, entry, defaults)


def _function(where: str, given: Mapping[str, Any], defaults: FunctionSettings) -> FunctionSettings:
    checked = {key: _CHECKS[key](f"{where}[{key!r}]", value) for key, value in given.items() if value is not None}
    if "environment" in checked:
        checked["environment"] = {**defaults.environment, **checked["environment"]}
    settings = dataclasses.replace(defaults, **checked)
    if settings.image and settings.layers:
        raise ImproperlyConfigured(f"{where} has both an image and layers; build the layers into the image")
    if settings.batch_size is not None and settings.batch_size > 10 and settings.batching_window < 1:
        raise ImproperlyConfigured(
            f"{where}: a batch_size over 10 needs a batching_window of at least 1 s; Lambda refuses it otherwise"
        )
    return settings


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ImproperlyConfigured(f"{where} must be a dict with text keys, not {value!r}")
    return value


def _unknown(where: str, key: str, known: Collection[str]) -> ImproperlyConfigured:
    near = difflib.get_close_matches(key, list(known), 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
    return ImproperlyConfigured(f"{where} means nothing; {hint}")


def _number(where: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ImproperlyConfigured(f"{where} must be a whole number from {low} to {high:,}, not {value!r}")
    return value


def _within(low: int, high: int) -> Any:
    return lambda where, value: _number(where, value, low, high)


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ImproperlyConfigured(f"{where} must be a text, not {value!r}")
    return value


def _texts(where: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str | Mapping) or not isinstance(value, Collection) or not all(
        isinstance(each, str) and each for each in value
    ):  # fmt: skip
        raise ImproperlyConfigured(f"{where} must be a list of texts, not {value!r}")
    return tuple(value)


def _architecture(where: str, value: Any) -> str:
    if value not in ("arm64", "x86_64"):
        raise ImproperlyConfigured(f"{where} must be 'arm64' or 'x86_64', not {value!r}")
    return str(value)


def _runtime(where: str, value: Any) -> str:
    if not isinstance(value, str) or not _RUNTIME.fullmatch(value):
        raise ImproperlyConfigured(
            f"{where} must be a Python runtime of Lambda from 'python3.11' on, such as 'python3.13', not {value!r}"
        )
    return value


#: https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html#configuration-envvars-runtime
_RESERVED: Final = frozenset({
    "_HANDLER", "_X_AMZN_TRACE_ID", "AWS_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION", "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_INITIALIZATION_TYPE", "AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_RUNTIME_API", "AWS_REGION", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
    "LAMBDA_RUNTIME_DIR", "LAMBDA_TASK_ROOT",
})  # fmt: skip


#: What the CDK has in place of a text that is known when it synthesises.
_TOKEN: Final = r"[^\s]*\$\{Token\[.+\]\}[^\s]*"
#: Forms of what is named here and made elsewhere; what a form does not fit would only be found by the deployment.
_LAYER: Final = r"arn:[\w-]+:lambda:[\w-]+:\d{12}:layer:[\w-]+:\d+"
_IMAGE: Final = (
    r"\d{12}\.dkr\.ecr(?:-fips)?\.[\w-]+\.amazonaws\.com(?:\.cn)?/"
    r"[a-z0-9][a-z0-9._/-]*(?::[\w.-]+|@sha256:[0-9a-f]{64})"
)
_SUBNET: Final = r"subnet-[0-9a-f]{8,17}"
_SECURITY_GROUP: Final = r"sg-[0-9a-f]{8,17}"
_VARIABLE: Final = r"[A-Za-z][A-Za-z0-9_]+"


def _formed(where: str, values: Iterable[str], form: str, words: str) -> None:
    for value in values:
        if not re.fullmatch(f"{form}|{_TOKEN}", value):
            raise ImproperlyConfigured(f"{where} must be {words}, not {value!r}")


def _image(where: str, value: Any) -> str:
    image = _text(where, value)
    words = "an image in ECR with its tag or digest (<account>.dkr.ecr.<region>.amazonaws.com/<name>:<tag>)"
    _formed(where, [image], _IMAGE, words)
    return image


def _layers(where: str, value: Any) -> tuple[str, ...]:
    layers = _texts(where, value)
    words = "ARNs of layers with their version (arn:aws:lambda:<region>:<account>:layer:<name>:<version>)"
    _formed(where, layers, _LAYER, words)
    if len(layers) > LAMBDA_MAX_LAYERS:
        raise ImproperlyConfigured(f"{where} has {len(layers)} layers; a function takes {LAMBDA_MAX_LAYERS}")
    return layers


def _environment(where: str, value: Any) -> Mapping[str, str]:
    if not all(isinstance(text, str) for text in _mapping(value, where).values()):
        raise ImproperlyConfigured(f"{where} must be a dict of texts to texts")
    reserved = sorted(name for name in value if name in _RESERVED or name.startswith("AWS_LAMBDA_FUNCTION_"))
    if reserved:
        raise ImproperlyConfigured(f"{where}: Lambda sets {', '.join(reserved)} itself, and refuses other values")
    _formed(f"a name in {where}", value, _VARIABLE, "two or more letters, digits and underscores, a letter first")
    return dict(value)


def _vpc(where: str, value: Any) -> Vpc:
    given = dict(_mapping(value, where))
    if set(given) != {"subnets", "security_groups"}:
        raise ImproperlyConfigured(f"{where} must have 'subnets' and 'security_groups', each a list of ids")
    vpc = Vpc(*(_texts(f"{where}[{key!r}]", given[key]) for key in ("subnets", "security_groups")))
    if not (vpc.subnets and vpc.security_groups):
        raise ImproperlyConfigured(f"{where} needs at least one subnet and one security group")
    _formed(f"{where}['subnets']", vpc.subnets, _SUBNET, "ids of subnets such as subnet-0123456789abcdef0")
    _formed(f"{where}['security_groups']", vpc.security_groups, _SECURITY_GROUP,
            "ids of security groups such as sg-0123456789abcdef0")  # fmt: skip
    return vpc


def _log_days(where: str, value: Any) -> int:
    if value not in _LOG_DAYS:
        raise ImproperlyConfigured(f"{where} must be one of {', '.join(map(str, _LOG_DAYS))}, not {value!r}")
    return int(value)


def _key(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not re.fullmatch(r"arn:[\w-]+:kms:[\w-]+:\d{12}:key/[\w-]+", value):
        raise ImproperlyConfigured(
            f"infra['kms_key'] must be the ARN of a key (arn:aws:kms:<region>:<account>:key/<id>), since policies need "
            f"it, not {value!r}"
        )
    return value


def _flag(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ImproperlyConfigured(f"{where} must be True or False, not {value!r}")
    return value


def _build(value: Any) -> str:
    if value not in ("package", "makefile", "sam"):
        raise ImproperlyConfigured(
            f"infra['build'] must be 'package' (bytecode, and the service models in use), 'makefile' (a Makefile of "
            f"yours) or 'sam' (sources, as `sam build` packs them by itself), not {value!r}"
        )
    return str(value)


def _producers(value: Any) -> tuple[str, ...]:
    producers = _texts("infra['producers']", value)
    for each in producers:
        if not _ACCOUNT.fullmatch(each) and not re.fullmatch(r"arn:[\w-]+:iam::\d{12}:[\w+=,.@/-]+", each):
            raise ImproperlyConfigured(
                f"infra['producers'] must be account numbers of 12 digits, or ARNs of roles or users, not {each!r}"
            )
    return producers


_CHECKS: Final[Mapping[str, Any]] = {
    "memory": _within(LAMBDA_MIN_MEMORY, LAMBDA_MAX_MEMORY),
    "timeout": _within(1, LAMBDA_MAX_TIMEOUT),
    "architecture": _architecture,
    "runtime": _runtime,
    "maximum_concurrency": _within(LAMBDA_MIN_MAPPING_CONCURRENCY, LAMBDA_MAX_MAPPING_CONCURRENCY),
    "batch_size": _within(1, LAMBDA_MAX_BATCH),
    "batching_window": _within(0, LAMBDA_MAX_BATCHING_WINDOW),
    "environment": _environment,
    "layers": _layers,
    "image": _image,
    "vpc": _vpc,
    "log_days": _log_days,
    "schedules": _flag,
}
