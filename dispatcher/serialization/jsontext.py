"""JSON text: compact, ASCII, with typed values; the hot path of every message.

Encoding is one call of the C encoder, decoding one call of the C scanner. What costs more is done only for a text that
shows, by a substring or a count, that it needs it.
"""

from __future__ import annotations

import itertools
import json
import json.encoder
import re
import sys
from collections.abc import Callable
from json.encoder import encode_basestring_ascii
from typing import Any, Final, TypeAlias

from dispatcher.exceptions import DecodeError, EncodeError
from dispatcher.serialization.values import (
    JSON_FORM,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_DIGITS,
    Tag,
    ValueTooLong,
    revive,
    shorten,
    substitute,
)

#: The C encoder, as `json.JSONEncoder.iterencode` makes it; not every interpreter has one.
_make_encoder: Any = getattr(json.encoder, "c_make_encoder", None)
#: Returns the value that begins at an index of a text, and the index of its end.
_Scan: TypeAlias = Callable[[str, int], tuple[Any, int]]


class _Encoder(json.JSONEncoder):
    """Encodes once and counts the typed values it wrote; class attributes spare the constructor."""

    item_separator = ","
    key_separator = ":"
    ensure_ascii = True
    allow_nan = False
    check_circular = True
    skipkeys = False
    sort_keys = False
    indent: Any = None

    def __init__(self) -> None:
        self.tags = 0

    def default(self, o: Any) -> Any:
        value = substitute(o)
        if type(value) is Tag:
            self.tags += 1
        return value

    if _make_encoder is not None:

        def encode(self, o: Any) -> str:
            """Encode as the standard library does, without the wrappers that take longer than a small value."""
            write = _make_encoder({}, self.default, encode_basestring_ascii, None, ":", ",", False, False, False)
            return "".join(write(o, 0))


def json_encode(value: Any, *, max_bytes: int = MAX_BYTES) -> str:
    """Return a value as compact ASCII JSON.

    Datetimes, dates, times, timedeltas, Decimals, UUIDs, bytes, sets and exceptions come back as what they are;
    tuples as lists; keys that are numbers, booleans or `None` as text; objects with ``__json__`` as what that
    returns. Raises `EncodeError` naming the path and type of anything else, NaN and infinity included.
    """
    encoder = _Encoder()
    try:
        text = encoder.encode(value)
    except (TypeError, ValueError, RecursionError, EncodeError) as error:
        JSON_FORM(value)
        raise EncodeError(f"cannot encode the value: {error}") from error
    if not 0 < sys.get_int_max_str_digits() <= MAX_DIGITS:
        JSON_FORM(value)  # refuses longer integers, which the interpreter was told not to
    # One character is looked for at the speed of the memory, two or more at a tenth of it.
    if "$" in text and '"$":' in text and text.count('"$":') != encoder.tags:
        # A dict with the key "$" (or a key that ends in it): write it again with such dicts marked.
        text = _Encoder().encode(JSON_FORM(value))
    if _has_many_brackets(text) and _too_deep(text):
        raise EncodeError(f"nested deeper than the {MAX_DEPTH} levels a message can have")
    if len(text) > max_bytes:
        raise ValueTooLong(f"the value is {len(text)} bytes long as JSON; the limit is {max_bytes}", len(text))
    if "\\" in text and "\\ud" in text and _has_lone_surrogates(text):
        JSON_FORM(value)
        raise EncodeError("cannot encode the value: a text with lone surrogates; send bytes")
    return text


def json_text(text: str) -> str:
    """Return what `json_encode` does, faster for a text, which nearly always is what it is given."""
    if type(text) is str and "\\ud" not in (quoted := encode_basestring_ascii(text)):
        return quoted
    return json_encode(text)


