"""JSON text: typed values, errors that name the place, hostile texts."""

import datetime
import enum
import json
import sys
import uuid
from collections import OrderedDict, namedtuple
from decimal import Decimal
from typing import Any

import pytest

from dispatcher.exceptions import DecodeError, EncodeError
from dispatcher.serialization import MAX_DEPTH, MAX_DIGITS, json_decode, json_encode

BERLIN = datetime.timezone(datetime.timedelta(hours=1, minutes=30, seconds=7))

TYPED = [
    datetime.datetime(2026, 11, 2, 3, 4, 5, 678901),  # noqa: DTZ001 - naive ones survive too
    datetime.datetime(2026, 11, 2, 3, 4, 5, tzinfo=datetime.UTC),
    datetime.datetime(1, 1, 1, tzinfo=BERLIN),
    datetime.date(2026, 2, 28),
    datetime.time(23, 59, 59, 999999),
    datetime.time(1, 2, tzinfo=datetime.UTC),
    datetime.timedelta(days=-1, seconds=5, microseconds=7),
    datetime.timedelta.max,
    Decimal("1.10"),
    Decimal("-1E+400"),
    uuid.UUID("8f14e45f-ceea-467f-9a2b-1c2d3e4f5a6b"),
    b"\x00\xff<&>",
    b"",
    {1, "a", None, 2.5},
    set(),
    frozenset({(1, (2, "x")), frozenset({b"y"})}),
]


class Point:
    """Has a wire form of its own."""

    def __json__(self) -> dict[str, int]:
        return {"x": 1}


class Opaque:
    """Has none."""


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    HIGH = 3


class Kind(enum.StrEnum):
    A = "a"


@pytest.mark.parametrize("value", TYPED, ids=lambda value: type(value).__name__)
def test_typed_values_survive_a_round_trip_with_their_type(value: Any) -> None:
    """A typed value comes back equal and of the same type, alone and nested."""
    revived = json_decode(json_encode(value))
    assert revived == value
    assert type(revived) is type(value)
    assert json_decode(json_encode({"a": [value]})) == {"a": [value]}


def test_text_is_compact_ascii() -> None:
    """The text has no spaces and no character beyond ASCII, which is legal in XML as it stands."""
    text = json_encode({"a": [1, "é😀\x00\x7f￾"]})
    assert text == '{"a":[1,"\\u00e9\\ud83d\\ude00\\u0000\\u007f\\ufffe"]}'
    assert json_decode(text) == {"a": [1, "é😀\x00\x7f￾"]}


def test_aware_datetimes_keep_their_offset() -> None:
    """An offset, seconds included, is part of what survives; naive stays naive."""
    value = datetime.datetime(2026, 1, 1, tzinfo=BERLIN)
    assert json_decode(json_encode(value)).utcoffset() == value.utcoffset()
    assert json_decode(json_encode(TYPED[0])).tzinfo is None


def test_subclasses_of_typed_values_become_their_base() -> None:
    """A subclass of a typed value is sent as that type."""

    class Money(Decimal):
        pass

    assert json_decode(json_encode([Money("1.5"), bytearray(b"x"), memoryview(b"y")])) == [Decimal("1.5"), b"x", b"y"]


def test_what_json_has_is_sent_as_json_has_it() -> None:
    """Tuples become lists, scalar keys text, integer and text enumerations their value, ordered dicts objects."""
    row = namedtuple("row", "a b")
    value = {2: (1, 2), None: row(1, 2), True: Level.HIGH, 1.5: Kind.A, "o": OrderedDict(x=1)}
    assert json_decode(json_encode(value)) == {"2": [1, 2], "null": [1, 2], "true": 3, "1.5": "a", "o": {"x": 1}}


def test_objects_with_a_wire_form_of_their_own_are_asked_for_it() -> None:
    """An object's ``__json__`` gives what is sent, typed values included."""

    class Nested:
        def __json__(self) -> Any:
            return [Point(), Decimal(1)]

    assert json_decode(json_encode({"p": Nested()})) == {"p": [{"x": 1}, Decimal(1)]}


