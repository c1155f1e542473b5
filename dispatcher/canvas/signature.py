"""Signature: a call to a task as a value, a dict that serializes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from dispatcher.canvas.stamping import NAMES, StampingVisitor, merged, own_stamps
from dispatcher.sensitive import Marks, both, marks_on_wire, masked
from dispatcher.state import get_current_app
from dispatcher.utils import uuid

_DEFAULTS: dict[str, Any] = {"args": (), "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False}
#: The keywords of a canvas that are its parts; Celery writes others beside them.
PARTS = ("tasks", "header", "body")
#: Signatures made of signatures, by the name that stands for the task's: the class, and what makes one from a dict.
_KINDS: dict[str, tuple[Any, Callable[..., Any]]] = {}


def register_kind(name: str, kind: Any, restore: Callable[..., Any]) -> None:
    """Have signatures of this name be of a class of their own."""
    _KINDS[name] = kind, restore


def item(key: str) -> property:
    """Return a property that reads and sets a key of a signature."""

    def put(self: dict[str, Any], value: Any) -> None:
        self[key] = value

    return property(operator.itemgetter(key), put)


class Signature(dict[str, Any]):
    """A task's name, arguments and options; the keys are Celery's.

    Arguments given when it is called come before its own (`apply_async`), unless it is immutable.
    """

    def __init__(
        self,
        task: Any = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        type: Any = None,
        subtask_type: str | None = None,
        immutable: bool = False,
        app: Any = None,
        **more_options: Any,
    ) -> None:
        self._app = app
        self._type = type
        if isinstance(task, Mapping):
            super().__init__({**_DEFAULTS, **task})
            self["args"] = tuple(self["args"] or ())
            self["kwargs"] = dict(self["kwargs"] or {})
            self["options"] = dict(self["options"] or {})
            return
        if not isinstance(task, str):
            if not isinstance(getattr(task, "name", None), str):
                raise TypeError(f"a signature needs a task or a task's name, not {task!r}")
            self._type, task = task, task.name
        if isinstance(args, str | bytes):
            raise TypeError(f"the arguments of {task} must be a list or tuple, not a text")
        super().__init__(
            task=task,
            args=tuple(args or ()),
            kwargs=dict(kwargs or {}),
            options={**(options or {}), **more_options},
            subtask_type=subtask_type,
            immutable=immutable,
        )

    @classmethod
    def of(cls, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], app: Any, immutable: bool = False) -> Self:
        """Return a call to a task; in half the time of the constructor, which takes much else."""
        signature = cls.__new__(cls)
        signature.update(task=task.name, args=args, kwargs=kwargs, options={}, subtask_type=None, immutable=immutable)
        signature._app, signature._type = app, task
        return signature

    # -- parts

    task, args, kwargs, options = item("task"), item("args"), item("kwargs"), item("options")
    subtask_type, immutable = item("subtask_type"), item("immutable")
    name = property(operator.itemgetter("task"))

    @property
    def id(self) -> str | None:
        """The task id, once one is fixed by `freeze` or ``set(task_id=…)``."""
        value: str | None = self["options"].get("task_id")
        return value

    @property
    def app(self) -> Any:
        """The app that sends it."""
        return self._app if self._app is not None else get_current_app()

    @property
    def type(self) -> Any:
        """The task itself, where this process knows it."""
        if self._type is None:
            self._type = self.app.tasks[self["task"]]
        return self._type

    # -- calling

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task here and now, as a function."""
        args, kwargs, _ = self._merge(args, kwargs, {})
        return self.type(*args, **kwargs)

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Send it with these arguments before its own."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> Any:
        """Send it; arguments come before its own, options override its own. Returns an `AsyncResult`."""
        merged_args, merged_kwargs, merged_options = self._merge(args, kwargs, options)
        app = self.app
        task = self._type if self._type is not None else app.tasks.get(self["task"])
        if route_name is not None:
            merged_options["route_name"] = route_name
        if task is None:
            merged_options.setdefault("sensitive", self._marks)
            return app.send_task(self["task"], merged_args, merged_kwargs, **merged_options)
        return task.apply_async(merged_args, merged_kwargs, **merged_options)

    def apply(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run it in this process as a worker would. Returns an `EagerResult`."""
        merged_args, merged_kwargs, merged_options = self._merge(args, kwargs, options)
        return self.type.apply(merged_args, merged_kwargs, **merged_options)

    def _merge(
        self, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any] | None
    ) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
        merged_options = {**self["options"], **(options or {})}
        if self["immutable"]:
            return self["args"], dict(self["kwargs"]), merged_options
        return (*(args or ()), *self["args"]), {**self["kwargs"], **(kwargs or {})}, merged_options

    # -- copies and changes

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Any = None) -> Any:
        """Return the signature, or canvas, that a dict describes."""
        return maybe_signature(dict(d), app)

    def clone(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Signature:
        """Return a copy with more arguments and options."""
        merged_args, merged_kwargs, merged_options = self._merge(args, kwargs, options)
        copy = Signature(
            {**self, "args": merged_args, "kwargs": merged_kwargs, "options": merged_options}, app=self._app
        )
        copy._type = self._type
        for key in ("link", "link_error"):
            if key in copy["options"]:
                copy["options"][key] = list(as_list(copy["options"][key]))
        return copy

    partial = clone

    def __copy__(self) -> Signature:
        return self.clone()

    def __deepcopy__(self, memo: dict[int, Any]) -> Signature:
        memo[id(self)] = copy = self.clone()
        return copy

    def replace(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Signature:
        """Return a copy in which what is given takes the place of its own."""
        copy = self.clone()
        if args is not None:
            copy["args"] = tuple(args)
        if kwargs is not None:
            copy["kwargs"] = dict(kwargs)
        if options is not None:
            copy["options"] = dict(options)
        return copy

    def set(self, immutable: bool | None = None, **options: Any) -> Signature:
        """Set options in place, and return itself."""
        if immutable is not None:
            self.set_immutable(immutable)
        self["options"].update(options)
        return self

    def set_immutable(self, immutable: bool) -> Signature:
        """Say whether arguments given later are ignored."""
        self["immutable"] = immutable
        return self

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Fix the task id, and return the result it will have."""
        options = self["options"]
        task_id = options.setdefault("task_id", _id or uuid())
        given = {
            "group_id": group_id, "chord": chord, "root_id": root_id, "parent_id": parent_id, "group_index": group_index
        }  # fmt: skip
        options.update({name: value for name, value in given.items() if value is not None})
        return self.app.AsyncResult(task_id)

    _freeze = freeze

    # -- links

    def link(self, callback: Any) -> Any:
        """Call another signature with the result when this one succeeds; return it."""
        return self._append("link", callback)

    def link_error(self, errback: Any) -> Any:
        """Call another signature when this one fails; return it."""
        return self._append("link_error", errback)

    def on_error(self, errback: Any) -> Signature:
        """Link an error callback, and return itself."""
        self.link_error(errback)
        return self

    def _append(self, key: str, sig: Any) -> Any:
        links = self["options"][key] = list(as_list(self["options"].get(key)))
        if sig not in links:
            links.append(sig)
        return sig

    def flatten_links(self) -> list[Signature]:
        """Return this signature and all that is linked to it, in order."""
        found = [self]
        for linked in as_list(self["options"].get("link")):
            found.extend(maybe_signature(linked, self._app).flatten_links())
        return found

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Mapping):
            return NotImplemented
        kind: Any = _KINDS["celery.chain"][0]
        return kind(self, app=self._app) | other

    def __ror__(self, other: Any) -> Any:
        return NotImplemented  # a dict would merge

    def __ior__(self, other: Any) -> Any:
        return self | other  # as above

    def __invert__(self) -> Any:
        return self.apply_async().get()

    def stamp(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any) -> Any:
        """Give it and its callbacks stamps, and return it; a ``visitor`` adds others.

        Of stamps of one name the newest counts, or with ``append_stamps`` the list of all, the newest first.
        """
        self.stamp_links(visitor, append_stamps, **headers)
        found = None if visitor is None else visitor.on_signature(self, **headers)
        self._put_stamps(merged(append_stamps, headers, found, own_stamps(self["options"])))
        return self

    def _put_stamps(self, stamps: Mapping[str, Any]) -> None:
        if stamps:
            self["options"].update({**stamps, NAMES: list(stamps)})

    def stamp_links(self, visitor: StampingVisitor | None, append_stamps: bool = False, **headers: Any) -> None:
        """Give its callbacks and error callbacks stamps."""
        hooks = {"link": "on_callback", "link_error": "on_errback"}
        for option, hook in hooks.items():
            if option not in self["options"]:
                continue
            links = [maybe_signature(link, self._app) for link in as_list(self["options"][option])]
            for link in links:
                found = None if visitor is None else getattr(visitor, hook)(link, **headers)
                link.stamp(visitor, append_stamps, **merged(append_stamps, headers, found))
            self["options"][option] = links

    def __reduce__(self) -> Any:
        return Signature, (dict(self),)

    @property
    def _marks(self) -> Marks | None:
        """What of the call no text may show: by the task, by its wire form, and by the options of this call."""
        marks = both(getattr(self._type, "_sensitive", None), marks_on_wire(self.get("sensitive")))
        return both(marks, marks_on_wire(self["options"].get("sensitive")))

    def __repr__(self) -> str:
        args, kwargs = masked(self["args"], self["kwargs"], self._marks, partial=True)
        parts = [repr(value) for value in args]
        parts += [f"{key}={value!r}" for key, value in kwargs.items()]
        return f"{self['task']}({', '.join(parts)})"

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """Return the call as text, with these arguments before its own."""
        return repr(self.clone(args, kwargs))

    def __json__(self) -> dict[str, Any]:
        return to_wire(self)


