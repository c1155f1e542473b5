"""The settings that work: one `Option` each, in the order of `docs/configuration.md`, which is generated from here.

Celery's other keys are in `celery_keys`; `OPTIONS` joins both.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

from dispatcher import quotas
from dispatcher.config.structures import Annotations, PublishPolicy, Queues, Routes, SigningKeys, Table
from dispatcher.config.types import (
    Bool,
    Choice,
    Concurrency,
    Expiry,
    Int,
    LogFormat,
    LogLevel,
    Names,
    PayloadUrl,
    RateLimit,
    Seconds,
    Text,
    Type,
    Url,
    Zone,
)
from dispatcher.config.words import BROKERS, CODECS, COMPRESSIONS, GUARDS, POOLS, STORES

#: supported: works. no_effect: known, warns once. refused: would be dangerous to ignore.
Kind = Literal["supported", "no_effect", "refused"]


class Option(NamedTuple):
    """One key of the configuration.

    ``reason`` says why a key has no effect or is refused, ``harmless`` which values of it change nothing and pass
    silently. ``differs`` is what a user of Celery must know about a key that works. ``live`` keys may change after
    the app is finalized. ``environment`` is a shorter variable name beside ``DISPATCHER_<KEY>``.
    """

    name: str
    type: Type
    default: Any
    description: str
    kind: Kind = "supported"
    nullable: bool = False
    differs: str = ""
    reason: str = ""
    harmless: tuple[Any, ...] = ()
    live: bool = False
    environment: str = ""

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that set it, the canonical one last."""
        canonical = f"DISPATCHER_{self.name.upper()}"
        return (self.environment, canonical) if self.environment else (canonical,)

    def initial(self) -> Any:
        """Return the default, for mutable defaults a fresh copy."""
        return dict(self.default) if isinstance(self.default, dict) else self.default


def _option(name: str, kind: Type, default: Any, description: str, **more: Any) -> Option:
    return Option(name, kind, default, description, **{"nullable": default is None, **more})


_GENERAL: Final = (
    _option("imports", Names(), (), "Modules to import when a worker or Lambda function starts."),
    _option("include", Names(), (), "More modules to import; the app's `include=` argument."),
    _option(
        "timezone",
        Zone(),
        None,
        "The zone of naive datetimes and crontabs. Unset means UTC, or `TIME_ZONE` of a Django settings module.",
    ),
    _option(
        "accept_content",
        Names(CODECS),
        ("json", "msgpack"),
        "The serializers accepted on receipt.",
        differs="only json there; msgpack, too, carries nothing but data.",
    ),
    _option("result_accept_content", Names(CODECS), None, "The same for results; unset means `accept_content`."),
    _option(
        "max_message_bytes",
        Int(1024),
        10 * 1024 * 1024,
        "The largest body, after decompression, that is decoded; transports have limits of their own.",
    ),
    _option(
        "payload_bucket",
        PayloadUrl(),
        None,
        "Where arguments and results go that are too large for a message or a record: an S3 bucket, `bucket/prefix`, "
        "`s3://bucket/prefix?region=…`, or `file:///directory`. Unset means that they are refused.",
    ),
    _option(
        "payload_threshold",
        Int(1024),
        None,
        "The size in bytes from which on they go there; unset means the limit of the transport and of the result "
        "backend.",
    ),
)

