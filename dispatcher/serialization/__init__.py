"""Values on the wire: JSON with typed values, the other serializers, compression, packed values and exceptions.

``jsontext`` is the hot path; ``values`` says how a datetime, a Decimal, an exception … look on the wire; ``codecs`` and
``compression`` are registries; ``packing`` makes the form that carries anything but inline JSON.
"""

from dispatcher.serialization.codecs import DEFAULT_ACCEPT_CONTENT, Codec, content_names, get_codec, register
from dispatcher.serialization.compression import compress, compression_name, decompress, register_compression
from dispatcher.serialization.jsontext import json_decode, json_encode, json_text
from dispatcher.serialization.packing import (
    compress_json,
    decode_result,
    encode_result,
    pack,
    pack_bytes,
    packed_bytes,
    unpack,
    unpack_bytes,
)
from dispatcher.serialization.remote import RemoteError
from dispatcher.serialization.values import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_DIGITS,
    ValueTooLong,
    exception_from_wire,
    exception_to_wire,
)

__all__ = [
    "DEFAULT_ACCEPT_CONTENT",
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_DIGITS",
    "Codec",
    "RemoteError",
    "ValueTooLong",
    "compress",
    "compress_json",
    "compression_name",
    "content_names",
    "decode_result",
    "decompress",
    "encode_result",
    "exception_from_wire",
    "exception_to_wire",
    "get_codec",
    "json_decode",
    "json_encode",
    "json_text",
    "pack",
    "pack_bytes",
    "packed_bytes",
    "register",
    "register_compression",
    "unpack",
    "unpack_bytes",
]
