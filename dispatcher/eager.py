"""Eager mode: a call runs in this process, through the executor, without broker or worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dispatcher import states
from dispatcher.backends.base import ResultBackend
from dispatcher.backends.memory import MemoryBackend
from dispatcher.brokers.base import Delivery, Settlement
from dispatcher.canvas.signature import maybe_signature
from dispatcher.clock import Clock
from dispatcher.exceptions import OperationalError
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from dispatcher.execution.limits import borrowed_limits
from dispatcher.execution.run import Kind, Outcome, Run
from dispatcher.message import Message, encode
from dispatcher.result import EagerResult
from dispatcher.sending import Sender
from dispatcher.task import Task

if TYPE_CHECKING:
    from dispatcher.outbox import Outbox

_TIMES = ("countdown", "eta", "expires")
_IGNORED_OPTIONS = (*_TIMES, "throw")
#: How often in a row the result backend may fail before that is the caller's to know.
_MAX_TROUBLES = 3
_STATES = {
    Kind.SUCCESS: states.SUCCESS,
    Kind.FAILURE: states.FAILURE,
    Kind.UNREADABLE: states.FAILURE,
    Kind.REJECTED: states.REJECTED,
    Kind.IGNORED: states.IGNORED,
    Kind.REVOKED: states.REVOKED,
}


class EagerClock:
    """The app's clock, ahead by the delays that eager mode does not wait for."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead = 0.0
        self.monotonic = clock.monotonic

    def time(self) -> float:
        """Return the pretended time."""
        return self._clock.time() + self._ahead

    def sleep(self, seconds: float) -> None:
        """Skip this much time."""
        self._ahead += max(0.0, seconds)


class EagerTransport:
    """Keeps what the executor settled, for the loop below."""

    def __init__(self) -> None:
        self.settled: Settlement | None = None

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Remember the settlement."""
        for settlement in settlements:
            self.settled = settlement

    def together(self, backend: ResultBackend) -> None:
        """There is nothing to settle."""

    def removals(self, deliveries: Sequence[Delivery], backend: ResultBackend) -> Sequence[Any]:
        """There is nothing to remove."""
        return ()

    @property
    def lease(self) -> float | None:
        """Nobody else asks for the message."""
        return None

    @property
    def doubles(self) -> bool:
        """There is one delivery."""
        return False

    def longest_release(self, delivery: Delivery) -> float | None:
        """Any delay will do: none is waited for."""
        return None

    def retention_of(self, delivery: Delivery) -> float | None:
        """There is no queue to drop a message."""
        return None

    def budget_spent(self, delivery: Delivery) -> float:
        """Nothing is used up: there is no queue."""
        return 0.0


class EagerApp:
    """The app as the executor sees it in eager mode: what a task sends on runs here too."""

    def __init__(self, app: Any, task: Task[Any, Any]) -> None:
        self._app = app
        self.conf = app.conf
        self.tasks = {**app.tasks.built_in, **app.tasks, task.name: task}
        #: the message to run, where its arguments do not go over the wire form
        self.message: Message | None = None
        self._published: Message | None = None
        #: the results of callbacks
        self.linked: list[Any] = []

    def read_message(self, delivery: Delivery) -> Message:
        """Decode a body as the app does; it was never out of this process, so it carries no signature."""
        from dispatcher.message import decode

        if self.message is not None:
            return self.message
        message = decode(delivery.body, self.conf.max_message_bytes)
        return message.with_arguments(frozenset({"json", "msgpack", "yaml", "pickle"}), self.conf.max_message_bytes)

    def load_arguments(self, message: Message) -> Message:
        """Return the message as it is: what never left this process has its arguments."""
        return message

    def write_meta(self, meta: Any, backend: ResultBackend, what: str, task_id: str) -> str:
        """Encode a record's data."""
        data: str = self._app.write_meta(meta, backend, what, task_id)
        return data

    def write_result(self, value: Any, rest: str, backend: ResultBackend) -> str | None:
        """Encode a record's data of a result."""
        data: str | None = self._app.write_result(value, rest, backend)
        return data

    def read_meta(self, record: Any) -> Any:
        """Decode a record."""
        return self._app.read_meta(record)

    def outbox(self) -> Outbox:
        """Return an outbox that stays empty: what follows runs at once."""
        outbox: Outbox = self._app.outbox()
        return outbox

    def publish(self, message: Message, queue: str, delay: float, outbox: Outbox) -> None:
        """Keep the next generation of the message, to be run next."""
        self._published = message

    def next_generation(self) -> Message | None:
        """Return what was published since the last call."""
        published, self._published = self._published, None
        return published

    def launch(self, planned: Any, parent: Message, outbox: Outbox) -> None:
        """Do nothing: in eager mode a canvas is run step by step by whoever called it."""

    def sealed_body(self, message: Message, queue: str) -> str:
        """Return the wire form."""
        return encode(message)

    def send_linked(
        self, sig: Mapping[str, Any], args: Sequence[Any], parent: Message, task_id: str, outbox: Outbox
    ) -> None:
        """Run a continuation at once."""
        linked = maybe_signature(sig, self._app)
        derived = {"task_id": task_id, "parent_id": parent.id, "root_id": parent.effective_root_id}
        linked.set(**{**derived, **linked["options"]})
        self.linked.append(linked.apply(args))


