"""The configuration object: checking, reading, precedence, freezing, presentation."""

import copy
import datetime
import json
import pickle
import typing
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dispatcher import security
from dispatcher.config import OLD_NAMES, OPTIONS, Config
from dispatcher.config.celery_keys import OWN
from dispatcher.config.values import Values
from dispatcher.exceptions import CompatibilityWarning, ImproperlyConfigured

KEY = "a2V5" * 12

# Every key that Celery 5.7 defines, so that none is forgotten.
CELERY_KEYS = Path(__file__).with_name("celery_settings.txt").read_text(encoding="utf-8").split()


def config(**settings: Any) -> Config:
    """Return a configuration that sees no environment."""
    return Config(settings, environ={})


# the table


@pytest.mark.parametrize("key", CELERY_KEYS)
def test_every_celery_key_is_known(key: str) -> None:
    """Each key of Celery works, warns with a reason or is refused with one; it is never a typo."""
    option = OPTIONS[key]
    assert option.description if option.kind == "supported" else option.reason


def test_every_other_key_is_our_own() -> None:
    """What is neither Celery's nor declared ours is not in the table."""
    assert set(OPTIONS) - set(CELERY_KEYS) == OWN | {"dynamodb_endpoint_url"}


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.kind == "supported"])
def test_defaults_are_valid(name: str) -> None:
    """Setting a key to its own default changes nothing."""
    option = OPTIONS[name]
    conf = config(**{name: option.default})
    assert conf[name] == option.default


def test_attributes_are_declared_for_type_checkers() -> None:
    """Every supported key is declared as a typed attribute; nothing else is."""
    supported = {name for name, option in OPTIONS.items() if option.kind == "supported"}
    assert set(typing.get_type_hints(Values)) == supported


def test_no_key_hides_a_method() -> None:
    """No setting has the name of a method or property of the configuration."""
    assert not [name for name in OPTIONS if hasattr(Config, name)]


def test_default_age_of_signatures_is_that_of_the_signer() -> None:
    """The default of signing_max_age is the signer's own."""
    assert OPTIONS["signing_max_age"].default == security.DEFAULT_MAX_AGE


# reading


def test_values_are_plain_attributes() -> None:
    """Reading a setting is an instance attribute, with no lookup behind it."""
    assert vars(config(task_time_limit=5))["task_time_limit"] == 5.0
    assert vars(config())["task_default_queue"] == "default"


def test_reads_as_a_mapping() -> None:
    """The configuration is a mapping of every known key."""
    conf = config(task_routes={"a": "b"})
    assert isinstance(conf, Mapping)
    assert conf["task_routes"] == conf.get("task_routes") == {"a": "b"}
    assert "task_routes" in conf
    assert "task_ruotes" not in conf
    assert object() not in list(conf)
    assert set(conf) == set(conf.keys()) == set(OPTIONS)
    assert len(conf) == len(OPTIONS)
    assert dict(conf.items())["task_routes"] == {"a": "b"}
    assert conf.get("no_such_thing", 7) == 7


def test_old_names_read_too() -> None:
    """Upper-case names from before Celery 4 read and write the same setting."""
    conf = config()
    conf["CELERYD_CONCURRENCY"] = 3
    assert conf.worker_concurrency == conf["CELERYD_CONCURRENCY"] == conf.CELERYD_CONCURRENCY == 3  # type: ignore[attr-defined]
    assert "CELERYD_CONCURRENCY" in conf


def test_keys_without_effect_read_as_celery_default() -> None:
    """Code that reads a Celery key without effect here finds Celery's default."""
    assert config()["broker_heartbeat"] == 120


def test_reading_an_unknown_name_names_the_nearest() -> None:
    """A misspelt name raises what attribute and item access raise, with the nearest name."""
    conf = config()
    with pytest.raises(AttributeError, match="did you mean 'task_routes'"):
        conf.task_ruotes  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(KeyError, match="did you mean 'task_routes'"):
        conf["task_ruotes"]
    assert not hasattr(conf, "_private")