@pytest.mark.parametrize(
    "value",
    [
        {"$": "datetime", "v": "2026-01-01"},
        {"$": 1},
        {"$": {"$": {"$": None}}},
        [{"$": "x", "y": datetime.date(2026, 1, 1)}, Decimal(1)],
        {'a"$': 1, "$$": 2, "v": "$"},
        ['"$":', '{"$":"uuid"}'],
        {"\\": '\\"$":'},
        {"$": Decimal(1), "d": {1, 2}},
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_look_like_typed_values_survive(value: Any) -> None:
    """A user's dict with the key ``$`` comes back as it was."""
    assert json_decode(json_encode(value)) == value


def test_escaped_dicts_have_the_keys_json_gives_them() -> None:
    """Numbers as keys become text beside a ``$`` as they do elsewhere."""
    assert json_decode(json_encode({"$": 0, 1: 2, None: 3, False: 4, 2.5: 5})) == {
        "$": 0, "1": 2, "null": 3, "false": 4, "2.5": 5,
    }  # fmt: skip


def circular() -> list[Any]:
    value: list[Any] = []
    value.append({"again": value})
    return value


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ({"args": [{"x": Opaque()}]}, ["args[0].x", "Opaque", "__json__"]),
        (Opaque(), ["the value", "Opaque"]),
        ({"a b": [1, {2: Opaque()}]}, ["['a b'][1][2]"]),
        ([1, float("nan")], ["[1]", "nan", "None or a text"]),
        ({"a": float("-inf")}, ["a:", "-inf"]),
        ({"args": [Colour.RED]}, ["args[0]", "Colour", ".value or .name"]),
        ({"g": (x for x in "a")}, ["g:", "generator", "list("]),
        ({"k": {(1, 2): 3}}, ["k:", "(1, 2)", "tuple", "key"]),
        ({"k": {datetime.date(2026, 1, 1): 3}}, ["k:", "date", "key"]),
        ({"k": {float("nan"): 3}}, ["k:", "nan"]),
        (["ok", "\ud800"], ["[1]", "surrogate", "bytes"]),
        ({"k": {"\udfff": 1}}, ["k:", "surrogate"]),
        ([10**5000], ["[0]", str(MAX_DIGITS)]),
        (circular(), ["[0].again", "contains itself"]),
        ({"s": {frozenset({Opaque})}}, ["s[0][0]", "type"]),
    ],
)  # fmt: skip
def test_what_cannot_be_encoded_is_named_with_its_path(value: Any, parts: list[str]) -> None:
    """The error says where the value is, of what type, and what to do."""
    with pytest.raises(EncodeError) as error:
        json_encode(value)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_a_failing_wire_form_is_an_encode_error_with_its_cause() -> None:
    """What ``__json__`` raises is kept as the cause."""

    class Broken:
        def __json__(self) -> Any:
            raise KeyError("x")

    with pytest.raises(EncodeError, match=r"cannot encode b: .*Broken\.__json__ failed: KeyError\('x'\)") as error:
        json_encode({"b": Broken()})
    assert isinstance(error.value.__cause__, KeyError)


def test_an_endless_wire_form_is_an_encode_error() -> None:
    """A ``__json__`` that never ends does not end in a RecursionError."""

    class Endless:
        def __json__(self) -> Any:
            return [Endless()]

    with pytest.raises(EncodeError, match="nested deeper"):
        json_encode(Endless())


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_depth_is_limited_alike_in_both_directions() -> None:
    """The deepest value that can be sent can be read; one level more can be neither."""
    deepest = json_decode(nested(MAX_DEPTH))
    assert json_encode(deepest) == nested(MAX_DEPTH)
    with pytest.raises(DecodeError, match="nested deeper than 200"):
        json_decode(nested(MAX_DEPTH + 1))
    with pytest.raises(EncodeError, match="nested deeper than the 200"):
        json_encode([deepest])


