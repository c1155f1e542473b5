"""Random canvases whose calls fail in every way, and what should come of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dispatcher import chain, chord, group
from dispatcher.exceptions import ChordError, Ignore
from tests.property.canvases import shown

#: ("call", number, ways, style): a call that ends in one of `WAYS`, with an error callback of a style, or none;
#: ("becomes", number, part, style): one that is replaced by a part; ("chain", parts), ("group", parts),
#: ("chord", parts, part).
Tree = Sequence[Any]
WAYS = ("well", "raises", "is retried", "is retried and raises", "is ignored", "has expired")
#: An error callback of one parameter gets the task's id alone.
STYLES = (None, "old", "new")
LONG_AGO = "2001-01-01T00:00:00+00:00"


class Seen:
    """What happened: which calls ran, which error callbacks were called."""

    def __init__(self) -> None:
        self.ran: set[int] = set()
        self.told: set[int] = set()

    def add_tasks(self, app: Any) -> None:
        """Register the tasks that note here what happens."""

        def perform(self: Any, *args: Any) -> str:
            number, way = args[-2:]
            if "retried" in way and self.request.retries < 2:
                raise self.retry(countdown=0)
            seen.ran.add(number)
            if "raises" in way:
                raise ValueError(number)
            if way == "is ignored":
                raise Ignore
            return shown(*args[:-1])

        def become(self: Any, *args: Any) -> None:
            number, part = args[-2:]
            seen.ran.add(number)
            raise self.replace(canvas_of(part, self.app))

        seen = self
        app.task(name="become", bind=True)(become)
        app.task(name="perform", bind=True, max_retries=5)(perform)
        app.task(name="new")(lambda request, error, traceback, number=None: seen.told.add(number))
        app.task(name="old")(lambda task_id, *, number=None: seen.told.add(number))


class Wrong(NamedTuple):
    """How a result ends that has no value."""

    state: str
    error: str | None


def grow(rng: random.Random, depth: int, ways: Sequence[str] = WAYS, share: float = 0.15) -> Tree:
    """Return a random tree; ``share`` of its calls do not end well, but in one of these ways."""
    numbers = iter(range(10_000))

    def part(depth: int) -> Tree:
        kind = rng.random()
        if depth and kind < 0.08:
            return "becomes", next(numbers), part(depth - 1), rng.choice(STYLES)
        if depth == 0 or kind < 0.35:
            way = rng.choice(ways) if rng.random() < share else "well"
            return "call", next(numbers), way, rng.choice(STYLES)
        if kind < 0.6:
            return "chain", [part(depth - 1) for _ in range(rng.randint(1, 3))]
        if kind < 0.8:
            return "group", [part(depth - 1) for _ in range(rng.randint(1, 3))]
        return "chord", [part(depth - 1) for _ in range(rng.randint(1, 3))], part(depth - 1)

    return part(depth)


def canvas_of(tree: Tree, app: Any) -> Any:
    """Return a tree as signatures."""
    kind, parts = tree[0], tree[1]
    if kind in ("call", "becomes"):
        sig = app.tasks["perform" if kind == "call" else "become"].s(parts, tree[2])
        if tree[2] == "has expired":
            sig.set(expires=LONG_AGO)
        return sig if tree[3] is None else sig.on_error(app.tasks[tree[3]].s(number=parts))
    made = [canvas_of(part, app) for part in parts]
    if kind == "chord":
        return chord(made, canvas_of(tree[2], app))
    return chain(made) if kind == "chain" else group(made)


class Expected:
    """What should come of a tree: its results, which calls run, which error callbacks are called."""

    def __init__(self, tree: Tree) -> None:
        self.ran: set[int] = set()
        self.told: set[int] = set()
        self.results = self._walk(tree, (), [])[0]

    def _walk(self, tree: Tree, arguments: tuple[Any, ...], waiting: list[Tree]) -> tuple[list[Any], bool]:
        """Return the results, and whether they are a group's; ``waiting`` is all that does not run where it fails."""
        kind, parts = tree[0], tree[1]
        if kind == "call":
            return [self._call(tree, arguments, waiting)], False
        if kind == "becomes":
            return self._become(tree, waiting), False
        if kind == "accumulate":
            return [arguments[0]], False
        if kind == "group":
            return [end for part in parts for end in self._walk(part, arguments, waiting)[0]], True
        return self._run(_steps(tree), arguments, waiting)

    def _run(self, steps: list[Tree], arguments: tuple[Any, ...], waiting: list[Tree]) -> tuple[list[Any], bool]:
        ends: tuple[list[Any], bool] = [], True
        for place, step in enumerate(steps):
            ends = self._walk(step, arguments, [*steps[place + 1 :], *waiting])
            wrong = next((end for end in ends[0] if isinstance(end, Wrong)), None)
            if wrong is not None and place < len(steps) - 1:
                told = Wrong("FAILURE", ChordError.__name__) if ends[1] else _passed_on(wrong)
                size, is_group = _leaves(steps[-1])
                return [told] * size, is_group
            arguments = (ends[0],) if ends[1] else (ends[0][0],)
        return ends

    def _become(self, tree: Tree, waiting: list[Tree]) -> list[Any]:
        """Walk a replacement: its last step has the error callbacks of what it replaces."""
        self.ran.add(tree[1])
        steps, own = _steps(tree[2]), _own(tree)
        last = steps[-1]
        steps[-1:] = [last, ("accumulate", None, None, None, own)] if last[0] == "group" else [_with(last, own)]
        return self._run(steps, (), waiting)[0]

    def _call(self, tree: Tree, arguments: tuple[Any, ...], waiting: list[Tree]) -> Any:
        number, way = tree[1:3]
        if way != "has expired":
            self.ran.add(number)
        if way in ("well", "is retried"):
            return shown(*arguments, number)
        if "raises" in way:
            self.told |= _own(tree)
        self.told |= {each for step in waiting for each in _noted(step)}
        if way == "has expired":
            return Wrong("REVOKED", "TaskRevokedError")
        return Wrong("FAILURE", "ValueError") if "raises" in way else Wrong("IGNORED", None)


