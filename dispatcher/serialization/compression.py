"""Compression by name, with decompression that stops at a size: zlib, gzip, bz2, lzma, zstd and the user's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from dispatcher.exceptions import DecodeError, ImproperlyConfigured
from dispatcher.serialization.values import shorten

#: Largest dictionary an lzma or zstd stream may ask for. lzma's highest preset needs 64 MiB, zstd's without --ultra 8
#: MiB.
MAX_DICTIONARY_BYTES: Final = 128 * 1024 * 1024


class _Compressor(NamedTuple):
    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes, int], bytes]


def compression_name(name: str) -> str:
    """Return the canonical name of a compression, as ``bz2`` for ``bzip2``.

    Raises `ImproperlyConfigured` for an unknown one.
    """
    canonical = _ALIASES.get(name, name)
    if canonical not in _COMPRESSORS:
        raise ImproperlyConfigured(f"unknown compression {shorten(name)}; known are {', '.join(sorted(_COMPRESSORS))}")
    return canonical


def register_compression(
    name: str, compress: Callable[[bytes], bytes], decompress: Callable[[bytes, int], bytes]
) -> None:
    """Add a compression, or replace one added before.

    ``decompress`` gets the data and the largest size in bytes to return; it must stop there.
    Raises `ImproperlyConfigured` for the name of a built-in one.
    """
    if not name or name in _BUILT_IN:
        raise ImproperlyConfigured(f"compression name {name!r} is {'a built-in one' if name else 'empty'}")
    _COMPRESSORS[name] = _Compressor(compress, decompress)


def compress(name: str, data: bytes) -> bytes:
    """Return the data compressed; raises `ImproperlyConfigured` for an unknown or missing compression."""
    return _COMPRESSORS[compression_name(name)].compress(data)


def decompress(name: str, data: bytes, max_size: int) -> bytes:
    """Return the data decompressed, which must be whole, without a remainder and at most ``max_size`` bytes.

    Memory is bounded by ``max_size``, whatever the data claim. Raises `DecodeError`.
    """
    try:
        result = _COMPRESSORS[compression_name(name)].decompress(data, max_size)
    except (DecodeError, ImproperlyConfigured):
        raise
    except Exception as error:
        raise DecodeError(f"not {name} data: {shorten(error)}") from error
    if len(result) > max_size:
        raise _too_large(name, max_size)
    return result


def _too_large(name: str, max_size: int) -> DecodeError:
    return DecodeError(f"the {name} data expand to more than {max_size} bytes, the limit")


def _inflate(name: str, stream: Any, data: bytes, max_size: int) -> bytes:
    result: bytes = stream.decompress(data, max_size + 1)
    if len(result) > max_size:
        raise _too_large(name, max_size)
    if not stream.eof:
        raise DecodeError(f"the {name} data are truncated")
    if stream.unused_data:
        raise DecodeError(f"more data after the {name} stream")
    return result


def _zlib_compress(data: bytes) -> bytes:
    import zlib

    return zlib.compress(data)


def _zlib_decompress(data: bytes, max_size: int) -> bytes:
    import zlib

    return _inflate("zlib", zlib.decompressobj(), data, max_size)


def _gzip_compress(data: bytes) -> bytes:
    import zlib

    # Unlike the gzip module's, this header carries no time: equal values give equal bodies.
    stream = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


def _gzip_decompress(data: bytes, max_size: int) -> bytes:
    import zlib

    return _inflate("gzip", zlib.decompressobj(wbits=16 + zlib.MAX_WBITS), data, max_size)


def _bz2_compress(data: bytes) -> bytes:
    import bz2

    return bz2.compress(data)


def _bz2_decompress(data: bytes, max_size: int) -> bytes:
    import bz2

    return _inflate("bz2", bz2.BZ2Decompressor(), data, max_size)


def _lzma_compress(data: bytes) -> bytes:
    import lzma

    return lzma.compress(data)


def _lzma_decompress(data: bytes, max_size: int) -> bytes:
    import lzma

    stream = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MAX_DICTIONARY_BYTES)
    return _inflate("lzma", stream, data, max_size)


def _zstd_module() -> Any:
    """Return Python 3.14's own module or the zstandard package, which differ in their interface."""
    for name in ("compression.zstd", "zstandard"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ImproperlyConfigured("zstd compression needs Python 3.14 or the zstandard package: pip install zstandard")


def _zstd_compress(data: bytes) -> bytes:
    result: bytes = _zstd_module().compress(data)
    return result


def _zstd_decompress(data: bytes, max_size: int) -> bytes:
    zstd = _zstd_module()
    if zstd.__name__ == "compression.zstd":
        window = MAX_DICTIONARY_BYTES.bit_length() - 1
        stream = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: window})
        return _inflate("zstd", stream, data, max_size)
    # The package allocates what the frame claims, so the claim is looked at first; -1 or 2**64-1 stands for none.
    claimed = zstd.frame_content_size(data)
    if claimed > max_size:
        raise _too_large("zstd", max_size)
    reader = zstd.ZstdDecompressor(max_window_size=MAX_DICTIONARY_BYTES)
    result: bytes = reader.decompress(data, max_output_size=max_size, allow_extra_data=False)
    return result


_COMPRESSORS: Final[dict[str, _Compressor]] = {
    "zlib": _Compressor(_zlib_compress, _zlib_decompress),
    "gzip": _Compressor(_gzip_compress, _gzip_decompress),
    "bz2": _Compressor(_bz2_compress, _bz2_decompress),
    "lzma": _Compressor(_lzma_compress, _lzma_decompress),
    "zstd": _Compressor(_zstd_compress, _zstd_decompress),
}
_BUILT_IN: Final = frozenset(_COMPRESSORS)
_ALIASES: Final = {"bzip2": "bz2", "xz": "lzma", "zstandard": "zstd"}
