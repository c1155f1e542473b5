"""Reasons of dead letters as message attributes, within the limits of SQS."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.brokers.sqs_letters import (
    MAX_ATTRIBUTE_BYTES,
    MAX_TRACEBACK_BYTES,
    REDRIVEN,
    attributes_of,
    is_legal_body,
    reason_of,
    size_of,
    size_of_attributes,
)


def test_a_reason_comes_back() -> None:
    """What fits is kept as it is."""
    reason = {"reason": "rejected", "task": "a.b", "exception": "ValueError('é')", "retries": "3"}
    assert reason_of(attributes_of(reason, 10_000)) == reason


def test_a_long_traceback_keeps_its_ends() -> None:
    """The middle goes, with a mark; the end names the error."""
    traceback = "Traceback:\n" + "x" * 100_000 + "\nValueError: the end"
    text = reason_of(attributes_of({"traceback": traceback}, 1_000_000))["traceback"]
    assert text.startswith("Traceback:")
    assert text.endswith("ValueError: the end")
    assert "bytes and more left out" in text
    assert size_of(text) <= MAX_TRACEBACK_BYTES


def test_other_texts_are_shorter() -> None:
    """An exception's text is no traceback."""
    assert size_of(reason_of(attributes_of({"exception": "é" * 50_000}, 1_000_000))["exception"]) <= MAX_ATTRIBUTE_BYTES


def test_what_sqs_does_not_take_is_replaced() -> None:
    """Control characters, lone surrogates and names with other letters would fail the whole call."""
    reason = {"exception": "a\x00b\x1bc\ud800", "my key!": "v", "traceback": ""}
    assert reason_of(attributes_of(reason, 10_000)) == {"exception": "a\ufffdb\ufffdc\ufffd", "my_key_": "v"}


def test_ten_attributes_at_most() -> None:
    """The known ones go first."""
    reason = {f"extra{n}": "x" for n in range(20)} | {"traceback": "t", "reason": "r"}
    names = list(attributes_of(reason, 10_000))
    assert (len(names), names[:2]) == (10, ["reason", "traceback"])


def test_a_letter_without_a_reason_was_redriven() -> None:
    """Native redrive adds no attributes."""
    assert reason_of({}) == {"reason": REDRIVEN}


@pytest.mark.parametrize(
    ("body", "legal"), [("{}", True), ("é🚀\t\r\n", True), ("", False), ("\x0b", False), ("\uffff", False)]
)
def test_bodies_are_checked(body: str, legal: bool) -> None:
    """The characters of XML 1.0, and at least one."""
    assert is_legal_body(body) is legal


@given(
    reason=st.dictionaries(st.sampled_from(["reason", "task", "exception", "traceback", "x"]), st.text(max_size=9_000)),
    room=st.integers(0, 20_000),
)
def test_attributes_fit_the_room(reason: dict[str, str], room: int) -> None:
    """Whatever the texts, attributes never take more than there is, and are never empty."""
    attributes = attributes_of(reason, room)
    assert size_of_attributes(attributes) <= room
    assert all(is_legal_body(value["StringValue"]) for value in attributes.values())
