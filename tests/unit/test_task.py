"""Tasks: their options, checked where they are defined; calling them; signatures of them."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher import Task, state
from dispatcher.exceptions import CompatibilityWarning, ImproperlyConfigured, UnsupportedOption
from tests.unit.bench import Bench, Globals


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    """Keep apps of one test from the next."""
    with Globals():
        yield


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_retry": 3}, ImproperlyConfigured, "unknown option 'max_retry'; did you mean 'max_retries'?"),
        ({"soft_timelimit": 3}, ImproperlyConfigured, "did you mean 'soft_time_limit'?"),
        ({"max_retries": "x"}, ImproperlyConfigured, "task t: max_retries must be a whole number"),
        (
            {"autoretry_for": OSError},
            ImproperlyConfigured,
            "task t: autoretry_for must be a tuple of exception classes",
        ),
        ({"retry_backoff": -1}, ImproperlyConfigured, "task t: retry_backoff must be a number"),
        ({"default_retry_delay": "x"}, ImproperlyConfigured, "task t: default_retry_delay"),
        ({"retry_kwargs": 5}, ImproperlyConfigured, "task t: retry_kwargs must be a dict"),
        ({"time_limit": "x"}, ImproperlyConfigured, "task t: time_limit must be a number of seconds over 0, not 'x'"),
        ({"soft_time_limit": 0}, ImproperlyConfigured, "task t: soft_time_limit must be a number of seconds over 0"),
        ({"soft_time_limit": 9, "time_limit": 5}, ImproperlyConfigured, "soft_time_limit=9 is over time_limit=5"),
        ({"throws": ["x"]}, ImproperlyConfigured, "throws must be a tuple of exception classes, not ['x']"),
        ({"queue": 5}, ImproperlyConfigured, "task t: queue must be a queue's name, not 5"),
        ({"priority": 99}, ImproperlyConfigured, "task t: priority must be a whole number from 0 to 9, not 99"),
        ({"serializer": "nope"}, ImproperlyConfigured, "task t: unknown serializer 'nope'"),
        ({"compression": "nope"}, ImproperlyConfigured, "task t: unknown compression 'nope'"),
        ({"rate_limit": "10/d"}, ImproperlyConfigured, "task t: rate_limit must be starts per second, or text such as"),
        ({"rate_limit_scope": "queue"}, ImproperlyConfigured, 'rate_limit_scope must be "global" or "worker"'),
        ({"pydantic": True}, UnsupportedOption, "task t: pydantic=True cannot work: "),
        ({"unique": 5}, ImproperlyConfigured, "task t: unique must be True, or a function"),
        ({"unique_for": 5}, ImproperlyConfigured, "task t: unique_for has no meaning without unique=True"),
        (
            {"unique": True, "unique_scope": "queud"},
            ImproperlyConfigured,
            "one of 'queued', 'waiting', 'running', 'period', not",
        ),
        ({"unique": True, "unique_scope": "period"}, ImproperlyConfigured, "unique_scope='period' needs unique_for"),
        ({"unique": True, "unique_for": 0}, ImproperlyConfigured, "unique_for must be a number of seconds over 0"),
        (
            {"unique": True, "unique_for": 5, "unique_scope": "running"},
            ImproperlyConfigured,
            "task t: unique_for has no meaning with unique_scope='running'",
        ),
        (
            {"unique": True, "unique_for": 1e9, "unique_scope": "period"},
            ImproperlyConfigured,
            "raise result_expires",
        ),
        ({"exchange": "x"}, UnsupportedOption, "task t: exchange='x' cannot work: "),
        ({"default_retry_delay": 1e12}, UnsupportedOption, "task t: default_retry_delay=1000000000000.0 cannot work"),
        ({"routing_key": "x"}, UnsupportedOption, "task t: routing_key='x' cannot work: "),
        ({"backend": "x"}, UnsupportedOption, "task t: backend= cannot work: "),
        ({"acks_on_failure_or_timeout": False}, UnsupportedOption, "acks_on_failure_or_timeout=False cannot work"),
        ({"base": int}, TypeError, "task t: base= must be a subclass of Task, not <class 'int'>"),
        ({"run": 5}, ImproperlyConfigured, "task t: 'run' is a part of every task, not an option of one"),
        ({"request": 5}, ImproperlyConfigured, "task t: 'request' is a part of every task"),
    ],
)
def test_options_that_cannot_work_are_named(options: Any, error: type[Exception], words: str) -> None:
    """Each mistake names the task, the option, what belongs there or why it cannot work."""

    def define() -> None:
        app = Bench().app
        app.task(name="t", **options)(lambda: 1)
        app.finalize()

    with pytest.raises(error) as caught:
        define()
    assert words in str(caught.value)


def test_unknown_options_are_attributes() -> None:
    """An option of the user's own becomes an attribute, as in Celery; one exception class stands for a tuple."""
    app = Bench().app
    task = app.task(name="t", owner="me", throws=KeyError, rate_limit=None)(lambda: 1)
    app.finalize()
    assert task.owner == "me"  # type: ignore[attr-defined]
    assert task.throws == (KeyError,)


