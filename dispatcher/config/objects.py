"""Settings in modules, classes, objects and dicts: what ``app.config_from_object`` reads.

With a namespace ``CELERY`` the settings are the names that begin with ``CELERY_`` (and exact lower-case keys and old
upper-case names, as in Celery); any other name in the namespace is an error. Without one they are the lower-case keys
and the old upper-case names. Everything else in a module is somebody else's and ignored, except what looks like a
misspelt setting:

* a lower-case or old-style name that is at least 85 % like a setting, or any lower-case key of a dict: an error;
* a name that begins like a setting (``task_``, ``worker_``, ``CELERY_`` …) but is none: a warning;
* ``CELERY_TASK_ALWAYS_EAGER`` and the like without ``namespace="CELERY"``: an error that says so.

Imported modules, functions and classes, and names with a leading underscore are never taken for misspelt settings.
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from dispatcher.config.celery_keys import EXTENSIONS, OLD_NAMES, OPTIONS
from dispatcher.config.names import SURELY_MEANT, canonical, nearest, unknown
from dispatcher.exceptions import ImproperlyConfigured

_FAMILIES: Final = ("task_", "worker_", "broker_", "result_", "beat_")
_OLD_FAMILIES: Final = ("CELERY_", "CELERYD_", "CELERYBEAT_", "BROKER_")


#: Settings that can be functions or classes; under another setting's name those are imports.
_CALLABLE: Final = frozenset({"task_routes", "task_annotations", "database_engine_callback"})


class Found(NamedTuple):
    """A setting in its source: its key, how it is spelt there, and its value, not yet checked."""

    key: str
    spelling: str
    value: Any


def load(name: str) -> Any:
    """Import what a dotted name means: ``proj.celeryconfig``, ``proj.settings:CELERY`` or ``proj.settings.CELERY``.

    Raises `ImproperlyConfigured` if there is nothing of that name; an error inside the module passes through.
    """
    module, colon, attribute = name.partition(":")
    try:
        if colon:
            return _attribute(importlib.import_module(module), attribute)
        return _import(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise  # the module is there, one that it imports is not
        hint = f"; did you mean {name[:-3]!r}?" if name.endswith(".py") else "; is its directory on sys.path?"
        raise ImproperlyConfigured(f"the configuration module {name!r} does not exist{hint}") from error
    except AttributeError as error:
        if not isinstance(error.obj, types.ModuleType):
            raise
        raise ImproperlyConfigured(f"the configuration {name!r} does not exist: {error}") from error


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        parent, _, attribute = name.rpartition(".")
        if not parent or error.name != name:
            raise
        module = importlib.import_module(parent)
        if not hasattr(module, attribute):
            raise
        return getattr(module, attribute)


def _attribute(module: types.ModuleType, path: str) -> Any:
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    return value


def settings_in(source: Any, namespace: str | None, warn: Callable[[str], None]) -> list[Found]:
    """Return the settings of a source, checked by name only; ``warn`` is told of the doubtful ones.

    Raises `ImproperlyConfigured` for misspelt names and for a setting that has two values under two names.
    """
    found: dict[str, Found] = {}
    reader = _Reader(source, namespace, warn)
    for setting in reader.read():
        other = found.get(setting.key)
        if other is not None and other.value != setting.value:
            raise ImproperlyConfigured(
                f"{other.spelling} and {setting.spelling} are two names of one setting, {setting.key}, "
                f"with different values; keep one"
            )
        found[setting.key] = setting
    zone = reader.django_zone()
    if zone is not None and "timezone" not in found:
        found["timezone"] = zone
    return list(found.values())


class _Reader:
    def __init__(self, source: Any, namespace: str | None, warn: Callable[[str], None]) -> None:
        self.source, self.warn = source, warn
        self.mapping = source if isinstance(source, Mapping) else None
        self.prefix = f"{namespace.rstrip('_')}_" if namespace else ""

    def read(self) -> Iterator[Found]:
        names = list(self.source) if self.mapping is not None else dir(self.source)
        for name in names:
            if not isinstance(name, str):
                raise ImproperlyConfigured(f"settings have text as names, not {name!r}")
            if name.startswith("_"):
                continue
            found = self._namespaced(name) if self.prefix and name.startswith(self.prefix) else self._plain(name)
            if found is not None:
                yield found

    def django_zone(self) -> Found | None:
        """Return Django's ``TIME_ZONE``, which Celery takes for its own where there is no other."""
        zone = self._value("TIME_ZONE") if self.prefix else None
        return Found("timezone", "TIME_ZONE", zone) if isinstance(zone, str) else None

    def _value(self, name: str) -> Any:
        return self.mapping.get(name) if self.mapping is not None else getattr(self.source, name, None)

    def _namespaced(self, name: str) -> Found | None:
        rest = name[len(self.prefix) :]
        key = rest.lower()
        shown_upper = self.prefix.isupper()
        if rest == (rest.upper() if shown_upper else key):
            if key in OPTIONS:
                return Found(key, name, self._value(name))
            if extension := _extension(key):
                self.warn(f"{name} belongs to {extension}, which is not part of this package, and is ignored")
                return None
        if name in OLD_NAMES:
            return Found(OLD_NAMES[name], name, self._value(name))
        if self._is_code(name):
            return None
        spellings = [self.prefix + (option.upper() if shown_upper else option) for option in OPTIONS]
        raise unknown(name, spellings)

    def _plain(self, name: str) -> Found | None:
        key = canonical(name)
        if key is None:
            if not self.prefix:
                self._doubt(name)
            return None
        value = self._value(name)
        if isinstance(value, types.ModuleType) or (key not in _CALLABLE and self._is_code(name)):
            return None
        return Found(key, name, value)

    def _doubt(self, name: str) -> None:
        """Raise or warn if a name that is no setting may have been meant as one."""
        if name.isupper():
            if name.startswith(_OLD_FAMILIES) and not self._is_code(name):
                self._doubt_old(name)
            return
        if self.mapping is not None and name.islower():
            raise unknown(name)
        if not name.islower() or self._is_code(name):
            return
        match = nearest(name, OPTIONS, SURELY_MEANT)
        if match is not None:
            raise ImproperlyConfigured(
                f"unknown setting {name!r}: did you mean {match!r}? "
                "(Let a name that is no setting begin with an underscore.)"
            )
        if extension := _extension(name):
            self.warn(f"{name} belongs to {extension}, which is not part of this package, and is ignored")
        elif name.startswith(_FAMILIES):
            self.warn(f"{name} is no setting and is ignored")

    def _doubt_old(self, name: str) -> None:
        family, _, rest = name.partition("_")
        if family == "CELERY" and rest.lower() in OPTIONS:
            raise ImproperlyConfigured(
                f"{name} is a setting with the namespace CELERY; pass namespace='CELERY', or name it {rest.lower()!r}"
            )
        if extension := _extension(rest.lower()):
            self.warn(f"{name} belongs to {extension}, which is not part of this package, and is ignored")
            return
        match = nearest(name, OLD_NAMES, SURELY_MEANT)
        if match is not None:
            raise ImproperlyConfigured(f"unknown setting {name!r}: did you mean {match!r} (now {OLD_NAMES[match]!r})?")
        self.warn(f"{name} is no setting and is ignored")

    def _is_code(self, name: str) -> bool:
        """Tell whether a name is bound to a module, class or function, as imports and helpers are."""
        if self.mapping is not None:
            return False
        value = self._value(name)
        return isinstance(value, types.ModuleType | type) or callable(value)


def _extension(key: str) -> str | None:
    return next((extension for prefix, extension in EXTENSIONS.items() if key.startswith(prefix)), None)
