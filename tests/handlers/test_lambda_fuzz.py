"""Whatever is in a batch: the handler answers, and each message goes back or leaves a trace of what became of it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import math
import os
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from dispatcher import Dispatcher
from dispatcher.backends.base import TaskRecord, Write
from dispatcher.backends.memory import MemoryBackend
from dispatcher.exceptions import Ignore, OperationalError, Reject
from dispatcher.lambda_runtime.batches import Worker
from dispatcher.lambda_runtime.logs import JsonFormatter
from dispatcher.message import Message, encode
from dispatcher.security import Signer
from dispatcher.serialization import pack
from tests.handlers.lab import Context, checked
from tests.unit.aws_wire import Answer, Refused, Wire, accept_batch

EXAMPLES = int(os.environ.get("DISPATCHER_TEST_FUZZ", "60"))
KEY = bytes(range(32))
URL = "https://sqs.eu-west-3.amazonaws.com/1/"
ARN = "arn:aws:sqs:eu-west-3:1:default"
QUEUES = ("default", "default-dead", "default.fifo", "default-dead.fifo")


class Broken(Exception):
    """Raises whatever is done with it."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__

    def __reduce__(self) -> Any:
        raise TypeError("no pickle")


class Worse(BaseException):
    """The same, with what `except Exception` lets through."""

    def __init__(self, one: int, *, other: int) -> None:
        super().__init__(one, object())
        self.other = other

    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class Result:
    """A value that ends the process when it is shown or encoded."""

    def __repr__(self) -> str:
        raise KeyboardInterrupt

    def __json__(self) -> Any:
        raise SystemExit(4)


def _endless() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


def _nested() -> Any:
    value: Any = 1
    for _ in range(5_000):
        value = [value]
    return value


def _recurse() -> Any:
    return _recurse()


def _caused() -> BaseException:
    error = ValueError("circle", b"\xff", {1: object()}, "\ud800")
    error.__cause__ = error
    return error


RESULTS: dict[str, Any] = {
    "plain": lambda: {"a": [1, None, "é"]},
    "object": object,
    "result": Result,
    "type": lambda: Result,
    "endless": _endless,
    "nested": _nested,
    "nan": lambda: [math.nan, math.inf],
    "surrogate": lambda: "\ud800",
    "keys": lambda: {(1, 2): {"$": 1}},
    "integer": lambda: 10**5_000,
    "generator": lambda: (n for n in ()),
    "error": lambda: Worse(1, other=2),
}
ERRORS: dict[str, Any] = {
    "value": lambda: ValueError("x" * 100_000),
    "exit": lambda: SystemExit(5),
    "generator": GeneratorExit,
    "interrupt": KeyboardInterrupt,
    "broken": Broken,
    "worse": lambda: Worse(1, other=2),
    "circle": _caused,
    "group": lambda: ExceptionGroup("several", [Broken(), ValueError(object())]),
    "stop": lambda: StopIteration(Result()),
    "cancelled": asyncio.CancelledError,
    "memory": MemoryError,
    "ignore": Ignore,
    "reject": lambda: Reject(Result()),
    "requeue": lambda: Reject(Broken(), requeue=True),
}


