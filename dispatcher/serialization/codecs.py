"""The serializers by name: json, msgpack, yaml, pickle and those the user registers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dispatcher.exceptions import USER_ERRORS, DecodeError, EncodeError, ImproperlyConfigured
from dispatcher.serialization.jsontext import json_decode, json_encode
from dispatcher.serialization.values import MAX_DEPTH, Form, Tag, revive, shorten, substitute

if TYPE_CHECKING:
    import types

#: Accepted on receipt unless ``accept_content`` says otherwise. yaml is slow enough to be a burden, pickle runs code.
DEFAULT_ACCEPT_CONTENT: Final = frozenset({"json", "msgpack"})


class Codec(NamedTuple):
    """A serializer; ``encode`` gives bytes if ``binary``, else text.

    One that is not ``trusted`` is used only where ``accept_content`` lists it.
    """

    name: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    binary: bool
    trusted: bool

    def dump(self, value: Any) -> bytes:
        """Return the value as bytes; raises `EncodeError`."""
        try:
            data = self.encode(value)
        except EncodeError:
            raise
        except Exception as error:
            raise EncodeError(f"{self.name} cannot encode the value: {shorten(error)}") from error
        return bytes(data) if self.binary else str(data).encode("utf-8")

    def load(self, data: bytes) -> Any:
        """Return the value behind the bytes; raises `DecodeError`."""
        try:
            return self.decode(data if self.binary else data.decode("utf-8"))
        except (DecodeError, ImproperlyConfigured):
            raise
        except USER_ERRORS as error:  # a pickle calls what it likes
            raise DecodeError(f"not {self.name}: {shorten(error)}") from error


_CODECS: Final[dict[str, Codec]] = {}
#: The content types that Celery's ``accept_content`` takes beside the names.
_CONTENT_TYPES: Final = {
    "application/json": "json",
    "application/x-msgpack": "msgpack",
    "application/x-yaml": "yaml",
    "application/x-python-serialize": "pickle",
}


def register(
    name: str,
    encode: Callable[[Any], Any],
    decode: Callable[[Any], Any],
    *,
    binary: bool,
    trusted: bool = False,
) -> None:
    """Add a serializer, or replace one added before.

    ``encode`` turns a value into bytes (``binary``) or text, ``decode`` the reverse; what they raise becomes
    `EncodeError` and `DecodeError`. ``trusted`` says that decoding hostile data can do no more than fail; else it is
    read only where ``accept_content`` lists it. Raises `ImproperlyConfigured` for the name of a built-in one.
    """
    if not name or name in _BUILT_IN:
        raise ImproperlyConfigured(f"serializer name {name!r} is {'a built-in one' if name else 'empty'}")
    _CODECS[name] = Codec(name, encode, decode, binary, trusted)


def get_codec(name: str) -> Codec:
    """Return the serializer of a name; raises `ImproperlyConfigured` for an unknown one."""
    codec = _CODECS.get(name)
    if codec is None:
        raise ImproperlyConfigured(f"unknown serializer {shorten(name)}; known are {', '.join(sorted(_CODECS))}")
    return codec


def content_names(names: Iterable[str]) -> frozenset[str]:
    """Return the serializers that an ``accept_content`` setting lists, by name or content type.

    Raises `ImproperlyConfigured` for an unknown one.
    """
    if isinstance(names, str):
        raise ImproperlyConfigured(f"accept_content must be a list of serializers, such as [{names!r}], not a text")
    return frozenset(get_codec(_CONTENT_TYPES.get(name, name)).name for name in names)


def _msgpack() -> types.ModuleType:
    import msgpack

    module: types.ModuleType = msgpack
    return module


_MSGPACK_FORM: Final = Form(
    keep=(bytes, bytearray), finite=False, keys=(str, bytes, int, float, type(None)), convert_keys=False
)
#: msgpack's headers of lists and maps: fixmap and fixarray, then array16 to map32.
_HEADERS: Final = bytes([*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF])


def _msgpack_encode(value: Any) -> bytes:
    tags = 0

    def default(unknown: Any) -> Any:
        nonlocal tags
        replacement = substitute(unknown)
        tags += type(replacement) is Tag
        return replacement

    pack = _msgpack().packb
    try:
        data: bytes = pack(value, default=default)
    except (TypeError, ValueError, OverflowError, RecursionError, EncodeError) as error:
        _MSGPACK_FORM(value)
        raise EncodeError(f"msgpack cannot encode the value: {shorten(error)}") from error
    if b"\xa1$" in data and data.count(b"\xa1$") != tags:
        data = pack(_MSGPACK_FORM(value), default=default)
    if not _readable(data):
        _MSGPACK_FORM(value)
    return data


def _readable(data: bytes) -> bool:
    """Say whether all keys are text or bytes, for msgpack writes lists as keys too, and nothing is too deep."""
    try:
        value = _msgpack().unpackb(data)
    except (ValueError, TypeError):
        return False
    return not (_nested_deeply(data) and _depth_exceeds(value))


def _msgpack_decode(data: bytes) -> Any:
    msgpack = _msgpack()
    reader = msgpack.Unpacker(max_buffer_size=max(1, len(data)))
    try:
        # Headers that promise more than follows are found before anything is allocated for them.
        reader.feed(data)
        reader.skip()
    except msgpack.OutOfData:
        raise DecodeError("the msgpack data is truncated") from None
    except msgpack.StackError:
        raise DecodeError(f"the msgpack data is nested deeper than {MAX_DEPTH} levels") from None
    if reader.tell() != len(data):
        raise DecodeError(f"more data after the msgpack value, at byte {reader.tell()}")
    # Keys may be numbers: so few of 64 bits share a hash value that they cannot make a dict slow.
    value = msgpack.unpackb(data, object_hook=revive if b"$" in data else None, strict_map_key=False)
    if _nested_deeply(data) and _depth_exceeds(value):
        raise DecodeError(f"the msgpack data is nested deeper than {MAX_DEPTH} levels")
    return value


def _nested_deeply(data: bytes) -> bool:
    """Say whether there are enough bytes that may be headers for the nesting to reach the limit."""
    return len(data) - len(data.translate(None, _HEADERS)) > MAX_DEPTH


def _depth_exceeds(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for container in level
            if isinstance(container, dict | list | tuple | set | frozenset)
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, dict | list | tuple | set | frozenset)
        ]
        if not level:
            return False
    return True


def _yaml() -> types.ModuleType:
    try:
        from dispatcher.serialization import yamltext
    except ImportError:
        raise ImproperlyConfigured(
            "the yaml serializer needs PyYAML: pip install 'serverless-dispatcher[yaml]'"
        ) from None
    return yamltext


def _pickle_encode(value: Any) -> bytes:
    import pickle

    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)


def _pickle_decode(data: bytes) -> Any:
    import pickle

    return pickle.loads(data)


for _codec in (
    Codec("json", json_encode, lambda text: json_decode(text, max_bytes=len(text)), binary=False, trusted=True),
    Codec("msgpack", _msgpack_encode, _msgpack_decode, binary=True, trusted=True),
    Codec("yaml", lambda value: _yaml().encode(value), lambda text: _yaml().decode(text), binary=False, trusted=False),
    Codec("pickle", _pickle_encode, _pickle_decode, binary=True, trusted=False),
):
    _CODECS[_codec.name] = _codec
_BUILT_IN: Final = frozenset(_CODECS)
