"""Typed values: what a serializer cannot say by itself, said as ``{"$": tag, "v": value}``.

A dict of the user's own that contains the key ``$`` is sent as ``{"$": "dict", "v": [[key, value], …]}``. Tuples come
back as lists, as in any JSON, except inside sets, whose members must stay hashable.
"""

from __future__ import annotations

import binascii
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from dispatcher.exceptions import DecodeError, EncodeError
from dispatcher.serialization import remote

#: Largest encoded value read unless the caller says otherwise. Parsed JSON takes up to some twenty times its text.
MAX_BYTES: Final = 16 * 1024 * 1024
#: Deepest nesting of lists and objects, the same on every Python: interpreters differ in where they give up.
MAX_DEPTH: Final = 200
#: Longest decimal integer, Python's own default (``sys.int_info.default_max_str_digits``), kept where that is
#: switched off.
MAX_DIGITS: Final = 4300
#: 10**4300 has this many bits; one more cannot be written in `MAX_DIGITS` digits.
_MAX_BITS: Final = 14285
#: From this size on, the members of a set are checked for being chosen to collide.
_COLLISION_CHECK_SIZE: Final = 1000

TAG: Final = "$"


class ValueTooLong(EncodeError):
    """A value is ``size`` bytes long, more than its readers decode."""

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size = size

    def __reduce__(self) -> tuple[type[ValueTooLong], tuple[str, int]]:
        return type(self), (str(self), self.size)


class Tag(dict[str, Any]):
    """A typed value ready for the wire, as opposed to a user's dict that looks like one."""

    def __init__(self, name: str, value: Any) -> None:
        super().__init__({TAG: name, "v": value})


class _Tuple:
    """A tuple inside a set: hidden from the encoders, which would make a list of it."""

    def __init__(self, items: tuple[Any, ...]) -> None:
        self.items = items


def _members(items: Iterable[Any]) -> list[Any]:
    return [_Tuple(item) if isinstance(item, tuple) else item for item in items]


def _base64(data: Any) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def exception_to_wire(exc: BaseException) -> dict[str, Any]:
    """Return ``{"type", "module", "args"}`` and, where there are, ``text`` and ``cause``.

    Every argument is one that `json_encode` takes; an argument that has no wire form is replaced by its repr.
    """
    return remote.to_wire(exc, _CHECK)


def exception_from_wire(data: Any) -> BaseException:
    """Rebuild an exception from its wire form, importing nothing; an unknown class gives a `RemoteError`.

    Raises `DecodeError` for data of another shape.
    """
    return remote.from_wire(data)


