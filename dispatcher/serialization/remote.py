"""Exceptions that cross the wire: named by module and type, rebuilt without importing anything.

The wire form is ``{"type", "module", "args"}``, with ``text`` where the arguments do not give the message away and
``cause`` for ``__cause__``. Attributes are not sent: they may hold clients, sockets and secrets.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from dispatcher.exceptions import DecodeError, DispatcherError, EncodeError

#: How many exceptions of a ``raise … from …`` chain are kept below the first.
MAX_CAUSES: Final = 3
#: Longest text or bytes kept as an argument or message. UnicodeDecodeError carries its whole input, for example.
MAX_ARGUMENT_LENGTH: Final = 8192


class RemoteError(DispatcherError):
    """Stands in for an exception whose class is not loaded here or cannot be rebuilt.

    ``type_name`` and ``module_name`` name the original class; ``args`` are the original arguments.
    """

    def __init__(
        self, type_name: str, module_name: str, arguments: Sequence[Any] = (), text: str | None = None
    ) -> None:
        super().__init__()
        self.type_name = type_name
        self.module_name = module_name
        self.args = tuple(arguments)
        self.text = text

    def __str__(self) -> str:
        text = _default_text(self.args) if self.text is None else self.text
        return f"{self.module_name}.{self.type_name}" + (f": {text}" if text else "")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.type_name, self.module_name, self.args, self.text)


def to_wire(exc: BaseException, check: Callable[[Any], None]) -> dict[str, Any]:
    """Return the wire form.

    ``check`` raises `EncodeError` for an argument that cannot be sent; its repr is sent instead.
    """
    first = wire = _link(exc, check)
    for _ in range(MAX_CAUSES):
        if exc.__cause__ is None:
            break
        exc = exc.__cause__
        wire["cause"] = _link(exc, check)
        wire = wire["cause"]
    return first


def from_wire(data: Any) -> BaseException:
    """Rebuild an exception from its wire form.

    The class is looked up among the modules already loaded and must be an exception; else the result is a
    `RemoteError`. Raises `DecodeError` for data of another shape.
    """
    first = current = _rebuild(data)
    for _ in range(MAX_CAUSES):
        data = data.get("cause")
        if data is None:
            break
        cause = _rebuild(data)
        # Not `current.__cause__ = cause`: a frozen dataclass is a possible exception and refuses that.
        BaseException.__setattr__(current, "__cause__", cause)
        current = cause
    return first


def _link(exc: BaseException, check: Callable[[Any], None]) -> dict[str, Any]:
    if isinstance(exc, RemoteError):
        type_name, module_name, text = exc.type_name, exc.module_name, exc.text
    else:
        type_name, module_name = type(exc).__qualname__, type(exc).__module__
        text = None if module_name == "builtins" else _own_text(exc)
    arguments = [_argument(argument, exc, check) for argument in _arguments(exc)]
    wire: dict[str, Any] = {"type": type_name, "module": module_name, "args": arguments}
    if text is not None:
        wire["text"] = text
    return wire


def _arguments(exc: BaseException) -> tuple[Any, ...]:
    """Return what the class must be called with; OSError drops the file names from its ``args``."""
    if isinstance(exc, OSError) and exc.filename is not None and len(exc.args) == 2:
        names = [os.fspath(name) if isinstance(name, os.PathLike) else name for name in (exc.filename, exc.filename2)]
        return (*exc.args, names[0]) if names[1] is None else (*exc.args, names[0], None, names[1])
    return exc.args


def _argument(argument: Any, exc: BaseException, check: Callable[[Any], None]) -> Any:
    if isinstance(argument, str):
        return _sendable_text(argument)
    oversized = isinstance(argument, bytes | bytearray) and len(argument) > MAX_ARGUMENT_LENGTH
    if argument is not exc and not oversized:
        try:
            check(argument)
        except EncodeError:
            pass  # the repr below says as much as can be said
        else:
            return argument
    try:
        return _sendable_text(repr(argument))
    except Exception:  # noqa: BLE001 - a user's __repr__ may raise anything
        return f"<{type(argument).__qualname__} object>"


def _own_text(exc: BaseException) -> str | None:
    """Return the message where the class words it itself, so that a reader without the class can show it."""
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        return None
    try:
        return None if text == _default_text(exc.args) else _sendable_text(text)
    except Exception:  # noqa: BLE001 - so may the __str__ of an argument
        return _sendable_text(text)


def _default_text(arguments: tuple[Any, ...]) -> str:
    if not arguments:
        return ""
    return str(arguments[0]) if len(arguments) == 1 else str(arguments)


def _sendable_text(text: str) -> str:
    if len(text) > MAX_ARGUMENT_LENGTH:
        text = f"{text[:MAX_ARGUMENT_LENGTH]}… ({len(text)} characters)"
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _rebuild(data: Any) -> BaseException:
    if not isinstance(data, Mapping):
        raise DecodeError(f"an exception is an object with 'type', 'module' and 'args', not {type(data).__name__}")
    type_name, module_name, arguments = data.get("type"), data.get("module"), data.get("args", [])
    if not isinstance(type_name, str) or not isinstance(module_name, str) or not isinstance(arguments, list | tuple):
        raise DecodeError("an exception needs the texts 'type' and 'module' and the list 'args'")
    text = data.get("text")
    if text is not None and not isinstance(text, str):
        raise DecodeError("the 'text' of an exception must be a text")
    arguments = tuple(arguments)
    cls = _loaded_class(module_name, type_name)
    exc = None if cls is None else _construct(cls, arguments)
    return RemoteError(type_name, module_name, arguments, text) if exc is None else exc


def _loaded_class(module_name: str, type_name: str) -> type[BaseException] | None:
    found: Any = sys.modules.get(module_name)
    for name in type_name.split("."):
        try:
            # Not getattr: a module's __getattr__ and lazy modules import on access.
            namespace = object.__getattribute__(found, "__dict__")
        except AttributeError:
            return None
        found = namespace.get(name)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def _construct(cls: type[BaseException], arguments: tuple[Any, ...]) -> BaseException | None:
    """Return an instance with these arguments, or `None` if the class allows no way to make one.

    The class is called only as it was called when the original was raised, as far as that can be seen: the result
    must carry the same arguments. A class whose ``__init__`` has another signature is made by ``__new__``, without
    its own attributes.
    """
    try:
        exc = cls(*arguments)
        if isinstance(exc, cls) and _arguments(exc) == arguments:
            return exc
    except Exception:  # noqa: BLE001, S110 - a user's __init__ may raise anything; there are other ways
        pass
    builtin: Any = next(base for base in cls.__mro__ if base.__module__ == "builtins")
    for given in (arguments, ()):
        try:
            made: BaseException = builtin.__new__(cls, *given)
            builtin.__init__(made, *given)
            BaseException.__setattr__(made, "args", arguments)
        except Exception:  # noqa: BLE001, S112 - a class of an extension may refuse in any way; there is a stand-in
            continue
        return made
    return None