def test_mutable_defaults_are_not_shared() -> None:
    """Filling a default dict in place stays within one configuration, and counts as a change."""
    one, other = config(), config()
    one.broker_transport_options["region"] = "eu-west-1"
    assert other.broker_transport_options == {}
    assert one.changes == {"broker_transport_options": {"region": "eu-west-1"}}


def test_given_dicts_are_copied() -> None:
    """Changing a dict after it was handed in does not reach the configuration."""
    routes = {"a": "b"}
    conf = config(task_routes=routes)
    routes["c"] = "d"
    assert conf.task_routes == {"a": "b"}


# checking


@pytest.mark.parametrize(
    ("key", "given", "read"),
    [
        ("accept_content", "json", ("json",)),
        ("accept_content", ["application/json", "application/x-msgpack", "json"], ("json", "msgpack")),
        ("accept_content", {"json"}, ("json",)),
        ("broker_url", ["redis://h"], "redis://h"),
        ("broker_url", "sqs://", "sqs://"),
        ("imports", ["a", "b"], ("a", "b")),
        ("imports", "a", ("a",)),
        ("result_expires", datetime.timedelta(hours=1), 3600.0),
        ("result_expires", 60, 60.0),
        ("result_expires", 0, None),
        ("result_expires", None, None),
        ("signing_keys", f"new:{KEY},old:{KEY}", {"new": b"key" * 12, "old": b"key" * 12}),
        ("signing_keys", {"k": b"x" * 32}, {"k": b"x" * 32}),
        ("task_acks_late", True, True),
        ("task_always_eager", 1, True),
        ("task_annotations", {"*": {"priority": 3}}, {"*": {"priority": 3}}),
        ("task_annotations", [{"*": {}}], ({"*": {}},)),
        ("task_compression", "bzip2", "bz2"),
        ("task_compression", "brotli", "brotli"),
        ("task_publish_retry_policy", {"max_retries": None, "interval_max": 5},
         {"max_retries": None, "interval_start": 0, "interval_step": 0.2, "interval_max": 5, "retry_errors": None}),
        ("task_queues", ["a", {"name": "b", "max_priority": 5}], {"a": {}, "b": {"max_priority": 5}}),
        ("task_queues", {"a": None, "b": {}}, {"a": {}, "b": {}}),
        ("task_routes", [("a.*", {"queue": "q"}), {"b": "q"}], (("a.*", {"queue": "q"}), {"b": "q"})),
        ("task_routes", ({"b": "q"},), ({"b": "q"},)),
        ("task_serializer", "application/x-yaml", "yaml"),
        ("task_serializer", "cbor", "cbor"),
        ("task_time_limit", 1.5, 1.5),
        ("timezone", "Europe/Paris", "Europe/Paris"),
        ("timezone", datetime.UTC, datetime.UTC),
        ("worker_concurrency", 2.0, 2),
        ("worker_concurrency", "auto", None),
        ("worker_log_format", "%(message)s", "%(message)s"),
        ("worker_log_format", "json", "json"),
        ("worker_log_level", "debug", "DEBUG"),
        ("worker_log_level", 30, "WARNING"),
        ("worker_pool", "processes", "prefork"),
    ],
)  # fmt: skip
def test_converts_what_celery_users_write(key: str, given: Any, read: Any) -> None:
    """Accepted values are read in one shape."""
    value = config(**{key: given})[key]
    assert value == read
    assert type(value) is type(read)


