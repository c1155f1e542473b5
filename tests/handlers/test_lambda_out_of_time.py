"""AWS that hangs or throttles near the end of an invocation: the handler answers in time, and nothing is lost."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher import aws, aws_bounds
from dispatcher.backends.dynamodb import DynamoDBBackend
from dispatcher.lambda_runtime import deadline
from dispatcher.lambda_runtime.lost import Reader
from tests.handlers.lab import Context, Lab, MakeLab
from tests.handlers.test_lambda_worker import until_visible
from tests.unit.aws_wire import Refused, Wire

#: Seconds of the invocations here, and the share that is the settle margin: wide, for a machine that has much to do.
SECONDS, MARGIN = 4.0, 0.4


class Silence:
    """A server that takes connections and never says a word."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.connections: list[socket.socket] = []
        self._closed = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            if self._closed:
                connection.close()
                return
            self.connections.append(connection)

    def close(self) -> None:
        """Hang up on everybody."""
        self._closed = True
        socket.create_connection(self._listening.getsockname()).close()  # wakes the thread that accepts
        self._thread.join()
        self._listening.close()
        for connection in self.connections:
            connection.close()


@pytest.fixture
def silence() -> Iterator[Silence]:
    """A server that never answers."""
    server = Silence()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def short_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a worker with little time have some for its tasks."""
    monkeypatch.setattr(deadline, "MAX_MARGIN", MARGIN)


def run_batch(lab: Lab) -> tuple[list[str], int]:
    """Run what is visible; return what was reported and the milliseconds that were left then."""
    event, context = lab.take(), Context(SECONDS)
    assert event["Records"]
    reported = lab.invoke(event, context)
    return reported, context.get_remaining_time_in_millis()


def client_of(lab: Lab) -> Any:
    """Return the client of the app's table."""
    assert isinstance(lab.app.backend, DynamoDBBackend)
    return aws.client("dynamodb", lab.app.backend._settings)


def test_a_table_that_never_answers(make_lab: MakeLab, silence: Silence) -> None:
    """The records cannot be read: nothing runs, everything is handed back before the function's timeout."""
    lab = make_lab(result_backend_transport_options={"endpoint_url": silence.url})
    ran: list[int] = []
    task = lab.task(ran.append, name="lab.note")
    for number in range(3):
        task.delay(number)
    reported, left = run_batch(lab)
    assert len(reported) == 3
    assert left > 0
    assert silence.connections
    assert not ran
    assert aws_bounds.time_left("dynamodb") == float("inf")  # nothing outlives the invocation


def test_a_table_that_hangs_once_the_task_ran(make_lab: MakeLab) -> None:
    """The outcome cannot be written: the message is released, not acknowledged, and runs again later."""
    lab = make_lab()
    ran: list[int] = []
    result = lab.task(ran.append, name="lab.note").delay(1)
    client, go = client_of(lab), threading.Event()

    def hang(request: Any, **_: Any) -> None:
        if b"GetItem" not in bytes(str(request.headers["X-Amz-Target"]), "ascii"):
            go.wait(60)

    client.meta.events.register("before-send.dynamodb", hang)
    try:
        reported, left = run_batch(lab)
        assert (len(reported), ran) == (1, [1])
        assert left > 0
    finally:
        client.meta.events.unregister("before-send.dynamodb", hang)
        go.set()
    lab.invoke(until_visible(lab))  # long before the queue's own timeout
    assert result.get(timeout=20) is None


def test_a_table_that_throttles_everything(make_lab: MakeLab) -> None:
    """Retries with their pauses end where the time does."""
    lab = make_lab()
    lab.task(lambda: None, name="lab.note").delay()
    wire = Wire(client_of(lab))
    for operation in ("GetItem", "UpdateItem", "BatchGetItem"):
        wire.script(operation, Refused("ProvisionedThroughputExceededException"))
    try:
        reported, left = run_batch(lab)
    finally:
        wire.close()
    assert len(reported) == 1
    assert left > 0
    assert lab.depth() == {"visible": 0, "in_flight": 1, "delayed": 0}  # it rests a moment


def test_queue_and_table_that_both_hang(make_lab: MakeLab, silence: Silence) -> None:
    """Not even the release gets through: the messages are reported, and come after the queue's own timeout."""
    lab = make_lab(result_backend_transport_options={"endpoint_url": silence.url})
    lab.task(lambda: None, name="lab.note").delay()
    event, context = lab.take(), Context(SECONDS)
    queue, go = lab.app.broker._queues.client(""), threading.Event()  # type: ignore[attr-defined]

    def hang(**_: Any) -> None:
        go.wait(60)

    queue.meta.events.register("before-send.sqs", hang)
    try:
        answer = lab.worker(event, context)
    finally:
        queue.meta.events.unregister("before-send.sqs", hang)
        go.set()
    assert answer == {"batchItemFailures": [{"itemIdentifier": event["Records"][0]["messageId"]}]}
    assert context.get_remaining_time_in_millis() > 0


def test_a_reader_of_lost_messages_answers_in_time_as_well(make_lab: MakeLab, silence: Silence) -> None:
    """It hands back what it cannot decide without the records."""
    lab = make_lab(result_backend_transport_options={"endpoint_url": silence.url})
    lab.task(lambda: None, name="lab.note").delay()
    event, context = lab.take(), Context(SECONDS)
    for record in event["Records"]:
        record["eventSourceARN"] = f"{lab.arn}-lost"
    reader = Reader(lambda: lab.app)
    try:
        answer = reader(event, context)
    finally:
        reader.close()
    assert silence.connections
    assert answer == {"batchItemFailures": [{"itemIdentifier": event["Records"][0]["messageId"]}]}
    assert context.get_remaining_time_in_millis() > 0
