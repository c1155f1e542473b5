"""Sensitive arguments: those that nobody but the task may see, and how their values are kept out of texts.

Marks say which they are: `True` for all, or names and positions of arguments. Two words that no parameter can have as
its name stand for more: ``return`` for the result, ``raise`` for the texts of exceptions. A message carries its marks,
so that whoever shows it knows them without the task.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NoReturn

from dispatcher.exceptions import (
    EncodeError,
    ImproperlyConfigured,
    NotRegistered,
    Reject,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
)
from dispatcher.serialization import RemoteError, exception_from_wire, exception_to_wire

#: Stands where a value is not shown.
MASK: Final = "[sensitive]"
RETURN: Final = "return"
RAISE: Final = "raise"
#: So many characters in a row that a text has in common with a value are masked: texts may quote a part of it.
_PIECE: Final = 8
#: Shorter values are masked where they stand alone, as a word; those below the second figure never: they hide nothing.
_ANYWHERE, _SHORTEST = 4, 3
#: Characters of values above which a text is withheld rather than searched.
_MOST: Final = 1_000_000

Marks = Literal[True] | tuple[str | int, ...]


def marks_of(given: Any, function: Callable[..., Any], task: str) -> Marks | None:
    """Return the marks for an option's value: `True`, a parameter's name, or several.

    Raises `ImproperlyConfigured` for a name that the function has no parameter for.
    """
    if given is None or given is False or given == ():
        return None
    if given is True:
        return True
    names = [given] if isinstance(given, str) else list(given) if isinstance(given, Iterable) else [given]
    if not all(isinstance(name, str) for name in names):
        raise ImproperlyConfigured(
            f"task {task}: sensitive must be True or names of parameters, such as ('password',), not {given!r}"
        )
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return True  # the positions are not known
    marks: list[str | int] = []
    for name in names:
        found = _marks_of_name(name, parameters, task)
        if found is True:
            return True
        marks += found
    return tuple(dict.fromkeys(marks))


def _marks_of_name(
    name: str, parameters: Sequence[inspect.Parameter], task: str
) -> Literal[True] | Sequence[str | int]:
    if name in (RETURN, RAISE):
        return [name]
    for position, parameter in enumerate(parameters):
        if parameter.name == name:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                return True  # which arguments it gets depends on the call
            return [name] if parameter.kind is parameter.KEYWORD_ONLY else [name, position]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return [name]
    import difflib

    known = [parameter.name for parameter in parameters]
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known) or 'none'}"
    raise ImproperlyConfigured(f"task {task}: sensitive names {name!r}, which is no parameter of the function; {hint}")


def marks_on_wire(value: Any) -> Marks | None:
    """Return the marks that a message, a signature or a call by name carries; raises `TypeError` for what is none."""
    if value is None or value is False or value is True:
        return value or None
    marks = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else None
    if marks is None or not all(type(mark) in (str, int) for mark in marks):
        raise TypeError(f"sensitive must be True, or names and positions of arguments, not {value!r:.100}")
    return marks or None


def marks_of_call(
    options: Mapping[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any], task: Any
) -> Marks | None:
    """Return the marks of a call, by its task and its options; Celery's ``argsrepr`` means all its positions."""
    marks: Marks | None = task._sensitive if task is not None else None
    given = options.get("sensitive")
    if given:
        marks = both(marks, marks_of(given, task.run, task.name) if task is not None else marks_on_wire(given))
    if options.get("argsrepr") is not None:
        marks = both(marks, tuple(range(len(args))))
    if options.get("kwargsrepr") is not None:
        marks = both(marks, tuple(kwargs))
    return marks


def both(one: Marks | None, other: Marks | None) -> Marks | None:
    """Return what either marks."""
    if one is None or other is None or one == other:
        return one if other is None else other
    return True if one is True or other is True else tuple(dict.fromkeys((*one, *other)))


def marks_word(marks: Marks | None, word: str) -> bool:
    """Say whether marks contain `RETURN` or `RAISE`; all arguments sensitive means these too."""
    return marks is not None and (marks is True or word in marks)


def masked(
    args: Sequence[Any], kwargs: Mapping[str, Any], marks: Marks | None, partial: bool = False
) -> tuple[list[Any], dict[str, Any]]:
    """Return arguments with `MASK` in place of those that are marked.

    ``partial`` arguments are not at their places yet, so that any of them may be marked by a position.
    """
    if marks is None:
        return list(args), dict(kwargs)
    some = partial and marks is not True and any(type(mark) is int for mark in marks)
    return (
        [MASK if marks is True or some or place in marks else value for place, value in enumerate(args)],
        {name: MASK if marks is True or name in marks else value for name, value in kwargs.items()},
    )