def json_decode(text: str | bytes | bytearray, *, max_bytes: int = MAX_BYTES) -> Any:
    """Return the value of a JSON text, typed values revived.

    Of equal keys in one object the last wins. Raises `DecodeError`, in time and memory proportional to the text, for
    anything that `json_encode` would not write: a text longer than ``max_bytes``, nesting beyond `MAX_DEPTH`,
    integers beyond `MAX_DIGITS`, NaN, infinite numbers, lone surrogates, invalid UTF-8, unknown or malformed typed
    values.
    """
    length = len(text)
    if length > max_bytes:
        raise DecodeError(f"the JSON text is {length} bytes long; the limit is {max_bytes}")
    if not isinstance(text, str):
        text = utf8(text)
        length = len(text)
    if length <= _SHORT and "\\" not in text and text.isascii():
        scan = _TAGGED if '"$"' in text else _PLAIN
    else:
        scan = _checked(text)
    try:
        value, end = scan(text, 0)
    except StopIteration as error:
        if text and text[0] in _WHITESPACE:
            return json_decode(text.lstrip(_WHITESPACE), max_bytes=max_bytes)
        raise DecodeError(f"not JSON: Expecting value at character {error.value}") from None
    except json.JSONDecodeError as error:
        raise DecodeError(f"not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError:
        raise DecodeError("the JSON text is nested too deeply for what is left of the stack") from None
    except ValueError as error:
        raise DecodeError(f"not JSON: {shorten(error)}") from error
    if end != length and text[end:].strip(_WHITESPACE):
        raise DecodeError(f"not JSON: more text after the value, at character {end}")
    return value


def _checked(text: str) -> _Scan:
    """Return the scanner for a text of any kind, once nothing is found in it that no message has."""
    if not text.isascii():
        _refuse_surrogates(text)
    if _has_many_brackets(text) and _too_deep(text):
        raise DecodeError(f"the JSON text is nested deeper than {MAX_DEPTH} levels")
    tagged = "$" in text and '"$"' in text
    if "\\" in text and "\\u" in text:
        tagged = tagged or "\\u0024" in text
        if _has_lone_surrogates(text):
            raise DecodeError("the JSON text has a lone surrogate, which is no character")
    # Python refuses longer integers by itself, at no cost, unless someone switched that off or raised it.
    if 0 < sys.get_int_max_str_digits() <= MAX_DIGITS:
        return _TAGGED if tagged else _PLAIN
    return _scan(revive if tagged else None, _short_int)


#: No text up to this length, in characters, nests beyond `MAX_DEPTH`, or has an integer beyond `MAX_DIGITS`.
_SHORT: Final = MAX_DEPTH
_WHITESPACE: Final = " \t\n\r"


def utf8(data: bytes | bytearray) -> str:
    """Return bytes as text; raises `DecodeError` where they are not UTF-8."""
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise DecodeError(f"not UTF-8: byte {error.start} ({error.reason})") from error


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DecodeError(f"the JSON text has a lone surrogate at character {error.start}") from error


_SIGN: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_ALL_BUT_BRACKETS: Final = bytes(set(range(256)) - set(b"[{]}"))
_SLICE: Final = 65536


#: From this length on, in characters, finding a few brackets one by one takes less time than counting them.
_LONG: Final = 8192


def _has_many_brackets(text: str) -> bool:
    """Say whether there are enough opening brackets for more levels than a text may have."""
    if len(text) < _LONG:
        return text.count("[") + text.count("{") > MAX_DEPTH
    found = 0
    for bracket in "[{":
        place = text.find(bracket)
        while place >= 0:
            found += 1
            if found > MAX_DEPTH:
                return True
            place = text.find(bracket, place + 1)
    return False


def _too_deep(text: str) -> bool:
    """Say whether brackets outside of strings nest beyond the limit; no Python code runs per character.

    What is not JSON may give any answer: it is refused one way or the other.
    """
    if '"' in text:
        if "\\" in text:
            text = text.replace("\\\\", "").replace('\\"', "")
        text = "".join(text.split('"')[::2])
    brackets = text.encode("utf-8", "replace").translate(_SIGN, _ALL_BUT_BRACKETS)
    depth = 0
    for start in range(0, len(brackets), _SLICE):
        signs = memoryview(brackets[start : start + _SLICE]).cast("b")
        depths = list(itertools.accumulate(signs, initial=depth))
        if max(depths) > MAX_DEPTH:
            return True
        depth = depths[-1]
    return False


_PAIR: Final = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def _has_lone_surrogates(text: str) -> bool:
    if _SURROGATE.search(text) is None:
        return False
    return _SURROGATE.search(_PAIR.sub(" ", text.replace("\\\\", "  "))) is not None


def _refuse_constant(name: str) -> Any:
    raise DecodeError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if number - number != 0:
        raise DecodeError(f"a number of {len(digits)} characters is out of range")
    return number


def _short_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS + (digits[0] == "-"):
        raise DecodeError(f"an integer of {len(digits)} digits; the limit is {MAX_DIGITS}")
    return int(digits)


def _scan(hook: Any, parse_int: Any = None) -> _Scan:
    """Return the scanner of a decoder, which is all of it that is written in C."""
    decoder = json.JSONDecoder(
        object_hook=hook, parse_float=_finite, parse_int=parse_int, parse_constant=_refuse_constant
    )
    scan: _Scan = decoder.scan_once  # type: ignore[attr-defined] # as documented in json.decoder's own code
    return scan


_PLAIN: Final = _scan(None)
_TAGGED: Final = _scan(revive)
