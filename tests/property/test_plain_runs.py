"""A message that says only what to call takes a shorter way through the executor, and ends as it would by the long one.

A header that nobody heeds makes the difference: with it, the executor looks at all there is. Everything else of a batch
is drawn: what the tasks do, whether results are kept, arguments that do not fit, messages that come twice or not for
the first time, limits, and who listens.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher import Dispatcher, Task, signals
from dispatcher.brokers.base import Outgoing, Settlement
from dispatcher.clock import ManualClock
from dispatcher.consumer.loop import BrokerTransport
from dispatcher.exceptions import Ignore, Reject
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from dispatcher.execution.limits import ThreadLimits
from dispatcher.execution.run import Run
from dispatcher.message import Message, encode

_numbers = itertools.count()

BEHAVIOURS = ("nothing", "value", "fails", "retries", "ignores", "rejects", "asks", "state")
#: Options of tasks: lean, with results, and each that makes a step of its own.
KINDS: dict[str, dict[str, Any]] = {
    "lean": {"ignore_result": True, "revocable": False},
    "kept": {},
    "limited": {"ignore_result": True, "revocable": False, "soft_time_limit": 60},
    "shown": {"track_started": True},
    "once": {"acks_late": False, "ignore_result": True, "revocable": False},
    "unique": {"unique": True, "unique_scope": "running"},
}
calls = st.lists(
    st.fixed_dictionaries({
        "kind": st.sampled_from(sorted(KINDS)),
        "does": st.sampled_from(BEHAVIOURS),
        "extra": st.sampled_from([(), (), (), (1, 2, 3)]),
        "id": st.integers(0, 5),
        "received": st.sampled_from([1, 1, 1, 2, 3]),
    }),
    min_size=1, max_size=6,
)  # fmt: skip


class Noted:
    """What user code and a watch see of a batch."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def started(self, run: Run) -> None:
        """Note a start."""
        self.seen.append(("started", run.id))

    def ended(self, run: Run) -> bool:
        """Note an end."""
        self.seen.append(("ended", run.id, run.outcome.kind if run.outcome is not None else None))
        return True

    def entered(self, run: Run) -> None:
        """Note nothing: no task here is a coroutine."""

    def left(self) -> None:
        """Note nothing."""

    def heard(self, sender: Any, task_id: str, **_: Any) -> None:
        """Note a signal."""
        self.seen.append(("heard", sender.name, task_id))


class Settled(BrokerTransport):
    """Notes what becomes of deliveries."""

    def __init__(self, app: Dispatcher, noted: Noted) -> None:
        super().__init__(app.broker)
        self._noted = noted

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Note, and settle."""
        self._noted.seen += [(each.action, each.delay, each.reason and each.reason["reason"]) for each in settlements]
        super().settle(settlements)


def _app(noted: Noted) -> Dispatcher:
    url = f"memory://plain-{next(_numbers)}"
    app = Dispatcher("plain", broker=url, backend=url, clock=ManualClock(), set_as_current=False)

    def work(self: Task, does: str) -> Any:
        noted.seen.append(("ran", self.name, does))
        if does == "value":
            return {"of": does}
        if does == "asks":
            request = self.request
            noted.seen.append((request.id, request.retries, request.args, request.delivery_info, request.hostname))
        elif does == "state":
            self.update_state(state="HALF", meta=0.5)
        elif does == "fails":
            raise KeyError(does)
        elif does == "retries":
            self.retry(countdown=7, exc=ValueError(does))
        elif does == "ignores":
            raise Ignore
        elif does == "rejects":
            raise Reject("no")
        return None

    for name, options in KINDS.items():
        app.task(work, name=f"plain.{name}", bind=True, **options)
    app.finalize()
    return app


def _story(batch: Sequence[dict[str, Any]], *, header: bool, listened: bool) -> tuple[list[Any], list[Any]]:
    """Run a batch; return all that could be seen of it, and the records that it leaves."""
    noted = Noted()
    app = _app(noted)
    for call in batch:
        fields = {"id": f"id-{call['id']}", "task": f"plain.{call['kind']}", "args": (call["does"], *call["extra"])}
        if header:
            fields["headers"] = {"nobody": "heeds this"}
        app.broker.send([_outgoing(app, Message.make(fields))])
    deliveries = app.broker.receive([app.conf.task_default_queue], len(batch), 0)
    for delivery, call in zip(deliveries, batch, strict=True):
        delivery.receive_count = call["received"]
    env = Environment(
        app=app, backend=app.backend, transport=Settled(app, noted), limits=ThreadLimits(), clock=app.clock,
        hostname="here", watch=noted, time_left=lambda: 1000.0,
    )  # fmt: skip
    env.random.seed(7)
    executor = Executor(env, flush_after=1e9)
    for kind in KINDS:
        env.note_duration(f"plain.{kind}", 0.0)
    if listened:
        signals.task_prerun.connect(noted.heard)
        signals.task_postrun.connect(noted.heard)
    try:
        executor.process(deliveries)
    finally:
        signals.task_prerun.disconnect(noted.heard)
        signals.task_postrun.disconnect(noted.heard)
        executor.close()
    ids = sorted({f"id-{call['id']}" for call in batch})
    found = app.backend.read(ids)
    known = [record for task_id in ids if (record := found.get(task_id)) is not None]
    records = [
        (each.id, each.status, each.retries, each.final, each.starts, each.not_before, each.data) for each in known
    ]
    return noted.seen, records


def _outgoing(app: Dispatcher, message: Message) -> Outgoing:
    return Outgoing(app.conf.task_default_queue, encode(message), message.id)


@settings(max_examples=100, deadline=None)
@given(calls, st.booleans())
def test_bare_messages_end_as_others_do(batch: list[dict[str, Any]], listened: bool) -> None:
    """Runs, notes, signals, settlements and records are the same whether or not a message is bare."""
    assert _story(batch, header=False, listened=listened) == _story(batch, header=True, listened=listened)
