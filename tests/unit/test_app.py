"""The app: settings, tasks, the moment it is finalized, connections, sending."""

import importlib
import threading
import time
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dispatcher import Dispatcher, Task, connections, current_app, routing, shared_task
from dispatcher.brokers.base import Outgoing
from dispatcher.brokers.memory import MemoryBroker
from dispatcher.exceptions import (
    EncodeError,
    ImproperlyConfigured,
    NotRegistered,
    OperationalError,
    SendError,
    UnsupportedOption,
)
from tests.unit.bench import Bench, Globals
from tests.unit.test_utils_forks import in_fork

#: For a module that a test writes: when its import may go on, and what it does then.
IMPORTING = threading.Event()
REGISTER: Any = None


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    """Keep apps and shared tasks of one test from the next."""
    with Globals():
        yield


def test_constructor_takes_celery_s_keywords() -> None:
    """Celery's keywords and settings by name configure an app; nothing is connected by it."""
    app = Dispatcher(
        "shop", broker="memory://a", backend="memory://b", include=["json"], task_default_queue="q",
        changes={"timezone": "UTC"},
    )  # fmt: skip
    assert (app.main, app.conf.broker_url, app.conf.result_backend) == ("shop", "memory://a", "memory://b")
    assert (tuple(app.conf.include), app.conf.task_default_queue) == (("json",), "q")
    assert current_app.main == "shop"
    assert app._broker is None
    other = Dispatcher("other", set_as_current=False, include="json")
    assert current_app.main == "shop"
    assert repr(other).startswith("<Dispatcher other at ")
    with pytest.raises(ImproperlyConfigured, match=r"Dispatcher\(loader=…\) cannot work"):
        Dispatcher("x", loader="y")
    with pytest.raises(ImproperlyConfigured, match="brokr_url"):
        Dispatcher("x", brokr_url="y")


def test_task_class_of_an_app_is_the_base_of_its_tasks() -> None:
    """``task_cls``, a class or its path, is what `app.Task` and decorated functions derive from."""

    class Mine(Task):
        answer = 42

    app = Dispatcher("x", task_cls=Mine)
    assert app.Task is Mine
    assert isinstance(app.task(name="t")(lambda: 1), Mine)
    assert Dispatcher("y", task_cls="dispatcher.app.task:Task").Task is Task


def test_finalizing_happens_once_and_in_order() -> None:
    """Receivers hear of the configuration before it is fixed and of the app after; threads wait for one another."""
    app = Bench().app
    heard: list[Any] = []

    @app.on_configure.connect
    def first(sender: Any, **kwargs: Any) -> None:
        heard.append(("configure", sender.finalized))

    @app.on_after_configure.connect
    def second(sender: Any, source: Any = None, **kwargs: Any) -> None:
        heard.append(("after_configure", source is sender.conf))
        source.task_default_queue = "from-receiver"

    @app.on_after_finalize.connect
    def third(sender: Any, **kwargs: Any) -> None:
        heard.append(("after_finalize", sender.finalized))

    threads = [threading.Thread(target=app.finalize) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == [("configure", False), ("after_configure", True), ("after_finalize", True)]
    assert app.conf.task_default_queue == "from-receiver"
    with pytest.raises(ImproperlyConfigured, match="finalized"):
        app.conf.task_default_queue = "late"


def test_app_whose_tasks_are_wrong_never_becomes_final() -> None:
    """An option that cannot work stops every use, not the first alone."""
    app = Bench().app
    task = app.task(name="wrong", exchange="x")(lambda: 1)
    for _ in range(2):
        with pytest.raises(UnsupportedOption, match="task wrong: exchange='x' cannot work"):
            task.delay()
    assert not app.finalized


def test_task_registered_late_is_checked_too() -> None:
    """After finalizing, a task's options are checked when it is registered."""
    app = Bench().app
    app.finalize()
    with pytest.raises(ImproperlyConfigured, match="task late: max_retries must be"):
        app.task(name="late", max_retries=-1)(lambda: 1)


def test_wrong_decorators_say_what_is_right() -> None:
    """Options by position, things that are no function, and tasks of tasks are refused."""
    app = Bench().app
    with pytest.raises(TypeError, match="takes one function, or options by name"):
        app.task("name")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="takes one function, or options by name"):
        shared_task("name")  # type: ignore[call-overload]
    task = app.task(name="t")(lambda: 1)
    with pytest.raises(TypeError, match="t is a task already"):
        app.task(task)


