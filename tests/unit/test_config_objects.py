"""Configuration from modules, classes, objects and dicts, as projects that use Celery write them."""

import datetime
import textwrap
import types
import warnings
from pathlib import Path
from typing import Any

import pytest

from dispatcher.config import Config
from dispatcher.exceptions import CompatibilityWarning, ImproperlyConfigured


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A package of its own on sys.path, named after the test; returns its name."""
    name = "project_" + "".join(each if each.isalnum() else "_" for each in request.node.name)
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def write(tmp_path: Path, project: str, module: str, source: str) -> str:
    """Write a module into the package and return its dotted name."""
    (tmp_path / project / f"{module}.py").write_text(textwrap.dedent(source))
    return f"{project}.{module}"


def load(source: Any, **options: Any) -> Config:
    """Return a configuration that was read from one source."""
    conf = Config(environ={})
    assert conf.load_object(source, **options)
    return conf


DJANGO = """
    import os
    from datetime import timedelta
    from pathlib import Path

    BASE_DIR = Path(__file__).parent
    SECRET_KEY = "not-a-setting-of-ours"
    DEBUG = True
    INSTALLED_APPS = ["django.contrib.admin", "shop"]
    DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3"}}
    DATABASE_URL = "postgres://localhost"
    REDIS_HOST = os.environ.get("NO_SUCH_VARIABLE", "localhost")
    S3_BUCKET = "uploads"
    TIME_ZONE = "Europe/Paris"
    USE_TZ = True
    EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"

    CELERY_BROKER_URL = f"redis://{REDIS_HOST}:6379/0"
    CELERY_RESULT_BACKEND = CELERY_BROKER_URL
    CELERY_ACCEPT_CONTENT = ["application/json"]
    CELERY_TASK_SERIALIZER = "json"
    CELERY_RESULT_SERIALIZER = "json"
    CELERY_RESULT_EXTENDED = True
    CELERY_RESULT_EXPIRES = timedelta(days=7)
    CELERY_TASK_TRACK_STARTED = True
    CELERY_TASK_TIME_LIMIT = 5 * 60
    CELERY_TASK_SOFT_TIME_LIMIT = 60
    CELERY_TASK_ALWAYS_EAGER = DEBUG
    CELERY_TASK_ROUTES = {"shop.tasks.mail_*": {"queue": "mail"}}
    CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 3600}
    CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
    CELERY_WORKER_PREFETCH_MULTIPLIER = 1
"""


def test_django_settings_with_a_namespace(tmp_path: Path, project: str) -> None:
    """A Django settings module with ``namespace="CELERY"`` gives exactly its ``CELERY_`` names, and Django's zone."""
    conf = load(write(tmp_path, project, "settings", DJANGO), namespace="CELERY")
    assert conf.changes == {
        "timezone": "Europe/Paris",
        "accept_content": ("json",),
        "broker_url": "redis://localhost:6379/0",
        "broker_transport_options": {"visibility_timeout": 3600},
        "broker_connection_retry_on_startup": True,
        "result_backend": "redis://localhost:6379/0",
        "result_serializer": "json",
        "result_extended": True,
        "result_expires": 604_800.0,
        "task_serializer": "json",
        "task_track_started": True,
        "task_time_limit": 300.0,
        "task_soft_time_limit": 60.0,
        "task_always_eager": True,
        "task_routes": {"shop.tasks.mail_*": {"queue": "mail"}},
        "worker_prefetch_multiplier": 1,
    }
    conf.freeze()


def test_django_zone_gives_way_to_the_own_one() -> None:
    """``CELERY_TIMEZONE`` wins over ``TIME_ZONE``; without a namespace Django's name means nothing."""
    settings = {"TIME_ZONE": "Europe/Paris", "CELERY_TIMEZONE": "Asia/Tokyo"}
    assert load(settings, namespace="CELERY").timezone == "Asia/Tokyo"
    assert load({"TIME_ZONE": "Europe/Paris"}).timezone is None


