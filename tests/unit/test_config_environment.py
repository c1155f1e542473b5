"""Settings and helpers that read the environment."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest

from dispatcher.config import (
    OPTIONS,
    Config,
    app_name,
    embedded_path,
    inside_lambda,
    queue_url_for,
    queue_variable,
)
from dispatcher.exceptions import CompatibilityWarning, ImproperlyConfigured


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("DISPATCHER_BROKER_URL", "redis://h:6379/0", "broker_url", "redis://h:6379/0"),
        ("DISPATCHER_TASK_DEFAULT_QUEUE", "q", "task_default_queue", "q"),
        ("DISPATCHER_TASK_ALWAYS_EAGER", "true", "task_always_eager", True),
        ("DISPATCHER_TASK_ALWAYS_EAGER", "Yes", "task_always_eager", True),
        ("DISPATCHER_DEAD_LETTER_FAILURES", "0", "dead_letter_failures", False),
        ("DISPATCHER_DEAD_LETTER_FAILURES", "OFF", "dead_letter_failures", False),
        ("DISPATCHER_TASK_TIME_LIMIT", "2.5", "task_time_limit", 2.5),
        ("DISPATCHER_TASK_TIME_LIMIT", "none", "task_time_limit", None),
        ("DISPATCHER_RESULT_EXPIRES", "0", "result_expires", None),
        ("DISPATCHER_WORKER_CONCURRENCY", "4", "worker_concurrency", 4),
        ("DISPATCHER_WORKER_CONCURRENCY", "auto", "worker_concurrency", None),
        ("DISPATCHER_WORKER_POOL", "threads", "worker_pool", "threads"),
        ("DISPATCHER_WORKER_MAX_TASKS_PER_CHILD", "100", "worker_max_tasks_per_child", 100),
        ("DISPATCHER_WORKER_MAX_MEMORY_PER_CHILD", "200000", "worker_max_memory_per_child", 200_000),
        ("DISPATCHER_WORKER_PREFETCH_MULTIPLIER", "1", "worker_prefetch_multiplier", 1),
        ("DISPATCHER_WORKER_LOG_LEVEL", "debug", "worker_log_level", "DEBUG"),
        ("DISPATCHER_TABLE", "results", "dynamodb_table", "results"),
        ("DISPATCHER_DYNAMODB_TABLE", "results", "dynamodb_table", "results"),
        ("DISPATCHER_IMPORTS", "a, b", "imports", ("a", "b")),
        ("DISPATCHER_IMPORTS", '["a", "b"]', "imports", ("a", "b")),
        ("DISPATCHER_TASK_ROUTES", '{"a.*": {"queue": "q"}}', "task_routes", {"a.*": {"queue": "q"}}),
        ("DISPATCHER_BROKER_TRANSPORT_OPTIONS", '{"a": 1}', "broker_transport_options", {"a": 1}),
        ("DISPATCHER_SIGNING_KEYS", "k:" + "a2V5" * 12, "signing_keys", {"k": b"key" * 12}),
        ("DISPATCHER_SIGNING_KEYS", json.dumps({"k": "a2V5" * 12}), "signing_keys", {"k": b"key" * 12}),
        ("DISPATCHER_TIMEZONE", "Europe/Paris", "timezone", "Europe/Paris"),
    ],
)  # fmt: skip
def test_settings_by_environment(variable: str, text: str, key: str, value: Any) -> None:
    """Every setting can be given by a variable, in text."""
    conf = Config(environ={variable: text})
    assert conf[key] == value
    assert conf.source_of(key) == "environment"


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.kind == "supported"])
def test_every_default_can_be_written_as_text(name: str) -> None:
    """No supported setting is out of the environment's reach."""
    option = OPTIONS[name]
    value = option.initial()
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    assert Config(environ={option.variables[-1]: text})[name] == option.default


