"""Shared tasks: made before or after the app, joined by every app."""

from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher import Task, shared_task
from tests.unit.bench import Bench, Globals


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    """Keep apps and shared tasks of one test from the next."""
    with Globals():
        yield


def test_shared_task_made_before_or_after_the_app() -> None:
    """Whenever it is made, a shared task is in the registry and can be sent."""

    @shared_task(name="before")
    def before() -> str:
        return "before"

    bench = Bench()

    @shared_task(name="between")
    def between() -> str:
        return "between"

    bench.app.finalize()

    @shared_task(name="after", bind=True)
    def after(self: Any) -> str:
        return str(self.name)

    assert {"before", "between", "after"} <= set(bench.app.tasks)
    results = [task.delay() for task in (before, between, after)]
    bench.work()
    assert [result.get() for result in results] == ["before", "between", "after"]


def test_shared_task_with_a_base_and_options() -> None:
    """Options and base classes hold for each app's task."""

    class Base(Task):
        owner = "library"

    @shared_task(base=Base, max_retries=9)
    def task() -> None: ...

    Bench()
    first = task._get_current_object()  # type: ignore[attr-defined]
    Bench()
    second = task._get_current_object()  # type: ignore[attr-defined]
    assert first is not second
    assert [(each.owner, each.max_retries) for each in (first, second)] == [("library", 9)] * 2
    assert task.__name__ == "task"


def test_name_of_a_proxy_needs_no_app() -> None:
    """What a decorated function is called can be read before there is an app."""
    from dispatcher import state

    state.set_current_app(None)

    @shared_task
    def library() -> None:
        """Do it."""

    assert (library.__name__, library.__doc__, library.__module__) == ("library", "Do it.", __name__)
    assert repr(library) == f"<@task: {__name__}.library>"