class LazySettings:
    """An object that computes its attributes, as Django's settings do."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def __dir__(self) -> list[str]:
        return [*self._settings, "configure", "is_overridden"]

    def __getattr__(self, name: str) -> Any:
        try:
            return self._settings[name]
        except KeyError:
            raise AttributeError(name) from None

    def configure(self) -> None:
        """Not a setting."""


def test_settings_objects_may_be_lazy() -> None:
    """Attributes are read through the object, so that lazy settings work."""
    conf = load(LazySettings(CELERY_TASK_TIME_LIMIT=9, DEBUG=True), namespace="CELERY")
    assert conf.changes == {"task_time_limit": 9.0}


def test_periodic_tasks_of_django_settings_are_read(tmp_path: Path, project: str) -> None:
    """A beat schedule in the settings is the app's."""
    name = write(tmp_path, project, "settings", 'CELERY_BEAT_SCHEDULE = {"a": {"task": "t", "schedule": 30.0}}')
    assert load(name, namespace="CELERY").beat_schedule == {"a": {"task": "t", "schedule": 30.0}}


@pytest.mark.parametrize(
    ("name", "meant"),
    [("CELERY_TASK_TIMELIMIT", "CELERY_TASK_TIME_LIMIT"), ("CELERY_BROKER_URI", "CELERY_BROKER_URL")],
)
def test_unknown_names_in_a_namespace_are_errors(name: str, meant: str) -> None:
    """In a namespace every name is meant as a setting, so an unknown one is an error."""
    with pytest.raises(ImproperlyConfigured, match=f"unknown setting '{name}': did you mean '{meant}'"):
        load(types.SimpleNamespace(**{name: 1}), namespace="CELERY")


def test_code_in_a_namespace_is_no_setting() -> None:
    """Classes and functions are not taken for misspelt settings."""

    class Settings:
        CELERY_QUEUE_NAMES = type("Names", (), {})
        CELERY_TASK_TIME_LIMIT = 3

    assert load(Settings, namespace="CELERY").changes == {"task_time_limit": 3.0}


def test_namespaces_may_end_in_an_underscore_or_be_lower_case() -> None:
    """``CELERY_`` means ``CELERY``; a lower-case namespace reads lower-case names."""
    assert load({"CELERY_TASK_TIME_LIMIT": 3}, namespace="CELERY_").task_time_limit == 3.0
    assert load({"shop_task_time_limit": 3, "SHOP_DEBUG": 1}, namespace="shop").task_time_limit == 3.0
    assert load({"DISPATCHER_TASK_TIME_LIMIT": 3}, namespace="DISPATCHER").task_time_limit == 3.0


def test_old_names_count_beside_a_namespace() -> None:
    """As in Celery, exact old names and keys are read even where a namespace is given."""
    settings = {
        "BROKER_URL": "redis://h",
        "CELERYD_CONCURRENCY": 2,
        "CELERY_ALWAYS_EAGER": True,
        "result_extended": True,
        "CELERY_TASK_TIME_LIMIT": 3,
    }
    conf = load(settings, namespace="CELERY")
    assert conf.changes == {
        "broker_url": "redis://h",
        "result_extended": True,
        "task_always_eager": True,
        "task_time_limit": 3.0,
        "worker_concurrency": 2,
    }


@pytest.mark.parametrize("name", ["CELERY_EMAIL_TASK_CONFIG", "CELERY_REDBEAT_REDIS_URL", "CELERY_ONCE"])
def test_settings_of_extensions_warn(name: str) -> None:
    """Settings of Celery's extensions live in its namespace; they are ignored with a warning."""
    with pytest.warns(CompatibilityWarning, match=f"{name} belongs to .*, which is not part of this package"):
        conf = load({name: {}}, namespace="CELERY")
    assert conf.changes == {}


