"""The registry of tasks, and how functions become tasks."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

from dispatcher.exceptions import ImproperlyConfigured, NotRegistered
from dispatcher.task import Task
from dispatcher.task_options import HOOKS

#: Methods and properties of `Task`; hooks may be given as options, and `backend` is refused with a reason of its own.
_PARTS = frozenset(
    part for part, value in vars(Task).items()
    if (inspect.isfunction(value) or isinstance(value, property | classmethod)) and part not in {*HOOKS, "backend"}
)  # fmt: skip


class TaskRegistry(dict[str, Task[Any, Any]]):
    """The tasks of an app by name. What every app has, for canvases, is found by name and not listed."""

    def __init__(self, *tasks: Any) -> None:
        super().__init__(*tasks)
        self.built_in: dict[str, Task[Any, Any]] = {}

    def __missing__(self, name: str) -> Task[Any, Any]:
        if name in self.built_in:
            return self.built_in[name]
        raise NotRegistered(f"no task named {name!r} is registered; known: {', '.join(sorted(self)) or 'none'}")

    def register(self, task: Task[Any, Any]) -> None:
        """Add a task under its name."""
        self[task.name] = task

    def unregister(self, name: Any) -> None:
        """Remove a task, by itself or its name; raise `NotRegistered` if it is not there."""
        try:
            del self[getattr(name, "name", name)]
        except KeyError:
            raise NotRegistered(f"no task named {name!r} is registered") from None

    def regular(self) -> Iterator[tuple[str, Task[Any, Any]]]:
        """Yield names and tasks."""
        return iter(self.items())

    def filter_types(self, type_: str) -> Iterator[tuple[str, Task[Any, Any]]]:
        """Yield names and tasks; there is one type."""
        return iter(self.items())


def task_name(function: Callable[..., Any], main: str | None) -> str:
    """Return ``module.function``; a script's tasks are named after the app, as the worker will import them."""
    return full_name(function.__name__, function.__module__, main)


def full_name(name: str, module: str, main: str | None) -> str:
    """Return ``module.name``, with the app's name or the script's own module for ``__main__``."""
    if module == "__main__":
        module = main or _script_module() or module
    return f"{module}.{name}"


def _script_module() -> str | None:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec.name if spec is not None and spec.name != "__main__" else None


def make_task(
    function: Callable[..., Any], name: str, base: Any, bind: bool, options: dict[str, Any]
) -> Task[Any, Any]:
    """Return an instance of a new subclass of ``base`` whose ``run`` is the function.

    Raises `ImproperlyConfigured` for a misspelt option, naming the right one; other options become class attributes.
    """
    if not (isinstance(base, type) and issubclass(base, Task)):
        raise TypeError(f"task {name}: base= must be a subclass of Task, not {base!r}")
    check_option_names(name, base, options)
    if callable(options.get("unique")):
        options = {**options, "unique": staticmethod(options["unique"])}  # it takes the arguments, not the task
    attributes = {
        "run": function if bind else staticmethod(function),
        "name": name,
        "abstract": False,
        "__doc__": function.__doc__,
        "__module__": function.__module__,
        "__qualname__": getattr(function, "__qualname__", function.__name__),
        "__wrapped__": function if bind else staticmethod(function),
        "__header__": staticmethod(function),
        **options,
    }
    cls = type(function.__name__, (base,), attributes)
    task: Task[Any, Any] = cls()
    task.__dict__.update(__qualname__=cls.__qualname__, __annotations__=getattr(function, "__annotations__", {}))
    return task


def check_option_names(name: str, base: type[Task[Any, Any]], options: dict[str, Any]) -> None:
    """Raise `ImproperlyConfigured` for an option that is one letter or two off a known one."""
    for option in options:
        if option in _PARTS:
            raise ImproperlyConfigured(f"task {name}: {option!r} is a part of every task, not an option of one")
        if hasattr(base, option):
            continue
        import difflib

        known = [each for each in dir(base) if not each.startswith("_")]
        near = difflib.get_close_matches(option, known, 1, cutoff=0.8)
        if near:
            raise ImproperlyConfigured(
                f"task {name}: unknown option {option!r}; did you mean {near[0]!r}? "
                "(an attribute of your own may have any other name, or define it on a Task subclass)"
            )


def annotate(task: Task[Any, Any], annotations: Any) -> None:
    """Set attributes on a task as ``task_annotations`` says: dicts by name or ``*``, or objects with ``annotate``."""
    if not annotations:
        return
    for annotation in annotations if isinstance(annotations, list | tuple) else [annotations]:
        if hasattr(annotation, "annotate"):
            found = [annotation.annotate(task)]
        else:
            found = [annotation.get("*"), annotation.get(task.name)]
        for attributes in found:
            for key, value in (attributes or {}).items():
                if key.startswith("@"):
                    raise ImproperlyConfigured(
                        f"task_annotations: {key!r} (wrapping a method) is not available in this release; "
                        "subclass Task and use it as base="
                    )
                setattr(task, key, value.__get__(task) if inspect.isfunction(value) else value)
