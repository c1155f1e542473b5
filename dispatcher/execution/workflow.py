"""What follows a finished task of a canvas: the next step of its chain, or its mark in the join of its group.

Everything here may happen twice and takes effect once: ids are derived from places, a join knows its members by their
index, and a message that is sent again finds the record of the first.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from dispatcher import states
from dispatcher.backends.base import Write
from dispatcher.backends.joins import Join, JoinMissing
from dispatcher.backends.meta import ResultMeta
from dispatcher.call_options import set_options
from dispatcher.canvas import plan
from dispatcher.exceptions import USER_ERRORS, BackendError, ChordError, OperationalError, TaskError
from dispatcher.execution import launching
from dispatcher.execution.environment import Environment
from dispatcher.execution.errbacks import errback_call
from dispatcher.message import Message
from dispatcher.sensitive import marks_on_wire
from dispatcher.serialization import json_decode, json_encode

if TYPE_CHECKING:
    from dispatcher.outbox import Outbox

logger = logging.getLogger("dispatcher.worker")

_Planned = TypeVar("_Planned", plan.Step, plan.Opening)

#: How many results of a header are read at a time.
_PAGE = 100
#: A record lists the ids of at most this many members of the group that follows.
_LISTED = 500
#: A record names this many of the steps that follow, so that it stays within what one write unit of DynamoDB takes.
_AHEAD = 5


# -- messages and plans


def place_of(member: plan.Member | None) -> dict[str, Any] | None:
    """Return a place in a group as a message carries it."""
    if member is None:
        return None
    place: dict[str, Any] = {"id": member.id, "i": member.leaf}
    if member.size:
        place["n"] = member.size
    if member.until:
        place["until"] = member.until
    return place


def member_of(place: Mapping[str, Any] | None) -> plan.Member | None:
    """Return the place in a group that a message carries."""
    return None if place is None else plan.Member(place["id"], place["i"], place.get("n", 0), place.get("until", 0))


def header_of(header: Mapping[str, Any]) -> plan.Header:
    """Return the group whose results a message is given, as it carries that."""
    return plan.Header(header["id"], header["n"], _by_index(header.get("ids", {})))


def fields_of(step: plan.Step) -> dict[str, Any]:
    """Return the fields of a step's message that a canvas gives it."""
    fields: dict[str, Any] = {"chain": step.then, "chord": place_of(step.member)}
    if step.header is not None:
        fields["header"] = header = {"id": step.header.id, "n": step.header.size}
        if step.header.own:
            header["ids"] = {str(index): each for index, each in step.header.own.items()}
    if step.member is not None:
        fields.update(group=step.member.id, group_index=step.member.leaf)
    elif step.header is not None:
        fields.update(group=step.header.id)
    return {name: value for name, value in fields.items() if value is not None and value != ()}


def join_of(opening: plan.Opening, root_id: str | None, parent_id: str | None, depth: int, gen: int) -> Join:
    """Return the join that an opening asks for; its body says all that is needed to go on."""
    body: dict[str, Any] = {"then": list(opening.then), "depth": depth}
    given = {"place": place_of(opening.member), "ids": {str(i): each for i, each in opening.ids.items()},
             "root": root_id, "parent": parent_id, "gen": gen}  # fmt: skip
    body.update((name, value) for name, value in given.items() if value)
    return Join(opening.id, opening.size, json_encode(body))


def life_of(env_conf: Any, now: float) -> float:
    """Return until when a join lives that is touched now, in epoch seconds."""
    kept: float = max(env_conf.result_expires or 0.0, env_conf.record_retention)
    return now + kept