@functools.cache
def _encoders() -> dict[type, tuple[str, Callable[[Any], Any]]]:
    # Imported at the first typed value, not with the package: most messages have none. The order is that of the
    # isinstance tests: datetime is a date.
    import datetime
    import decimal
    import uuid

    return {
        datetime.datetime: ("datetime", datetime.datetime.isoformat),
        datetime.date: ("date", datetime.date.isoformat),
        datetime.time: ("time", datetime.time.isoformat),
        datetime.timedelta: ("timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
        decimal.Decimal: ("decimal", str),
        uuid.UUID: ("uuid", str),
        bytes: ("bytes", _base64),
        bytearray: ("bytes", _base64),
        memoryview: ("bytes", _base64),
        set: ("set", _members),
        frozenset: ("frozenset", _members),
        BaseException: ("exception", exception_to_wire),
        _Tuple: ("tuple", lambda value: _members(value.items)),
        # Only msgpack, whose integers end at 64 bits, ever asks for this one. Hexadecimal is linear in both directions.
        int: ("int", hex),
    }


def substitute(value: Any) -> Any:
    """Return what to encode in place of a value the serializer does not know: a `Tag`, or what ``__json__`` returns.

    Raises `EncodeError` if there is nothing.
    """
    encoders = _encoders()
    entry = encoders.get(type(value))
    if entry is None:
        method = getattr(value, "__json__", None)
        if method is not None and not isinstance(value, type):
            try:
                return method()
            except Exception as error:
                raise EncodeError(f"{_name(value)}.__json__ failed: {error!r}") from error
        entry = next((entry for known, entry in encoders.items() if isinstance(value, known)), None)
        if entry is None:
            raise EncodeError(_no_wire_form(value))
    name, encode = entry
    return Tag(name, encode(value))


def _name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _no_wire_form(value: Any) -> str:
    import enum

    if isinstance(value, enum.Enum):
        return f"{_name(value)} is an enumeration; send the member's .value or .name"
    if isinstance(value, Iterable):
        return f"a value of type {_name(value)} has no wire form; send list(…) or dict(…) of it"
    return (
        f"a value of type {_name(value)} has no wire form; send plain data (for a database row, its key), "
        "or give the class a __json__ method that returns plain data"
    )


@functools.cache
def _decoders() -> dict[str, Callable[[Any], Any]]:
    import datetime
    import decimal
    import uuid

    return {
        "datetime": datetime.datetime.fromisoformat,
        "date": datetime.date.fromisoformat,
        "time": datetime.time.fromisoformat,
        "timedelta": lambda value: datetime.timedelta(*_integers(value, 3)),
        "decimal": lambda value: decimal.Decimal(_text(value)),
        "uuid": lambda value: uuid.UUID(_text(value)),
        "bytes": lambda value: binascii.a2b_base64(_text(value), strict_mode=True),
        "set": lambda value: set(_hashables(value)),
        "frozenset": lambda value: frozenset(_hashables(value)),
        "tuple": lambda value: tuple(_list(value)),
        "dict": _dict,
        "int": _int,
        "exception": exception_from_wire,
    }


def revive(value: dict[str, Any]) -> Any:
    """Return the typed value behind an object with the key ``$``, any other object as it is; called inside out.

    Raises `DecodeError` for an unknown tag and for a value that does not fit its tag.
    """
    if TAG not in value:
        return value
    tag = value[TAG]
    if not isinstance(tag, str) or value.keys() != {TAG, "v"}:
        raise DecodeError(f"malformed typed value: expected the keys '$' and 'v' only, found {shorten(list(value))}")
    decode = _decoders().get(tag)
    if decode is None:
        raise DecodeError(f"unknown typed value {shorten(tag)}; it may come from a newer release")
    try:
        return decode(value["v"])
    except DecodeError:
        raise
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        raise DecodeError(f"malformed {tag} value{_detail(error, value['v'])}") from error


def _detail(error: BaseException, value: Any) -> str:
    """Return what an error says; nothing where it quotes the value, which may be a sensitive argument."""
    text = shorten(error)
    quoted = isinstance(value, str) and len(value) > 1 and value[:20] in text
    return "" if quoted else f": {text}"


def shorten(value: Any) -> str:
    """Return a value as text that fits an error message."""
    text = str(value) if isinstance(value, BaseException) else repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, found {type(value).__name__}")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, found {type(value).__name__}")
    return value


def _integers(value: Any, count: int) -> list[int]:
    if len(_list(value)) != count or not all(type(item) is int for item in value):
        raise TypeError(f"expected {count} whole numbers")
    return list(value)


def _int(value: Any) -> int:
    if len(_text(value)) > _MAX_BITS // 4 + 4:
        raise ValueError(f"an integer of more than {MAX_DIGITS} digits")
    return int(value, 16)


def _dict(value: Any) -> dict[Any, Any]:
    for pair in _list(value):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise TypeError("expected a list of pairs")
    _hashables([pair[0] for pair in value])
    return dict(value)


def _hashables(value: Any) -> list[Any]:
    """Return the list, refusing members chosen to collide: numbers hash predictably, collisions cost quadratic time."""
    members = _list(value)
    if len(members) >= _COLLISION_CHECK_SIZE:
        hashes = sorted(map(hash, members))
        distinct = 1 + sum(map(int.__ne__, hashes, hashes[1:]))
        if distinct * 2 < len(hashes):
            raise ValueError(f"{len(hashes)} members share {distinct} hash values")
    return members