def test_options_left_unset_come_from_the_configuration() -> None:
    """A task's own option wins, a base class' next, the setting last."""

    class Base(Task):
        time_limit = 20

    app = Bench(task_time_limit=10, task_ignore_result=True, task_track_started=True).app
    plain = app.task(name="plain")(lambda: 1)
    based = app.task(name="based", base=Base, ignore_result=False)(lambda: 1)
    own = app.task(name="own", base=Base, time_limit=30)(lambda: 1)
    app.finalize()
    assert [task.time_limit for task in (plain, based, own)] == [10, 20, 30]
    assert [task.ignore_result for task in (plain, based, own)] == [True, False, True]
    assert plain.track_started


def _every_kind(a: int, /, b: int, c: int = 3, *more: int, d: int, e: int = 5, **rest: int) -> None: ...


def _keywords_only(*, x: int) -> None: ...


def _positional_only(a: int, b: int = 2, /) -> None: ...


@pytest.mark.parametrize("function", [_every_kind, _keywords_only, _positional_only, lambda: 1, lambda *a: a])
@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1,), {}),
        ((1, 2), {"d": 4}),
        ((1, 2, 3, 4), {"d": 4, "z": 9}),
        ((), {"x": 1}),
        ((1,), {"b": 2, "d": 4}),
        ((1, 2), {"b": 2, "d": 4}),
    ],
)
def test_arguments_are_checked_as_python_would(function: Any, args: Any, kwargs: Any) -> None:
    """A call is refused if and only if calling the function would be, with Python's own words."""
    app = Bench().app
    task = app.task(name="module.function")(function)
    app.finalize()
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError):
            task.delay(*args, **kwargs)
    else:
        task.delay(*args, **kwargs)


def test_checking_can_be_switched_off() -> None:
    """``typing=False`` on the task or ``strict_typing=False`` on the app sends whatever is given."""
    app = Bench().app
    app.task(name="free", typing=False)(lambda: 1).delay(1, 2, 3)
    loose = Bench(strict_typing=False)
    loose.app.task(name="t")(lambda: 1).delay(5)
    assert loose.left() == 1


def test_bound_tasks_are_called_without_self() -> None:
    """Neither the check nor the signature counts ``self``."""
    app = Bench().app

    @app.task(bind=True, name="t")
    def bound(self: Any, x: int, y: int = 2) -> tuple[str, int, int]:
        return self.name, x, y

    assert bound(1) == ("t", 1, 2)
    assert str(inspect.signature(bound)) in ("(x: 'int', y: 'int' = 2) -> 'tuple[str, int, int]'", "(x: int, y: int = 2) -> tuple[str, int, int]")  # fmt: skip # noqa: E501
    with pytest.raises(TypeError, match=r"t\(\) missing 1 required positional argument: 'x'"):
        bound.delay()