OLD = """
    from datetime import timedelta
    from kombuish import Exchange, Queue

    BROKER_URL = "redis://localhost:6379/0"
    BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 43200}
    CELERY_RESULT_BACKEND = "redis://localhost:6379/1"
    CELERY_TASK_RESULT_EXPIRES = 18000
    CELERY_IMPORTS = ("shop.tasks", "shop.reports")
    CELERY_TASK_SERIALIZER = "json"
    CELERY_RESULT_SERIALIZER = "json"
    CELERY_ACCEPT_CONTENT = ["json"]
    CELERY_TIMEZONE = "Europe/Oslo"
    CELERY_ENABLE_UTC = True
    CELERY_ACKS_LATE = True
    CELERY_IGNORE_RESULT = False
    CELERY_ALWAYS_EAGER = False
    CELERY_EAGER_PROPAGATES_EXCEPTIONS = True
    CELERY_MESSAGE_COMPRESSION = "bzip2"
    CELERY_DEFAULT_QUEUE = "shop"
    CELERY_QUEUES = (
        Queue("shop", Exchange("shop"), routing_key="shop"),
        Queue("mail", Exchange("mail"), routing_key="mail"),
    )
    CELERY_ROUTES = {"shop.tasks.mail": {"queue": "mail", "routing_key": "mail"}}
    CELERY_ANNOTATIONS = {"shop.tasks.mail": {"max_retries": 5}}
    CELERYD_CONCURRENCY = 4
    CELERYD_PREFETCH_MULTIPLIER = 1
    CELERYD_MAX_TASKS_PER_CHILD = 100
    CELERYD_TASK_TIME_LIMIT = 300
    CELERYD_TASK_SOFT_TIME_LIMIT = 270
    CELERYD_LOG_FORMAT = "[%(asctime)s] %(message)s"
"""
KOMBUISH = """
    class Exchange:
        def __init__(self, name):
            self.name = name

    class Queue:
        def __init__(self, name, exchange, routing_key):
            self.name, self.exchange, self.routing_key = name, exchange, routing_key
"""


def test_old_upper_case_module(tmp_path: Path, project: str) -> None:
    """A module with the names from before Celery 4 means what it meant."""
    (tmp_path / "kombuish.py").write_text(textwrap.dedent(KOMBUISH))
    conf = load(write(tmp_path, project, "celeryconfig", OLD))
    assert conf.changes == {
        "imports": ("shop.tasks", "shop.reports"),
        "timezone": "Europe/Oslo",
        "accept_content": ("json",),
        "broker_url": "redis://localhost:6379/0",
        "broker_transport_options": {"visibility_timeout": 43200},
        "result_backend": "redis://localhost:6379/1",
        "result_expires": 18000.0,
        "result_serializer": "json",
        "task_serializer": "json",
        "task_compression": "bz2",
        "task_default_queue": "shop",
        "task_queues": {"shop": {"routing_key": "shop"}, "mail": {"routing_key": "mail"}},
        "task_routes": {"shop.tasks.mail": {"queue": "mail", "routing_key": "mail"}},
        "task_annotations": {"shop.tasks.mail": {"max_retries": 5}},
        "task_acks_late": True,
        "task_ignore_result": False,
        "task_always_eager": False,
        "task_eager_propagates": True,
        "task_soft_time_limit": 270.0,
        "task_time_limit": 300.0,
        "worker_concurrency": 4,
        "worker_prefetch_multiplier": 1,
        "worker_max_tasks_per_child": 100,
        "worker_log_format": "[%(asctime)s] %(message)s",
        "enable_utc": True,
    }


MODERN = """
    import logging
    import os
    from datetime import timedelta, timezone

    from helpers_of_test import route_by_name as task_route

    _environment = os.environ
    logger = logging.getLogger(__name__)
    redis_host = "cache.internal"
    debug = False

    def queue_of(name):
        return "q"

    class Broker:
        pass

    broker_url = f"redis://{redis_host}:6379/0"
    result_backend = "redis://cache.internal:6379/1"
    task_routes = (queue_of, {"a.*": "a"})
    task_default_queue = "q"
    result_expires = timedelta(minutes=5)
    worker_max_memory_per_child = 200_000
"""


