"""Properties of messages: what is written is read, and no body does anything but decode or raise."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.exceptions import DecodeError, SecurityError
from dispatcher.message import Message, decode, encode

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
counts = st.integers(0, 2**53 - 1)
seconds = st.one_of(counts, st.floats(0, 2**52, allow_nan=False))
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)
keywords = st.dictionaries(texts, values, max_size=4)
signatures = st.lists(
    st.fixed_dictionaries({"task": texts}, optional={"args": st.lists(values, max_size=2)}), max_size=2
)
messages = st.builds(
    Message,
    id=texts,
    task=texts,
    args=st.lists(values, max_size=4).map(tuple),
    kwargs=keywords,
    gen=counts,
    retries=counts,
    eta=st.none() | seconds,
    expires=st.none() | seconds,
    root_id=st.none() | texts,
    parent_id=st.none() | texts,
    depth=counts,
    group=st.none() | texts,
    group_index=st.none() | counts,
    link=signatures.map(tuple),
    link_error=signatures.map(tuple),
    soft_time_limit=st.none() | seconds,
    time_limit=st.none() | seconds,
    ignore_result=st.none() | st.booleans(),
    priority=st.none() | st.integers(0, 9),
    headers=keywords,
    shadow=st.none() | texts,
    origin=st.none() | texts,
    deduplication_id=st.none() | texts,
    group_id=st.none() | texts,
)


@given(messages)
def test_what_is_written_is_read(message: Message) -> None:
    """Every message survives the wire, as one line of ASCII, and is written the same again."""
    body = encode(message)
    assert body.isascii()
    assert "\n" not in body
    read = decode(body)
    assert read == message
    assert encode(read) == body
    assert decode(body.encode()) == message


fields = st.sampled_from([*Message.__dataclass_fields__, "v", "critical", "sig", "later"])
anything = st.recursive(
    st.one_of(scalars, st.floats()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(texts, st.sampled_from(["$", "v", "task"])), inner, max_size=4),
        st.fixed_dictionaries(
            {"$": texts | st.sampled_from(["set", "uuid", "bytes", "exception", "tuple"]), "v": inner}
        ),
    ),
    max_leaves=10,
)


@settings(max_examples=300)
@given(st.dictionaries(fields, anything, max_size=6), st.booleans())
def test_wrong_fields_end_in_a_named_error(wrong: dict[str, Any], headed: bool) -> None:
    """A body of the right shape with any content decodes or raises `DecodeError`, and so do its arguments."""
    body = json.dumps({"v": 1, "id": "a", "task": "t", **wrong} if headed else wrong)
    try:
        message = decode(body)
    except DecodeError:
        return
    assert decode(encode(message)) == message
    try:
        message.with_arguments(frozenset({"json", "msgpack"}), 1_000_000)
    except (DecodeError, SecurityError):
        pass


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200)))
def test_any_bytes_end_in_an_error(body: bytes | str) -> None:
    """Whatever arrives, nothing but `DecodeError` comes out."""
    try:
        decode(body)
    except DecodeError:
        pass


@given(messages, st.data())
def test_damaged_bodies_end_in_an_error_or_a_message(message: Message, data: st.DataObject) -> None:
    """A body cut short is refused; one with a changed character is refused or is some message."""
    body = encode(message)
    cut = data.draw(st.integers(0, len(body) - 1))
    try:
        decode(body[:cut])
        raise AssertionError(f"decoded: {body[:cut]}")
    except DecodeError:
        pass
    at = data.draw(st.integers(0, len(body) - 1))
    character = data.draw(st.characters(max_codepoint=127))
    try:
        decode(body[:at] + character + body[at + 1 :])
    except DecodeError:
        pass
