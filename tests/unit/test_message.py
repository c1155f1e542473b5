"""Messages: what is read, what is refused and with which words, and what it costs."""

import json
import tracemalloc
from typing import Any

import pytest

from dispatcher.exceptions import ContentDisallowed, DecodeError, EncodeError
from dispatcher.message import InvalidMessage, Message, UnsupportedMessage, decode, encode

LIMIT = 10 * 1024 * 1024


def _body(**fields: Any) -> str:
    return json.dumps({"v": 1, "id": "a", "task": "t", **fields})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "not JSON: Expecting value at character 0"),
        ("null", "a message is a JSON object, not null"),
        ("[]", "a message is a JSON object, not a list"),
        ("7", "a message is a JSON object, not 7"),
        ('"x"', "a message is a JSON object, not 'x'"),
        (b"\xff\xfe{}", "not UTF-8: byte 0"),
        ("{}", "'id' must be a text of 1 to 255 characters, not null"),
        (_body(id=5), "'id' must be a text of 1 to 255 characters, not 5"),
        (_body(id="LOCK#x"), "'id' must not begin with 'LOCK#'"),
        (_body(id=""), "'id' must be a text of 1 to 255 characters, not ''"),
        (_body(id="x" * 256), "'id' must be a text of 1 to 255 characters"),
        ('{"id":"a","task":"t"}', "'v', the wire version, is missing or not a whole number"),
        (_body(v=True), "'v', the wire version, is missing or not a whole number"),
        (_body(v="1"), "'v', the wire version, is missing or not a whole number"),
        (_body(v=1.0), "'v', the wire version, is missing or not a whole number"),
        ('{"v":1,"id":"a"}', "'task' is missing"),
        (_body(task=""), "'task' must be a text that is not empty, not ''"),
        (_body(args={}), "'args' must be a list, not an object"),
        (_body(args={"$": "tuple", "v": [1]}), "'args' must be a list, not tuple"),
        (_body(args={"$": "tuple", "v": [1]}, gen=1), "'args' must be a list, not tuple"),
        (_body(kwargs=[]), "'kwargs' must be an object with text keys, not a list"),
        (_body(eta="soon"), "'eta' must be a number of seconds from 0 on, not 'soon'"),
        (_body(eta=True), "'eta' must be a number of seconds from 0 on, not True"),
        (_body(eta=-1), "'eta' must be a number of seconds from 0 on, not -1"),
        (_body(eta=1e300), "'eta' must be a number of seconds from 0 on, not 1e+300"),
        (_body(eta=None), "'eta' must be a number of seconds from 0 on, not null"),
        (_body(gen=1.5), "'gen' must be a whole number from 0 on, not 1.5"),
        (_body(retries=-1), "'retries' must be a whole number from 0 on, not -1"),
        (_body(depth=2**60), "'depth' must be a whole number from 0 on"),
        (_body(priority=99), "'priority' must be a whole number from 0 to 9, not 99"),
        (_body(ignore_result=1), "'ignore_result' must be true or false, not 1"),
        (_body(headers=[]), "'headers' must be an object, not a list"),
        (_body(link={}), "'link' must be a list of signatures, each an object with a 'task', not an object"),
        (_body(link=["x"]), "'link' must be a list of signatures, each an object with a 'task', not a list"),
        (_body(link_error=[{"args": []}]), "'link_error' must be a list of signatures"),
        (_body(packed="x"), "'packed' must be an object, not 'x'"),
        (_body(critical="x"), "'critical' must be a list of field names"),
        (_body(critical=[1]), "'critical' must be a list of field names"),
        (_body() + "x", "not JSON: more text after the value"),
        ('{"v":1,"id":"\\ud800","task":"t"}', "lone surrogate"),
        ('{"v":1,"id":"a","task":"t","args":[NaN]}', "NaN is not a JSON number"),
        ('{"v":1,"id":"a","task":"t","args":[1e999]}', "a number of 5 characters is out of range"),
        ('{"v":1,"id":"a","task":"t","args":[-Infinity]}', "-Infinity is not a JSON number"),
        ('{"v":1,"id":"a","task":"t","args":[{"$":"uuid","v":"x"}]}', "malformed uuid value"),
        ('{"v":1,"id":"a","task":"t","args":[{"$":"nothing","v":1}]}', "nothing"),
        ('{"v":1,"id":"a","task":"t","args":[%s]}' % ("1" * 5000), "4300"),
    ],
)
def test_what_is_no_message_is_refused_with_the_reason(body: str | bytes, words: str) -> None:
    """Each mistake names the field, what belongs there and what was found."""
    with pytest.raises(InvalidMessage) as caught:
        decode(body, LIMIT)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300


def test_the_id_of_a_broken_message_is_kept() -> None:
    """Where the id can be read it is on the error, so that whoever waits for the task can be told."""
    with pytest.raises(InvalidMessage) as caught:
        decode(_body(eta="soon"))
    assert caught.value.task_id == "a"
    with pytest.raises(InvalidMessage) as caught:
        decode("[]")
    assert caught.value.task_id is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"v": 2}, "wire version 2 is not known here (this release reads 1)"),
        ({"v": 10**300}, "is not known here"),
        ({"critical": ["tenancy", "eta"], "tenancy": 1}, "this release does not know the critical field tenancy"),
    ],
)
def test_what_a_newer_release_may_know_is_told_apart(fields: Any, words: str) -> None:
    """Versions and critical fields of the future are `UnsupportedMessage`, with the id."""
    with pytest.raises(UnsupportedMessage) as caught:
        decode(_body(**fields))
    assert words in str(caught.value)
    assert caught.value.task_id == "a"


