"""chain, group and chord: signatures made of signatures, with Celery's keys and operators."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dispatcher.canvas import plan
from dispatcher.canvas.signature import PARTS, Signature, as_list, maybe_signature, register_kind, to_wire
from dispatcher.canvas.stamping import StampingVisitor, merged
from dispatcher.exceptions import ImproperlyConfigured, UnsupportedOption
from dispatcher.utils import uuid


class Canvas(Signature):
    """What chain, group and chord have in common: they are sent, frozen and run as a whole."""

    _kind: str
    _short: str

    def _make(self, parts: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        app = options.get("app")
        dict.__init__(
            self, task=self._kind, args=(), kwargs=dict(parts),
            options={key: value for key, value in options.items() if key not in ("app", "immutable")},
            subtask_type=self._short, immutable=False,
        )  # fmt: skip
        self._app, self._type = app, None
        if options.get("immutable"):
            self.set_immutable(True)

    @property
    def app(self) -> Any:
        """The app that sends it: its own, else that of its first part which has one."""
        if self._app is not None:
            return self._app
        for part in self._parts():
            found = part._app if not isinstance(part, Canvas) else part.app
            if found is not None:
                return found
        return super().app

    def _parts(self) -> Iterator[Signature]:
        raise NotImplementedError

    def _steps(self, task_id: str | None = None) -> list[plan.Wire]:
        """Return the canvas as steps with ids."""
        steps = plan.steps_of(to_wire(self))
        return plan.identify(steps, task_id or uuid())

    def _check_nesting(self) -> None:
        depth = plan.nesting(self)
        if depth > plan.MAX_NESTING:
            raise UnsupportedOption(
                f"a canvas whose parts are {depth} deep in one another cannot work: {plan.MAX_NESTING} is the most, a "
                "chord being two (its header is a group); send the inner parts from a task of their own"
            )

    # -- calling

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Send it, with these arguments before its own and these options."""
        return self.apply_async(args, **options)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> Any:
        """Send what can start at once; return the result of the whole: of its last step, with parents before it.

        ``args`` go before the arguments of the first step (every member of a group), ``kwargs`` over its keywords.
        Options hold for the first step or for every member; ``link`` for the last step, ``link_error`` for all.
        Raises what `Task.apply_async` raises, before anything is sent where it can be known before.
        """
        if route_name is not None:
            options["route_name"] = route_name
        self._check_nesting()
        whole = self.clone(args, kwargs, **options) if args or kwargs or options else self
        return self.app.send_canvas(whole)

    def apply(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run it in this process, one call after the other; returns the result of the whole."""
        self._check_nesting()
        return self.app.run_canvas(self.clone(args, kwargs, **options))

    def clone(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Return a copy, parts included, with more arguments and options."""
        copy = maybe_signature(to_wire(self), self._app)
        if not self["immutable"]:
            copy["args"] = (*(args or ()), *self["args"])
        if kwargs and not self["immutable"]:
            copy["keywords"] = {**(self.get("keywords") or {}), **kwargs}
        copy["options"].update(options)
        return copy

    partial = clone

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Fix the ids of all parts, and return the result that the whole will have."""
        self["options"].setdefault("task_id", _id or uuid())
        return self.app.result_of_steps(self._steps(self.id))

    _freeze = freeze

    def stamp(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any) -> Any:
        """Give all its calls, and their callbacks, stamps, and return it; a ``visitor`` adds others."""
        self.stamp_links(visitor, append_stamps, **headers)
        for part, more in self._stamped_parts(visitor, **merged(append_stamps, headers)):
            part.stamp(visitor, append_stamps, **merged(append_stamps, headers, more))
        return self

    def _stamped_parts(
        self, visitor: StampingVisitor | None, **stamps: Any
    ) -> Iterator[tuple[Signature, Mapping[str, Any] | None]]:
        """Yield each part with what the visitor adds to its stamps."""
        more = None if visitor is None else getattr(visitor, f"on_{self._short}_start")(self, **stamps)
        for part in self._parts():
            yield part, more
        if visitor is not None:
            getattr(visitor, f"on_{self._short}_end")(self, **stamps)

    def __reduce__(self) -> Any:
        return maybe_signature, (to_wire(self),)


def _flat(tasks: Sequence[Any]) -> list[Any]:
    """Return the parts given to a constructor: several, or one iterable of them."""
    if len(tasks) == 1 and not isinstance(tasks[0], Mapping) and isinstance(tasks[0], Iterable):
        tasks = list(tasks[0])
    return [_part(task) for task in tasks]


def _part(value: Any) -> Signature:
    value = value.group() if hasattr(value, "group") and not isinstance(value, Mapping) else value
    if not isinstance(value, Mapping):
        raise TypeError(f"a canvas is made of signatures, such as add.s(1), not {value!r}")
    sig: Signature = maybe_signature(value)
    return sig


class chain(Canvas):  # noqa: N801 - Celery's name
    """Calls one after the other, each with the result of the one before as its first argument."""

    _kind, _short = plan.CHAIN, "chain"

    def __init__(self, *tasks: Any, **options: Any) -> None:
        parts: list[Any] = []
        for part in _flat(tasks):
            plain = isinstance(part, chain) and not part["args"] and not part["options"]
            parts.extend(part.tasks if plain else [part])
        self._make({"tasks": parts}, options)

    @property
    def tasks(self) -> list[Signature]:
        """The steps."""
        steps: list[Signature] = self["kwargs"]["tasks"]
        return steps

    @tasks.setter
    def tasks(self, steps: Iterable[Any]) -> None:
        self["kwargs"]["tasks"] = [_part(step) for step in steps]

    def unchain_tasks(self) -> list[Signature]:
        """Return copies of the steps that have the links of the chain: callbacks the last, error callbacks all."""
        steps = [step.clone() for step in self.tasks]
        for callback in as_list(self["options"].get("link")):
            steps[-1].link(callback)
        for errback in as_list(self["options"].get("link_error")):
            for step in steps:
                step.link_error(errback)
        return steps

    def _parts(self) -> Iterator[Signature]:
        return iter(self.tasks)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Send it, with these arguments before those of the first step, and these keywords over its own."""
        return self.apply_async(args, kwargs)

    def __or__(self, other: Any) -> Any:
        steps = self.unchain_tasks()
        if isinstance(other, Mapping) and steps and isinstance(steps[-1], chord) and not isinstance(other, chain):
            return self._with([*steps[:-1], steps[-1] | other])
        return self._with([*steps, *(other.unchain_tasks() if isinstance(other, chain) else [_part(other)])])

    def _with(self, steps: list[Any]) -> chain:
        own = {name: value for name, value in self["options"].items() if name not in ("task_id", "link", "link_error")}
        made = chain(app=self._app, **own)
        made["kwargs"]["tasks"] = steps
        made["args"] = self["args"]
        return made

    def __repr__(self) -> str:
        return " | ".join(repr(task) for task in self.tasks) or "chain()"


class group(Canvas):  # noqa: N801 - Celery's name
    """Calls side by side; the result is the list of theirs, in order, nested groups in line."""

    _kind, _short = plan.GROUP, "group"

    def __init__(self, *tasks: Any, **options: Any) -> None:
        self._make({"tasks": _flat(tasks)}, options)

    @property
    def tasks(self) -> list[Signature]:
        """The members."""
        members: list[Signature] = self["kwargs"]["tasks"]
        return members

    @tasks.setter
    def tasks(self, members: Iterable[Any]) -> None:
        self["kwargs"]["tasks"] = [_part(member) for member in members]

    def _parts(self) -> Iterator[Signature]:
        return iter(self.tasks)

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> group:
        """Give the members countdowns from ``start`` in steps of ``step`` seconds; past ``stop`` all get the last."""
        if step == 0 or (stop is not None and (stop - start) / step < 0):
            raise ValueError(f"skew() needs steps that lead from {start!r} to {stop!r}, not {step!r}")
        last = len(self.tasks) if stop is None else int((stop - start) / step)
        for position, task in enumerate(self.tasks):
            task.set(countdown=start + step * min(position, last))
        return self

    def link(self, callback: Any) -> Any:
        """Call another signature when the first member succeeds, with its own arguments alone, as Celery does."""
        if self.tasks:
            self.tasks[0].link(maybe_signature(callback, clone=True).set(immutable=True))
        return callback

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        link: Any = None,
        **options: Any,
    ) -> Any:
        """Send the members; ``args`` go before the arguments of each; returns a `GroupResult`."""
        if link is not None:
            raise TypeError("a group has no result to call link= with: use group | callback, or link its members")
        return Canvas.apply_async(self, args, kwargs, route_name, **options)

    def link_error(self, errback: Any) -> Any:
        """Call another signature for each member that fails."""
        for task in self.tasks:
            task.link_error(errback)
        return errback

    def __or__(self, other: Any) -> Any:
        return chord(self, body=other, app=self._app)

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"group({[*self.tasks]!r})"