def test_shadow_name_is_asked_for_each_call() -> None:
    """`shadow_name` gives the message another name for logs, unless the call does."""

    class Shadowed(Task):
        def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str | None:
            return f"t for {args[0]}" if args[0] else None

    bench = Bench()
    task = bench.app.task(name="t", base=Shadowed, bind=True)(lambda self, x: self.request.shadow)
    results = [task.delay("x"), task.delay(""), task.apply_async(("x",), shadow="own")]
    bench.work()
    assert [result.get() for result in results] == ["t for x", None, "own"]


def test_requests_can_be_pretended_for_tests() -> None:
    """`push_request` and `pop_request` surround a direct call with a request."""
    app = Bench().app
    task = app.task(name="t", bind=True)(lambda self: (self.request.id, self.request.retries))
    task.push_request(id="mine", retries=4)
    try:
        assert (task.request.id, task.request.called_directly) == ("mine", False)
    finally:
        task.pop_request()
    assert task.request.id is None
    assert task.request.called_directly
    with pytest.raises(RuntimeError, match="no request of t is on top"):
        task.pop_request()
    assert state.current_frame() is None


def test_direct_call_has_a_request_of_its_own() -> None:
    """A task called directly by another has an idle request, and the other keeps its own."""
    bench = Bench()
    inner = bench.app.task(name="inner", bind=True)(lambda self: (self.request.id, self.request.called_directly))

    @bench.app.task(name="outer", bind=True)
    def outer(self: Any) -> list[Any]:
        return [list(inner()), self.request.id]

    result = outer.delay()
    bench.work()
    assert result.get() == [[None, True], result.id]


def test_signature_from_request_runs_the_request_again() -> None:
    """A running task can make the call that would run it again, with its lineage and links."""
    bench = Bench()
    seen: list[Any] = []

    @bench.app.task(name="t", bind=True)
    def t(self: Any, x: int) -> None:
        seen.append(dict(self.signature_from_request(args=[x + 1], queue="other")))

    result = t.apply_async((1,), headers={"h": 1}, link=t.s(0), expires=60)
    bench.step()
    [sig] = seen
    assert (sig["task"], sig["args"], sig["options"]["queue"]) == ("t", (2,), "other")
    assert (sig["options"]["task_id"], sig["options"]["headers"]) == (result.id, {"h": 1})


def test_unbound_task_says_what_to_do() -> None:
    """A task that belongs to no app cannot be sent, and says so."""

    class Lonely(Task):
        name = "lonely"

    with pytest.raises(ImproperlyConfigured, match=r"the task lonely belongs to no app; use @app\.task or"):
        Lonely().delay()
    assert repr(Lonely()) == "<@task: lonely>"


def test_events_are_refused() -> None:
    """There is no event bus; progress has another way."""
    task = Bench().app.task(name="t")(lambda: 1)
    with pytest.raises(UnsupportedOption, match=r"send_event\('x'\) cannot work"):
        task.send_event("x")
    with pytest.raises(UnsupportedOption, match="no option traceback"):
        task.update_state("id", "S", None, traceback="x")
    with pytest.raises(ValueError, match="outside of a run needs the task_id"):
        task.update_state(state="S")


def test_state_of_another_task_can_be_set() -> None:
    """With a task's id its state can be given from outside, and its outcome replaces that."""
    bench = Bench()
    task = bench.app.task(name="t")(lambda: 1)
    result = task.apply_async(retries=2)
    task.update_state(result.id, "QUEUED", {"place": 3})
    assert (result.state, result.info) == ("QUEUED", {"place": 3})
    runs = bench.work()
    assert (result.get(), len(runs)) == (1, 1)


def test_events_that_are_asked_for_are_missed_aloud() -> None:
    """``send_events=True`` has no effect, and says so once for an app; unset, or false, it says nothing."""
    bench = Bench()
    bench.app.task(name="quiet", send_events=False)(lambda: None)
    bench.app.task(name="loud", send_events=True)(lambda: None)
    with pytest.warns(CompatibilityWarning, match="send_events=True of loud has no effect"):
        bench.app.finalize()