_CALLS = ("call", "becomes", "accumulate")


def _own(tree: Tree) -> set[int]:
    """Return the numbers of the error callbacks of a call, with those of what it replaces."""
    return ({tree[1]} if tree[3] is not None else set()) | (tree[4] if len(tree) > 4 else set())


def _with(tree: Tree, more: set[int]) -> Tree:
    return *tree[:4], more | (tree[4] if len(tree) > 4 else set())


def _steps(tree: Tree) -> list[Tree]:
    """Return the calls and groups of a chain, those of chains in it, and of chords, in line."""
    if tree[0] in (*_CALLS, "group"):
        return [tree]
    if tree[0] == "chord":
        return [("group", tree[1]), *_steps(tree[2])]
    return [step for part in tree[1] for step in _steps(part)]


def _passed_on(wrong: Wrong) -> Wrong:
    return Wrong("FAILURE", "TaskError") if wrong.state == "IGNORED" else wrong


def _noted(tree: Tree) -> set[int]:
    """Return the calls in a tree that have error callbacks."""
    if tree[0] in _CALLS:
        return _own(tree)
    return {each for part in [*tree[1], *tree[2:]] for each in _noted(part)}


def _leaves(tree: Tree) -> tuple[int, bool]:
    """Return in how many results a tree ends, and whether they are a group's."""
    if tree[0] in _CALLS:
        return 1, False
    if tree[0] == "group":
        return sum(_leaves(part)[0] for part in tree[1]), True
    return _leaves(tree[1][-1] if tree[0] == "chain" else tree[2])


def ends_of(result: Any, fresh: Callable[[str], Any] | None = None) -> list[Any]:
    """Return how the results of a canvas ended, those of a group in line; ``fresh`` returns a result by its id."""
    leaves = list(result._leaves()) if hasattr(result, "results") else [result]
    ends: list[Any] = []
    for leaf in leaves:
        known = leaf if fresh is None else fresh(leaf.id)
        if known.state == "SUCCESS":
            ends.append(known.get(timeout=0))
        else:
            error = known.result if isinstance(known.result, BaseException) else None
            ends.append(Wrong(known.state, None if error is None else type(error).__name__))
    return ends