@pytest.mark.parametrize(
    ("variable", "text", "complaint"),
    [
        ("DISPATCHER_TASK_ALWAYS_EAGER", "maybe", "must be one of true, false"),
        ("DISPATCHER_TASK_TIME_LIMIT", "soon", "must be seconds > 0"),
        ("DISPATCHER_TASK_TIME_LIMIT", "-1", "must be seconds > 0"),
        ("DISPATCHER_WORKER_CONCURRENCY", "four", "must be int"),
        ("DISPATCHER_TASK_ROUTES", "a=b", "must be JSON"),
        ("DISPATCHER_TASK_ROUTES", "3", "must be a dict"),
        ("DISPATCHER_BROKER_URL", "amqp://guest@h", "no RabbitMQ"),
        ("DISPATCHER_TASK_DEFAULT_RATE_LIMIT", "10/d", "must be starts per second"),
        ("DISPATCHER_TASK_DEFAULT_QUEUE", "none", ""),
    ],
)
def test_wrong_text_is_an_error_that_names_the_variable(variable: str, text: str, complaint: str) -> None:
    """A variable that cannot be read stops the start, since a wrong value would go unnoticed."""
    if not complaint:
        assert Config(environ={variable: text}).task_default_queue == "none"
        return
    with pytest.raises(ImproperlyConfigured, match=f"^{variable} .*{complaint}"):
        Config(environ={variable: text})


def test_secrets_stay_out_of_errors() -> None:
    """Signing keys that cannot be read are not shown."""
    with pytest.raises(ImproperlyConfigured) as caught:
        Config(environ={"DISPATCHER_SIGNING_KEYS": '{"k": "hunter2'})
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_empty_variables_count_as_unset() -> None:
    """``VARIABLE=`` in a compose file sets nothing."""
    assert Config(environ={"DISPATCHER_BROKER_URL": "", "DISPATCHER_WORKER_CONCURRENCY": " "}).changes == {}


def test_both_names_of_the_table() -> None:
    """Two variables for one setting must agree."""
    assert Config(environ={"DISPATCHER_TABLE": "a", "DISPATCHER_DYNAMODB_TABLE": "a"}).dynamodb_table == "a"
    with pytest.raises(ImproperlyConfigured, match="both set dynamodb_table"):
        Config(environ={"DISPATCHER_TABLE": "a", "DISPATCHER_DYNAMODB_TABLE": "b"})


def test_unknown_variables_warn_with_the_nearest() -> None:
    """Environments hold leftovers, so an unknown variable is no error."""
    with pytest.warns(CompatibilityWarning, match="DISPATCHER_BROKER_URI means nothing.*DISPATCHER_BROKER_URL"):
        Config(environ={"DISPATCHER_BROKER_URI": "redis://h"})
    with pytest.warns(CompatibilityWarning, match="DISPATCHER_XYZZY means nothing to dispatcher$"):
        Config(environ={"DISPATCHER_XYZZY": "1"})


def test_known_variables_that_are_no_settings_are_silent() -> None:
    """The app's and the queues' variables are no typos; neither are other people's."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conf = Config(
            environ={"DISPATCHER_APP": "a:b", "DISPATCHER_QUEUE_URL_A": "https://q", "DISPATCHER_TEST_X": "1", "X": ""}
        )
    assert conf.changes == {}


def test_celery_keys_without_effect_warn_from_the_environment_too() -> None:
    """A variable for a key without meaning warns with the reason."""
    with pytest.warns(CompatibilityWarning, match="DISPATCHER_BROKER_HEARTBEAT has no effect: it belongs to AMQP"):
        Config(environ={"DISPATCHER_BROKER_HEARTBEAT": "30"})


@pytest.mark.parametrize(
    ("variable", "key"), [("CELERY_BROKER_URL", "broker_url"), ("CELERY_RESULT_BACKEND", "result_backend")]
)
def test_celery_variables_are_pointed_out_where_they_would_have_mattered(variable: str, key: str) -> None:
    """Celery reads these itself; with nothing else set, silence would mean the embedded broker."""
    conf = Config(environ={variable: "redis://h"})
    with pytest.warns(CompatibilityWarning, match=f"{variable} is not read; set DISPATCHER_{key.upper()}"):
        conf.freeze()
    assert conf[key] is None
    Config({key: "redis://h"}, environ={variable: "redis://h"}).freeze()


def test_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``environ`` the process's own environment counts."""
    monkeypatch.setenv("DISPATCHER_TASK_DEFAULT_QUEUE", "from-process")
    monkeypatch.setenv("DISPATCHER_QUEUE_URL_A", "https://sqs/a")
    assert Config().task_default_queue == "from-process"
    assert Config().queue_url_for("a") == queue_url_for("a") == "https://sqs/a"


