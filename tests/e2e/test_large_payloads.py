"""Arguments and results over the limits: SQS, DynamoDB and S3 over HTTP, and local workers with a directory."""

from __future__ import annotations

import dataclasses
import importlib
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher import Dispatcher
from dispatcher.exceptions import DecodeError, MessageTooLarge, OperationalError, PayloadMissing
from dispatcher.quotas import SQS_MAX_MESSAGE_BYTES
from tests.e2e.commands import WorkerProcess
from tests.emulation.endpoint import AwsEndpoint, unique_name
from tests.handlers.lab import Lab

LARGE = "0123456789" * 150_000
"""1.5 MB: over what SQS and DynamoDB take."""
KEY = "k1:" + "QUFB" * 11


@dataclasses.dataclass
class Store:
    """The app's queue and worker, and the bucket of its payloads."""

    aws: AwsEndpoint
    bucket: str
    labs: list[Lab]

    @property
    def s3(self) -> Any:
        """A client of the endpoint."""
        return self.aws.client("s3")

    def lab(self, **settings: Any) -> Lab:
        """Make an app that keeps payloads in the bucket, unless told otherwise."""
        self.labs.append(Lab(self.aws, **{"payload_bucket": f"{self.bucket}/payloads", **settings}))
        return self.labs[-1]

    def objects(self) -> dict[str, bytes]:
        """Read what is in the bucket."""
        listed = self.s3.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return {e["Key"]: self.s3.get_object(Bucket=self.bucket, Key=e["Key"])["Body"].read() for e in listed}

    def empty(self) -> dict[str, bytes]:
        """Remove what is in the bucket, as a lifecycle rule does; return it."""
        objects = self.objects()
        for key in objects:
            self.s3.delete_object(Bucket=self.bucket, Key=key)
        return objects


@pytest.fixture
def store(aws_env: AwsEndpoint) -> Iterator[Store]:
    """A bucket of its own."""
    name = unique_name("payloads")
    aws_env.client("s3").create_bucket(Bucket=name)
    store = Store(aws_env, name, [])
    yield store
    for lab in store.labs:
        lab.worker.close()


def work(lab: Lab, until: Callable[[], bool], limit: float = 20.0) -> list[str]:
    """Run batches until something holds; return the ids that were reported for redelivery."""
    reported, deadline = [], time.monotonic() + limit
    while not until():
        assert time.monotonic() < deadline, f"it never came true: {lab.depth()}"
        event = lab.take()
        if event["Records"]:
            reported += lab.invoke(event)
    return reported


def test_large_arguments_and_results_go_both_ways(store: Store) -> None:
    """The message and the row are small, the task sees its arguments, the caller gets the value."""
    lab = store.lab()
    double = lab.task(lambda text, *, times: {"text": text * times}, name="lab.double")
    result = double.delay(LARGE, times=2)
    event = lab.take()
    assert len(event["Records"][0]["body"]) < 600
    assert lab.invoke(event) == []
    assert result.state == "SUCCESS"
    assert result.get(timeout=0) == {"text": LARGE * 2}
    assert [size // len(LARGE) for size in sorted(map(len, store.objects().values()))] == [1, 2]
    assert len(lab.app.backend.read([result.id])[result.id].data) < 600


def test_small_ones_do_not_touch_the_bucket(store: Store) -> None:
    """A bucket that is out of reach does not matter to them."""
    lab = store.lab(payload_bucket="there-is-no-such-bucket")
    result = lab.task(lambda x: x, name="lab.echo").delay("x" * 100_000)
    assert lab.invoke() == []
    assert len(result.get(timeout=0)) == 100_000


def test_a_large_result_goes_on_to_a_callback(store: Store) -> None:
    """The callback gets the value through the store again; so does an error callback the arguments."""
    lab, seen = store.lab(), []
    grow = lab.task(lambda: LARGE, name="lab.grow")
    fail = lab.task(lambda text: 1 / 0, name="lab.fail")
    measure = lab.task(lambda value: seen.append(len(value)), name="lab.measure")
    mourn = lab.task(lambda request, exc, traceback: seen.append(len(request.args[0])), name="lab.mourn")
    grow.apply_async(link=measure.s())
    fail.apply_async((LARGE,), link_error=mourn.s())
    work(lab, lambda: len(seen) == 2)
    assert seen == [len(LARGE)] * 2


def test_a_retry_keeps_the_reference_and_new_arguments_make_another(store: Store) -> None:
    """Redriven by visibility the body is the same; published anew it refers to the same object."""
    lab = store.lab()
    bodies: list[dict[str, Any]] = []

    def task(self: Any, text: str) -> str:
        if self.request.retries == 0:
            raise self.retry(countdown=0)
        if self.request.retries == 1:
            raise self.retry(countdown=0, priority=None, headers={"again": 1})
        if self.request.retries == 2:
            raise self.retry(args=(text[1:],), countdown=0)
        return f"{self.request.retries} {len(text)}"

    result = lab.task(task, bind=True, max_retries=5, name="lab.again").delay(LARGE)
    deadline = time.monotonic() + 20
    while not result.ready():
        assert time.monotonic() < deadline
        event = lab.take()
        bodies += [json.loads(record["body"]) for record in event["Records"]]
        lab.invoke(event)
    assert result.get() == f"3 {len(LARGE) - 1}"
    refs = [body["payload"]["ref"] for body in bodies]
    assert [body.get("gen", 0) for body in bodies] == [0, 0, 1, 2]
    assert len(set(refs[:3])) == 1
    assert refs[3] != refs[0]


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (None, PayloadMissing, "is gone"),
        (b"x" * (len(LARGE) + 9), DecodeError, "SHA-256"),
        (b"x", DecodeError, "bytes long"),
    ],
    ids=["expired", "changed", "cut"],
)
def test_a_payload_that_is_gone_or_changed_is_dead(
    store: Store, damage: bytes | None, error: type[Exception], says: str
) -> None:
    """The task fails with the reason, its error callbacks are called, the message is kept as it was."""
    lab, seen = store.lab(), []
    task = lab.task(lambda text: text, name="lab.read")
    mourn = lab.task(lambda task_id: seen.append(task_id), name="lab.mourn")
    result = task.apply_async((LARGE,), link_error=mourn.s())
    objects = store.empty()
    (key,) = objects
    if damage is not None:
        store.s3.put_object(Bucket=store.bucket, Key=key, Body=damage)
    work(lab, lambda: bool(seen))
    assert (result.state, seen) == ("FAILURE", [result.id])
    with pytest.raises(error, match=says):
        result.get(timeout=0)
    (letter,) = lab.dead_letters()
    assert json.loads(letter["Body"])["payload"]["ref"] == f"s3://{store.bucket}/{key}"
    attributes = {name: value["StringValue"] for name, value in letter["MessageAttributes"].items()}
    assert (attributes["reason"], attributes["task"]) == ("undecodable", "lab.read")
    assert says in attributes["exception"]


