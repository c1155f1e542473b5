"""Shared tasks: tasks of a library, which join whatever app there is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Literal, ParamSpec, TypeVar, overload

from dispatcher import registry, state
from dispatcher.decorators import BoundDecorator, Decorator
from dispatcher.task import Task

P = ParamSpec("P")
R = TypeVar("R")


@overload
def shared_task(function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
@overload
def shared_task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def shared_task(*, bind: Literal[True], **options: Any) -> BoundDecorator: ...
@overload
def shared_task(*, bind: bool = False, **options: Any) -> Decorator: ...


def shared_task(*args: Any, **options: Any) -> Any:
    """Make a task that joins every app and stands for the current app's when used; options as `Dispatcher.task`.

    Before there is an app it can be called as the function it is, and not be sent.
    """

    def decorate(function: Any) -> Any:
        def name_in(app: Any) -> str:
            name: str = options.get("name") or app.gen_task_name(function.__name__, function.__module__)
            return name

        def join(app: Any) -> None:
            app._register_function(function, dict(options))

        state.connect_on_app_finalize(join)
        if state.has_current_app():
            app = state.get_current_app()
            if app.finalized:
                join(app)

        @functools.cache
        def orphan() -> Any:
            return _orphan(function, dict(options))

        def find() -> Any:
            if not state.has_current_app():
                return orphan()
            app = state.get_current_app()
            if name_in(app) not in app._tasks:
                join(app)
            return app._tasks[name_in(app)]

        return state.Proxy(find, __name__=function.__name__, __doc__=function.__doc__, __module__=function.__module__)

    if args:
        if len(args) > 1 or not callable(args[0]):
            raise TypeError("@shared_task takes one function, or options by name: @shared_task(bind=True)")
        return decorate(args[0])
    return decorate


def _orphan(function: Any, options: dict[str, Any]) -> Any:
    """Return a task of no app: it can be called directly."""
    name = options.pop("name", None) or registry.task_name(function, None)
    base, bind = options.pop("base", None) or Task, options.pop("bind", False)
    return registry.make_task(function, name, base, bind, options)
