"""Serializers, compression, packed values, results."""

import base64
import bz2
import gzip
import importlib.util
import lzma
import pickle
import struct
import sys
import zlib
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgpack
import pytest

from dispatcher import serialization
from dispatcher.exceptions import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured
from dispatcher.serialization import (
    MAX_DEPTH,
    codecs,
    compress,
    compress_json,
    compression,
    compression_name,
    content_names,
    decode_result,
    decompress,
    encode_result,
    json_decode,
    json_encode,
    pack,
    unpack,
)
from tests.unit.test_serialization import COLLIDING, TYPED, Colour, Opaque, circular

SERIALIZERS = ["json", "msgpack", "yaml", "pickle"]
COMPRESSIONS = ["zlib", "gzip", "bz2", "lzma"]
ALL = frozenset(SERIALIZERS)
LIMIT = 1_000_000


def packed(serializer: str, data: bytes) -> dict[str, str]:
    return {"enc": serializer, "data": base64.b64encode(data).decode()}


@pytest.fixture
def registries() -> Iterator[None]:
    """Puts back the serializers and compressions a test adds to."""
    registries: list[dict[str, Any]] = [codecs._CODECS, compression._COMPRESSORS]
    kept = [dict(registry) for registry in registries]
    yield
    for registry, before in zip(registries, kept, strict=True):
        registry.clear()
        registry.update(before)


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("value", [TYPED, {"$": {"$": 1}, "n": None, "t": True, "f": -1.5, "i": 2**70, "s": "é😀"}])
def test_every_serializer_carries_typed_values(serializer: str, value: Any) -> None:
    """The same values survive whatever the serializer."""
    assert unpack(pack(value, serializer, accept_content=ALL), ALL, LIMIT) == value


@pytest.mark.parametrize("serializer", ["msgpack", "yaml"])
def test_serializers_beside_json_keep_keys_that_are_no_text(serializer: str) -> None:
    """Numbers as keys stay numbers, beside a ``$`` too."""
    for value in ({1: 2, 2.5: 3, None: 4}, {"$": 0, 1: {2: 3}}):
        assert unpack(pack(value, serializer, accept_content=ALL), ALL, LIMIT) == value


@pytest.mark.parametrize("serializer", ["msgpack", "yaml"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"args": [{"x": Opaque()}]}, r"cannot encode args\[0\]\.x: .*Opaque"),
        ({"a": Colour.RED}, "cannot encode a: .*enumeration"),
        ({"a": {(1, 2): 3}}, r"cannot encode a: \(1, 2\) \(tuple\) is a dict key"),
        ({"a": {Decimal(1): 3}}, "cannot encode a: .*is a dict key"),
        (["\ud800"], r"cannot encode \[0\]: a text with lone surrogates"),
        (circular(), "contains itself"),
    ],
)
def test_serializers_name_what_they_cannot_encode(serializer: str, value: Any, message: str) -> None:
    """Errors name the path, as those of json do."""
    with pytest.raises(EncodeError, match=message):
        pack(value, serializer, accept_content=ALL)


@pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml"])
def test_depth_is_limited_alike_in_every_serializer(serializer: str) -> None:
    """What can be sent at the deepest can be read."""
    value: Any = []
    for _ in range(MAX_DEPTH - 1):
        value = [value]
    assert unpack(pack(value, serializer, accept_content=ALL), ALL, LIMIT) == value
    with pytest.raises(EncodeError, match="nested deeper"):
        pack([value], serializer, accept_content=ALL)


LISTS_OF_PROMISES = b"".join(struct.pack(">BI", 0xDD, 700_000) for _ in range(1000)) + bytes(700_000)
BIG = [{"$": "int", "v": hex(number)} for number in COLLIDING]
ALIAS_BOMB = "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n"

