"""What a task's record says beyond its columns: result or error, traceback, children; and its JSON form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from dispatcher.exceptions import DecodeError, EncodeError
from dispatcher.serialization import (
    DEFAULT_ACCEPT_CONTENT,
    MAX_BYTES,
    ValueTooLong,
    compress_json,
    exception_from_wire,
    exception_to_wire,
    json_decode,
    json_encode,
    json_text,
    pack,
    unpack,
)

#: Returns a packed value with a seal, where it needs one.
Seal = Callable[[dict[str, str]], dict[str, str]]


@dataclasses.dataclass(slots=True)
class ResultMeta:
    """The content of `TaskRecord.data`; times in epoch seconds.

    ``children`` holds results as nested tuples, ``visible_until`` is when readers stop seeing the result. The fields
    from ``args`` to ``queue`` are stored with ``result_extended`` only.

    ``header`` is the id of the group whose results the task was given, ``links`` how many callbacks follow its success,
    and ``ahead`` the next steps of its chain: id, name (`None` for a group) and how many results each comes to.
    ``added`` are the signatures that the task added to its chord.

    Content too large for a record is in a payload store, where ``payload`` refers to; `complete` fetches it, by
    ``source``, when it is needed.
    """

    result: Any = None
    error: BaseException | None = None
    traceback: str | None = None
    children: list[Any] | None = None
    date_done: float | None = None
    visible_until: float | None = None
    parent_id: str | None = None
    root_id: str | None = None
    group_id: str | None = None
    header: str | None = None
    links: int | None = None
    ahead: list[Any] | None = None
    added: list[Any] | None = None
    name: str | None = None
    args: Any = None
    kwargs: Any = None
    worker: str | None = None
    queue: str | None = None
    payload: Mapping[str, Any] | None = None
    source: Callable[[Mapping[str, Any]], ResultMeta] | None = None

    def complete(self) -> ResultMeta:
        """Fetch what is in a payload store, if anything is; return this very object.

        Raises `PayloadMissing`, `OperationalError` and `DecodeError`.
        """
        source = self.source  # another thread may be done with it at any moment
        if self.payload is not None and source is not None:
            whole = source(self.payload)
            for name in _STORED:
                setattr(self, name, getattr(whole, name))
            self.source = None
        return self

    def encode(
        self,
        serializer: str = "json",
        compression: str | None = None,
        accept_content: frozenset[str] = DEFAULT_ACCEPT_CONTENT,
        seal: Seal | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> str:
        """Return the JSON text; a result that is not JSON, or shorter compressed, is packed inside it.

        A packed result is put through ``seal``. Raises `EncodeError` for a result that the serializer cannot take, and
        `ValueTooLong` for what `decode` would refuse with the same ``max_bytes``.
        """
        body: dict[str, Any] = {}
        if self.error is not None:
            body["error"] = exception_to_wire(self.error)
        elif self.result is not None:
            packed = self._packed(serializer, compression, accept_content, max_bytes)
            if packed is not None and seal is not None:
                packed = seal(packed)
            body.update({"result": self.result} if packed is None else {"packed": packed})
        for name in _PLAIN:
            value = getattr(self, name)
            if value is not None:
                body[name] = value
        try:
            return json_encode(body, max_bytes=max_bytes)
        except ValueTooLong:
            raise
        except EncodeError as error:
            raise EncodeError(f"the result cannot be stored: {error}") from error

    def large_part(self) -> ResultMeta:
        """Return what goes to a payload store: nothing that differs when the same outcome is stored again."""
        return ResultMeta(**{name: getattr(self, name) for name in _STORED})

    def small_part(self) -> ResultMeta:
        """Return what fits in a record, whatever does not."""
        return dataclasses.replace(self, **dict.fromkeys(_STORED))

    def encode_reference(self, reference: Mapping[str, Any]) -> str:
        """Return the JSON text of a record whose `large_part` is in a payload store.

        It stands where packed results do, so that releases that know no payloads say that they cannot read it.
        """
        body = {name: getattr(self, name) for name in _PLAIN if name not in _STORED}
        return json_encode({"packed": reference, **{name: value for name, value in body.items() if value is not None}})

    def _packed(
        self, serializer: str, compression: str | None, accept: frozenset[str], max_bytes: int
    ) -> dict[str, str] | None:
        if serializer != "json":
            return pack(self.result, serializer, compression, accept_content=accept, max_size=max_bytes)
        if compression is None:
            return None
        return compress_json(json_encode(self.result, max_bytes=max_bytes), compression)

    @classmethod
    def decode(
        cls,
        text: str,
        accept_content: frozenset[str],
        max_bytes: int,
        check: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> ResultMeta:
        """Read the JSON text; raises `DecodeError` or `ContentDisallowed`, and what ``check`` does of a packed result.

        ``check`` is called before the result is decoded.
        """
        if not text:
            return cls()
        body = json_decode(text, max_bytes=max_bytes)
        if type(body) is not dict or type(body.get("packed", {})) is not dict:
            raise DecodeError("what the record keeps is not what a worker writes: an object, 'packed' an object too")
        meta = cls(**{name: body[name] for name in _PLAIN if name in body})
        if "error" in body:
            meta.error = exception_from_wire(body["error"])
        elif "packed" in body and "ref" in body["packed"]:
            meta.payload = body["packed"]
        elif "packed" in body:
            if check is not None:
                check(body["packed"])
            meta.result = unpack(body["packed"], accept_content, max_bytes)
        else:
            meta.result = body.get("result")
        return meta


def plain_text(
    date_done: float, visible_until: float | None, parent_id: str | None, root_id: str | None, name: str
) -> str:
    """Return what `ResultMeta.encode` does where there is no more to keep than this, in a fifth of the time."""
    text = f'{{"date_done":{date_done!r}'
    if visible_until is not None:
        text += f',"visible_until":{visible_until!r}'
    if parent_id is not None:
        text += f',"parent_id":{json_text(parent_id)}'
    if root_id is not None:
        text += f',"root_id":{json_text(root_id)}'
    return f'{text},"name":{json_text(name)}}}'


def slot_of(data: str) -> float | None:
    """Return the interval of the rate limit by whose slot a record's ``not_before`` was set, `None` for a retry's."""
    slot: float | None = json_decode(data, max_bytes=len(data)).get("slot") if '"slot"' in data else None
    return slot


def with_slot(data: str, interval: float) -> str:
    """Return a record's data with the interval of the rate limit that ``not_before`` is a slot of."""
    return json_encode({**(json_decode(data, max_bytes=len(data)) if data else {}), "slot": interval})


def without_slot(data: str) -> str:
    """Return a record's data once its slot is used up."""
    if slot_of(data) is None:
        return data
    body = json_decode(data, max_bytes=len(data))
    del body["slot"]
    return json_encode(body) if body else ""


_PLAIN = tuple(
    field.name for field in dataclasses.fields(ResultMeta) if field.name not in {"result", "error", "payload", "source"}
)
#: What is in the payload store where the whole was too large.
_STORED = ("result", "error", "traceback", "children", "added", "args", "kwargs")
