"""Bodies of wire version 1 as they were when it was fixed: they are read, and written again, byte for byte.

A golden file that fails means that messages on queues, or workers of another release, are no longer understood. Never
change one; a new field gets a new file.
"""

import dataclasses
import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest

from dispatcher.exceptions import SecurityError
from dispatcher.message import Message, UnsupportedMessage, decode, encode
from dispatcher.security import Signer
from dispatcher.serialization import json_decode, json_encode

HERE = Path(__file__).parent / "bodies"
ID = "d8f1c1f0-2b1e-4b8e-9c55-0a4cfe1d2a11"
OTHER = "0f9d3a52-9d7e-4a53-8a06-6d2f6f5b3c77"
ACCEPTED = frozenset({"json", "msgpack"})
LIMIT = 10 * 1024 * 1024

MESSAGES: dict[str, Message] = {
    "minimal": Message(ID, "tasks.add", (1, 2)),
    "no-arguments": Message(ID, "tasks.tick"),
    "keyword-arguments": Message(ID, "tasks.mail", ("a@example.org",), {"subject": "Grüße ✓", "retry": None}),
    "typed-values": Message(
        ID,
        "tasks.typed",
        (
            datetime(2026, 5, 4, 3, 2, 1, 5000, tzinfo=UTC), date(2026, 5, 4),
            timedelta(days=1, seconds=2, microseconds=3), Decimal("1.50"), UUID(int=5), b"\x00\xff", {3}, {"$": 1},
        ),
    ),
    "times-and-limits": Message(
        ID, "tasks.add", (1, 2), eta=1_800_000_000.25, expires=1_800_003_600, soft_time_limit=30, time_limit=45.5
    ),
    "lineage": Message(
        ID, "tasks.add", (1, 2), gen=2, retries=1, root_id=OTHER, parent_id=OTHER, depth=3, group="g-1", group_index=0
    ),
    "links": Message(
        ID,
        "tasks.add",
        (1, 2),
        link=(
            {"task": "tasks.add", "args": [10]},
            {"task": "tasks.log", "kwargs": {"level": "info"}, "options": {"queue": "logs"}, "immutable": True},
        ),
        link_error=({"task": "tasks.alarm"},),
    ),
    "routing": Message(
        ID, "tasks.add", (1, 2), ignore_result=True, priority=3, headers={"trace": "abc"}, shadow="adding",
        origin="1@host", reply_to="elsewhere", deduplication_id="once", group_id="tenant-7",
    ),
    "sensitive": Message(ID, "tasks.login", ("ann", "x"), sensitive=("password", 1, "return")),
    "refused-result": Message(ID, "tasks.add", (1, 2), ignore_result=False),
    "handover": Message(ID, "tasks.add", (1, 2), gen=1, retries=1, handover="0f9d3a529d7e4a53"),
    "unique": Message(ID, "tasks.add", (1, 2), unique="tasks.add:0cf4a8a2d1f7be0b9c5e3f0a7d6b4c21"),
    "chain-and-chord": Message(
        ID, "tasks.add", (1, 2), chain=({"task": "tasks.next", "options": {"task_id": "n-1"}},),
        chord={"id": "g-1", "i": 3, "n": 10}, header={"id": "h-1", "n": 2, "ids": {"1": "own"}}
    ),
}  # fmt: skip


def _body(name: str) -> str:
    return (HERE / f"{name}.json").read_text(encoding="ascii").removesuffix("\n")


@pytest.mark.parametrize("name", MESSAGES)
def test_body_is_read_as_it_was_meant(name: str) -> None:
    """Every golden body decodes to the message it was made of."""
    read = decode(_body(name))
    assert {field: getattr(read, field) for field in vars(MESSAGES[name])} == vars(MESSAGES[name])


@pytest.mark.parametrize("name", MESSAGES)
def test_message_is_written_as_it_was(name: str) -> None:
    """Every message encodes to its golden body, byte for byte."""
    assert encode(MESSAGES[name]) == _body(name)
    assert encode(decode(_body(name))) == _body(name)


def test_no_golden_body_is_left_out() -> None:
    """Each file belongs to a test."""
    others = {"packed-msgpack", "packed-zlib", "payload", "signed", "from-a-later-release", "critical", "version-2"}
    assert {path.stem for path in HERE.iterdir()} == MESSAGES.keys() | others


