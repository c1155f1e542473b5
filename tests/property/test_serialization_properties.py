"""Whatever can be sent comes back; whatever arrives ends in a value or a DecodeError."""

import base64
import datetime
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.exceptions import DecodeError
from dispatcher.serialization import (
    compress,
    decode_result,
    decompress,
    encode_result,
    exception_from_wire,
    exception_to_wire,
    json_decode,
    json_encode,
    pack,
    unpack,
)

ALL = frozenset({"json", "msgpack", "yaml"})
SERIALIZERS = ["json", "msgpack", "yaml"]

# Whole seconds: CPython's fromisoformat loses an offset of less than one.
offsets = st.integers(-82_800, 82_800).map(lambda seconds: datetime.timezone(datetime.timedelta(seconds=seconds)))
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
keys = st.one_of(st.sampled_from(["$", "v", '"$"', '"$":', "\\", "$:", "set"]), text)
hashable = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        text,
        st.binary(max_size=20),
        st.datetimes(timezones=st.none() | offsets),
        st.dates(),
        st.times(timezones=st.none() | offsets),
        st.timedeltas(),
        st.decimals(allow_nan=False),
        st.uuids(),
    ),
    lambda children: st.frozensets(children | st.tuples(children, children), max_size=3),
    max_leaves=4,
)
values = st.recursive(
    hashable | st.sets(hashable, max_size=4),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(keys, children, max_size=4),
    max_leaves=20,
)


def same(left: Any, right: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return bool(left.keys() == right.keys()) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, set | frozenset):
        return sorted(map(repr, left)) == sorted(map(repr, right)) or bool(left == right)
    if isinstance(left, datetime.datetime | datetime.time):
        return bool(left == right) and left.utcoffset() == right.utcoffset()
    if isinstance(left, Decimal):
        return bool(left.as_tuple() == right.as_tuple())
    return bool(left == right)


@given(values)
def test_json_round_trips_nested_typed_values(value: Any) -> None:
    """Every value comes back the same, through ASCII text that any JSON parser reads."""
    encoded = json_encode(value)
    assert encoded.isascii()
    json.loads(encoded)
    assert same(json_decode(encoded), value)
    assert same(json_decode(encoded.encode()), value)


@pytest.mark.parametrize("serializer", SERIALIZERS)
@settings(max_examples=50)
@given(value=values, compression=st.sampled_from([None, "zlib", "bz2"]))
def test_every_serializer_round_trips_nested_typed_values(serializer: str, value: Any, compression: str | None) -> None:
    """Packed values and results come back the same, compressed or not."""
    packed = json_decode(json_encode(pack(value, serializer, compression, accept_content=ALL)))
    assert same(unpack(packed, ALL, 1_000_000), value)
    stored = encode_result(value, serializer, compression, accept_content=ALL)
    assert same(decode_result(stored, ALL), value)


@given(value=st.lists(values, max_size=3), kind=st.sampled_from([ValueError, KeyError, OSError, Exception]))
def test_exceptions_round_trip(value: list[Any], kind: type[Exception]) -> None:
    """Class and arguments survive whatever the arguments."""
    exc = kind(*value)
    revived = exception_from_wire(json_decode(json_encode(exception_to_wire(exc))))
    assert type(revived) is type(exc)
    assert same(list(revived.args), list(exc.args))


TAGS = [
    "datetime",
    "date",
    "time",
    "timedelta",
    "decimal",
    "uuid",
    "bytes",
    "set",
    "frozenset",
    "tuple",
    "dict",
    "int",
    "exception",
    "packed",
]
TYPES = ["ValueError", "OSError", "UnicodeDecodeError", "ExceptionGroup", "eval", "SyntaxError"]


def look_alikes(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """JSON that resembles typed values and exceptions."""
    names = st.sampled_from(["$", "v", "a", "type", "module", "args", "cause"]) | st.text(max_size=3)
    wires = {"type": st.sampled_from(TYPES), "module": st.just("builtins"), "args": st.lists(children, max_size=5)}
    return st.one_of(
        st.lists(children, max_size=3),
        st.dictionaries(names, children),
        st.fixed_dictionaries({"$": st.sampled_from(TAGS) | children, "v": children}),
        st.fixed_dictionaries({"$": st.just("exception"), "v": st.fixed_dictionaries(wires)}),
    )


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10))
junk_json = st.recursive(scalars, look_alikes, max_leaves=10)


def value_or_decode_error(text: Any) -> None:
    try:
        json_decode(text)
    except DecodeError as caught:
        message = str(caught)
    else:
        message = "a value"
    assert 0 < len(message) < 500


@given(st.text(max_size=100) | st.binary(max_size=100))
def test_any_text_or_bytes_end_in_a_value_or_a_decode_error(body: str | bytes) -> None:
    """Nothing but DecodeError is ever raised."""
    value_or_decode_error(body)
    for stored in (body, f'{{"$":"packed",{body!r}'):
        try:
            decode_result(stored, ALL)
        except DecodeError:
            pass


@settings(max_examples=300)
@given(junk_json)
def test_any_json_ends_in_a_value_or_a_decode_error(value: Any) -> None:
    """Objects that look like typed values raise nothing else either."""
    value_or_decode_error(json.dumps(value))
    value_or_decode_error(json.dumps(value, ensure_ascii=False, indent=1))


@given(junk_json, st.data())
def test_damaged_json_ends_in_a_value_or_a_decode_error(value: Any, data: st.DataObject) -> None:
    """Cut anywhere, or with any character replaced, a text raises nothing else."""
    encoded = json.dumps(value)
    place = data.draw(st.integers(0, len(encoded) - 1))
    value_or_decode_error(encoded[:place])
    value_or_decode_error(encoded[:place] + data.draw(st.characters()) + encoded[place + 1 :])


@pytest.mark.parametrize("serializer", SERIALIZERS)
@settings(max_examples=100)
@given(data=st.binary(max_size=60))
def test_any_packed_data_end_in_a_value_or_a_decode_error(serializer: str, data: bytes) -> None:
    """Any bytes, under any name and compression, raise nothing but DecodeError."""
    for zipped in ({}, {"zip": "zlib"}, {"zip": "gzip"}, {"zip": "bz2"}, {"zip": "lzma"}):
        try:
            unpack({"enc": serializer, "data": base64.b64encode(data).decode(), **zipped}, ALL, 10_000)
        except DecodeError:
            pass


@given(st.sampled_from(["zlib", "gzip", "bz2", "lzma"]), st.binary(max_size=200), st.data())
def test_compression_is_exact_or_refused(name: str, content: bytes, data: st.DataObject) -> None:
    """Whole data come back at their size; cut data never do."""
    compressed = compress(name, content)
    assert decompress(name, compressed, len(content)) == content
    with pytest.raises(DecodeError):
        decompress(name, compressed[: data.draw(st.integers(0, len(compressed) - 1))], len(content))
