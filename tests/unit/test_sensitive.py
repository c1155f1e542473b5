"""Marks of sensitive arguments, and how their values are taken out of texts and exceptions."""

import json
import logging
import traceback
import uuid
from decimal import Decimal
from typing import Any

import pytest

from dispatcher.exceptions import EncodeError, ImproperlyConfigured, Reject, TimeLimitExceeded
from dispatcher.message import InvalidMessage, Message, decode
from dispatcher.sensitive import MASK, Secrets, both, marks_of, masked
from dispatcher.serialization import RemoteError
from tests.unit.bench import Bench

WORD = "correct horse battery"


def login(user: str, password: str, *more: str, pin: int = 0, **rest: Any) -> None:
    """A function with every kind of parameter."""


def narrow(user: str, password: str) -> None:
    """A function that takes no others."""


@pytest.mark.parametrize(
    ("given", "marks"),
    [
        (None, None),
        ((), None),
        (False, None),
        (True, True),
        ("password", ("password", 1)),
        (["password", "user"], ("password", 1, "user", 0)),
        (("pin",), ("pin",)),
        (("anything",), ("anything",)),
        (("return", "raise"), ("return", "raise")),
        (("more",), True),
        ({"rest"}, True),
    ],
)
def test_names_become_marks(given: Any, marks: Any) -> None:
    """A parameter is marked by name and position; those that take whatever comes mark everything."""
    assert marks_of(given, login, "t") == marks


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("pasword",), "names 'pasword', which is no parameter of the function; did you mean 'password'"),
        ("x", "it has user, password"),
        ((1,), "must be True or names of parameters"),
        (7, "must be True or names of parameters"),
    ],
)
def test_marks_that_cannot_be_right_are_refused(given: Any, message: str) -> None:
    """A misspelt name would leave its value open to everybody."""
    bench = Bench()
    with pytest.raises(ImproperlyConfigured, match=message):
        bench.app.task(name="narrow", sensitive=given)(narrow)


def test_what_either_marks_is_marked() -> None:
    """The message's marks and the task's together."""
    assert both(None, None) is None
    assert both(("a", 0), None) == both(None, ("a", 0)) == ("a", 0)
    assert both(("a", 0), ("b",)) == ("a", 0, "b")
    assert both(("a",), True) is True


def test_marked_arguments_are_masked() -> None:
    """By name, by position, all, and all positions of a call that is not complete."""
    assert masked((1, 2), {"a": 3, "b": 4}, ("a", 1)) == ([1, MASK], {"a": MASK, "b": 4})
    assert masked((1,), {"a": 3}, True) == ([MASK], {"a": MASK})
    assert masked((1, 2), {}, ("a", 5), partial=True) == ([MASK, MASK], {})
    assert masked((1,), {"a": 3}, None) == ([1], {"a": 3})


@pytest.mark.parametrize(
    ("value", "text", "shown"),
    [
        (WORD, f"no: {WORD}!", f"no: {MASK}!"),
        (WORD, "it was: correct hor…", f"it was: {MASK}…"),
        (WORD, "correctly, horses", "correctly, horses"),
        ("abcd", "xabcdx abc", f"x{MASK}x abc"),
        ("931", "pin 931, line 9310", f"pin {MASK}, line 9310"),
        ("ab", "ab", "ab"),
        (4929123456781234, "number 4929123456781234", f"number {MASK}"),
        (Decimal("1234.5678"), "1234.5678 EUR", f"{MASK} EUR"),
        (b"\x00secret", r"b'\x00secret'", f"b'{MASK}'"),
        ({"user": "ann4", "deep": [{"key": WORD}]}, f"ann4 user {WORD}", f"{MASK} user {MASK}"),
        ({"4929 1234": 1}, "4929 1234", MASK),
        ("gr\u00fcn und blau", '"gr\\u00fcn und blau"', f'"{MASK}"'),
        ("a b&c d e f g h", "q=a%20b%26c%20d%20e%20f%20g%20h", f"q={MASK}"),
        (" padded ", "padded", MASK),
        ("        ", "    x         y", "    x         y"),
        (None, "None True", "None True"),
        (True, "None True", "None True"),
        ("", "text", "text"),
    ],
)
def test_values_are_taken_out_of_texts(value: Any, text: str, shown: str) -> None:
    """Whole, in part, quoted and escaped; short ones only where they stand alone."""
    assert Secrets.of((value,), {}, (0,)).mask(text) == shown


