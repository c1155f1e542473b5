"""One program of every way to ask for another run, or to refuse one: it does the same on every broker and backend."""

import dataclasses
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher import Dispatcher
from dispatcher.clock import SYSTEM, Clock, ManualClock
from dispatcher.consumer.loop import BrokerTransport
from dispatcher.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from tests.emulation.redis_server import RedisServer
from tests.fault.simulated_aws import SimulatedAws


@dataclasses.dataclass
class Place:
    """An app on one pair of broker and backend; ``delay`` is what its tasks wait before a retry, in seconds."""

    app: Dispatcher
    work: Callable[[], None]
    reasons: Callable[[], dict[str, list[str]]]
    delay: float
    #: what each task saw, by its id
    seen: dict[str, list[Any]] = dataclasses.field(default_factory=lambda: defaultdict(list))


def _local(app: Dispatcher, clock: Clock, delay: float) -> Place:
    queue = "default"

    def work() -> None:
        executor = Executor(Environment(app, app.backend, BrokerTransport(app.broker), clock=clock, hostname="here"))
        for _ in range(10_000):
            if not any(app.broker.counts(queue)[:3]):
                executor.close()
                return
            executor.process(app.broker.receive([queue], 10, 60.0 if isinstance(clock, ManualClock) else 0.2))
        raise AssertionError("not done")

    def reasons() -> dict[str, list[str]]:
        found = defaultdict(list)
        for letter in app.broker.dead_letters(queue):
            found[letter.reason["task_id"]].append(letter.reason["reason"])
        return found

    return Place(app, work, reasons, delay)


