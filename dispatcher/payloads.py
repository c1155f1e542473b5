"""Payload stores: where arguments and results go that are too large for a message or a record (a claim check).

What is stored is named by its SHA-256, so that storing it again changes nothing, and a reference says all that its
reader has to check: ``{"ref": "s3://bucket/prefix/<sha256>", "size": bytes, "sha256": hex, "enc": …, "zip": …}``.
Nothing here deletes, for another message may refer to the same object: a lifecycle rule does
(`docs/large-payloads.md`).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from dispatcher.exceptions import (
    DecodeError,
    ImproperlyConfigured,
    MessageTooLarge,
    OperationalError,
    PayloadMissing,
)
from dispatcher.message import Message, encode
from dispatcher.security import SIGNATURE_LENGTH
from dispatcher.serialization import MAX_BYTES, json_encode, packed_bytes

_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
#: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
#: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
_PREFIX: Final = re.compile(r"[A-Za-z0-9!_.*'()/-]{0,900}", re.ASCII)
#: Bytes of a body that are left free: for its signature, and for the reason it carries as attributes when it is dead.
_RESERVED: Final = SIGNATURE_LENGTH + 65_536
#: Bytes below which a reference would save nothing.
_TOO_SMALL: Final = 512
#: Payloads that are stored side by side, and held in memory until then.
_TOGETHER: Final = 8
#: How often a download that breaks off is begun anew.
_READS: Final = 3


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


class PayloadElsewhere(DecodeError):
    """A reference leads to another store than the one configured here."""


class PayloadStore(ABC):
    """Keeps payloads by their SHA-256; ``base`` is the URL that all its references begin with.

    Every method raises `OperationalError` where the store cannot be reached. May be used from several threads.
    """

    def __init__(self, base: str) -> None:
        self.base = base

    def reference(self, form: Mapping[str, str], content: bytes) -> dict[str, Any]:
        """Return the reference to a payload, which need not be stored yet; ``form`` says how it is encoded."""
        digest = hashlib.sha256(content).hexdigest()
        return {"ref": f"{self.base}/{digest}", "size": len(content), "sha256": digest, **form}

    def holds(self, reference: Mapping[str, Any]) -> bool:
        """Say whether a reference leads here."""
        digest = reference.get("sha256")
        # Else a "digest" with slashes and dots could lead to any other object of the bucket, or file of the machine.
        return _is_digest(digest) and reference.get("ref") == f"{self.base}/{digest}"

    def put(self, payloads: Sequence[tuple[Mapping[str, Any], bytes]]) -> None:
        """Store payloads under their references; one that is there already is as if newly stored."""
        for reference, content in payloads:
            self._put(reference["sha256"], content)

    def get(self, reference: Mapping[str, Any], max_bytes: int) -> bytes:
        """Return a payload, in memory bounded by its stated size, which may be at most ``max_bytes``.

        Raises `PayloadMissing` where it is gone, `PayloadElsewhere` for a reference to another store, and `DecodeError`
        for a malformed or too large one and for content that is not what was stored.
        """
        size, digest = self._checked(reference, max_bytes)
        content = self._get(digest, size)
        if content is None or len(content) != size:
            raise DecodeError(f"{reference['ref']} is not {size:,} bytes long, as its reference says: it was changed")
        if hashlib.sha256(content).hexdigest() != digest:
            raise DecodeError(f"{reference['ref']} has another SHA-256 than its reference says: it was changed")
        return content

    def refresh(self, reference: Mapping[str, Any]) -> None:
        """Begin a payload's lifetime anew, because another message refers to it; raises `PayloadMissing`."""
        if self.holds(reference):
            self._refresh(reference["sha256"])

    def _checked(self, reference: Mapping[str, Any], max_bytes: int) -> tuple[int, str]:
        ref, size, digest = reference.get("ref"), reference.get("size"), reference.get("sha256")
        if type(ref) is not str or type(size) is not int or size < 0 or type(digest) is not str:
            raise DecodeError("a reference to a payload needs the texts 'ref' and 'sha256' and the number 'size'")
        if not _is_digest(digest):
            raise DecodeError("the 'sha256' of a reference to a payload must be 64 hexadecimal digits")
        # Only what was stored here is read: else a message could make a worker read whatever its role can.
        if not self.holds(reference):
            raise PayloadElsewhere(
                f"the payload is in {ref[:200]!r}, and payload_bucket here is {self.base}: producers, workers and "
                "readers of results must name the same bucket and prefix"
            )
        if size > max_bytes:
            raise DecodeError(f"the payload is {size:,} bytes long; max_message_bytes is {max_bytes:,}")
        return size, digest

    def _missing(self, digest: str) -> PayloadMissing:
        return PayloadMissing(
            f"{self.base}/{digest} is gone; the store's lifecycle rule must keep objects for longer than a message can "
            "wait, be retried and lie among the dead letters, and longer than result_expires"
        )

    def describe(self) -> str:
        """Name the store for people."""
        return self.base

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Close connections; the store opens new ones when it is used again."""

    @abstractmethod
    def _put(self, digest: str, content: bytes) -> None:
        """Store one payload durably, or begin its lifetime anew."""

    @abstractmethod
    def _get(self, digest: str, size: int) -> bytes | None:
        """Return what is stored if it is ``size`` bytes long, else `None`; raises `PayloadMissing`."""

    @abstractmethod
    def _refresh(self, digest: str) -> None:
        """Begin a lifetime anew; raises `PayloadMissing`."""


def open_store(url: str) -> PayloadStore:
    """Return the store for a URL: ``s3://bucket[/prefix][?region=…&endpoint_url=…]`` or ``file:///directory``.

    Nothing is connected or loaded yet. Raises `ImproperlyConfigured`.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        return S3Payloads(parts.netloc, parts.path.strip("/"), dict(parse_qsl(parts.query, keep_blank_values=True)))
    if parts.scheme == "file" and not parts.netloc and not parts.query and len(parts.path.strip("/")) > 0:
        return DirectoryPayloads(unquote(parts.path))
    raise ImproperlyConfigured(
        f"payload_bucket must be a bucket, bucket/prefix, s3://bucket/prefix or file:///directory, not {url!r}"
    )