_BROKER: Final = (
    _option(
        "broker_url",
        BROKERS,
        None,
        "Where messages go. Unset means the embedded SQLite file, which is refused inside Lambda.",
        differs="the default is RabbitMQ on localhost there.",
    ),
    _option(
        "broker_transport_options",
        Table(),
        {},
        "Options of the transport, by its own names: `region`, `visibility_timeout`, `wait_time_seconds`, "
        "`queue_name_prefix`, `predefined_queues`, …",
    ),
    _option(
        "broker_visibility_timeout",
        Seconds(above=0, most=quotas.SQS_MAX_VISIBILITY),
        60.0,
        "For how many seconds a worker leases a message; its heartbeat renews the lease while the task runs. "
        "The SQS queue of a Lambda function has its own, set by the stack.",
    ),
    _option(
        "signing_keys",
        SigningKeys(),
        None,
        'Keys that sign messages, by id: `{"k1": "<base64 of at least 32 bytes>"}` or `"k1:<base64>,k2:<base64>"`. The '
        "first signs, all verify; unsigned messages are then dead letters. Needed for pickle.",
    ),
    _option(
        "signing_max_age",
        Seconds(above=0),
        400 * 86_400.0,
        "How old a signature may be, in seconds; more than the longest delay and retention of a message.",
    ),
)

_RESULT: Final = (
    _option(
        "result_backend",
        STORES,
        None,
        "Where results go. Unset means what belongs to the broker: DynamoDB for SQS, else the same server or file.",
        differs="unset means no results there; here that is `task_ignore_result`.",
    ),
    _option("result_backend_transport_options", Table(), {}, "Options of the result backend, by its own names."),
    _option(
        "dynamodb_table", Text(), "dispatcher", "The DynamoDB table of the results.", environment="DISPATCHER_TABLE"
    ),
    _option(
        "dynamodb_endpoint_url",
        Url("http://localhost:8000", {}),
        None,
        "Another endpoint for DynamoDB, in place of AWS's.",
    ),
    _option(
        "result_expires",
        Expiry(0),
        86_400.0,
        "How many seconds a result can be read; `None` or 0 means for ever.",
        nullable=True,
    ),
    _option("result_serializer", CODECS, "json", "The serializer of results."),
    _option("result_compression", COMPRESSIONS, None, "The compression of results, such as `zlib`."),
    _option("result_extended", Bool(), False, "Keep name, arguments, worker, retries and queue with the result."),
    _option(
        "record_retention",
        Seconds(60),
        float(quotas.SQS_DEFAULT_RETENTION),
        "How many seconds the record of a task lives at least, from its ETA on; not less than its queue's retention.",
    ),
)

