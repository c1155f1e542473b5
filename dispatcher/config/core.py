"""`Config`: the settings of an app, validated when they are set, plain attributes when they are read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

from dispatcher.config import environment
from dispatcher.config.celery_keys import OLD_NAMES, OPTIONS
from dispatcher.config.checks import check_together
from dispatcher.config.names import canonical, unknown
from dispatcher.config.options import Option
from dispatcher.config.values import Values
from dispatcher.exceptions import CompatibilityWarning, ImproperlyConfigured

#: Where a value comes from; later ones win.
DEFAULT: Final = "default"
ADDED_DEFAULT: Final = "added default"
OBJECT: Final = "config object"
CODE: Final = "app.conf"
ENVIRONMENT: Final = "environment"
COMMAND_LINE: Final = "command line"
_LAYERS: Final = (ADDED_DEFAULT, OBJECT, CODE, ENVIRONMENT, COMMAND_LINE)


class Config(Values, Mapping[str, Any]):
    """The settings of one app, by attribute or item, under Celery's lower-case names.

    A value is checked when it is set: an unknown name or a value that cannot work raises `ImproperlyConfigured`, a
    Celery key without effect here warns once. The command line wins over the environment (``DISPATCHER_<KEY>``), the
    environment over code (assignments and ``changes`` over `load_object`, whichever comes first), code over defaults.

    ``environ`` replaces the process's environment; pass ``{}`` for none.
    """

    def __init__(self, changes: Mapping[str, Any] | None = None, *, environ: Mapping[str, str] | None = None) -> None:
        state = self.__dict__
        state.update({name: option.initial() for name, option in OPTIONS.items()})
        state["_layers"] = {layer: {} for layer in _LAYERS}
        state["_warned"] = set()
        state["_frozen"] = False
        state["_environ"] = environ
        self._read_environment()
        if changes:
            self.update(changes)

    # reading

    def __getitem__(self, key: str) -> Any:
        name = canonical(key)
        if name is None:
            raise KeyError(str(unknown(key)))
        return self.__dict__[name]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and canonical(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(OPTIONS)

    def __len__(self) -> int:
        return len(OPTIONS)

    if not TYPE_CHECKING:  # mypy knows the attributes from Values

        def __getattr__(self, name: str) -> Any:
            """Resolve old upper-case names; every key itself is a plain attribute."""
            if name in OLD_NAMES:
                return self.__dict__[OLD_NAMES[name]]
            if name.startswith("_"):
                raise AttributeError(name)
            raise AttributeError(str(unknown(name)), name=name, obj=self)

    @property
    def changes(self) -> dict[str, Any]:
        """What was set, by whatever means, with the values that count."""
        return {name: self.__dict__[name] for name in OPTIONS if self._was_set(name)}

    def without_defaults(self) -> dict[str, Any]:
        """Return `changes`."""
        return self.changes

    def source_of(self, key: str) -> str:
        """Return where the value of a key comes from: ``"default"``, ``"app.conf"``, ``"environment"``, …"""
        name = self._known(key)
        return next((layer for layer in reversed(_LAYERS) if name in self.__dict__["_layers"][layer]), DEFAULT)

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """Return the settings that were set (or all), with secrets masked."""
        from dispatcher.config.presentation import censor

        settings = dict(self) if with_defaults else self.changes
        return {name: censor(name, value) for name, value in settings.items()} if censored else settings

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """Return `table` as text, one line per setting."""
        return "\n".join(f"{name}: {value!r}" for name, value in self.table(with_defaults, censored).items())

    def __repr__(self) -> str:
        return f"<Config: {len(self.changes)} settings changed>"

    def queue_url_for(self, queue: str) -> str | None:
        """Return a queue's URL, from ``DISPATCHER_QUEUE_URL_<NAME>``, else from ``predefined_queues``, else `None`."""
        url = environment.queue_url_for(queue, self.__dict__["_environ"])
        if url is None:
            predefined = self.broker_transport_options.get("predefined_queues") or {}
            url = (predefined.get(queue) or {}).get("url")
        return url

    # writing

    def __setattr__(self, name: str, value: Any) -> None:
        self._set(CODE, self._known(name), name, value)

    def __setitem__(self, key: str, value: Any) -> None:
        self._set(CODE, self._known(key), key, value)

    def __delattr__(self, name: str) -> None:
        self._unset(CODE, self._known(name))

    def __delitem__(self, key: str) -> None:
        self._unset(CODE, self._known(key))

    def update(self, *args: Mapping[str, Any] | Iterable[tuple[str, Any]], **kwargs: Any) -> None:
        """Set several settings, all or none; upper-case names in a mapping that are no settings are ignored."""
        settings = {**dict(*args), **kwargs}
        if settings:
            self._load(CODE, settings)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Set a setting unless it was set, and return its value."""
        if self.source_of(key) == DEFAULT:
            self[key] = default
        return self[key]

    def add_defaults(self, defaults: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Put other defaults beneath everything that is set, now or later."""
        self._load(ADDED_DEFAULT, defaults() if callable(defaults) else defaults)

    def override(self, **options: Any) -> None:
        """Set what the command line says, above everything else and also after `freeze`; `None` means not given."""
        for name, value in options.items():
            if value is not None:
                self._set(COMMAND_LINE, self._known(name), name, value)

    def load_object(self, source: Any, *, silent: bool = False, namespace: str | None = None) -> bool:
        """Read settings from a dict, module, class or object, or from what a dotted name means; see `objects`.

        With ``silent`` a source that cannot be imported is no error; returns whether it could.
        """
        from dispatcher.config.objects import load

        if isinstance(source, str):
            try:
                source = load(source)
            except (ImportError, ImproperlyConfigured):
                if not silent:
                    raise
                return False
        self._load(OBJECT, source, namespace)
        return True

    def load_envvar(self, variable: str, *, silent: bool = False, namespace: str | None = None) -> bool:
        """Read settings from the object that an environment variable names."""
        source = environment.config_module(variable, self.__dict__["_environ"])
        if source is not None:
            return self.load_object(source, silent=silent, namespace=namespace)
        if silent:
            return False
        raise ImproperlyConfigured(
            f"the environment variable {variable} is not set; it must name a configuration module"
        )

    def freeze(self) -> None:
        """Check the settings against each other and refuse changes from now on, except of a few live keys.

        Dicts become read-only too, so that a change of one cannot go unnoticed. Doing it twice is harmless.
        """
        if self.frozen:
            return
        self.validate()
        for name, option in OPTIONS.items():
            value = self.__dict__[name]
            if isinstance(value, dict) and not option.live:
                self.__dict__[name] = ReadOnlyDict(value)
        self.__dict__["_frozen"] = True

    def validate(self) -> None:
        """Raise `ImproperlyConfigured` for contradicting settings; warn of Celery's variables left unread."""
        check_together(self)
        for key in ("broker_url", "result_backend"):
            variable = environment.unread_celery_variable(key, self.__dict__["_environ"])
            if variable is not None and self.__dict__[key] is None:
                self.warn_once(variable, f"{variable} is not read; set DISPATCHER_{key.upper()} or {key}")

    @property
    def frozen(self) -> bool:
        """Whether `freeze` was called."""
        return bool(self.__dict__["_frozen"])

    # inside

    def _was_set(self, name: str) -> bool:
        layers = self.__dict__["_layers"]
        # A dict that was a default may have been filled in place.
        filled = isinstance(OPTIONS[name].default, dict) and self.__dict__[name] != OPTIONS[name].default
        return filled or any(name in layers[layer] for layer in _LAYERS)

    def _known(self, name: str) -> str:
        key = canonical(name)
        if key is None:
            raise unknown(name)
        return key

    def _load(self, layer: str, source: Any, namespace: str | None = None) -> None:
        from dispatcher.config.objects import settings_in

        found = settings_in(source, namespace, lambda message: self.warn_once(message, message))
        for each in found:
            self._refuse_late(OPTIONS[each.key], each.spelling)
        checked = [(each.key, self._check(OPTIONS[each.key], each.spelling, each.value)) for each in found]
        for key, value in checked:
            self._store(layer, key, value)

    def _read_environment(self) -> None:
        environ = self.__dict__["_environ"]
        for variable in environment.settings_in(environ):
            self._set(ENVIRONMENT, variable.option.name, variable.name, variable.value)
        for name, match in environment.unknown_variables(environ):
            hint = f"; did you mean {match}?" if match else ""
            self.warn_once(name, f"the environment variable {name} means nothing to dispatcher{hint}")

    def _set(self, layer: str, key: str, spelling: str, value: Any) -> None:
        option = OPTIONS[key]
        if layer != COMMAND_LINE:
            self._refuse_late(option, spelling)
        self._store(layer, key, self._check(option, spelling, value))

    def _refuse_late(self, option: Option, spelling: str) -> None:
        if self.__dict__["_frozen"] and not option.live:
            raise ImproperlyConfigured(
                f"{spelling} cannot change any more: the app is finalized; set it before tasks are used"
            )

    def _check(self, option: Option, spelling: str, value: Any) -> Any:
        if option.kind != "supported":
            return self._check_foreign(option, spelling, value)
        if value is None and option.nullable:
            return None
        try:
            return option.type.convert(value)
        except ValueError as error:
            from dispatcher.config.presentation import censor_text

            raise ImproperlyConfigured(f"{spelling} {censor_text(str(error))}") from None

    def _check_foreign(self, option: Option, spelling: str, value: Any) -> Any:
        if any(value is each or value == each for each in option.harmless):
            return value
        if option.kind == "refused":
            raise ImproperlyConfigured(f"{spelling} is refused: {option.reason}")
        self.warn_once(option.name, f"{spelling} has no effect: {option.reason}")
        return value

    def _store(self, layer: str, key: str, value: Any) -> None:
        self.__dict__["_layers"][layer][key] = value
        self._materialise(key)

    def _unset(self, layer: str, key: str) -> None:
        self._refuse_late(OPTIONS[key], key)
        self.__dict__["_layers"][layer].pop(key, None)
        self._materialise(key)

    def _materialise(self, key: str) -> None:
        """Copy the value that counts to where attribute access finds it without further ado."""
        layers = self.__dict__["_layers"]
        for layer in reversed(_LAYERS):
            if key in layers[layer]:
                self.__dict__[key] = layers[layer][key]
                return
        self.__dict__[key] = OPTIONS[key].initial()

    def warn_once(self, about: str, message: str) -> None:
        """Warn with a `CompatibilityWarning`, unless there was one ``about`` this already."""
        warned: set[str] = self.__dict__["_warned"]
        if about not in warned:
            warned.add(about)
            warnings.warn(CompatibilityWarning(message), stacklevel=_outside())


class ReadOnlyDict(dict[str, Any]):
    """A dict setting of a finalized app."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise ImproperlyConfigured(
            "this setting cannot change any more: the app is finalized; set it before tasks are used"
        )

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def _outside() -> int:
    """Return the ``stacklevel`` that blames the first caller outside this package."""
    import sys

    frame, level = sys._getframe(1), 1
    package = __name__.partition(".")[0]
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame, level = frame.f_back, level + 1
    return level