class S3Payloads(PayloadStore):
    """Keeps payloads as objects of an S3 bucket; options are those of the other AWS adapters (``docs/aws.md``)."""

    def __init__(self, bucket: str, prefix: str = "", options: Mapping[str, Any] | None = None) -> None:
        from dispatcher.aws_options import client_settings, read

        if _BUCKET.fullmatch(bucket) is None:
            raise ImproperlyConfigured(
                f"payload_bucket names the bucket {bucket!r}; bucket names are 3 to 63 lower-case letters, digits, "
                "dots and hyphens"
            )
        if _PREFIX.fullmatch(prefix) is None:
            raise ImproperlyConfigured(
                f"payload_bucket has the prefix {prefix[:100]!r}; use letters, digits and ! - _ . * ' ( ) / there"
            )
        super().__init__(f"s3://{bucket}/{prefix}".rstrip("/"))
        self._settings = client_settings("s3", read("s3", options or {}, _options(), dict.fromkeys(_SECRETS, _NO_KEYS)))
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    def put(self, payloads: Sequence[tuple[Mapping[str, Any], bytes]]) -> None:
        """Store payloads, several side by side."""
        aws = _aws()
        aws.together(lambda payload: self._put(payload[0]["sha256"], payload[1]), payloads)

    def close(self) -> None:
        """Drop the client; the store takes a new one when it is used again."""
        _aws().release("s3", self._settings)

    def _call(self, operation: str, digest: str, **parameters: Any) -> Any:
        """Call S3 about an object."""
        aws, key = _aws(), f"{self._prefix}{digest}"
        client = aws.client("s3", self._settings)
        try:
            return aws.call(client, operation, f"{self.base}/{digest}", Bucket=self._bucket, Key=key, **parameters)
        except aws.ServiceError as error:
            if error.code in ("NoSuchKey", "404"):
                raise self._missing(digest) from error
            raise

    def _put(self, digest: str, content: bytes) -> None:
        # S3 refuses what does not have this checksum when it arrives.
        checksum = base64.b64encode(bytes.fromhex(digest)).decode()
        self._call("put_object", digest, Body=content, ChecksumSHA256=checksum, ContentType="application/octet-stream")

    def _get(self, digest: str, size: int) -> bytes | None:
        aws = _aws()
        for attempt in range(1, _READS + 1):
            answer = self._call("get_object", digest)
            stream = answer["Body"]
            if answer.get("ContentLength") != size:
                stream.close()
                return None
            try:
                client = aws.client("s3", self._settings)
                content: bytes = aws.read_stream(client, "get_object", f"{self.base}/{digest}", stream)
                return content
            except OperationalError:
                if attempt == _READS:
                    raise
        raise AssertionError("the loop returns or raises")

    def _refresh(self, digest: str) -> None:
        # A copy onto itself: S3 counts a lifetime from the last write, and allows this one if it replaces the metadata.
        self._call(
            "copy_object",
            digest,
            CopySource={"Bucket": self._bucket, "Key": f"{self._prefix}{digest}"},
            MetadataDirective="REPLACE",
            ContentType="application/octet-stream",
        )


#: They would show wherever a setting or a reference does.
_SECRETS: Final = ("access_key_id", "secret_access_key", "session_token")
_NO_KEYS: Final = "keys do not belong into payload_bucket; use a role or the environment"


def _options() -> dict[str, Any]:
    from dispatcher.aws_options import COMMON

    return {name: expected for name, expected in COMMON.items() if name not in (*_SECRETS, "client-config")}


