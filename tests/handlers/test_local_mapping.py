"""The event source mapping of `dispatcher local`, with the real runtime client, on an endpoint over HTTP."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher.local.functions import Environments, MappedFunction, Place
from dispatcher.local.mapping import EventSourceMapping
from dispatcher.local.sandbox import Invocation
from tests.emulation.endpoint import AwsEndpoint, unique_name
from tests.emulation.environments import lambda_python

PATIENCE = 30.0

HANDLER = """
import json, os, time
from pathlib import Path

HERE = Path(__file__).parent

def handler(event, context):
    name = str(time.monotonic_ns())
    bodies = [record["body"] for record in event["Records"]]
    (HERE / f"begun-{name}").write_text(json.dumps(event["Records"]))
    while any(body.startswith("wait") for body in bodies) and not (HERE / "go").exists():
        time.sleep(0.01)
    print("line of", *bodies)
    (HERE / f"ended-{name}").write_text("VERSION " + json.dumps(bodies))
    if "odd answer" in bodies:
        return {"batchItemFailures": [{"itemIdentifier": "unknown"}]}
    failed = [record["messageId"] for record in event["Records"] if record["body"] == "fail"]
    return {"batchItemFailures": [{"itemIdentifier": name} for name in failed]}
"""


class Bench:
    """A queue, a function whose handler notes what it is given, and the mapping between them."""

    def __init__(self, aws: AwsEndpoint, directory: Path, **settings: Any) -> None:
        self.directory, self.sqs = directory, aws.client("sqs")
        self.write("one")
        self.url = aws.create_queue(unique_name("mapped"), visibility_timeout=2)
        self.lines: list[str] = []
        self.failures: list[Invocation] = []
        self.function = MappedFunction(
            name="mapped", handler="app.handler", environment={}, timeout=20, memory=256, queue_url=self.url,
            queue_arn=aws.queue_arn(self.url), **settings,
        )  # fmt: skip
        self.place = Place(directory, str(lambda_python()), directory, "us-east-1", {}, "")
        self.environments = Environments(self.place.function(self.function), "", self.lines.append)
        self.mapping = EventSourceMapping(
            self.sqs, self.function, self.environments, region="us-east-1", failed=self.failures.append,
            complain=self.lines.append,
        )  # fmt: skip

    def write(self, version: str) -> None:
        """Save the handler's code."""
        (self.directory / "app.py").write_text(HANDLER.replace("VERSION", version))

    def send(self, *bodies: str) -> None:
        """Put messages into the queue."""
        for body in bodies:
            self.sqs.send_message(QueueUrl=self.url, MessageBody=body)

    def found(self, kind: str) -> list[str]:
        """What invocations left behind, in order."""
        texts = (path.read_text() for path in sorted(self.directory.glob(f"{kind}-*")))
        return [text for text in texts if text]  # an empty one is still being written

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition."""
        limit = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < limit, f"{what}: {self.lines} {self.found('begun')}"
            time.sleep(0.02)

    def is_empty(self) -> bool:
        """Whether the queue holds nothing, not even in flight."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        counts = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return not any(int(count) for count in counts.values())


