"""Celery's keys that do not work here, each with the reason, and the names settings had before Celery 4.

A key without effect warns once; one that would be dangerous to ignore is refused. A value equal to Celery's own
default, `None`, or one listed in `_HARMLESS`, asks for nothing and passes silently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from dispatcher.config.options import SUPPORTED, Kind, Option
from dispatcher.config.types import Type

_ANY: Final = Type()


def _keys(kind: Kind, reason: str, defaults: Mapping[str, Any]) -> Iterator[Option]:
    for name, default in defaults.items():
        harmless = (None, default, *_HARMLESS.get(name, ()))
        yield Option(name, _ANY, default, "", kind, nullable=True, reason=reason, harmless=harmless)


def _unset(prefix: str, *names: str) -> dict[str, Any]:
    return {f"{prefix}_{name}": None for name in names}


#: Values that ask for what happens here anyway.
_HARMLESS: Final[Mapping[str, tuple[Any, ...]]] = {
    "beat_scheduler": ("celery.beat.PersistentScheduler", "celery.beat:Scheduler", "celery.beat.Scheduler"),
    "broker_connection_retry_on_startup": (True, False),
    "broker_heartbeat": (0,),
    "broker_use_ssl": ({},),
    "event_queue_expires": (0,),
    "result_persistent": (True,),
    "task_acks_on_failure": (True,),
    "task_acks_on_timeout": (True,),
    "task_default_delivery_mode": ("persistent",),
    "task_reject_on_worker_lost": (True,),
    "task_retry_on_worker_lost": (True,),
    "worker_deduplicate_successful_tasks": (True,),
    "worker_enable_remote_control": (False,),
    "worker_redirect_stdouts": (False,),
}

_NO_AMQP: Final = "it belongs to AMQP, which is not spoken here"
_NO_EVENTS: Final = "workers send no event messages; see the logs and metrics"
_NO_REMOTE: Final = "workers take no remote control commands"
_SCHEDULERS: Final = (
    "its entries would not fire; entries are those of beat_schedule, add_periodic_task and app.schedules, which keeps "
    "them in the result backend: put those of the scheduler's own store there"
)
_NO_BACKEND: Final = (
    "there is no such result backend; set result_backend to dynamodb://, redis://, sqlite:/// or memory://"
)
_REDIS_URL: Final = (
    "connections are described by the URL alone, as in redis://user:password@host:6379/0?socket_timeout=5"
)
_LOOP: Final = "the worker's loop is built otherwise"
_CERTIFICATES: Final = "messages are signed with shared keys here, not by certificates; set signing_keys"
_ACKS: Final = (
    "a task that failed or timed out is always acked, or it would run for ever; "
    "use autoretry_for, or raise Reject(requeue=True) in the task"
)

_NO_EFFECT: Final = (
    *_keys(
        "no_effect",
        "times are kept as seconds since the epoch; naive datetimes and crontabs are read in the zone of `timezone`",
        {"enable_utc": True},
    ),
    *_keys(
        "no_effect",
        "the beat keeps its state in the result backend, so that several may run",
        {"beat_schedule_filename": "celerybeat-schedule", "beat_sync_every": 0},
    ),
    *_keys(
        "no_effect",
        _NO_REMOTE,
        {"beat_enable_remote_control": False, "beat_remote_control_max_tick_age": None},
    ),
    *_keys(
        "no_effect",
        _NO_AMQP,
        {
            "broker_channel_error_retry": False,
            "broker_failover_strategy": None,
            "broker_heartbeat": 120,
            "broker_heartbeat_checkrate": 3.0,
            "broker_login_method": None,
            "broker_native_delayed_delivery_queue_type": "quorum",
            "task_create_missing_queue_type": "classic",
            "task_create_missing_queue_exchange_type": None,
            "task_default_delivery_mode": 2,
            "task_default_exchange": None,
            "task_default_exchange_type": "direct",
            "task_default_queue_type": "classic",
            "task_default_routing_key": None,
            "worker_detect_quorum_queues": True,
            "result_exchange": "celeryresults",
            "result_exchange_type": "direct",
        },
    ),
    *_keys(
        "no_effect",
        "a worker always reconnects, and says so in its log",
        {
            "broker_connection_retry": True,
            "broker_connection_retry_on_startup": None,
            "broker_connection_max_retries": 100,
            "worker_cancel_long_running_tasks_on_connection_loss": False,
        },
    ),
    *_keys(
        "no_effect",
        "it is an option of the transport: in broker_transport_options set socket_connect_timeout for Redis, "
        "or client-config with connect_timeout for SQS",
        {"broker_connection_timeout": 4},
    ),
    *_keys(
        "no_effect",
        "connections are pooled by the client libraries as needed",
        {"broker_pool_limit": 10, "broker_pool_acquire_timeout": None, "redis_max_connections": None},
    ),
    *_keys(
        "no_effect",
        "the broker is described by broker_url alone, as in redis://user:password@host:6379/0",
        _unset("broker", "host", "port", "user", "password", "vhost"),
    ),
    *_keys(
        "no_effect",
        _REDIS_URL,
        {
            **_unset("redis", "db", "host", "username", "password", "port", "socket_connect_timeout"),
            "redis_socket_timeout": 120.0,
            "redis_retry_on_timeout": False,
            "redis_socket_keepalive": False,
        },
    ),
    *_keys(
        "no_effect",
        _NO_BACKEND,
        {
            **_unset("arangodb", "backend_settings"),
            **_unset("azureblockblob", "container_name", "retry_initial_backoff_sec", "retry_increment_base"),
            **_unset("azureblockblob", "retry_max_attempts", "base_path", "connection_timeout", "read_timeout"),
            **_unset("cache", "backend", "backend_options"),
            **_unset(
                "cassandra", "entry_ttl", "keyspace", "port", "read_consistency", "servers", "bundle_path", "table"
            ),
            **_unset("cassandra", "write_consistency", "auth_provider", "auth_kwargs", "options"),
            **_unset("cosmosdbsql", "database_name", "collection_name", "consistency_level", "max_retry_attempts"),
            **_unset("cosmosdbsql", "max_retry_wait_time"),
            **_unset("couchbase", "backend_settings"),
            **_unset("database", "url", "engine_options", "engine_callback", "short_lived_sessions", "table_schemas"),
            **_unset("database", "table_names", "create_tables_at_setup"),
            **_unset("elasticsearch", "retry_on_timeout", "max_retries", "timeout", "save_meta_as_text"),
            **_unset("gcs", "bucket", "project", "base_path", "ttl"),
            **_unset("mongodb", "backend_settings"),
            **_unset("s3", "access_key_id", "secret_access_key", "bucket", "base_path", "endpoint_url", "region"),
        },
    ),
    *_keys(
        "no_effect",
        _NO_REMOTE,
        {
            "control_exchange": "celery",
            "control_queue_durable": False,
            "control_queue_exclusive": True,
            "control_queue_expires": 10.0,
            "control_queue_ttl": 300.0,
            "worker_enable_remote_control": True,
            "worker_pool_restarts": False,
        },
    ),
    *_keys(
        "no_effect",
        _NO_EVENTS,
        {
            "event_exchange": "celeryev",
            "event_queue_durable": False,
            "event_queue_exclusive": True,
            "event_queue_expires": 60.0,
            "event_queue_prefix": "celeryev",
            "event_queue_ttl": 5.0,
            "event_serializer": "json",
            "task_send_sent_event": False,
            "worker_send_task_events": False,
        },
    ),
    *_keys(
        "no_effect",
        "chords count their members in the backend instead of polling for them",
        {
            "result_chord_retry_interval": 1.0,
            "result_chord_join_timeout": 3.0,
            "result_chord_expires": None,
        },
    ),
    *_keys(
        "no_effect",
        "a chord's error callback is called once, with the ChordError; members are given theirs by group.on_error",
        {"task_allow_error_cb_on_chord_header": False},
    ),
    *_keys("no_effect", "failures live as long as other results; see result_expires", {"result_failure_expires": None}),
    *_keys(
        "no_effect",
        "results are always persistent and not cached in the client",
        {"result_persistent": None, "result_cache_max": -1},
    ),
    *_keys(
        "no_effect",
        "failed writes are always retried; a delivery whose outcome could not be written is handed back",
        {
            "result_backend_always_retry": False,
            "result_backend_max_retries": float("inf"),
            "result_backend_base_sleep_between_retries_ms": 10,
            "result_backend_max_sleep_between_retries_ms": 10_000,
        },
    ),
    *_keys("no_effect", "messages have a wire format of their own (docs/wire-format.md)", {"task_protocol": 2}),
    *_keys("no_effect", "priorities are 0 to 9 where the transport has any", {"task_queue_max_priority": None}),
    *_keys("no_effect", "tracebacks are kept as text", {"task_remote_tracebacks": False}),
    *_keys("no_effect", "arguments are shortened by length, not by depth", {"task_repr_maxlevels": 3}),
    *_keys(
        "no_effect",
        "a task whose worker died runs again, up to max_worker_losses times; task_acks_late=False prevents it",
        {"task_reject_on_worker_lost": None, "task_retry_on_worker_lost": False},
    ),
    *_keys(
        "no_effect", "a task that has its result is never run again", {"worker_deduplicate_successful_tasks": False}
    ),
    *_keys(
        "no_effect",
        _LOOP,
        {
            "worker_agent": None,
            "worker_autoscaler": "celery.worker.autoscale:Autoscaler",
            "worker_consumer": "celery.worker.consumer:Consumer",
            "worker_lost_wait": 10.0,
            "worker_pool_putlocks": True,
            "worker_pool_start_method": "fork",
            "worker_proc_alive_timeout": 4.0,
            "worker_timer": None,
            "worker_timer_precision": 1.0,
        },
    ),
    *_keys(
        "no_effect",
        "SIGTERM always waits for running tasks, and a second one hands them back",
        {"worker_soft_shutdown_timeout": 0.0, "worker_enable_soft_shutdown_on_idle": False},
    ),
    *_keys(
        "no_effect",
        "tasks that are not due stay on the queue, and prefetch is set by worker_prefetch_multiplier (1 is the least)",
        {
            "worker_eta_task_limit": None,
            "worker_enable_prefetch_count_reduction": True,
            "worker_disable_prefetch": False,
        },
    ),
    *_keys("no_effect", "revocations are kept in the result backend", {"worker_state_db": None}),
    *_keys(
        "no_effect",
        "what tasks print goes to the worker's own output",
        {"worker_redirect_stdouts": True, "worker_redirect_stdouts_level": "WARNING"},
    ),
    *_keys(
        "no_effect",
        "all lines of a worker have the format of worker_log_format",
        {"worker_log_datefmt": None, "worker_task_log_datefmt": None, "worker_task_log_format": None},
    ),
)

_REFUSED: Final = (
    *_keys(
        "refused", "producers and workers use one broker; set broker_url", _unset("broker", "read_url", "write_url")
    ),
    *_keys("refused", "the transport is the scheme of broker_url", {"broker_transport": None}),
    *_keys(
        "refused",
        "it would be ignored and the connection unencrypted; use a rediss:// URL",
        {"broker_use_ssl": False, "redis_backend_use_ssl": None},
    ),
    *_keys(
        "refused",
        _CERTIFICATES,
        {**_unset("security", "certificate", "cert_store", "key", "key_password"), "security_digest": "sha256"},
    ),
    *_keys(
        "refused",
        _ACKS,
        {"task_acks_on_failure_or_timeout": True, "task_acks_on_failure": None, "task_acks_on_timeout": None},
    ),
    *_keys(
        "refused",
        "workers have no queues of their own; route to a queue that only this worker reads",
        {"worker_direct": False},
    ),
    *_keys("refused", _SCHEDULERS, {"beat_scheduler": "celery.beat:PersistentScheduler"}),
)

#: Every key there is, by name.
OPTIONS: Final[dict[str, Option]] = {**SUPPORTED, **{option.name: option for option in (*_NO_EFFECT, *_REFUSED)}}

#: Keys of this package that Celery does not know.
OWN: Final = frozenset(
    {
        *("beat_accept_unsigned", "beat_lease"),
        *(
            "broker_visibility_timeout",
            "cleanup_margin",
            "dead_letter_failures",
            "dynamodb_table",
            "lambda_concurrency",
            "lambda_guard",
        ),
        *("max_message_bytes", "max_worker_losses", "record_retention", "metrics_namespace", "payload_bucket"),
        "payload_threshold",
        *(
            "rate_limit_scope",
            "settle_margin",
            "signing_keys",
            "signing_max_age",
            "task_max_depth",
            "task_revocable",
        ),
        *(
            "import_grace",
            "infra",
            "lost_after",
            "unknown_grace",
            "worker_allow_unkept_limits",
            "worker_hostname",
            "worker_log_file",
            "worker_log_level",
        ),
        "worker_queues",
    }
)

#: Settings of extensions of Celery, which live in the same namespace: by the beginning of their lower-case names.
EXTENSIONS: Final[Mapping[str, str]] = {
    "email_": "django-celery-email",
    "haystack_": "celery-haystack",
    "once": "celery-once",
    "singleton_": "celery-singleton",
    "redbeat_": "celery-redbeat",
    "flower_": "Flower",
    "beat_dburi": "celery-sqlalchemy-scheduler",
    "progress_": "celery-progress",
}


def _old_name(name: str) -> str:
    """Return the upper-case name a key had before Celery 4, by rule; `_IRREGULAR` has the others."""
    family, _, rest = name.partition("_")
    if family == "broker":
        return name.upper()
    prefix = {"worker": "CELERYD_", "beat": "CELERYBEAT_", "task": "CELERY_"}.get(family)
    return f"CELERY_{name.upper()}" if prefix is None else f"{prefix}{rest.upper()}"


_NEVER_PREFIXED: Final = frozenset(
    {"azureblockblob", "cassandra", "control", "cosmosdbsql", "database", "dynamodb", "gcs", "s3"}
)

_IRREGULAR: Final[Mapping[str, str]] = {
    "CELERY_DISABLE_RATE_LIMITS": "worker_disable_rate_limits",
    "CELERY_EAGER_PROPAGATES_EXCEPTIONS": "task_eager_propagates",
    "CELERY_ENABLE_REMOTE_CONTROL": "worker_enable_remote_control",
    "CELERY_MAX_CACHED_RESULTS": "result_cache_max",
    "CELERY_MESSAGE_COMPRESSION": "task_compression",
    "CELERY_REDIRECT_STDOUTS": "worker_redirect_stdouts",
    "CELERY_REDIRECT_STDOUTS_LEVEL": "worker_redirect_stdouts_level",
    "CELERY_RESULT_DBURI": "database_url",
    "CELERY_RESULT_DB_SHORT_LIVED_SESSIONS": "database_short_lived_sessions",
    "CELERY_RESULT_DB_TABLENAMES": "database_table_names",
    "CELERY_RESULT_ENGINE_OPTIONS": "database_engine_options",
    "CELERY_SEND_EVENTS": "worker_send_task_events",
    "CELERY_SEND_TASK_SENT_EVENT": "task_send_sent_event",
    "CELERY_TASK_PROTOCOL": "task_protocol",
    "CELERY_TASK_PUBLISH_RETRY": "task_publish_retry",
    "CELERY_TASK_PUBLISH_RETRY_POLICY": "task_publish_retry_policy",
    "CELERY_TASK_RESULT_EXPIRES": "result_expires",
    "CELERY_TASK_SERIALIZER": "task_serializer",
    "CELERY_WORKER_DIRECT": "worker_direct",
    "CELERYD_TASK_SOFT_TIME_LIMIT": "task_soft_time_limit",
    "CELERYD_TASK_TIME_LIMIT": "task_time_limit",
    "CELERYD_WORKER_LOST_WAIT": "worker_lost_wait",
}

#: The keys by the upper-case names they had before Celery 4. Families that had no prefix of their own (S3_BUCKET,
#: CASSANDRA_PORT) are left out: such a name in a settings module is rather somebody else's.
OLD_NAMES: Final[dict[str, str]] = {
    **{
        _old_name(name): name
        for name in OPTIONS
        if name not in OWN and name not in _IRREGULAR.values() and name.partition("_")[0] not in _NEVER_PREFIXED
    },
    **_IRREGULAR,
}
