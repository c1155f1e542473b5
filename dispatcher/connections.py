"""From URLs to adapters: the one place that knows which class serves which scheme."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dispatcher.clock import SYSTEM, Clock
from dispatcher.config import embedded_path
from dispatcher.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from dispatcher.backends.base import ResultBackend
    from dispatcher.brokers.base import Broker
    from dispatcher.payloads import PayloadStore

#: scheme → module:class, and the extra that brings what it needs
_BROKERS = {
    "memory": ("dispatcher.brokers.memory:MemoryBroker", None),
    "sqlite": ("dispatcher.brokers.sqlite:SQLiteBroker", None),
    "redis": ("dispatcher.brokers.redis:RedisBroker", "redis"),
    "sqs": ("dispatcher.brokers.sqs:SQSBroker", "aws"),
}
_BACKENDS = {
    "memory": ("dispatcher.backends.memory:MemoryBackend", None),
    "sqlite": ("dispatcher.backends.sqlite:SQLiteBackend", None),
    "redis": ("dispatcher.backends.redis:RedisBackend", "redis"),
    "dynamodb": ("dispatcher.backends.dynamodb:DynamoDBBackend", "aws"),
}
_ALIASES = {"rediss": "redis", "redis+socket": "redis", "unix": "redis", "valkey": "redis", "valkeys": "redis"}


def broker_url_of(conf: Any, app_name: str | None) -> str:
    """Return the broker's URL: the configured one, else the app's embedded SQLite file."""
    return str(conf.broker_url) if conf.broker_url else _embedded_url(app_name)


def backend_url_of(conf: Any, app_name: str | None) -> str:
    """Return the result backend's URL: the configured one, else the one that belongs to the broker."""
    configured = conf.result_backend
    if configured:
        if str(configured).startswith("disabled"):
            raise ImproperlyConfigured(
                "result_backend='disabled' cannot work: retries and protection from duplicates live in the record; "
                "leave it unset to use the broker's own store, and set task_ignore_result=True to keep no results"
            )
        return str(configured)
    broker = broker_url_of(conf, app_name)
    if _scheme(broker) == "sqs":
        return f"dynamodb://{conf.dynamodb_table}"
    return broker


def broker_of(conf: Any, app_name: str | None, clock: Clock = SYSTEM) -> Broker:
    """Return the broker that a configuration asks for."""
    url = broker_url_of(conf, app_name)
    options = {"visibility_timeout": conf.broker_visibility_timeout, **conf.broker_transport_options}
    if _scheme(url) == "sqs":
        options.setdefault("queue_urls", conf.queue_url_for)
    return make_broker(url, options, clock)


def backend_of(conf: Any, app_name: str | None, clock: Clock = SYSTEM) -> ResultBackend:
    """Return the result backend that a configuration asks for."""
    url = backend_url_of(conf, app_name)
    options = dict(conf.result_backend_transport_options)
    if _scheme(url) == "dynamodb":
        options["default_table"] = conf.dynamodb_table
        if conf.dynamodb_endpoint_url:
            options.setdefault("endpoint_url", conf.dynamodb_endpoint_url)
    return make_backend(url, options, clock)


def payloads_of(conf: Any) -> PayloadStore:
    """Return the payload store that a configuration asks for; nothing is connected yet."""
    from dispatcher.payloads import open_store

    return open_store(conf.payload_bucket)


def make_broker(url: str, options: Mapping[str, Any], clock: Clock = SYSTEM) -> Broker:
    """Return the broker for a URL; nothing is connected yet.

    Raises `ImproperlyConfigured` for an unknown scheme or a missing library.
    """
    return _make(_BROKERS, "broker_url", url, options, clock)  # type: ignore[no-any-return]


def make_backend(url: str, options: Mapping[str, Any], clock: Clock = SYSTEM) -> ResultBackend:
    """Return the result backend for a URL; nothing is connected yet.

    Raises `ImproperlyConfigured` for an unknown scheme or a missing library.
    """
    return _make(_BACKENDS, "result_backend", url, options, clock)  # type: ignore[no-any-return]


def _make(known: Mapping[str, tuple[str, str | None]], setting: str, url: str, options: Any, clock: Clock) -> Any:
    scheme = _scheme(url)
    if scheme not in known:
        raise ImproperlyConfigured(
            f"{setting} has the unknown scheme {scheme!r}; known: {', '.join(f'{name}://' for name in known)}"
        )
    path, extra = known[scheme]
    module, _, name = path.partition(":")
    try:
        adapter = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if extra is None or (error.name or "").startswith("dispatcher"):
            raise
        raise ImproperlyConfigured(
            f"{scheme}:// needs the library {error.name}: pip install 'serverless-dispatcher[{extra}]'"
        ) from error
    return adapter(url, options, clock)


def _scheme(url: str) -> str:
    scheme = urlsplit(url).scheme.lower()
    return _ALIASES.get(scheme, scheme)


def _embedded_url(app_name: str | None) -> str:
    path = embedded_path(app_name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{path}"