def run_eagerly(
    app: Any,
    sender: Sender,
    task: Task[Any, Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
    by_value: bool = False,
    chord: Mapping[str, Any] | None = None,
) -> EagerResult[Any]:
    """Run a call to its final state, retries included and without waiting for them; ``chord`` is its place in a group.

    As in Celery, `Task.apply` hands the arguments over as they are; ``by_value``, for ``task_always_eager``, sends them
    through the wire form, so that what could not be sent fails here too.
    The error is raised with ``throw=True`` or ``task_eager_propagates``. ``countdown``, ``eta`` and ``expires`` do not
    apply; soft limits do, hard ones only to coroutines.
    """
    throw = options.get("throw")
    if any(options.get(name) is not None for name in _TIMES):
        sender.check_options({name: options.get(name) for name in _TIMES})  # what could not be sent fails here too
    call = sender.build(
        task.name, args, kwargs, {name: value for name, value in options.items() if name not in _IGNORED_OPTIONS}, task
    )
    message = call.message.replace(expires=None, eta=None, chord=chord)
    clock, transport, eager_app = EagerClock(app.clock), EagerTransport(), EagerApp(app, task)
    stored = app.conf.task_store_eager_result and not task.ignore_result
    backend: ResultBackend = app.backend if stored else MemoryBackend("memory://", {}, clock, own=True)
    env = Environment(
        app=eager_app, backend=backend, transport=transport, limits=borrowed_limits(), clock=clock, hostname="eager",
        eager=True, keeps_results=stored,
    )  # fmt: skip
    executor = Executor(env)
    if not by_value:
        eager_app.message = message
    body = encode(message) if by_value else ""
    delivery = Delivery(queue=call.queue, body=body, receipt=None, message_id=message.id)
    try:
        run = _run_to_the_end(executor, clock, transport, eager_app, delivery)
    finally:
        executor.close()
        if not stored:
            backend.close()
    result = _result(app, task, run, app.conf.task_eager_propagates if throw is None else throw)
    if result.successful():
        result._offspring += eager_app.linked
    return result


def _run_to_the_end(
    executor: Executor, clock: EagerClock, transport: EagerTransport, eager_app: EagerApp, delivery: Delivery
) -> Run:
    troubles = 0
    while True:
        [run] = executor.process([delivery])
        following = eager_app.next_generation()
        if following is not None and run.sent_on:
            if eager_app.message is not None:
                eager_app.message, body = following, ""
            else:
                body = encode(following)
            delivery = Delivery(queue=delivery.queue, body=body, receipt=None, message_id=delivery.message_id)
            clock.sleep(max(0.0, (following.eta or 0.0) - clock.time()))
            continue
        settled = transport.settled
        requeued = run.outcome is not None and run.outcome.kind is Kind.REJECTED
        if settled is None or settled.action != "release" or requeued:
            return run
        troubles = troubles + 1 if run.outcome is not None and run.outcome.kind is Kind.HANDED_BACK else 0
        if troubles > _MAX_TROUBLES:
            raise OperationalError(f"{run.id} ran, but its outcome cannot be recorded: see the log for the reason")
        clock.sleep(settled.delay)
        delivery.receive_count += 1


def _result(app: Any, task: Task[Any, Any], run: Run, throw: bool) -> EagerResult[Any]:
    outcome = run.outcome or Outcome(Kind.IGNORED)
    status = _STATES.get(outcome.kind, states.SUCCESS)
    error = outcome.raised or outcome.error  # the caller's own, whatever is sensitive in it
    value = error if error is not None else outcome.value
    if outcome.kind is Kind.IGNORED:
        status, value = run.state_written if run.state_written is not None else (states.IGNORED, None)
    if throw and error is not None and outcome.kind in (Kind.FAILURE, Kind.UNREADABLE, Kind.REJECTED):
        raise error
    result: EagerResult[Any] = EagerResult(run.id, value, status, outcome.traceback, task.name)
    result._app, result._added = app, run.added if status == states.SUCCESS else None
    if run.context is not None:
        known = run.context.__dict__
        result._behind, result._offspring = known.get("_behind", []), list(known.get("children", ()))
    result._read()[1].date_done = round(app.clock.time(), 3)
    return result
