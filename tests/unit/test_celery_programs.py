"""Programs written for Celery run with only their imports changed; what they come to was compared with Celery 5.7."""

import copy
import functools
import importlib
import logging
import pickle
import re
import sys
import types
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dispatcher import Dispatcher, Signature, Task, current_app, current_task, group, shared_task, signals, states
from dispatcher.app.task import Task as TaskByItsOldPath
from dispatcher.exceptions import (
    CeleryError,
    Ignore,
    ImproperlyConfigured,
    MaxRetriesExceededError,
    NotRegistered,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    TaskRevokedError,
)
from dispatcher.exceptions import TimeoutError as ResultTimeout
from dispatcher.execution.limits import AlarmLimits
from dispatcher.result import AsyncResult, EagerResult, allow_join_result, result_from_tuple
from dispatcher.utils.log import get_task_logger
from tests.unit.bench import Bench, Globals

logger = get_task_logger(__name__)


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    """Keep apps, shared tasks and receivers of one test from the next."""
    names = [name for name, value in vars(signals).items() if isinstance(value, signals.Signal)]
    before = {name: getattr(signals, name).receivers for name in names}
    with Globals():
        yield
    for name, receivers in before.items():
        getattr(signals, name).receivers = receivers


# -- decorators


def test_bare_and_empty_decorators_make_the_same_task() -> None:
    """``@app.task`` and ``@app.task()`` name the task after module and function, and call like the function."""
    app = Bench().app

    @app.task
    def bare(x: int) -> int:
        """Say something."""
        return x * 2

    @app.task()
    def called(x: int) -> int:
        return x * 3

    assert (bare.name, called.name) == (f"{__name__}.bare", f"{__name__}.called")
    assert (bare(2), called(2)) == (4, 6)
    assert bare.__doc__ == "Say something."
    assert (bare.__name__, bare.__module__) == ("bare", __name__)
    assert bare.__annotations__ == {"x": int, "return": int}


def test_second_registration_returns_the_first() -> None:
    """A name that is taken keeps its first task, as in Celery."""
    app = Bench().app
    first = app.task(name="twice")(lambda: 1)
    assert app.task(name="twice")(lambda: 2) is first


def test_tasks_of_a_script_are_named_after_the_app() -> None:
    """In ``__main__`` the app's name stands for the module."""
    app = Bench().app

    def run() -> None: ...

    run.__module__ = "__main__"
    assert app.task(run).name == "bench.run"


def test_names_follow_an_overridden_scheme() -> None:
    """`gen_task_name` decides about names, for shared tasks too."""

    class Named(Dispatcher):
        def gen_task_name(self, name: str, module: str) -> str:
            return f"short.{name}"

    app = Named(broker="memory://names")

    @shared_task
    def shared() -> None: ...

    @app.task
    def own() -> None: ...

    assert (own.name, shared.name) == ("short.own", "short.shared")


def test_wrapped_functions_can_be_reached() -> None:
    """``task.__wrapped__`` is the function, bound to the task where the task is."""
    app = Bench().app

    @app.task
    def plain(a: int, b: int) -> float:
        return a / b

    @app.task(bind=True)
    def bound(self: Any, a: int) -> tuple[str, int]:
        return self.name, a

    assert plain.__wrapped__(4, 2) == 2.0
    assert bound.__wrapped__(1) == (bound.name, 1)


def test_many_options_of_shared_tasks_work_together() -> None:
    """A shared task with the usual load of options runs on whatever app there is."""

    @shared_task(
        max_retries=3, default_retry_delay=180, rate_limit=None, ignore_result=False, time_limit=None,
        soft_time_limit=None, serializer="json",
    )  # fmt: skip
    def double(x: int) -> int:
        return x * 2

    bench = Bench()
    result = double.delay(21)
    bench.work()
    assert result.get(timeout=1) == 42
    assert double.max_retries == 3
    assert double.app is bench.app


def test_shared_task_runs_directly_without_an_app() -> None:
    """A library's task can be tested as the function it is before there is any app, but not be sent."""
    from dispatcher import state

    state.set_current_app(None)

    @shared_task(bind=True)
    def lonely(self: Any, x: int) -> tuple[str, int]:
        return self.name, x

    assert lonely(5) == (f"{__name__}.lonely", 5)
    with pytest.raises(ImproperlyConfigured, match="belongs to no app"):
        lonely.delay(5)


def test_shared_task_joins_each_app() -> None:
    """Every app has a task of its own behind one shared name; the current app's is meant."""

    @shared_task(name="everywhere")
    def everywhere() -> str:
        return str(everywhere.app.main)

    first, second = Dispatcher("first", broker="memory://1"), Dispatcher("second", broker="memory://2")
    assert {first.tasks["everywhere"].app, second.tasks["everywhere"].app} == {first, second}
    assert everywhere.app is second
    first.set_current()
    assert everywhere.app is first
    assert isinstance(everywhere, Task)


# -- classes


class DatabaseTask(Task):
    """A base class with something expensive at class level, as in Celery's own guide."""

    _db: Any = None
    made = 0

    @property
    def db(self) -> Any:
        if self._db is None:
            type(self).made += 1
            self._db = ["row"]
        return self._db


def test_connection_of_a_base_class_is_made_once_per_task() -> None:
    """A property on the base class keeps its value between runs."""
    bench = Bench()

    @bench.app.task(base=DatabaseTask, bind=True)
    def rows(self: Any) -> list[str]:
        return list(self.db)

    results = [rows.delay() for _ in range(3)]
    bench.work()
    assert [result.get() for result in results] == [["row"]] * 3
    assert type(rows).made == 1


def test_abstract_base_with_autoretry_and_hooks() -> None:
    """``autoretry_for``, backoff and hooks of an abstract base class hold for its tasks, ``super()`` included."""
    bench = Bench()
    seen: list[Any] = []

    class BaseTask(Task):
        abstract = True
        autoretry_for = (OSError,)
        retry_kwargs = {"max_retries": 2}  # noqa: RUF012 - as Celery's users write it
        retry_backoff = 5
        retry_backoff_max = 700
        retry_jitter = False

        def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            seen.append(("failure", str(exc), args, kwargs, "OSError: down" in str(einfo)))
            super().on_failure(exc, task_id, args, kwargs, einfo)

        def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            seen.append(("retry", str(exc), bench.clock.time()))
            super().on_retry(exc, task_id, args, kwargs, einfo)

    @bench.app.task(base=BaseTask, bind=True)
    def fetch(self: Any, url: str, *, verify: bool = True) -> None:
        raise OSError("down")

    start = bench.clock.time()
    result = fetch.delay("u", verify=False)
    bench.work()
    assert seen == [
        ("retry", "down", start),
        ("retry", "down", start + 5),
        ("failure", "down", ["u"], {"verify": False}, True),
    ]
    assert result.state == states.FAILURE
    assert bench.clock.time() == start + 5 + 10
    with pytest.raises(OSError, match="down"):
        result.get()