@pytest.mark.parametrize(
    ("key", "given", "complaint"),
    [
        ("accept_content", ["jsn"], "did|one of"),
        ("accept_content", ["json", "auth"], "signing_keys"),
        ("accept_content", {"json": 1}, "a list of names"),
        ("accept_content", [1], "text"),
        ("broker_transport_options", {1: 2}, "text keys"),
        ("broker_url", "localhost", "URL"),
        ("broker_url", "", "not empty"),
        ("broker_url", 5, "not empty"),
        ("broker_url", "pyamqp://guest@h//", "no RabbitMQ"),
        ("broker_url", "sentinel://h:26379", "no such transport"),
        ("broker_url", "sqla+sqlite:///x.db", "no such transport"),
        ("broker_url", "redis://a;redis://b", "failover"),
        ("broker_url", ["redis://a", "redis://b"], "failover"),
        ("dead_letter_failures", "yes", "True or False"),
        ("lambda_concurrency", 0, "≥ 1"),
        ("result_backend", "rpc://", "messages"),
        ("result_backend", "disabled", "task_ignore_result"),
        ("result_backend", "disabled://", "task_ignore_result"),
        ("result_backend", "db+postgresql://h/x", "no such result backend"),
        ("result_backend", "django-db", "Django"),
        ("result_expires", -1, "≥ 0"),
        ("result_expires", float("nan"), "≥ 0"),
        ("signing_keys", {}, "by id"),
        ("task_acks_late", "False", "True or False"),
        ("task_always_eager", 2, "True or False"),
        ("task_annotations", 3, "attributes"),
        ("task_compression", "zlip", "one of"),
        ("task_default_priority", 10, "≤ 9"),
        ("task_default_queue", None, "not empty"),
        ("task_publish_retry_policy", {"max_retry": 3}, "no key 'max_retry'"),
        ("task_publish_retry_policy", {"interval_max": -3}, "≥ 0"),
        ("task_queues", "default", "list of queues"),
        ("task_queues", [3], "list of queues"),
        ("task_routes", 3, "dict, a function"),
        ("task_routes", [3], "made of"),
        ("task_serializer", "jsno", "one of"),
        ("task_serializer", "auth", "signing_keys"),
        ("task_time_limit", "60", "seconds > 0"),
        ("task_time_limit", 0, "seconds > 0"),
        ("task_time_limit", True, "seconds > 0"),
        ("timezone", "Europe/Pariss", "time zone"),
        ("timezone", "../etc/passwd", "time zone"),
        ("unknown_grace", float("inf"), "seconds"),
        ("worker_concurrency", 1.5, "int"),
        ("worker_concurrency", "4", "int"),
        ("worker_log_format", "xml", "human"),
        ("worker_log_level", "LOUD", "DEBUG"),
        ("worker_pool", "gevent", "not available in this release"),
        ("worker_pool", "proj.pools:Mine", "one of"),
        ("worker_prefetch_multiplier", 0, "≥ 1"),
    ],
)
def test_refuses_what_cannot_work(key: str, given: Any, complaint: str) -> None:
    """A wrong value is an error at once, which names the setting and what it takes."""
    with pytest.raises(ImproperlyConfigured, match=rf"^{key} .*({complaint})"):
        config()[key] = given


class _Queue:
    def __init__(self, name: str, routing_key: str = "", max_priority: int | None = None) -> None:
        self.name, self.routing_key, self.max_priority, self.exchange = name, routing_key, max_priority, object()


def test_queue_objects_are_read_by_their_names() -> None:
    """Queue objects of kombu's shape become names and the options that have a meaning."""
    conf = config(task_queues=(_Queue("a", routing_key="a.#"), _Queue("b", max_priority=9)))
    assert conf.task_queues == {"a": {"routing_key": "a.#"}, "b": {"max_priority": 9}}


def test_router_functions_and_objects_pass() -> None:
    """Routers may be functions, their dotted names and objects."""

    def route(name: str, *_: Any, **__: Any) -> None: ...

    class Router:
        def route_for_task(self, name: str) -> None: ...

    router = Router()
    assert config(task_routes=route).task_routes is route
    assert config(task_routes=[route, router, "proj.route"]).task_routes == (route, router, "proj.route")


