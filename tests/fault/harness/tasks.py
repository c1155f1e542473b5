"""The app of a run: tasks that do at each attempt what their script says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dispatcher import Dispatcher
from dispatcher.exceptions import Ignore, Reject

#: What a step of a script raises.
_ERRORS: Mapping[str, Callable[[], BaseException]] = {
    "raise": lambda: ValueError("no"), "throw": lambda: KeyError("expected"), "reject": lambda: Reject("not mine"),
    "ignore": Ignore,
}  # fmt: skip


class _Script:
    """What the scripted tasks have in common; ``started`` is told of each run and returns how many there were."""

    def __init__(self, started: Callable[[Any], int], unit: float) -> None:
        self.started = started
        self.unit = unit

    def act(self, task: Any, script: list[str], changed: tuple[Any, ...], result: Any) -> Any:
        """Do what the script says of this attempt; ``changed`` are the arguments of a retry that has others."""
        runs, steps = self.started(task), list(script)
        if steps[0] == "again":
            del steps[0]
            if runs == 1:
                raise Reject("later", requeue=True)
        step = steps[task.request.retries]
        if step == "retry":
            raise task.retry(countdown=3 * self.unit)
        if step == "move":
            raise task.retry(args=changed, countdown=2 * self.unit)
        if step in _ERRORS:
            raise _ERRORS[step]()
        return result


def add_tasks(app: Dispatcher, started: Callable[[Any], int], unit: float) -> None:
    """Register the tasks; ``started`` is told of each run and returns how many there were of this task."""
    options: dict[str, Any] = {"bind": True, "max_retries": None}
    act = _Script(started, unit).act

    def step(self: Any, number: int, script: list[str], marks: int = 0) -> Any:
        return act(self, script, (number, script, marks + 1), [number, marks])

    def follow(self: Any, value: Any, script: list[str], marks: int = 0) -> Any:
        return act(self, script, (value, script, marks + 1), [value, marks])

    def auto(self: Any, number: int, script: list[str], marks: int = 0) -> Any:
        if script[0] != "again" and script[self.request.retries] == "retry":
            started(self)
            raise OSError("passing")
        return step(self, number, script, marks)

    def handle(self: Any, task_id: str) -> str:
        started(self)
        return task_id

    def handle_all(self: Any, request: Any, exc: BaseException, traceback: str) -> list[str]:
        started(self)
        return [request["id"] if isinstance(request, dict) else request.id, type(exc).__name__]

    def lean(self: Any, number: int) -> int:
        started(self)
        return number

    app.task(name="step", throws=(KeyError,), **options)(step)
    app.task(name="tracked", track_started=True, throws=(KeyError,), **options)(step)
    app.task(name="quiet", ignore_result=True, throws=(KeyError,), **options)(step)
    app.task(
        name="auto", autoretry_for=(OSError,), default_retry_delay=unit, retry_backoff=False, throws=(KeyError,),
        **options,
    )(auto)  # fmt: skip
    app.task(name="follow", **options)(follow)
    app.task(name="handle", bind=True)(handle)
    app.task(name="handle_all", bind=True)(handle_all)
    app.task(name="early", bind=True, acks_late=False)(lean)
    app.task(name="lean", bind=True, ignore_result=True, revocable=False)(lean)
    app.finalize()
