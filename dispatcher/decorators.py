"""The types of ``@app.task(…)`` and ``@shared_task(…)``: what they make of a function, for type checkers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from dispatcher.task import Task

P = ParamSpec("P")
R = TypeVar("R")


class Decorator(Protocol):
    """Takes a function; a coroutine function's task returns what its coroutine returns."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class BoundDecorator(Protocol):
    """Takes a function whose first parameter is the task itself, with ``bind=True``."""

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...