@pytest.mark.parametrize("name", ["packed-msgpack", "packed-zlib"])
def test_packed_arguments_are_read(name: str) -> None:
    """Arguments in another serializer, or compressed, are opened; the message is sent on as it came."""
    message = decode(_body(name))
    assert (message.args, message.kwargs) == ((), {})
    opened = message.with_arguments(ACCEPTED, LIMIT)
    assert (opened.args, opened.kwargs) == ((1, "x" * 100, b"\x00"), {"n": 2})
    assert encode(opened) == _body(name)


def test_payload_reference_is_kept_and_critical() -> None:
    """Arguments in a payload store are a reference that is critical: without it the task must not run."""
    message = decode(_body("payload"))
    assert message.payload == json.loads(_body("payload"))["payload"]
    assert json.loads(_body("payload"))["critical"] == ["payload"]
    loaded = message.with_payload(lambda reference: [[1, 2], {"n": reference["size"]}])
    assert (loaded.args, loaded.kwargs) == ((1, 2), {"n": 300000})
    assert encode(loaded) == _body("payload")


def test_fields_of_a_later_release_are_ignored_unless_critical() -> None:
    """Unknown fields are no obstacle, unknown critical fields and versions are, and say so."""
    assert encode(decode(_body("from-a-later-release"))) == _body("minimal")
    with pytest.raises(UnsupportedMessage, match="does not know the critical field tenancy") as caught:
        decode(_body("critical"))
    assert caught.value.task_id == ID
    with pytest.raises(UnsupportedMessage, match="wire version 2 is not known here"):
        decode(_body("version-2"))


KEY = bytes(range(32))


def test_signature_is_written_and_verified_as_it_was() -> None:
    """A signed body is the unsigned one with its last member added; it verifies on its queues and nowhere else."""
    signer = Signer({"k1": KEY})
    now = 1_800_000_000.0
    signed = _body("signed")
    assert signer.sign(_body("minimal"), "orders", now) == signed
    for queue in ("orders", "orders-lost", "orders-dead"):
        signer.verify(signed, queue, now + 60)
    assert decode(signed) == decode(_body("minimal"))
    tampering: list[tuple[Callable[[str], str], str]] = [
        (lambda body: body.replace('"args":[1,2]', '"args":[1,3]'), "orders"),
        (lambda body: body, "payments"),
        (lambda body: _body("minimal"), "orders"),
        (lambda body: body[:-1] + ',"gen":1}', "orders"),
    ]
    for change, queue in tampering:
        with pytest.raises(SecurityError):
            signer.verify(change(signed), queue, now)


def test_size_of_the_smallest_call() -> None:
    """A call of ``tasks.add`` with two small numbers is at most 150 bytes, its UUID included."""
    assert len(_body("minimal").encode()) <= 150


def test_bodies_are_legal_anywhere() -> None:
    """Golden bodies are one line of printable ASCII: legal in XML, and readable by JSON parsers of any language."""
    for path in HERE.iterdir():
        text = path.read_text(encoding="ascii").removesuffix("\n")
        assert text.isprintable()
        assert isinstance(json.loads(text), dict)


PAGE = Path(__file__).parents[2] / "docs" / "wire-format.md"


def test_page_has_every_field() -> None:
    """The documentation has a row for each field, and no other, in the order in which they are written."""
    table = PAGE.read_text(encoding="utf-8").split("## Fields")[1].split("\n\n")[1]
    rows = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert rows == ["v", *(field.name for field in dataclasses.fields(Message)), "critical", "sig"]


def test_examples_of_the_page_are_messages() -> None:
    """Every body that the documentation shows can be read, and is what this release would write."""
    bodies = re.findall(r"```json\n(.*?)\n```", PAGE.read_text(encoding="utf-8"))
    assert len(bodies) >= 7
    for body in bodies:
        message = decode(body)
        if '"sig"' not in body and '"later"' not in body:
            assert encode(message) == body


def test_values_of_the_page_are_values() -> None:
    """Every typed value that the documentation shows can be read and is written like that."""
    section = PAGE.read_text(encoding="utf-8").split("## Values")[1].split("## ")[0]
    shown = [text for text in re.findall(r"`(\{\"\$\".*?\})`", section) if "…" not in text]
    assert len(shown) == 11
    for text in shown:
        assert json_encode(json_decode(text)) == text


def test_sizes_of_the_page_are_right() -> None:
    """The figures in the documentation are those of the golden bodies."""
    text = PAGE.read_text(encoding="utf-8")
    assert f"is {len(_body('minimal'))} bytes, {len(_body('signed'))} signed" in text
    assert f"text of {len(json.loads(_body('signed'))['sig'])} characters" in text