class chord(Canvas):  # noqa: N801 - Celery's name
    """A group, and a body that is called once with the list of its results."""

    _kind, _short = plan.CHORD, "chord"

    def __init__(self, header: Any, body: Any = None, **options: Any) -> None:
        members = header if isinstance(header, group) else group(header)
        self._make({"header": members, "body": None if body is None else _part(body)}, options)

    @property
    def tasks(self) -> group:
        """The header."""
        header: group = self["kwargs"]["header"]
        return header

    @tasks.setter
    def tasks(self, header: Any) -> None:
        self["kwargs"]["header"] = header if isinstance(header, group) else group(header)

    @property
    def body(self) -> Signature | None:
        """What is called with the results."""
        found: Signature | None = self["kwargs"]["body"]
        return found

    @body.setter
    def body(self, body: Any) -> None:
        self["kwargs"]["body"] = None if body is None else _part(body)

    def _parts(self) -> Iterator[Signature]:
        yield self.tasks
        if self.body is not None:
            yield self.body

    def __call__(self, body: Any = None, **options: Any) -> Any:
        """Send it, with this body if it has none."""
        return self.apply_async((), body=body, **options)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        body: Any = None,
        **options: Any,
    ) -> Any:
        """Send the header's members; ``args`` go before the arguments of each; returns the body's result."""
        kwargs = dict(kwargs or {})
        body = kwargs.pop("body", body)  # Celery's place for it
        return Canvas.apply_async(self._complete(body), args, kwargs, route_name, **options)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        body: Any = None,
        **options: Any,
    ) -> Any:
        """Run header and body in this process; returns the body's result."""
        return Canvas.apply(self._complete(body), args, kwargs, **options)

    def _complete(self, body: Any) -> chord:
        if body is None and self.body is None:
            raise ImproperlyConfigured("a chord needs a body: chord(header)(body), or chord(header, body)")
        return self if body is None else chord(self.tasks, body, app=self._app, **self["options"])

    def link(self, callback: Any) -> Any:
        """Call another signature with the body's result."""
        if self.body is None:
            raise ImproperlyConfigured("a chord without a body has nothing to link to")
        return self.body.link(callback)

    def link_error(self, errback: Any) -> Any:
        """Call another signature when the body, or a member and so the body, fails."""
        if self.body is not None:
            self.body.link_error(errback)
        return errback

    def __or__(self, other: Any) -> Any:
        body = self.body
        if body is None:
            raise ImproperlyConfigured("a chord without a body cannot go on: chord(header, body) | task")
        made = chord(self.tasks, body | other, app=self._app, **self["options"])
        made["args"] = self["args"]
        return made

    def _stamped_parts(
        self, visitor: StampingVisitor | None, **stamps: Any
    ) -> Iterator[tuple[Signature, Mapping[str, Any] | None]]:
        more = None if visitor is None else visitor.on_chord_header_start(self, **stamps)
        for member in self.tasks.tasks:
            yield member, more
        if visitor is not None:
            visitor.on_chord_header_end(self, **stamps)
        if self.body is not None:
            found = None if visitor is None else visitor.on_chord_body(self, **stamps)
            yield self.body, merged(False, found, more)

    def __length_hint__(self) -> int:
        return plan.leaves([to_wire(self.tasks)])

    def __repr__(self) -> str:
        return f"{self.tasks!r} | {self.body!r}"


def _restored(kind: type[Canvas], sig: Mapping[str, Any], app: Any) -> Canvas:
    """Return a canvas from its dict form."""
    made = kind.__new__(kind)
    parts = {name: value for name, value in (sig.get("kwargs") or {}).items() if name in PARTS}
    for name, value in parts.items():
        if isinstance(value, Mapping):
            parts[name] = maybe_signature(value, app)
        elif value is not None:
            members = [maybe_signature(each, app) for each in value]
            parts[name] = members if name == "tasks" else group(members)
    options = {name: list(value) if isinstance(value, list | tuple) else value
               for name, value in (sig.get("options") or {}).items()}  # fmt: skip
    made._make(parts, {**options, "app": app})
    made["args"] = tuple(sig.get("args") or ())
    made["immutable"] = bool(sig.get("immutable"))
    if sig.get("keywords"):
        made["keywords"] = dict(sig["keywords"])
    return made


for _each in (chain, group, chord):
    register_kind(_each._kind, _each, _restored)