def test_registry_of_an_app() -> None:
    """`app.tasks` maps names to tasks, shared ones included, and says what it knows."""
    app = Bench().app

    @shared_task(name="shared")
    def shared() -> None: ...

    own = app.task(name="own")(lambda: 1)
    assert {"own", "shared"} <= set(app.tasks)
    assert app.tasks["own"] is own
    with pytest.raises(NotRegistered, match="no task named 'other' is registered; known: own, shared"):
        app.tasks["other"]
    app.tasks.unregister(own)
    with pytest.raises(NotRegistered):
        app.tasks.unregister("own")


class HalfBroker(MemoryBroker):
    """A memory broker that refuses some messages, or all for a while, taking so many seconds for each try."""

    refuses = 0
    failures = 0
    #: the failures that come once it has refused some
    then_fails = 0
    takes = 0.0
    batches: list[int]

    def _send(self, messages: Sequence[Outgoing]) -> Mapping[str, str]:
        self.batches.append(len(messages))
        if self.failures:
            self.failures -= 1
            self.clock.sleep(self.takes)
            raise OperationalError("away")
        refused, self.refuses = messages[: self.refuses], 0
        self.failures, self.then_fails = self.then_fails, 0
        super()._send(messages[len(refused) :])
        return {message.id: "throttled" for message in refused}


def _half(bench: Bench) -> HalfBroker:
    bench.app._broker = broker = HalfBroker(bench.app.conf.broker_url, {}, bench.clock)
    broker.batches = []
    return broker


def test_sending_is_tried_again_as_configured() -> None:
    """A broker out of reach is tried again with growing pauses; ``retry=False`` tries once."""
    bench = Bench(
        task_publish_retry=True,
        task_publish_retry_policy={"max_retries": 2, "interval_start": 1, "interval_step": 2, "interval_max": 2},
    )
    broker, task = _half(bench), bench.app.task(name="t")(lambda: 1)
    begin = bench.clock.time()
    broker.failures = 2
    task.delay()
    assert bench.clock.time() == begin + 1 + 2
    broker.failures = 1
    with pytest.raises(OperationalError):
        task.apply_async(retry=False)
    broker.failures = 5
    with pytest.raises(OperationalError):
        task.apply_async(retry_policy={"max_retries": 1})
    assert broker.failures == 3


@pytest.mark.parametrize(
    ("policy", "message"),
    [({"max_retrys": 1}, "no key 'max_retrys'"), ({"max_retries": "often"}, "retry_policy="), ([3], "not a mapping")],
)
def test_a_retry_policy_that_cannot_work_is_refused(policy: Any, message: str) -> None:
    """Before anything is sent, not when the broker is away."""
    bench = Bench()
    broker, task = _half(bench), bench.app.task(name="t")(lambda: 1)
    with pytest.raises(ImproperlyConfigured, match=message):
        task.apply_async(retry_policy=policy)
    assert broker.batches == []


def test_a_try_that_took_longer_than_the_policy_is_the_last() -> None:
    """The broker's connection has repeated the call itself, or waited for an answer: all that again helps nobody."""
    bench = Bench(task_publish_retry=True)
    broker, task = _half(bench), bench.app.task(name="t")(lambda: 1)
    broker.failures, broker.takes = 5, 30.0
    with pytest.raises(OperationalError):
        task.delay()
    assert broker.failures == 4
    with pytest.raises(OperationalError):
        task.apply_async(retry_policy={"max_retries": 2, "interval_start": 60, "interval_max": 60})
    assert broker.failures == 1


