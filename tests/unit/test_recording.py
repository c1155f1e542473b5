"""Step 5: what is written of an outcome, and whose write counts."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from dispatcher.backends.base import Write
from dispatcher.backends.memory import MemoryBackend
from dispatcher.backends.meta import ResultMeta, plain_text
from dispatcher.brokers.base import Settlement
from dispatcher.exceptions import Reject
from dispatcher.execution.custom_states import state_write
from dispatcher.execution.run import Kind
from dispatcher.request import Context
from dispatcher.serialization.values import MAX_BYTES, MAX_DEPTH
from tests.unit.bench import Bench

KEY = "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eA=="


class SmallBackend(MemoryBackend):
    """A backend whose records hold little, as DynamoDB's."""

    max_data = 2000


def _small(bench: Bench) -> None:
    bench.app._backend = SmallBackend(bench.app.conf.result_backend, {}, bench.clock)


def test_result_that_is_too_large_fails_the_task_with_advice() -> None:
    """A result over the store's limit becomes a failure that says what to do."""
    bench = Bench()
    _small(bench)
    result = bench.app.task(name="large")(lambda: "x" * 5000).delay()
    bench.work()
    assert result.state == "FAILURE"
    assert "over the 2,000 that memory keeps" in str(result.result)


def test_retry_with_a_large_error_is_still_a_retry() -> None:
    """The details of an error may be too large to keep; that neither fails the task nor loses the count."""
    bench = Bench()
    _small(bench)

    @bench.app.task(name="wordy", bind=True, autoretry_for=(ValueError,), default_retry_delay=1, max_retries=2)
    def wordy(self: Any) -> int:
        if self.request.retries < 2:
            raise ValueError("x" * 5000)
        return int(self.request.retries)

    result = wordy.delay()
    bench.step()
    assert (result.state, bench.record(result.id).retries) == ("RETRY", 1)
    assert "too large to keep" in str(result.result)
    bench.work()
    assert result.get() == 2


def test_arguments_that_are_no_json_are_kept_as_text() -> None:
    """``result_extended`` never turns a success into a failure: what JSON cannot take is shown."""
    bench = Bench(
        result_extended=True, task_serializer="pickle", accept_content=["json", "pickle"], signing_keys={"k": KEY}
    )
    result = bench.app.task(name="take")(lambda *args, **kwargs: 1).delay(complex(1, 2), 5, key=range(3))
    bench.work()
    assert result.get() == 1
    assert (result.args, result.kwargs) == (["(1+2j)", "5"], {"key": "range(0, 3)"})


def test_started_state_says_where() -> None:
    """With ``track_started`` the state STARTED tells process and worker, as Celery's does."""
    bench = Bench()
    seen: list[Any] = []

    @bench.app.task(name="tracked", track_started=True, bind=True)
    def tracked(self: Any) -> None:
        result = self.AsyncResult(self.request.id)
        seen.append((result.state, result.info))

    tracked.delay()
    bench.work()
    [(state, info)] = seen
    assert state == "STARTED"
    assert info["hostname"] == "bench"
    assert isinstance(info["pid"], int)


def test_start_of_a_redelivery_is_timed() -> None:
    """The record says when a run was started until it has an outcome; what is handed back was not started."""
    bench = Bench()
    seen: list[Any] = []

    @bench.app.task(name="late", bind=True, max_retries=1)
    def late(self: Any) -> None:
        seen.append(bench.record(self.request.id))
        raise self.retry(countdown=30)

    result = late.delay()
    [delivery] = bench.receive()
    bench.app.broker.settle([Settlement(delivery, "release", 10.0)])
    bench.clock.advance(10.0)
    bench.step()
    assert (seen[0].starts, seen[0].started_at) == (1, bench.clock.time())
    assert (bench.record(result.id).starts, bench.record(result.id).started_at) == (0, None)


def test_shown_start_that_is_handed_back_is_taken_back() -> None:
    """With ``track_started`` a first delivery's start is timed too; nobody may take it for a run that was lost."""
    bench = Bench()

    @bench.app.task(name="tracked", track_started=True)
    def tracked() -> None:
        raise Reject("not now", requeue=True)

    result = tracked.delay()
    bench.step()
    assert (bench.record(result.id).starts, bench.record(result.id).started_at) == (0, None)


def test_record_of_a_long_retry_outlives_it() -> None:
    """A record that waits for a retry is kept for as long as that takes, and the retention on top."""
    bench = Bench(result_expires=60)

    @bench.app.task(name="patient", bind=True)
    def patient(self: Any) -> int:
        if not self.request.retries:
            self.retry(countdown=100 * 86400)
        return int(self.request.retries)

    result = patient.delay()
    bench.work()
    assert result.get() == 1


