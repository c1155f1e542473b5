"""The tasks of a run, drawn from its seed, and how each of them must end whatever happens on the way."""

from __future__ import annotations

import dataclasses
import random
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dispatcher import states
from dispatcher.canvas.plan import derived_id, leaf_id

#: In place of a value: it does not matter.
ANY = object()


@dataclasses.dataclass(frozen=True)
class End:
    """How a task ends: its status, its value or the name of its error, the attempts that run, its dead letter."""

    status: str
    value: Any = ANY
    attempts: int = 1
    letter: str | None = None
    #: runs once at most: with its worker it is lost for good, and says so
    once: bool = False


@dataclasses.dataclass
class Call:
    """One call of a producer: a task, or with ``body`` a message that none can read. Times are in units of the run."""

    id: str
    task: str
    args: tuple[Any, ...] = ()
    kind: str = ""
    countdown: float | None = None
    expires: float | None = None
    links: tuple[Link, ...] = ()
    errbacks: tuple[str, ...] = ()
    priority: int | None = None
    group: str | None = None
    #: how often the producer sends it, as one does that has not heard of its success
    times: int = 1
    revoked: bool = False
    body: str | None = None
    #: of a canvas: the scripts of the calls it begins with, side by side if there are several, and of those that follow
    header: tuple[tuple[str, ...], ...] = ()
    then: tuple[tuple[str, ...], ...] = ()
    #: its own end, and those of what follows it
    ends: dict[str, End] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Link:
    """A callback, and an error callback of its own if it has one."""

    task: str
    script: tuple[str, ...]
    errback: str | None = None


#: What a scripted task does at each attempt, and how often such a one is sent among all.
_SCRIPTS: Mapping[tuple[str, ...], int] = {
    ("return",): 8, ("retry", "return"): 3, ("retry", "retry", "return"): 2, ("move", "return"): 3,
    ("retry", "move", "retry", "return"): 1, ("raise",): 3, ("retry", "raise"): 2, ("move", "raise"): 1,
    ("throw",): 1, ("reject",): 1, ("retry", "reject"): 1, ("ignore",): 1, ("again", "return"): 1,
}  # fmt: skip
_TASKS: Mapping[str, int] = {"step": 8, "tracked": 2, "quiet": 2, "auto": 2}
_UNSCRIPTED: Mapping[str, int] = {
    "unreadable": 1, "unknown": 1, "bad arguments": 1, "expired": 1, "revoked": 1, "lean": 2, "early": 3,
}  # fmt: skip


def _end_of(script: tuple[str, ...], number: int, marks: int = 0) -> End:
    marks += script.count("move")
    attempts = len([step for step in script if step != "again"])
    last = script[-1]
    if last == "return":
        return End(states.SUCCESS, [number, marks], attempts)
    if last == "raise":
        return End(states.FAILURE, "ValueError", attempts, "failed")
    if last == "throw":
        return End(states.FAILURE, "KeyError", attempts)
    if last == "reject":
        return End(states.REJECTED, ANY, attempts, "rejected")
    return End(states.IGNORED, ANY, attempts)