def test_values_too_large_to_search_for_withhold_the_text() -> None:
    """Rather than let a part of one through."""
    assert Secrets.of(("x" * 400_000,), {}, True).mask("anything") == MASK


class Wordy(Exception):
    """Takes other arguments than it passes on."""

    def __init__(self, code: int, *, word: str) -> None:
        super().__init__(code)
        self.word = word

    def __str__(self) -> str:
        return f"{self.args[0]} {self.word}"


def test_exceptions_keep_class_and_harmless_parts() -> None:
    """One without a value is the same object; one that words its message by attributes is a stand-in."""
    secrets = Secrets.of((WORD, 4929123456781234), {}, (0, 1))
    harmless = ValueError("nothing", 5)
    assert secrets.mask_error(harmless) is harmless
    error = secrets.mask_error(ValueError(f"x {WORD}", 4929123456781234, {"a": [WORD], "b": 1}, KeyError(WORD)))
    assert type(error) is ValueError
    assert error.args[:3] == (f"x {MASK}", MASK, {"a": [MASK], "b": 1})
    assert repr(error.args[3]) == f"KeyError('{MASK}')"
    wordy = secrets.mask_error(Wordy(7, word=WORD))
    assert isinstance(wordy, RemoteError)
    assert str(wordy).endswith(f"Wordy: 7 {MASK}")
    rejected = secrets.mask_error(Reject(WORD, requeue=True))
    assert isinstance(rejected, Reject)
    assert (rejected.reason, rejected.requeue) == (MASK, True)


def test_withheld_exceptions_say_their_class_only() -> None:
    """But for those that the worker itself ends a run by, which have no words of the task."""
    secrets = Secrets.of((WORD,), {}, True)
    error = secrets.mask_error(ValueError("what is derived from it"))
    assert (type(error), error.args) == (ValueError, (MASK,))
    assert str(secrets.mask_error(TimeLimitExceeded(30))) == "TimeLimitExceeded(30,)"


def test_marks_travel_with_the_message() -> None:
    """Those of the task, of the call, of a call by name, and of Celery's ``argsrepr`` and ``kwargsrepr``."""
    bench = Bench()
    task = bench.app.task(name="login", sensitive="password")(narrow)
    plain = bench.app.task(name="plain")(login)

    def sent(call: Any) -> Any:
        call()
        [delivery] = bench.receive()
        bench.app.broker.settle([bench_ack(delivery)])
        return decode(delivery.body).sensitive

    assert sent(lambda: plain.delay("a", WORD)) is None
    assert sent(lambda: task.delay("a", WORD)) == ("password", 1)
    assert sent(lambda: task.apply_async(("a", WORD), sensitive=True)) is True
    assert sent(lambda: plain.apply_async(("a", WORD), sensitive="password")) == ("password", 1)
    assert sent(lambda: plain.apply_async(("a", WORD), argsrepr="('a', ***)")) == (0, 1)
    assert sent(lambda: plain.apply_async(("a",), {"password": WORD}, kwargsrepr="***")) == ("password",)
    assert sent(lambda: bench.app.send_task("elsewhere", (WORD,), sensitive=[0, "return"])) == (0, "return")
    with pytest.raises(ImproperlyConfigured, match="did you mean 'password'"):
        task.apply_async(("a", WORD), sensitive=["pasword"])
    with pytest.raises(TypeError, match="sensitive must be True, or names and positions"):
        bench.app.send_task("elsewhere", sensitive={"a": 1})


def bench_ack(delivery: Any) -> Any:
    """Return what removes a delivery."""
    from dispatcher.brokers.base import Settlement

    return Settlement(delivery, "ack")


def test_callbacks_carry_their_marks() -> None:
    """In the message they travel in, and in the one they become, also by name."""
    bench = Bench()
    work = bench.app.task(name="work")(lambda: 1)
    callback = bench.app.task(name="login", sensitive="password")(narrow)
    work.apply_async(link=[callback.s(WORD), {"task": "far", "args": [WORD], "sensitive": [1]}])
    [first] = bench.receive()
    assert [link["sensitive"] for link in decode(first.body).link] == [["password", 1], [1]]
    bench.executor().process([first])
    sent = {decode(each.body).task: decode(each.body).sensitive for each in bench.receive()}
    assert sent == {"login": ("password", 1), "far": (1,)}
    assert WORD not in repr(callback.s(WORD))