def _aws() -> Any:
    """Return what the AWS adapters share; botocore is loaded for it."""
    try:
        from dispatcher import aws
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("dispatcher"):
            raise
        raise ImproperlyConfigured(
            f"payloads in S3 need the library {error.name}: pip install 'serverless-dispatcher[aws]'"
        ) from error
    return aws


class DirectoryPayloads(PayloadStore):
    """Keeps payloads as files of a directory that every process can reach; it is made when first written to."""

    def __init__(self, path: str) -> None:
        self._path = os.path.normpath(path)
        super().__init__(f"file://{quote(self._path)}")

    def _file(self, digest: str) -> str:
        return os.path.join(self._path, digest)

    def _put(self, digest: str, content: bytes) -> None:
        with self._reporting("written to"):
            os.makedirs(self._path, mode=0o700, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self._path, prefix=".part-")
            try:
                with open(handle, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, self._file(digest))
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
            directory = os.open(self._path, os.O_RDONLY)
            try:
                os.fsync(directory)  # or the name could be lost in a power cut after the message was sent
            finally:
                os.close(directory)

    def _get(self, digest: str, size: int) -> bytes | None:
        with self._reporting("read"), self._finding(digest), open(self._file(digest), "rb") as file:
            return file.read() if os.fstat(file.fileno()).st_size == size else None

    def _refresh(self, digest: str) -> None:
        with self._reporting("written to"), self._finding(digest):
            os.utime(self._file(digest))

    @contextlib.contextmanager
    def _finding(self, digest: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if not os.path.isdir(self._path):  # not mounted, rather than cleaned up
                raise
            raise self._missing(digest) from error

    @contextlib.contextmanager
    def _reporting(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OperationalError(f"the payload directory {self._path} cannot be {what}: {error}") from error


class Parcels:
    """The bodies of one send: arguments that are too large for theirs go to a store, before anything is sent.

    ``limit`` is the transport's in bytes, ``threshold`` the size from which on they go there in any case, ``max_bytes``
    what workers decode.
    """

    def __init__(self, store: PayloadStore, limit: int | None, threshold: int | None, max_bytes: int) -> None:
        self._store = store
        self._inline = inline_limit(None if limit is None else limit - _RESERVED, threshold)
        self._max_bytes = max_bytes
        self._waiting: dict[str, tuple[Mapping[str, Any], bytes]] = {}
        self._known: set[str] = set()

    def body_of(self, message: Message, limit: int | None = None) -> str:
        """Return the body of a message, unsigned; `store` must be called before it is sent.

        ``limit`` is the transport's for this message, where it is below that for all.
        What is sent anew keeps its reference, whose lifetime begins anew. Raises `MessageTooLarge`, `PayloadMissing`.
        """
        body = encode(message)
        if message.payload is not None:
            self._store.refresh(message.payload)
            return body
        inline = self._inline
        if limit is not None and (inline is None or limit - _RESERVED < inline):
            inline = limit - _RESERVED
        if inline is None or len(body) <= inline:
            return body
        form, content = _arguments_of(message)
        if len(content) < _TOO_SMALL:  # something else is large
            return body
        check_size(f"the arguments of task {message.id} have", len(content), self._max_bytes)
        reference = self._store.reference(form, content)
        ref = reference["ref"]
        if ref not in self._known:
            self._known.add(ref)
            self._waiting[ref] = (reference, content)
            if len(self._waiting) >= _TOGETHER:
                self.store()
        return encode(message.replace(payload=reference))

    def store(self) -> None:
        """Store what waits for it."""
        if self._waiting:
            self._store.put(list(self._waiting.values()))
            self._waiting.clear()


def _arguments_of(message: Message) -> tuple[dict[str, str], bytes]:
    """Return a message's arguments as they are stored, and how they are encoded."""
    packed = message.packed
    if packed is None:
        return {"enc": "json"}, json_encode([list(message.own_args), dict(message.kwargs)]).encode("ascii")
    return {name: packed[name] for name in ("enc", "zip") if name in packed}, packed_bytes(packed)


def inline_limit(limit: int | None, threshold: int | None) -> int | None:
    """Return the largest size, in bytes, that stays out of the store; `None` for any."""
    if threshold is None:
        return limit
    return threshold - 1 if limit is None else min(limit, threshold - 1)


def check_size(whose: str, size: int, max_bytes: int) -> None:
    """Raise `MessageTooLarge` for a payload that its readers would refuse."""
    most = min(max_bytes, MAX_BYTES)
    if size > most:
        which = "max_message_bytes" if max_bytes <= MAX_BYTES else "JSON"
        raise MessageTooLarge(
            f"{whose} {size:,} bytes, over the {most:,} of {which} that readers decode; "
            "store the data yourself and pass a reference to them"
            + (f", or raise max_message_bytes, up to {MAX_BYTES:,}" if most < MAX_BYTES else "")
        )
