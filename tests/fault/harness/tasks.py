"""The app of a run: tasks that do at each attempt what their script says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dispatcher import Dispatcher
from dispatcher.exceptions import Ignore, Reject


def add_tasks(app: Dispatcher, started: Callable[[Any], int], unit: float) -> None:
    """Register the tasks; ``started`` is told of each run and returns how many there were of this task."""
    options: dict[str, Any] = {"bind": True, "max_retries": None}

    def act(task: Any, script: list[str], args: tuple[Any, ...], result: Any) -> Any:
        runs, remaining = started(task), list(script)
        if remaining[0] == "again":
            del remaining[0]
            if runs == 1:
                raise Reject("later", requeue=True)
        step = remaining[task.request.retries]
        if step == "retry":
            raise task.retry(countdown=3 * unit)
        if step == "move":
            raise task.retry(args=args, countdown=2 * unit)
        if step == "raise":
            raise ValueError("no")
        if step == "throw":
            raise KeyError("expected")
        if step == "reject":
            raise Reject("not mine")
        if step == "ignore":
            raise Ignore
        return result

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
    app.task(name="lean", bind=True, ignore_result=True, revocable=False)(lean)
    app.finalize()