def test_errors_are_kept_though_results_are_ignored() -> None:
    """With ``ignore_result`` a failure is recorded with its error, whatever ``store_errors_even_if_ignored`` says."""
    bench = Bench()
    for keep in (True, False):
        task = bench.app.task(name=f"fails{keep}", ignore_result=True, store_errors_even_if_ignored=keep)(lambda: 1 / 0)
        result = task.delay()
        bench.work()
        with pytest.raises(ZeroDivisionError):
            bench.result(result.id).get()


def test_options_set_after_the_app_was_finalized_hold() -> None:
    """They are settled anew, with what follows from them: a lean task that tracks its starts has a record."""
    bench = Bench()
    told: list[Any] = []

    @bench.app.task(name="press", ignore_result=True, revocable=False)
    def press() -> None:
        raise OSError("jammed")

    @bench.app.task(name="lean", ignore_result=True, revocable=False)
    def lean() -> None: ...

    bench.app.finalize()
    lean.track_started = True
    press.max_retries, press.default_retry_delay, press.autoretry_for = 1, 0, (OSError,)
    press.on_failure = lambda exc, *rest: told.append(exc)  # type: ignore[method-assign]
    tracked, failed = lean.delay(), press.delay()
    bench.work()
    assert tracked.state == "SUCCESS"
    assert (failed.state, failed.retries) == ("FAILURE", 1)
    assert [str(exc) for exc in told] == ["jammed"]
    lean.track_started = None
    assert (lean.track_started, lean._lean) == (False, True)


def test_options_of_sending_that_are_set_between_two_calls_hold_for_the_second() -> None:
    """What the first call has come to is no answer to another one."""
    bench = Bench()
    task: Any = bench.app.task(name="press", queue="slow")(lambda sheet: None)
    task.delay(1)
    task.queue, task.priority, task.serializer = "fast", 7, "msgpack"
    task.delay(2)
    [[first], [second]] = (bench.receive([queue]) for queue in ("slow", "fast"))
    assert '"args":[1]' in first.body
    assert '"priority":7' in second.body
    assert '"enc":"msgpack"' in second.body


def test_an_option_that_cannot_be_meant_is_refused_whenever_it_is_set() -> None:
    """After the app was finalized as before; the task stays as it was."""
    app = Bench().app

    @app.task(name="press", rate_limit="1/s", rate_limit_scope="global")
    def press() -> None: ...

    app.finalize()
    with pytest.raises(ImproperlyConfigured, match="rate_limit"):
        press.rate_limit = "often"
    assert press.rate_limit == "1/s"
    for name in ("acks_on_failure", "reject_on_worker_lost"):
        with pytest.raises(UnsupportedOption, match=f"{name}=False cannot work"):
            setattr(press, name, False)
    with pytest.raises(UnsupportedOption, match="exchange='x' cannot work"):
        press.exchange = "x"  # type: ignore[attr-defined]
    before = press._rate
    press.rate_limit = "2/s"
    assert None is not before != press._rate


def test_an_option_that_is_set_late_changes_the_task_at_once_or_not_at_all() -> None:
    """While it is settled the task is as it was; what else is set on it meanwhile stays, refused or not."""
    app = Bench().app
    seen: list[Any] = []

    class Limit(float):
        def __le__(self, other: float) -> bool:
            task.note = self
            seen.append((task.time_limit, task.ignore_result, task.retry_policy))
            return super().__le__(other)

    task: Any = app.task(name="press", ignore_result=False)(lambda: None)
    app.finalize()
    before = task.time_limit, task.ignore_result, task.retry_policy
    with pytest.raises(ImproperlyConfigured, match="time_limit"):
        task.time_limit = Limit(-1)
    assert (task.note, task.time_limit) == (-1, before[0])
    task.time_limit = Limit(5)
    assert (task.note, task.time_limit) == (5, 5)
    assert seen == [before, before]