class Lives:
    """How long the joins of a canvas live whose members wait for countdowns and ETAs before they begin."""

    def __init__(self, conf: Any, now: float) -> None:
        self._conf = conf
        self._now = now
        self._until: dict[str, int] = {}

    def of(self, opening: plan.Opening) -> float:
        """Return until when a join lives that is opened now, in epoch seconds."""
        usual = life_of(self._conf, self._now)
        # What follows the group reads its results when it begins.
        wait = sum(plan.longest_wait(each, self._delay_of) for each in (opening.group, *opening.then[:1]))
        if wait > 0:
            self._until[opening.id] = math.ceil(usual + wait)
        return usual + wait

    def _delay_of(self, options: plan.Wire) -> float:
        times = {name: options.get(name) for name in ("countdown", "eta")}
        return set_options({}, times, self._now, self._conf.timezone)

    def told(self, planned: _Planned) -> _Planned:
        """Return a step or an opening whose place says how long its join lives, so that marks do not end earlier."""
        member = planned.member
        if member is None or member.id not in self._until:
            return planned
        return planned._replace(member=member._replace(until=self._until[member.id]))


# -- after a run


def follows(message: Message) -> bool:
    """Say whether anything of a canvas follows a message."""
    return bool(message.chain) or bool(message.chord and message.chord.get("n"))


def join_to_mark(message: Message) -> str | None:
    """Return the join in which a success is marked, where that is all that follows from it."""
    if message.chain or message.link:
        return None
    member = member_of(message.chord)
    return member.id if member is not None and member.size else None


def follow(
    env: Environment, outbox: Outbox, message: Message, status: str, meta: ResultMeta, beside: Sequence[Message] = ()
) -> None:
    """Do what a task's final state asks for in its canvas.

    Successes ``beside`` it, which have the same `join_to_mark`, are marked with its own.
    """
    if status == states.SUCCESS:
        go_on(env, outbox, message, meta, beside)
        return
    error = meta.error if meta.error is not None else why_stopped(status, message)
    propagated = states.REVOKED if status == states.REVOKED else states.FAILURE
    if status != states.FAILURE:
        message = message.replace(link_error=())  # it did not fail: none was called
    give_up(env, outbox, Failure(message, message.id, propagated, error, meta.traceback))


def why_stopped(status: str, message: Message) -> BaseException:
    """Return the error of what follows a task that has none itself."""
    return TaskError(f"{message.task}[{message.id}] ended as {status}, so nothing follows it")


def next_results(message: Message) -> Iterator[tuple[Any, Any]]:
    """Yield the results of a message's callbacks and of the step behind it as tuples, but for groups too large to list.

    Of a callback that is a canvas it is that of the last step.
    """
    for index, sig in enumerate(message.link):
        steps = plan.identify(plan.steps_of(sig), plan.derived_id(message.id, f"link/{index}"))
        if steps and _is_listed(steps[-1]):
            yield plan.as_tuple(steps[-1])
    if message.chain and _is_listed(message.chain[0]):
        yield plan.as_tuple(message.chain[0], member_of(message.chord) if len(message.chain) == 1 else None)


def _is_listed(step: Mapping[str, Any]) -> bool:
    return not plan.is_group(step) or plan.leaves([step]) <= _LISTED


def ahead(message: Message) -> list[Any] | None:
    """Return the next steps of a message's chain for its record: id, name or `None` for a group, count of results."""
    steps = [dict(step) for step in message.chain[:_AHEAD]]
    if steps and len(steps) == len(message.chain) and message.chord and plan.is_group(steps[-1]):
        del steps[-1]  # its members are in line with those of the group that this is in
    return [
        [plan.id_of(step), None if plan.is_group(step) else step["task"], plan.leaves([step])] for step in steps
    ] or None


def go_on(env: Environment, outbox: Outbox, message: Message, meta: ResultMeta, beside: Sequence[Message] = ()) -> None:
    """Send the next step of a chain, or what a member added to its chord, or mark the member as done."""
    if message.chain:
        launches = message.task == plan.LAUNCH
        steps = launching.steps_of(env, message) if launches else [dict(step) for step in message.chain]
        args = () if launches else (meta.result,)
        env.app.launch(plan.plan(steps, args, None, member_of(message.chord)), message, outbox)
        return
    member = member_of(message.chord)
    if member is None or not member.size:
        return
    if meta.added:
        added = plan.addition(message.id, meta.added)
        env.app.launch(plan.plan_addition(added, member), message, outbox)
        if plan.leaves([added]):
            return
    _mark(env, outbox, message, member, beside)


