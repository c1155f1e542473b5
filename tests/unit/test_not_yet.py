"""What Celery has and this release has not says so by name."""

from __future__ import annotations

import pkgutil
import re

import pytest

from dispatcher import Dispatcher
from dispatcher.app import foreign
from dispatcher.task_options import NOT_YET


@pytest.mark.parametrize("name", sorted(NOT_YET))
def test_absent_task_methods_name_the_alternative(name: str) -> None:
    """A method of Celery's tasks that is missing is an attribute error which says what to do instead."""
    task = Dispatcher("not_yet", broker="memory://not_yet", set_as_current=False).task(name="t")(lambda: None)
    with pytest.raises(AttributeError, match="not available in this release"):
        getattr(task, name)
    assert not hasattr(task, "no_such_method")


@pytest.mark.parametrize("name", sorted(foreign.NOT_YET))
def test_absent_names_of_the_app_name_the_alternative(name: str) -> None:
    """So are names of the app; what is said to be in this package is there."""
    app = Dispatcher("not_yet", broker="memory://not_yet", set_as_current=False)
    with pytest.raises(AttributeError, match=rf"app\.{name} is not available in this release; ") as absent:
        getattr(app, name)
    for path in re.findall(r"\bdispatcher\.([\w.]+\w)", str(absent.value)):
        assert pkgutil.resolve_name(f"dispatcher.{path}")