@pytest.mark.parametrize(
    "write",
    [
        lambda conf: setattr(conf, "task_ruotes", {}),
        lambda conf: conf.__setitem__("task_ruotes", {}),
        lambda conf: conf.update(task_ruotes={}),
        lambda conf: conf.update({"task_ruotes": {}}),
        lambda conf: conf.override(task_ruotes={}),
        lambda conf: Config({"task_ruotes": {}}, environ={}),
    ],
)
def test_misspelt_names_are_errors(write: Callable[[Config], object]) -> None:
    """However a setting is set, a typo is an error with the nearest name."""
    conf = config()
    with pytest.raises(ImproperlyConfigured, match="did you mean 'task_routes'"):
        write(conf)


def test_names_like_nothing_point_to_the_list() -> None:
    """A name that resembles no setting says where all are listed."""
    with pytest.raises(ImproperlyConfigured, match="lists all settings"):
        config(frobnicate=1)


def test_update_is_all_or_nothing() -> None:
    """A mapping with one bad value changes nothing."""
    conf = config()
    with pytest.raises(ImproperlyConfigured):
        conf.update({"task_time_limit": 5, "task_soft_time_limit": "x"})
    assert conf.changes == {}


def test_update_takes_pairs_and_keywords() -> None:
    """The forms of `dict.update` work; names of others, as in a whole Flask configuration, are left alone."""
    conf = config()
    conf.update([("task_time_limit", 5)], task_soft_time_limit=4)
    conf.update({"DEBUG": True, "SECRET_KEY": "x", "CELERY_RESULT_BACKEND": "memory://"})
    assert conf.changes == {"task_time_limit": 5, "task_soft_time_limit": 4, "result_backend": "memory://"}


# Celery's other keys


def test_keys_without_effect_warn_once() -> None:
    """A known key without meaning here warns with the reason, the first time."""
    conf = config()
    with pytest.warns(CompatibilityWarning, match="worker_state_db has no effect: revocations") as caught:
        conf["worker_state_db"] = "/var/state"
    assert caught[0].filename == __file__
    conf["worker_state_db"] = "/var/other"
    assert conf["worker_state_db"] == "/var/other"


def test_beat_schedule_may_change_at_any_time() -> None:
    """The entries of the beat may change after the app is finalized."""
    conf = config()
    conf.freeze()
    conf.beat_schedule = {"every-minute": {"task": "t", "schedule": 60}}
    conf.beat_schedule["other"] = {}
    assert list(conf.beat_schedule) == ["every-minute", "other"]


@pytest.mark.parametrize("key", [name for name, option in OPTIONS.items() if option.kind != "supported"])
def test_harmless_values_pass_silently(key: str) -> None:
    """None and Celery's own default ask for nothing, so they neither warn nor fail."""
    config(**{key: None})
    config(**{key: OPTIONS[key].default})


@pytest.mark.parametrize(
    ("key", "value"),
    [("broker_connection_retry_on_startup", True), ("worker_deduplicate_successful_tasks", True),
     ("task_reject_on_worker_lost", True), ("task_acks_on_failure", True), ("broker_use_ssl", {})],
)  # fmt: skip
def test_values_that_ask_for_what_happens_anyway_pass(key: str, value: object) -> None:
    """A value that describes what this package does is no reason to warn."""
    config(**{key: value})


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("broker_read_url", "redis://h", "broker_url"),
        ("broker_transport", "redis", "broker_url"),
        ("broker_use_ssl", {"ca_certs": "x"}, "rediss://"),
        ("redis_backend_use_ssl", {"ssl_cert_reqs": 0}, "rediss://"),
        ("security_key", "/etc/key.pem", "signing_keys"),
        ("task_acks_on_failure_or_timeout", False, "autoretry_for"),
        ("worker_direct", True, "route to a queue"),
    ],
)
def test_dangerous_keys_are_refused(key: str, value: object, remedy: str) -> None:
    """A key that would do harm if it were ignored is an error with the way out."""
    with pytest.raises(ImproperlyConfigured, match=rf"^{key} is refused: .*{remedy}"):
        config(**{key: value})