def as_list(value: Any) -> Sequence[Any]:
    """Return one link or several as a sequence."""
    if value is None:
        return ()
    return value if isinstance(value, list | tuple) else (value,)


def to_wire(sig: Mapping[str, Any]) -> dict[str, Any]:
    """Return a signature as plain JSON data, without what is at its default."""
    body = {"task": sig["task"]}
    for key, default in _DEFAULTS.items():
        value = sig.get(key)
        if value and value != default:
            body[key] = list(value) if key == "args" else value
    if sig["task"] in _KINDS:
        body.pop("subtask_type", None)  # the name says it
        body["kwargs"] = {name: _parts_to_wire(part) for name, part in sig["kwargs"].items() if name in PARTS}
        if sig.get("keywords"):
            body["keywords"] = dict(sig["keywords"])
    marks = sig._marks if isinstance(sig, Signature) else sig.get("sensitive")
    if marks:
        body["sensitive"] = marks
    options = body.get("options")
    if options:
        body["options"] = {
            key: [to_wire(linked) for linked in as_list(value)] if key in ("link", "link_error") else value
            for key, value in options.items()
        }
    return body


def _parts_to_wire(part: Any) -> Any:
    if part is None or isinstance(part, Mapping):
        return None if part is None else to_wire(part)
    return [to_wire(each) for each in part]