def test_result_is_hidden_after_its_expiry() -> None:
    """Readers stop seeing a result after ``result_expires``; the record still stops duplicates."""
    bench = Bench(result_expires=60)
    result = bench.app.task(name="one")(lambda: 1).delay()
    bench.work()
    bench.clock.advance(61)
    assert bench.result(result.id).state == "PENDING"
    assert bench.record(result.id).status == "SUCCESS"


def test_ignored_result_of_a_linked_task_is_kept_for_its_callbacks() -> None:
    """A callback that must be sent again after a crash gets the same value."""
    bench = Bench()
    quiet = bench.app.task(name="quiet", ignore_result=True)(lambda: [1, 2])
    note = bench.app.task(name="note")(lambda *args: None)
    linked, plain = quiet.apply_async(link=note.s()), quiet.delay()
    bench.work()
    assert json.loads(bench.record(linked.id).data)["result"] == [1, 2]
    assert "result" not in json.loads(bench.record(plain.id).data)


def test_lost_race_gives_way_to_the_record() -> None:
    """An outcome that finds another in the record is dropped: final ones are repeated, other attempts waited for."""
    bench = Bench()
    kinds: list[Kind] = []
    for stood in ({"final": True, "status": "SUCCESS"}, {"final": False, "status": "RETRY", "retries": 1}):
        result = bench.app.task(name="racing")(lambda: 1).delay()
        executor = bench.executor()
        runs = executor.prepare(bench.receive())
        executor.execute(runs[0])
        write = {"gen": 0, "attempt": 0, "retries": 0, "token": "other", "expires_at": 4e9, **stood}
        bench.app.backend.write([Write(result.id, **write)])  # type: ignore[arg-type]
        executor.finish(runs)
        executor.close()
        assert runs[0].outcome is not None
        kinds.append(runs[0].outcome.kind)
        assert bench.record(result.id).token == "other"
        bench.work()
    assert kinds == [Kind.REPEATED, Kind.HANDED_BACK]


def _request(gen: int, retries: int) -> Context:
    return Context(None, id="a", gen=gen, retries=retries)


@pytest.mark.parametrize(
    ("record", "request_", "wanted"),
    [
        (None, (0, 0), (0, 0)),
        (None, (2, 1), (2, 1)),
        ((0, 0), (0, 0), (0, 0)),
        ((0, 0), (0, 3), (0, 0)),
        ((0, 5), (1, 2), (1, 2)),
        ((1, 0), (0, 4), None),
        ((0, 2), (0, 1), None),
    ],
)
def test_state_of_a_stale_run_is_not_written(record: Any, request_: Any, wanted: Any) -> None:
    """`update_state` of a run whose record has moved on changes nothing."""
    stored = None
    if record is not None:
        stored = Write("a", "RETRY", record[0], 0, record[1], False, "t", 4e9).record()
    write = state_write("a", "PROGRESS", "", stored, 4e9, _request(*request_))
    assert (write and (write.gen, write.attempt)) == wanted
    if write is not None:
        assert write.applies_to(stored)
        assert not write.final


def test_state_too_large_to_keep_is_the_task_s_error() -> None:
    """A state whose meta cannot be stored raises in the task that gives it."""
    bench = Bench()

    @bench.app.task(name="states", bind=True)
    def states(self: Any) -> None:
        self.update_state(state="PROGRESS", meta=object())

    result = states.delay()
    bench.work()
    assert "the result cannot be stored" in str(result.result)


def test_successes_of_one_batch_say_what_is_their_own() -> None:
    """Those with nothing but a time to tell share their text; a result, a name, a lineage stay each one's own."""
    bench = Bench()

    @bench.app.task(name="quiet", ignore_result=True)
    def quiet(value: Any) -> Any:
        return value

    @bench.app.task(name="other", ignore_result=True)
    def other() -> None:
        return None

    @bench.app.task(name="told")
    def told(value: Any) -> Any:
        return value

    plain, second, third = quiet.delay(1), quiet.delay(2), other.delay()
    kept, none = told.delay([1]), told.delay(None)
    linked = quiet.apply_async((3,), link=other.si())
    wanted = quiet.apply_async((4,), ignore_result=False)
    bench.step()
    data = {result.id: json.loads(bench.record(result.id).data) for result in
            (plain, second, third, kept, none, linked, wanted)}  # fmt: skip
    assert data[plain.id] == data[second.id] == {**data[third.id], "name": "quiet"}
    assert [data[each.id]["name"] for each in (third, kept, none)] == ["other", "told", "told"]
    assert (data[kept.id]["result"], data[wanted.id]["result"], "result" in data[none.id]) == ([1], 4, False)
    assert (data[linked.id]["links"], "links" in data[plain.id]) == (1, False)
    assert "children" in data[linked.id]