def test_unknown_fields_are_ignored() -> None:
    """A field that is not critical is left out."""
    assert decode(_body(later={"x": [1]})) == decode(_body())


@pytest.mark.parametrize(
    "body",
    [
        "[" * LIMIT,
        '{"a":' * (LIMIT // 5),
        '{"v":1,"id":"a","task":"t","args":' + "[" * LIMIT,
        '{"v":1,"id":"a","task":"t","args":[' + "1" * LIMIT + "]}",
        '{"v":1,"id":"a","task":"t","args":["' + "\\u0041" * (LIMIT // 6),
    ],
    ids=["lists", "objects", "arguments", "digits", "unfinished text"],
)
def test_ten_megabytes_of_nonsense_end_in_an_error_within_bounds(body: str) -> None:
    """Deep nesting and endless numbers are refused in memory proportional to the body."""
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            decode(body, len(body))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * len(body)


def test_body_over_the_limit_is_not_parsed() -> None:
    """The size is looked at first."""
    with pytest.raises(InvalidMessage, match="1000 bytes long; the limit is 100"):
        decode("[" * 1000, 100)


@pytest.mark.parametrize(
    ("packed", "words"),
    [
        ({}, "needs the texts 'enc' and 'data'"),
        ({"enc": 5, "data": []}, "needs the texts 'enc' and 'data'"),
        ({"enc": "msgpack"}, "needs the texts 'enc' and 'data'"),
        ({"enc": "msgpack", "data": "!!!"}, "not base64"),
        ({"enc": "msgpack", "data": "kgE"}, "not base64"),
        ({"enc": "msgpack", "data": "kgE="}, "truncated"),
        ({"enc": "json", "zip": "zlib", "data": "AAAA"}, "not zlib data"),
        ({"enc": "json", "data": "W10="}, "not a pair of args and kwargs"),
        ({"enc": "json", "data": "W1tdLFtdXQ=="}, "'kwargs' must be an object with text keys, not a list"),
        ({"enc": "json", "data": "W3t9LHt9XQ=="}, "'args' must be a list, not an object"),
    ],
)
def test_packed_arguments_that_cannot_be_opened(packed: Any, words: str) -> None:
    """Broken packed arguments name what is wrong, and leave the rest of the message readable."""
    message = decode(_body(packed=packed, gen=3))
    with pytest.raises(DecodeError) as caught:
        message.with_arguments(frozenset({"json", "msgpack"}), LIMIT)
    assert words in str(caught.value)
    assert caught.value.envelope is message  # type: ignore[attr-defined]


def test_serializer_that_is_not_accepted_is_not_opened() -> None:
    """Pickle is refused by its name alone."""
    message = decode(_body(packed={"enc": "pickle", "data": "gAROLg=="}))
    with pytest.raises(
        ContentDisallowed, match=r"serializer 'pickle' is not accepted here, where accept_content is \["
    ):
        message.with_arguments(frozenset({"json"}), LIMIT)


def test_message_cannot_be_changed_but_copied() -> None:
    """`replace` returns a copy; unknown fields, assignment and changing the shared default are refused."""
    message = Message("a", "t")
    changed = message.replace(gen=2)
    assert (message.gen, changed.gen, changed.id) == (0, 2, "a")
    with pytest.raises(TypeError, match="a message has no field genn"):
        message.replace(genn=2)
    with pytest.raises(AttributeError):
        message.gen = 5  # type: ignore[misc]
    with pytest.raises(TypeError, match="cannot be changed"):
        message.kwargs["x"] = 1  # type: ignore[index]


def test_body_of_a_small_call_is_small() -> None:
    """``tasks.add`` with ``(1, 2)`` and its UUID takes at most 150 bytes."""
    message = Message("d8f1c1f0-2b1e-4b8e-9c55-0a4cfe1d2a11", "tasks.add", (1, 2))
    assert len(encode(message).encode()) <= 150


@pytest.mark.parametrize("text", ["ü", 'a"b', "a\\b", "a\\\\udead", "\U0001f600", '"$":', "\n"])
def test_ids_and_names_are_written_as_json(text: str) -> None:
    """Whatever characters an id or a name has, they come back."""
    message = decode(encode(Message(text, text, (text,))))
    assert (message.id, message.task, message.args) == (text, text, (text,))


@pytest.mark.parametrize("fields", [("\ud800", "t"), ("a", "\udc00"), ("a", "t", ("\ud800",))])
def test_lone_surrogates_are_not_written(fields: Any) -> None:
    """A text that no other program could read is refused, wherever it is."""
    with pytest.raises(EncodeError, match="surrogates"):
        encode(Message(*fields))


def test_defaults_are_left_out() -> None:
    """Fields that say nothing are not written, empty containers and resets to the default included."""
    message = Message("a", "t", args=(), kwargs={}, headers={}, link=(), gen=0, eta=None).replace(
        retries=0, expires=None
    )
    assert encode(message) == '{"v":1,"id":"a","task":"t"}'