class Place:
    """A worker above a faked SQS and a backend that can be out of reach; notes what became of messages."""

    def __init__(self, keys: Mapping[str, bytes] | None, lean: bool) -> None:
        self.ran: set[str] = set()
        self.sent: list[tuple[str, str, Mapping[str, Any]]] = []
        self.away = False
        self.refusing = False
        transport = {
            "region": "eu-west-3", "access_key_id": "AKID", "secret_access_key": "secret",
            "predefined_queues": {queue: {"url": URL + queue} for queue in QUEUES},
        }  # fmt: skip
        self.app = Dispatcher(
            "fuzz", broker="sqs://", backend="memory://fuzz", broker_transport_options=transport, set_as_current=False,
            task_default_queue="default", signing_keys=dict(keys) if keys else None, lambda_guard="none",
            task_publish_retry=False, task_soft_time_limit=5,
        )  # fmt: skip
        self.app._backend = _Backend(self)
        self.lean = lean
        self._tasks({"ignore_result": True, "revocable": False} if lean else {})
        self.worker = Worker(lambda: self.app)
        self.worker.start()
        self.wire: Wire | None = None

    def connect(self) -> None:
        """Answer the client's calls; each test has a client of its own."""
        self.away = self.refusing = False
        self.wire = Wire(self.app.broker._queues.client("default"))  # type: ignore[attr-defined]
        for operation in ("DeleteMessageBatch", "ChangeMessageVisibilityBatch"):
            self.wire.on(operation, lambda parameters: self._refuse() or accept_batch(parameters))
        self.wire.on("SendMessageBatch", self._take)
        self.wire.on("GetQueueUrl", _no_queue)
        self.wire.on("GetQueueAttributes", lambda parameters: self._refuse() or {"Attributes": _FIGURES})

    def _tasks(self, options: Any) -> None:
        def returns(task: Any, name: str = "plain", *args: Any, **kwargs: Any) -> Any:
            self.ran.add(task.request.id)
            return RESULTS[name]()

        def raises(task: Any, name: str = "value", *args: Any, **kwargs: Any) -> Any:
            self.ran.add(task.request.id)
            raise ERRORS[name]()

        def retries(task: Any, changes: Any = None, **kwargs: Any) -> Any:
            self.ran.add(task.request.id)
            raise task.retry(countdown=10, max_retries=None, args=changes)

        async def waits(name: str = "plain", error: bool = False) -> Any:
            await asyncio.sleep(0)
            if error:
                raise ERRORS[name]()
            return RESULTS[name]()

        for function in (returns, raises, retries):
            self.app.task(name=f"fuzz.{function.__name__}", bind=True, **options)(function)
            self.app.task(name=f"secret.{function.__name__}", bind=True, sensitive=True, **options)(function)
        self.app.task(name="fuzz.recurses", **options)(lambda: _recurse())
        self.app.task(name="fuzz.waits")(waits)

    def _take(self, parameters: dict[str, Any]) -> Answer:
        self._refuse()
        if not all(entry["MessageBody"] for entry in parameters["Entries"]):
            raise Refused("MissingParameter")
        for entry in parameters["Entries"]:
            self.sent.append((parameters["QueueUrl"], entry["MessageBody"], entry.get("MessageAttributes", {})))
        return accept_batch(parameters)

    def _refuse(self) -> None:
        if self.refusing:
            raise Refused("AccessDenied")

    def invoke(self, records: Sequence[Any]) -> set[str]:
        """Run a batch; return the ids that were reported."""
        self.ran.clear()
        self.sent.clear()
        bodies_of_batch = [record.get("body") for record in records if isinstance(record, dict)]
        self.app.backend.forget([task_id for body in bodies_of_batch if (task_id := _id_of(body)) is not None])
        batch = {"Records": list(records)}
        return set(checked(self.worker(batch, Context()), batch))

    def trace_of(self, record: Mapping[str, Any]) -> str | None:
        """Return what there is to see of a message that was acknowledged."""
        body = record.get("body")
        task_id = _id_of(body)
        for url, sent, attributes in self.sent:
            if url.removesuffix(".fifo").endswith("-dead"):
                mine = sent == body or (task_id is not None and _id_of(sent) == task_id)
                if mine and attributes.get("reason", {}).get("StringValue"):
                    return "dead letter"
            elif task_id is not None and _id_of(sent) == task_id:
                return "sent anew"
        if task_id is None:
            return None
        known = self.app.backend.read([task_id]).get(task_id)
        if known is not None and known.final:
            return "record"
        if known is not None and known.gen > (json.loads(body).get("gen") or 0):
            return "superseded"
        return "lean success" if self.lean and task_id in self.ran else None


class _Backend(MemoryBackend):
    """A memory backend that is out of reach when its place says so."""

    def __init__(self, place: Place) -> None:
        super().__init__(f"memory://{id(place)}")
        self._place = place

    def _read(self, ids: Sequence[str]) -> dict[str, TaskRecord]:
        self._check()
        return super()._read(ids)

    def _write(self, writes: Sequence[Write]) -> list[TaskRecord | None]:
        self._check()
        return super()._write(writes)

    def _check(self) -> None:
        if self._place.away:
            raise OperationalError("away")


_FIGURES = {
    "MessageRetentionPeriod": "345600", "VisibilityTimeout": "300",
    "RedrivePolicy": json.dumps({"maxReceiveCount": 50, "deadLetterTargetArn": f"{ARN}-lost"}),
}  # fmt: skip


def _no_queue(parameters: Any) -> Answer:
    raise Refused("QueueDoesNotExist")


