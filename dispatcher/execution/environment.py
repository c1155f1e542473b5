"""What the steps of a run share: the app's side, the transport's side, and the limits of the place they run in."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from dispatcher.backends.base import ResultBackend, TaskRecord
from dispatcher.backends.meta import ResultMeta
from dispatcher.brokers.base import Delivery, Settlement, Together
from dispatcher.canvas.plan import Opening, Step
from dispatcher.clock import SYSTEM, Clock
from dispatcher.execution.heartbeat import Heartbeat
from dispatcher.execution.limits import LimitKeeper, NoLimits
from dispatcher.execution.watch import Watch
from dispatcher.message import Message
from dispatcher.rates import Rate
from dispatcher.task import Task

if TYPE_CHECKING:
    from dispatcher.outbox import Outbox


class ExecutorApp(Protocol):
    """What the executor needs of an app."""

    @property
    def conf(self) -> Any:
        """The configuration."""
        ...

    @property
    def tasks(self) -> Mapping[str, Task[Any, Any]]:
        """The registered tasks, by name: the only names a message can call."""
        ...

    @property
    def read_message(self) -> Callable[[Delivery], Message]:
        """Verifies and decodes a body, arguments included.

        Raises `SecurityError`, `DecodeError`.
        """
        ...

    def load_arguments(self, message: Message) -> Message:
        """Fetch the arguments that a payload store keeps.

        Raises `DecodeError`, and `OperationalError` where the store cannot be reached.
        """
        ...

    def write_meta(self, meta: ResultMeta, backend: ResultBackend, what: str, task_id: str) -> str:
        """Encode a record's data, or store them where they are too large for it; ``what`` names them for people,
        ``task_id`` is whose record it is.

        Raises `EncodeError`, `MessageTooLarge`, and `OperationalError` where the payload store cannot be reached.
        """
        ...

    def write_result(self, value: Any, rest: str, backend: ResultBackend) -> str | None:
        """Encode a record's data of a result in JSON and the ``rest``, encoded; `None` where it takes `write_meta`."""
        ...

    def read_meta(self, record: TaskRecord) -> ResultMeta:
        """Decode a record's data."""
        ...

    def outbox(self) -> Outbox:
        """Return a new outbox, for what runs send together, retrying as configured."""
        ...

    def publish(self, message: Message, queue: str, delay: float, outbox: Outbox) -> None:
        """Put a message that is complete, to a queue, into an outbox."""
        ...

    def send_linked(
        self, sig: Mapping[str, Any], args: Sequence[Any], parent: Message, task_id: str, outbox: Outbox
    ) -> None:
        """Put a continuation of a finished task into an outbox, under a derived id."""
        ...

    def launch(self, planned: Iterable[Step | Opening], parent: Message, outbox: Outbox) -> None:
        """Open the joins of a planned canvas, put its first messages into an outbox; they descend from ``parent``."""
        ...

    def sealed_body(self, message: Message, queue: str) -> str:
        """Return the signed wire form of a message for a queue."""
        ...


class Transport(Protocol):
    """What the executor needs of the broker side."""

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Carry out settlements."""
        ...

    def together(self, backend: ResultBackend) -> Together | None:
        """Return what runs a function in one transaction of the backend and what settles, `None` where none can."""
        ...

    def removals(self, deliveries: Sequence[Delivery], backend: ResultBackend) -> Sequence[Any]:
        """Return what writes of the backend may acknowledge deliveries by, nothing where they cannot."""
        ...

    @property
    def lease(self) -> float | None:
        """How long a delivery is held without being extended, in seconds; `None` where the place's own end counts."""
        ...

    @property
    def doubles(self) -> bool:
        """Whether one message can be with two workers at a time, so that settling it for one settles it for both."""
        ...

    def longest_release(self, delivery: Delivery) -> float | None:
        """Return the longest delay this delivery can be released with, in seconds; `None` for any."""
        ...

    def retention_of(self, delivery: Delivery) -> float | None:
        """Return how long the delivery's queue keeps a message, in seconds; `None` for ever."""
        ...

    def budget_spent(self, delivery: Delivery) -> float:
        """Return the share of its transport budget that a message has used up; at 1 the queue gives it up."""
        ...


class WorkerRates(Protocol):
    """The rate limits of one local worker."""

    def take(self, name: str, rate: Rate, count: int) -> list[float]:
        """Return for each of ``count`` runs of a task in how many seconds it is worth asking again, 0 to start now."""
        ...


@dataclasses.dataclass(slots=True)
class Environment:
    """The surroundings of a run.

    Where the place that runs are in ends at some time, ``time_left`` returns the seconds until runs must have ended:
    what cleaning up and settling need is taken off already.
    """

    app: ExecutorApp
    backend: ResultBackend
    transport: Transport
    limits: LimitKeeper = dataclasses.field(default_factory=NoLimits)
    clock: Clock = SYSTEM
    hostname: str = ""
    time_left: Callable[[], float] | None = None
    eager: bool = False
    #: what keeps rate limits of the scope "worker"; `None` where there is no local worker
    worker_rates: WorkerRates | None = None
    #: whether results are kept, so that they must be data
    keeps_results: bool = True
    random: random.Random = dataclasses.field(default_factory=random.Random)
    #: how long runs of each task take on average, in seconds
    durations: dict[str, float] = dataclasses.field(default_factory=dict)
    #: who is told how far the runs of a batch are
    watch: Watch | None = None
    #: the tasks whose unkept hard limit was spoken of
    warned: set[str] = dataclasses.field(default_factory=set)
    #: keeps the leases of unique tasks, where the place that runs are in does not end by itself
    heartbeat: Heartbeat = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        # One from the start: threads that run tasks of one environment could make several.
        self.heartbeat = Heartbeat(self.backend, self.clock)

    def note_duration(self, name: str, seconds: float) -> None:
        """Remember how long a run took, as a moving average that trusts slow runs quickly."""
        known = self.durations.get(name, seconds)
        self.durations[name] = known + (0.5 if seconds > known else 0.1) * (seconds - known)

    def backoff(self, receive_count: int) -> float:
        """Return how long a delivery rests after trouble that is not its own: 1 s doubling to 60 s, with jitter."""
        ceiling: float = min(60.0, 2.0 ** min(receive_count, 6))
        return self.random.uniform(ceiling / 2, ceiling)