def _mark(
    env: Environment,
    outbox: Outbox,
    message: Message,
    member: plan.Member,
    beside: Sequence[Message] = (),
    results: Sequence[str] = (),
) -> None:
    """Mark places in a group as done, and send what waits for the group if it is complete.

    ``results`` are tasks whose results are read with the message's own.
    """
    life = max(life_of(env.app.conf, env.clock.time()), member.until)
    leaves = [place.leaf for place in map(member_of, (each.chord for each in beside)) if place is not None]
    ids = [message.id, *(each.id for each in beside), *results]
    try:
        join = env.backend.mark_joined(member.id, [member.leaf, *leaves], member.size, life, ids)
    except JoinMissing:
        logger.error("%s is done, but the join %s it belongs to is gone: nothing follows it", message.id, member.id)
        return
    if join is not None and not join.fired:
        fire(env, outbox, join, message)


def fire(env: Environment, outbox: Outbox, join: Join, last: Message) -> None:
    """Send what waits for a join, then note that; whoever finds it complete and not noted sends it again."""
    body = json_decode(join.body)
    header = plan.Header(join.id, join.size, _by_index(body.get("ids", {})))
    place = member_of(body.get("place"))
    if body["then"] or place is None:
        env.app.launch(plan.plan(body["then"], (), header, place), _parent(body, last, join), outbox)
    else:  # what a member added to its chord is done, and so is the member
        _mark(env, outbox, last, place, (), [body.get("parent") or last.id, *plan.ids_of_header(header)])
    outbox.afterwards(functools.partial(env.backend.close_join, join.id, fired=True))


def _by_index(ids: Mapping[str, str]) -> dict[int, str]:
    return {int(index): each for index, each in ids.items()}


def _parent(body: Mapping[str, Any], member: Message, join: Join) -> Message:
    """Return the message that what waits for a join descends from, as far as lineage goes."""
    root = body.get("root") or member.effective_root_id
    # Not by the member's, which differ by their retries: whichever member finds the join complete sends the same. After
    # a failure, of a member that was brought back, what waited is a failure of the join's own generation.
    gen = body.get("gen", 0) + (1 if join.failed else 0)
    return member.replace(id=body.get("parent") or join.id, root_id=root, depth=body.get("depth", 0), gen=gen)


class Failure(NamedTuple):
    """Why what waits for a task will not run; ``cause`` is the task or the join whose failure is told, once."""

    message: Message
    cause: str
    status: str
    error: BaseException
    traceback: str | None


def give_up(env: Environment, outbox: Outbox, failure: Failure) -> None:
    """Tell all that waits for a task that it failed: records of the steps behind it, error callbacks, joins."""
    message = failure.message
    waiting: Sequence[Mapping[str, Any]] = [dict(step) for step in message.chain]
    member, called = member_of(message.chord), list(message.link_error)
    unsent: BaseException | None = None
    while True:
        _fail_waiting(env, failure, waiting, member)
        try:
            _call_errbacks(env, outbox, failure, waiting, called)
        except (OperationalError, BackendError):
            raise
        except USER_ERRORS as wrong:  # of the callback; those that wait further on are told all the same
            unsent = unsent or wrong
        if member is None or not member.size:
            break
        try:
            join = env.backend.close_join(member.id, failed=failure.cause)
        except JoinMissing:
            logger.error("%s failed, but the join %s it belongs to is gone", message.id, member.id)
            break
        if join.fired or join.failed not in ("", failure.cause):
            break  # whoever failed first tells of it, and tells again where it dies over that
        body = json_decode(join.body)
        if not body["then"]:
            waiting, member = (), member_of(body["place"])
            continue
        error = ChordError.of(message.id, failure.error)
        waiting, member = body["then"], member_of(body.get("place"))
        message = stand_in(failure.message, waiting).replace(gen=body.get("gen", 0))
        failure = Failure(message, join.id, states.FAILURE, error, failure.traceback)
    if unsent is not None:
        raise unsent