def _id_of(body: Any) -> str | None:
    try:
        fields = json.loads(body)
    except (TypeError, ValueError, RecursionError):
        return None
    found = fields.get("id") if isinstance(fields, dict) else None
    return found if isinstance(found, str) else None


@pytest.fixture
def place(warm: Place) -> Iterator[Place]:
    """The worker, connected."""
    warm.connect()
    yield warm
    assert warm.wire is not None
    warm.wire.close()


@pytest.fixture(scope="module", params=["records", "lean", "signed"])
def warm(request: pytest.FixtureRequest) -> Iterator[Place]:
    """One worker for all examples, as warm as in Lambda; its lines are formatted, and not kept."""
    logger, handler, loud = (
        logging.getLogger("dispatcher"),
        logging.StreamHandler(io.StringIO()),
        logging.raiseExceptions,
    )
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    logger.propagate = logging.raiseExceptions = False
    made = Place({"k1": KEY} if request.param == "signed" else None, request.param == "lean")
    yield made
    made.worker.close()
    logger.removeHandler(handler)
    logger.propagate, logging.raiseExceptions = True, loud


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from([2**64, -1, 10**400, "\ud800", "\0", "", 4e9, 1e308])
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["$", "v", "id", "task", "ref", "enc", "data", "a"]), inner, max_size=4)
    ),
    max_leaves=10,
)
FIELDS = [*Message.__dataclass_fields__, "v", "critical", "sig", "beat"]
ids = st.uuids().map(str) | st.sampled_from(["twice", "x" * 255])
calls = (
    st.tuples(st.sampled_from(["fuzz.returns", "secret.returns", "fuzz.waits"]), st.tuples(st.sampled_from([*RESULTS])))
    | st.tuples(st.sampled_from(["fuzz.raises", "secret.raises"]), st.tuples(st.sampled_from([*ERRORS])))
    | st.tuples(st.just("fuzz.waits"), st.tuples(st.sampled_from([*ERRORS]), st.just(True)))
    | st.tuples(st.sampled_from(["fuzz.retries", "secret.retries"]), st.sampled_from([(), ([1],), (5,), ("plain", 1)]))
    | st.sampled_from([("fuzz.recurses", ()), ("fuzz.recurses", (1,)), ("fuzz.unknown", ()), ("fuzz.returns", ("?",))])
)  # fmt: skip
options = st.fixed_dictionaries({}, optional={
    "eta": st.sampled_from([1.0, 4e9]), "expires": st.sampled_from([1.0, 4e9]), "gen": st.integers(0, 2),
    "retries": st.integers(0, 3), "ignore_result": st.booleans(), "soft_time_limit": st.sampled_from([0.001, 5]),
    "link": st.just(({"task": "fuzz.returns"},)) | st.just(({"task": "gone", "args": 5},)),
    "link_error": st.just(({"task": "fuzz.raises"},)), "sensitive": st.just(True) | st.just((0, "a")),
})  # fmt: skip


@st.composite
def fields_of_messages(draw: Any) -> dict[str, Any]:
    """Draw what a message has, whole."""
    task, args = draw(calls)
    message = Message(draw(ids), task, args, **draw(options))
    if draw(st.integers(0, 5)) == 0:
        serializer = draw(st.sampled_from(["json", "msgpack"]))
        message = message.replace(packed=pack([list(args), {}], serializer, "zlib"))
    found: dict[str, Any] = json.loads(encode(message))
    return found


@st.composite
def bodies(draw: Any) -> Any:
    """Draw a body: a good message, one with a field that is wrong, a damaged text, or anything."""
    kind = draw(st.sampled_from(["good"] * 5 + ["signed"] * 3 + ["changed"] * 4 + ["damaged"] * 2 + ["any", "deep"]))
    if kind == "any":
        return draw(values | values.map(json.dumps) | st.text() | st.binary().map(repr))
    if kind == "deep":
        return draw(st.sampled_from(["[" * 10_000, '{"a":' * 5_000, '{"v":1,"id":"d","task":"t","args":' + "[" * 300]))
    fields = draw(fields_of_messages())
    if kind == "changed":
        for name in draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3)):
            fields[name] = draw(values)
    text = json.dumps(fields, separators=(",", ":"))
    if kind == "signed" or draw(st.integers(0, 3)) == 0:
        text = Signer({"k1": KEY}).sign(text, draw(st.sampled_from(["default", "default", "other"])), _now())
    if kind == "damaged":
        at = draw(st.integers(0, len(text)))
        text = draw(
            st.sampled_from([text[:at], text[at:], text[:at] + "\ud83d" + text[at:], text[:at] + text, text + text])
        )
    return text


