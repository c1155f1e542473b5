"""Wire: reading and writing messages and results under an app's settings: signatures, accepted content, sizes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dispatcher import connections
from dispatcher.backends.base import ResultBackend, TaskRecord
from dispatcher.backends.meta import ResultMeta, Seal
from dispatcher.brokers.base import Delivery
from dispatcher.clock import Clock
from dispatcher.exceptions import DecodeError, EncodeError, MessageTooLarge
from dispatcher.message import Message, UnsupportedMessage, decode, encode
from dispatcher.security import Signer
from dispatcher.serialization import (
    DEFAULT_ACCEPT_CONTENT,
    MAX_BYTES,
    ValueTooLong,
    json_decode,
    json_encode,
    unpack_bytes,
)

if TYPE_CHECKING:
    from dispatcher.payloads import PayloadStore


class Wire:
    """The wire of one finalized app."""

    def __init__(self, conf: Any, clock: Clock) -> None:
        self._clock = clock
        self._conf = conf
        self._payloads: PayloadStore | None = None
        self._limit: int = conf.max_message_bytes
        #: the longest content of a record that is decoded when it is read
        self._readable = min(self._limit, MAX_BYTES)
        self._accept = frozenset(conf.accept_content)
        self._accept_results = frozenset(conf.result_accept_content or conf.accept_content)
        self._serializer: str = conf.result_serializer
        self._compression: str | None = conf.result_compression
        self._signer = Signer(conf.signing_keys, max_age=conf.signing_max_age) if conf.signing_keys else None

    @property
    def signs(self) -> bool:
        """Whether bodies are signed."""
        return self._signer is not None

    @property
    def payloads(self) -> PayloadStore | None:
        """The store of what is too large for messages and records, where one is configured."""
        if self._payloads is None and self._conf.payload_bucket is not None:
            self._payloads = connections.payloads_of(self._conf)
        return self._payloads

    def read_message(self, delivery: Delivery) -> Message:
        """Verify and decode a body, arguments included unless a payload store keeps them.

        Raises `SecurityError` or `DecodeError`.
        """
        if self._signer is not None:
            self._signer.verify(delivery.body, delivery.queue, self._clock.time())
        message = decode(delivery.body, self._limit)
        return message if message.packed is None else message.with_arguments(self._accept, self._limit)

    def load_arguments(self, message: Message) -> Message:
        """Fetch the arguments that a payload store keeps for a message.

        Raises `UnsupportedMessage` for a store that is not the one configured here, `PayloadMissing`, `DecodeError` for
        content that was changed or cannot be read, and `OperationalError` where the store cannot be reached.
        """

        def load(reference: Mapping[str, Any]) -> Any:
            content = self._fetch(reference, f"the arguments of task {message.id}", message.id)
            # JSON is what arguments are in the message itself, whatever else is accepted.
            return unpack_bytes(reference, content, self._accept | {"json"}, self._limit)

        return message.with_payload(load)

    def _fetch(self, reference: Mapping[str, Any], what: str, task_id: str | None = None) -> bytes:
        store = self.payloads
        if store is None:
            raise UnsupportedMessage(
                f"{what} are in {str(reference.get('ref'))[:200]!r}, and payload_bucket is not set here", task_id
            )
        from dispatcher.payloads import PayloadElsewhere

        try:
            return store.get(reference, self._limit)
        except PayloadElsewhere as error:
            raise UnsupportedMessage(str(error), task_id) from error

    def seal(self, body: str, queue: str) -> str:
        """Sign a body for a queue, where signing keys are configured."""
        return body if self._signer is None else self._signer.sign(body, queue, self._clock.time())

    def sealed_body(self, message: Message, queue: str) -> str:
        """Return the signed wire form of a message for a queue."""
        return self.seal(encode(message), queue)

    def read_meta(self, record: TaskRecord) -> ResultMeta:
        """Decode what a record keeps besides its columns."""
        check = None if self._signer is None else functools.partial(self._check_result, self._signer, record.id)
        meta = ResultMeta.decode(record.data, self._accept_results, self._limit, check)
        if meta.payload is not None:
            meta.source = functools.partial(self._fetch_meta, check)
        return meta

    def _fetch_meta(
        self, check: Callable[[Mapping[str, Any]], None] | None, reference: Mapping[str, Any]
    ) -> ResultMeta:
        content = self._fetch(reference, "the contents of this record")
        try:
            return ResultMeta.decode(content.decode("ascii"), self._accept_results, self._limit, check)
        except UnicodeDecodeError as error:
            raise DecodeError(f"{reference.get('ref')} is not a stored result: {error}") from error

    @staticmethod
    def _check_result(signer: Signer, task_id: str, packed: Mapping[str, Any]) -> None:
        """Raise `SecurityError` for a result whose decoding could do harm and that none of our workers wrote."""
        if packed.get("enc") not in DEFAULT_ACCEPT_CONTENT:
            signer.verify_result(task_id, _sealed_part(packed), packed.get("sig"))

    def _sealing(self, task_id: str) -> Seal | None:
        """Return what signs a task's result, where its serializer is one that could do harm to its reader."""
        signer = self._signer
        if signer is None or self._serializer in DEFAULT_ACCEPT_CONTENT:
            return None
        return lambda packed: {**packed, "sig": signer.seal_result(task_id, _sealed_part(packed))}

    def write_result(self, value: Any, rest: str, backend: ResultBackend) -> str | None:
        """Encode what a record keeps besides its columns where that is a result in JSON and the ``rest``, encoded.

        Returns `None` for a result that cannot be encoded, is too large, or is kept in another way: `write_meta` says.
        """
        if self._serializer != "json" or self._compression is not None or self._conf.payload_bucket is not None:
            return None
        try:
            head = json_encode({"result": value})
        except EncodeError:
            return None
        limit = backend.max_data
        if len(head) + len(rest) - 1 > (self._readable if limit is None else min(limit, self._readable)):
            return None
        return f"{head[:-1]},{rest[1:]}"

    def write_meta(self, meta: ResultMeta, backend: ResultBackend, what: str, task_id: str) -> str:
        """Encode what a record keeps besides its columns; what is too large for one goes to the payload store.

        ``what`` names it for people, ``task_id`` is whose record it is. Raises `EncodeError`, `MessageTooLarge`, and
        `OperationalError` where the store cannot be reached.
        """
        data = self._encoded(meta, what, task_id)
        limit = backend.max_data
        if self._conf.payload_bucket is None:
            if limit is not None and len(data) > limit:
                raise MessageTooLarge(
                    f"{what} has {len(data):,} bytes, over the {limit:,} that {backend.describe()} keeps; set "
                    "payload_bucket to keep it in S3, store it elsewhere and return a reference, or set "
                    "ignore_result=True"
                )
            return data
        from dispatcher.payloads import inline_limit

        most = inline_limit(limit, self._conf.payload_threshold)
        if most is None or len(data) <= most:
            return data
        store, content = self.payloads, self._encoded(meta.large_part(), what, task_id).encode("ascii")
        assert store is not None
        reference = store.reference({"enc": "json"}, content)
        store.put([(reference, content)])
        return meta.encode_reference(reference)

    def _encoded(self, meta: ResultMeta, what: str, task_id: str) -> str:
        """Encode what `read_meta` can read, here and by everybody with these settings."""
        terms = (self._serializer, self._compression, self._accept_results, self._sealing(task_id))
        try:
            return meta.encode(*terms, max_bytes=self._readable)
        except ValueTooLong as error:
            from dispatcher.payloads import check_size

            check_size(f"{what} has", error.size, self._limit)
            raise

    def seal_kept(self, row: str, text: str) -> str:
        """Return what a row of the result backend is to say, sealed where messages are signed."""
        seal = "" if self._signer is None else self._signer.seal_result(row, text)
        return json_encode([text, seal])

    def open_kept(self, row: str, data: str) -> str:
        """Return what a row says; raises `SecurityError` where it should be sealed and is not, or is altered."""
        text, seal = json_decode(data)
        if self._signer is not None:
            self._signer.verify_result(row, text, seal)
        return str(text)

    def close(self) -> None:
        """Close connections; they open again when needed."""
        if self._payloads is not None:
            self._payloads.close()


def _sealed_part(packed: Mapping[str, Any]) -> str:
    return "\0".join(str(packed.get(name, "")) for name in ("enc", "zip", "data"))
