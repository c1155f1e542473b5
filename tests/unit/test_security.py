"""Signed bodies and the keys they are signed with."""

import base64
import importlib
import json
import re
from typing import Any

import pytest

from dispatcher import state
from dispatcher.cli import main
from dispatcher.exceptions import ImproperlyConfigured, SecurityError
from dispatcher.security import CLOCK_SKEW, MIN_KEY_BYTES, SIGNATURE_LENGTH, Signer, home_queue, parse_keys

OLD = bytes(range(32))
NEW = bytes(range(32, 80))
BODY = '{"v":1,"id":"8f14e45f","task":"tasks.add","args":[1,2]}'
NOW = 1_793_000_000.75
DAY = 86_400.0


@pytest.fixture
def signer() -> Signer:
    return Signer({"k1": OLD}, max_age=DAY)


def refusal(signer: Signer, body: str | bytes, queue: str = "orders", now: float = NOW) -> str:
    """Return why a body is refused."""
    with pytest.raises(SecurityError) as error:
        signer.verify(body, queue, now)
    return str(error.value)


def test_a_signed_body_is_json_that_ends_in_the_signature(signer: Signer) -> None:
    """The signature is one member more, of one length, at the end."""
    signed = signer.sign(BODY, "orders", NOW)
    fields = json.loads(signed)
    assert {**fields, "sig": None} == {**json.loads(BODY), "sig": None}
    assert list(fields)[-1] == "sig"
    assert re.fullmatch(r"k1\.{6}:1793000000:[\w-]{16}:[\w-]{43}", fields["sig"])
    assert len(signed) == len(BODY) + SIGNATURE_LENGTH
    assert signed.startswith(BODY[:-1])


def test_the_length_does_not_depend_on_key_or_queue() -> None:
    """Every signature is as long as any other."""
    for key_id in ("a", "12345678"):
        for queue in ("q", "long-" * 16):
            assert len(Signer({key_id: NEW}).sign(BODY, queue, 1.0)) == len(BODY) + SIGNATURE_LENGTH


def test_a_signed_body_verifies_as_text_and_bytes(signer: Signer) -> None:
    """What was signed is accepted, characters beyond ASCII included."""
    for body in (BODY, '{"a":"é😀"}'):
        signed = signer.sign(body, "orders", NOW)
        signer.verify(signed, "orders", NOW)
        signer.verify(signed.encode(), "orders", NOW)


@pytest.mark.parametrize("queue", ["orders", "orders-lost", "orders-dead"])
def test_lost_and_dead_queues_stand_for_their_home_queue(signer: Signer, queue: str) -> None:
    """A message may be read from, and sent back from, the queues that keep what is lost or dead."""
    signer.verify(signer.sign(BODY, "orders", NOW), queue, NOW)
    signer.verify(signer.sign(BODY, queue, NOW), "orders", NOW)


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("q", "q"),
        ("q-lost", "q"),
        ("q-dead", "q"),
        ("q.fifo", "q.fifo"),
        ("q-lost.fifo", "q.fifo"),
        ("q-dead.fifo", "q.fifo"),
        ("q-lost-lost", "q-lost"),
        ("q.fifo-lost", "q.fifo"),
        ("-lost", "-lost"),
        ("-dead.fifo", "-dead.fifo"),
        ("lost", "lost"),
        ("", ""),
        (".fifo", ".fifo"),
    ],
)
def test_home_queue(name: str, home: str) -> None:
    """One suffix is taken off, before ``.fifo``; nothing is left nameless."""
    assert home_queue(name) == home


def test_each_reason_for_a_refusal_is_told_apart(signer: Signer) -> None:
    """Unsigned, misplaced, unknown key, altered, wrong queue, too old, from the future: each has its own message."""
    signed = signer.sign(BODY, "orders", NOW)
    assert "is not signed" in refusal(signer, BODY)
    assert "misplaced or malformed" in refusal(signer, signed[:-1] + ',"a":1}')
    assert "unknown key 'k2'; known are k1" in refusal(signer, Signer({"k2": NEW}).sign(BODY, "orders", NOW))
    assert "altered" in refusal(signer, signed.replace("[1,2]", "[1,3]"))
    assert "another queue than 'payments'" in refusal(signer, signed, "payments")
    assert "another queue than 'orders.fifo'" in refusal(signer, signed, "orders.fifo")
    assert "86402 s ago; the maximum age is 86400 s" in refusal(signer, signed, now=NOW + DAY + 1)
    assert "in the future; check the clocks" in refusal(signer, signed, now=NOW - CLOCK_SKEW - 1)


