"""A result, its members and what came before them, read and forgotten in batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dispatcher import states
from dispatcher.exceptions import ChordError


def members_of(result: Any) -> Iterator[Any]:
    """Yield the single results of a result: itself, or those of a set, nested ones in line."""
    if hasattr(result, "results"):
        for each in result.results:
            yield from members_of(each)
    else:
        yield result


def family_of(result: Any) -> Iterator[Any]:
    """Yield the single results of a result and of all that came before it, nearest first."""
    while result is not None:
        for each in members_of(result):
            yield each
            if each is not result:
                yield from family_of(each.parent)
        result = getattr(result, "parent", None)


def raise_for_parents(result: Any) -> None:
    """Read a single result and what came before it in one batch; raise for what failed before it.

    Raises nothing where the result itself is finished, which says more. Raises `ChordError` for members of groups.
    """
    family = [each for each in family_of(result) if each._final is None]
    records = result.backend.read([each.id for each in family])
    for each in family:
        if each.id in records:
            each._keep(records[each.id])
    node = result.parent if result._final is None else None
    while node is not None:
        for each in members_of(node):
            if each._final is None or each._final[0].status not in states.PROPAGATE_STATES:
                continue
            if each is node:
                each.maybe_throw()
            raise ChordError.of(each.id, each.result)
        node = node.parent


def forget_tree(result: Any) -> None:
    """Remove the records of a result, or of the members of a set, and of all that came before them, in batches."""
    family = [each for each in family_of(result) if each._stored]
    if family:
        result.backend.forget(list(dict.fromkeys(each.id for each in family)))
    for each in family:
        each._final = None
