"""A workbench for tests of the core: an app on memory adapters, a clock that is moved by hand, an executor."""

import uuid
from collections.abc import Sequence
from typing import Any

from dispatcher import Dispatcher, state
from dispatcher.brokers.base import Delivery
from dispatcher.clock import Clock, ManualClock
from dispatcher.consumer.loop import BrokerTransport
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from dispatcher.execution.run import Run

#: Longer than anything a test waits for, in seconds.
FOR_EVER = 366 * 86400.0


class Bench:
    """An app with its broker and backend; `work` runs what is due, moving the clock from one message to the next."""

    def __init__(self, clock: Clock | None = None, **settings: Any) -> None:
        self.clock: Any = clock or ManualClock()
        url = f"memory://{uuid.uuid4()}"
        settings = {"broker": url, "backend": url, "task_publish_retry": False, **settings}
        self.app = Dispatcher("bench", clock=self.clock, **settings)
        self.queue = "celery"

    def executor(self, **environment: Any) -> Executor:
        """Return an executor for the app; keywords replace parts of its environment."""
        self.app.finalize()
        if self.queue == "celery":
            self.queue = self.app.conf.task_default_queue
        given = {
            "app": self.app, "backend": self.app.backend, "transport": BrokerTransport(self.app.broker),
            "clock": self.clock, "hostname": "bench", **environment,
        }  # fmt: skip
        return Executor(Environment(**given))

    def receive(self, queues: Sequence[str] = (), limit: int = 10, wait: float = 0.0) -> list[Delivery]:
        """Lease messages of the default queue, or of others."""
        self.app.finalize()
        return self.app.broker.receive(queues or [self.app.conf.task_default_queue], limit, wait)

    def step(self, queues: Sequence[str] = (), **environment: Any) -> list[Run]:
        """Run what is due now, once."""
        executor = self.executor(**environment)
        try:
            return executor.process(self.receive(queues))
        finally:
            executor.close()

    def work(self, *queues: str, limit: int = 200, **environment: Any) -> list[Run]:
        """Run until the queues are empty; the clock moves to whatever is due next. Fails after ``limit`` runs."""
        executor = self.executor(**environment)
        names = list(queues) or [self.app.conf.task_default_queue]
        runs: list[Run] = []
        try:
            while any(self.left(name) for name in names):
                runs += executor.process(self.app.broker.receive(names, 10, FOR_EVER))
                assert len(runs) < limit, f"still not done after {limit} runs: {runs[-3:]}"
        finally:
            executor.close()
        return runs

    def left(self, queue: str = "") -> int:
        """Count the messages that are not settled."""
        counts = self.app.broker.counts(queue or self.app.conf.task_default_queue)
        return counts.ready + counts.delayed + counts.in_flight

    def dead(self, queue: str = "") -> list[Any]:
        """Return the dead letters."""
        return self.app.broker.dead_letters(queue or self.app.conf.task_default_queue)

    def record(self, task_id: str) -> Any:
        """Return a task's record, `None` without one."""
        return self.app.backend.read([task_id]).get(task_id)

    def result(self, task_id: str) -> Any:
        """Return a handle on a task."""
        return self.app.AsyncResult(task_id)


class Globals:
    """Hides the apps and shared tasks of the process, and removes what the block adds."""

    def __enter__(self) -> None:
        self._app, self._finalizers = state._current_app, list(state._on_app_finalizers)
        state._on_app_finalizers.clear()

    def __exit__(self, *exc_info: object) -> None:
        state.set_current_app(self._app)
        state._on_app_finalizers[:] = self._finalizers
