"""Hand-over: how a generation of a message follows another one when a retry changes its arguments.

Publishing a message and writing a record cannot be one step. So the next generation is published first, under a name of
its own (`Message.handover`), and counts only once the record of the old generation names it: one conditional write
chooses among all that crashed, repeated or concurrent runs of an attempt have published. The record's token carries the
names: ``[own name/]run[>successor]``.
"""

from __future__ import annotations

import os
from enum import Enum

from dispatcher.backends.base import TaskRecord
from dispatcher.message import Message

#: The name of the generation that goes on where a release gave a message up which it could not read.
UNREAD = "unread"
#: Receipts, or the share of its transport budget, after which a message that no record names takes over: whoever
#: published it would have written or come again by then, so the record must have been lost.
PATIENCE, SHARE = 40, 0.5


class Claim(Enum):
    """What the record says of a message that a retry has published."""

    #: it is the one to run
    GOOD = "good"
    #: another run of that attempt decided otherwise
    VOID = "void"
    #: the run that published it has not written its outcome
    OPEN = "open"


def new_name() -> str:
    """Return a name for a generation: short, as SQS's deduplication ids are."""
    return os.urandom(8).hex()


def token_of(message: Message | None) -> str:
    """Return a new token for a run of this message."""
    own = message.handover if message is not None else None
    random = os.urandom(16).hex()
    return random if own is None else f"{own}/{random}"


def naming(token: str, successor: str) -> str:
    """Return the token of a record that names the next generation."""
    return f"{token}>{successor}"


def successor(record: TaskRecord) -> str | None:
    """Return the name of the generation that takes over from the record's, if one does."""
    return record.token.rpartition(">")[2] if ">" in record.token else None


def claim_of(message: Message, record: TaskRecord | None) -> Claim:
    """Say whether a message that carries a name is the one the record means."""
    if record is None:
        return Claim.OPEN
    if record.gen == message.gen - 1 and successor(record) == message.handover:
        return Claim.GOOD
    if record.gen == message.gen:
        return Claim.GOOD if record.token.partition("/")[0] == message.handover else Claim.VOID
    if record.gen > message.gen or record.final:
        return Claim.VOID
    ended = record.gen == message.gen - 1 and record.retries >= message.retries
    return Claim.VOID if ended else Claim.OPEN


def revived(message: Message, record: TaskRecord) -> Message:
    """Return a message that was given up unread, and has come back to who can read it, as the next generation.

    Its body cannot say so: who gave it up could not write another one.
    """
    given_up = record.gen == message.gen and record.final and successor(record) == UNREAD
    goes_on = record.gen == message.gen + 1 and record.token.startswith(f"{UNREAD}/")
    return message.replace(gen=message.gen + 1, handover=UNREAD) if given_up or goes_on else message


def pause(receive_count: int) -> float:
    """Return how long a message rests whose claim is open: usually its publisher is about to write, or has died."""
    return float(min(60.0, 0.1 * 4.0 ** min(receive_count - 1, 10)))


def has_waited(receive_count: int, budget_spent: float) -> bool:
    """Say whether an open claim has been so for longer than a crash of its publisher can explain."""
    return receive_count >= PATIENCE or budget_spent >= SHARE