class Form:
    """Turns a value into plain data for one serializer, or says where in it is what cannot be sent.

    The slow way round, in Python: taken for errors, for dicts with the key ``$``, and always by yaml. ``keep`` are
    types that the serializer takes as they are; ``finite`` refuses NaN and infinity; ``keys`` are the types it takes
    as keys; ``convert_keys`` writes keys of an escaped dict as JSON would.
    """

    def __init__(
        self,
        keep: tuple[type, ...] = (),
        finite: bool = True,
        keys: tuple[type, ...] = (str, int, float, bool, type(None)),
        convert_keys: bool = True,
    ) -> None:
        self.keep = keep
        self.finite = finite
        self.keys = keys
        self.convert_keys = convert_keys

    def __call__(self, value: Any) -> Any:
        """Return plain data; raises `EncodeError` with the path of what cannot be encoded."""
        try:
            return self._plain(value, "", set())
        except RecursionError:
            raise EncodeError(f"nested deeper than the {MAX_DEPTH} levels a message can have") from None

    def _plain(self, value: Any, path: str, parents: set[int]) -> Any:
        if value is None or value is True or value is False or isinstance(value, self.keep):
            return value
        if isinstance(value, str | int | float):
            return self._scalar(value, path)
        if id(value) in parents:
            raise EncodeError(f"cannot encode {path or 'the value'}: it contains itself")
        if len(parents) >= MAX_DEPTH:
            raise EncodeError(f"nested deeper than the {MAX_DEPTH} levels a message can have")
        parents.add(id(value))
        try:
            return self._container(value, path, parents)
        finally:
            parents.discard(id(value))

    def _scalar(self, value: str | float, path: str) -> Any:
        if isinstance(value, str):
            if not value.isascii() and _has_surrogates(value):
                raise EncodeError(f"cannot encode {path or 'the value'}: a text with lone surrogates; send bytes")
            return str.__str__(value)
        if isinstance(value, int):
            if value.bit_length() > _MAX_BITS:
                raise EncodeError(f"cannot encode {path or 'the value'}: an integer of more than {MAX_DIGITS} digits")
            return int.__int__(value)
        if self.finite and not value - value == 0:
            raise EncodeError(f"cannot encode {path or 'the value'}: {value} is not a JSON number; send None or a text")
        return float.__float__(value)

    def _container(self, value: Any, path: str, parents: set[int]) -> Any:
        if isinstance(value, Tag):
            return {TAG: value[TAG], "v": self._plain(value["v"], path, parents)}
        if isinstance(value, dict):
            return self._mapping(value, path, parents)
        if isinstance(value, list | tuple):
            return [self._plain(item, f"{path}[{index}]", parents) for index, item in enumerate(value)]
        try:
            replacement = substitute(value)
        except EncodeError as error:
            raise EncodeError(f"cannot encode {path or 'the value'}: {error}") from error.__cause__
        return self._plain(replacement, path, parents)

    def _mapping(self, value: Mapping[Any, Any], path: str, parents: set[int]) -> dict[Any, Any]:
        for key in value:
            if not isinstance(key, self.keys) and not (isinstance(key, str | int | float) or key is None):
                raise EncodeError(
                    f"cannot encode {path or 'the value'}: {shorten(key)} ({_name(key)}) is a dict key; keys are text"
                )
            self._scalar(key if isinstance(key, str | int | float) else "", path)
        items = [(key, self._plain(item, _member(path, key), parents)) for key, item in value.items()]
        if TAG not in value and all(isinstance(key, self.keys) for key in value):
            return dict(items)
        return {TAG: "dict", "v": [[_json_key(key) if self.convert_keys else key, item] for key, item in items]}


def _member(path: str, key: Any) -> str:
    if isinstance(key, str) and key.isidentifier():
        return f"{path}.{key}" if path else key
    return f"{path}[{shorten(key)}]"


def _json_key(key: Any) -> str:
    if isinstance(key, str):
        return key
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    return float.__repr__(key) if isinstance(key, float) else int.__repr__(key)


def _has_surrogates(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


JSON_FORM: Final = Form()
#: Says whether an exception's argument can be sent. Exceptions inside it can: they replace their own arguments.
_CHECK: Final = Form(keep=(BaseException,))
