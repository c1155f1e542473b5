"""What type checkers make of tasks: mypy and pyright both check this file; pytest runs it like any other test.

A wrong call carries an ignore, which both checkers honour, and both report one that is not needed.
"""

from typing import Any, assert_type

from dispatcher import AsyncResult, Dispatcher, Signature, Task, shared_task
from dispatcher.canvas import signature
from dispatcher.exceptions import Retry
from dispatcher.result import EagerResult, ResultSet

app = Dispatcher("typing", broker="memory://typing", set_as_current=False)


@app.task
def charge(order_id: int, note: str = "") -> str:
    """Take an order."""
    return f"{order_id}{note}"


@app.task()
def empty_options(x: float) -> float:
    """Take options, but none."""
    return x


@app.task(max_retries=5, autoretry_for=(OSError,), retry_backoff=True, queue="slow")
def with_options(order_id: int, *, fast: bool = False) -> list[int]:
    """Take options."""
    return [order_id, int(fast)]


@app.task(unique=str, unique_scope="period", unique_for=60)
def once(order_id: int) -> str:
    """Be unique."""
    return str(order_id)


def unique_calls() -> None:
    """Look at what a call of a unique task returns."""
    result = once.delay(1)
    assert_type(result, AsyncResult[str])
    assert_type(result.duplicate, bool)
    assert_type(once.release_lock((1,)), bool)
    once.delay("1")  # type: ignore[arg-type]


@app.task(bind=True, max_retries=None)
def bound(self: Task, order_id: int) -> int:
    """Take the task itself first, without type parameters, as Celery's users write it."""
    assert_type(self.retry(throw=False), Retry)
    self.update_state(state="PROGRESS", meta={"order": order_id})
    return self.request.retries


@app.task
async def fetch(url: str) -> bytes:
    """Return what the coroutine returns."""
    return url.encode()


@app.task(bind=True)
async def bound_fetch(self: Task, url: str) -> bytes:
    """Take the task itself first, as a coroutine function."""
    return url.encode()


class Base(Task):
    """A base class without type parameters, checked under ``--strict``."""

    abstract = True
    autoretry_for = (OSError,)
    max_retries = 3

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Call the one above."""
        super().on_failure(exc, task_id, args, kwargs, einfo)


@app.task(base=Base)
def with_base(x: int) -> str:
    """Have a base class."""
    return str(x)


class Add(Task[[int, int], int]):
    """A task that is a class, with its parameters and its result."""

    name = "add"

    def run(self, x: int, y: int) -> int:
        """Add."""
        return x + y


class Untyped(Task):
    """A task that is a class and says nothing."""

    name = "untyped"

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Do anything."""


def calls() -> None:
    """Calls with the right arguments; never run."""
    assert_type(charge.delay(42), AsyncResult[str])
    assert_type(charge.delay(42).get(timeout=10), str)
    assert_type(charge.delay(order_id=42, note="x"), AsyncResult[str])
    assert_type(charge(42), str)
    assert_type(charge.apply((42,)), EagerResult[str])
    assert_type(charge.apply((42,)).get(), str)
    assert_type(charge.apply_async((42,), countdown=5), AsyncResult[str])
    assert_type(charge.s(42), Signature)
    assert_type(charge.si(42).set(queue="q"), Signature)
    assert_type(charge.AsyncResult("id").get(), str)
    assert_type(empty_options.delay(1.5).get(), float)
    assert_type(with_options.delay(1, fast=True).get(), list[int])
    assert_type(bound.delay(1).get(), int)
    assert_type(bound(1), int)
    assert_type(fetch.delay("u").get(), bytes)
    assert_type(bound_fetch.delay("u").get(), bytes)
    assert_type(with_base.delay(1).get(), str)
    assert_type(Add().delay(1, 2).get(), int)
    Untyped().delay(1, "x", y=None)
    assert_type(app.send_task("anything", (1,), queue="q"), AsyncResult[Any])
    assert_type(app.send_many([charge.s(1), with_options.s(2)]), list[AsyncResult[Any]])
    assert_type(signature("anything", args=(1,)), Signature)


def shared_tasks() -> None:
    """Tasks that join any app, with and without options; never run, since they would join the apps of other tests."""

    @shared_task
    def shared(x: int) -> set[int]:
        return {x}

    @shared_task(ignore_result=True)
    def shared_with_options(x: int) -> None:
        del x

    assert_type(shared.delay(1).get(), set[int])
    assert_type(shared_with_options.delay(1), AsyncResult[None])
    shared.delay("x")  # type: ignore[arg-type]
    shared_with_options.delay("x")  # type: ignore[arg-type]


async def waits() -> None:
    """Waiting in a coroutine; never run."""
    assert_type(await charge.delay(42).aget(timeout=1), str)
    results = ResultSet([charge.delay(1), charge.delay(2)])
    assert_type(results.get(), list[str])
    assert_type(await results.aget(timeout=1), list[str])
    assert_type(await results, list[str])
    async for result in results:
        assert_type(result.get(), str)
    assert_type(next(results.iterate()), str)


def mistakes() -> None:
    """Calls that type checkers must refuse; never run."""
    charge.delay("x")  # type: ignore[arg-type]
    charge.delay()  # type: ignore[call-arg]
    charge.delay(1, note=5)  # type: ignore[arg-type]
    charge.delay(1, other=5)  # type: ignore[call-arg]
    charge("x")  # type: ignore[arg-type]
    empty_options.delay("x")  # type: ignore[arg-type]
    with_options.delay(1, True)  # type: ignore[call-arg]
    bound.delay(None, 1)  # type: ignore[call-arg, arg-type]
    fetch.delay(1)  # type: ignore[arg-type]
    bound_fetch.delay(1)  # type: ignore[arg-type]
    with_base.delay("x")  # type: ignore[arg-type]
    Add().delay("x", 2)  # type: ignore[arg-type]
    number: int = charge.delay(1).get()  # type: ignore[assignment]
    del number


def test_names_are_what_the_checkers_believe() -> None:
    """The objects of this file are of the types that the checkers were told."""
    tasks = (charge, empty_options, with_options, bound, fetch, bound_fetch, with_base, Add())
    assert all(isinstance(task, Task) for task in tasks)
    assert isinstance(charge.s(1), Signature)
    assert isinstance(charge.apply((1,)), EagerResult)