@pytest.mark.parametrize("marks", ["5", '"password"', "false", "null", "[1.5]", "[null]", "{}"])
def test_marks_of_another_shape_make_no_message(marks: str) -> None:
    """What is sensitive is not guessed."""
    with pytest.raises(InvalidMessage, match="'sensitive' must be true or a list of names and positions"):
        decode(f'{{"v":1,"id":"a","task":"t","sensitive":{marks}}}')


def test_messages_and_deliveries_show_no_marked_arguments() -> None:
    """Whoever logs one logs no value."""
    message = Message("1", "t", ("a", WORD), {"password": WORD, "n": 1}, sensitive=("password", 1))
    assert repr(message) == (
        "Message(id='1', task='t', args=['a', '[sensitive]'], kwargs={'password': '[sensitive]', 'n': 1}, "
        "sensitive=('password', 1))"
    )
    bench = Bench()
    bench.app.task(name="login", sensitive=True)(narrow).delay("a", WORD)
    [delivery] = bench.receive()
    assert WORD not in repr(delivery) + repr(bench_ack(delivery))


@pytest.mark.parametrize("serializer", ["json", "yaml", "msgpack"])
def test_what_cannot_be_encoded_is_not_quoted(serializer: str) -> None:
    """Neither in the error nor in what led to it."""
    bench = Bench(accept_content=["json", "yaml", "msgpack"])
    task = bench.app.task(name="login", sensitive="password", serializer=serializer)(narrow)
    with pytest.raises(EncodeError) as refused:
        task.delay("a", {(WORD,): object(), WORD: object()})
    assert "correct" not in "".join(traceback.format_exception(refused.value)).replace("task.delay", "")


@pytest.mark.parametrize(
    "argument",
    [
        json.dumps(WORD),
        f'{{"$":"datetime","v":"{WORD}"}}',
        f'{{"$":"uuid","v":"{WORD}"}}',
        f'[1,{{"$":"decimal","v":"{WORD}"}}]',
        "[4929123456781234e999]",
    ],
)
def test_what_cannot_be_decoded_is_not_quoted(argument: str) -> None:
    """A damaged message's arguments may be sensitive: nobody can say so who cannot read them."""
    with pytest.raises(InvalidMessage) as refused:
        decode(f'{{"v":1,"id":"a","task":"t","args":{argument}}}')
    assert "correct" not in str(refused.value)
    assert "4929" not in str(refused.value)


def test_eager_callers_get_what_was_raised(caplog: pytest.LogCaptureFixture) -> None:
    """It is theirs; the log has it without the value."""
    bench = Bench()
    error = ValueError(WORD)

    @bench.app.task(name="eager", sensitive="password")
    def eager(password: str) -> None:
        raise error

    with pytest.raises(ValueError, match=WORD) as raised:
        eager.apply((WORD,), throw=True)
    assert raised.value is error
    assert eager.apply((WORD,)).result is error
    assert "ValueError" in caplog.text
    assert WORD not in caplog.text.replace("eager.apply", "")


def test_a_marked_result_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Its reader gets it all the same."""
    caplog.set_level(logging.INFO, "dispatcher.task.outcome")  # other tests may have left it higher
    bench = Bench()
    result = bench.app.task(name="token", sensitive="return")(lambda: WORD).delay()
    bench.work()
    assert result.get() == WORD
    assert "succeeded in" in caplog.text
    assert WORD not in caplog.text


def test_hooks_and_signals_get_the_values() -> None:
    """They are the user's own code, and an error reporter needs the exception that was raised."""
    bench, seen = Bench(), []

    def on_failure(self: Any, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        seen.append((exc.args, args))

    def fail(password: str) -> None:
        raise ValueError(password)

    bench.app.task(name=f"hooked-{uuid.uuid4()}", sensitive=True, on_failure=on_failure)(fail).delay(WORD)
    bench.work()
    assert seen == [((WORD,), [WORD])]
