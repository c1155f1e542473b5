"""For any event: the handler never raises, its answer is well-formed, and each message is settled or reported."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatcher.backends.base import Write
from dispatcher.lambda_runtime.lost import Reader
from dispatcher.message import Message, encode
from tests.emulation.endpoint import AwsEndpoint
from tests.handlers.lab import Context, Lab, checked


class Recorder:
    """A lab whose task notes the messages it ran, and the dead letters that were buried."""

    def __init__(self, aws: AwsEndpoint) -> None:
        self.lab = Lab(aws)
        self.ran: list[str] = []
        ran = self.ran

        def note(task: Any, *args: Any, **kwargs: Any) -> None:
            ran.append(task.request.id)

        def retry(task: Any, *args: Any, **kwargs: Any) -> None:
            raise task.retry(countdown=60)

        self.lab.task(note, bind=True, ignore_result=True, revocable=False)
        self.lab.task(retry, bind=True, max_retries=None)
        self.lab.worker.start()
        #: the function that reads lost queues, with the same app
        self.reader = Reader(lambda: self.lab.app)
        self.reader.start()


@pytest.fixture(scope="module")
def recorder(aws_endpoint: AwsEndpoint) -> Iterator[Recorder]:
    """One worker for all examples, as warm as in Lambda."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in aws_endpoint.env().items():
            patch.setenv(name, value)
        made = Recorder(aws_endpoint)
        yield made
        made.lab.worker.close()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
ids = st.uuids().map(str)
bodies = st.one_of(
    json_values.map(json.dumps),
    st.text(max_size=30),
    ids.map(lambda task_id: encode(Message(id=task_id, task="lab.note", args=(1,)))),
    ids.map(lambda task_id: encode(Message(id=task_id, task="lab.retry"))),
    ids.map(lambda task_id: encode(Message(id=task_id, task="lab.unknown"))),
    ids.map(lambda task_id: encode(Message(id=task_id, task="lab.note", eta=4e9))),
    ids.map(lambda task_id: encode(Message(id=task_id, task="lab.note", expires=1.0))),
)
attributes = st.fixed_dictionaries(
    {},
    optional={
        "ApproximateReceiveCount": st.sampled_from(["1", "1", "2", "7", "", "x"]) | json_values,
        "SentTimestamp": st.sampled_from(["1763831471239", ""]) | json_values,
        "ApproximateFirstReceiveTimestamp": json_values,
        "MessageGroupId": st.sampled_from(["a", "b"]) | json_values,
    },
)
arns = st.sampled_from(
    [
        *(f"arn:aws:sqs:us-east-1:000000000000:{name}" for name in ("default", "default.fifo", "default-lost")),
        "arn:aws:sqs:us-east-1:000000000000:default-lost.fifo", "", "nonsense",
    ]
)  # fmt: skip
records = st.fixed_dictionaries(
    {"messageId": ids | st.sampled_from(["twice", "twice"]), "eventSource": st.just("aws:sqs")},
    optional={
        "body": bodies | json_values,
        "receiptHandle": st.text(max_size=10) | json_values,
        "attributes": attributes | json_values,
        "messageAttributes": json_values,
        "eventSourceARN": arns | json_values,
    },
)
# Slow examples are the broker's own retries against queues that do not exist.
relaxed = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@given(event=json_values | st.fixed_dictionaries({"Records": json_values | st.lists(json_values | records)}))
@relaxed
def test_any_event_gets_a_well_formed_answer(recorder: Recorder, event: Any) -> None:
    """Whatever arrives, the answer is one that a mapping accepts."""
    checked(recorder.lab.worker(event, Context()), event)


# A call to a queue that does not exist, given up by its batch, goes on in a thread, whose retries have random pauses.
@given(event=json_values | st.fixed_dictionaries({"Records": json_values | st.lists(json_values | records)}))
@relaxed
def test_any_event_gets_a_well_formed_answer_from_the_reader(recorder: Recorder, event: Any) -> None:
    """The same from the function that decides on lost messages."""
    checked(recorder.reader(event, Context()), event)


@given(st.lists(st.sampled_from(["note", "unknown", "garbage", "started"]), min_size=1, max_size=10))
@settings(relaxed, max_examples=20)
def test_each_lost_message_is_settled_or_reported(recorder: Recorder, kinds: list[str]) -> None:
    """Of a batch of real ones, each goes home, is buried, or is reported; none runs here."""
    lab = recorder.lab
    recorder.ran.clear()
    for url in (lab.url, lab.dead_url):
        lab.sqs.purge_queue(QueueUrl=url)
    ids, entries = [str(uuid.uuid4()) for _ in kinds], []
    for number, (kind, task_id) in enumerate(zip(kinds, ids, strict=True)):
        name = "note" if kind == "started" else kind
        body = "garbage" if kind == "garbage" else encode(Message(id=task_id, task=f"lab.{name}"))
        entries.append({"Id": str(number), "MessageBody": body})
        if kind == "started":
            start = Write(task_id, "PENDING", 0, 0, 0, final=False, token="", expires_at=4e9, starts=1, started_at=1.0)
            lab.app.backend.write([start])
    lab.sqs.send_message_batch(QueueUrl=lab.url, Entries=entries)
    event = lab.take()
    for record in event["Records"]:
        record["eventSourceARN"] = record["eventSourceARN"] + "-lost"
    reported = checked(recorder.reader(event, Context()), event)
    assert reported == [record["messageId"] for record in event["Records"] if "lab.unknown" in record["body"]]
    assert recorder.ran == []
    assert lab.depth()["visible"] == kinds.count("note")
    assert len(lab.dead_letters()) == kinds.count("garbage") + kinds.count("started")


@given(context=st.sampled_from([None, 7, "x"]) | st.builds(Context, st.floats(-5, 5)), record=records)
@relaxed
def test_any_context_gets_a_well_formed_answer(recorder: Recorder, context: Any, record: dict[str, Any]) -> None:
    """A context that is none, or has no time left, changes nothing of that."""
    event = {"Records": [record]}
    checked(recorder.lab.worker(event, context), event)


@given(st.lists(st.sampled_from(["note", "retry", "unknown", "garbage"]), min_size=1, max_size=10))
@relaxed
def test_each_message_is_settled_or_reported(recorder: Recorder, kinds: list[str]) -> None:
    """Of a batch of real messages, those that ran or were buried are gone, and the others are reported."""
    lab = recorder.lab
    recorder.ran.clear()
    # What the examples before left behind.
    lab.sqs.purge_queue(QueueUrl=lab.url)
    lab.sqs.purge_queue(QueueUrl=lab.dead_url)
    expected = {}
    entries = []
    for number, kind in enumerate(kinds):
        task_id = str(uuid.uuid4())
        body = "garbage" if kind == "garbage" else encode(Message(id=task_id, task=f"lab.{kind}"))
        expected[body if kind != "garbage" else f"garbage{number}"] = (kind, task_id)
        entries.append({"Id": str(number), "MessageBody": body})
    lab.sqs.send_message_batch(QueueUrl=lab.url, Entries=entries)
    event = lab.take()
    assert len(event["Records"]) == len(kinds)
    reported = lab.invoke(event)
    stay = [record["messageId"] for record in event["Records"] if "lab.retry" in record["body"]
            or "lab.unknown" in record["body"]]  # fmt: skip
    assert reported == stay
    assert sorted(recorder.ran) == sorted(task_id for kind, task_id in expected.values() if kind == "note")
    assert len(lab.dead_letters()) == kinds.count("garbage")
