"""Calls: from options to a message on a queue, and every option that cannot work is refused by name."""

import enum
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dispatcher import signals
from dispatcher.call_options import REFUSED_OPTIONS
from dispatcher.exceptions import ImproperlyConfigured, MessageTooLarge, QueueNotFound, UnsupportedOption
from dispatcher.message import Message, decode
from dispatcher.utils import uuid as new_id
from dispatcher.utils import uuids as new_ids
from tests.unit.bench import Bench


class Level(enum.IntEnum):
    """A number with a name."""

    HIGH = 3


class Name(str, enum.Enum):  # noqa: UP042 - as much code has it, and str() differs
    """A text with a name."""

    SLOW = "slow"


NOW = 1_800_000_000.0


def _sent(queues: Any = (), settings: Any = None, task: Any = None, **options: Any) -> Message:
    bench = Bench(**(settings or {}))
    bench.app.task(name="t", **(task or {}))(lambda *args, **kwargs: 1).apply_async(**options)
    [delivery] = bench.receive(queues, wait=1e9)
    return decode(delivery.body)


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({"countdown": 10}, "eta", NOW + 10),
        ({"countdown": timedelta(minutes=1)}, "eta", NOW + 60),
        ({"countdown": -10}, "eta", None),
        ({"countdown": 0}, "eta", None),
        ({"eta": datetime.fromtimestamp(NOW + 5.25, UTC)}, "eta", NOW + 5.25),
        ({"eta": datetime.fromtimestamp(NOW + 5, UTC).isoformat()}, "eta", NOW + 5),
        ({"eta": timedelta(seconds=7)}, "eta", NOW + 7),
        ({"eta": datetime.fromtimestamp(NOW - 5, UTC)}, "eta", None),
        ({"countdown": 3, "eta": datetime.fromtimestamp(NOW + 99, UTC)}, "eta", NOW + 3),
        ({"expires": 60}, "expires", NOW + 60),
        ({"expires": -1}, "expires", NOW - 1),
        ({"expires": datetime.fromtimestamp(NOW + 9, UTC)}, "expires", NOW + 9),
        ({"expires": datetime(1960, 1, 1, tzinfo=UTC)}, "expires", 0),
        ({"expires": timedelta(hours=1)}, "expires", NOW + 3600),
        ({"task_id": "mine"}, "id", "mine"),
        ({"task_id": uuid.UUID(int=5)}, "id", str(uuid.UUID(int=5))),
        ({"priority": Level.HIGH}, "priority", 3),
        ({"priority": 0}, "priority", 0),
        ({"soft_time_limit": 1.5, "time_limit": 2}, "soft_time_limit", 1.5),
        ({"ignore_result": False}, "ignore_result", False),
        ({"headers": {"a": 1}}, "headers", {"a": 1}),
        ({"shadow": "s"}, "shadow", "s"),
        ({"reply_to": "r"}, "reply_to", "r"),
        ({"retries": 2}, "retries", 2),
        ({"group_id": "g", "group_index": 4}, "group_index", 4),
        ({"root_id": "r", "parent_id": "p"}, "root_id", "r"),
        ({"link": {"task": "x"}}, "link", ({"task": "x"},)),
        ({"link_error": [{"task": "x"}, {"task": "y"}]}, "link_error", ({"task": "x"}, {"task": "y"})),
        ({"serializer": "msgpack"}, "packed", None),
        ({"args": [1], "serializer": "msgpack"}, "packed", {"enc": "msgpack", "data": "kpEBgA=="}),
        ({"shadow": None, "countdown": None, "queue": None, "exchange": None}, "shadow", None),
    ],
)
def test_options_become_fields(options: Any, field: str, value: Any) -> None:
    """Each option is found in the message; `None` counts as not given."""
    assert getattr(_sent(**options), field) == value


