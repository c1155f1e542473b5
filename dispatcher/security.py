"""Signed bodies: HMAC-SHA256 over all bytes of a body, its home queue and the time of signing.

The signature is the last member of the JSON object and of one length, so that it is checked before any JSON is parsed::

    {"v":1,"id":"…", … ,"sig":"<key id>:<time>:<queue>:<mac>"}

The key id is padded with dots to 8 characters. The time is the epoch second in 10 digits. ``queue`` are 16 characters
of base64url of an HMAC of the home queue's name, which tells a message of another queue from an altered one. ``mac``
are 43 characters of base64url of an HMAC of everything before the mac itself.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Mapping
from typing import Any, Final

from dispatcher.exceptions import ImproperlyConfigured, SecurityError, UnsignedMessage

#: RFC 2104 discourages keys shorter than the hash's output, 32 bytes for SHA-256.
MIN_KEY_BYTES: Final = 32
#: How far, in seconds, the clocks of producers and workers may disagree.
CLOCK_SKEW: Final = 300.0
#: Long enough, in seconds, for a task that was sent with an eta a year away, and for its time in queues after that.
DEFAULT_MAX_AGE: Final = 400 * 86_400.0

_KEY_ID_LENGTH: Final = 8
_KEY_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,8}", re.ASCII)
_OPENING: Final = b',"sig":"'
_QUEUE_LENGTH: Final = 16
_MAC_LENGTH: Final = 43
_TIME_START: Final = len(_OPENING) + _KEY_ID_LENGTH + 1
_QUEUE_START: Final = _TIME_START + 10 + 1
_MAC_START: Final = _QUEUE_START + _QUEUE_LENGTH + 1
#: Bytes that signing adds to a body.
SIGNATURE_LENGTH: Final = _MAC_START + _MAC_LENGTH + len('"')
_MEMBER: Final = re.compile(
    rb',"sig":"([A-Za-z0-9_-]{1,8}\.{0,7}):([0-9]{10}):([A-Za-z0-9_-]{16}):([A-Za-z0-9_-]{43})"\}'
)
_FIFO: Final = ".fifo"


def home_queue(name: str) -> str:
    """Return the queue whose messages a lost or dead queue keeps: ``q`` for ``q``, ``q-lost`` and ``q-dead``.

    ``.fifo`` stays at the end: ``q-lost.fifo`` belongs to ``q.fifo``.
    """
    suffix = _FIFO if name.endswith(_FIFO) else ""
    stem = name.removesuffix(suffix)
    for kept in ("-lost", "-dead"):
        if stem.endswith(kept) and stem != kept:
            return stem.removesuffix(kept) + suffix
    return name


class Signer:
    """Signs bodies with one key and verifies those signed with any of its keys.

    ``keys`` maps key ids (1 to 8 letters, digits, ``_``, ``-``) to at least 32 random bytes; ``active`` signs, by
    default the first. To rotate, add the new key everywhere, then make it the active one, and remove the old one
    ``max_age`` seconds later.
    """

    __slots__ = ("_active", "_keys", "_max_age", "_queues")

    def __init__(self, keys: Mapping[str, bytes], active: str | None = None, max_age: float = DEFAULT_MAX_AGE) -> None:
        """Raises `ImproperlyConfigured` for unusable keys or an unknown active one; ``max_age`` is in seconds."""
        if not keys:
            raise ImproperlyConfigured("signing needs at least one key; leave signing_keys unset to send unsigned")
        for key_id, key in keys.items():
            _check_id(key_id)
            _check_key(key_id, key)
        if active is None:
            active = next(iter(keys))
        _check_id(active)
        if active not in keys:
            raise ImproperlyConfigured(f"the active signing key {active!r} is not among the keys {', '.join(keys)}")
        if not 0 < max_age < math.inf:
            raise ImproperlyConfigured(f"the maximum age of signatures must be a number of seconds, not {max_age!r}")
        self._keys = dict(keys)
        self._active = active
        self._max_age = max_age
        self._queues: dict[tuple[str, str], bytes] = {}

    def __repr__(self) -> str:
        return f"<Signer: keys {', '.join(self._keys)}, signs with {self._active}>"

    def sign(self, body: str, queue: str, now: float) -> str:
        """Return the body, a JSON object in compact form, with the signature as its last member."""
        if not body.endswith("}") or body.endswith("{}") or not body.startswith("{"):
            raise ValueError("only a JSON object with members, without space around it, can be signed")
        key_id = self._active
        padded = key_id.ljust(_KEY_ID_LENGTH, ".")
        opening = f'{body[:-1]},"sig":"{padded}:{int(now):010d}:{self._queue_mark(key_id, queue).decode()}:'
        return f'{opening}{_mac(self._keys[key_id], opening.encode()).decode()}"}}'

    def verify(self, body: str | bytes, queue: str, now: float) -> None:
        """Check a body received from a queue; a lost or dead queue stands for its home queue.

        Raises `SecurityError` for a body that is unsigned, signed with an unknown key, altered, sent to another
        queue, older than the maximum age, or from the future.
        """
        data = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
        start = len(data) - SIGNATURE_LENGTH - 1
        member = _MEMBER.fullmatch(data, max(0, start))
        if member is None or start < 0:
            if b'"sig"' in data:
                raise SecurityError("the message's signature is misplaced or malformed")
            raise UnsignedMessage("the message is not signed")
        key_id = member[1].decode().rstrip(".")
        key = self._keys.get(key_id)
        if key is None:
            raise SecurityError(
                f"the message is signed with the unknown key {key_id!r}; known are {', '.join(self._keys)}"
            )
        if not _equal(_mac(key, data[: start + _MAC_START]), member[4]):
            raise SecurityError(f"the message was altered after it was signed, or with another key than our {key_id!r}")
        if not _equal(self._queue_mark(key_id, queue), member[3]):
            raise SecurityError(f"the message was signed for another queue than {home_queue(queue)!r}")
        age = now - int(member[2])
        if age > self._max_age:
            raise SecurityError(f"the message was signed {age:.0f} s ago; the maximum age is {self._max_age:.0f} s")
        if age < -CLOCK_SKEW:
            raise SecurityError(f"the message was signed {-age:.0f} s in the future; check the clocks")

    def seal_result(self, task_id: str, content: str) -> str:
        """Return the seal of what a task's record keeps; it has no time, so that storing it again changes nothing."""
        return f"{self._active}:{self._result_mac(self._active, task_id, content).decode()}"

    def verify_result(self, task_id: str, content: str, seal: Any) -> None:
        """Check what a record keeps against its seal.

        Raises `SecurityError` for a result that is not sealed, sealed with an unknown key, altered, or of another task.
        """
        if not isinstance(seal, str):
            raise SecurityError(f"the result of task {task_id} is not signed")
        key_id, _, mac = seal.partition(":")
        if key_id not in self._keys:
            raise SecurityError(f"the result of task {task_id} is signed with a key that is not known here")
        if not _equal(self._result_mac(key_id, task_id, content), mac.encode("utf-8", "surrogatepass")):
            raise SecurityError(f"the result of task {task_id} was altered, or is that of another task")

    def _result_mac(self, key_id: str, task_id: str, content: str) -> bytes:
        return _mac(self._keys[key_id], b"\0".join((b"result", task_id.encode(), content.encode())))

    def _queue_mark(self, key_id: str, queue: str) -> bytes:
        mark = self._queues.get((key_id, queue))
        if mark is None:
            mark = _mac(self._keys[key_id], b"queue\0" + home_queue(queue).encode())[:_QUEUE_LENGTH]
            self._queues[key_id, queue] = mark
        return mark


