"""From a canvas to messages: what can start now, what each message is to do next, and which joins wait for members.

A canvas in its wire form is plain data. It is read as a sequence of steps, each a call or a group: nested chains are
one sequence, a chord is a group and what follows it. A group that something follows needs a join, which counts its
leaves: the calls whose results the next step gets, nested groups in line with the others. Ids are derived from
places, so that whoever plans the same canvas again plans the same messages.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Wire = Mapping[str, Any]

CHAIN, GROUP, CHORD = "celery.chain", "celery.group", "celery.chord"
#: The task whose success sends a large canvas: a worker that dies over it leaves its message, and another goes on.
LAUNCH = "dispatcher.launch"
#: How deep canvases may be in one another, a chord being two: its header is a group. Reading one goes that deep.
MAX_NESTING = 200
#: Options of a group's own that its members do not inherit.
_OWN_OPTIONS = frozenset({"task_id", "group_id", "group_index", "link", "link_error", "chord"})


def derived_id(task_id: str, position: str) -> str:
    """Return the id of what follows from a task or stands in a group: the same whenever it is asked for."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{task_id}/{position}"))


def leaf_id(group_id: str, index: int) -> str:
    """Return the id of a group's leaf, unless its call has one of its own."""
    return derived_id(group_id, f"member/{index}")


class Member(NamedTuple):
    """A place in a group: what is done at it ends the leaf with this number of the group ``id``.

    ``size`` is how many leaves a join waits for, 0 where nothing waits. ``until`` is how long that lives at least, in
    epoch seconds, where delays of its members ask for more than usual.
    """

    id: str
    leaf: int
    size: int = 0
    until: int = 0


class Header(NamedTuple):
    """The results of a group as an argument: ``size`` leaves of the join ``id``, read when they are needed.

    ``own`` are the leaves whose ids are not derived, by index.
    """

    id: str
    size: int
    own: Mapping[int, str] = {}


class Step(NamedTuple):
    """One message: a call, the steps that follow its success, and its place in a group."""

    sig: Wire
    args: tuple[Any, ...] = ()
    header: Header | None = None
    then: tuple[Wire, ...] = ()
    member: Member | None = None


class Opening(NamedTuple):
    """A join to be opened before any of its members is sent; ``ids`` are the leaves whose ids are not derived.

    ``group`` are the members.
    """

    id: str
    size: int
    then: tuple[Wire, ...]
    member: Member | None
    ids: Mapping[int, str]
    group: Wire


# -- reading a canvas


def options_of(sig: Wire) -> dict[str, Any]:
    """Return a copy of the options of a signature in wire form."""
    return dict(sig.get("options") or {})


def with_options(sig: Wire, **options: Any) -> Wire:
    """Return the signature with these options over its own."""
    return {**sig, "options": {**options_of(sig), **options}}