def test_what_was_not_accepted_is_named_whatever_came_in_between() -> None:
    """Some of a batch were accepted, then the broker went away: the error names the others."""
    bench = Bench(task_publish_retry=True)
    broker, add = _half(bench), bench.app.task(name="add")(lambda x, y: x + y)
    broker.refuses, broker.then_fails = 2, 10
    with pytest.raises(SendError, match="2 of 3 messages were not accepted by memory; the first: t0: away") as caught:
        bench.app.send_many(add.s(n, n).set(task_id=f"t{n}") for n in range(3))
    assert caught.value.failures == {"t0": "away", "t1": "away"}


def test_many_are_checked_before_any_is_sent() -> None:
    """`send_many` sends in one call, all or nothing of what is wrong, and names what was not accepted."""
    bench = Bench()
    broker = _half(bench)
    add = bench.app.task(name="add")(lambda x, y: x + y)
    for wrong, error in (
        (add.s(1), TypeError),
        (add.s(1, object()), EncodeError),
        (add.s(1, 2).set(bogus=1), TypeError),
    ):
        with pytest.raises(error):
            bench.app.send_many([add.s(1, 1), wrong])
    assert broker.batches == []
    results = bench.app.send_many(add.s(n, n) for n in range(5))
    assert broker.batches == [5]
    bench.work()
    assert [result.get() for result in results] == [0, 2, 4, 6, 8]
    broker.refuses = 1
    with pytest.raises(SendError, match="1 of 2 messages were not accepted by memory") as caught:
        bench.app.send_many([add.s(1, 1).set(task_id="lost"), add.s(2, 2)])
    assert caught.value.failures == {"lost": "throttled"}
    assert bench.app.send_many([]) == []


def test_only_what_was_not_accepted_is_sent_again() -> None:
    """After a partial failure the rest alone is tried again."""
    bench = Bench(task_publish_retry=True)
    broker = _half(bench)
    add = bench.app.task(name="add")(lambda x, y: x + y)
    broker.refuses = 2
    bench.app.send_many(add.s(n, n) for n in range(5))
    assert broker.batches == [5, 2]
    assert bench.left() == 5


def test_results_of_many_are_children_of_who_sent_them() -> None:
    """`send_many` inside a task notes its results as the task's children."""
    bench = Bench()
    bench.app.task(name="leaf")(lambda: 1)

    @bench.app.task(name="fan")
    def fan() -> list[str]:
        return [result.id for result in bench.app.send_many([{"task": "leaf"}, {"task": "leaf"}])]

    result = fan.delay()
    bench.work()
    assert [child.id for child in result.children or ()] == result.get()


def test_unknown_tasks_can_be_sent_by_name() -> None:
    """`send_task` needs no registration; the result class can be chosen."""
    from dispatcher.contrib.abortable import AbortableAsyncResult

    bench = Bench()
    result = bench.app.send_task("elsewhere", [1], {"x": 2}, queue="q", result_cls=AbortableAsyncResult, task_id="mine")
    assert (type(result), result.id) == (AbortableAsyncResult, "mine")
    [delivery] = bench.receive(["q"])
    assert '"args":[1],"kwargs":{"x":2}' in str(delivery.body)


def test_missing_parts_of_celery_s_app_say_so() -> None:
    """What a Celery app has and this one has not is named with an alternative."""
    app = Bench().app
    with pytest.raises(AttributeError, match=r"app.events is not available in this release; read states from"):
        app.events  # type: ignore[attr-defined] # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        app.nonsense  # type: ignore[attr-defined] # noqa: B018
    with pytest.raises(TypeError, match="cannot be pickled"):
        app.__reduce__()


