"""The registry, and how functions become tasks."""

from typing import Any

import pytest

from dispatcher import Task
from dispatcher.exceptions import ImproperlyConfigured, NotRegistered
from dispatcher.registry import TaskRegistry, annotate, make_task, task_name
from tests.unit.bench import Bench


def _function(x: int) -> int:
    """Double it."""
    return x * 2


def test_names_of_functions() -> None:
    """A task is named after module and function; in a script after the app."""

    def script() -> None: ...

    script.__module__ = "__main__"
    assert task_name(_function, "app") == f"{__name__}._function"
    assert task_name(script, "app") == "app.script"


def test_task_has_what_the_function_had() -> None:
    """Name, documentation, module and annotations are the function's."""
    task = make_task(_function, "t", Task, False, {"owner": "me"})
    assert (task.name, task.__doc__, task.__module__, task(4)) == ("t", "Double it.", __name__, 8)
    assert (task.__name__, task.__qualname__, task.owner) == ("_function", "_function", "me")  # type: ignore[attr-defined]


def test_registry_says_what_it_knows() -> None:
    """A missing name is an error that lists the others."""
    registry = TaskRegistry()
    with pytest.raises(NotRegistered, match="no task named 'x' is registered; known: none"):
        registry["x"]
    task = make_task(_function, "t", Task, False, {})
    registry.register(task)
    assert dict(registry.regular()) == dict(registry.filter_types("regular")) == {"t": task}
    registry.unregister("t")
    assert not registry


def test_annotations_by_dict_object_and_list() -> None:
    """Attributes are set by name, for all, and by objects; wrapping methods is refused."""

    class Annotation:
        def annotate(self, task: Any) -> dict[str, Any]:
            return {"priority": 3} if task.name == "t" else {}

    task = make_task(_function, "t", Task, False, {})
    annotate(task, ({"*": {"owner": "all"}, "t": {"max_retries": 9}}, Annotation()))
    assert (task.owner, task.max_retries, task.priority) == ("all", 9, 3)  # type: ignore[attr-defined]
    with pytest.raises(ImproperlyConfigured, match=r"'@__call__' \(wrapping a method\) is not available"):
        annotate(task, {"*": {"@__call__": print}})
    with pytest.raises(ImproperlyConfigured, match="did you mean 'serializer'"):
        Bench().app.task(name="x", serialiser="json")(_function)
