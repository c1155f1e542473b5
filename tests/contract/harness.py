"""What the contract suites need to know of an adapter: how to open it anywhere, and what its store promises."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from dispatcher.backends.base import ResultBackend
from dispatcher.brokers.base import Broker, Delivery, Outgoing
from dispatcher.clock import SYSTEM, Clock, ManualClock

Adapter = TypeVar("Adapter", Broker, ResultBackend)
Found = TypeVar("Found")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How any process opens an adapter on the same store; it can be pickled.

    ``adapter`` is ``module:Class``, constructed as ``Class(url, options, clock)``.
    """

    adapter: str
    url: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def open(self, clock: Clock = SYSTEM, **options: Any) -> Any:
        """Construct the adapter; keywords add to its options."""
        module, _, name = self.adapter.partition(":")
        return getattr(importlib.import_module(module), name)(self.url, {**self.options, **options}, clock)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One adapter under contract and what its store promises beyond the port."""

    recipe: Recipe
    #: the store takes its time from the injected clock alone, so a test may move it
    manual_clock: bool = False
    #: messages of one priority come out in the order they went in
    ordered: bool = True
    #: `Broker.counts` is exact as soon as a call has returned
    exact_counts: bool = True
    #: how much too early the store may be, in seconds
    tolerance: float = 0.01
    #: the shortest lease the store can give, in seconds
    shortest_lease: float = 1.0
    #: the name of a queue is its prefix and a number; some stores restrict the characters
    queue_prefix: str = "contract"
    #: prepares a queue, where a send does not create it
    prepare_queue: Callable[[str], None] = lambda queue: None


class Harness(Generic[Adapter]):
    """Adapters of one store, their clock, and waiting by that clock."""

    def __init__(self, kind: Kind, clock: Clock | None = None) -> None:
        self.kind = kind
        self.recipe = kind.recipe
        self.clock: Clock = clock or (ManualClock() if kind.manual_clock else SYSTEM)
        self._opened: list[Adapter] = []
        self._run = uuid.uuid4().hex[:8]
        self._names = itertools.count(1)

    def open(self, **options: Any) -> Adapter:
        """Open one more adapter on the store; it is closed after the test."""
        adapter: Adapter = self.recipe.open(self.clock, **options)
        self._opened.append(adapter)
        return adapter

    def close(self) -> None:
        """Close every adapter that was opened."""
        for adapter in self._opened:
            adapter.close()

    def queue(self) -> str:
        """Name a queue of its own for this test and prepare it."""
        name = f"{self.kind.queue_prefix}-{self._run}-{next(self._names)}"
        self.kind.prepare_queue(name)
        return name

    def task_id(self) -> str:
        """Make an id."""
        return str(uuid.uuid4())

    def eventually(self, look: Callable[[], Found], within: float = 15.0) -> Found:
        """Look until something truthy is found; fail after ``within`` seconds of the harness's clock."""
        deadline = self.clock.monotonic() + within
        while True:
            found = look()
            if found:
                return found
            assert self.clock.monotonic() < deadline, f"nothing found within {within} s"
            self.clock.sleep(0.02)

    def take(self, broker: Broker, queue: str, count: int = 1, within: float = 15.0) -> list[Delivery]:
        """Receive until ``count`` messages have come."""
        taken: list[Delivery] = []

        def receive() -> bool:
            taken.extend(broker.receive([queue], count - len(taken)))
            return len(taken) >= count

        self.eventually(receive, within)
        return taken

    def take_one(self, broker: Broker, queue: str, within: float = 15.0) -> Delivery:
        """Receive until a message has come."""
        return self.take(broker, queue, 1, within)[0]

    def outgoing(self, queue: str, body: str = "{}", **fields: Any) -> Outgoing:
        """Make a message for a queue."""
        return Outgoing(queue, body, self.task_id(), **fields)