def parse_keys(value: Any) -> dict[str, bytes]:
    """Return signing keys from configuration, in order: ``"new:<base64>,old:<base64>"``, a list of such, or a dict.

    Raises `ImproperlyConfigured`, never quoting a key.
    """
    if isinstance(value, Mapping):
        pairs = list(value.items())
    else:
        items = value.split(",") if isinstance(value, str) else list(value)
        if not all(isinstance(item, str) and ":" in item for item in items):
            raise ImproperlyConfigured("signing_keys must be pairs of a key id and a key in base64: 'id:key,id2:key2'")
        pairs = [(key_id.strip(), key.strip()) for key_id, _, key in (item.partition(":") for item in items)]
    keys: dict[str, bytes] = {}
    for key_id, given in pairs:
        _check_id(key_id)
        if key_id in keys:
            raise ImproperlyConfigured(f"signing_keys names the key {key_id!r} twice")
        key = _decoded(key_id, given) if isinstance(given, str) else given
        _check_key(key_id, key)
        keys[key_id] = key
    return keys


def _decoded(key_id: str, text: str) -> bytes:
    standard = text.replace("-", "+").replace("_", "/")
    try:
        return binascii.a2b_base64(standard + "=" * (-len(standard) % 4), strict_mode=True)
    except ValueError:
        # Without its cause: what could not be decoded is likely the key.
        raise ImproperlyConfigured(f"the signing key {key_id!r} is not base64") from None


def _check_id(key_id: Any) -> None:
    if not isinstance(key_id, str) or _KEY_ID.fullmatch(key_id) is None:
        # Not quoted: it is the key where someone mixed them up.
        raise ImproperlyConfigured(f"the id of a signing key must be 1 to {_KEY_ID_LENGTH} letters, digits, '_' or '-'")


def _check_key(key_id: str, key: Any) -> None:
    if not isinstance(key, bytes):
        raise ImproperlyConfigured(f"the signing key {key_id!r} must be bytes or base64 text")
    if len(key) < MIN_KEY_BYTES:
        raise ImproperlyConfigured(
            f"the signing key {key_id!r} has {len(key)} bytes and needs {MIN_KEY_BYTES}; "
            "make one with: python -c 'import base64, os; print(base64.b64encode(os.urandom(32)).decode())'"
        )


def _mac(key: bytes, data: bytes) -> bytes:
    # Imported when the first body is signed: it loads OpenSSL, which an unsigned worker does not need.
    import hmac

    return base64.urlsafe_b64encode(hmac.digest(key, data, "sha256"))[:_MAC_LENGTH]


def _equal(ours: bytes, theirs: bytes) -> bool:
    import hmac

    return hmac.compare_digest(ours, theirs)
