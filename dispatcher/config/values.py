"""The settings that work, as typed attributes; a test keeps them equal to the table of options."""

from __future__ import annotations

import datetime
from typing import Any


class Values:
    """What `Config` holds: one attribute per supported key, in the shape that its type returns."""

    # general
    imports: tuple[str, ...]
    include: tuple[str, ...]
    timezone: str | datetime.tzinfo | None
    accept_content: tuple[str, ...]
    result_accept_content: tuple[str, ...] | None
    max_message_bytes: int
    payload_bucket: str | None
    payload_threshold: int | None

    # broker
    broker_url: str | None
    broker_transport_options: dict[str, Any]
    broker_visibility_timeout: float
    signing_keys: dict[str, bytes] | None
    signing_max_age: float

    # results
    result_backend: str | None
    result_backend_transport_options: dict[str, Any]
    dynamodb_table: str
    dynamodb_endpoint_url: str | None
    result_expires: float | None
    result_serializer: str
    result_compression: str | None
    result_extended: bool
    record_retention: float

    # tasks
    task_serializer: str
    task_compression: str | None
    task_default_queue: str
    task_queues: dict[str, dict[str, Any]] | None
    task_create_missing_queues: bool
    task_routes: Any
    task_annotations: Any
    task_default_priority: int | None
    task_inherit_parent_priority: bool
    task_acks_late: bool | None
    task_ignore_result: bool
    task_store_errors_even_if_ignored: bool
    task_track_started: bool
    task_revocable: bool
    task_time_limit: float | None
    task_soft_time_limit: float | None
    task_default_rate_limit: str | float | None
    rate_limit_scope: str | None
    task_always_eager: bool
    task_eager_propagates: bool
    task_store_eager_result: bool
    task_publish_retry: bool
    task_publish_retry_policy: dict[str, Any]
    task_max_depth: int
    unknown_grace: float
    lost_after: float
    import_grace: float
    max_worker_losses: int
    dead_letter_failures: bool

    # local worker
    worker_pool: str
    worker_concurrency: int | None
    worker_prefetch_multiplier: int
    worker_disable_rate_limits: bool
    worker_max_tasks_per_child: int | None
    worker_max_memory_per_child: int | None
    worker_allow_unkept_limits: bool
    worker_hijack_root_logger: bool
    worker_log_format: str
    worker_log_level: str
    worker_log_color: bool | None
    worker_log_file: str | None
    worker_queues: tuple[str, ...] | None
    worker_hostname: str | None

    # Lambda
    lambda_concurrency: int
    lambda_guard: str
    cleanup_margin: float
    settle_margin: float
    metrics_namespace: str

    # beat
    beat_schedule: dict[str, Any]
    beat_max_loop_interval: float
    beat_lease: float
    beat_cron_starting_deadline: float | None
    beat_accept_unsigned: bool

    # infrastructure
    infra: dict[str, Any]