def test_the_age_limits_are_inclusive(signer: Signer) -> None:
    """A signature of exactly the maximum age, or ahead by exactly the tolerance, is accepted."""
    signed = signer.sign(BODY, "orders", 1_793_000_000.0)
    signer.verify(signed, "orders", 1_793_000_000.0 + DAY)
    signer.verify(signed, "orders", 1_793_000_000.0 - CLOCK_SKEW)


def test_another_key_under_a_known_id_is_refused(signer: Signer) -> None:
    """The key decides, not its id."""
    assert "altered" in refusal(signer, Signer({"k1": NEW}).sign(BODY, "orders", NOW))


def test_any_changed_byte_is_refused(signer: Signer) -> None:
    """No byte of the body, nor of the signature, can be changed, dropped or added."""
    signed = signer.sign(BODY, "orders", NOW)
    for index in range(len(signed)):
        other = "1" if signed[index] != "1" else "2"
        refusal(signer, signed[:index] + other + signed[index + 1 :])
        refusal(signer, signed[:index] + signed[index + 1 :])
        refusal(signer, signed[:index] + " " + signed[index:])
    refusal(signer, signed + "\n")
    refusal(signer, " " + signed)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{}",
        "}",
        "[" * 1_000_000,
        b"\xff\xfe",
        "\ud800",
        '{"sig":"k1......:1793000000:AAAAAAAAAAAAAAAA:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}',
        ',"sig":"k1......:1793000000:AAAAAAAAAAAAAAAA:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}',
        '{"a":1,"sig":"k.1.....:1793000000:AAAAAAAAAAAAAAAA:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}',
        '{"a":1,"sig":"k1......:17930000-0:AAAAAAAAAAAAAAAA:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}',
        '{"a":1,"sig":"k1......:١٧٩٣٠٠٠٠٠٠:AAAAAAAAAAAAAAAA:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}',
    ],
    ids=lambda body: repr(body)[:30],
)
def test_hostile_bodies_are_refused(signer: Signer, body: str | bytes) -> None:
    """Whatever arrives unsigned ends in a SecurityError."""
    refusal(signer, body)


def test_an_unsigned_body_cannot_borrow_a_signature(signer: Signer) -> None:
    """The member of one message is worth nothing on another, or nested in one."""
    signed = signer.sign(BODY, "orders", NOW)
    member = signed[len(BODY) - 1 :]
    assert "altered" in refusal(signer, '{"v":1,"id":"x","task":"evil"' + member)
    assert "misplaced" in refusal(signer, '{"a":' + signed + "}")


def test_keys_rotate() -> None:
    """With both keys old and new messages verify and new ones are signed with the active one."""
    before = Signer({"old": OLD})
    both = Signer({"old": OLD, "new": NEW}, active="new")
    after = Signer({"new": NEW})
    both.verify(before.sign(BODY, "q", NOW), "q", NOW)
    signed = both.sign(BODY, "q", NOW)
    assert '"sig":"new.....:' in signed
    after.verify(signed, "q", NOW)
    assert "unknown key 'new'" in refusal(before, signed, "q")
    assert "unknown key 'old'" in refusal(after, before.sign(BODY, "q", NOW), "q")


def test_the_first_key_signs_unless_another_is_named() -> None:
    """The order of the keys is that of the configuration."""
    assert '"sig":"b.......:' in Signer({"b": OLD, "a": NEW}).sign(BODY, "q", NOW)


@pytest.mark.parametrize("body", ["{}", "[]", "", '{"a":1} ', ' {"a":1}', "1"])
def test_only_compact_objects_are_signed(signer: Signer, body: str) -> None:
    """Anything else is a mistake of the caller."""
    with pytest.raises(ValueError, match="only a JSON object"):
        signer.sign(body, "q", NOW)


