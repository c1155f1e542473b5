"""Random canvases over pure functions, and what they come to when they are evaluated directly."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from dispatcher import chain, chord, group

#: A canvas as its parts: ("call", number, immutable), ("chain", parts), ("group", parts), ("chord", parts, part).
Tree = tuple[Any, ...]


def shown(*arguments: Any) -> str:
    """What every task does: show its arguments, so that a result tells its whole history."""
    return f"({'+'.join(map(_text, arguments))})"


def _text(value: Any) -> str:
    return f"[{','.join(map(_text, value))}]" if isinstance(value, list) else str(value)


def grow(rng: random.Random, depth: int) -> Tree:
    """Return a random tree; one-member and empty groups and chains are among them."""
    kind = rng.random()
    if depth == 0 or kind < 0.35:
        return "call", rng.randrange(1000), rng.random() < 0.2
    if kind < 0.6:
        return "chain", [grow(rng, depth - 1) for _ in range(rng.randint(1, 3))]
    if kind < 0.85:
        return "group", [grow(rng, depth - 1) for _ in range(rng.choice([0, 1, 2, 2, 3]))]
    return "chord", [grow(rng, depth - 1) for _ in range(rng.randint(1, 3))], grow(rng, depth - 1)


def canvas_of(tree: Tree, task: Any) -> Any:
    """Return a tree as signatures of a task."""
    kind, parts = tree[0], tree[1]
    if kind == "call":
        return task.si(parts) if tree[2] else task.s(parts)
    made = [canvas_of(part, task) for part in parts]
    if kind == "chord":
        return chord(made, canvas_of(tree[2], task))
    return chain(made) if kind == "chain" else group(made)


def evaluate(tree: Tree, arguments: Sequence[Any] = (), call: Callable[..., Any] = shown) -> list[Any]:
    """Return the results that a tree ends in: one, or those of a group's leaves; none for what is empty."""
    return _values(tree, tuple(arguments), call)[0]


def _values(tree: Tree, arguments: tuple[Any, ...], call: Callable[..., Any]) -> tuple[list[Any], bool]:
    """Return the results and whether they are a group's, which go on as one list."""
    kind, parts = tree[0], tree[1]
    if kind == "call":
        return [call(parts) if tree[2] else call(*arguments, parts)], False
    if kind == "group":
        return [value for part in parts for value in _values(part, arguments, call)[0]], True
    steps = parts if kind == "chain" else [("group", parts), tree[2]]
    values: tuple[list[Any], bool] = [], True
    started = False
    for step in steps:
        if _is_nothing(step):
            continue
        values = _values(step, arguments, call)
        arguments = (values[0],) if values[1] else (values[0][0],)
        started = True
    return values if started else ([], True)


def _is_nothing(tree: Tree) -> bool:
    """Say whether a part has no step at all: chains of empty chains. An empty group is a step."""
    return tree[0] == "chain" and all(_is_nothing(part) for part in tree[1])
