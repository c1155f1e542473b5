"""Exceptions on the wire: rebuilt where their class is loaded, named where it is not; nothing else is ever made."""

import dataclasses
import pickle
import subprocess
import sys
import types
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import pytest

from dispatcher.exceptions import DecodeError, MaxRetriesExceededError, NotRegistered, Retry, SoftTimeLimitExceeded
from dispatcher.serialization import RemoteError, exception_from_wire, exception_to_wire, json_decode, json_encode


class OutOfStock(Exception):
    """Its class takes what it was given."""

    def __init__(self, item: str, left: int) -> None:
        super().__init__(item, left)
        self.item = item
        self.left = left

    def __str__(self) -> str:
        return f"{self.item}: {self.left} left"


class Declined(Exception):
    """Its arguments are not those of its ``__init__``."""

    def __init__(self, code: int, *, bank: str) -> None:
        super().__init__(f"declined with {code}")
        self.bank = bank


class Shouted(Exception):
    """Calling it again with its arguments would change them."""

    def __init__(self, text: str) -> None:
        super().__init__(text + "!")


class DiskFull(OSError):
    def __init__(self, disk: str, *, size: int) -> None:
        super().__init__(28, "No space left", disk)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


class Outer:
    class Inner(Exception):
        pass


class Unspeakable(Exception):
    def __str__(self) -> NoReturn:
        raise RuntimeError("no")

    __repr__ = __str__


class NotAnException:
    made = 0

    def __init__(self, *args: Any) -> None:
        NotAnException.made += 1


