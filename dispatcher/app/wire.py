"""Wire: reading and writing messages and results under an app's settings: signatures, accepted content, sizes."""

from __future__ import annotations

from typing import Any

from dispatcher.backends.base import TaskRecord
from dispatcher.backends.meta import ResultMeta
from dispatcher.brokers.base import Delivery
from dispatcher.clock import Clock
from dispatcher.message import Message, decode, encode
from dispatcher.security import Signer


class Wire:
    """The wire of one finalized app."""

    def __init__(self, conf: Any, clock: Clock) -> None:
        self._clock = clock
        self._limit: int = conf.max_message_bytes
        self._accept = frozenset(conf.accept_content)
        self._accept_results = frozenset(conf.result_accept_content or conf.accept_content)
        self._serializer: str = conf.result_serializer
        self._compression: str | None = conf.result_compression
        self._signer = Signer(conf.signing_keys, max_age=conf.signing_max_age) if conf.signing_keys else None

    @property
    def signs(self) -> bool:
        """Whether bodies are signed."""
        return self._signer is not None

    def read_message(self, delivery: Delivery) -> Message:
        """Verify and decode a body, arguments included; raises `SecurityError` or `DecodeError`."""
        if self._signer is not None:
            self._signer.verify(delivery.body, delivery.queue, self._clock.time())
        message = decode(delivery.body, self._limit)
        return message if message.packed is None else message.with_arguments(self._accept, self._limit)

    def seal(self, body: str, queue: str) -> str:
        """Sign a body for a queue, where signing keys are configured."""
        return body if self._signer is None else self._signer.sign(body, queue, self._clock.time())

    def sealed_body(self, message: Message, queue: str) -> str:
        """Return the signed wire form of a message for a queue."""
        return self.seal(encode(message), queue)

    def read_meta(self, record: TaskRecord) -> ResultMeta:
        """Decode what a record keeps besides its columns."""
        return ResultMeta.decode(record.data, self._accept_results, self._limit)

    def write_meta(self, meta: ResultMeta) -> str:
        """Encode what a record keeps besides its columns."""
        return meta.encode(self._serializer, self._compression, self._accept_results)
