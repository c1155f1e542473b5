"""What the tests of the local worker share: an app in memory, whose broker and backend can be told to misbehave."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from dispatcher import Dispatcher
from dispatcher.backends.base import TaskRecord, Write
from dispatcher.backends.memory import MemoryBackend
from dispatcher.brokers.base import Delivery, Settlement
from dispatcher.brokers.memory import MemoryBroker
from dispatcher.clock import SYSTEM, Clock
from dispatcher.consumer.loop import ConsumerLoop
from dispatcher.execution.limits import NoLimits

PATIENCE = 30.0


class FaultyBroker(MemoryBroker):
    """A broker that raises what ``failures`` holds for an operation, once each, before it does anything."""

    def __init__(self, lease: float = 60.0, clock: Clock = SYSTEM) -> None:
        super().__init__(f"memory://{uuid.uuid4().hex}", {"visibility_timeout": lease}, clock)
        self.failures: dict[str, list[BaseException]] = {}
        self.settled: list[Settlement] = []
        self.poll_wait = 0.02

    def _fail(self, operation: str) -> None:
        waiting = self.failures.get(operation)
        if waiting:
            raise waiting.pop(0)

    def receive(self, queues: Sequence[str], limit: int, wait: float = 0.0) -> list[Delivery]:
        """Receive, or fail."""
        self._fail("receive")
        return super().receive(queues, limit, wait)

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Settle, or fail; remember what was settled."""
        self._fail("settle")
        self.settled += settlements
        super().settle(settlements)

    def extend(self, deliveries: Sequence[Delivery], seconds: float) -> None:
        """Extend, or fail."""
        self._fail("extend")
        super().extend(deliveries, seconds)


class FaultyBackend(MemoryBackend):
    """A backend that raises what ``failures`` holds for an operation, or calls ``before_read`` before it reads."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        super().__init__(f"memory://{uuid.uuid4().hex}", {}, clock)
        self.failures: dict[str, list[BaseException]] = {}
        self.before_read: Callable[[], None] | None = None

    def _read(self, ids: Sequence[str]) -> dict[str, TaskRecord]:
        if self.failures.get("read"):
            raise self.failures["read"].pop(0)
        if self.before_read is not None:
            self.before_read()
        return super()._read(ids)

    def _write(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        if self.failures.get("write"):
            raise self.failures["write"].pop(0)
        return super()._write(writes)


def memory_app(lease: float = 60.0, clock: Clock = SYSTEM, **settings: Any) -> Dispatcher:
    """Return an app of its own on a `FaultyBroker` and a `FaultyBackend`."""
    app = Dispatcher(f"app-{uuid.uuid4().hex}", broker="memory://", set_as_current=False, clock=clock, **settings)
    app._broker, app._backend = FaultyBroker(lease, clock), FaultyBackend(clock)
    return app


def make_loop(app: Dispatcher, limits: Any = None, **options: Any) -> ConsumerLoop:
    """Return a consumer loop for the default queue."""
    app.finalize()
    return ConsumerLoop(app, ["default"], limits or NoLimits(), hostname="here", **options)


def until(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """Return a condition's first true value."""
    limit = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < limit, f"it never happened: {what}"
        time.sleep(0.005)
    return found


class Background:
    """Runs something in a thread, and hands over what it returned or raised."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self.value: Any = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.value = self._function()
        except BaseException as error:  # noqa: BLE001 - it is for the test to judge
            self.error = error

    @property
    def running(self) -> bool:
        """Whether it is still at it."""
        return self._thread.is_alive()

    def result(self) -> Any:
        """Wait for its end; return or raise what it did."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "it did not end"
        if self.error is not None:
            raise self.error
        return self.value


class Scene:
    """An app in memory, what holds its tasks back, and what a test runs in threads, which ends with it."""

    def __init__(self) -> None:
        self.app = memory_app()
        self.go = threading.Event()
        self._running: list[tuple[Any, Background]] = []

    @property
    def broker(self) -> FaultyBroker:
        """The app's broker."""
        assert isinstance(self.app.broker, FaultyBroker)
        return self.app.broker

    @property
    def backend(self) -> FaultyBackend:
        """The app's backend."""
        assert isinstance(self.app.backend, FaultyBackend)
        return self.app.backend

    def run(self, consumer: Any) -> tuple[Any, Background]:
        """Run a loop or a pool in a thread."""
        background = Background(consumer.run)
        self._running.append((consumer, background))
        return consumer, background

    def close(self) -> None:
        """Let all tasks go, and end what runs."""
        self.go.set()
        for consumer, background in self._running:
            consumer.stop()
            background._thread.join(PATIENCE)