_TASK: Final = (
    _option("task_serializer", CODECS, "json", "The serializer of arguments."),
    _option("task_compression", COMPRESSIONS, None, "The compression of messages, such as `zlib`; used when it pays."),
    _option(
        "task_default_queue",
        Text(),
        "default",
        "The queue of tasks that no route sends elsewhere.",
        differs='it is `"celery"` there.',
    ),
    _option("task_queues", Queues(), None, "The queues of the app; read as a dict of queue name to options."),
    _option(
        "task_create_missing_queues",
        Bool(),
        True,
        "Whether a queue may be used that `task_queues` does not name.",
    ),
    _option(
        "task_routes",
        Routes(),
        None,
        "Which task goes to which queue: a dict (names, globs, patterns), functions, or a list.",
    ),
    _option("task_annotations", Annotations(), None, "Attributes of tasks, set from the configuration."),
    _option(
        "task_default_priority",
        Int(0, 9),
        None,
        "The priority of messages, 0 (the most urgent, as without one) to 9, where the transport has any.",
    ),
    _option("task_inherit_parent_priority", Bool(), False, "Tasks sent by a task take its priority."),
    _option(
        "task_acks_late",
        Bool(),
        None,
        "`False` runs a task at most once: one whose worker dies fails with `WorkerLostError`.",
        differs="unset acks after the run, as `True` does; there it acks before.",
    ),
    _option("task_ignore_result", Bool(), False, "Keep no results unless a task asks for it."),
    _option(
        "task_store_errors_even_if_ignored",
        Bool(),
        False,
        "Keep errors of tasks whose results are ignored.",
        differs="they are always kept: a failure must be known, or a duplicate would run.",
    ),
    _option("task_track_started", Bool(), False, "Record STARTED when a run begins."),
    _option(
        "task_revocable", Bool(), True, "Whether tasks can be revoked; looking for revocations costs a read per task."
    ),
    _option("task_time_limit", Seconds(above=0), None, "The hard limit of a run in seconds: the run is killed."),
    _option(
        "task_soft_time_limit",
        Seconds(above=0),
        None,
        "The soft limit of a run in seconds: `SoftTimeLimitExceeded` is raised in it.",
    ),
    _option(
        "task_default_rate_limit",
        RateLimit(),
        None,
        'The rate limit of tasks that set none: starts per second, or text such as `"100/m"`; a task\'s own 0 is no '
        "limit.",
        differs="it is of each worker there; see `rate_limit_scope`.",
    ),
    _option(
        "rate_limit_scope",
        Choice("global", "worker"),
        None,
        'What a rate limit holds for: `"global"`, all workers and Lambda functions together, or `"worker"`, each local '
        "worker. Unset means global, and a warning for apps with a rate limit.",
    ),
    _option("task_always_eager", Bool(), False, "`apply_async` runs the task at once, in this process.", live=True),
    _option("task_eager_propagates", Bool(), False, "Eager tasks raise their errors.", live=True),
    _option("task_store_eager_result", Bool(), False, "Eager tasks keep their results in the backend.", live=True),
    _option("task_publish_retry", Bool(), True, "Sending is tried again when the broker cannot be reached."),
    _option(
        "task_publish_retry_policy",
        PublishPolicy(),
        dict(PublishPolicy.DEFAULTS),
        "How often and how far apart: `max_retries`, `interval_start`, `interval_step`, `interval_max` (seconds).",
    ),
    _option("task_max_depth", Int(1), 1000, "How deep tasks may send tasks before the chain counts as a runaway."),
    _option(
        "unknown_grace",
        Seconds(0),
        600.0,
        "For how many seconds a message of an unknown task or version is handed back, for the sake of rolling deploys, "
        "before it is a dead letter.",
    ),
    _option(
        "max_worker_losses",
        Int(1),
        3,
        "How often a task may be started without an outcome before it fails with `WorkerLostError`.",
    ),
    _option(
        "lost_after",
        Seconds(1),
        float(quotas.LAMBDA_MAX_TIMEOUT),
        "How many seconds after its last start a task whose message SQS gave up fails with `WorkerLostError`: the "
        "longest that a run can go on, so the timeout of the function. A longer time limit counts instead.",
    ),
    _option(
        "import_grace",
        Seconds(0),
        3600.0,
        "For how many seconds the Lambda functions hand messages back while the app cannot be imported, so that a "
        "broken deploy can be undone, before the tasks fail with `ImportError`. Read from the environment only.",
    ),
    _option("dead_letter_failures", Bool(), True, "Copy tasks that failed for good to the dead-letter queue."),
)

_WORKER: Final = (
    _option(
        "worker_pool",
        POOLS,
        "prefork",
        "How a local worker runs tasks.",
        differs="gevent and eventlet are not available.",
    ),
    _option(
        "worker_concurrency",
        Concurrency(1),
        None,
        "How many tasks a local worker runs at once; unset means one per CPU.",
    ),
    _option(
        "worker_prefetch_multiplier",
        Int(1),
        4,
        "How many messages a local worker takes in advance, for each task it can run at once.",
        differs="0 (unlimited) is refused.",
    ),
    _option("worker_disable_rate_limits", Bool(), False, "Tasks run without their rate limits."),
    _option("worker_max_tasks_per_child", Int(1), None, "After how many tasks a prefork child is replaced."),
    _option(
        "worker_max_memory_per_child",
        Int(1),
        None,
        "At which resident size, in KiB, a prefork child is replaced after its task.",
    ),
    _option(
        "worker_allow_unkept_limits",
        Bool(),
        False,
        "Start although the pool cannot keep the time limit of a task; such a limit is then not enforced.",
    ),
    _option("worker_hijack_root_logger", Bool(), True, "The worker sets up the root logger."),
    _option(
        "worker_log_format",
        LogFormat(),
        "human",
        'How the worker logs: `"human"`, `"json"` (one object a line), or a format string of `logging`.',
        differs="only format strings there.",
    ),
    _option("worker_log_level", LogLevel(), "INFO", "What the worker logs.", differs="WARNING there."),
    _option("worker_log_color", Bool(), None, "Colours in human logs; unset means on a terminal only."),
    _option(
        "worker_log_file",
        Text(),
        None,
        "The file a worker logs to, in place of its error output; %n, %h, %d and %p are parts of its name.",
    ),
    _option(
        "worker_queues",
        Names(),
        None,
        "The queues a local worker reads; unset means those of `task_queues`, else the default queue.",
    ),
    _option("worker_hostname", Text(), None, "The name of a local worker; %h, %n and %d are parts of the host's name."),
)