HOSTILE = {
    "msgpack nothing": ("msgpack", b"", "truncated"),
    "msgpack half": ("msgpack", b"\x92\x01", "truncated"),
    "msgpack more": ("msgpack", b"\x01\x02", "more data after"),
    "msgpack reserved byte": ("msgpack", b"\xc1", "not msgpack"),
    "msgpack deep": ("msgpack", b"\x91" * 300 + b"\xc0", "nested deeper"),
    "msgpack very deep": ("msgpack", b"\x91" * 900_000, "nested deeper"),
    "msgpack promises": ("msgpack", LISTS_OF_PROMISES, "truncated"),
    "msgpack text": ("msgpack", b"\xa1\xff", "not msgpack"),
    "msgpack list as key": ("msgpack", b"\x81\x90\x01", "not msgpack"),
    "msgpack extension": ("msgpack", b"\x81\x01\xd4\x05\x00", None),
    "msgpack collisions": ("msgpack", msgpack.packb({"$": "set", "v": BIG}), "malformed set.*hash"),
    "msgpack tag": ("msgpack", msgpack.packb({"$": "bytes", "v": "x"}), "malformed bytes"),
    "yaml aliases": ("yaml", ALIAS_BOMB.encode(), "aliases are refused"),
    "yaml python": ("yaml", b"!!python/object/apply:os.getcwd []", "refused|not yaml"),
    "yaml set": ("yaml", b"!!set {a, b}", "refused"),
    "yaml date": ("yaml", b"[2026-01-01]", "refused"),
    "yaml deep": ("yaml", b"[" * 100_000, "nested deeper"),
    "yaml long": ("yaml", b"[" + b"a," * 140_000, "limit is 262144"),
    "yaml number": ("yaml", b"1" * 5000, "yaml number"),
    "yaml base 60": ("yaml", b"1:1" * 2500, "yaml number|not yaml"),
    "yaml keys": ("yaml", b"{1: 2}", "keys other than texts"),
    "yaml list as key": ("yaml", b"{[1]: 2}", "keys other than texts"),
    "yaml syntax": ("yaml", b"{a", "not yaml"),
    "yaml no UTF-8": ("yaml", b"\xff", "not yaml"),
    "yaml two documents": ("yaml", b"--- 1\n--- 2\n", "not yaml"),
    "pickle half": ("pickle", pickle.dumps([1])[:-2], "not pickle"),
    "pickle missing class": ("pickle", b"cno_such_module\nx\n.", "not pickle"),
    "json": ("json", b"[NaN]", "NaN"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_data_is_a_decode_error(name: str) -> None:
    """Whatever the serializer is given, it gives a value or a DecodeError that says what is wrong."""
    serializer, data, message = HOSTILE[name]
    if message is None:
        unpack(packed(serializer, data), ALL, LIMIT)
        return
    with pytest.raises(DecodeError, match=message):
        unpack(packed(serializer, data), ALL, LIMIT)


def test_yaml_too_long_to_be_read_is_not_written() -> None:
    """The limit of size holds in both directions."""
    with pytest.raises(EncodeError, match="limit is 262144"):
        pack("x" * 262_144, "yaml", accept_content=ALL)


def test_pickle_and_yaml_are_used_only_where_accepted() -> None:
    """By default neither is written nor read, and the error names the setting."""
    for serializer in ("pickle", "yaml"):
        with pytest.raises(EncodeError, match="accept_content"):
            pack(1, serializer)
        data = pack(1, serializer, accept_content=ALL)
        with pytest.raises(ContentDisallowed, match=f"'{serializer}' is not accepted.*accept_content"):
            unpack(data, serialization.DEFAULT_ACCEPT_CONTENT, LIMIT)


def test_a_serializer_that_is_not_accepted_is_not_decoded() -> None:
    """The refusal comes before base64, decompression and decoding."""
    with pytest.raises(ContentDisallowed):
        unpack({"enc": "pickle", "zip": "no such", "data": "%"}, frozenset({"json"}), LIMIT)


def test_missing_yaml_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PyYAML the error says what to install."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    monkeypatch.delitem(sys.modules, "dispatcher.serialization.yamltext", raising=False)
    monkeypatch.delattr("dispatcher.serialization.yamltext", raising=False)
    with pytest.raises(ImproperlyConfigured, match=r"pip install 'serverless-dispatcher\[yaml\]'"):
        unpack(packed("yaml", b"1"), ALL, LIMIT)


def test_content_names_take_content_types() -> None:
    """Celery's content types are names too; a text or an unknown name is refused."""
    assert content_names(["json", "application/x-python-serialize"]) == {"json", "pickle"}
    with pytest.raises(ImproperlyConfigured, match="unknown serializer 'jsn'; known are json, msgpack, pickle, yaml"):
        content_names(["jsn"])
    with pytest.raises(ImproperlyConfigured, match="must be a list"):
        content_names("json")


@pytest.mark.usefixtures("registries")
def test_a_users_serializer_is_used_where_accepted() -> None:
    """A registered serializer packs and unpacks; what it raises becomes our error."""
    serialization.register("upper", lambda value: str(value).upper(), lambda text: int(text), binary=False)
    accept = frozenset({"upper"})
    assert unpack(pack(12, "upper", accept_content=accept), accept, LIMIT) == 12
    with pytest.raises(DecodeError, match="not upper: invalid literal"):
        unpack(pack("a", "upper", accept_content=accept), accept, LIMIT)
    with pytest.raises(EncodeError, match="accept_content"):
        pack(12, "upper")
    serialization.register("broken", lambda value: 1 / 0, int, binary=True, trusted=True)
    with pytest.raises(EncodeError, match="broken cannot encode the value: division by zero"):
        pack(12, "broken")


@pytest.mark.usefixtures("registries")
def test_built_in_names_cannot_be_taken() -> None:
    """json stays json, zlib zlib."""
    with pytest.raises(ImproperlyConfigured, match="'json' is a built-in one"):
        serialization.register("json", str, str, binary=False)
    with pytest.raises(ImproperlyConfigured, match="'zlib' is a built-in one"):
        serialization.register_compression("zlib", bytes, lambda data, size: data)
    serialization.register_compression("none", bytes, lambda data, size: data)
    assert decompress("none", compress("none", b"x"), 1) == b"x"
    with pytest.raises(DecodeError, match="more than 1 bytes"):
        decompress("none", b"xy", 1)


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_compression_round_trips_up_to_its_limit(name: str) -> None:
    """Data come back whole at exactly the limit and not at all beyond it."""
    for data in (b"", b"x", b"abc" * 10_000):
        assert decompress(name, compress(name, data), len(data)) == data
    with pytest.raises(DecodeError, match="expand to more than 29999 bytes"):
        decompress(name, compress(name, b"abc" * 10_000), 29_999)


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_damaged_compressed_data_are_a_decode_error(name: str) -> None:
    """Truncated, extended and foreign data are told apart."""
    data = compress(name, b"abc" * 1000)
    with pytest.raises(DecodeError, match="truncated"):
        decompress(name, data[:-1], LIMIT)
    with pytest.raises(DecodeError, match="more data after"):
        decompress(name, data + b"x", LIMIT)
    with pytest.raises(DecodeError, match=f"not {name} data"):
        decompress(name, b"no such data", LIMIT)


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_bombs_are_stopped_at_the_limit(name: str) -> None:
    """A stream of a gigabyte of zeros ends at the limit."""
    bomb = {
        "zlib": lambda: zlib.compress(bytes(50_000_000), 9),
        "gzip": lambda: gzip.compress(bytes(50_000_000), 9),
        "bz2": lambda: bz2.compress(bytes(20_000_000)),
        "lzma": lambda: lzma.compress(bytes(20_000_000), preset=0),
    }[name]()
    with pytest.raises(DecodeError, match="expand to more than"):
        unpack({"enc": "json", "zip": name, "data": base64.b64encode(bomb).decode()}, ALL, 1_000_000)


def test_an_lzma_stream_that_asks_for_too_large_a_dictionary_is_refused() -> None:
    """Memory is limited before the stream is read."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1536 * 1024 * 1024}]
    data = bytearray(lzma.compress(b"x", preset=0))
    # The dictionary's size is one byte of the block header, which a checksum follows.
    header = 12
    data[header + 4] = 38
    end = header + (data[header] + 1) * 4 - 4
    data[end : end + 4] = struct.pack("<I", zlib.crc32(data[header:end]))
    with pytest.raises(DecodeError, match="not lzma data: Memory usage limit"):
        decompress("lzma", bytes(data), LIMIT)
    assert filters[0]["dict_size"] > compression.MAX_DICTIONARY_BYTES


def test_zstd_works_or_says_what_it_needs() -> None:
    """With a zstd module data round-trip within the limit; without one the error names it."""
    if not any(importlib.util.find_spec(name) for name in ("zstandard", "compression")):
        with pytest.raises(ImproperlyConfigured, match="pip install zstandard"):
            compress("zstd", b"abc")
        return
    data = compress("zstd", b"abc" * 10_000)
    assert decompress("zstd", data, 30_000) == b"abc" * 10_000
    for damaged, size in ((data, 29_999), (data[:-1], 30_000), (data + b"x", 30_000), (b"no", 10)):
        with pytest.raises(DecodeError):
            decompress("zstd", damaged, size)


def test_compression_names_have_aliases() -> None:
    """Celery's bzip2 is bz2; an unknown name lists the known ones."""
    assert [compression_name(name) for name in ("bzip2", "xz", "zlib")] == ["bz2", "lzma", "zlib"]
    with pytest.raises(ImproperlyConfigured, match="unknown compression 'rar'; known are bz2, gzip, lzma, zlib, zstd"):
        compress("rar", b"")


def test_compression_is_applied_where_it_pays() -> None:
    """Small data stay as they are; ``zip`` says which did not."""
    assert "zip" not in pack([1, 2], "msgpack", "zlib")
    large = pack(["abc"] * 1000, "msgpack", "bzip2")
    assert large["zip"] == "bz2"
    assert unpack(large, ALL, LIMIT) == ["abc"] * 1000
    assert compress_json("[1,2]", "zlib") is None
    text = json_encode(["abc"] * 1000)
    short = compress_json(text, "zlib")
    assert short is not None
    assert len(json_encode(short)) < len(text)
    assert unpack(short, ALL, LIMIT) == ["abc"] * 1000


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "needs the texts 'enc' and 'data'"),
        ({"enc": "json"}, "needs the texts"),
        ({"enc": 1, "data": ""}, "needs the texts"),
        ({"enc": "json", "data": b"MQ=="}, "needs the texts"),
        ({"enc": "json", "data": "MQ==", "zip": 1}, "'zip' is a text"),
        ({"enc": "json", "data": "MQ=="[:-1]}, "not base64"),
        ({"enc": "json", "data": "MQ==\n"}, "not base64"),
        ({"enc": "json", "data": "M Q=="}, "not base64"),
        ({"enc": "json", "data": "MQ==MQ=="}, "not base64"),
        ({"enc": "json", "data": "é"}, "not base64"),
        ({"enc": "json", "data": ""}, "not JSON"),
        ({"enc": "json", "data": "MQ==", "zip": "rar"}, "unknown compression 'rar'"),
        ({"enc": "json", "data": "MQ==", "zip": "zlib"}, "zlib"),
        ({"enc": "json", "data": "A" * 2_000_000}, "the limit is 1000000 bytes"),
        ({"enc": "future", "data": "MQ=="}, "unknown serializer 'future'"),
    ],
)  # fmt: skip
def test_malformed_packed_values_are_decode_errors(value: dict[str, Any], message: str) -> None:
    """Each part is checked and named."""
    with pytest.raises(DecodeError, match=message):
        unpack(value, ALL | {"future"}, LIMIT)


