"""What an app sends beside single calls: canvases, what follows from finished tasks, and messages that are complete."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from dispatcher import registry, state, states
from dispatcher.canvas import plan
from dispatcher.canvas.mapped import ACCUMULATE, built_in
from dispatcher.canvas.signature import maybe_signature, to_wire
from dispatcher.exceptions import ChordError, EncodeError, Ignore, MessageTooLarge
from dispatcher.execution import launching, workflow
from dispatcher.execution.errbacks import errback_call
from dispatcher.message import Message
from dispatcher.packing import Call
from dispatcher.result import AsyncResult, EagerResult, GroupResult
from dispatcher.sending import Sender
from dispatcher.sensitive import marks_on_wire
from dispatcher.serialization import json_encode
from dispatcher.utils import uuid

if TYPE_CHECKING:
    from dispatcher.outbox import Outbox
    from dispatcher.workflow_state import Workflow

#: How many messages of a large group are made before they are sent.
_PAGE = 1000
#: More messages are sent by a worker, which can be replaced when it dies.
_DIRECT = 100
#: Bytes of a message around its steps, at most.
_ENVELOPE = 8 * 1024


_Result = TypeVar("_Result")


class Lineage(NamedTuple):
    """What messages descend from: their depth is one more, their generation the same.

    What follows a task that was brought back from the dead letters takes over from what did not run the first time.
    """

    root_id: str | None
    parent_id: str | None
    depth: int
    gen: int = 0
    priority: int | None = None


class Workflows:
    """The part of an app that deals with canvases; mixed into it, so it knows the rest as ``self`` of any type."""

    def outbox(self) -> Outbox:
        """Return a new outbox, for what is sent together."""
        from dispatcher.outbox import Outbox  # of use to those whom something follows

        return Outbox(self._ready_sender)

    def publish(self, message: Message, queue: str, delay: float, outbox: Outbox) -> None:
        """Put a complete message, to a queue, into an outbox."""
        outbox.put([Call(message, queue, delay)])

    def send_linked(
        self, sig: Mapping[str, Any], args: Sequence[Any], parent: Message, task_id: str, outbox: Outbox
    ) -> None:
        """Put a continuation of a finished task, a call or a canvas, into an outbox under an id derived from it."""
        steps = plan.identify(plan.steps_of(to_wire(maybe_signature(sig, self))), task_id)
        # Of the first generation whatever the parent's is: a callback takes effect once in a task's life.
        self.launch(plan.plan(steps, tuple(args)), _lineage(parent.replace(gen=0)), outbox)

    def launch(
        self,
        planned: Iterable[plan.Step | plan.Opening],
        parent: Message | Lineage | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        """Open the joins of a planned canvas, then send what can start, in pages; it descends from ``parent``.

        With an ``outbox`` it is put there. A page's joins are open before its members are sent. Doing it again changes
        nothing.
        """
        lineage = _lineage(parent)
        send = outbox.put if outbox is not None else self._ready_sender.send
        with_keys, strict = self._app._claims.with_keys, lineage is None
        launched = parent.kwargs.get("at") if isinstance(parent, Message) and parent.task == plan.LAUNCH else None
        page: list[Call] = []
        lives = workflow.Lives(self._app.conf, self._app.clock.time())
        for each in planned:
            if isinstance(each, plan.Opening):
                join = workflow.join_of(lives.told(each), *(lineage or _here())[:4])
                self._app.backend.open_join(join, lives.of(each))
                continue
            page.append(self._call_of(lives.told(each), lineage, launched))
            if len(page) == _PAGE:
                send(with_keys(page, strict=strict))
                page = []
        if page:
            send(with_keys(page, strict=strict))

    @property
    def _app(self) -> Any:
        return self

    @property
    def _ready_sender(self) -> Sender:
        self._app.finalize(auto=True)
        sender: Sender = self._app._sender
        return sender

    def _call_of(self, step: plan.Step, lineage: Lineage | None, now: float | None = None) -> Call:
        """Return the message of a step; its times are counted from ``now``, epoch seconds, by default the present."""
        sig, sender = step.sig, self._ready_sender
        args, kwargs = (*step.args, *(sig.get("args") or ())), sig.get("kwargs") or {}
        task = self._app.tasks.get(sig["task"])
        if task is not None and step.header is None and lineage is None:
            task.check_arguments(args, kwargs)
        marks = marks_on_wire(sig.get("sensitive"))
        call = sender.build(sig["task"], args, kwargs, plan.options_of(sig), task, marks, now)
        fields = workflow.fields_of(step)
        if lineage is None:
            return call._replace(message=call.message.replace(**fields))
        fields.update(root_id=lineage.root_id, parent_id=lineage.parent_id, gen=max(call.message.gen, lineage.gen))
        if self._app.conf.task_inherit_parent_priority and call.message.priority is None:
            fields.update(priority=lineage.priority)
        return sender.continuation(call._replace(message=call.message.replace(**fields)), lineage.depth + 1)

    def _add_built_in_tasks(self) -> None:
        app = self._app
        for name, function in built_in(app).items():
            task = registry.make_task(function, name, app.task_cls, False, {"rate_limit": 0})
            task.bind(app).settle_options()
            app._tasks.built_in[name] = task

    # -- what canvases and tasks call

    def send_canvas(self, canvas: Any) -> Any:
        """Send a canvas; return the result of the whole."""
        self._app.finalize(auto=True)
        if self._app.conf.task_always_eager:
            return self._adopted(self.run_canvas(canvas), canvas.options)
        steps = plan.identify(plan.steps_of(to_wire(canvas)), canvas.id or uuid())
        for call in plan.calls_of(steps):
            self._ready_sender.check_options(call["options"])
        if not self._send_launcher(steps):
            self.launch(plan.plan(steps))
        return self._adopted(self.result_of_steps(steps), canvas.options)

    def _adopted(self, result: _Result, options: Mapping[str, Any]) -> _Result:
        """Return a result that is noted as a child of the running task, if there is one that keeps a trail."""
        frame = state.current_frame()
        if frame is not None and result is not None and options.get("add_to_parent", True) and frame.task.trail:
            frame.request.children.append(result)
        return result

    def _send_launcher(self, steps: Sequence[plan.Wire]) -> bool:
        """Leave what is many messages to a worker; return whether it is, else the caller sends them."""
        calls, awaited = _beginnings(steps)
        at_once = self._app.broker.features.at_once or _DIRECT
        if len(calls) <= (min(_DIRECT, at_once) if awaited else _DIRECT):
            return False
        for each in plan.plan(steps):
            if isinstance(each, plan.Step) and (task := self._app.tasks.get(each.sig["task"])) is not None:
                task.check_arguments(each.sig.get("args") or (), each.sig.get("kwargs") or {})
        try:
            launch, steps = self._launcher(steps, calls[0])
        except (EncodeError, MessageTooLarge):  # what only a message of its own can take
            return False
        self._ready_sender.send([launch._replace(message=launch.message.replace(chain=tuple(steps)))])
        return True

    def _launcher(self, steps: Sequence[plan.Wire], first: plan.Step) -> tuple[Call, Sequence[plan.Wire]]:
        """Return the message of which steps follow, and the steps; what is too large for it is kept in parts."""
        app, group = self._app, steps[0]
        members = group["kwargs"]["tasks"] if plan.is_group(group) else [group]
        size = sum(len(json_encode(each)) for each in (*members, *steps[1:]))
        launch_id = plan.derived_id(plan.id_of(group), "launch")
        arguments: dict[str, Any] = {"at": round(app.clock.time(), 3)}
        limit = min(app.broker.features.max_body or app.conf.max_message_bytes, app.conf.max_message_bytes)
        if size > limit - _ENVELOPE - 2 * len(members) and plan.is_group(group):
            until = workflow.life_of(app.conf, app.clock.time())
            arguments["parts"] = launching.store(app, app.backend, launch_id, group, until)
            steps = [launching.without_members(group), *steps[1:]]
        options = {"task_id": launch_id, "queue": self._call_of(first, None).queue, "serializer": "json"}
        return self._ready_sender.build(plan.LAUNCH, (), arguments, options), steps

    def replace_running(self, request: Any, canvas: Any) -> None:
        """Send a canvas in place of a running task: its last step has the task's id, and what followed follows it."""
        message: Message = request._message
        steps = _replacement(canvas)
        following = message.gen + 1
        named = plan.identify(steps, message.id, f"{message.id}~{following}")
        last = plan.with_options(named[-1], task_id=message.id, gen=following)
        last = plan.linked(last, "link", message.link)
        named[-1] = plan.linked(last, "link_error", message.link_error)
        # All of it in the next generation: the task's record says RETRY, say, and nothing older could end it.
        before = Lineage(message.root_id, message.parent_id, message.depth, following, message.priority)
        member = workflow.member_of(message.chord)
        self.launch(plan.plan([*named, *(dict(step) for step in message.chain)], (), None, member), before)

    def run_replacement(self, request: Any, canvas: Any) -> Any:
        """Run a canvas in place of a task that runs in this process; return its value."""
        result = self._run_steps(plan.identify(_replacement(canvas), uuid()), (), workflow.member_of(request.chord))
        request.update(_behind=result._behind)
        if result.state == states.IGNORED:
            raise Ignore
        return result.get(disable_sync_subtasks=False)

    def add_to_chord(self, request: Any, sig: Any) -> Any:
        """Add a signature to what the body of a running member's chord waits for; return its result."""
        wire = to_wire(maybe_signature(sig, self))
        steps = plan.steps_of(wire)
        for call in plan.calls_of(steps):
            self._ready_sender.check_options(call["options"])
        json_encode(wire)  # it is kept with the result of the task
        before = plan.addition(request.id, request._added)
        place = plan.Member(plan.id_of(before), plan.leaves([before]))
        request.update(_added=[*request._added, wire])
        return self.result_of_steps(plan.identify(steps, plan.leaf_id(place.id, place.leaf)), None, place)

    def workflow(self, start: Any, limit: int = 10_000) -> Workflow:
        """Return the state of the whole workflow that a task or group belongs to, given by its id or its result.

        Records and joins lead to their relatives; each level is read in batches, up to ``limit`` tasks. A result that a
        canvas returned knows more than an id: of what has not run, records know the next few steps only.
        """
        from dispatcher.app.lineage import read_workflow

        self._app.finalize(auto=True)
        return read_workflow(self._app, start, limit)

    def result_of_steps(self, steps: Sequence[plan.Wire], result: Any = None, member: plan.Member | None = None) -> Any:
        """Return the result that steps with ids will have: of the last, with its parents; ``result`` is before them.

        ``member`` is the place that the last step ends.
        """
        for position, step in enumerate(steps):
            if plan.is_group(step):
                place = member if position == len(steps) - 1 else None
                leaves = self._leaf_results(step, place or plan.Member(plan.id_of(step), 0))
                result = GroupResult(plan.id_of(step), leaves, parent=result, app=self._app)
            else:
                result = AsyncResult(plan.id_of(step), task_name=step["task"], app=self._app, parent=result)
        return result

    def _leaf_results(self, group: plan.Wire, place: plan.Member, parent: Any = None) -> list[Any]:
        """Return the results of a group's leaves, those of nested groups in line; ``parent`` is before all of them."""
        results: list[Any] = []
        for steps, there in plan.members_at(group, place):
            if there is None:
                continue
            if plan.is_group(steps[-1]):
                results += self._leaf_results(steps[-1], there, self.result_of_steps(steps[:-1], parent))
            else:
                results.append(self.result_of_steps(steps, parent))
        return results

    def run_canvas(self, canvas: Any) -> Any:
        """Run a canvas in this process; return the result of the whole."""
        self._app.finalize(auto=True)
        steps = plan.identify(plan.steps_of(to_wire(canvas)), canvas.id or uuid())
        return self._run_steps(steps, ())

    def _run_steps(
        self, steps: Sequence[plan.Wire], args: tuple[Any, ...], member: plan.Member | None = None, root: Any = None
    ) -> Any:
        """Run steps that have ids; ``member`` is the place that the last one ends, ``root`` the first task of all."""
        result: Any = None
        for position, step in enumerate(steps):
            last = position == len(steps) - 1
            parent = result
            if plan.is_group(step):
                place = plan.Member(plan.id_of(step), 0, 0 if last else plan.leaves([step]))
                args = () if step.get("immutable") else args
                members = self._run_members(step, args, member if last and member is not None else place, root)
                result = GroupResult(plan.id_of(step), members, parent=parent, app=self._app)
                _note_child(parent, result)
                failed = next((each for each in result._leaves() if not each.successful()), None)
                if failed is not None and not last:
                    return self._stopped(steps[position:], ChordError.of(failed.id, failed.result), result, member)
                args = () if last else ([each.result for each in result._leaves()],)
            else:
                result = self._run_call(step, args, member if last else None, parent, root)
                result.parent = parent
                _note_child(parent, result)
                if not result.successful():
                    return self._stopped(steps[position:], result.result, result, member)
                args = (result.result,)
            root = root or result.id
        return result

    def _run_call(
        self, step: plan.Wire, args: tuple[Any, ...], member: plan.Member | None, parent: Any, root: Any
    ) -> Any:
        sig = maybe_signature(step, self)
        place = {"group_id": member.id, "group_index": member.leaf} if member is not None else {}
        lineage = {"parent_id": parent.id if parent is not None else None, "root_id": root}
        given = {name: value for name, value in lineage.items() if value is not None}
        args, kwargs, options = sig._merge(args, None, {**place, **given})
        chord = workflow.place_of(member) if member is not None and member.size else None
        result = self._app.run_eagerly(sig.type, args, kwargs, options, chord=chord)
        if result._added:
            added = plan.addition(result.id, result._added)
            inner = plan.Member(plan.id_of(added), 0, plan.leaves([added]))
            result._behind = self._run_members(added, (), inner, root)
        return result

    def _run_members(self, group: plan.Wire, args: tuple[Any, ...], place: plan.Member, root: Any) -> list[Any]:
        """Run the members of a group; return the results of its leaves."""
        results: list[Any] = []
        for steps, there in plan.members_at(group, place):
            results += _leaves_of(self._run_steps(steps, args, there, root))
        return results

    def _stopped(self, steps: Sequence[plan.Wire], error: Any, result: Any, member: plan.Member | None) -> Any:
        """Return the result of steps the first of which failed, and call the error callbacks of those that do not run.

        ``result`` is the first's, ``member`` the place that the last one ends.
        """
        failed, following = steps[0], steps[1:]
        told = workflow.stand_in(
            Message(plan.id_of(failed), failed["task"]), following if plan.is_group(failed) else [failed]
        )
        called, traceback, state = [], None, states.FAILURE
        if not plan.is_group(failed):
            traceback = result.traceback
            if result.state == states.FAILURE:
                called = list(workflow.errbacks_of([failed]))
            elif result.state == states.REVOKED:
                state = result.state
            else:
                error = workflow.why_stopped(result.state, told)
        for step in following:
            result = self._not_run(step, error, state, result, member if step is following[-1] else None)
        for sig in workflow.errbacks_of(following):
            if sig not in called:
                called.append(sig)
                call, args = errback_call(self._app.tasks, sig, told, error, traceback)
                maybe_signature(call, self).apply(args)
        return result

    def _not_run(self, step: plan.Wire, error: Any, state: str, parent: Any, member: plan.Member | None) -> Any:
        """Return the result of a step that does not run; ``member`` is the place it ends."""
        (step_id, _), leaves = plan.as_tuple(step, member)
        result: Any = EagerResult(step_id, error, state)
        if leaves is not None:
            members = [EagerResult(leaf_id, error, state) for (leaf_id, _), _ in leaves]
            result = GroupResult(step_id, members, app=self._app)
        result.parent = parent
        return result


