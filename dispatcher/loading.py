"""Finding an app by its name: ``DISPATCHER_APP`` in Lambda, ``dispatcher -A`` on the command line."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from dispatcher.app import Dispatcher
from dispatcher.exceptions import ImproperlyConfigured

#: Where an app is looked for in a module that names none, the first that is one; then any, if it is the only one.
_ATTRIBUTES = ("app", "dispatcher", "celery")
#: Where an app is looked for in a package that has none itself.
_SUBMODULES = ("celery", "dispatcher", "app", "tasks")


def find_app(spec: str) -> Dispatcher:
    """Return the app that ``module:attribute``, ``module`` or ``module.attribute`` means.

    Of a module without an attribute it is ``app``, ``dispatcher`` or ``celery``, else its only app; of a package
    without one, that of its submodule ``celery``, ``dispatcher``, ``app`` or ``tasks``. Raises `ImproperlyConfigured`
    where there is no such module or app, and whatever the module itself raises when it is imported.
    """
    path, colon, attribute = spec.strip().partition(":")
    if not path or (colon and not attribute):
        raise ImproperlyConfigured(f"{spec!r} names no app; it must look like 'shop.tasks:app' or 'shop.tasks'")
    if "/" in path or path.endswith(".py"):
        module = path.removesuffix(".py").strip("./").replace("/", ".")
        raise ImproperlyConfigured(f"{path!r} is a file's path; name the module: {module!r}")
    found = _import(path, spec)
    if attribute:
        return _checked(_attribute(found, attribute, spec), f"{path}:{attribute}")
    return _app_in(found, spec) if isinstance(found, ModuleType) else _checked(found, path)


def _import(path: str, spec: str) -> Any:
    """Return the module, or what ``module.attribute`` means."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not (path == error.name or path.startswith(f"{error.name}.")):
            raise  # the module is there; something that it imports is not
        parent, _, last = path.rpartition(".")
        if parent and error.name == path:
            module = _import(parent, spec)
            if hasattr(module, last):
                return getattr(module, last)
        raise ImproperlyConfigured(
            f"the app {spec!r} cannot be found: there is no module {error.name!r}; is it in the package that was "
            "deployed, and is its directory on the module search path?"
        ) from error


def _attribute(module: Any, path: str, spec: str) -> Any:
    found = module
    for name in path.split("."):
        if not hasattr(found, name):
            apps = ", ".join(_apps(module)) if isinstance(module, ModuleType) else ""
            raise ImproperlyConfigured(
                f"the app {spec!r} cannot be found: {getattr(found, '__name__', type(found).__name__)} has no {name!r}"
                + (f"; it has the apps {apps}" if apps else "")
            )
        found = getattr(found, name)
    return found


def _checked(found: Any, path: str) -> Dispatcher:
    # Proxies and an app's attribute of another module both pass; a module does not.
    if isinstance(found, Dispatcher):
        return found
    if callable(found) and not isinstance(found, type):
        raise ImproperlyConfigured(
            f"{path} is a function, not an app: call it in a module, as in app = {path.rpartition(':')[2]}(), "
            "and name that"
        )
    raise ImproperlyConfigured(f"{path} is {found!r}, not an app: app = Dispatcher('name')")


def _app_in(module: ModuleType, spec: str) -> Dispatcher:
    found = _only_app(module, spec)
    if found is not None:
        return found
    if hasattr(module, "__path__"):
        for name in _SUBMODULES:
            submodule = _submodule(f"{module.__name__}.{name}")
            found = _only_app(submodule, spec) if submodule is not None else None
            if found is not None:
                return found
    raise ImproperlyConfigured(
        f"the app {spec!r} cannot be found: the module {module.__name__} has no app; make one with "
        "app = Dispatcher('name'), or name the module that has it"
    )


def _submodule(path: str) -> ModuleType | None:
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        return None


def _only_app(module: ModuleType, spec: str) -> Dispatcher | None:
    apps = _apps(module)
    for name in _ATTRIBUTES:
        if name in apps:
            return apps[name]
    if len({id(app) for app in apps.values()}) > 1:
        raise ImproperlyConfigured(
            f"the app {spec!r} is ambiguous: {module.__name__} has {', '.join(apps)}; name one: {module.__name__}:"
            f"{next(iter(apps))}"
        )
    return next(iter(apps.values()), None)


def _apps(module: ModuleType) -> dict[str, Dispatcher]:
    return {name: value for name, value in vars(module).items() if type(value) is not type and _is_app(value)}


def _is_app(value: Any) -> bool:
    # By the type, not isinstance: asking a lazy proxy (such as `current_app`) for its class may fail.
    return issubclass(type(value), Dispatcher)