class Secrets:
    """The values of marked arguments, to be taken out of texts and exceptions.

    What is found: a value as text, in quotes or escaped, and each part of eight or more of its characters. What is not:
    a value in another form, such as its hash. With ``withheld`` no text is shown at all.
    """

    def __init__(self, values: Sequence[Any], withheld: bool = False) -> None:
        self._values = tuple(values)
        texts = dict.fromkeys(form for value in values for leaf in _leaves(value) for form in _forms(leaf))
        self.withheld = withheld or sum(map(len, texts)) > _MOST
        short = sorted((text for text in texts if len(text) < _PIECE), key=len, reverse=True)
        self._long = [text for text in texts if len(text) >= _PIECE]
        patterns = [
            re.escape(text) if len(text) >= _ANYWHERE else rf"(?<!\w){re.escape(text)}(?!\w)"
            for text in short
            if len(text) >= _SHORTEST
        ]
        self._short = re.compile("|".join(patterns)) if patterns else None
        self._searched = Secrets(values) if withheld else None

    @classmethod
    def of(cls, args: Sequence[Any], kwargs: Mapping[str, Any], marks: Marks) -> Secrets:
        """Return those of a call."""
        values = [value for place, value in enumerate(args) if marks is True or place in marks]
        values += [value for name, value in kwargs.items() if marks is True or name in marks]
        return cls(values, marks_word(marks, RAISE))

    def joined(self, other: Secrets) -> Secrets:
        """Return those of both."""
        return Secrets((*self._values, *other._values), self.withheld or other.withheld)

    def mask(self, text: str) -> str:
        """Return a text without the values."""
        if self.withheld:
            return MASK
        spans = self._spans(text)
        if self._short is not None:
            spans += [match.span() for match in self._short.finditer(text)]
        shown, end = [], 0
        for start, stop in sorted(spans):
            if start >= end:
                shown += [text[end:start], MASK]
            end = max(end, stop)
        return "".join((*shown, text[end:]))

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Return where a text has a piece in common with a long value."""
        places: dict[str, list[int]] = {}
        for start in range(len(text) - _PIECE + 1) if self._long else ():
            places.setdefault(text[start : start + _PIECE], []).append(start)
        pieces = {
            piece
            for value in self._long
            for start in range(len(value) - _PIECE + 1)
            if (piece := value[start : start + _PIECE]) in places and not piece.isspace()
        }
        return [(start, start + _PIECE) for piece in pieces for start in places[piece]]

    def for_error(self, error: BaseException) -> Secrets:
        """Return what to mask an exception with: those that the worker itself ends a run by are never withheld."""
        return self if self._searched is None or not isinstance(error, _OURS) else self._searched

    def mask_error(self, error: BaseException) -> BaseException:
        """Return an exception of the same class without the values, itself where it has none."""
        if self.for_error(error) is not self:
            return self.for_error(error).mask_error(error)
        if isinstance(error, Reject):
            return Reject(self._data(error.reason), error.requeue)
        wire = exception_to_wire(error)
        safe = self._withheld_link(wire) if self.withheld else self._link(wire)
        if safe == wire:
            return error
        rebuilt = exception_from_wire(safe)
        if "text" not in safe or isinstance(rebuilt, RemoteError) or _says(rebuilt) == safe["text"]:
            return rebuilt
        # Its class words the message by attributes, which are gone.
        named = RemoteError(safe["type"], safe["module"], safe["args"], safe.get("text"))
        named.__cause__ = rebuilt.__cause__
        return named

    def _link(self, wire: Mapping[str, Any]) -> dict[str, Any]:
        safe = {**wire, "args": [self._data(argument) for argument in wire["args"]]}
        if "text" in wire:
            safe["text"] = self.mask(wire["text"])
        if "cause" in wire:
            safe["cause"] = self._link(wire["cause"])
        return safe

    def _withheld_link(self, wire: Mapping[str, Any]) -> dict[str, Any]:
        return {"type": wire["type"], "module": wire["module"], "args": [MASK]}

    def _data(self, value: Any) -> Any:
        """Return an exception's argument without the values."""
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, BaseException):
            return self.mask_error(value)
        if isinstance(value, dict):
            return {self._data(key): self._data(item) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return type(value)(map(self._data, value)) if type(value) in _PLAIN else MASK
        if value is None or isinstance(value, bool):
            return value
        text = _text(value)
        return MASK if self.mask(text) != text else value


def raise_discreetly(
    error: EncodeError, args: Sequence[Any], kwargs: Mapping[str, Any], marks: Marks | None
) -> NoReturn:
    """Raise an error about a call's arguments, without the values and the cause where some are sensitive."""
    if marks is None:
        raise error
    raise EncodeError(Secrets.of(args, kwargs, marks).mask(str(error))) from None


_PLAIN: Final = (list, tuple, set, frozenset)
_OURS: Final = (
    NotRegistered, SoftTimeLimitExceeded, TaskRevokedError, Terminated, TimeLimitExceeded, WorkerLostError,
)  # fmt: skip


def _says(error: BaseException) -> str | None:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        return None


def _leaves(value: Any) -> Iterator[Any]:
    """Yield what a value consists of, with keys that are no names."""
    waiting, seen = [value], set()
    while waiting:
        current = waiting.pop()
        if not isinstance(current, Mapping | list | tuple | set | frozenset):
            yield current
        elif id(current) not in seen:
            seen.add(id(current))
            if isinstance(current, Mapping):
                waiting += (key for key in current if not (isinstance(key, str) and key.isidentifier()))
                current = current.values()
            waiting += current


def _forms(value: Any) -> Iterator[str]:
    """Yield the texts that a value is likely to be quoted as."""
    if value is None or isinstance(value, bool):
        return
    text = _text(value)
    yield text
    yield text.strip()
    yield repr(text)[1:-1]
    yield json.dumps(text)[1:-1]
    if isinstance(value, str):
        from urllib.parse import quote, quote_plus

        yield quote(text, errors="backslashreplace")
        yield quote_plus(text, errors="backslashreplace")


def _text(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        return repr(bytes(value))[2:-1]
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        return ""