def stand_in(message: Message, waiting: Sequence[Mapping[str, Any]]) -> Message:
    """Return the message of the first call that waits for a group, as far as error callbacks are told of it."""
    call = next((step for step in waiting if not plan.is_group(step)), None)
    if call is None:
        return message
    return message.replace(
        id=plan.id_of(call), task=call["task"], args=tuple(call.get("args") or ()), kwargs=call.get("kwargs") or {},
        packed=None, payload=None, retries=0, sensitive=marks_on_wire(call.get("sensitive")),
    )  # fmt: skip


def _fail_waiting(
    env: Environment, failure: Failure, steps: Sequence[Mapping[str, Any]], member: plan.Member | None
) -> None:
    now, conf = env.clock.time(), env.app.conf
    meta = ResultMeta(error=failure.error, traceback=failure.traceback, date_done=round(now, 3))
    meta.root_id = failure.message.effective_root_id
    if conf.result_expires:
        meta.visible_until = round(now + conf.result_expires, 3)
    write = Write(
        id="", status=failure.status, gen=failure.message.gen, attempt=0, retries=0, final=True,
        token=f"after {failure.cause}", expires_at=life_of(conf, now),
    )  # fmt: skip
    calls = plan.waiting_calls(steps, member)
    while page := list(itertools.islice(calls, _PAGE)):
        data = {name: dataclasses.replace(meta, name=name).encode() for name in {name for _, name in page}}
        env.backend.write([dataclasses.replace(write, id=task_id, data=data[name]) for task_id, name in page])


def _call_errbacks(
    env: Environment, outbox: Outbox, failure: Failure, steps: Sequence[Mapping[str, Any]], called: list[Any]
) -> None:
    """Call the error callbacks of steps that will not run, but for those that were called before."""
    for position, sig in enumerate(errbacks_of(steps)):
        if sig in called:
            continue
        called.append(sig)
        call, args = errback_call(env.app.tasks, sig, failure.message, failure.error, failure.traceback)
        task_id = plan.derived_id(failure.cause, f"errback/{position}")
        env.app.send_linked(call, args, failure.message, task_id, outbox)


def errbacks_of(steps: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    """Yield the error callbacks of steps and of what is in them."""
    for step in steps:
        yield from plan.options_of(step).get("link_error") or ()
        if plan.is_group(step):
            for sig in step["kwargs"]["tasks"]:
                yield from errbacks_of(plan.steps_of(sig))


# -- before a run


def results_of_header(env: Environment, message: Message) -> list[Any]:
    """Return the results of a message's header in their order.

    Raises `ChordError` for one that is gone, `OperationalError` where the backend cannot be reached.
    """
    assert message.header is not None
    header = header_of(message.header)
    results: list[Any] = []
    for start in range(0, header.size, _PAGE):
        ids = plan.ids_of_header(header, start, start + _PAGE)
        found = _read_results(env, message, ids)
        results += _in_order(ids, found)
    return results


def _read_results(env: Environment, message: Message, ids: list[str]) -> dict[str, tuple[Any, list[str]]]:
    """Return results by id, and after which others those of additions come; a batched read for each level of them."""
    found: dict[str, tuple[Any, list[str]]] = {}
    while ids:
        records = env.backend.read(ids)
        for task_id in ids:
            record = records.get(task_id)
            if record is None or record.status != states.SUCCESS:
                raise ChordError(
                    f"the result of {task_id}, which {message.task}[{message.id}] waited for, is gone; "
                    "keep records longer (record_retention)"
                )
            meta = env.app.read_meta(record).complete()
            added = plan.ids_of_addition(plan.addition(task_id, meta.added)) if meta.added else []
            found[task_id] = meta.result, added
        ids = [task_id for asked in ids for task_id in found[asked][1]]
    return found


def _in_order(ids: Sequence[str], found: Mapping[str, tuple[Any, list[str]]]) -> Iterator[Any]:
    for task_id in ids:
        result, added = found[task_id]
        yield result
        yield from _in_order(added, found)