# helpers


def test_queue_urls() -> None:
    """A queue's URL comes from its variable, else from the predefined queues, else there is none."""
    environ = {"DISPATCHER_QUEUE_URL_ORDERS_EU_FIFO": "https://sqs/orders-eu.fifo", "DISPATCHER_QUEUE_URL_EMPTY": ""}
    assert queue_variable("orders-eu.fifo") == "DISPATCHER_QUEUE_URL_ORDERS_EU_FIFO"
    assert queue_url_for("orders-eu.fifo", environ) == "https://sqs/orders-eu.fifo"
    assert queue_url_for("empty", environ) is None
    conf = Config({"broker_transport_options": {"predefined_queues": {"b": {"url": "https://sqs/b"}}}}, environ=environ)
    assert conf.queue_url_for("orders-eu.fifo") == "https://sqs/orders-eu.fifo"
    assert conf.queue_url_for("b") == "https://sqs/b"
    assert conf.queue_url_for("c") is None


def test_lambda_and_app() -> None:
    """Lambda is recognised by its function name, the app by its variable."""
    assert inside_lambda({"AWS_LAMBDA_FUNCTION_NAME": "f"})
    assert not inside_lambda({})
    assert app_name({"DISPATCHER_APP": "shop:app"}) == "shop:app"
    assert app_name({"DISPATCHER_APP": ""}) is None


@pytest.mark.parametrize(
    ("environ", "platform", "path"),
    [
        ({"HOME": "/home/u"}, "linux", "/home/u/.local/share/dispatcher/shop.db"),
        ({"HOME": "/home/u", "XDG_DATA_HOME": "/data"}, "linux", "/data/dispatcher/shop.db"),
        ({"HOME": "/home/u", "XDG_DATA_HOME": "data"}, "linux", "/home/u/.local/share/dispatcher/shop.db"),
        ({"HOME": "/Users/u"}, "darwin", "/Users/u/Library/Application Support/dispatcher/shop.db"),
    ],
)
def test_embedded_file(environ: dict[str, str], platform: str, path: str) -> None:
    """The embedded file is in the user's data directory, by the platform's rules."""
    assert embedded_path("shop", environ, platform) == Path(path)


def test_embedded_files_differ_by_app() -> None:
    """Every app name has a file of its own, also where names differ in what a file name cannot hold."""
    names = ["shop", "Shop", "my shop", "my/shop", "../shop", "..", "", "店", "x" * 300, None]
    files = {name: embedded_path(name, {"HOME": "/home/u"}, "linux") for name in names}
    assert len(set(files.values())) == len(names) - 1  # no name and None are the same app
    assert all(file.parent == Path("/home/u/.local/share/dispatcher") for file in files.values())
    assert all(len(file.name) < 100 for file in files.values())


def test_embedded_file_is_refused_inside_lambda() -> None:
    """No file outlives a Lambda function, so the default is an error with a way out."""
    with pytest.raises(ImproperlyConfigured, match="DISPATCHER_BROKER_URL"):
        embedded_path("shop", {"AWS_LAMBDA_FUNCTION_NAME": "f", "HOME": "/root"})


def test_embedded_file_needs_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any home directory the error says what to set."""
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(ImproperlyConfigured, match="XDG_DATA_HOME"):
        embedded_path("shop", {})