def travel(exc: BaseException) -> BaseException:
    """Send an exception through JSON text."""
    return exception_from_wire(json_decode(json_encode(exception_to_wire(exc))))


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("a", 3, None),
        KeyError("k"),
        ZeroDivisionError(),
        SystemExit(3),
        SoftTimeLimitExceeded(5),
        NotRegistered("proj.add"),
        MaxRetriesExceededError("m"),
        Retry("again", None, 5),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        StopIteration(7),
        subprocess.CalledProcessError(1, "ls"),
        OutOfStock("pen", 0),
        Declined(5, bank="b"),
        Shouted("a"),
        Frozen(3),
        Outer.Inner("x"),
        ValueError(Decimal("1.5"), b"x", {1, 2}),
        ValueError({"$": 1}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exceptions_come_back_with_their_class_arguments_and_message(exc: BaseException) -> None:
    """A known class is rebuilt, whatever signature its ``__init__`` has."""
    revived = travel(exc)
    assert type(revived) is type(exc)
    assert revived.args == exc.args
    assert str(revived) == str(exc)


def test_attributes_come_back_where_the_class_sets_them_from_its_arguments() -> None:
    """Builtin attributes and those of a class that passes all its arguments on are there again."""
    stock = travel(OutOfStock("pen", 0))
    assert isinstance(stock, OutOfStock)
    assert (stock.item, stock.left) == ("pen", 0)
    exit_ = travel(SystemExit(3))
    assert isinstance(exit_, SystemExit)
    assert exit_.code == 3


@pytest.mark.parametrize(
    "exc",
    [
        FileNotFoundError(2, "No such file or directory", "/x"),
        OSError(18, "Invalid cross-device link", "/a", None, "/b"),
        DiskFull("/dev/sda", size=3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_os_errors_keep_their_file_names(exc: OSError) -> None:
    """OSError leaves the names out of its arguments; its message needs them."""
    revived = travel(exc)
    assert type(revived) is type(exc)
    assert isinstance(revived, OSError)
    assert str(revived) == str(exc)
    assert revived.errno == exc.errno


def test_a_path_as_file_name_is_sent_as_text() -> None:
    """A path object has no wire form; its text says the same."""
    assert str(travel(FileNotFoundError(2, "No such file", Path("/x")))) == "[Errno 2] No such file: '/x'"


def test_exceptions_inside_values_are_typed_values() -> None:
    """An exception among arguments or in a result is revived like any typed value, a group's members too."""
    value = json_decode(json_encode({"errors": [ExceptionGroup("all", [ValueError(1), KeyError("k")])]}))
    group = value["errors"][0]
    assert isinstance(group, ExceptionGroup)
    assert [repr(member) for member in group.exceptions] == ["ValueError(1)", "KeyError('k')"]


def test_the_cause_is_kept_and_long_chains_are_cut() -> None:
    """``raise … from …`` survives three causes deep, on frozen classes too."""
    exc: BaseException = Frozen(0)
    for number in range(1, 6):
        cause, exc = exc, ValueError(number)
        exc.__cause__ = cause
    causes = []
    current: BaseException | None = travel(exc)
    while current is not None:
        causes.append(repr(current))
        current = current.__cause__
    assert causes == ["ValueError(5)", "ValueError(4)", "ValueError(3)", "ValueError(2)"]
    with pytest.raises(Frozen) as raised:
        raise Frozen(2) from KeyError("k")
    revived = travel(raised.value)
    assert isinstance(revived, Frozen)
    assert isinstance(revived.__cause__, KeyError)


def test_arguments_that_cannot_be_sent_become_their_repr() -> None:
    """One bad argument does not hide the others; an endless one ends."""
    selfish = ValueError("a")
    selfish.args = ("a", selfish, object, Unspeakable(), "\ud800", float("nan"))
    args = travel(selfish).args
    assert args[0] == "a"
    assert args[2] == "<class 'object'>"
    assert isinstance(args[3], Unspeakable)
    assert args[4:] == ("\\ud800", "nan")


def test_a_repr_that_fails_is_replaced() -> None:
    """Nothing in an exception can keep it from being stored."""

    class Thing:
        def __repr__(self) -> NoReturn:
            raise RuntimeError("no")

    assert travel(ValueError(Thing())).args == (f"<{Thing.__qualname__} object>",)
    assert exception_to_wire(Unspeakable(1))["args"] == [1]


def test_long_arguments_are_shortened() -> None:
    """An exception that carries its whole input stays small."""
    exc = UnicodeDecodeError("utf-8", b"\xff" * 1_000_000, 0, 1, "invalid start byte")
    assert len(json_encode(exc)) < 50_000
    assert travel(ValueError("x" * 100_000)).args[0].endswith("… (100000 characters)")


def test_an_unknown_class_gives_a_stand_in_that_keeps_the_names() -> None:
    """The stand-in names the class, shows the message, and names the same class when sent on."""
    wire = {"type": "Declined", "module": "shop.errors", "args": ["no", 5]}
    exc = exception_from_wire(wire)
    assert isinstance(exc, RemoteError)
    assert (exc.module_name, exc.type_name, exc.args) == ("shop.errors", "Declined", ("no", 5))
    assert str(exc) == "shop.errors.Declined: ('no', 5)"
    assert exception_to_wire(exc) == wire
    assert str(pickle.loads(pickle.dumps(exc))) == str(exc)
    assert str(exception_from_wire({"type": "E", "module": "m"})) == "m.E"
    assert str(exception_from_wire({"type": "E", "module": "m", "args": [1]})) == "m.E: 1"


def test_a_message_worded_by_the_class_reaches_readers_without_it() -> None:
    """The text is sent where the arguments do not give it away."""
    wire = exception_to_wire(OutOfStock("pen", 0))
    assert wire["text"] == "pen: 0 left"
    assert str(exception_from_wire({**wire, "module": "elsewhere"})) == "elsewhere.OutOfStock: pen: 0 left"
    assert "text" not in exception_to_wire(Shouted("a"))


def test_no_module_is_imported_for_an_exception() -> None:
    """A module that is not loaded stays so, and one with a ``__getattr__`` is not asked."""
    assert "this" not in sys.modules
    assert isinstance(exception_from_wire({"type": "E", "module": "this", "args": []}), RemoteError)
    assert "this" not in sys.modules
    lazy = types.ModuleType("lazy_module")
    asked: list[str] = []
    lazy.__getattr__ = asked.append  # type: ignore[method-assign]
    sys.modules["lazy_module"] = lazy
    try:
        assert isinstance(exception_from_wire({"type": "E", "module": "lazy_module", "args": []}), RemoteError)
    finally:
        del sys.modules["lazy_module"]
    assert asked == []


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (__name__, "NotAnException"),
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "object"),
        (__name__, "Outer"),
        (__name__, "OutOfStock.__init__"),
        ("subprocess", "Popen"),
        ("", ""),
        ("sys", "modules.os"),
        (__name__, "Declined.__class__"),
    ],
)
def test_only_exceptions_are_ever_made(module: str, name: str) -> None:
    """A name of anything but an exception class gives a stand-in; nothing is called."""
    before = NotAnException.made
    exc = exception_from_wire({"type": name, "module": module, "args": ["echo"]})
    assert isinstance(exc, RemoteError)
    assert NotAnException.made == before


def test_a_class_that_cannot_be_made_at_all_gives_a_stand_in() -> None:
    """A class that refuses its arguments and any others is named only."""
    exc = exception_from_wire({"type": "UnicodeDecodeError", "module": "builtins", "args": [1]})
    assert isinstance(exc, RemoteError | UnicodeDecodeError)
    group = exception_from_wire({"type": "ExceptionGroup", "module": "builtins", "args": ["a"]})
    assert isinstance(group, RemoteError)


@pytest.mark.parametrize(
    "wire",
    [
        None,
        [],
        {},
        {"type": 1, "module": "m", "args": []},
        {"type": "E", "module": None, "args": []},
        {"type": "E", "module": "m", "args": "abc"},
        {"type": "E", "module": "m", "text": 1},
        {"type": "E", "module": "m", "args": [], "cause": "x"},
    ],
)
def test_malformed_exceptions_are_decode_errors(wire: Any) -> None:
    """Data of another shape are refused."""
    with pytest.raises(DecodeError):
        exception_from_wire(wire)


def test_a_hostile_chain_of_causes_is_cut() -> None:
    """Causes beyond the limit are not built."""
    wire: dict[str, Any] = {"type": "ValueError", "module": "builtins", "args": []}
    for _ in range(50):
        wire = {**wire, "cause": wire}
    exc: BaseException | None = exception_from_wire(wire)
    depth = 0
    while exc is not None:
        exc, depth = exc.__cause__, depth + 1
    assert depth == 4
