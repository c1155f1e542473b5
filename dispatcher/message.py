"""The message: the immutable envelope that asks for one run of a task, and its wire form, version 1.

`docs/wire-format.md` describes every field. Fields at their default are left out of the body.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from dispatcher.exceptions import DecodeError, SecurityError
from dispatcher.sensitive import Marks, masked
from dispatcher.serialization import MAX_BYTES, json_decode, json_encode, json_text, unpack

WIRE_VERSION: Final = 1
#: DynamoDB keys are at most 2,048 bytes and SQS deduplication ids 128; UUIDs need 36.
MAX_ID_LENGTH: Final = 255
#: The result backend keeps the locks of unique tasks among the records of tasks: no id begins like theirs.
LOCK_PREFIX: Final = "LOCK#"
_PREFIX: Final = len(LOCK_PREFIX)


class _NoKeys(dict[str, Any]):
    """An empty dict for ever: hashable, so that it can be a dataclass field's default."""

    def __hash__(self) -> int:  # type: ignore[override]
        return 0

    def __setitem__(self, key: str, value: Any) -> None:
        raise TypeError("a message cannot be changed")


_EMPTY: Final[Mapping[str, Any]] = _NoKeys()


class InvalidMessage(DecodeError):
    """A body is not a message; ``task_id`` is its id where that could be read."""

    def __init__(self, message: str, task_id: str | None = None) -> None:
        super().__init__(message)
        self.task_id = task_id


class UnsupportedMessage(InvalidMessage):
    """A body is of a newer version or needs a feature this version lacks; a newer worker may run it.

    ``gen`` is its generation, if it says so where this version does.
    """

    def __init__(self, message: str, task_id: str | None = None, gen: int | None = None) -> None:
        super().__init__(message, task_id)
        self.gen = gen


class HeaderResults(list[Any]):
    """The results of a group as an argument: read for a run, and never sent, since the message says where they are."""


