"""Ways that are shorter for what is usual end where the long ones do, which the unusual takes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher import Dispatcher
from dispatcher.backends.meta import ResultMeta
from dispatcher.clock import ManualClock
from dispatcher.exceptions import DecodeError, EncodeError, MessageTooLarge
from dispatcher.lambda_runtime.events import Record, deliveries_of, delivery_of
from dispatcher.message import Message, decode
from tests.property.test_message_properties import anything
from tests.property.test_serialization_properties import values

NOW = 1_800_000_000.0
fields = st.dictionaries(
    st.sampled_from(sorted({*Message.__dataclass_fields__} - {"id", "task"})),
    st.sampled_from(["text", ""]) | anything,
    max_size=3,
)


def _decoded(body: dict[str, Any]) -> Message | str:
    try:
        return decode(json.dumps(body))
    except DecodeError as error:
        return str(error)


@settings(max_examples=150)
@given(fields)
def test_a_message_of_texts_and_arguments_is_checked_like_any(given_fields: dict[str, Any]) -> None:
    """A field that is unknown, and so without meaning, has all the others looked at one by one."""
    body = {"v": 1, "id": "a", "task": "t", **given_fields}
    assert _decoded(body) == _decoded({**body, "unknown": 0})


app = Dispatcher("short", broker="memory://short", backend="memory://short", set_as_current=False)
app.finalize()
app.backend.max_data = 400
metas = st.builds(
    ResultMeta, name=st.text(max_size=30), parent_id=st.none() | st.text(max_size=30), date_done=st.just(NOW),
    visible_until=st.none() | st.just(NOW + 3600),
)  # fmt: skip


@settings(max_examples=60)
@given(values, metas, st.integers(0, 400))
def test_a_result_beside_a_shared_text_is_written_like_any(value: Any, meta: ResultMeta, padding: int) -> None:
    """What is put together is what would have been encoded; what cannot be, is left to that."""
    result = [value, "x" * padding]
    written = app.write_result(result, meta.encode(), app.backend)
    meta.result = result
    try:
        whole = app.write_meta(meta, app.backend, "the result", "id")
    except (EncodeError, MessageTooLarge):
        whole = None
    assert written == whole


def _shown(record: Record, now: float) -> Any:
    delivery = delivery_of(record, "default", now)
    return [getattr(delivery, name) for name in type(delivery).__dataclass_fields__]


options = st.fixed_dictionaries({}, optional={
    "queue": st.sampled_from(["a", "b"]), "priority": st.sampled_from([0, 9]), "expires": st.sampled_from([5, 60]),
    "serializer": st.sampled_from(["json", "msgpack"]), "compression": st.just("zlib"),
})  # fmt: skip
routes = st.sampled_from([{}, {"queue": "c"}, {"countdown": 7}, {"queue": "c", "expires": 9, "serializer": "msgpack"}])


def _task(route: Any, clock: ManualClock, **own: Any) -> Any:
    memory = "memory://calls"
    app = Dispatcher("calls", broker=memory, backend=memory, clock=clock, task_routes=route, set_as_current=False)
    task = app.task(name="t", **own)(lambda *args: None)
    app.finalize()
    return task


@given(st.lists(options, min_size=1, max_size=3), routes, st.booleans())
def test_a_call_like_the_one_before_is_sent_like_any(
    own: list[dict[str, Any]], route: dict[str, Any], is_table: bool
) -> None:
    """Whatever its task's options are by then, and however often it was called before."""
    clock = ManualClock()
    found = {"t": route} if is_table else (lambda *args, **more: route)
    task = _task(found, clock)
    for given_options in own:
        for name in ("queue", "priority", "expires", "serializer", "compression"):
            setattr(task, name, given_options.get(name))
        for _ in range(2):
            clock.advance(1)
            new = _task(found, clock, **given_options)
            sent, expected = (each.app._sender.build("t", (1,), {}, {}, each, new_id="id") for each in (task, new))
            assert sent == expected


RIGHT = {
    "ApproximateReceiveCount": "1",
    "SentTimestamp": "1799999999000",
    "ApproximateFirstReceiveTimestamp": "1799999999500",
}
EDGES = [str(edge + step) for edge in (0, 10**12, 10**15) for step in (-1, 0, 1)]
STRANGE = [*EDGES, "2", "", "1.5", "x", 0, 1, -1, 2.5, True, None, [], "１"]


@pytest.mark.parametrize("value", STRANGE, ids=repr)
@pytest.mark.parametrize("name", [*RIGHT, "MessageGroupId", "attributes", "body", "receiptHandle"])
def test_a_record_that_is_as_aws_sends_it_is_read_like_any(name: str, value: Any) -> None:
    """One that lacks its empty message attributes is read member by member."""
    record: dict[str, Any] = {"messageId": "id", "body": "{}", "receiptHandle": "r", "attributes": dict(RIGHT)}
    (record if name in record else record["attributes"])[name] = value
    for now in (NOW, 0.0):
        assert _shown({**record, "messageAttributes": {}}, now) == _shown(record, now)


@given(st.lists(st.sampled_from(["a", "a", "b", "", None, 5, ["a"]]), max_size=6))
def test_each_message_of_an_event_has_its_own_queue(arns: list[Any]) -> None:
    """However often one source follows itself or another."""
    found = deliveries_of([{"messageId": "id", "eventSourceARN": arn} for arn in arns], str.upper, NOW)
    assert [delivery.queue for delivery in found] == [str(arn).upper() for arn in arns]
