"""What the package reads from the environment; nothing else reads it.

Every function takes ``environ`` for tests; `None` means the process's own. An empty variable counts as unset.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dispatcher.config.celery_keys import OPTIONS
from dispatcher.config.names import nearest
from dispatcher.config.options import Option
from dispatcher.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from pathlib import Path

PREFIX: Final = "DISPATCHER_"
QUEUE_URL_PREFIX: Final = "DISPATCHER_QUEUE_URL_"
#: Left to test suites: whatever they hand to their workers is no misspelt setting.
TEST_PREFIX: Final = "DISPATCHER_TEST_"
APP_VARIABLE: Final = "DISPATCHER_APP"

_BY_VARIABLE: Final = {variable: option for option in OPTIONS.values() for variable in option.variables}
#: Celery reads these itself; here they are only pointed out when they would have mattered.
_CELERY_VARIABLES: Final = {
    "broker_url": ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"),
    "result_backend": ("CELERY_RESULT_BACKEND",),
}


class Variable(NamedTuple):
    """A setting found in the environment; ``value`` is read from text but not yet checked."""

    name: str
    option: Option
    value: Any


def _environ(environ: Mapping[str, str] | None) -> Mapping[str, str]:
    return os.environ if environ is None else environ


def inside_lambda(environ: Mapping[str, str] | None = None) -> bool:
    """Tell whether this process is a Lambda function."""
    return bool(_environ(environ).get("AWS_LAMBDA_FUNCTION_NAME"))


def app_name(environ: Mapping[str, str] | None = None) -> str | None:
    """Return ``DISPATCHER_APP`` (``module`` or ``module:attribute``), or `None`."""
    return _environ(environ).get(APP_VARIABLE) or None


def in_django_project(environ: Mapping[str, str] | None = None) -> bool:
    """Tell whether ``DJANGO_SETTINGS_MODULE`` names the settings of a Django project."""
    return bool(_environ(environ).get("DJANGO_SETTINGS_MODULE"))


def config_module(variable: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the name of the module that a variable of the user's choice holds, or `None`."""
    return _environ(environ).get(variable) or None


def queue_variable(queue: str) -> str:
    """Return the variable that holds a queue's URL: ``orders-eu.fifo`` is ``DISPATCHER_QUEUE_URL_ORDERS_EU_FIFO``."""
    return QUEUE_URL_PREFIX + re.sub(r"[^A-Z0-9]", "_", queue.upper())


def queue_url_for(queue: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the URL of a queue from its ``DISPATCHER_QUEUE_URL_<NAME>``, or `None`."""
    return _environ(environ).get(queue_variable(queue)) or None


def queue_urls(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the URLs in ``DISPATCHER_QUEUE_URL_<NAME>``, each by the plainest queue name that has this variable."""
    urls = {}
    for name, url in _environ(environ).items():
        if name.startswith(QUEUE_URL_PREFIX) and url:
            queue = name.removeprefix(QUEUE_URL_PREFIX).lower()
            urls[queue.removesuffix("_fifo") + ".fifo" if url.endswith(".fifo") else queue] = url
    return urls


def settings_in(environ: Mapping[str, str] | None = None) -> Iterator[Variable]:
    """Yield the settings among the variables; raises `ImproperlyConfigured` for text that cannot be read."""
    environ = _environ(environ)
    for name in sorted(environ):
        option = _BY_VARIABLE.get(name)
        if option is None or not environ[name].strip():
            continue
        other = next((each for each in option.variables if each != name and environ.get(each)), None)
        if other is not None and environ[other] != environ[name]:
            raise ImproperlyConfigured(f"{name} and {other} both set {option.name}, to different values; keep one")
        yield Variable(name, option, _read(option, name, environ[name]))


def _read(option: Option, name: str, text: str) -> Any:
    if option.nullable and text.strip().lower() in {"none", "null"}:
        return None
    if option.kind != "supported":
        try:
            return json.loads(text)
        except ValueError:
            return text
    try:
        return option.type.parse(text)
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} {error}") from None


def unknown_variables(environ: Mapping[str, str] | None = None) -> Iterator[tuple[str, str | None]]:
    """Yield the ``DISPATCHER_*`` variables that mean nothing, each with the nearest one that does."""
    for name in sorted(_environ(environ)):
        ours = name in _BY_VARIABLE or name == APP_VARIABLE or name.startswith((QUEUE_URL_PREFIX, TEST_PREFIX))
        if name.startswith(PREFIX) and not ours:
            known = [variable.removeprefix(PREFIX) for variable in (*_BY_VARIABLE, APP_VARIABLE)]
            match = nearest(name.removeprefix(PREFIX), known)
            yield name, PREFIX + match if match else None


def unread_celery_variable(option: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the variable by which Celery, but not this package, would have set an option; or `None`."""
    environ = _environ(environ)
    return next((name for name in _CELERY_VARIABLES.get(option, ()) if environ.get(name)), None)


def inherited(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a copy of all variables, for a process that is to be started."""
    return dict(_environ(environ))


def cache_directory(environ: Mapping[str, str] | None = None, platform: str | None = None) -> Path:
    """Return where what can be made again is kept for this user; only computes the path.

    Raises `ImproperlyConfigured` where there is no home directory.
    """
    import sys
    from pathlib import Path

    environ = _environ(environ)
    base = environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        home = environ.get("HOME") or os.path.expanduser("~")
        if not os.path.isabs(home):
            raise ImproperlyConfigured("there is no home directory to keep files in; set HOME or XDG_CACHE_HOME")
        base = os.path.join(home, "Library/Caches" if (platform or sys.platform) == "darwin" else ".cache")
    return Path(base, "dispatcher")


def embedded_path(app: str | None, environ: Mapping[str, str] | None = None, platform: str | None = None) -> Path:
    """Return the file of the embedded SQLite broker and backend, one per app name, in the user's data directory.

    Only computes the path. Raises `ImproperlyConfigured` inside Lambda, where no file outlives the function, and where
    there is no home directory.
    """
    import sys
    from pathlib import Path

    environ = _environ(environ)
    if inside_lambda(environ):
        raise ImproperlyConfigured(
            "no broker is configured, and the embedded SQLite file cannot be used inside Lambda; "
            "set broker_url (DISPATCHER_BROKER_URL), for example to sqs://"
        )
    base = environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(base):  # the XDG specification: relative paths are ignored
        home = environ.get("HOME") or os.path.expanduser("~")
        if not os.path.isabs(home):
            raise ImproperlyConfigured(
                "there is no home directory for the embedded SQLite file; set HOME or XDG_DATA_HOME, "
                "or broker_url to sqlite:///<path>"
            )
        mac = (platform or sys.platform) == "darwin"
        base = os.path.join(home, "Library/Application Support" if mac else ".local/share")
    return Path(base, "dispatcher", f"{_slug(app or 'default')}.db")


def _slug(name: str) -> str:
    """Return a file name for any app name; names that had to be changed are told apart by a checksum."""
    import zlib

    slug = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-.")[:64]
    return slug if slug == name else f"{slug or 'app'}-{zlib.crc32(name.encode()):08x}"