def signature(varies: Any, *args: Any, app: Any = None, **kwargs: Any) -> Signature:
    """Make a signature of a task, a task's name, or a signature in dict form."""
    if isinstance(varies, Signature):
        return varies.clone()
    if isinstance(varies, Mapping) and varies.get("task") in _KINDS:
        made: Signature = maybe_signature(varies, app)
        return made
    kwargs["app"] = app
    return Signature(varies, *args, **kwargs)


def maybe_signature(value: Any, app: Any = None, clone: bool = False) -> Any:
    """Return a signature for one in dict form; pass `None` through."""
    if value is None:
        return None
    if isinstance(value, Signature):
        sig = value.clone() if clone else value
        if app is not None and sig._app is None:
            sig._app = app
        return sig
    if isinstance(value, Mapping):
        if value.get("task") in _KINDS:
            kind, restore = _KINDS[value["task"]]
            return restore(kind, value, app)
        return Signature(value, app=app)
    raise TypeError(f"a signature or its dict form is needed, not {value!r}")


def beat_entry(schedule: Any, sig: Signature) -> dict[str, Any]:
    """Return the entry of ``beat_schedule`` that makes this call by this schedule."""
    parts = {"args": sig.args, "kwargs": sig.kwargs, "options": sig.options}
    return {"task": sig.task, "schedule": schedule, **parts}