def test_refused_keys_never_show_their_value() -> None:
    """Secrets in refused settings stay out of the error."""
    with pytest.raises(ImproperlyConfigured) as caught:
        config(security_key_password="hunter2")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("keys", [{"k": "c2hvcnQ="}, {"k": "no base64!"}, "k", {"k": 5}])
def test_unusable_signing_keys_are_errors_without_the_key(keys: Any) -> None:
    """Keys that cannot sign are an error at once, which does not show them."""
    with pytest.raises(ImproperlyConfigured, match="sign") as caught:
        config(signing_keys=keys)
    assert "c2hvcnQ" not in str(caught.value)
    assert "no base64!" not in str(caught.value)


# together


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"task_time_limit": 10, "task_soft_time_limit": 10}, "must be less than task_time_limit"),
        ({"task_serializer": "yaml"}, "accept_content does not list"),
        ({"result_serializer": "msgpack", "result_accept_content": ["json"]}, "result_accept_content does not list"),
        ({"accept_content": ["json", "pickle"]}, "signing_keys"),
        ({"result_accept_content": ["json", "pickle"]}, "signing_keys"),
    ],
)
def test_contradictions_are_found_before_work_begins(settings: dict[str, Any], complaint: str) -> None:
    """Settings that cannot work together are an error when the configuration is frozen."""
    conf = config(**settings)
    with pytest.raises(ImproperlyConfigured, match=complaint):
        conf.freeze()
    assert not conf.frozen


def test_pickle_passes_with_signing_keys() -> None:
    """Signed messages may be pickled."""
    config(accept_content=["json", "pickle"], task_serializer="pickle", signing_keys={"k": b"x" * 32}).freeze()


def test_broker_address_in_parts_is_refused() -> None:
    """A host without a URL would silently mean the embedded broker, so it is an error; beside a URL it only warns."""
    with pytest.warns(CompatibilityWarning, match="broker_host has no effect"):
        conf = config(broker_host="rabbit.example")
    with pytest.raises(ImproperlyConfigured, match="broker_host is set but broker_url is not"):
        conf.freeze()
    conf.broker_url = "redis://rabbit.example"
    conf.freeze()


# layers and freezing


def test_precedence() -> None:
    """Command line over environment over assignments over config object over added defaults over defaults."""
    conf = Config(environ={"DISPATCHER_TASK_DEFAULT_QUEUE": "env"})
    assert conf.source_of("task_default_queue") == "environment"
    conf.task_default_queue = "code"
    assert conf.task_default_queue == "env"
    conf.override(task_default_queue="cli", worker_concurrency=None)
    assert conf.task_default_queue == "cli"
    assert conf.source_of("task_default_queue") == "command line"
    assert conf.source_of("worker_concurrency") == "default"

    conf = config()
    conf.add_defaults(lambda: {"task_default_queue": "added"})
    assert conf.task_default_queue == "added"
    conf.task_default_queue = "code"
    conf.load_object({"task_default_queue": "object"})
    assert conf.task_default_queue == "code"
    del conf.task_default_queue
    assert conf.task_default_queue == "object"
    assert conf.source_of("task_default_queue") == "config object"


def test_overridden_values_are_checked_all_the_same() -> None:
    """A wrong value in code is an error even where the environment wins."""
    conf = Config(environ={"DISPATCHER_TASK_TIME_LIMIT": "5"})
    with pytest.raises(ImproperlyConfigured):
        conf.task_time_limit = "x"  # type: ignore[assignment]


def test_deleting_returns_to_what_is_beneath() -> None:
    """Deleting an assignment uncovers the default."""
    conf = config(task_time_limit=5)
    del conf["task_time_limit"]
    assert conf.task_time_limit is None
    assert conf.changes == {}