@pytest.mark.parametrize("option", REFUSED_OPTIONS)
def test_options_that_cannot_work_are_refused_by_name(option: str) -> None:
    """Celery's options without meaning here raise with name, reason and alternative; nothing is sent."""
    bench = Bench()
    task = bench.app.task(name="t")(lambda: 1)
    with pytest.raises(UnsupportedOption) as caught:
        task.apply_async(**{option: "x"})
    assert str(caught.value) == f"{option}='x' cannot work: {REFUSED_OPTIONS[option]}"
    assert bench.left() == 0


def test_options_of_the_library_itself_are_not_proposed() -> None:
    """The list of what `apply_async` knows has what a caller may set, and not what continuations and retries set."""
    bench = Bench()
    task = bench.app.task(name="plain")(lambda: None)
    with pytest.raises(TypeError) as caught:
        task.apply_async(zzz=1)
    known = str(caught.value).partition("known: ")[2].split(", ")
    assert {"countdown", "eta", "expires", "link", "priority", "queue", "task_id"} < set(known)
    assert {"gen", "retries", "root_id", "parent_id", "group_id", "group_index", "result_cls"}.isdisjoint(known)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"counddown": 1}, TypeError, "no option 'counddown'; did you mean 'countdown'"),
        ({"zzz": 1}, TypeError, "no option 'zzz'; known: "),
        ({"countdown": "10"}, TypeError, "countdown must be a number of seconds, not '10'"),
        ({"countdown": True}, TypeError, "countdown must be a number of seconds, not True"),
        ({"countdown": float("nan")}, ValueError, "countdown must be a finite number"),
        ({"countdown": 10**400}, ValueError, "countdown must be a finite number"),
        ({"countdown": 1e12}, UnsupportedOption, "countdown=1000000000000.0 cannot work: it ends after the year 9999"),
        ({"countdown": timedelta(days=3_000_000)}, UnsupportedOption, "it ends after the year 9999"),
        ({"eta": datetime.max.replace(tzinfo=UTC)}, UnsupportedOption, "it ends after the year 9999"),
        ({"expires": 1e12}, UnsupportedOption, "expires=1000000000000.0 cannot work: it ends after the year 9999"),
        ({"eta": 5}, TypeError, "eta must be a datetime, not 5"),
        ({"eta": "soon"}, ImproperlyConfigured, "eta='soon' is not an ISO 8601 time"),
        ({"expires": float("inf")}, ValueError, "expires must be a finite number"),
        ({"task_id": 42}, TypeError, "task_id must be a text of 1 to 255 characters, not 42"),
        (
            {"task_id": "LOCK#x"},
            ValueError,
            "task_id must be a text of 1 to 255 characters not beginning with 'LOCK#', not 'LOCK#x'",
        ),
        ({"task_id": "x" * 256}, ValueError, "task_id must be a text of 1 to 255 characters"),
        ({"priority": 10}, UnsupportedOption, "priority=10 cannot work"),
        ({"priority": "high"}, UnsupportedOption, "priority='high' cannot work"),
        ({"headers": [1]}, TypeError, "headers must be an object"),
        ({"time_limit": 0}, ValueError, "time_limit must be over 0 seconds, not 0"),
        ({"soft_time_limit": 5, "time_limit": 4}, ValueError, "soft_time_limit=5 must not be over time_limit=4"),
        ({"link": "add"}, TypeError, "link= takes signatures, such as add.s(1), not 'add'"),
        ({"link_error": [5]}, TypeError, "link_error= takes signatures"),
        ({"retries": -1}, ValueError, "retries must be a whole number from 0 on, not -1"),
        ({"retries": "x"}, TypeError, "retries must be a whole number from 0 on, not 'x'"),
        ({"queue": 5}, TypeError, "queue must be a queue's name, or an object that has one, not 5"),
        ({"queue": ""}, TypeError, "queue must be a queue's name"),
        ({"root_id": 5}, TypeError, "root_id must be a text"),
        ({"ignore_result": "x"}, TypeError, "ignore_result must be true or false, not 'x'"),
        ({"serializer": "nope"}, ImproperlyConfigured, "unknown serializer 'nope'; known are json, "),
        ({"compression": "nope"}, ImproperlyConfigured, "unknown compression 'nope'"),
        ({"MessageGroupId": "g"}, UnsupportedOption, "MessageGroupId='g' cannot work: memory has no message groups"),
        ({"args": "ab"}, TypeError, "task arguments must be a list or a tuple, not str"),
        ({"args": {"a": 1}}, TypeError, "task arguments must be a list or a tuple, not dict"),
        ({"args": 5}, TypeError, "task arguments must be a list or a tuple, not int"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_sent(options: Any, error: type[Exception], words: str) -> None:
    """A value that cannot work is named at the call, not found by a worker."""
    bench = Bench()
    task = bench.app.task(name="t")(lambda *args: 1)
    with pytest.raises(error) as caught:
        task.apply_async(**{"args": (1,), **options})
    assert words in str(caught.value)
    assert bench.left() == 0


def test_soft_limit_of_a_call_is_held_against_the_task_s_hard_one() -> None:
    """A call may not ask for a soft limit over the hard limit that the task has."""
    with pytest.raises(ValueError, match="soft_time_limit=9 must not be over time_limit=5"):
        _sent(task={"time_limit": 5}, soft_time_limit=9)
    assert _sent(task={"time_limit": 5}, soft_time_limit=9, time_limit=10).soft_time_limit == 9


def test_arguments_are_checked_and_read_once() -> None:
    """A generator of arguments arrives whole; keyword arguments need names."""
    bench = Bench()
    add = bench.app.task(name="add")(lambda x, y: x + y)
    result = add.apply_async(n for n in (1, 2))
    bench.work()
    assert result.get() == 3
    with pytest.raises(TypeError, match="names of keyword arguments must be texts, not 1"):
        bench.app.send_task("add", (), {1: 2})
    with pytest.raises(TypeError, match="a task's name must be a text"):
        bench.app.send_task(5)  # type: ignore[arg-type]


def test_queue_is_found_by_call_task_route_and_default() -> None:
    """The nearest wins: the call, the task, the route, the default; objects with a name and enums are queues too."""

    class Queue:
        name = "named"

    routes = {"task_routes": {"t": {"queue": "routed", "priority": 2, "time_limit": 5}}}
    assert _sent(["routed"], routes).time_limit == 5
    assert _sent(["own"], routes, {"queue": "own"}).priority == 2
    assert _sent(["own"], routes, {"queue": "own", "priority": 7}).priority == 7
    assert _sent(["called"], routes, {"queue": "own"}, queue="called", priority=0).priority == 0
    assert _sent(["named"], queue=Queue()).task == "t"
    assert _sent(["slow"], queue=Name.SLOW).task == "t"
    assert _sent(["jobs"], {"task_default_queue": "jobs", "task_default_priority": 4}).priority == 4


def test_undeclared_queue_is_refused_where_queues_are_declared() -> None:
    """With ``task_create_missing_queues`` off a misspelt queue is an error that lists the declared ones."""
    settings = {"task_create_missing_queues": False, "task_queues": ["a", "b"]}
    with pytest.raises(QueueNotFound, match=r"queue 'c' is not declared in task_queues.*declared: a, b"):
        _sent(["c"], settings, queue="c")
    assert _sent(["a"], settings, queue="a").task == "t"


def test_priority_is_inherited_where_that_is_wanted() -> None:
    """``task_inherit_parent_priority`` gives children their parent's priority, unless they have their own."""
    bench = Bench(task_inherit_parent_priority=True, task_default_priority=1)
    seen: list[Any] = []
    bench.app.task(name="child", bind=True)(lambda self: seen.append(self.request.delivery_info["priority"]))

    @bench.app.task(name="parent")
    def parent() -> None:
        bench.app.send_task("child")
        bench.app.send_task("child", priority=9)

    parent.apply_async(priority=5)
    bench.work()
    assert sorted(seen) == [5, 9]


def test_runaway_chains_end() -> None:
    """Tasks that send each other without end are stopped at ``task_max_depth`` with the reason."""
    bench = Bench(task_max_depth=5)
    runs: list[int] = []

    @bench.app.task(name="again")
    def again() -> None:
        runs.append(1)
        again.delay()

    again.delay()
    bench.work()
    assert len(runs) == 6
    [letter] = bench.dead()
    assert "again would be the 6th task in a row" in letter.reason["exception"]


def test_receiver_of_the_publishing_signal_sees_and_changes_the_headers() -> None:
    """`before_task_publish` shows what Celery's does; only headers can be added."""
    seen: list[Any] = []

    def before(sender: Any = None, headers: Any = None, properties: Any = None, **kwargs: Any) -> None:
        seen.append((sender, headers["id"], headers["task"], properties["correlation_id"], kwargs["routing_key"]))
        headers.update(added=1, id="ignored")

    signals.before_task_publish.connect(before)
    try:
        message = _sent(task_id="mine", headers={"own": 2})
    finally:
        signals.before_task_publish.disconnect(before)
    assert seen == [("t", "mine", "t", "mine", "default")]
    assert (message.id, message.headers) == ("mine", {"own": 2, "added": 1})


def test_route_name_asks_the_routes_by_another_name() -> None:
    """A call may be routed as if its task had another name."""
    bench = Bench(task_routes={"reports.*": "slow"})
    task = bench.app.task(name="t")(lambda: 1)
    task.apply_async(route_name="reports.daily")
    assert bench.app.broker.counts("slow").ready == 1


def test_a_delay_that_outlives_the_signature_is_refused() -> None:
    """It would be found too old when it is due; where the queue has messages renewed, they are signed anew."""
    bench = Bench(signing_keys={"k1": bytes(32)}, signing_max_age=86_400)
    task = bench.app.task(name="later")(lambda: None)
    task.apply_async(countdown=86_000)
    with pytest.raises(UnsupportedOption, match="signing_max_age, now 86,400 s"):
        task.apply_async(countdown=86_500)


def test_a_message_that_workers_would_refuse_is_not_sent() -> None:
    """It would be a dead letter; the error names the setting."""
    bench = Bench(max_message_bytes=2000)
    task = bench.app.task(name="t")(len)
    with pytest.raises(MessageTooLarge, match=r"message of task \S+ has 3,\d{3} bytes, over the 2,000 of max_message"):
        task.delay("x" * 3000)
    assert bench.receive() == []
    task.delay("x" * 1000)
    assert len(bench.receive()) == 1


def test_what_depends_on_the_moment_is_worked_out_for_each_call() -> None:
    """A task's expiry and a route's countdown count from each call, though neither call has options of its own."""
    bench = Bench(task_routes={"t": {"countdown": 60}})
    task = bench.app.task(name="t", expires=600)(lambda: 1)
    task.delay()
    bench.clock.advance(100)
    task.delay()
    bench.clock.advance(1000)
    messages = [decode(delivery.body) for delivery in bench.receive()]
    assert [(message.eta, message.expires) for message in messages] == [
        (NOW + 60, NOW + 600),
        (NOW + 160, NOW + 700),
    ]


def test_router_functions_are_asked_about_each_call() -> None:
    """A function routes by the arguments, so no answer of it is kept."""
    bench = Bench(task_routes=lambda name, args, kwargs, options, task=None: {"queue": args[0]})
    task = bench.app.task(name="t")(lambda queue: 1)
    for queue in ("a", "b"):
        task.delay(queue)
    assert [decode(delivery.body).args for delivery in bench.receive(["a"])] == [("a",)]
    assert [decode(delivery.body).args for delivery in bench.receive(["b"])] == [("b",)]


def test_ids_are_random_uuids() -> None:
    """A task's id is a UUID of version 4, and no two are the same."""
    ids = {new_id() for _ in range(1000)} | set(new_ids(1000))
    assert len(ids) == 2000
    for each in ids:
        parsed = uuid.UUID(each)
        assert (str(parsed), parsed.version, parsed.variant) == (each, 4, uuid.RFC_4122)