def own_args(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return positional arguments without the results of a header; the same where they have none."""
    return args[1:] if args and type(args[0]) is HeaderResults else args


@dataclasses.dataclass(frozen=True, repr=False)
class Message:
    """One request to run a task; times are epoch seconds, limits seconds.

    ``packed`` holds the arguments as they travel when they are not inline JSON: ``{"enc": …, "data": …}``;
    `with_arguments` opens it. ``payload`` is the reference to arguments that are in a payload store; until
    `with_payload` has put them in, there are none. ``sensitive`` marks arguments that no text may show.
    ``chain`` is what follows a success; ``chord`` the place in a group, ``{"id", "i"}``, with its size ``"n"`` where
    something waits for it, and ``"until"`` where that takes longer than usual; ``header`` is the group,
    ``{"id", "n", "ids"?}``, whose results `with_header` puts before the arguments.
    """

    id: str
    task: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = dataclasses.field(default=_EMPTY)
    packed: Mapping[str, Any] | None = None
    payload: Mapping[str, Any] | None = None
    gen: int = 0
    retries: int = 0
    eta: float | None = None
    expires: float | None = None
    root_id: str | None = None
    parent_id: str | None = None
    depth: int = 0
    group: str | None = None
    group_index: int | None = None
    link: tuple[Mapping[str, Any], ...] = ()
    link_error: tuple[Mapping[str, Any], ...] = ()
    chain: tuple[Mapping[str, Any], ...] = ()
    chord: Mapping[str, Any] | None = None
    header: Mapping[str, Any] | None = None
    soft_time_limit: float | None = None
    time_limit: float | None = None
    ignore_result: bool | None = None
    priority: int | None = None
    headers: Mapping[str, Any] = dataclasses.field(default=_EMPTY)
    shadow: str | None = None
    origin: str | None = None
    reply_to: str | None = None
    deduplication_id: str | None = None
    group_id: str | None = None
    handover: str | None = None
    sensitive: Marks | None = None
    unique: str | None = None

    @classmethod
    def make(cls, fields: dict[str, Any]) -> Message:
        """Build a message of checked fields, which become its own, leaving the others at their defaults.

        The hot path: only what is given is set, the rest are class attributes.
        """
        message = object.__new__(cls)
        _set_fields(message, fields)
        return message

    def __repr__(self) -> str:
        fields = {name: value for name, value in self.__dict__.items() if value != _DEFAULTS[name]}
        if self.sensitive is not None:
            fields["args"], fields["kwargs"] = masked(self.args, self.kwargs, self.sensitive)
            fields.pop("packed", None)
        return f"Message({', '.join(f'{name}={value!r}' for name, value in fields.items())})"

    def replace(self, **changes: Any) -> Message:
        """Return a copy with these fields changed."""
        unknown = changes.keys() - _DEFAULTS.keys()
        if unknown:
            raise TypeError(f"a message has no field {', '.join(sorted(unknown))}")
        return self.make({**self.__dict__, **changes})

    def with_arguments(self, accept_content: frozenset[str], max_bytes: int) -> Message:
        """Return the message with its arguments unpacked; it keeps the packed form, which is what it is sent as again.

        Raises `ContentDisallowed` for a serializer that is not accepted, `InvalidMessage` for arguments that are not
        a pair of list and mapping.
        """
        if self.packed is None:
            return self
        packed = self.packed
        return self._with(lambda: unpack(packed, accept_content, max_bytes))

    def with_payload(self, load: Callable[[Mapping[str, Any]], Any]) -> Message:
        """Return the message with the arguments that ``load`` returns for its reference, which it keeps.

        Raises what ``load`` raises, and `InvalidMessage` for arguments that are not a pair of list and mapping.
        """
        reference = self.payload
        return self if reference is None else self._with(lambda: load(reference))

    def with_header(self, results: Sequence[Any]) -> Message:
        """Return the message with the results of its header before its arguments."""
        return self.replace(args=(HeaderResults(results), *self.args))

    @property
    def own_args(self) -> tuple[Any, ...]:
        """The arguments that travel with the message: without the results of a header."""
        return own_args(self.args)

    def without_arguments(self) -> Message:
        """Return the message as it was before `with_payload` and `with_header`."""
        return self.replace(args=self.own_args) if self.payload is None else self.replace(args=(), kwargs=_EMPTY)

    def _with(self, load: Callable[[], Any]) -> Message:
        try:
            args, kwargs = self._checked_pair(load())
        except (DecodeError, SecurityError) as error:
            # The rest of the message can be read: whoever buries it knows what it was, and whom to tell.
            error.envelope = self  # type: ignore[union-attr]
            raise
        return self.replace(args=tuple(args), kwargs=kwargs)

    def _checked_pair(self, value: Any) -> tuple[Any, Any]:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise InvalidMessage("the packed arguments are not a pair of args and kwargs", self.id)
        args, kwargs = value
        _check("args", list(args) if isinstance(args, tuple) else args, self.id)
        _check("kwargs", kwargs, self.id)
        return args, kwargs

    @property
    def effective_root_id(self) -> str:
        """The id of the first task of this workflow: its own, unless another task sent it."""
        return self.root_id or self.id


#: What is called, where the call comes from, and what is for people or for the transport: a message of nothing else has
#: nothing that a step around the run must heed.
BARE: Final = frozenset({
    "id", "task", "args", "kwargs", "root_id", "parent_id", "depth", "origin", "reply_to", "shadow", "priority",
})  # fmt: skip

_new: Final = object.__new__
#: Sets the fields of a message that was just made, without the look-up that ``object.__setattr__`` makes.
_set_fields: Final[Callable[[Message, dict[str, Any]], None]] = vars(Message)["__dict__"].__set__

_DEFAULTS: Final[dict[str, Any]] = {
    "id": None,
    "task": None,
    "sensitive": None,  # before what it marks, so that whoever finds a half of a body knows
    **{field.name: field.default for field in dataclasses.fields(Message) if field.default is not dataclasses.MISSING},
}
#: The order of the fields on the wire.
_PLACES: Final = {name: place for place, name in enumerate(_DEFAULTS)}


def encode(message: Message) -> str:
    """Return the wire form, unsigned: one line of ASCII JSON, at most 150 bytes for a task of two small arguments."""
    fields = message.__dict__
    # Two texts, which every message has, are written faster by themselves than in an object.
    head = f'{{"v":{WIRE_VERSION},"id":{json_text(fields["id"])},"task":{json_text(fields["task"])}'
    if len(fields) == 2:
        return head + "}"
    body = {
        name: value
        for name in sorted(fields, key=_PLACES.__getitem__)
        if (value := fields[name]) is not (default := _DEFAULTS[name]) and value != default
    }
    if "header" in body or "payload" in body or "packed" in body or ("kwargs" in body and not body["kwargs"]):
        _leave_out(body, message)
    del body["id"], body["task"]
    return f"{head},{json_encode(body, max_bytes=MAX_BYTES - len(head))[1:]}" if body else head + "}"


def _leave_out(body: dict[str, Any], message: Message) -> None:
    """Take arguments out of a body that are elsewhere, and name the fields that say where."""
    # A release that does not know these fields would run the task without arguments.
    critical = [name for name in ("payload", "header") if name in body]
    if critical:
        body["critical"] = critical
    if "header" in body:
        body["args"] = message.own_args
        if not body["args"]:
            del body["args"]
    if "payload" in body:
        for name in ("args", "kwargs", "packed"):
            body.pop(name, None)
    elif "packed" in body:
        body.pop("args", None)
        body.pop("kwargs", None)
    elif "kwargs" in body and not body["kwargs"]:
        del body["kwargs"]


def decode(body: str | bytes, max_bytes: int | None = None) -> Message:
    """Read a body, leaving packed arguments packed.

    Raises `UnsupportedMessage` for a version or critical field this release does not know (a newer worker may), and
    `InvalidMessage` for anything else that is not a message. Unknown fields are ignored.
    """
    try:
        fields = json_decode(body) if max_bytes is None else json_decode(body, max_bytes=max_bytes)
    except DecodeError as error:
        raise InvalidMessage(str(error)) from error
    if type(fields) is not dict:
        raise InvalidMessage(f"a message is a JSON object, not {_kind(fields)}")
    version, task_id = fields.pop("v", None), fields.get("id")
    if type(task_id) is not str or not 0 < len(task_id) <= MAX_ID_LENGTH:
        raise InvalidMessage(f"'id' must be a text of 1 to {MAX_ID_LENGTH} characters, not {_kind(task_id)}")
    if task_id[:_PREFIX] == LOCK_PREFIX:
        raise InvalidMessage(f"'id' must not begin with {LOCK_PREFIX!r}")
    if version is not WIRE_VERSION or "critical" in fields:
        _check_version(version, fields, task_id)
    if "task" not in fields:
        raise InvalidMessage("'task' is missing", task_id)
    for name, value in fields.items():
        if type(value) is str:
            if value and name in _TEXTS:
                continue
        elif type(value) is list and name == "args":
            continue
        _check_fields(fields, task_id)
        break
    else:
        if "args" in fields:
            fields["args"] = tuple(fields["args"])
    message = _new(Message)
    _set_fields(message, fields)
    return message


def _check_fields(fields: dict[str, Any], task_id: str) -> None:
    """Check fields of any kind, take out what is unknown, and have tuples for lists."""
    for name, value in list(fields.items()):
        if name not in _CHECKS:
            del fields[name]
            continue
        _check(name, value, task_id)
        if type(value) is list:
            fields[name] = tuple(value)
    if "payload" in fields and not fields.keys().isdisjoint(("args", "kwargs", "packed")):
        raise InvalidMessage("a message with 'payload' has its arguments there and nowhere else", task_id)


def _check_version(version: Any, fields: dict[str, Any], task_id: str) -> None:
    gen = fields.get("gen", 0)
    gen = gen if _is_count(gen) else None
    if version != WIRE_VERSION or type(version) is not int:
        if type(version) is not int:
            raise InvalidMessage("'v', the wire version, is missing or not a whole number", task_id)
        raise UnsupportedMessage(
            f"wire version {version!r:.40} is not known here (this release reads {WIRE_VERSION})", task_id, gen
        )
    critical = fields.get("critical")
    if critical is not None:
        if type(critical) is not list or not all(type(name) is str for name in critical):
            raise InvalidMessage("'critical' must be a list of field names", task_id)
        missing = [name for name in critical if name not in _CHECKS]
        if missing:
            unknown = f"this release does not know the critical field {', '.join(missing)}"
            raise UnsupportedMessage(unknown, task_id, gen)


def _check(name: str, value: Any, task_id: str) -> None:
    predicate, wanted = _CHECKS[name]
    if not predicate(value):
        raise InvalidMessage(f"{name!r} must be {wanted}, not {_kind_of_field(name, value)}", task_id)


def check_option(option: str, name: str, value: Any) -> None:
    """Raise `TypeError` or `ValueError` for an option of a call that the message's field of this name cannot hold."""
    predicate, wanted = _CHECKS[name]
    reserved = name == "id" and isinstance(value, str) and value.startswith(LOCK_PREFIX)
    if not predicate(value) or (name == "id" and (len(value) > MAX_ID_LENGTH or reserved)):
        if name == "id":
            wanted = f"a text of 1 to {MAX_ID_LENGTH} characters" + f" not beginning with {LOCK_PREFIX!r}" * reserved
        fits = isinstance(value, str) if predicate is _is_text else isinstance(value, int | float)
        error = ValueError if fits else TypeError
        raise error(f"{option} must be {wanted}, not {value!r:.100}")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if type(value) in (str, bool, int, float):
        return f"{value!r:.40}"
    if type(value) is dict:
        return "an object"
    return "a list" if type(value) is list else type(value).__name__


def _kind_of_field(name: str, value: Any) -> str:
    # What should be arguments may be sensitive, and nobody can say so who cannot read them.
    quotable = name not in ("args", "kwargs") or type(value) not in (str, int, float)
    return _kind(value) if quotable else f"a value of type {type(value).__name__}"


def _is_text(value: Any) -> bool:
    return type(value) is str and bool(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_seconds(value: Any) -> bool:
    return (type(value) is float or type(value) is int) and 0 <= value < 2**53


def _is_object(value: Any) -> bool:
    return type(value) is dict


def _is_list(value: Any) -> bool:
    return type(value) is list


def _is_keywords(value: Any) -> bool:
    return type(value) is dict and all(type(key) is str for key in value)


def _is_marks(value: Any) -> bool:
    return value is True or (type(value) is list and all(type(mark) in (str, int) for mark in value))


def _is_signatures(value: Any) -> bool:
    return type(value) is list and all(type(item) is dict and type(item.get("task")) is str for item in value)


def _is_place(value: Any) -> bool:
    if type(value) is not dict or not _is_count(value.get("until", 0)):
        return False
    return _is_text(value.get("id")) and _is_count(value.get("i"))


def _is_header(value: Any) -> bool:
    if type(value) is not dict or not _is_text(value.get("id")) or not _is_count(value.get("n")):
        return False
    own = value.get("ids", {})
    return type(own) is dict and all(_is_text(each) for each in own.values())


_TEXT = (_is_text, "a text that is not empty")
_COUNT = (_is_count, "a whole number from 0 on")
_SECONDS = (_is_seconds, "a number of seconds from 0 on")
_SIGNATURES = (_is_signatures, "a list of signatures, each an object with a 'task'")
_OBJECT = (_is_object, "an object")

_CHECKS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "id": _TEXT,
    "task": _TEXT,
    "args": (_is_list, "a list"),
    "kwargs": (_is_keywords, "an object with text keys"),
    "packed": _OBJECT,
    "payload": _OBJECT,
    "gen": _COUNT,
    "retries": _COUNT,
    "eta": _SECONDS,
    "expires": _SECONDS,
    "root_id": _TEXT,
    "parent_id": _TEXT,
    "depth": _COUNT,
    "group": _TEXT,
    "group_index": _COUNT,
    "link": _SIGNATURES,
    "link_error": _SIGNATURES,
    "chain": _SIGNATURES,
    "chord": (_is_place, "an object with the 'id' of a group and an index 'i'"),
    "header": (_is_header, "an object with the 'id' of a group and its size 'n'"),
    "soft_time_limit": _SECONDS,
    "time_limit": _SECONDS,
    "ignore_result": (lambda value: type(value) is bool, "true or false"),
    "priority": (lambda value: type(value) is int and 0 <= value <= 9, "a whole number from 0 to 9"),
    "headers": _OBJECT,
    "shadow": _TEXT,
    "origin": _TEXT,
    "reply_to": _TEXT,
    "deduplication_id": _TEXT,
    "group_id": _TEXT,
    "handover": _TEXT,
    "sensitive": (_is_marks, "true or a list of names and positions"),
    "unique": _TEXT,
}
#: The fields that are texts and nothing more.
_TEXTS: Final = frozenset(name for name, (predicate, _) in _CHECKS.items() if predicate is _is_text)
