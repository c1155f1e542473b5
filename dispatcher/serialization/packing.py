"""Packed values: ``{"enc": serializer, "zip": compression, "data": base64}``, for what is not inline JSON; and results.

A result is either inline JSON text or, marked by a tag that no inline value can have, a packed value.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from typing import Any, Final

from dispatcher.exceptions import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured
from dispatcher.serialization.codecs import DEFAULT_ACCEPT_CONTENT, Codec, get_codec
from dispatcher.serialization.compression import compress, compression_name, decompress
from dispatcher.serialization.jsontext import json_decode, json_encode, utf8
from dispatcher.serialization.values import MAX_BYTES, TAG, ValueTooLong, shorten

_PACKED: Final = '{"$":"packed",'
_NEEDS: Final = "a packed value needs the texts 'enc' and 'data'; 'zip' is a text where it is given"


def pack(
    value: Any,
    serializer: str,
    compression: str | None = None,
    *,
    accept_content: frozenset[str] = DEFAULT_ACCEPT_CONTENT,
    max_size: int = MAX_BYTES,
) -> dict[str, str]:
    """Return the packed form; ``zip`` is left out where compression would not make it smaller.

    Raises `EncodeError` for a value the serializer cannot take and for an untrusted serializer that
    ``accept_content`` does not list, `ValueTooLong` for one of more than ``max_size`` bytes before compression,
    `ImproperlyConfigured` for an unknown serializer or compression.
    """
    return _packed(*pack_bytes(value, serializer, compression, accept_content=accept_content, max_size=max_size))


def pack_bytes(
    value: Any,
    serializer: str,
    compression: str | None = None,
    *,
    accept_content: frozenset[str] = DEFAULT_ACCEPT_CONTENT,
    max_size: int = MAX_BYTES,
) -> tuple[dict[str, str], bytes]:
    """Return the packed form without its ``data``, and the data as bytes; raises what `pack` raises."""
    codec = get_codec(serializer)
    if not codec.trusted and serializer not in accept_content:
        raise EncodeError(
            f"serializer {serializer!r} is used only where it is accepted: add it to accept_content "
            "(result_accept_content for results) of producers and workers"
        )
    content = codec.dump(value)
    if len(content) > max_size:
        raise ValueTooLong(
            f"the value is {len(content)} bytes long as {serializer}; the limit is {max_size}", len(content)
        )
    return _compressed(serializer, content, compression)


def compress_json(text: str, compression: str) -> dict[str, str] | None:
    """Return the packed form of a JSON text, or `None` where that would not be shorter than the text."""
    packed = _packed(*_compressed("json", text.encode("ascii"), compression))
    frame = len('{"enc":"json","zip":"","data":""}') + len(compression)
    return packed if "zip" in packed and len(packed["data"]) + frame < len(text) else None


def unpack(packed: Mapping[str, Any], accept_content: frozenset[str], max_size: int = MAX_BYTES) -> Any:
    """Return the value of a packed form that expands to at most ``max_size`` bytes.

    Raises `ContentDisallowed` for a serializer that is not accepted, before anything is decoded, and `DecodeError`
    for anything else that is wrong with it.
    """
    codec, compression = _checked(packed, accept_content)
    content = packed_bytes(packed, max_size)
    return _load(codec, compression, content, max_size)


def unpack_bytes(
    form: Mapping[str, Any], content: bytes, accept_content: frozenset[str], max_size: int = MAX_BYTES
) -> Any:
    """Return the value of a packed form whose data are kept elsewhere and given as bytes; raises what `unpack` does."""
    codec, compression = _checked(form, accept_content)
    return _load(codec, compression, content, max_size)


def packed_bytes(packed: Mapping[str, Any], max_size: int = MAX_BYTES) -> bytes:
    """Return the data of a packed form as bytes, still compressed; raises `DecodeError`."""
    data = packed.get("data")
    if not isinstance(data, str):
        raise DecodeError(_NEEDS)
    if len(data) > max_size // 3 * 4 + 8:
        raise DecodeError(f"the packed data are {len(data)} characters of base64; the limit is {max_size} bytes")
    try:
        return binascii.a2b_base64(data, strict_mode=True)
    except ValueError as error:
        raise DecodeError(f"the packed data are not base64: {error}") from error


def _checked(form: Mapping[str, Any], accept_content: frozenset[str]) -> tuple[Codec, str | None]:
    """Return the codec and compression of a packed form, after a look at whether it may be decoded at all."""
    serializer, compression = form.get("enc"), form.get("zip")
    if not isinstance(serializer, str) or not isinstance(compression, str | None):
        raise DecodeError(_NEEDS)
    if serializer not in accept_content:
        raise ContentDisallowed(
            f"serializer {shorten(serializer)} is not accepted here, where accept_content is {sorted(accept_content)}; "
            "if you trust every sender, add it to accept_content, for results to result_accept_content"
        )
    try:
        return get_codec(serializer), compression and compression_name(compression)
    except ImproperlyConfigured as error:
        raise DecodeError(f"a packed value cannot be read: {error}") from error


def _load(codec: Codec, compression: str | None, content: bytes, max_size: int) -> Any:
    if compression:
        content = decompress(compression, content, max_size)
    if len(content) > max_size:
        raise DecodeError(f"the packed value is {len(content)} bytes long; the limit is {max_size}")
    return codec.load(content)


def encode_result(
    value: Any,
    serializer: str = "json",
    compression: str | None = None,
    *,
    accept_content: frozenset[str] = DEFAULT_ACCEPT_CONTENT,
) -> str:
    """Return a result as the ASCII text a backend stores: inline JSON, or packed where the options ask for it.

    Raises what `pack` raises.
    """
    if serializer == "json":
        text = json_encode(value)
        packed = compress_json(text, compression) if compression else None
        if packed is None:
            return text
    else:
        packed = pack(value, serializer, compression, accept_content=accept_content)
    return _tagged(packed)


def _tagged(packed: dict[str, str]) -> str:
    return _PACKED + json_encode({"v": packed})[1:]


def decode_result(
    text: str | bytes, accept_content: frozenset[str] = DEFAULT_ACCEPT_CONTENT, max_size: int = MAX_BYTES
) -> Any:
    """Return the value of a stored result; raises what `unpack` raises, inline JSON needing ``json`` to be accepted."""
    if not isinstance(text, str):
        text = utf8(text)
    if not text.startswith(_PACKED):
        if "json" not in accept_content:
            raise ContentDisallowed("the result is JSON, which is not accepted here; add json to result_accept_content")
        return json_decode(text, max_bytes=max_size)
    # Without the tag it is an ordinary object, whose size base64 makes a third larger.
    stored = json_decode("{" + text[len(_PACKED) :], max_bytes=max_size * 2)
    packed = stored.get("v") if isinstance(stored, dict) else None
    if not isinstance(packed, dict) or TAG in packed:
        raise DecodeError("a packed result must be an object with 'enc' and 'data'")
    return unpack(packed, accept_content, max_size)


def _compressed(serializer: str, data: bytes, compression: str | None) -> tuple[dict[str, str], bytes]:
    form = {"enc": serializer}
    if compression:
        compressed = compress(compression, data)
        if len(compressed) < len(data):
            form["zip"], data = compression_name(compression), compressed
    return form, data


def _packed(form: dict[str, str], data: bytes) -> dict[str, str]:
    return {**form, "data": binascii.b2a_base64(data, newline=False).decode("ascii")}
