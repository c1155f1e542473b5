"""map, starmap and chunks: many calls of one task as one message, or as one for each chunk."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dispatcher.canvas.compound import group
from dispatcher.canvas.plan import LAUNCH
from dispatcher.canvas.signature import Signature, maybe_signature, to_wire

#: Tasks that every app has.
MAP, STARMAP, ACCUMULATE = "celery.map", "celery.starmap", "celery.accumulate"


_NOTHING: list[Any] = []


class _Mapped(Signature):
    _name: str
    _stars = ""

    def __init__(self, task: Any, it: Iterable[Any], app: Any = None, **options: Any) -> None:
        call = task.s() if not isinstance(task, Mapping) else maybe_signature(task)
        super().__init__(
            self._name, (), {"task": to_wire(call), "it": list(it)}, options, immutable=True,
            app=app if app is not None else call._app,
        )  # fmt: skip

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> Any:
        """Send it; returns an `AsyncResult`."""
        if route_name is not None:
            options["route_name"] = route_name
        return self.type.apply_async((), self["kwargs"], **{**self["options"], **options})

    def __repr__(self) -> str:
        return f"[{self['kwargs']['task']['task']}({self._stars}x) for x in {self['kwargs']['it']!r}]"


class xmap(_Mapped):  # noqa: N801 - Celery's name
    """One message that calls a task with each item in turn, in one worker; its result is the list of theirs."""

    _name = MAP


class xstarmap(_Mapped):  # noqa: N801 - Celery's name
    """One message that calls a task with the arguments in each item in turn; its result is the list of theirs."""

    _name, _stars = STARMAP, "*"


class chunks:  # noqa: N801 - Celery's name
    """The calls of a task with the arguments in each item, ``n`` to a message."""

    def __init__(self, task: Any, it: Iterable[Any], n: int, app: Any = None, **options: Any) -> None:
        if type(n) is not int or n < 1:
            raise ValueError(f"chunks() needs a number of items a message, 1 or more, not {n!r}")
        self._task, self._items, self._size, self._app, self._options = task, it, n, app, options

    def group(self) -> group:
        """Return the chunks as a group of `xstarmap` calls."""
        items = iter(self._items)
        cut = iter(lambda: list(itertools.islice(items, self._size)), _NOTHING)
        return group([xstarmap(self._task, chunk, app=self._app) for chunk in cut], **self._options)

    def apply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Send the chunks; returns their `GroupResult`."""
        return self.group().apply_async(args, kwargs, **options)

    def __call__(self, **options: Any) -> Any:
        """Send the chunks."""
        return self.apply_async(**options)

    def delay(self) -> Any:
        """Send the chunks."""
        return self.apply_async()

    def apply(self, **options: Any) -> Any:
        """Run the chunks in this process."""
        return self.group().apply(**options)


def built_in(app: Any) -> dict[str, Any]:
    """Return the functions of the tasks that canvases need, by name."""

    def call_each(task: Mapping[str, Any], it: Sequence[Any]) -> list[Any]:
        function = app.tasks[task["task"]]
        return [function(item) for item in it]

    def call_each_with_arguments(task: Mapping[str, Any], it: Sequence[Any]) -> list[Any]:
        function = app.tasks[task["task"]]
        return [function(*item) for item in it]

    def accumulate(results: list[Any]) -> list[Any]:
        return results

    def launch(at: float = 0.0, parts: int = 0) -> None:
        """Do nothing: what follows is all there is to it, see `dispatcher.execution.launching`."""

    return {MAP: call_each, STARMAP: call_each_with_arguments, ACCUMULATE: accumulate, LAUNCH: launch}