def test_neither_repr_nor_errors_show_keys() -> None:
    """A key appears in no text of ours."""
    secret = base64.b64encode(NEW).decode()
    signer = Signer(parse_keys(f"k1:{secret}"))
    texts = [repr(signer), str(signer), refusal(signer, BODY)]
    for value in (
        f"k1:{secret}!",
        f"{secret}:k1",
        secret,
        {"k1": secret[:20]},
        {"k1": 5, "k2": secret},
        f"k1:{secret},k1:{secret}",
    ):
        with pytest.raises(ImproperlyConfigured) as error:
            parse_keys(value)
        texts.append(str(error.value) + repr(error.value.__cause__))
    assert not any(secret[:20] in text or repr(NEW) in text for text in texts), texts


def test_keys_show_in_no_report(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in what the app says of itself, nor in `dispatcher report`."""
    secret = base64.b64encode(NEW).decode()
    monkeypatch.setenv("DISPATCHER_SIGNING_KEYS", f"k1:{secret}")
    monkeypatch.setenv("DISPATCHER_BROKER_URL", "memory://")
    before = state._current_app
    try:
        for arguments in (["report"], ["report", "--json"]):
            assert main(["-A", "tests.unit.reported:app", *arguments]) == 0
    finally:
        state.set_current_app(before)
    shown = capsys.readouterr().out
    app = importlib.import_module("tests.unit.reported").app
    assert app.conf.signing_keys == {"k1": NEW}
    texts = [shown, repr(app), repr(app.conf), app.conf.humanize(), str(app.conf.table()), repr(app.wire)]
    assert "signing_keys" in shown
    assert not any(secret[:16] in text or repr(NEW)[2:20] in text for text in texts)


def test_keys_are_read_from_text_list_and_mapping() -> None:
    """All three forms give the same keys in their order; base64 may be of either alphabet and unpadded."""
    old, new = base64.b64encode(b"\xff" * 33).decode(), base64.urlsafe_b64encode(b"\xfe" * 32).decode().rstrip("=")
    expected = {"new": b"\xfe" * 32, "old": b"\xff" * 33}
    forms: list[Any] = [
        f"new:{new}, old:{old}",
        [f"new:{new}", f"old:{old}"],
        {"new": new, "old": old},
        {"new": b"\xfe" * 32, "old": old},
    ]
    for form in forms:
        assert parse_keys(form) == expected
        assert list(parse_keys(form)) == ["new", "old"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("abc", "pairs of a key id and a key"),
        ([5], "pairs of a key id and a key"),
        (f"k1:{base64.b64encode(b'short').decode()}", "'k1' has 5 bytes and needs 32.*os.urandom"),
        ("k1:", "'k1' has 0 bytes"),
        ("k1:%%%", "'k1' is not base64"),
        ({"k1": "é" * 44}, "'k1' is not base64"),
        ({"": OLD}, "must be 1 to 8 letters"),
        ({"too-long-": OLD}, "must be 1 to 8 letters"),
        ({"k.1": OLD}, "must be 1 to 8 letters"),
        ({"k1\n": OLD}, "must be 1 to 8 letters"),
        ({1: OLD}, "must be 1 to 8 letters"),
        ({"k1": 5}, "must be bytes or base64"),
    ],
)  # fmt: skip
def test_unusable_keys_are_refused(value: Any, message: str) -> None:
    """The error names the key and what is wrong with it."""
    with pytest.raises(ImproperlyConfigured, match=message):
        parse_keys(value)


def test_a_signer_checks_what_it_is_given() -> None:
    """No keys, short keys, an unknown active key and a senseless age are refused."""
    for arguments, message in [
        (({},), "at least one key"),
        (({"k1": OLD[:-1]},), f"needs {MIN_KEY_BYTES}"),
        (({"k1": OLD}, "k2"), "'k2' is not among the keys k1"),
        (({"k1": OLD}, "k1", 0), "maximum age"),
        (({"k1": OLD}, None, float("inf")), "maximum age"),
    ]:
        with pytest.raises(ImproperlyConfigured, match=message):
            Signer(*arguments)  # type: ignore[arg-type]
