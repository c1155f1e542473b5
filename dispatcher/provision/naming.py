"""Names of what is made: logical ids, and names that AWS restricts in length and characters."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any, Final

from dispatcher.brokers.sqs_queues import Queues
from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.provision.plan import Plan
from dispatcher.quotas import EVENTBRIDGE_MAX_NAME_CHARS, SQS_MAX_QUEUE_NAME_CHARS

#: What is left for the stack's name in a rule's name, which is known only when the stack is deployed.
STACK_CHARS: Final = 32
_HASH_CHARS: Final = 8
_SLUG: Final = re.compile(r"[^a-z0-9]+")


def logical_id(name: str) -> str:
    """Return the logical id's part that a queue or an entry gives: ``orders-eu.fifo`` is ``OrdersEuFifo``."""
    return "".join(part[:1].upper() + part[1:] for part in re.split(r"[^A-Za-z0-9]+", name))


def check_ids(what: str, names: Iterable[str]) -> None:
    """Raise `ImproperlyConfigured` for two names that would have one logical id, or for one that would have none."""
    taken: dict[str, str] = {}
    for name in names:
        part = logical_id(name)
        if not part:
            raise ImproperlyConfigured(f"{what} {name!r} has no letter or digit to call its resources by; rename it")
        other = taken.setdefault(part, name)
        if other != name:
            raise ImproperlyConfigured(
                f"the {what}s {other!r} and {name!r} would both be {part} in the template; rename one of them"
            )


def slug(name: str, most: int) -> str:
    """Return a name of restricted characters: what is legible of it, and a hash that tells it from others."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_CHARS]
    legible = _SLUG.sub("-", name.lower()).strip("-")[: most - _HASH_CHARS - 1].strip("-")
    return f"{legible}-{digest}" if legible else digest


def named(plan: Plan, rest: str, most: int) -> Any:
    """Return the name of a resource, its prefix that of the stage, or else the name of the stack.

    Raises `ImproperlyConfigured` where it is too long for its kind.
    """
    if plan.prefix is None:
        return {"Fn::Sub": f"${{AWS::StackName}}-{rest}"}
    name = plan.prefix + rest
    if len(name) > most:
        raise ImproperlyConfigured(
            f"the name {name!r} has {len(name)} characters, of {most} at most; shorten the stage"
        )
    return name


def queue_name(plan: Plan, queue: str) -> Any:
    """Return the name of a queue at SQS: the prefix and what the package's own rule makes of it."""
    return named(plan, Queues({}).sqs_name(queue), SQS_MAX_QUEUE_NAME_CHARS)


def rule_name(plan: Plan, entry: str) -> Any:
    """Return the name of the rule or schedule that fires an entry."""
    room = STACK_CHARS if plan.prefix is None else len(plan.prefix)
    return named(plan, slug(entry, EVENTBRIDGE_MAX_NAME_CHARS - room - 1), EVENTBRIDGE_MAX_NAME_CHARS)
