"""Code of the user's that exits where it is asked for something: its own run meets that, its neighbours go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from dispatcher import Task, chord, signals
from tests.unit.bench import Bench


class Exit:
    """Raises SystemExit once it is armed, whatever it is called with."""

    def __init__(self) -> None:
        self.armed = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.armed:
            raise SystemExit(3)
        return None


EXIT = Exit()


def _exit() -> None:
    EXIT()


class Classes(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return bool(EXIT())


class Exacting(Exception, metaclass=Classes):
    """An exception class that exits when it is asked what belongs to it."""


class Noted(Exception):
    """An exception that exits when its notes are shown."""

    @property
    def __notes__(self) -> Any:  # type: ignore[override]
        return EXIT()


class Moment(datetime):
    def timestamp(self) -> Any:
        return EXIT()


class Pickled:
    def __reduce__(self) -> Any:
        return _exit, ()


class Json:
    def __json__(self) -> Any:
        return EXIT()


class Named:
    @property
    def name(self) -> Any:
        return EXIT()


class Hooked(Task[Any, Any]):
    def on_success(self, *args: Any, **kwargs: Any) -> None:
        raise ValueError("no")


def _plain(bench: Bench, **options: Any) -> Any:
    return bench.app.task(name="bad", **options)(lambda *args: 1)


def _followed(bench: Bench, **options: Any) -> Any:
    follower = bench.app.task(name="follower", **options)(lambda *args: 1)
    return _plain(bench).apply_async(link=follower.s())


def _failing(bench: Bench, error: Any = ZeroDivisionError, **options: Any) -> Any:
    def fail() -> None:
        raise error()

    return bench.app.task(name="bad", **options)(fail)


def _retried(bench: Bench, **changes: Any) -> Any:
    def again(task: Any, *args: Any) -> None:
        raise task.retry(max_retries=1, **{name: value() for name, value in changes.items()})

    return bench.app.task(name="bad", bind=True)(again).delay()


def _endless() -> Iterator[Any]:
    yield EXIT()


def _expired(bench: Bench) -> Any:
    result = _plain(bench).apply_async(expires=1)
    bench.clock.advance(2)
    return result


def _in_chord(bench: Bench) -> Any:
    follower = bench.app.task(name="follower")(lambda *args: 1)
    return chord([_plain(bench).s()], follower.s()).apply_async()


def _without_key(bench: Bench) -> Any:
    task = _plain(bench, unique=EXIT)
    task.unique = False
    result = task.delay()  # as of a process that knows the task by its name alone
    task.unique = EXIT
    return result


def _with_errback(bench: Bench) -> Any:
    return _failing(bench).apply_async(link_error=bench.app.task(name="follower")(lambda *args: 1).s())


def _hooked(bench: Bench) -> Any:
    return _plain(bench, base=Hooked).delay()


def _hears(signal: signals.Signal, call: Callable[[Bench], Any]) -> Callable[[Bench], Any]:
    def connect(bench: Bench) -> Any:
        signal.connect(EXIT)
        return call(bench)

    return connect


CASES: dict[str, tuple[Callable[[Bench], Any], str]] = {
    "task_received": (_hears(signals.task_received, _followed), "SUCCESS"),
    "before_task_publish": (_hears(signals.before_task_publish, _followed), "SUCCESS"),
    "after_task_publish": (_hears(signals.after_task_publish, _followed), "SUCCESS"),
    "task_unknown": (_hears(signals.task_unknown, lambda bench: bench.app.send_task("nobody")), "FAILURE"),
    "task_revoked": (_hears(signals.task_revoked, _expired), "REVOKED"),
    "task_internal_error": (_hears(signals.task_internal_error, _hooked), "SUCCESS"),
    "router of a callback": (_followed, "SUCCESS"),
    "router of an error callback": (_with_errback, "FAILURE"),
    "router of a chord's body": (_in_chord, "FAILURE"),
    "unique=": (_without_key, "FAILURE"),
    "unique= of a callback": (lambda bench: _followed(bench, unique=EXIT), "SUCCESS"),
    "a retry's arguments": (lambda bench: _retried(bench, args=_endless), "FAILURE"),
    "a retry's argument": (lambda bench: _retried(bench, args=lambda: (Json(),)), "FAILURE"),
    "a retry's queue": (lambda bench: _retried(bench, queue=Named), "FAILURE"),
    "a retry's time": (lambda bench: _retried(bench, eta=lambda: Moment(2030, 1, 1)), "FAILURE"),
    "autoretry_for": (lambda bench: _failing(bench, autoretry_for=(Exacting,)).delay(), "FAILURE"),
    "throws": (lambda bench: _failing(bench, throws=(Exacting,)).delay(), "FAILURE"),
    "notes": (lambda bench: _failing(bench, Noted).delay(), "FAILURE"),
    "a pickle": (lambda bench: _plain(bench, serializer="pickle").delay(Pickled()), "FAILURE"),
}  # fmt: skip


@pytest.fixture
def bench() -> Iterator[Bench]:
    """An app whose router exits where a callback is to be sent; its receivers are gone after the test."""

    def route(name: str, *args: Any, **kwargs: Any) -> Any:
        return EXIT() if name == "follower" else None

    before = {signal: signal.receivers for signal in vars(signals).values() if isinstance(signal, signals.Signal)}
    yield Bench(task_routes=[route], accept_content=["json", "pickle"], signing_keys={"k": b"k" * 32})
    EXIT.armed = False
    for signal, receivers in before.items():
        signal.receivers = receivers


@pytest.mark.parametrize(("call", "state"), CASES.values(), ids=CASES)
def test_an_exit_is_met_by_its_own_run_alone(bench: Bench, call: Callable[[Bench], Any], state: str) -> None:
    """Neighbours before and after it in the batch run once, nothing leaves the executor, and no message is left."""
    ran: list[int] = []
    neighbour = bench.app.task(name="neighbour")(ran.append)
    EXIT.armed = False
    neighbour.delay(1)
    bad = call(bench)
    neighbour.delay(2)
    EXIT.armed = True
    bench.work()
    assert ran == [1, 2]
    assert bench.record(bad.id).status == state


def test_a_receiver_that_exits_keeps_no_other_from_hearing() -> None:
    """`announce` logs what a receiver raises, SystemExit included; `send` lets that end who sends."""
    signal, heard = signals.Signal("test"), []

    def leave(**fields: Any) -> None:
        raise SystemExit(3)

    signal.connect(leave)
    signal.connect(lambda **fields: heard.append(fields["value"]), weak=False)
    signal.announce(None, value=1)
    assert heard == [1]
    with pytest.raises(SystemExit):
        signal.send(None, value=2)