def test_subtasks_of_one_batch_say_whose_they_are() -> None:
    """Those of several parents are kept with their own, and a task of none with none, whatever comes first."""
    bench, children = Bench(), dict[str, list[Any]]()
    told = bench.app.task(name="told")(lambda value: value)

    @bench.app.task(name="tell", bind=True)
    def tell(self: Any) -> None:
        children[self.request.id] = [told.delay(value) for value in (None, 1)]

    parents = [tell.delay(), tell.delay()]
    bench.step()
    alone = told.delay(2)
    bench.step()
    for parent in parents:
        for child in children[parent.id]:
            data = json.loads(bench.record(child.id).data)
            assert (data["parent_id"], data["root_id"]) == (parent.id, parent.id)
    assert not {"parent_id", "root_id"} & json.loads(bench.record(alone.id).data).keys()


@pytest.mark.parametrize("value", [{"$": 1, "a": {}}, {}, [], "ü\u2028", 0, 1.5, {"b": b"x", "date": [True, None]}])
def test_text_of_a_result_is_that_of_its_meta(value: Any) -> None:
    """However a record's text was put together, it is what encoding the whole at once gives."""
    bench = Bench()
    result = bench.app.task(name="told")(lambda: value).delay()
    bench.step()
    data = bench.record(result.id).data
    assert result.get() == value
    assert ResultMeta.decode(data, frozenset({"json"}), 10_000).encode() == data


@pytest.mark.parametrize("compression", ["zlib", None])
def test_results_are_packed_as_is_configured(compression: str | None) -> None:
    """A compressed result is no plain JSON."""
    bench = Bench(result_compression=compression)
    result = bench.app.task(name="told")(lambda: "x" * 1000).delay()
    bench.step()
    assert ("packed" in json.loads(bench.record(result.id).data)) is (compression is not None)
    assert result.get() == "x" * 1000


def test_result_too_long_together_with_the_rest_of_its_record_fails() -> None:
    """What could be read as a value, but not inside a record, is refused when it is written."""
    bench = Bench(max_message_bytes=MAX_BYTES)
    told = bench.app.task(name="told")(lambda room: "x" * (MAX_BYTES - room))
    long, fits = told.delay(20), told.delay(500)
    bench.step()
    assert (long.state, len(fits.get(timeout=0))) == ("FAILURE", MAX_BYTES - 500)
    assert f"over the {MAX_BYTES:,} of max_message_bytes that readers decode" in str(long.result)


NOISE = random.Random(0).randbytes(30_000).hex()


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({}, NOISE),
        ({"result_compression": "gzip"}, "x" * 60_000),  # short until it is expanded
        ({"result_serializer": "msgpack"}, NOISE),
        ({"result_serializer": "msgpack"}, NOISE[:45_000]),  # long as base64 only
        ({"result_extended": True}, NOISE),
        ({"payload_threshold": 2000}, NOISE),
        ({"payload_threshold": None}, NOISE),
        ({}, ValueError(NOISE)),
    ],
)
def test_result_that_nobody_could_read_fails_the_task_with_advice(
    tmp_path: Path, settings: dict[str, Any], value: Any
) -> None:
    """What is longer than readers decode, packed or not, is refused when it is written, with advice."""
    if "payload_threshold" in settings:
        settings = {**settings, "payload_bucket": f"file://{tmp_path}"}
    bench = Bench(max_message_bytes=50_000, **settings)

    def run() -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    result = bench.app.task(name="long")(run).delay()
    bench.step()
    assert result.state == "FAILURE"
    words = r"result of long has [56]\d,\d{3} bytes, over the 50,000 of max_message_bytes.* raise max_message_bytes"
    assert re.search(words, str(result.result))


def test_result_too_deep_for_its_record_fails() -> None:
    """What could be read as a value, but not inside a record, is refused when it is written."""
    bench = Bench()
    nested: list[Any] = []
    for _ in range(MAX_DEPTH - 1):
        nested = [nested]
    deep, fits = (
        bench.app.task(name=str(id(value)))(lambda value=value: value).delay() for value in (nested, nested[0])
    )
    bench.step()
    assert (deep.state, fits.state) == ("FAILURE", "SUCCESS")
    assert "nested deeper" in str(deep.result)


@pytest.mark.parametrize("until", [None, 86400.125])
@pytest.mark.parametrize(("parent", "root"), [(None, None), ("p", "r"), (None, 'größe"')])
def test_text_of_a_plain_success_is_what_its_meta_encodes(
    until: float | None, parent: str | None, root: str | None
) -> None:
    """It is worded without the object that stands for it."""
    meta = ResultMeta(date_done=1.5, visible_until=until, parent_id=parent, root_id=root, name="tasks.größe")
    assert plain_text(1.5, until, parent, root, "tasks.größe") == meta.encode()