@pytest.mark.parametrize("bracket", ["[", '{"a":'])
@pytest.mark.parametrize("levels", [MAX_DEPTH, MAX_DEPTH + 1])
def test_depth_is_limited_in_long_texts_too(bracket: str, levels: int) -> None:
    """Where brackets are looked for one by one, in text that is mostly one string, the limit is the same."""
    end = {"[": "]", '{"a":': "}"}[bracket]
    text = bracket * levels + '"' + "x" * 100_000 + '"' + end * levels
    if levels > MAX_DEPTH:
        with pytest.raises(DecodeError, match="nested deeper than 200"):
            json_decode(text)
    else:
        assert json_encode(json_decode(text)) == text


@pytest.mark.parametrize("text", ["$", '"$"', '"$":', "\\u0024", "\\ud800", "\U0001f600", "\\"])
def test_long_texts_keep_what_is_looked_for_in_them(text: str) -> None:
    """Whatever makes a text need a closer look, it comes back as it was, and so does what is beside it."""
    value = [text + "x" * 100_000, {"$": text}, datetime.date(2026, 2, 28)]
    assert json_decode(json_encode(value)) == value


@pytest.mark.parametrize("text", ["[", "]", '"[', '\\"[', "\\", '\\\\"{}', "a\\\\"])
def test_brackets_in_strings_do_not_count_as_depth(text: str) -> None:
    """Only brackets outside of strings nest, however the strings are escaped."""
    wide = [text * 50] * 300
    assert json_decode(json_encode(wide)) == wide
    with pytest.raises(DecodeError, match="nested deeper"):
        json_decode("[" * 150 + json.dumps(text) + "," + "[" * 60)


def test_wide_values_are_not_deep() -> None:
    """Many small lists are no deep list."""
    wide: list[Any] = [[{"a": []}]] * 1000
    assert json_decode(json_encode(wide)) == wide


COLLIDING = [k * (2**61 - 1) for k in range(20_000)]

