"""An app whose tasks write down what they do, and whose misbehaviour is the point; workers and tests build it alike."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import re
import time
from pathlib import Path
from typing import Any

from dispatcher import Dispatcher


class Effects:
    """A file to which any number of processes append one JSON object a line, whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def note(self, event: str, request: Any, **more: Any) -> None:
        """Append a line; it is there even if this process is killed right after."""
        line = {"event": event, "id": request.id, "task": request.task, "retries": request.retries, **more}
        line.update(at=time.time(), pid=os.getpid())
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, (json.dumps(line) + "\n").encode())
        finally:
            os.close(descriptor)

    def read(self, event: str | None = None, task_id: str | None = None) -> list[dict[str, Any]]:
        """Return the lines, in the order they were written."""
        lines = map(json.loads, self.path.read_text().splitlines())
        return [line for line in lines if event in (None, line["event"]) and (task_id is None or line["id"] == task_id)]


def make_app(broker: str, effects: Effects, **settings: Any) -> Dispatcher:
    """Return the app on a broker; its results are on the same server or in the same file unless told otherwise."""
    app = Dispatcher("faulty", broker=broker, set_as_current=False, **settings)
    _add_well_behaved(app, effects)
    _add_stubborn(app, effects)
    _add_deadly(app, effects)
    return app


def _add_well_behaved(app: Dispatcher, effects: Effects) -> None:
    @app.task(name="work", bind=True)
    def work(self: Any, value: Any, seconds: float = 0.0) -> Any:
        """Take some time in a call that blocks."""
        effects.note("start", self.request)
        time.sleep(seconds)
        effects.note("end", self.request)
        return value

    @app.task(name="nap", bind=True)
    async def nap(self: Any, value: Any, seconds: float = 0.0) -> Any:
        """Take some time in the event loop."""
        effects.note("start", self.request)
        await asyncio.sleep(seconds)
        effects.note("end", self.request)
        return value

    @app.task(name="flaky", bind=True, max_retries=5)
    def flaky(self: Any, value: Any, failures: int = 1) -> Any:
        """Succeed after so many retries."""
        effects.note("start", self.request)
        if self.request.retries < failures:
            raise self.retry(countdown=0.05)
        effects.note("end", self.request)
        return value

    @app.task(name="failing", bind=True)
    def failing(self: Any, value: Any) -> Any:
        """Fail for good."""
        effects.note("start", self.request)
        raise ValueError(f"no {value}")

    @app.task(name="follow", bind=True)
    def follow(self: Any, value: Any) -> Any:
        """Follow another task."""
        effects.note("start", self.request, parent=self.request.parent_id)
        effects.note("end", self.request)
        return value

    @app.task(name="early", bind=True, acks_late=False, max_retries=2)
    def early(self: Any, value: Any, seconds: float = 0.0, failures: int = 0) -> Any:
        """Run once at most, unless it asks for another run."""
        effects.note("start", self.request)
        time.sleep(seconds)
        if self.request.retries < failures:
            raise self.retry(countdown=0.05)
        effects.note("end", self.request)
        return value


def _add_stubborn(app: Dispatcher, effects: Effects) -> None:
    @app.task(name="hold_gil", bind=True)
    def hold_gil(self: Any, seconds: float) -> float:
        """Keep every other thread of the process from running for a while."""
        effects.note("start", self.request)
        ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))
        effects.note("end", self.request)
        return seconds

    @app.task(name="regex", bind=True)
    def regex(self: Any) -> bool:
        """Match for ever; the match neither lets go of the GIL nor looks at signals."""
        effects.note("start", self.request)
        return re.match(r"(a|aa)+$", "a" * 200 + "b") is not None

    @app.task(name="deaf", bind=True)
    def deaf(self: Any) -> None:
        """Swallow whatever is raised, for ever."""
        effects.note("start", self.request)
        while True:
            try:
                time.sleep(10.0)
            except BaseException as error:  # noqa: BLE001 - being deaf is what it is for
                effects.note("swallowed", self.request, error=type(error).__name__)

    @app.task(name="hard_of_hearing", bind=True)
    def hard_of_hearing(self: Any, seconds: float) -> str:
        """Swallow what is raised once, and return."""
        effects.note("start", self.request)
        try:
            time.sleep(seconds)
        except BaseException as error:  # noqa: BLE001 - as above
            effects.note("swallowed", self.request, error=type(error).__name__)
        return "done"

    @app.task(name="blocking_coroutine", bind=True)
    async def blocking_coroutine(self: Any, seconds: float) -> str:
        """Block the event loop."""
        effects.note("start", self.request)
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            sum(range(1000))
        return "done"


def _add_deadly(app: Dispatcher, effects: Effects) -> None:
    @app.task(name="leave", bind=True)
    def leave(self: Any, code: int = 0) -> None:
        """End the process without a word."""
        effects.note("start", self.request)
        os._exit(code)

    @app.task(name="leave_a_child", bind=True)
    def leave_a_child(self: Any) -> None:
        """Fork a process that goes on, and end."""
        if os.fork() == 0:
            time.sleep(60.0)
            os._exit(0)
        effects.note("start", self.request)
        os._exit(1)

    @app.task(name="crash", bind=True)
    def crash(self: Any) -> None:
        """Read address 0."""
        effects.note("start", self.request)
        ctypes.string_at(0)