def test_a_redriven_dead_letter_runs_once_its_payload_is_back(store: Store) -> None:
    """Restoring the object, such as from a backup, and redriving the message is all it takes."""
    lab = store.lab()
    result = lab.task(lambda text: len(text), name="lab.read").delay(LARGE)
    objects = store.empty()
    work(lab, result.ready)
    for key, content in objects.items():
        store.s3.put_object(Bucket=store.bucket, Key=key, Body=content)
    (letter,) = lab.dead_letters()
    lab.sqs.send_message(QueueUrl=lab.url, MessageBody=letter["Body"])
    work(lab, lambda: lab.app.AsyncResult(result.id).state == "SUCCESS")
    assert lab.app.AsyncResult(result.id).get(timeout=0) == len(LARGE)


def test_a_store_out_of_reach_hands_the_message_back(store: Store) -> None:
    """Nothing is acknowledged, no retry is counted, and the task runs when the store is back."""
    lab, runs = store.lab(), []
    task = lab.task(lambda self, text: runs.append(self.request.retries), bind=True, name="lab.read")
    result = task.delay(LARGE)
    objects = store.empty()
    store.s3.delete_bucket(Bucket=store.bucket)
    event = lab.take()
    assert lab.invoke(event) == [record["messageId"] for record in event["Records"]]
    assert (runs, result.state) == ([], "PENDING")
    store.s3.create_bucket(Bucket=store.bucket)
    for key, content in objects.items():
        store.s3.put_object(Bucket=store.bucket, Key=key, Body=content)
    work(lab, result.ready)
    assert (runs, result.state) == ([0], "SUCCESS")


def test_a_result_that_cannot_be_stored_hands_the_message_back(store: Store) -> None:
    """The outcome is not recorded without its value."""
    lab = store.lab()
    result = lab.task(lambda: LARGE, name="lab.grow").delay()
    store.s3.delete_bucket(Bucket=store.bucket)
    assert len(lab.invoke()) == 1
    assert result.state == "PENDING"
    store.s3.create_bucket(Bucket=store.bucket)
    work(lab, result.ready)
    assert len(result.get(timeout=0)) == len(LARGE)


def test_a_store_out_of_reach_sends_nothing(store: Store) -> None:
    """The caller gets the error, also for the small messages sent along."""
    lab = store.lab(payload_bucket="there-is-no-such-bucket")
    task = lab.task(lambda text: text, name="lab.read")
    with pytest.raises(OperationalError, match="there-is-no-such-bucket"):
        lab.app.send_many([task.s("small"), task.s(LARGE)])
    assert lab.depth() == {"visible": 0, "in_flight": 0, "delayed": 0}


