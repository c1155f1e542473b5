"""An option that is set on a task late, after its app was finalized, comes to what it would have come to before."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher import Dispatcher
from dispatcher.exceptions import DispatcherError

VALUES: dict[str, list[Any]] = {
    "queue": ["a", "b", None], "priority": [0, 5, None], "serializer": ["json", "msgpack", None],
    "compression": ["zlib", None], "expires": [5, None], "track_started": [True, False, None],
    "ignore_result": [True, False, None], "soft_time_limit": [1, 2, None], "time_limit": [1, 20, None],
    "revocable": [True, False, None], "acks_late": [True, False, None], "rate_limit": ["1/s", 0, None],
    "max_retries": [1, None], "retry_backoff": [False, 3], "autoretry_for": [(), (OSError,)],
    "throws": [(), (KeyError,)],
    "typing": [None, False, True], "sensitive": [None, ("x",)], "unique": [None, True],
    "unique_scope": ["queued", "running"],
}  # fmt: skip
#: What is derived from options.
DERIVED = ("_lean", "_rate", "_uniqueness", "_sensitive", "_send_options", "_from_config", "_hooks", "retry_policy")
pairs = st.sampled_from(sorted(VALUES)).flatmap(lambda name: st.tuples(st.just(name), st.sampled_from(VALUES[name])))


def _task(own: dict[str, Any]) -> Any:
    """Return a settled task; settings beside their defaults show which options come of them."""
    memory = "memory://late"
    app = Dispatcher(
        "late", broker=memory, backend=memory, set_as_current=False, rate_limit_scope="global",
        task_default_rate_limit="9/s", task_soft_time_limit=3, task_ignore_result=True, task_default_priority=7,
    )  # fmt: skip
    task = app.task(name="t", **own)(lambda x=1: None)
    app.finalize()
    return task


def _seen(task: Any) -> dict[str, Any]:
    return {name: getattr(task, name) for name in (*VALUES, *DERIVED)} | {"checked": task._check_call is not None}


@settings(deadline=None)
@given(st.lists(pairs, max_size=4).map(dict), st.lists(pairs, min_size=1, max_size=4))
def test_late_options_are_those_of_the_start(own: dict[str, Any], late: list[tuple[str, Any]]) -> None:
    """What is refused late is refused at the start, and leaves the task as it was."""
    try:
        task = _task(own)
    except DispatcherError:
        return
    for name, value in late:
        before = _seen(task)
        try:
            new = _task({**own, name: value})
        except DispatcherError as refusal:
            with pytest.raises(type(refusal)):
                setattr(task, name, value)
            assert _seen(task) == before
        else:
            setattr(task, name, value)
            assert _seen(task) == _seen(new)
            own = {**own, name: value}