def test_setdefault_keeps_what_is_set() -> None:
    """`setdefault` sets a key unless somebody did."""
    conf = config(task_default_queue="mine")
    assert conf.setdefault("task_default_queue", "theirs") == "mine"
    assert conf.setdefault("task_time_limit", 5) == 5.0


def test_frozen_settings_cannot_change() -> None:
    """Once the app is finalized, changes of any kind are errors."""
    conf = config(task_routes={"a": "b"})
    conf.freeze()
    conf.freeze()
    assert conf.frozen
    for change in (
        lambda: setattr(conf, "task_default_queue", "x"),
        lambda: conf.update(task_default_queue="x"),
        lambda: conf.load_object({"task_default_queue": "x"}),
        lambda: conf.add_defaults({"task_default_queue": "x"}),
        lambda: conf.__delitem__("task_routes"),
        lambda: conf.task_routes.update(c="d"),
        lambda: conf.task_routes.__setitem__("c", "d"),
        lambda: conf.broker_transport_options.setdefault("region", "x"),
    ):
        with pytest.raises(ImproperlyConfigured, match="the app is finalized"):
            change()
    assert conf.changes == {"task_routes": {"a": "b"}}


def test_live_settings_may_change_after_freezing() -> None:
    """Tests may switch eager mode on and off at any time; the command line is read late."""
    conf = config()
    conf.freeze()
    conf.task_always_eager = True
    conf.update(task_eager_propagates=True, task_store_eager_result=True)
    conf.override(worker_concurrency=3)
    assert (conf.task_always_eager, conf.task_eager_propagates, conf.worker_concurrency) == (True, True, 3)


def test_frozen_dicts_are_dicts_still() -> None:
    """Read-only settings serialize, copy and pickle like the dicts they are."""
    conf = config(task_routes={"a": {"queue": "q"}})
    conf.freeze()
    assert isinstance(conf.task_routes, dict)
    assert json.loads(json.dumps(conf.task_routes)) == {"a": {"queue": "q"}}
    copied = copy.deepcopy(conf.task_routes)
    copied["b"] = {}
    assert pickle.loads(pickle.dumps(conf.task_routes)) == {"a": {"queue": "q"}}


def test_configuration_survives_pickling() -> None:
    """A configuration reaches a spawned process with its values and sources."""
    conf = config(task_time_limit=5)
    conf.freeze()
    restored = pickle.loads(pickle.dumps(conf))
    assert restored.task_time_limit == 5.0
    assert restored.source_of("task_time_limit") == "app.conf"
    assert restored.frozen


# presentation


def test_table_and_humanize_mask_secrets() -> None:
    """Passwords in URLs and options, and keys, are masked unless asked for."""
    conf = config(
        broker_url="redis://user:p@ss/w0rd@host:6379/0",
        result_backend="redis://host/1?password=hunter2&db=3",
        signing_keys={"k": b"x" * 32},
        broker_transport_options={"predefined_queues": {"q": {"url": "https://q", "secret_access_key": "hunter2"}}},
    )
    text = conf.humanize()
    assert "hunter2" not in text
    assert "p@ss" not in text
    assert "w0rd" not in text
    assert "xxxx" not in text
    assert "broker_url: 'redis://user:********@host:6379/0'" in text.splitlines()
    assert "https://q" in text
    assert conf.table(censored=False)["broker_url"] == "redis://user:p@ss/w0rd@host:6379/0"
    assert "xxxx" not in repr(conf)
    assert conf.without_defaults() == conf.changes
    assert "task_default_queue: 'default'" in conf.humanize(with_defaults=True)


def test_errors_mask_passwords() -> None:
    """An error about a URL does not show its password."""
    with pytest.raises(ImproperlyConfigured) as caught:
        config(broker_url="user:hunter2@host")
    assert "hunter2" not in str(caught.value)


def test_nothing_warns_by_default() -> None:
    """A configuration without settings is silent and valid."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conf = config()
        conf.validate()
    assert conf.changes == {}
    assert set(OLD_NAMES.values()) <= set(OPTIONS)
