"""Random canvases over pure functions, and what they come to when they are evaluated directly."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from dispatcher import chain, chord, group

#: A canvas as its parts: ("call", number, immutable), ("chain", parts), ("group", parts), ("chord", parts, part), and
#: ("adds", parts, number): a call that adds parts to the chord it is a member of.
Tree = Sequence[Any]


def shown(*arguments: Any) -> str:
    """What every task does: show its arguments, so that a result tells its whole history."""
    return f"({'+'.join(map(_text, arguments))})"


def add_tasks(app: Any) -> Any:
    """Register the tasks of canvases; return the one that most of them are made of."""
    task = app.task(name="shown")(shown)

    def adding(self: Any, *arguments: Any) -> str:
        if self.request.chord and self.request.chord.get("n") and not self.request.chain:
            for part in arguments[-1]:
                self.add_to_chord(canvas_of(part, task))
        return shown(*arguments[:-1])

    app.task(name="adding", bind=True)(adding)
    return task


def _text(value: Any) -> str:
    return f"[{','.join(map(_text, value))}]" if isinstance(value, list) else str(value)


def grow(rng: random.Random, depth: int, adds: float = 0.0) -> Tree:
    """Return a random tree; one-member and empty groups and chains are among them.

    ``adds`` is how likely a part is a call that adds others to its chord.
    """
    if depth and adds and rng.random() < adds:
        return "adds", [grow(rng, depth - 1, adds) for _ in range(rng.randint(0, 2))], rng.randrange(1000)
    kind = rng.random()
    if depth == 0 or kind < 0.35:
        return "call", rng.randrange(1000), rng.random() < 0.2
    if kind < 0.6:
        return "chain", [grow(rng, depth - 1, adds) for _ in range(rng.randint(1, 3))]
    if kind < 0.85:
        return "group", [grow(rng, depth - 1, adds) for _ in range(rng.choice([0, 1, 2, 2, 3]))]
    return "chord", [grow(rng, depth - 1, adds) for _ in range(rng.randint(1, 3))], grow(rng, depth - 1, adds)


def canvas_of(tree: Tree, task: Any) -> Any:
    """Return a tree as signatures of a task."""
    kind, parts = tree[0], tree[1]
    if kind == "call":
        return task.si(parts) if tree[2] else task.s(parts)
    if kind == "adds":
        return task.app.tasks["adding"].s(tree[2], parts)
    made = [canvas_of(part, task) for part in parts]
    if kind == "chord":
        return chord(made, canvas_of(tree[2], task))
    return chain(made) if kind == "chain" else group(made)


def evaluate(tree: Tree, arguments: Sequence[Any] = (), call: Callable[..., Any] = shown) -> list[Any]:
    """Return the results that a tree ends in: one, or those of a group's leaves; none for what is empty."""
    return _values(tree, tuple(arguments), call)[0]


def _values(
    tree: Tree, arguments: tuple[Any, ...], call: Callable[..., Any], ends: bool = False, followed: bool = False
) -> tuple[list[Any], bool]:
    """Return the results and whether they are a group's, which go on as one list.

    ``ends`` says whether the tree ends a member of a chord, ``followed`` whether something in its own chain follows.
    """
    kind, parts = tree[0], tree[1]
    if kind == "call":
        return [call(parts) if tree[2] else call(*arguments, parts)], False
    if kind == "adds":
        added = [value for part in parts for value in _values(part, (), call, True)[0]] if ends else []
        return [call(*arguments, tree[2]), *added], False
    if kind == "group":
        joined = ends or followed
        return [value for part in parts for value in _values(part, arguments, call, joined)[0]], True
    steps = [part for part in (parts if kind == "chain" else [("group", parts), tree[2]]) if not _is_nothing(part)]
    values: tuple[list[Any], bool] = [], True
    for step in steps:
        last = step is steps[-1]
        values = _values(step, arguments, call, last and ends, not last or followed)
        arguments = (values[0],) if values[1] else (values[0][0],)
    return values


def _is_nothing(tree: Tree) -> bool:
    """Say whether a part has no step at all: chains of empty chains. An empty group is a step."""
    return tree[0] == "chain" and all(_is_nothing(part) for part in tree[1])