def test_class_based_task() -> None:
    """A `Task` subclass with ``run`` is registered as an instance, under its path or its own name."""
    bench = Bench()

    class Add(bench.app.Task):  # type: ignore[name-defined,misc]
        def run(self, x: int, y: int) -> int:
            return x + y

    class Named(TaskByItsOldPath):
        name = "named"
        ignore_result = True

        def run(self) -> None: ...

    add = bench.app.register_task(Add())
    named = bench.app.register_task(Named)
    assert add.name.endswith(".Add")
    assert named.name == "named"
    result = add.delay(1, 2)
    bench.work()
    assert result.get() == 3
    with pytest.raises(NotImplementedError, match="run"):
        Task().run()


def test_custom_call_wraps_the_run() -> None:
    """A subclass' ``__call__`` surrounds the run in the worker, with the request in place."""
    bench = Bench()
    log: list[Any] = []

    class Logged(Task):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            log.append(("before", self.request.id))
            try:
                return super().__call__(*args, **kwargs)
            finally:
                log.append("after")

    class Direct(Task):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            log.append("direct")
            return self.run(*args, **kwargs)

    @bench.app.task(base=Logged, bind=True)
    def inner(self: Any, x: int) -> int:
        log.append(("run", self.request.id))
        return x

    @bench.app.task(base=Direct)
    def other(x: int) -> int:
        return x

    result, second = inner.delay(1), other.delay(2)
    bench.work()
    assert (result.get(), second.get()) == (1, 2)
    assert log == [("before", result.id), ("run", result.id), "after", "direct"]


async def _async_double(x: int) -> int:
    return x * 2