def test_without_a_bucket_the_error_names_the_setting(store: Store) -> None:
    """Before anything is sent; a result that does not fit is the task's failure."""
    lab = store.lab(payload_bucket=None)
    read, grow = lab.task(lambda text: text, name="lab.read"), lab.task(lambda: LARGE, name="lab.grow")
    with pytest.raises(MessageTooLarge, match=f"over the {SQS_MAX_MESSAGE_BYTES:,} that SQS takes; set payload_bucket"):
        lab.app.send_many([read.s("small"), read.s(LARGE)])
    assert lab.depth() == {"visible": 0, "in_flight": 0, "delayed": 0}
    result = grow.delay()
    lab.invoke()
    with pytest.raises(MessageTooLarge, match="set payload_bucket"):
        result.get(timeout=0)


def test_large_callbacks_are_refused_with_or_without_a_bucket(store: Store) -> None:
    """They travel in the message; storing its arguments would not help."""
    lab = store.lab()
    read = lab.task(lambda *texts: texts, name="lab.read")
    with pytest.raises(MessageTooLarge, match="links and headers travel in the message itself"):
        read.apply_async((1,), link=read.s(LARGE))
    assert store.objects() == {}


@pytest.mark.parametrize("bucket", [None, "another-bucket/payloads"])
def test_a_worker_without_the_store_waits_for_a_newer_one(store: Store, bucket: str | None) -> None:
    """During a deploy the message goes back; after the grace it is dead, and the reason names the setting."""
    lab = store.lab()
    result = lab.task(lambda text: text, name="lab.read").delay(LARGE)
    event = lab.take()
    for grace, state in ((600.0, "PENDING"), (0.0, "FAILURE")):
        other = Dispatcher(
            lab.app.main, broker="sqs://", backend=lab.app.conf.result_backend, set_as_current=False,
            broker_transport_options=dict(lab.app.conf.broker_transport_options), payload_bucket=bucket,
            unknown_grace=grace,
        )  # fmt: skip
        other.task(lambda text: text, name="lab.read")
        lab.worker.close()
        lab.worker = type(lab.worker)(lambda other=other: other)  # type: ignore[misc]
        assert len(lab.invoke(event)) == (1 if state == "PENDING" else 0)
        assert result.state == state
    with pytest.raises(DecodeError, match="payload_bucket"):
        result.get(timeout=0)


def test_a_reader_without_the_store_sees_the_state_only(store: Store) -> None:
    """The value's error names the setting."""
    lab = store.lab()
    result = lab.task(lambda: LARGE, name="lab.grow").delay()
    lab.invoke()
    reader = Dispatcher(broker="sqs://", backend=lab.app.conf.result_backend, set_as_current=False)
    seen = reader.AsyncResult(result.id)
    assert (seen.state, seen.ready(), seen.date_done is not None) == ("SUCCESS", True, True)
    with pytest.raises(DecodeError, match="payload_bucket is not set here"):
        seen.get(timeout=0)


def test_an_expired_result_is_an_error_and_no_hang(store: Store) -> None:
    """The state is still there; the value is said to be gone."""
    lab = store.lab()
    result = lab.task(lambda: LARGE, name="lab.grow").delay()
    lab.invoke()
    store.empty()
    assert result.state == "SUCCESS"
    with pytest.raises(PayloadMissing):
        result.get(timeout=5)


def test_the_signature_covers_the_reference(store: Store) -> None:
    """A message that leads to another payload is dead, and nothing is fetched for it."""
    lab, runs = store.lab(signing_keys=KEY), []
    task = lab.task(lambda text: runs.append(len(text)), name="lab.read")
    task.delay(LARGE), task.delay("secret" + LARGE)
    event = lab.take()
    first, second = (json.loads(record["body"])["payload"] for record in event["Records"])
    record = event["Records"][0]
    record["body"] = (
        record["body"]
        .replace(first["sha256"], second["sha256"])
        .replace(f'"size":{first["size"]}', f'"size":{second["size"]}')
    )
    assert lab.invoke(event) == []
    assert len(runs) == 1
    (letter,) = lab.dead_letters()
    assert "altered" in letter["MessageAttributes"]["exception"]["StringValue"]


LOCAL = """
from dispatcher import Dispatcher

app = Dispatcher("local", broker="sqlite:///queue.db", payload_bucket="file://{directory}/payloads",
                 payload_threshold=4096, task_serializer="msgpack", task_compression="zlib")

@app.task
def turn(text):
    return text[::-1]

@app.task
async def aturn(text):
    return text[::-1]
"""


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio"])
def test_local_workers_share_a_directory(tmp_path: Path, pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a threshold, since their transports have no limit; in each pool, for plain and coroutine tasks."""
    name = f"local_{pool}"
    (tmp_path / f"{name}.py").write_text(LOCAL.format(directory=tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    local = importlib.import_module(name)
    text = random.Random(5).randbytes(20_000).hex()
    with WorkerProcess(tmp_path, "-A", f"{name}:app", "worker", "-P", pool, "-c", "2"):
        wanted = ["aturn"] if pool == "asyncio" else ["turn", "aturn"]
        results = [getattr(local, task).delay(text) for task in wanted]
        assert [result.get(timeout=30) for result in results] == [text[::-1]] * len(wanted)
    assert len(list((tmp_path / "payloads").iterdir())) == 2  # equal arguments and equal results are one file each
    local.app.close()