@pytest.fixture
def bench(aws_endpoint: AwsEndpoint, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Make a bench; it is ended after the test."""
    made: list[Bench] = []

    def make(**settings: Any) -> Bench:
        made.append(Bench(aws_endpoint, tmp_path, **settings))
        return made[-1]

    yield make
    for each in made:
        each.mapping.stop()
        each.environments.close()
        each.mapping.join()


def test_no_more_batches_run_at_once_than_allowed(bench: Callable[..., Bench]) -> None:
    """The third batch waits in the queue until one of the two is done."""
    mine = bench(batch_size=1, concurrency=2)
    mine.send("wait 1", "wait 2", "wait 3")
    mine.mapping.start()
    mine.until(lambda: len(mine.found("begun")) == 2, "two batches begin")
    (mine.directory / "go").touch()
    mine.until(lambda: len(mine.found("ended")) == 3, "all three end")
    assert len(mine.found("begun")) == 3
    mine.until(mine.is_empty, "what is done is deleted")
    assert sorted(mine.lines) == ["line of wait 1", "line of wait 2", "line of wait 3"]


def test_only_what_is_reported_stays(bench: Callable[..., Bench]) -> None:
    """A partial batch response keeps its messages in the queue, which come again; the others are gone."""
    mine = bench()
    mine.send("fine", "fail")
    mine.mapping.start()
    mine.until(lambda: any("fail" in each and "fine" not in each for each in mine.found("ended")), "it comes again")
    assert sum("fine" in each for each in mine.found("ended")) == 1
    assert not mine.failures


def test_answer_that_names_no_message_fails_the_batch(bench: Callable[..., Bench]) -> None:
    """AWS's rule: the whole batch comes again, and whoever watches is told."""
    mine = bench()
    mine.send("odd answer")
    mine.mapping.start()
    mine.until(lambda: len(mine.found("ended")) == 2, "it comes again")
    assert mine.failures


def test_window_gathers_more_than_one_receive(bench: Callable[..., Bench]) -> None:
    """A batch larger than SQS hands out at once is gathered, up to its window."""
    mine = bench(batch_size=20, window=10)
    mine.send(*(f"{number}" for number in range(20)))
    mine.mapping.start()
    mine.until(lambda: bool(mine.found("ended")), "the batch runs as soon as it is full")
    assert [len(json.loads(each)) for each in mine.found("begun")] == [20]
    record = json.loads(mine.found("begun")[0])[0]
    assert record["eventSource"] == "aws:sqs"
    assert record["eventSourceARN"] == mine.function.queue_arn
    assert record["attributes"]["ApproximateReceiveCount"] == "1"


def test_running_invocation_finishes_with_its_code(bench: Callable[..., Bench]) -> None:
    """After a change, what runs goes on as it began; the next batch has the new code."""
    mine = bench(concurrency=1)
    mine.send("wait")
    mine.mapping.start()
    mine.until(lambda: bool(mine.found("begun")), "it begins")
    mine.write("two")
    mine.environments.renew(mine.place.function(mine.function))
    mine.send("after")
    (mine.directory / "go").touch()
    mine.until(lambda: len(mine.found("ended")) == 2, "both end")
    assert mine.found("ended") == ['one ["wait"]', 'two ["after"]']


def test_paused_mapping_leaves_messages_alone(bench: Callable[..., Bench]) -> None:
    """What a poll brings that was under way when the code broke goes back at once; afterwards everything runs."""
    mine = bench()
    calls: list[str] = []
    events = mine.sqs.meta.events
    for call in ("before-call.sqs.ReceiveMessage", "after-call.sqs.ChangeMessageVisibilityBatch"):
        events.register(call, lambda event_name, **_: calls.append(event_name), unique_id=call)
    try:
        mine.mapping.start()
        mine.until(lambda: bool(calls), "it polls")
        mine.mapping.pause()
        mine.send("patient")
        mine.until(lambda: "after-call.sqs.ChangeMessageVisibilityBatch" in calls, "the message goes back")
    finally:
        for call in ("before-call.sqs.ReceiveMessage", "after-call.sqs.ChangeMessageVisibilityBatch"):
            events.unregister(call, unique_id=call)
    assert mine.found("begun") == []
    mine.mapping.resume()
    mine.until(lambda: bool(mine.found("ended")), "it runs")
    mine.until(mine.is_empty, "it is deleted")


def test_batch_that_cannot_be_handed_over_is_told_of(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is wrong with an answer of the endpoint, the log tells, and the messages go back at once."""
    mine = bench()
    answers: list[Any] = []

    def spoil(parsed: Any, **_: Any) -> None:
        answers.extend(parsed.get("Messages", ()))
        if len(answers) == 1:
            del answers[0]["Body"]

    events = mine.sqs.meta.events
    given_back: list[Any] = []
    events.register("after-call.sqs.ReceiveMessage", spoil, unique_id="spoil")
    events.register("after-call.sqs.ChangeMessageVisibilityBatch", lambda **_: given_back.append(1), unique_id="back")
    try:
        mine.send("once")
        mine.mapping.start()
        mine.until(lambda: bool(mine.found("ended")), "it comes again")
    finally:
        events.unregister("after-call.sqs.ReceiveMessage", unique_id="spoil")
        events.unregister("after-call.sqs.ChangeMessageVisibilityBatch", unique_id="back")
    (record,) = (each for each in caplog.records if each.name == "dispatcher.local")
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "mapped: a batch cannot be handed over; its messages go back"
    assert isinstance(record.exc_info, tuple)
    assert record.exc_info[0] is KeyError
    assert given_back == [1]