def _now() -> float:
    import time

    return time.time()


attributes = st.fixed_dictionaries({}, optional={
    "ApproximateReceiveCount": st.sampled_from(["1", "1", "1", "2", "60", "", "x"]) | scalars,
    "SentTimestamp": st.sampled_from(["1763831471239", ""]) | scalars,
    "ApproximateFirstReceiveTimestamp": scalars,
    "MessageGroupId": st.sampled_from(["a", "b"]) | scalars,
})  # fmt: skip
good_record = st.fixed_dictionaries(
    {
        "messageId": st.uuids().map(str) | st.sampled_from(["same", "same"]),
        "receiptHandle": st.just("receipt"),
        "body": bodies(),
        "attributes": st.just({"ApproximateReceiveCount": "1"}) | attributes,
        "eventSource": st.just("aws:sqs"),
        "eventSourceARN": st.sampled_from([ARN, ARN, ARN, f"{ARN}.fifo"]),
    }
)
odd_record = st.fixed_dictionaries(
    {"messageId": st.uuids().map(str) | scalars, "eventSource": st.just("aws:sqs")},
    optional={
        "body": bodies() | values,
        "receiptHandle": values,
        "attributes": attributes | values,
        "messageAttributes": values,
        "eventSourceARN": st.sampled_from(["", "nonsense", f"{ARN}-unknown"]) | values,
    },
)
relaxed = settings(
    max_examples=EXAMPLES, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)  # fmt: skip


@given(
    records=st.lists(good_record | odd_record | values, max_size=10),
    away=st.sampled_from([False] * 4 + [True]),
    refusing=st.sampled_from([False] * 4 + [True]),
)
@relaxed
def test_each_message_goes_back_or_leaves_a_trace(place: Place, records: list[Any], away: bool, refusing: bool) -> None:
    """Also with the result backend or SQS out of reach."""
    place.away, place.refusing = away, refusing
    reported = place.invoke(records)
    place.away = False
    seen: Counter[str] = Counter()
    for record in records:
        if not isinstance(record, dict) or not isinstance(record.get("messageId"), str) or not record["messageId"]:
            continue
        if record.get("eventSource") != "aws:sqs":
            continue
        trace = "reported" if record["messageId"] in reported else place.trace_of(record)
        assert trace is not None, f"acknowledged without a trace: {record!r}"
        seen[trace] += 1
    for trace in seen:
        event(trace)


@given(anything=values | st.fixed_dictionaries({"Records": values}) | st.binary(), context=values)
@relaxed
def test_any_event_is_answered(place: Place, anything: Any, context: Any) -> None:
    """Whatever comes instead of a batch."""
    checked(place.worker(anything, context), anything)


def test_a_task_that_breaks_what_shows_it_harms_no_neighbour(place: Place) -> None:
    """Of each way to end a neighbour is done with in the same invocation, and so is the task, with an outcome."""
    signer = Signer({"k1": KEY})
    ways = [(task, (name,)) for task in ("fuzz.returns", "secret.returns", "fuzz.waits") for name in RESULTS]
    ways += [(task, (name,)) for task in ("fuzz.raises", "secret.raises") for name in ERRORS]
    ways += [("fuzz.waits", (name, True)) for name in ERRORS]
    for task, args in ways:
        records = []
        for number, call in enumerate(((task, args), ("fuzz.returns", ("plain",)))):
            body = encode(Message(str(uuid.uuid4()), *call))
            if place.app.conf.signing_keys:
                body = signer.sign(body, "default", _now())
            attributes = {"ApproximateReceiveCount": "1"}
            records.append(
                {"messageId": f"m{number}", "receiptHandle": "r", "body": body, "attributes": attributes,
                 "eventSource": "aws:sqs", "eventSourceARN": ARN}
            )  # fmt: skip
        goes_back = {"m0"} if args[0] == "requeue" else set()
        assert place.invoke(records) == goes_back, (task, args)
        assert all(place.trace_of(record) for record in records if record["messageId"] not in goes_back), (task, args)