class Plan:
    """``size`` calls from a seed, in waves of ``wave``."""

    def __init__(self, seed: int, size: int, wave: int = 60, *, priorities: bool = False, groups: bool = False) -> None:
        self._random = random.Random(f"plan {seed}")
        self._priorities = priorities
        self._groups = groups
        calls = [self._call(number) for number in range(size)]
        self._waves = [calls[start : start + wave] for start in range(0, size, wave)]

    def __iter__(self) -> Iterator[list[Call]]:
        return iter(self._waves)

    def _call(self, number: int) -> Call:
        draw = self._random
        call = Call(str(uuid.UUID(int=draw.getrandbits(128), version=4)), "step")
        call.times = 2 if draw.random() < 0.05 else 1
        if self._priorities and draw.random() < 0.3:
            call.priority = draw.randrange(10)
        if self._groups:
            call.group = f"group-{draw.randrange(8)}"
        if draw.random() < 0.15:
            call.countdown = draw.choice([0.5, 3.0, 10.0, 40.0])
        if draw.random() < 0.12:
            self._canvas(call, number)
        elif draw.random() < 0.15:
            [kind] = draw.choices(list(_UNSCRIPTED), list(_UNSCRIPTED.values()))
            _MAKE[kind](call, number)
            call.kind = kind
        else:
            self._scripted(call, number)
        return call

    def _canvas(self, call: Call, number: int) -> None:
        """A chain, or a group and what follows it; ids are derived from that of the last step."""
        draw = self._random
        fine, fails = [("return",), ("retry", "return"), ("move", "return")], [("raise",), ("retry", "raise")]
        call.kind, call.args = draw.choice(["chain", "chord"]), (number,)
        width = draw.randint(2, 4) if call.kind == "chord" else 1
        call.header = tuple(draw.choice(fine) for _ in range(width))
        call.then = tuple(draw.choice(fine) for _ in range(draw.randint(1, 2)))
        if draw.random() < 0.3:
            call.header = (draw.choice(fails), *call.header[1:])
        first = derived_id(call.id, "step/0")
        leaves = [leaf_id(first, index) for index in range(width)] if width > 1 else [first]
        ends = [_end_of(script, number) for script in call.header]
        call.ends.update(zip(leaves, ends, strict=True))
        following = [derived_id(call.id, f"step/{n}") for n in range(1, len(call.then))] + [call.id]
        if ends[0].status != states.SUCCESS:
            if width > 1:
                call.ends[following[0]] = End(states.FAILURE, "ChordError", 0)
            return
        value = [end.value for end in ends] if width > 1 else ends[0].value
        for step_id, script in zip(following, call.then, strict=True):
            value = [value, script.count("move")]
            call.ends[step_id] = End(states.SUCCESS, value, len(script))

    def _scripted(self, call: Call, number: int) -> None:
        draw = self._random
        [script] = draw.choices(list(_SCRIPTS), list(_SCRIPTS.values()))
        [call.task] = draw.choices(list(_TASKS), list(_TASKS.values()))
        call.kind = f"{call.task}: {', '.join(script)}"
        call.args = (number, list(script))
        own = call.ends[call.id] = _end_of(script, number)
        if draw.random() < 0.4:
            call.links = tuple(self._link() for _ in range(draw.choice([1, 1, 2])))
            call.errbacks = ("handle",) if draw.random() < 0.5 else ("handle_all", "handle")
        elif call.task == "quiet" and own.status == states.SUCCESS:
            call.ends[call.id] = dataclasses.replace(own, value=ANY)
        self._follow(call, number)

    def _link(self) -> Link:
        draw = self._random
        script = draw.choice([("return",), ("retry", "return"), ("move", "return"), ("raise",), ("retry", "raise")])
        return Link("follow", script, draw.choice([None, "handle"]))

    def _follow(self, call: Call, number: int) -> None:
        own = call.ends[call.id]
        if own.status == states.SUCCESS:
            for index, link in enumerate(call.links):
                child = derived_id(call.id, f"link/{index}")
                call.ends[child] = end = _end_of(link.script, number)
                if end.status == states.SUCCESS:
                    call.ends[child] = dataclasses.replace(end, value=[own.value, link.script.count("move")])
                elif link.errback:
                    call.ends[_errback(child, 0, link.script)] = End(states.SUCCESS, child)
        elif own.status == states.FAILURE:
            for index, errback in enumerate(call.errbacks):
                value = call.id if errback == "handle" else [call.id, own.value]
                call.ends[_errback(call.id, index, call.args[1])] = End(states.SUCCESS, value)


def _errback(task_id: str, index: int, script: Sequence[str]) -> str:
    """Return the id of an error callback: a task may fail in several generations, but does once here."""
    gen = script.count("move")
    return derived_id(task_id, f"link_error/{index}/{gen}" if gen else f"link_error/{index}")


def _unreadable(call: Call, number: int) -> None:
    call.body, call.countdown = f"{{broken {number}", None
    call.ends[call.id] = End("", letter="undecodable", attempts=0)


def _unknown(call: Call, number: int) -> None:
    call.task, call.errbacks = "nowhere", ("handle",)
    call.ends[call.id] = End(states.FAILURE, "NotRegistered", 0, "undecodable")
    call.ends[derived_id(call.id, "link_error/0")] = End(states.SUCCESS, call.id)


def _bad_arguments(call: Call, number: int) -> None:
    call.errbacks = ("handle",)
    call.ends[call.id] = End(states.FAILURE, "TypeError", 0, "failed")
    call.ends[derived_id(call.id, "link_error/0")] = End(states.SUCCESS, call.id)


def _expired(call: Call, number: int) -> None:
    call.args, call.countdown, call.expires, call.times = (number, ["return"]), 20.0, 2.0, 1
    call.ends[call.id] = End(states.REVOKED, ANY, 0)


def _revoked(call: Call, number: int) -> None:
    call.args, call.revoked = (number, ["return"]), True
    if call.countdown is not None:  # revoked while it waits, else before it is sent
        call.countdown = 500.0
    call.ends[call.id] = End(states.REVOKED, ANY, 0)


def _lean(call: Call, number: int) -> None:
    """A lean task promises no more than one run at least."""
    call.task, call.args = "lean", (number,)
    call.ends[call.id] = End("")


def _early(call: Call, number: int) -> None:
    call.task, call.args, call.errbacks = "early", (number,), ()
    call.ends[call.id] = End(states.SUCCESS, number, once=True)


_MAKE: Mapping[str, Callable[[Call, int], None]] = {
    "unreadable": _unreadable, "unknown": _unknown, "bad arguments": _bad_arguments, "expired": _expired,
    "revoked": _revoked, "lean": _lean, "early": _early,
}  # fmt: skip