def with_arguments(sig: Wire, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Wire:
    """Return the signature with arguments before its own and keywords over them; an immutable one as it is."""
    if sig.get("immutable") or not (args or kwargs):
        return sig
    merged = {"args": [*args, *(sig.get("args") or ())], "kwargs": {**(sig.get("kwargs") or {}), **kwargs}}
    if sig["task"] in (CHAIN, GROUP, CHORD):
        merged["kwargs"] = dict(sig["kwargs"])  # a canvas' keywords are its parts
        merged["keywords"] = {**(sig.get("keywords") or {}), **kwargs}
    return {**sig, **merged}


def members_of(group: Wire) -> list[Wire]:
    """Return a group's members with the arguments and options it was given."""
    args, kwargs = group.get("args") or (), group.get("keywords") or {}
    given = {name: value for name, value in options_of(group).items() if name not in _OWN_OPTIONS}
    errbacks = options_of(group).get("link_error") or []
    members = []
    for member in group["kwargs"]["tasks"]:
        sig = with_arguments(member, args, kwargs)
        if given:
            sig = with_options(sig, **given)
        members.append(linked(sig, "link_error", errbacks))
    links = options_of(group).get("link") or []
    if members and links:
        members[0] = linked(members[0], "link", links)
    return members


def linked(sig: Wire, option: str, links: Sequence[Wire]) -> Wire:
    """Return the signature with these callbacks, or error callbacks, beside its own."""
    if not links:
        return sig
    own = options_of(sig).get(option) or []
    return with_options(sig, **{option: [*own, *(link for link in links if link not in own)]})


def steps_of(sig: Wire) -> list[Wire]:
    """Return a canvas as the sequence of calls and groups that it is."""
    kind = sig["task"]
    if kind == CHAIN:
        steps = [step for task in sig["kwargs"]["tasks"] for step in steps_of(task)]
    elif kind == CHORD:
        steps = [_group(sig["kwargs"]["header"]), *steps_of(sig["kwargs"]["body"])]
    else:
        return [sig]
    if not steps:
        return []
    steps[0] = with_arguments(steps[0], sig.get("args") or (), sig.get("keywords") or {})
    own = options_of(sig)
    task_id, links, errbacks = own.pop("task_id", None), own.pop("link", None), own.pop("link_error", None)
    if own:  # a group passes them on to what it ends in: Celery's chord gives its options to its body as well
        calls = (position for position, step in enumerate(steps) if not is_group(step))
        reach = next(calls, len(steps) - 1) + 1
        steps[:reach] = [with_options(step, **(own if is_group(step) or not place else _undelayed(own)))
                         for place, step in enumerate(steps[:reach])]  # fmt: skip
    if sig.get("immutable"):
        steps[0] = {**steps[0], "immutable": True}
    if task_id is not None:
        steps[-1] = with_options(steps[-1], task_id=task_id)
    steps[-1] = linked(steps[-1], "link", links or [])
    ends = len(steps) - 1  # a failure in a group that something follows is told to that, once
    return [step if is_group(step) and place < ends else linked(step, "link_error", errbacks or [])
            for place, step in enumerate(steps)]  # fmt: skip


def _undelayed(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that what follows a group inherits: the group has waited for both."""
    return {name: value for name, value in options.items() if name not in ("countdown", "eta")}


def _group(header: Any) -> Wire:
    """Return a chord's header as a group; it may be written as the list of its members."""
    return header if isinstance(header, Mapping) else {"task": GROUP, "kwargs": {"tasks": list(header)}}


def longest_wait(sig: Wire, delay_of: Callable[[Wire], float]) -> float:
    """Return at most how many seconds a canvas waits in all for the delays and ETAs in it.

    ``delay_of`` says for how long a call waits that has these options, among which is a countdown or an ETA.
    """
    options, inner, kind = sig.get("options"), sig.get("kwargs") or {}, sig["task"]
    own = delay_of(options) if options and ("countdown" in options or "eta" in options) else 0.0
    if kind == GROUP:
        return own + max((longest_wait(each, delay_of) for each in inner["tasks"]), default=0.0)
    if kind == CHAIN:
        return own + sum(longest_wait(each, delay_of) for each in inner["tasks"])
    if kind == CHORD:
        return own + longest_wait(_group(inner["header"]), delay_of) + longest_wait(inner["body"], delay_of)
    return own


def nesting(sig: Wire) -> int:
    """Return how deep canvases are in one another; a call is none."""
    deepest, found = 0, [(sig, 1)]
    while found:
        each, depth = found.pop()
        if each["task"] not in (CHAIN, GROUP, CHORD):
            continue
        deepest, inner = max(deepest, depth), each["kwargs"]
        parts = [*(inner.get("tasks") or ()), *(inner[name] for name in ("header", "body") if inner.get(name))]
        found += [(part, depth + 1) for part in parts if isinstance(part, Mapping)]
    return deepest


def is_group(step: Wire) -> bool:
    """Say whether a step is a group, not a call."""
    return bool(step["task"] == GROUP)


def leaves(steps: Sequence[Wire]) -> int:
    """Count the results that a sequence of steps ends in."""
    if not steps:
        return 0
    last = steps[-1]
    return sum(leaves(steps_of(member)) for member in members_of(last)) if is_group(last) else 1


def calls_of(steps: Sequence[Wire]) -> Iterator[Wire]:
    """Yield the calls of steps, those in groups too, which have options."""
    for step in steps:
        if is_group(step):
            for member in members_of(step):
                yield from calls_of(steps_of(member))
        elif step.get("options"):
            yield step


def identify(steps: Sequence[Wire], task_id: str, seed: str | None = None) -> list[Wire]:
    """Return the steps with an id each: ``task_id`` for the last, others derived from ``seed``, by default the same.

    Steps that have an id keep it.
    """
    named = []
    for position, step in enumerate(steps):
        last = position == len(steps) - 1
        given = options_of(step).get("task_id") or (
            task_id if last else derived_id(seed or task_id, f"step/{position}")
        )
        named.append(with_options(step, task_id=given))
    return named


def id_of(step: Wire) -> str:
    """Return the id of a step that has one."""
    found: str = options_of(step)["task_id"]
    return found


# -- planning


def plan(
    steps: Sequence[Wire], args: tuple[Any, ...] = (), header: Header | None = None, member: Member | None = None
) -> Iterator[Step | Opening]:
    """Yield what is to be sent for steps that have ids: openings before the members they wait for.

    ``args`` or ``header`` go before the first step's own arguments; ``member`` is the place that the last step ends.
    """
    if not steps:
        return
    first, rest = steps[0], tuple(steps[1:])
    if first.get("immutable"):
        args, header = (), None
    if not is_group(first):
        yield Step(first, args, header, rest, member)
        return
    size = leaves([first])
    if rest and size == 0:
        yield from _plan_members(first, args, header, Member(id_of(first), 0))
        yield from plan(rest, ([],), None, member)
        return
    if rest:
        place = Member(id_of(first), 0, size)
        yield Opening(place.id, size, rest, member, dict(_own_ids(members_of(first), 0)), first)
    else:
        place = member if member is not None else Member(id_of(first), 0)
    yield from _plan_members(first, args, header, place)


def _plan_members(group: Wire, args: tuple[Any, ...], header: Header | None, place: Member) -> Iterator[Step | Opening]:
    for steps, member in members_at(group, place):
        yield from plan(steps, args, header, member)


def members_at(group: Wire, place: Member) -> Iterator[tuple[list[Wire], Member | None]]:
    """Yield the steps of a group's members with ids, and the place that each ends; `None` for what comes to nothing.

    ``place`` is that of the group's first leaf: in the group itself, or in another that it is in line with. There, what
    is before the last step of a member has the group's level in its id, since last steps have the ids of their leaves.
    """
    level, index = group.get("level", 0), place.leaf
    for position, sig in enumerate(members_of(group)):
        steps = steps_of(sig)
        size = leaves(steps)
        own = leaf_id(place.id, index) if size else derived_id(id_of(group), f"empty/{position}")
        named = identify(steps, own, derived_id(own, f"level/{level}") if level else None)
        if named and is_group(named[-1]):
            named[-1] = {**named[-1], "level": level + 1}
        yield named, place._replace(leaf=index) if size else None
        index += size


def _own_ids(members: Sequence[Wire], index: int) -> Iterator[tuple[int, str]]:
    """Yield the leaves whose calls have ids of their own."""
    for sig in members:
        steps = steps_of(sig)
        if not steps:
            continue
        if is_group(steps[-1]):
            yield from _own_ids(members_of(steps[-1]), index)
        elif own := options_of(steps[-1]).get("task_id"):
            yield index, own
        index += leaves(steps)


def addition(task_id: str, sigs: Sequence[Wire]) -> Wire:
    """Return what a member has added to its chord as a group with an id: its leaves end where the member does."""
    return {"task": GROUP, "kwargs": {"tasks": sigs}, "options": {"task_id": derived_id(task_id, "added")}}


def plan_addition(added: Wire, member: Member) -> Iterator[Step | Opening]:
    """Yield what is to be sent for an addition; its own join ends the member's place when all of it is done."""
    place = Member(id_of(added), 0, leaves([added]))
    if place.size:
        yield Opening(place.id, place.size, (), member, dict(_own_ids(members_of(added), 0)), added)
    yield from _plan_members(added, (), None, place)


def ids_of_addition(added: Wire) -> list[str]:
    """Return the ids of an addition's leaves in their order."""
    own = dict(_own_ids(members_of(added), 0))
    return ids_of_header(Header(id_of(added), leaves([added]), own))


def ids_of_header(header: Header, start: int = 0, stop: int | None = None) -> list[str]:
    """Return the ids of a join's leaves in their order."""
    end = header.size if stop is None else min(stop, header.size)
    return [header.own.get(index) or leaf_id(header.id, index) for index in range(start, end)]


def waiting_calls(steps: Sequence[Wire], member: Member | None = None) -> Iterator[tuple[str, str]]:
    """Yield ids and tasks of all calls of steps that have not started: who waits for one must learn of a failure."""
    for position, step in enumerate(steps):
        if not is_group(step):
            yield id_of(step), step["task"]
            continue
        last = position == len(steps) - 1
        place = member if last and member is not None else Member(id_of(step), 0)
        for inner, there in members_at(step, place):
            yield from waiting_calls(inner, there)


def as_tuple(step: Wire, place: Member | None = None) -> tuple[Any, Any]:
    """Return the result that a step with an id will have, in the form of ``AsyncResult.as_tuple``."""
    if not is_group(step):
        return (id_of(step), None), None
    place = place if place is not None else Member(id_of(step), 0)
    members: list[Any] = []
    for steps, there in members_at(step, place):
        if there is not None:
            last = as_tuple(steps[-1], there)
            members += [last] if last[1] is None else last[1]
    return (id_of(step), None), members
