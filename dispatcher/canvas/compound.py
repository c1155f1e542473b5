"""chain, group and chord: signatures made of signatures, with Celery's keys and operators."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dispatcher.canvas import plan
from dispatcher.canvas.signature import Signature, maybe_signature, register_kind, to_wire
from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.utils import uuid


class Canvas(Signature):
    """What chain, group and chord have in common: they are sent, frozen and run as a whole."""

    _kind: str
    _short: str

    def _make(self, parts: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        app = options.get("app")
        dict.__init__(
            self, task=self._kind, args=(), kwargs=dict(parts),
            options={key: value for key, value in options.items() if key != "app"},
            subtask_type=self._short, immutable=False,
        )  # fmt: skip
        self._app, self._type = app, None

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

    # -- calling

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Send it, with these arguments before its own; Celery's short form of `apply_async`."""
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
        whole = self.clone(args, kwargs, **options) if args or kwargs or options else self
        return self.app.send_canvas(whole)

    def apply(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run it in this process, one call after the other; returns the result of the whole."""
        return self.app.run_canvas(self.clone(args, kwargs, **options))

    def clone(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Return a copy, parts included, with more arguments and options."""
        copy = maybe_signature(to_wire(self), self._app)
        copy["args"] = (*(args or ()), *self["args"])
        if kwargs:
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

    def _parts(self) -> Iterator[Signature]:
        return iter(self.tasks)

    def link(self, callback: Any) -> Any:
        """Call another signature with the result of the last step."""
        self.tasks[-1].link(callback)
        return callback

    def link_error(self, errback: Any) -> Any:
        """Call another signature when any step fails."""
        for task in self.tasks:
            task.link_error(errback)
        return errback

    def __or__(self, other: Any) -> Any:
        steps = [*self.tasks]
        if isinstance(other, Mapping) and steps and isinstance(steps[-1], chord) and not isinstance(other, chain):
            last = steps.pop().clone()
            return self._with([*steps, last | other])
        return self._with([*steps, *(other.tasks if isinstance(other, chain) else [_part(other)])])

    def _with(self, steps: list[Any]) -> chain:
        made = chain(app=self._app, **self["options"])
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

    def _parts(self) -> Iterator[Signature]:
        return iter(self.tasks)

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> group:
        """Give the members countdowns from ``start`` in steps of ``step`` seconds, from the start again at ``stop``."""
        if step == 0 or (stop is not None and (stop - start) / step <= 0):
            raise ValueError(f"skew() needs steps that lead from {start!r} to {stop!r}, not {step!r}")
        delays: Iterator[float] = itertools.count(start, step)
        if stop is not None:
            rounds = [start + step * turn for turn in range(max(1, int((stop - start) / step)))]
            delays = itertools.cycle(rounds)
        for task, delay in zip(self.tasks, delays, strict=False):
            task.set(countdown=delay)
        return self

    def link(self, callback: Any) -> Any:
        """Call another signature with the result of the first member, as Celery does."""
        if self.tasks:
            self.tasks[0].link(callback)
        return callback

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

    @property
    def body(self) -> Signature | None:
        """What is called with the results."""
        found: Signature | None = self["kwargs"]["body"]
        return found

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

    def __length_hint__(self) -> int:
        return plan.leaves([to_wire(self.tasks)])

    def __repr__(self) -> str:
        return f"{self.tasks!r} | {self.body!r}"


def _restored(kind: type[Canvas], sig: Mapping[str, Any], app: Any) -> Canvas:
    """Return a canvas from its dict form."""
    made = kind.__new__(kind)
    parts = dict(sig.get("kwargs") or {})
    for name in ("tasks", "header", "body"):
        value = parts.get(name)
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