def _replacement(canvas: Any) -> list[plan.Wire]:
    """Return the steps of a canvas that takes a task's place, whose value is one."""
    steps = plan.steps_of(to_wire(canvas))
    if not steps:
        raise ValueError("replace() needs a task to run instead: the canvas is empty")
    return [*steps, {"task": ACCUMULATE}] if plan.is_group(steps[-1]) else steps


def _note_child(parent: Any, result: Any) -> None:
    """Have the result of a call lead to that of what followed it."""
    if isinstance(parent, EagerResult):
        parent._offspring.append(result)


def _leaves_of(result: Any) -> list[Any]:
    """Return the results that a member of a group ends in."""
    if not isinstance(result, GroupResult):
        return [] if result is None else [result, *result._behind]
    for leaf in result.results:
        leaf.parent = leaf.parent or result.parent
    return result.results


def _beginnings(steps: Sequence[plan.Wire]) -> tuple[list[plan.Step], bool]:
    """Return the calls that steps begin with, few more than are sent here at most, and whether any is waited for."""
    calls: list[plan.Step] = []
    awaited = False
    for each in plan.plan(steps):
        if isinstance(each, plan.Opening):
            awaited = True
        elif len(calls) <= _DIRECT:
            calls.append(each)
        else:
            break
    return calls, awaited


def _lineage(parent: Message | Lineage | None) -> Lineage | None:
    if isinstance(parent, Message) and parent.task == plan.LAUNCH:  # in the place of who sent it
        return Lineage(parent.root_id, parent.parent_id, parent.depth - 1, parent.gen, parent.priority)
    if isinstance(parent, Message):
        return Lineage(parent.effective_root_id, parent.id, parent.depth, parent.gen, parent.priority)
    return parent


def _here() -> Lineage:
    """Return what is sent here descends from: the running task, if there is one."""
    frame = state.current_frame()
    if frame is None or frame.request.id is None:
        return Lineage(None, None, 0)
    request = frame.request
    return Lineage(request.root_id or request.id, request.id, request.depth)