_LAMBDA: Final = (
    _option(
        "lambda_concurrency", Int(1), 10, "How many `async def` tasks of a batch run at once in a Lambda function."
    ),
    _option(
        "lambda_guard",
        GUARDS,
        "process",
        "Who ends a task in a Lambda function that is past its hard limit or deaf to its soft one, and settles its "
        "batch: a forked process, which also sees the function's process die; a thread, which code in C can keep from "
        "running; or none.",
    ),
    _option(
        "cleanup_margin",
        Seconds(0, 300),
        3.0,
        "Seconds before the end of the settle margin at which a task gets its soft limit, to clean up.",
    ),
    _option(
        "settle_margin",
        Seconds(0, 300),
        2.0,
        "Seconds before the function's timeout that are kept for writing results and handing messages back.",
    ),
    _option(
        "metrics_namespace",
        Text(),
        "dispatcher",
        "The CloudWatch namespace of the metrics; `None` writes none.",
        nullable=True,
    ),
)

_BEAT: Final = (
    _option(
        "beat_schedule",
        Table(),
        {},
        "The entries of the beat by name: dicts of `task`, `schedule`, `args`, `kwargs`, `options`, `relative`, "
        "`enabled`, `catch_up` and `catch_up_within`.",
        live=True,
    ),
    _option(
        "beat_max_loop_interval",
        Seconds(0),
        5.0,
        "For how many seconds a local beat sleeps at most before it looks for changes; 0 means the default.",
        differs="the default depends on the scheduler, mostly 300, there.",
    ),
    _option(
        "beat_lease",
        Seconds(1),
        30.0,
        "For how many seconds a local beat is the only one that fires; renewed while it lives, and when it is past "
        "another takes over.",
    ),
    _option(
        "beat_cron_starting_deadline",
        Seconds(above=0),
        None,
        "How many seconds a firing may be late, for entries without `catch_up_within`.",
        differs="it is for crontabs only there.",
    ),
    _option(
        "beat_accept_unsigned",
        Bool(),
        True,
        "Whether firings without a signature count where `signing_keys` is set; EventBridge cannot sign.",
    ),
)

_INFRASTRUCTURE: Final = (
    _option(
        "infra",
        Table(),
        {},
        "What `dispatcher infra` cannot read off the tasks: memory, timeouts, networks and the like of the functions, "
        "by queue and by stage; see [the plan](infra.md).",
        live=True,
    ),
)

#: The settings by the title of their section in the documentation.
SECTIONS: Final[dict[str, tuple[Option, ...]]] = {
    "General": _GENERAL,
    "Broker": _BROKER,
    "Results": _RESULT,
    "Tasks": _TASK,
    "Local worker": _WORKER,
    "Lambda": _LAMBDA,
    "Beat": _BEAT,
    "Infrastructure": _INFRASTRUCTURE,
}

SUPPORTED: Final[dict[str, Option]] = {option.name: option for section in SECTIONS.values() for option in section}