def test_lower_case_module(tmp_path: Path, project: str) -> None:
    """Imports, functions, classes and private names of a module are not settings; a setting may be a function."""
    (tmp_path / "helpers_of_test.py").write_text("def route_by_name(name): ...")
    with pytest.warns(CompatibilityWarning, match="redis_host has no effect"):
        conf = load(write(tmp_path, project, "celeryconfig", MODERN))
    assert conf.changes.keys() == {
        "broker_url", "result_backend", "task_routes", "task_default_queue", "result_expires",
        "worker_max_memory_per_child", "redis_host",
    }  # fmt: skip
    assert conf.timezone is None
    assert conf.task_routes[0]("x") == "q"


class BaseConfig:
    """Settings as a class."""

    broker_url = "memory://"
    task_serializer = "json"
    enable_utc = True

    def describe(self) -> str:
        """Not a setting."""
        return self.broker_url


class TestingConfig(BaseConfig):
    """Settings that inherit others."""

    __test__ = False
    task_always_eager = True
    result_expires = datetime.timedelta(seconds=5)


@pytest.mark.parametrize("source", [TestingConfig, TestingConfig()])
def test_classes_and_instances(source: object) -> None:
    """A class, its instance, and what they inherit are read alike."""
    conf = load(source)
    assert conf.changes == {
        "broker_url": "memory://",
        "enable_utc": True,
        "result_expires": 5.0,
        "task_always_eager": True,
        "task_serializer": "json",
    }


# typos and doubts


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("broker_uri", "broker_url"),
        ("task_route", "task_routes"),
        ("tasks_routes", "task_routes"),
        ("worker_max_task_per_child", "worker_max_tasks_per_child"),
        ("result_expire", "result_expires"),
        ("CELERYD_CONCURENCY", "CELERYD_CONCURRENCY"),
        ("BROKER_URLS", "BROKER_URL"),
    ],
)
def test_typos_in_modules_are_errors(name: str, meant: str) -> None:
    """A name in a module that is nearly a setting's is an error."""
    with pytest.raises(ImproperlyConfigured, match=f"unknown setting '{name}': did you mean '{meant}'"):
        load(types.SimpleNamespace(**{name: "x"}))


@pytest.mark.parametrize("name", ["worker_count", "task_list", "CELERY_SEND_TASK_ERROR_EMAILS", "BROKER_BACKUP"])
def test_names_that_begin_like_settings_warn(name: str) -> None:
    """A name of a settings family that resembles none is ignored with a warning."""
    with pytest.warns(CompatibilityWarning, match=f"{name} is no setting and is ignored"):
        conf = load(types.SimpleNamespace(**{name: 1}))
    assert conf.changes == {}