def test_time_of_an_app() -> None:
    """`now` is in the configured zone, by the app's clock."""
    bench = Bench(timezone="America/New_York")
    assert bench.app.now() == datetime.fromtimestamp(bench.clock.time(), UTC)
    assert str(bench.app.now().tzinfo) == "America/New_York"
    assert bench.app.now_seconds() == bench.clock.time()


def test_app_is_closed_and_opens_again() -> None:
    """``with app:`` closes the connections; using it again opens them."""
    bench = Bench()
    task = bench.app.task(name="t")(lambda: 1)
    with bench.app:
        task.delay()
    task.delay()
    assert bench.left() == 2


def test_settings_come_from_objects_and_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """`config_from_object`, `config_from_envvar` and `add_defaults` fill the configuration."""
    import sys

    module = types.ModuleType("shop_settings")
    module.task_default_queue = "from-module"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shop_settings", module)
    monkeypatch.setenv("SHOP_SETTINGS", "shop_settings")
    app = Dispatcher("a")
    assert app.config_from_envvar("SHOP_SETTINGS")
    assert not app.config_from_envvar("NO_SUCH_VARIABLE", silent=True)
    app.add_defaults({"task_default_queue": "default-only", "task_time_limit": 9})
    assert (app.conf.task_default_queue, app.conf.task_time_limit) == ("from-module", 9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Dispatcher("b", config_source="shop_settings")


def test_a_fork_waits_for_the_first_use_of_an_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that is forked while another thread makes the app's broker can send."""
    app, making = Dispatcher("forking", broker="memory://", set_as_current=False), threading.Event()
    task = app.task(name="t")(lambda: 1)
    app.finalize()
    make = connections.broker_of

    def make_slowly(*arguments: Any) -> Any:
        making.set()
        time.sleep(0.1)
        return make(*arguments)

    monkeypatch.setattr(connections, "broker_of", make_slowly)
    sender = threading.Thread(target=task.delay)
    sender.start()
    making.wait()
    assert in_fork(lambda: task.delay().state) == "PENDING"
    sender.join()


def test_a_task_is_found_once_its_options_are_settled() -> None:
    """Whoever sends a task that another thread registers sends it with its options, to its queue."""
    app = Bench().app
    app.finalize()
    found: list[bool] = []

    class Late(Task[Any, Any]):
        def settle_options(self) -> None:
            found.append(self.name in app.tasks)
            super().settle_options()

    task = app.task(name="late", base=Late, queue="slow")(lambda: 1)
    assert (found, app.tasks["late"]) == ([False], task)


def test_a_router_s_module_may_register_tasks_while_another_thread_uses_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its import by one thread and the app's first use in another wait for each other only where both can end."""
    name = f"routes_{uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(
        "from tests.unit import test_app as here\n"
        "here.IMPORTING.wait(30)\n"
        "here.REGISTER()\n"
        "def route(name, *args, **kwargs):\n"
        "    return 'elsewhere'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    app = Dispatcher("late", broker="memory://", set_as_current=False, task_routes=[f"{name}.route"])
    task = app.task(name="first")(lambda: 1)
    IMPORTING.clear()

    def import_routers(routes: Any) -> None:
        IMPORTING.set()  # the import goes on once the app is being used
        routing.import_routers(routes)

    monkeypatch.setattr("dispatcher.app.base.import_routers", import_routers)
    monkeypatch.setattr("tests.unit.test_app.REGISTER", lambda: app.task(name="second")(lambda: 2))
    importer = threading.Thread(target=importlib.import_module, args=(name,), daemon=True)
    importer.start()
    user = threading.Thread(target=app.finalize, daemon=True)
    user.start()
    importer.join(30)
    user.join(30)
    assert not importer.is_alive()
    assert not user.is_alive()
    assert "second" in app.tasks
    assert app._sender is not None
    assert app._sender.build("first", (), {}, {}, task).queue == "elsewhere"