def test_synchronous_wrapper_around_a_coroutine_function_works() -> None:
    """A decorator that runs an ``async def`` itself, and one that returns its coroutine, both work."""
    import asyncio

    bench = Bench()

    def run_it(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return asyncio.run(function(*args, **kwargs))

        return wrapper

    def pass_it_on(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    tasks = [bench.app.task(name=name)(wrap(_async_double)) for name, wrap in [("a", run_it), ("b", pass_it_on)]]
    results = [task.delay(4) for task in tasks]
    bench.work()
    assert [result.get() for result in results] == [8, 8]


# -- retries


def test_retry_with_exc_ends_in_the_exception() -> None:
    """``raise self.retry(exc=exc)`` runs ``max_retries`` times more and then fails with the exception."""
    bench = Bench()
    counts: list[int] = []

    @bench.app.task(bind=True, max_retries=2, default_retry_delay=30)
    def call(self: Any) -> None:
        counts.append(self.request.retries)
        try:
            raise ConnectionError("refused")
        except ConnectionError as exc:
            raise self.retry(exc=exc)  # noqa: B904 - what Celery's users write

    begin = bench.clock.time()
    result = call.delay()
    bench.work()
    assert counts == [0, 1, 2]
    assert bench.clock.time() == begin + 60
    assert isinstance(result.result, ConnectionError)


def test_retry_without_exc_ends_in_max_retries() -> None:
    """Out of retries and without an exception the error is `MaxRetriesExceededError`, reachable from the task."""
    bench = Bench()

    @bench.app.task(bind=True, max_retries=1, name="poll")
    def poll(self: Any, x: int) -> str:
        try:
            self.retry(countdown=1)
        except self.MaxRetriesExceededError as error:
            return f"gave up with {error.task_args}"
        return "never"

    @bench.app.task(bind=True, max_retries=0, name="none")
    def none(self: Any) -> None:
        self.retry(countdown=1)

    result, failed = poll.delay(7), none.delay()
    bench.work()
    assert result.get() == "gave up with [7]"
    with pytest.raises(MaxRetriesExceededError, match=r"Can't retry none\[.*\] args:\[\] kwargs:\{\}"):
        failed.get()


def test_retry_with_throw_false_goes_on() -> None:
    """``retry(throw=False)`` returns and the function goes on; the task runs again whatever it does then."""
    bench = Bench()
    log: list[str] = []

    @bench.app.task(bind=True)
    def work(self: Any, how: str) -> str:
        if self.request.retries == 0:
            ret = self.retry(countdown=10, throw=False)
            log.append(type(ret).__name__)
            if how == "raise":
                raise KeyError("after")
            if how == "ignore":
                raise Ignore
            return "first"
        return "second"

    results = [work.delay(how) for how in ("return", "raise", "ignore")]
    bench.work()
    assert [result.get() for result in results] == ["second"] * 3
    assert log == ["Retry"] * 3


def test_retry_outside_of_a_run_raises() -> None:
    """A task that is called directly cannot be retried: the exception given comes out, or `Retry`."""
    app = Bench().app

    @app.task(bind=True)
    def direct(self: Any, exc: Any = None) -> None:
        raise self.retry(exc=exc)

    with pytest.raises(Retry, match="Task can be retried"):
        direct()
    with pytest.raises(ValueError, match="mine"):
        direct(ValueError("mine"))


def test_retry_limit_of_a_call_holds_for_that_call() -> None:
    """``retry(max_retries=…)`` overrides the task's limit, for what autoretry would do next too."""
    bench = Bench()
    runs: list[int] = []

    @bench.app.task(bind=True, autoretry_for=(Exception,), max_retries=5, default_retry_delay=1)
    def limited(self: Any) -> None:
        runs.append(self.request.retries)
        try:
            raise OSError("o")
        except OSError as exc:
            self.retry(exc=exc, max_retries=1, countdown=0)

    result = limited.delay()
    bench.work()
    assert runs == [0, 1]
    assert isinstance(result.result, OSError)


def test_retry_with_other_arguments_and_options() -> None:
    """A retry may change arguments, keyword arguments, headers and the queue; the id stays."""
    bench = Bench()

    @bench.app.task(bind=True, name="grow")
    def grow(self: Any, n: int, *, tag: str = "") -> list[Any]:
        if n < 2:
            raise self.retry(args=[n + 1], kwargs={"tag": f"t{n}"}, countdown=5, headers={"n": n}, expires=60)
        return [n, tag, self.request.n, self.request.retries, self.request.id]

    result = grow.delay(0)
    bench.work()
    assert result.get() == [2, "t1", 1, 2, result.id]


def test_retry_with_a_moment() -> None:
    """``eta`` of a retry is read by the app's clock."""
    bench = Bench()
    begin = bench.clock.time()

    @bench.app.task(bind=True)
    def later(self: Any) -> str:
        if not self.request.retries:
            self.retry(eta=datetime.fromtimestamp(begin + 600, UTC))
        return "done"

    result = later.delay()
    bench.work()
    assert (result.get(), bench.clock.time()) == ("done", begin + 600)


@pytest.mark.parametrize("countdown", ["soon", float("nan"), object()])
def test_impossible_delay_of_a_retry_fails_the_task(countdown: Any) -> None:
    """A delay that is no number of seconds is the task's error and disturbs no other task."""
    bench = Bench()

    @bench.app.task(bind=True)
    def wrong(self: Any) -> None:
        self.retry(countdown=countdown)

    @bench.app.task
    def right() -> int:
        return 1

    result, other = wrong.delay(), right.delay()
    bench.work()
    assert other.get() == 1
    with pytest.raises(TypeError, match="delay of a retry must be a finite number of seconds"):
        result.get()


def test_on_failure_may_retry() -> None:
    """A hook ``on_failure`` that calls ``self.retry`` gets another run, as in Celery."""
    bench = Bench()

    class Stubborn(Task):
        def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            super().on_failure(exc, task_id, args, kwargs, einfo)
            self.retry(countdown=10)

    @bench.app.task(base=Stubborn, bind=True, max_retries=3)
    def flaky(self: Any) -> str:
        if self.request.retries < 2:
            raise ValueError("not yet")
        return "done"

    @bench.app.task(base=Stubborn, bind=True, max_retries=1)
    def broken(self: Any) -> None:
        raise ValueError("never")

    result, failed = flaky.delay(), broken.delay()
    bench.work()
    assert result.get() == "done"
    with pytest.raises(ValueError, match="never"):
        failed.get()


# -- outcomes, states, limits


def test_soft_limit_lets_the_task_clean_up_and_return() -> None:
    """``except SoftTimeLimitExceeded`` may clean up and return: the task succeeds with that value."""
    bench = Bench()
    cleaned: list[str] = []

    @bench.app.task(soft_time_limit=0.02)
    def slow() -> str:
        try:
            while True:
                sum(range(1000))
        except SoftTimeLimitExceeded:
            cleaned.append("yes")
            return "partial"

    limits = AlarmLimits()
    limits.install()
    result = slow.delay()
    bench.work(limits=limits)
    assert result.get() == "partial"
    assert cleaned == ["yes"]


def test_soft_limit_is_retried_as_an_exception() -> None:
    """``autoretry_for=(Exception,)`` covers the soft limit, and so does the exception made of it."""
    bench = Bench()

    class TooSlow(Exception):
        pass

    def spin() -> None:
        while True:
            sum(range(1000))

    @bench.app.task(soft_time_limit=0.02, autoretry_for=(Exception,), max_retries=1, default_retry_delay=1)
    def plain() -> None:
        spin()

    @bench.app.task(soft_time_limit=0.02, autoretry_for=(TooSlow,), max_retries=1, default_retry_delay=1)
    def renamed() -> None:
        try:
            spin()
        except SoftTimeLimitExceeded as error:
            raise TooSlow from error

    limits = AlarmLimits()
    limits.install()
    results = [plain.delay(), renamed.delay()]
    bench.work(limits=limits)
    assert [(result.state, result.retries) for result in results] == [("FAILURE", 1)] * 2
    assert all(isinstance(result.result, SoftTimeLimitExceeded) for result in results)


def test_custom_states_show_until_the_outcome() -> None:
    """`update_state` shows a state with its meta; the outcome replaces it."""
    bench = Bench()
    seen: list[Any] = []

    @bench.app.task(bind=True)
    def count(self: Any) -> str:
        for n in range(2):
            self.update_state(state="PROGRESS", meta={"current": n, "total": 2})
            result = AsyncResult(self.request.id)
            seen.append((result.state, result.info, result.ready()))
        return "all"

    result = count.delay()
    bench.work()
    assert seen == [("PROGRESS", {"current": n, "total": 2}, False) for n in range(2)]
    assert (result.state, result.result) == ("SUCCESS", "all")


def test_state_set_before_ignore_stays() -> None:
    """``update_state`` and ``raise Ignore()`` leave that state; a described failure reads as the exception."""
    bench = Bench()

    @bench.app.task(bind=True)
    def give_up(self: Any) -> None:
        self.update_state(state=states.FAILURE, meta={"exc_type": "ValueError", "exc_message": ["boo"], "custom": 1})
        raise Ignore()

    @bench.app.task(bind=True)
    def skip(self: Any) -> None:
        self.update_state(state="SKIPPED", meta={"why": "old"})
        raise Ignore()

    failed, skipped = give_up.delay(), skip.delay()
    bench.work()
    assert failed.state == "FAILURE"
    with pytest.raises(ValueError, match="boo"):
        failed.get()
    assert (skipped.state, skipped.get()) == ("SKIPPED", {"why": "old"})


def test_reject_buries_or_returns_the_message() -> None:
    """``Reject`` ends in the dead letters; with ``requeue=True`` the message runs again, as often as it takes."""
    bench = Bench()
    runs: list[int] = []

    @bench.app.task(name="bury")
    def bury() -> None:
        raise Reject("no good", requeue=False)

    @bench.app.task(name="again")
    def again() -> str:
        runs.append(1)
        if len(runs) < 9:
            raise Reject("busy", requeue=True)
        return "done"

    buried, requeued = bury.delay(), again.delay()
    bench.work()
    assert buried.state == states.REJECTED
    assert [letter.reason["reason"] for letter in bench.dead()] == ["rejected"]
    assert (requeued.get(), len(runs)) == ("done", 9)


def test_expected_exceptions_fail_quietly(caplog: pytest.LogCaptureFixture) -> None:
    """``throws`` are failures that are logged without alarm and not buried."""
    bench = Bench()

    @bench.app.task(throws=(KeyError,))
    def missing() -> None:
        raise KeyError("k")

    result = missing.delay()
    with caplog.at_level(logging.INFO):
        bench.work()
    assert result.state == "FAILURE"
    assert not bench.dead()
    assert [record.levelname for record in caplog.records if "raised expected" in record.message] == ["INFO"]


def test_order_of_hooks_and_their_arguments() -> None:
    """Hooks come in Celery's order with Celery's arguments; a retry is no return."""
    bench = Bench()
    log: list[Any] = []

    class Hooked(Task):
        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            log.append(("before_start", args, kwargs))

        def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            log.append(("on_success", retval))

        def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            log.append(("on_retry", repr(exc)))

        def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            log.append(("on_failure", repr(exc), type(einfo).__name__))

        def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            log.append(("after_return", status, repr(retval)))

    @bench.app.task(base=Hooked, bind=True, name="hooked")
    def hooked(self: Any, how: str) -> str:
        if how == "fail" or (how == "retry" and self.request.retries == 1):
            raise ValueError(how)
        if how == "retry":
            self.retry(exc=ValueError("again"), countdown=1)
        return how

    @signals.task_prerun.connect(sender=hooked)
    def before(**kwargs: Any) -> None:
        if kwargs["args"] == ["ok"]:
            log.append("task_prerun")

    for how in ("ok", "fail", "retry"):
        hooked.delay(how)
        bench.work()
    bench.app.send_task("hooked")
    bench.work()
    assert log == [
        "task_prerun",
        ("before_start", ["ok"], {}),
        ("on_success", "ok"),
        ("after_return", "SUCCESS", "'ok'"),
        ("before_start", ["fail"], {}),
        ("on_failure", "ValueError('fail')", "ExceptionInfo"),
        ("after_return", "FAILURE", "ValueError('fail')"),
        ("before_start", ["retry"], {}),
        ("on_retry", "ValueError('again')"),
        ("before_start", ["retry"], {}),
        ("on_failure", "ValueError('retry')", "ExceptionInfo"),
        ("after_return", "FAILURE", "ValueError('retry')"),
        (
            "on_failure",
            "TypeError(\"hooked() missing 1 required positional argument: 'how'\")",
            "ExceptionInfo",
        ),
        (
            "after_return",
            "FAILURE",
            "TypeError(\"hooked() missing 1 required positional argument: 'how'\")",
        ),
    ]


# -- the request


def test_request_has_celery_s_fields() -> None:
    """``self.request`` answers everything Celery's does, headers by name included."""
    bench = Bench()

    @bench.app.task(bind=True, name="look")
    def look(self: Any, x: int, *, y: int) -> dict[str, Any]:
        request = self.request
        assert request.get("nothing", 5) == 5
        names = (
            "id root_id parent_id correlation_id args kwargs retries eta expires group group_index chord chain "
            "callbacks errbacks timelimit time_limit soft_time_limit headers hostname delivery_info reply_to origin "
            "is_eager "
            "called_directly ignore_result properties shadow replaced_task_nesting stamped_headers stamps children utc "
            "logfile loglevel task tenant"
        )
        return {name: getattr(request, name) for name in names.split()}

    result = look.apply_async(
        (1,), {"y": 2}, countdown=10, expires=60, soft_time_limit=3, time_limit=9, headers={"tenant": "t"}, shadow="s",
        priority=3, reply_to="me",
    )  # fmt: skip
    now = bench.clock.time()
    bench.work()
    seen = result.get()
    moment = datetime.fromtimestamp
    wanted = {
        "id": result.id, "root_id": result.id, "parent_id": None, "correlation_id": result.id, "args": [1],
        "kwargs": {"y": 2}, "retries": 0, "eta": moment(now + 10, UTC).isoformat(),
        "expires": moment(now + 60, UTC).isoformat(), "timelimit": [9, 3], "time_limit": 9, "soft_time_limit": 3,
        "headers": {"tenant": "t"}, "tenant": "t", "hostname": "bench", "is_eager": False, "called_directly": False,
        "ignore_result": False, "shadow": "s", "children": [], "task": "look", "reply_to": "me", "stamps": {},
    }  # fmt: skip
    assert {name: seen[name] for name in wanted} == wanted
    assert seen["delivery_info"]["routing_key"] == "default"
    assert seen["delivery_info"]["redelivered"] is False


def test_current_task_and_app() -> None:
    """`current_task` is the running task, and nothing outside of a run; `current_app` is the last app."""
    bench = Bench()

    @bench.app.task(name="who")
    def who() -> tuple[str, str, bool]:
        assert current_task
        return current_task.name, current_task.request.id, current_app.current_task is who

    result = who.delay()
    bench.work()
    assert result.get() == ["who", result.id, True]
    assert not current_task
    assert current_app.main == "bench"


def test_tasks_know_who_sent_them() -> None:
    """A task sent by a task is its child: parent, root and children are linked."""
    bench = Bench()

    @bench.app.task(bind=True, name="inner")
    def inner(self: Any) -> list[str]:
        return [self.request.parent_id, self.request.root_id]

    @bench.app.task(bind=True, name="outer")
    def outer(self: Any) -> list[str]:
        return [inner.delay().id, inner.apply_async(add_to_parent=False).id]

    result = outer.delay()
    bench.work()
    child, other = result.get()
    assert AsyncResult(child).get() == [result.id, result.id]
    assert AsyncResult(other).get() == [result.id, result.id]
    assert [each.id for each in result.children] == [child]
    assert result.get_leaf() == [result.id, result.id]
    assert [each.id for each, _ in result.collect()] == [result.id, child]


def test_waiting_inside_a_task_is_refused_unless_allowed() -> None:
    """``get()`` inside a task raises, unless the task says that it means it."""
    bench = Bench()
    done = bench.app.task(name="done")(lambda: 1)
    earlier = done.delay()
    bench.work()

    @bench.app.task(name="waits")
    def waits() -> list[int]:
        with pytest.raises(RuntimeError, match=r"Never call result.get\(\) within a task"):
            earlier.get()
        with allow_join_result():
            first = AsyncResult(earlier.id).get(timeout=1)
        return [first, earlier.get(disable_sync_subtasks=False)]

    result = waits.delay()
    bench.work()
    assert result.get() == [1, 1]


# -- links


def test_links_of_all_kinds() -> None:
    """Callbacks get the result first, immutable ones do not; error callbacks of both styles are called."""
    bench = Bench()
    calls: list[Any] = []
    app = bench.app

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        calls.append(("add", x, y))
        return x + y

    @app.task(name="boom")
    def boom() -> None:
        raise ValueError("boom")

    @app.task(name="old")
    def old(task_id: str) -> None:
        calls.append(("old", task_id))

    @app.task(name="new")
    def new(request: Any, exc: Any, traceback: Any) -> None:
        calls.append(("new", request.id, request.task, repr(exc), "boom" in traceback))

    add.apply_async((1, 1), link=[add.s(10), add.si(5, 5)])
    sig = add.s(2, 2)
    sig.link(add.s(100))
    sig.delay()
    bench.work()
    assert sorted(calls) == sorted([("add", 1, 1), ("add", 2, 10), ("add", 5, 5), ("add", 2, 2), ("add", 4, 100)])
    calls.clear()
    failed = boom.apply_async(link_error=[old.s(), new.s()], link=add.s(1))
    boom.s().on_error(old.s()).delay()
    bench.work()
    assert calls[:2] == [("old", failed.id), ("new", failed.id, "boom", "ValueError('boom')", True)]
    assert len(calls) == 3


def test_header_of_a_user_is_never_mistaken_for_ours() -> None:
    """A header called ``errback`` does not change how a task with a dict as first argument is called."""
    bench = Bench()

    @bench.app.task(name="take")
    def take(value: Any) -> str:
        return type(value).__name__

    result = take.apply_async(({"id": 1},), headers={"errback": True})
    bench.work()
    assert result.get() == "dict"


# -- signals


def test_what_signals_bring_of_a_run() -> None:
    """A received request has the name that Celery's gives it, a success how long it took, einfo its `exc_info`."""
    bench = Bench()
    log: list[Any] = []

    @bench.app.task(name="one")
    def one(error: str = "") -> None:
        if error:
            raise ValueError(error)

    @signals.task_received.connect
    def received(request: Any = None, **kwargs: Any) -> None:
        log.append((request.name, request.task_name, request.task_id == request.id))

    @signals.task_success.connect
    def succeeded(runtime: float = -1.0, **kwargs: Any) -> None:
        log.append(runtime >= 0.0)

    @signals.task_failure.connect
    def failed(exception: Any = None, einfo: Any = None, **kwargs: Any) -> None:
        log.append(einfo.exc_info == (ValueError, exception, einfo.tb))

    one.delay()
    bench.work()
    one.apply_async(("bad",), headers={"name": "of the header"})
    bench.work()
    assert log == [("one", "one", True), True, ("of the header", "one", True), True]


def test_signals_of_a_run() -> None:
    """Senders filter, receivers are weak unless told otherwise, and one that raises disturbs nobody."""
    bench = Bench()
    log: list[Any] = []

    @bench.app.task(name="one")
    def one() -> int:
        return 1

    @bench.app.task(name="two")
    def two() -> None:
        raise ValueError("two")

    @signals.task_prerun.connect
    def broken(**kwargs: Any) -> None:
        raise RuntimeError("receiver")

    @signals.task_prerun.connect(sender=one)
    def before(sender: Any = None, task_id: Any = None, task: Any = None, args: Any = None, **kwargs: Any) -> None:
        log.append(("prerun", task.name, args))

    @signals.task_postrun.connect
    def after(sender: Any = None, task: Any = None, retval: Any = None, state: Any = None, **kwargs: Any) -> None:
        log.append(("postrun", task.name, state, repr(retval)))

    @signals.task_failure.connect(sender=two)
    def failed(sender: Any = None, exception: Any = None, einfo: Any = None, **kwargs: Any) -> None:
        log.append(("failure", repr(exception), type(einfo).__name__))

    @signals.task_success.connect(sender="one")
    def succeeded(sender: Any = None, result: Any = None, **kwargs: Any) -> None:
        log.append(("success", result))

    signals.task_success.connect(lambda **kwargs: log.append("weak"))
    signals.task_success.connect(lambda **kwargs: log.append("strong"), weak=False)
    one.delay()
    bench.work()
    two.delay()
    bench.work()
    assert log == [
        ("prerun", "one", []), ("success", 1), "strong", ("postrun", "one", "SUCCESS", "1"),
        ("failure", "ValueError('two')", "ExceptionInfo"), ("postrun", "two", "FAILURE", "ValueError('two')"),
    ]  # fmt: skip


def test_publishing_signals_carry_headers_along() -> None:
    """What `before_task_publish` puts into the headers arrives with the message, also through a retry."""
    bench = Bench()
    sent: list[Any] = []

    @signals.before_task_publish.connect(sender="traced")
    def inject(
        sender: Any = None, headers: Any = None, body: Any = None, routing_key: Any = None, **kwargs: Any
    ) -> None:
        assert (headers["task"], body[0], routing_key) == ("traced", [], "default")
        headers["trace-id"] = "abc"

    @signals.after_task_publish.connect
    def after(sender: Any = None, headers: Any = None, **kwargs: Any) -> None:
        sent.append((sender, headers["trace-id"]))

    @bench.app.task(bind=True, name="traced")
    def traced(self: Any) -> Any:
        if not self.request.retries:
            self.retry(countdown=1)
        return self.request.get("trace-id")

    result = traced.delay()
    bench.work()
    assert result.get() == "abc"
    assert sent == [("traced", "abc")]


def test_revoked_and_unknown_tasks_are_told() -> None:
    """`task_revoked` and `task_unknown` are sent; a revoked task never runs."""
    bench = Bench(unknown_grace=0)
    log: list[Any] = []

    @signals.task_revoked.connect
    def revoked(
        sender: Any = None, request: Any = None, terminated: Any = None, expired: Any = None, **kw: Any
    ) -> None:
        log.append(("revoked", request.id, terminated, expired))

    @signals.task_unknown.connect
    def unknown(sender: Any = None, name: Any = None, id: Any = None, **kwargs: Any) -> None:
        log.append(("unknown", name))

    task = bench.app.task(name="never")(lambda: log.append("ran"))
    first, second = task.delay(), task.apply_async(countdown=100, expires=50)
    first.revoke()
    third = bench.app.send_task("nobody.knows")
    bench.work()
    assert set(log) == {
        ("revoked", first.id, False, False), ("revoked", second.id, False, True), ("unknown", "nobody.knows"),
    }  # fmt: skip
    assert len(log) == 3
    for result, message in ((first, "revoked"), (second, "expired")):
        assert result.state == "REVOKED"
        with pytest.raises(TaskRevokedError, match=message):
            result.get()
    with pytest.raises(NotRegistered, match=r"no task named 'nobody.knows' is registered here"):
        third.get()


# -- configuration


def test_autodiscovery_finds_tasks_of_packages(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`autodiscover_tasks` imports the tasks of packages that have some; names may come from a function."""
    for name, body in {"with_tasks": "LOADED = True", "without": None, "jobs_only": None}.items():
        package = tmp_path / name
        package.mkdir()
        (package / "__init__.py").write_text("")
        if body:
            (package / "tasks.py").write_text(body)
    (tmp_path / "jobs_only" / "jobs.py").write_text("LOADED = True")
    monkeypatch.syspath_prepend(str(tmp_path))
    app = Bench().app
    app.autodiscover_tasks(lambda: ["with_tasks", "without"])
    app.autodiscover_tasks(["jobs_only"], related_name="jobs")
    assert "with_tasks.tasks" not in sys.modules
    app.import_default_modules()
    assert sys.modules["with_tasks.tasks"].LOADED
    assert sys.modules["jobs_only.jobs"].LOADED


def test_autodiscovery_that_failed_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be found or imported once is not forgotten: the next attempt imports it, or fails again."""
    module = tmp_path / "mended.py"
    module.write_text("import no_such_module_yet")
    monkeypatch.syspath_prepend(str(tmp_path))
    app = Bench().app
    app.autodiscover_tasks(["mended"], related_name=None)
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_module_yet"):
            app.import_default_modules()
    (tmp_path / "no_such_module_yet.py").write_text("")
    importlib.invalidate_caches()
    app.import_default_modules()
    assert "mended" in sys.modules


def test_configuration_by_object_and_namespace() -> None:
    """Django's ``CELERY_`` settings and plain modules configure an app alike."""
    settings = types.SimpleNamespace(
        CELERY_TASK_DEFAULT_QUEUE="jobs",
        CELERY_TASK_TIME_LIMIT=30,
        CELERY_RESULT_EXPIRES=timedelta(hours=1),
        DEBUG=True,
    )
    app = Dispatcher("django")
    app.config_from_object(settings, namespace="CELERY")
    assert (app.conf.task_default_queue, app.conf.task_time_limit, app.conf.result_expires) == ("jobs", 30, 3600)


@pytest.mark.parametrize(
    ("routes", "wanted"),
    [
        ({"feed.import": {"queue": "feeds"}}, "feeds"),
        ({"feed.import": "feeds"}, "feeds"),
        ({"feed.*": {"queue": "feeds"}}, "feeds"),
        ([("web.*", {"queue": "web"}), ("feed.*", {"queue": "feeds"})], "feeds"),
        (([("web.*", {"queue": "web"}), (re.compile(r"(feed|x)\..*"), {"queue": "feeds"})],), "feeds"),
        (([("feed.*", {"queue": "feeds"})],), "feeds"),
        ([{"web.*": {"queue": "web"}}, {"feed.*": {"queue": "feeds"}}], "feeds"),
        ({"feed.import": types.SimpleNamespace}, ImproperlyConfigured),
        (lambda name, args, kwargs, options, task=None, **kw: {"queue": "feeds"} if args == (1,) else None, "feeds"),
        ((lambda name, args, kwargs, options, task=None, **kw: None, {"feed.*": {"queue": "second"}}), "second"),
        (f"{__name__}.route_feeds", "feeds"),
        ((f"{__name__}.FeedRouter",), "feeds"),
        ("no.such.router", ImproperlyConfigured),
        ({"web.*": {"queue": "web"}}, "default"),
        ({"feed.*": {"exchange": "x", "routing_key": "y"}}, ImproperlyConfigured),
        ({"feed.*": {"queue": "feeds", "exchange": "x", "routing_key": "feeds"}}, "feeds"),
        ({"feed.*": {"quue": "feeds"}}, ImproperlyConfigured),
    ],
)
def test_routes_of_all_kinds(routes: Any, wanted: Any) -> None:
    """Dicts, globs, patterns, pairs, functions, classes and import paths choose the queue; nonsense is named."""

    def sent() -> str:
        bench = Bench(task_routes=routes)
        bench.app.send_task("feed.import", (1,))
        [queue] = [name for name in bench.app.broker.queues() if bench.left(name)]
        return queue

    if wanted is ImproperlyConfigured:
        with pytest.raises(ImproperlyConfigured):
            sent()
    else:
        assert sent() == wanted


def route_feeds(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **more: Any) -> Any:
    """Route as a function that is named by its path."""
    return {"queue": "feeds"} if name.startswith("feed.") else None


class FeedRouter:
    """Routes as an object with Celery's older method."""

    def route_for_task(self, task: str, args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> Any:
        """Return the name of a queue."""
        return "feeds"


def test_call_goes_before_task_and_task_before_route() -> None:
    """The queue of the call wins over the task's own, that over a route; `None` is no choice."""
    bench = Bench(task_routes={"*": {"queue": "routed", "priority": 7}})

    @bench.app.task(name="own", queue="own")
    def own() -> None: ...

    @bench.app.task(name="other")
    def other() -> None: ...

    own.delay()
    own.apply_async(queue="called")
    own.apply_async(queue=None)
    other.apply_async(queue=None)
    assert {name: bench.left(name) for name in bench.app.broker.queues()} == {"own": 2, "called": 1, "routed": 1}


def test_annotations_change_tasks() -> None:
    """`task_annotations` set attributes by name or for all, hooks included."""
    failures: list[str] = []

    def on_failure(self: Any, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        failures.append(f"{self.name}: {exc}")

    bench = Bench(task_annotations={"*": {"on_failure": on_failure}, "quick": {"time_limit": 5, "max_retries": 9}})

    @bench.app.task(name="quick")
    def quick() -> None:
        raise ValueError("x")

    quick.delay()
    bench.work()
    assert failures == ["quick: x"]
    assert (quick.time_limit, quick.max_retries) == (5, 9)


def test_periodic_tasks_are_noted_when_the_app_is_configured_or_finalized() -> None:
    """`add_periodic_task` works in the receivers where Celery's guide puts it, and may ask for tasks there."""
    from dispatcher.schedules import crontab

    bench = Bench()

    @bench.app.task(name="hello")
    def hello(who: str) -> None: ...

    @bench.app.on_after_configure.connect
    def first(sender: Any, **kwargs: Any) -> None:
        sender.add_periodic_task(10.0, sender.tasks["hello"].s("a"), name="a")

    @bench.app.on_after_finalize.connect
    def second(sender: Any, **kwargs: Any) -> None:
        sender.add_periodic_task(crontab(minute=5), hello.s("b"), name="b")

    bench.app.finalize()
    assert {name: entry["args"] for name, entry in bench.app.conf.beat_schedule.items()} == {"a": ("a",), "b": ("b",)}


# -- eager


def test_apply_runs_here_and_hands_values_over_as_they_are() -> None:
    """`apply` runs at once with the very objects given; ``throw=True`` raises; retries do not wait."""
    app = Bench().app

    @app.task(name="same")
    def same(x: Any) -> Any:
        return x

    @app.task(name="divide")
    def divide(a: int, b: int) -> float:
        return a / b

    @app.task(bind=True, name="third", max_retries=5)
    def third(self: Any, log: list[int]) -> str:
        log.append(self.request.retries)
        if self.request.retries < 2:
            self.retry(countdown=3600)
        return "done"

    thing = object()
    log: list[int] = []
    assert same.apply((thing,)).get() is thing
    result = divide.apply((1, 0))
    assert isinstance(result, EagerResult)
    assert (result.state, type(result.result), result.failed()) == ("FAILURE", ZeroDivisionError, True)
    assert "ZeroDivisionError" in (result.traceback or "")
    with pytest.raises(ZeroDivisionError):
        result.get()
    with pytest.raises(ZeroDivisionError):
        divide.apply((1, 0), throw=True)
    assert third.apply((log,)).get() == "done"
    assert log == [0, 1, 2]
    assert not app.conf.frozen or app.broker.queues() == []


def test_always_eager_checks_what_could_not_be_sent() -> None:
    """With ``task_always_eager`` calls run here over the wire form; errors come out where Celery lets them."""
    bench = Bench(task_always_eager=True)

    @bench.app.task(name="echo")
    def echo(x: Any = None) -> Any:
        return x

    @bench.app.task(name="fails")
    def fails() -> None:
        raise ValueError("x")

    @bench.app.task(bind=True, name="shows")
    def shows(self: Any) -> int:
        self.update_state(state="PROGRESS", meta=object)
        return 1

    assert echo.delay({1, 2}).get() == {1, 2}
    with pytest.raises(CeleryError, match="object"):
        echo.delay(object())
    assert fails.delay().state == "FAILURE"
    assert [result.get() for result in bench.app.send_many([echo.s(1), echo.s(2)])] == [1, 2]
    assert shows.delay().get() == 1
    with pytest.warns(match="always sends"):
        bench.app.send_task("echo")


def test_eager_links_run_too() -> None:
    """Callbacks and error callbacks of eager runs run at once."""
    app = Bench().app
    log: list[Any] = []
    note = app.task(name="note")(lambda *args: log.append(args))
    app.task(name="one")(lambda: 1).apply(link=note.s("after"))
    app.task(name="bad")(lambda: 1 / 0).apply(link_error=note.s())
    assert log[0] == (1, "after")
    assert log[1][0].task == "bad"


def test_apply_inside_an_event_loop_runs_coroutine_tasks() -> None:
    """``apply`` of an ``async def`` task works where an event loop runs already, as in an async web handler."""
    import asyncio

    app = Bench().app
    task = app.task(name="double")(_async_double)

    async def handler() -> int:
        return int(task.apply((4,)).get())

    assert asyncio.run(handler()) == 8


# -- results


def test_results_answer_everything_celery_s_do() -> None:
    """`AsyncResult` has the attributes and methods of Celery's, with the extended ones when they are kept."""
    bench = Bench(result_extended=True)

    @bench.app.task(name="add")
    def add(x: int, y: int = 2) -> int:
        return x + y

    result = add.apply_async((1,), {"y": 5})
    assert (result.state, result.ready(), result.result, result.exists()) == ("PENDING", False, None, False)
    bench.work()
    again = bench.app.AsyncResult(result.id)
    assert again == result
    assert again == result.id
    assert hash(again) == hash(result)
    assert str(again) == result.id
    assert (again.id, again.task_id) == (result.id, result.id)
    assert (again.state, again.status, again.result, again.info, again.traceback) == ("SUCCESS", "SUCCESS", 6, 6, None)
    assert (again.ready(), again.successful(), again.failed(), again.exists(), again.ignored) == (
        True, True, False, True, False
    )  # fmt: skip
    assert (again.name, again.args, again.kwargs, again.worker, again.queue, again.retries) == (
        "add", [1], {"y": 5}, "bench", "default", 0
    )  # fmt: skip
    assert again.date_done == datetime.fromtimestamp(bench.clock.time(), UTC)
    assert (again.parent, again.children) == (None, None)
    assert again.as_tuple() == ((result.id, None), None)
    assert result_from_tuple(again.as_tuple()) == again
    assert again.as_list() == [result.id]
    assert again.maybe_throw() == again.get() == again.wait() == 6
    assert again.throw() is None
    assert list(again.iterdeps()) == [(None, again)]
    assert len(again.graph) == 1
    seen: list[Any] = []
    again.then(seen.append)
    again.get(callback=lambda task_id, value: seen.append((task_id, value)), on_message=seen.append)
    assert seen[0] is again
    assert seen[2] == (result.id, 6)
    assert {"status", "result", "traceback", "children", "date_done", "task_id"} <= seen[1].keys()
    again.forget()
    assert bench.app.AsyncResult(result.id).state == "PENDING"


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_a_task_may_return_what_it_sent(serializer: str) -> None:
    """A result, or a group's, is kept as its tuples, and ``collect`` finds the values below, as in Celery's guide."""
    bench = Bench(result_serializer=serializer)

    @bench.app.task(name="square")
    def square(number: int) -> int:
        return number**2

    @bench.app.task(name="squares", trail=True)
    def squares(count: int) -> Any:
        return group(square.s(number) for number in range(count)).apply_async()

    @bench.app.task(name="later", trail=True)
    def later(number: int) -> Any:
        return square.delay(number)

    sent, single = squares.delay(3), later.delay(7)
    bench.work()
    assert result_from_tuple(sent.get()).get() == [0, 1, 4]
    assert result_from_tuple(single.get()).get() == 49
    assert [value for _, value in sent.collect() if isinstance(value, int)] == [0, 1, 4]


def test_get_times_out_and_propagates() -> None:
    """`get` raises the task's exception, or returns it, or a timeout that names the task."""
    bench = Bench()
    fails = bench.app.task(name="fails")(lambda: 1 / 0)
    result = fails.delay()
    with pytest.raises(ResultTimeout, match=result.id):
        result.get(timeout=5)
    assert result.TimeoutError is ResultTimeout
    bench.work()
    with pytest.raises(ZeroDivisionError):
        result.get()
    assert isinstance(result.get(propagate=False), ZeroDivisionError)
    assert "ZeroDivisionError" in result.traceback
    assert (result.failed(), result.state) == (True, "FAILURE")


def test_get_of_an_ignored_result_returns_at_once() -> None:
    """Who sends a task whose result is not kept need not wait for it."""
    bench = Bench()
    task = bench.app.task(name="quiet", ignore_result=True)(lambda: 5)
    for result in (task.delay(), bench.app.send_task("quiet", ignore_result=True), *bench.app.send_many([task.s()])):
        assert result.ignored
        assert result.get() is None
    assert not task.apply_async(ignore_result=False).ignored


def test_revoking_by_control_as_in_celery() -> None:
    """One id or many, with ``terminate`` and ``signal``, by keyword as programs write it."""
    bench = Bench()
    task = bench.app.task(name="t")(lambda: None)
    results = [task.delay() for _ in range(3)]
    bench.app.control.revoke(results[0].id, terminate=True, signal="SIGKILL")
    bench.app.control.revoke([result.id for result in results[1:]], terminate=True)
    bench.work()
    assert [result.state for result in results] == ["REVOKED"] * 3


# -- what else programs rely on


def test_results_signatures_and_tasks_survive_pickling_and_copying() -> None:
    """Tasks pickle by name, signatures and results by value."""
    bench = Bench()

    @bench.app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @shared_task(name="shared")
    def shared() -> None: ...

    sig = add.s(1).set(queue="q")
    sig.link(add.s(5))
    assert pickle.loads(pickle.dumps(add)) is add
    assert copy.copy(add) is add
    assert copy.deepcopy(add) is add
    assert pickle.loads(pickle.dumps(shared)).name == "shared"
    for made in (pickle.loads(pickle.dumps(sig)), copy.deepcopy(sig), copy.copy(sig), Signature(dict(sig))):
        assert made == sig
        assert isinstance(made, Signature)
    result = add.delay(1, 2)
    assert pickle.loads(pickle.dumps(result)) == result
    eager = pickle.loads(pickle.dumps(add.apply((1, 2))))
    assert (eager.get(), eager.state) == (3, "SUCCESS")
    retry = pickle.loads(pickle.dumps(Retry("m", exc=ValueError("v"), when=5)))
    assert (retry.message, repr(retry.exc), retry.when) == ("m", "ValueError('v')", 5)


def test_task_loggers_are_ordinary_loggers(caplog: pytest.LogCaptureFixture) -> None:
    """`get_task_logger` returns a logger below the one for tasks."""
    with caplog.at_level(logging.INFO):
        logger.info("hello %s", "there")
    assert [record.getMessage() for record in caplog.records] == ["hello there"]
    assert logger.name == __name__


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("dispatcher", "Task shared_task signature maybe_signature Signature current_app current_task uuid"),
        (
            "dispatcher.exceptions",
            (
                "CeleryError Retry Ignore Reject ImproperlyConfigured SecurityError TaskError QueueNotFound "
                "IncompleteStream NotRegistered AlreadyRegistered TimeoutError MaxRetriesExceededError "
                "TaskRevokedError "
                "InvalidTaskError ChordError BackendError BackendGetMetaError BackendStoreError SoftTimeLimitExceeded "
                "TimeLimitExceeded WorkerLostError Terminated OperationalError AlwaysEagerIgnored NotConfigured "
                "SecurityWarning FixupWarning DuplicateNodenameWarning TaskPredicate"
            ),
        ),
        ("dispatcher.result", "AsyncResult EagerResult result_from_tuple allow_join_result assert_will_not_block"),
        ("dispatcher.canvas", "Signature signature maybe_signature"),
        (
            "dispatcher.states",
            (
                "PENDING RECEIVED STARTED SUCCESS FAILURE REVOKED RETRY IGNORED REJECTED READY_STATES UNREADY_STATES "
                "EXCEPTION_STATES PROPAGATE_STATES ALL_STATES precedence state"
            ),
        ),
        ("dispatcher.signals", "task_prerun worker_ready beat_init setup_logging celeryd_init before_task_publish"),
        ("dispatcher.utils", "uuid gen_unique_id"),
        ("dispatcher.utils.log", "get_task_logger get_logger"),
        ("dispatcher.app", "shared_task"),
        ("dispatcher.app.task", "Task"),
        ("dispatcher.contrib.abortable", "AbortableTask AbortableAsyncResult"),
    ],
)
def test_celery_s_module_paths_import(module: str, names: str) -> None:
    """What ordinary task code imports from Celery's modules is there under the same path."""
    imported = __import__(module, fromlist=["x"])
    assert not [name for name in names.split() if not hasattr(imported, name)]


@pytest.mark.parametrize("name", ["add_around", "subtask_from_request"])
def test_missing_methods_of_tasks_say_so(name: str) -> None:
    """A method of Celery's tasks that is not there yet names itself and an alternative."""
    task = Bench().app.task(name="t")(lambda: 1)
    with pytest.raises(AttributeError, match=f"Task.{name} is not available in this release; "):
        getattr(task, name)