@pytest.fixture(params=["memory", "sqlite", "redis", "sqs"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Each pair of broker and backend in turn."""
    if request.param == "sqs":
        aws = SimulatedAws(result_expires=None)

        def reasons() -> dict[str, list[str]]:
            found = defaultdict(list)
            for letter in aws.dead:
                texts = {name: value["StringValue"] for name, value in letter.message_attributes.items()}
                found[texts["task_id"]].append(texts["reason"])
            return found

        yield Place(aws.app, aws.work, reasons, 5.0)
        aws.close()
        return
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        options = {"global_keyprefix": f"{uuid.uuid4().hex}:"}
        app = Dispatcher(
            "alike", broker=server.url, backend=server.url, broker_transport_options=options,
            result_backend_transport_options=options, set_as_current=False,
        )  # fmt: skip
        yield _local(app, SYSTEM, 0.02)
    else:
        url = f"memory://{uuid.uuid4()}" if request.param == "memory" else f"sqlite:///{tmp_path}/alike.db"
        clock = ManualClock()
        app = Dispatcher("alike", broker=url, backend=url, clock=clock, set_as_current=False, result_expires=None)
        yield _local(app, clock, 5.0)
    app.close()


def _hooked(place: Place, **body: Any) -> Any:
    """Return a class-based task whose hooks note that they were called."""

    def noting(name: str) -> Callable[..., None]:
        def hook(self: Any, *args: Any) -> None:
            place.seen[self.request.id].append(name)

        return hook

    names = ("on_success", "on_retry", "on_failure")
    members = {**{name: noting(name) for name in names}, "default_retry_delay": place.delay, **body}
    return place.app.register_task(type("Hooked", (place.app.Task,), members)())


def _add_retries(place: Place, again: dict[str, Any]) -> None:
    app, seen = place.app, place.seen

    @app.task(name="bound", bind=True, max_retries=2)
    def bound(self: Any, x: int) -> int:
        seen[self.request.id].append((self.request.retries, x))
        return self.retry(args=(x + 1,), **again) if x < 2 else x  # type: ignore[no-any-return]

    @app.task(name="unbound", max_retries=2)
    def unbound() -> str:
        request = app.tasks["unbound"].request
        seen[request.id].append(request.retries)
        if not request.retries:
            app.tasks["unbound"].retry(**again)
        return "done"

    @app.task(name="coroutine", bind=True)
    async def coroutine(self: Any) -> str:
        seen[self.request.id].append(self.request.retries)
        if not self.request.retries:
            self.retry(**again)
        return "done"

    @app.task(name="not_thrown", bind=True)
    def not_thrown(self: Any) -> str:
        if not self.request.retries:
            returned = self.retry(throw=False, exc=KeyError("k"), **again)
            seen[self.request.id].append(type(returned).__name__)
            return "forgotten"
        return "kept"

    @app.task(name="raised_by_hand", bind=True)
    def raised_by_hand(self: Any) -> int:
        if not self.request.retries:
            raise Retry("by hand", when=place.delay)
        return int(self.request.retries)


def _add_exhausted(place: Place, again: dict[str, Any]) -> None:
    app, seen = place.app, place.seen

    @app.task(name="exhausted", bind=True, max_retries=1)
    def exhausted(self: Any) -> None:
        seen[self.request.id].append(self.request.retries)
        try:
            raise OSError("why")
        except OSError:
            self.retry(**again)

    @app.task(name="exhausted_with_cause", bind=True, max_retries=1)
    def exhausted_with_cause(self: Any) -> None:
        self.retry(exc=OSError("why"), **again)

    @app.task(name="limit_of_one_call", bind=True, max_retries=3)
    def limit_of_one_call(self: Any) -> None:
        seen[self.request.id].append(self.request.retries)
        self.retry(exc=OSError("why"), max_retries=None if self.request.retries != 1 else 1, **again)


def _add_automatic(place: Place) -> None:
    app, seen = place.app, place.seen
    options: dict[str, Any] = {"bind": True, "max_retries": 1, "default_retry_delay": place.delay}

    @app.task(name="auto_soft", autoretry_for=(SoftTimeLimitExceeded,), **options)
    def auto_soft(self: Any) -> str:
        seen[self.request.id].append(self.request.retries)
        if not self.request.retries:
            raise SoftTimeLimitExceeded(1)
        return "done"

    @app.task(name="auto_any", autoretry_for=(Exception,), **options)
    def auto_any(self: Any) -> None:
        seen[self.request.id].append(self.request.retries)
        raise SoftTimeLimitExceeded(1)

    @app.task(name="auto_expected", autoretry_for=(KeyError,), throws=(KeyError,), **options)
    def auto_expected(self: Any) -> None:
        seen[self.request.id].append(self.request.retries)
        raise KeyError("k")

    @app.task(name="auto_excepted", autoretry_for=(LookupError,), dont_autoretry_for=(KeyError,), **options)
    def auto_excepted(self: Any) -> None:
        seen[self.request.id].append(self.request.retries)
        raise KeyError("k")

    @app.task(name="auto_max", autoretry_for=(Exception,), **{**options, "max_retries": 0})
    def auto_max(self: Any) -> None:
        seen[self.request.id].append(self.request.retries)
        self.retry()

    @app.task(name="throws", throws=(KeyError,))
    async def throws() -> None:
        raise KeyError("k")


def _add_refusals(place: Place) -> None:
    app, seen = place.app, place.seen

    @app.task(name="requeued", bind=True)
    def requeued(self: Any) -> str:
        seen[self.request.id].append(self.request.retries)
        if len(seen[self.request.id]) == 1:
            raise Reject("not now", requeue=True)
        return "done"

    @app.task(name="rejected")
    def rejected() -> None:
        raise Reject("no", requeue=False)

    @app.task(name="ignored")
    def ignored() -> None:
        raise Ignore

    @app.task(name="ignored_with_a_state", bind=True)
    def ignored_with_a_state(self: Any) -> None:
        self.update_state(state="ELSEWHERE", meta=5)
        raise Ignore


def _add_hooks(place: Place, again: dict[str, Any]) -> None:
    def fails(self: Any) -> None:
        place.seen[self.request.id].append(self.request.retries)
        raise ValueError("no")

    def before_start(self: Any, *args: Any) -> None:
        if not self.request.retries:
            self.retry(**again)

    def on_failure(self: Any, *args: Any) -> None:
        if not self.request.retries:
            self.retry(**again)

    def ignoring(self: Any, *args: Any) -> None:
        raise Ignore

    def retries_twice(self: Any) -> str:
        return "done" if self.request.retries == 2 else self.retry()  # type: ignore[no-any-return]

    _hooked(place, name="hooks", run=retries_twice)
    _hooked(place, name="before_start_retries", run=lambda self: "done", before_start=before_start)
    _hooked(place, name="on_failure_retries", run=fails, on_failure=on_failure)
    _hooked(place, name="on_failure_ignores", run=fails, on_failure=ignoring)
    _hooked(place, name="on_success_retries", run=lambda self: "done", on_success=lambda self, *args: self.retry())


#: By task: the state, the value, the retries, what was seen on the way, and the reasons of its dead letters.
EXPECTED: dict[str, tuple[str, str, int, list[Any], list[str]]] = {
    "bound": ("SUCCESS", "2", 2, [(0, 0), (1, 1), (2, 2)], []),
    "unbound": ("SUCCESS", "'done'", 1, [0, 1], []),
    "coroutine": ("SUCCESS", "'done'", 1, [0, 1], []),
    "not_thrown": ("SUCCESS", "'kept'", 1, ["Retry"], []),
    "raised_by_hand": ("SUCCESS", "1", 1, [], []),
    "exhausted": ("FAILURE", "MaxRetriesExceededError", 1, [0, 1], ["failed"]),
    "exhausted_with_cause": ("FAILURE", "OSError('why')", 1, [], ["failed"]),
    "limit_of_one_call": ("FAILURE", "OSError('why')", 1, [0, 1], ["failed"]),
    "auto_soft": ("SUCCESS", "'done'", 1, [0, 1], []),
    "auto_any": ("FAILURE", "SoftTimeLimitExceeded(1)", 1, [0, 1], ["failed"]),
    "auto_expected": ("FAILURE", "KeyError('k')", 1, [0, 1], []),
    "auto_excepted": ("FAILURE", "KeyError('k')", 0, [0], ["failed"]),
    "auto_max": ("FAILURE", "MaxRetriesExceededError", 0, [0], ["failed"]),
    "throws": ("FAILURE", "KeyError('k')", 0, [], []),
    "requeued": ("SUCCESS", "'done'", 0, [0, 0], []),
    "rejected": ("REJECTED", "reject requeue=False: no", 0, [], ["rejected"]),
    "ignored": ("IGNORED", "None", 0, [], []),
    "ignored_with_a_state": ("ELSEWHERE", "5", 0, [], []),
    "hooks": ("SUCCESS", "'done'", 2, ["on_retry", "on_retry", "on_success"], []),
    "before_start_retries": ("SUCCESS", "'done'", 1, ["on_retry", "on_success"], []),
    "on_failure_retries": ("FAILURE", "ValueError('no')", 1, [0, 1], ["failed"]),
    "on_failure_ignores": ("FAILURE", "ValueError('no')", 0, [0], ["failed"]),
    "on_success_retries": ("SUCCESS", "'done'", 0, [], []),
}


def test_every_place_does_the_same(place: Place) -> None:
    """States, values, counts, arguments, hooks and dead letters are the same on memory, SQLite, Redis and SQS."""
    again = {"countdown": place.delay}
    _add_retries(place, again)
    _add_exhausted(place, again)
    _add_automatic(place)
    _add_refusals(place)
    _add_hooks(place, again)
    results = {name: place.app.tasks[name].delay(*((0,) if name == "bound" else ())) for name in EXPECTED}
    place.work()
    dead = place.reasons()
    found = {
        name: (result.state, repr(result.result), result.retries, place.seen[result.id], dead.get(result.id, []))
        for name, result in results.items()
    }
    for name, (_, value, *_) in EXPECTED.items():
        if value.isidentifier() and found[name][1].startswith(f"{value}("):
            found[name] = (found[name][0], value, *found[name][2:])
    assert found == EXPECTED