def test_a_packed_value_may_be_as_long_as_the_limit() -> None:
    """The limit is of the data, not of their base64."""
    for size in range(1, 10):
        value = packed("json", b"1" * size)
        assert unpack(value, ALL, size) == int("1" * size)
        with pytest.raises(DecodeError, match=f"limit is {size - 1}"):
            unpack(value, ALL, size - 1)


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_results_round_trip(serializer: str, compression: str | None) -> None:
    """A result comes back whatever its serializer and compression; so do those that look like packed ones."""
    for value in (None, [1] * 500, TYPED, {"enc": "json", "data": "MQ=="}, {"$": "packed", "v": {"enc": "json"}}):
        text = encode_result(value, serializer, compression, accept_content=ALL)
        assert text.isascii()
        assert decode_result(text, ALL) == value
        assert decode_result(text.encode(), ALL) == value


def test_json_results_are_plain_json() -> None:
    """People and other languages can read a default result; compression keeps what it cannot shorten."""
    assert encode_result({"a": [1, "b"]}) == '{"a":[1,"b"]}'
    assert encode_result([1], compression="zlib") == "[1]"
    assert encode_result(["abc"] * 100, compression="zlib").startswith('{"$":"packed","v":{"enc":"json","zip":"zlib"')


def test_results_obey_accept_content_and_size() -> None:
    """Inline JSON needs json to be accepted; the limit holds for packed and inline results."""
    with pytest.raises(ContentDisallowed, match="result_accept_content"):
        decode_result("1", frozenset({"msgpack"}))
    with pytest.raises(ContentDisallowed, match="result_accept_content"):
        decode_result(encode_result(1, "pickle", accept_content=ALL))
    for text in (encode_result("a" * 100), encode_result("a" * 100, "msgpack")):
        with pytest.raises(DecodeError, match="limit"):
            decode_result(text, ALL, 50)
    malformed: list[Any] = ['{"$":"packed",', '{"$":"packed","v":1}', '{"$":"packed","v":{"$":"set","v":[]}}', b"\xff"]
    for text in malformed:
        with pytest.raises(DecodeError):
            decode_result(text)


def test_large_integers_go_through_msgpack_in_linear_time() -> None:
    """Integers beyond 64 bits have a form of their own, as long as JSON could carry them too."""
    for value in (2**64, -(2**64), 10**4299):
        assert unpack(pack([value], "msgpack"), ALL, LIMIT) == [value]
    assert json_decode(json_encode([2**64])) == [2**64]


def test_msgpack_one_level_too_deep_is_refused() -> None:
    """The limit is exact on receipt too."""
    assert unpack(packed("msgpack", b"\x91" * (MAX_DEPTH - 1) + b"\x90"), ALL, LIMIT)
    with pytest.raises(DecodeError, match="nested deeper than 200"):
        unpack(packed("msgpack", b"\x91" * MAX_DEPTH + b"\x90"), ALL, LIMIT)