HOSTILE: dict[str, tuple[Any, str]] = {
    "ten megabytes of lists": ("[" * 10_000_000, "nested deeper"),
    "ten megabytes of objects": ('{"a":' * 2_000_000, "nested deeper"),
    "deep and wide": (f"[{','.join([nested(MAX_DEPTH)] * 500)}]", "nested deeper"),
    "endless strings": ("[" * 300 + '"' * 1_000_000, "nested deeper|not JSON"),
    "too long": (" " * 17_000_000, "limit is 16777216"),
    "a huge integer": ("1" * 100_000, "4300"),
    "a huge negative integer": (f"[-{'9' * 4301}]", "4300"),
    "NaN": ("[NaN]", "NaN is not a JSON number"),
    "infinity": ('{"a":-Infinity}', "Infinity is not a JSON number"),
    "an infinite number": ("[1e999]", "out of range"),
    "a lone surrogate": ('"\\ud800"', "surrogate"),
    "the wrong order of surrogates": ('"\\uDE00\\uD83D"', "surrogate"),
    "a raw surrogate": ('"\ud800"', "surrogate"),
    "an encoded surrogate": (b'"\xed\xa0\x80"', "not UTF-8"),
    "latin-1": (b'"\xe9"', "not UTF-8: byte 1"),
    "utf-16": ("{}".encode("utf-16"), "not UTF-8"),
    "a byte order mark": ("\ufeff{}", "not JSON"),
    "nothing": ("", "not JSON"),
    "space": (" \n", "not JSON"),
    "half a text": ('{"a":"b', "not JSON: Unterminated string"),
    "two values": ("{} {}", "more text after the value"),
    "no JSON": ("<xml/>", "not JSON"),
    "single quotes": ("{'a':1}", "not JSON"),
    "control characters": ('"\x00"', "not JSON"),
    "an unknown tag": ('{"$":"os.system","v":"x"}', "unknown typed value 'os.system'"),
    "a tag of another type": ('{"$":["set"],"v":[]}', "malformed typed value"),
    "a tag without a value": ('{"$":"set"}', "malformed typed value"),
    "a tag with more": ('{"$":"set","v":[],"w":1}', "malformed typed value"),
    "truncated base64": ('{"$":"bytes","v":"QUJDR"}', "malformed bytes"),
    "base64 with spaces": ('{"$":"bytes","v":"QU JD"}', "malformed bytes"),
    "a number for bytes": ('{"$":"bytes","v":5}', "malformed bytes"),
    "no date": ('{"$":"date","v":"2026-02-30"}', "malformed date"),
    "a number for a datetime": ('{"$":"datetime","v":5}', "malformed datetime"),
    "a long text for a time": (f'{{"$":"time","v":"{"x" * 100_000}"}}', "malformed time value$"),
    "an endless timedelta": ('{"$":"timedelta","v":[1000000000,0,0]}', "malformed timedelta"),
    "a fractional timedelta": ('{"$":"timedelta","v":[0.5,0,0]}', "malformed timedelta"),
    "no decimal": ('{"$":"decimal","v":"1.2.3"}', "malformed decimal"),
    "no UUID": ('{"$":"uuid","v":"8f14"}', "malformed uuid"),
    "a list in a set": ('{"$":"set","v":[[]]}', "malformed set"),
    "a text for a set": ('{"$":"set","v":"abc"}', "malformed set"),
    "colliding members": (json.dumps({"$": "set", "v": COLLIDING}), "malformed set.*hash"),
    "colliding keys": (json.dumps({"$": "dict", "v": [[k, 0] for k in COLLIDING]}), "malformed dict.*hash"),
    "no pairs": ('{"$":"dict","v":["ab"]}', "malformed dict"),
    "a long hexadecimal": (f'{{"$":"int","v":"0x{"f" * 4000}"}}', "malformed int"),
    "an exception without a type": ('{"$":"exception","v":{}}', "exception needs"),
    "an exception of lists": ('{"$":"exception","v":[1]}', "an exception is an object"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_a_decode_error(name: str) -> None:
    """Whatever arrives, the error is a DecodeError that says what is wrong."""
    text, message = HOSTILE[name]
    with pytest.raises(DecodeError, match=message):
        json_decode(text)


def test_integers_are_limited_where_python_was_told_not_to() -> None:
    """The limit holds though the interpreter's own is switched off."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        assert json_decode(f"[-{'9' * MAX_DIGITS}]") == [-(10**MAX_DIGITS - 1)]
        with pytest.raises(DecodeError, match="an integer of 100000 digits"):
            json_decode("1" * 100_000)
        with pytest.raises(EncodeError, match="more than 4300 digits"):
            json_encode({"a": 10**100_000})
    finally:
        sys.set_int_max_str_digits(before)


def test_a_callers_limit_of_size_holds() -> None:
    """``max_bytes`` is the longest text read."""
    assert json_decode('"abc"', max_bytes=5) == "abc"
    with pytest.raises(DecodeError, match="5 bytes long; the limit is 4"):
        json_decode('"abc"', max_bytes=4)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a": 1}', {"a": 1}),
        (bytearray(b" [1 , 2]\r\n"), [1, 2]),
        ('\t{"$" : "decimal", "v" : "1"}', Decimal(1)),
        ('{"\\u0024":"uuid","v":"8f14e45fceea467f9a2b1c2d3e4f5a6b"}', TYPED[10]),
        ('"é😀"'.encode(), "é😀"),
        ('"\\\\ud800"', "\\ud800"),
        ('"\\uD83D\\uDE00"', "😀"),
        ('{"a":1,"a":2}', {"a": 2}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_json_of_other_makers_is_read(text: Any, value: Any) -> None:
    """Bytes, spaces, raw characters, escapes and repeated keys (the last wins) are read as by any JSON parser."""
    assert json_decode(text) == value


def test_what_is_too_long_to_be_read_is_not_written() -> None:
    """The limit of size holds in both directions."""
    assert json_encode("abc", max_bytes=5) == '"abc"'
    with pytest.raises(EncodeError, match="6 bytes long as JSON; the limit is 5"):
        json_encode("abcd", max_bytes=5)