@pytest.mark.parametrize("name", ["debug", "hosts", "DEBUG", "SECRET_KEY", "mixedCase", "_task_route", "__all__"])
def test_other_names_are_left_alone(name: str) -> None:
    """What does not look like a setting is somebody else's."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(types.SimpleNamespace(**{name: 1})).changes == {}


def test_a_forgotten_namespace_is_pointed_out() -> None:
    """Namespaced names without ``namespace=`` would all be ignored, so the first is an error."""
    with pytest.raises(ImproperlyConfigured, match="pass namespace='CELERY'"):
        load(types.SimpleNamespace(CELERY_TASK_ALWAYS_EAGER=True))


def test_unknown_keys_of_a_dict_are_errors() -> None:
    """A dict of settings has no room for other lower-case names, whatever they are like."""
    with pytest.raises(ImproperlyConfigured, match="unknown setting 'debug'"):
        load({"debug": True})
    with pytest.raises(ImproperlyConfigured, match="text as names"):
        load({1: True})


def test_one_setting_under_two_names() -> None:
    """Old and new name of a setting with different values contradict each other; equal ones do not."""
    with pytest.raises(ImproperlyConfigured, match="CELERYD_CONCURRENCY and worker_concurrency are two names"):
        load({"CELERYD_CONCURRENCY": 2, "worker_concurrency": 4})
    with pytest.raises(ImproperlyConfigured, match="two names of one setting, task_always_eager"):
        load({"CELERY_ALWAYS_EAGER": False, "CELERY_TASK_ALWAYS_EAGER": True}, namespace="CELERY")
    assert load({"CELERYD_CONCURRENCY": 2, "worker_concurrency": 2}).worker_concurrency == 2


def test_errors_spell_the_setting_as_its_source_does() -> None:
    """A wrong value is reported under the name the user wrote."""
    with pytest.raises(ImproperlyConfigured, match=r"^CELERY_TASK_TIME_LIMIT must be seconds > 0, not '5'"):
        load({"CELERY_TASK_TIME_LIMIT": "5"}, namespace="CELERY")


def test_a_bad_source_changes_nothing() -> None:
    """All settings of a source are taken, or none."""
    conf = Config(environ={})
    with pytest.raises(ImproperlyConfigured):
        conf.load_object({"task_default_queue": "q", "task_time_limit": -1})
    assert conf.changes == {}


# dotted names


def test_dotted_names(tmp_path: Path, project: str) -> None:
    """A module, an attribute after a colon, and an attribute after a dot are found."""
    module = write(
        tmp_path,
        project,
        "settings",
        "CELERY = {'task_time_limit': 3}\nclass Prod:\n  class Queue:\n    include = ['a']\n",
    )
    assert load(f"{module}:CELERY").task_time_limit == 3.0
    assert load(f"{module}.CELERY").task_time_limit == 3.0
    assert load(f"{module}:Prod.Queue").include == ("a",)
    assert load(module).changes == {}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("no_such_module_at_all", "sys.path"),
        ("celeryconfig_at_home.py", "did you mean 'celeryconfig_at_home'"),
        ("json.no_such_part", "sys.path"),
        ("json:NO_SUCH", "no attribute 'NO_SUCH'"),
    ],
)
def test_missing_sources(name: str, hint: str) -> None:
    """A name that means nothing is an error with a hint; ``silent`` makes it none."""
    conf = Config(environ={})
    with pytest.raises(ImproperlyConfigured, match=hint):
        conf.load_object(name)
    assert conf.load_object(name, silent=True) is False


def test_errors_inside_a_module_pass_through(tmp_path: Path, project: str) -> None:
    """A module that fails to import shows its own error."""
    missing = write(tmp_path, project, "missing", "import no_such_module_at_all")
    broken = write(tmp_path, project, "broken", "1 / 0")
    attribute = write(tmp_path, project, "attribute", "object().nothing")
    conf = Config(environ={})
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        conf.load_object(missing)
    with pytest.raises(ZeroDivisionError):
        conf.load_object(broken, silent=True)
    with pytest.raises(AttributeError, match="'object' object has no attribute"):
        conf.load_object(attribute)


def test_silent_does_not_hide_wrong_settings(tmp_path: Path, project: str) -> None:
    """``silent`` is about finding the source, not about what it says."""
    name = write(tmp_path, project, "celeryconfig", "task_time_limit = 'x'")
    with pytest.raises(ImproperlyConfigured, match="task_time_limit"):
        Config(environ={}).load_object(name, silent=True)


def test_module_named_by_an_environment_variable(tmp_path: Path, project: str) -> None:
    """`load_envvar` reads what the variable names; an unset one is an error unless silent."""
    name = write(tmp_path, project, "celeryconfig", "task_time_limit = 3")
    conf = Config(environ={"SHOP_CONFIG": name})
    assert conf.load_envvar("SHOP_CONFIG")
    assert conf.task_time_limit == 3.0
    with pytest.raises(ImproperlyConfigured, match="OTHER_CONFIG is not set"):
        conf.load_envvar("OTHER_CONFIG")
    assert conf.load_envvar("OTHER_CONFIG", silent=True) is False
