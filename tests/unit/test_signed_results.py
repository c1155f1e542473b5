"""Results whose decoding runs code: signed by workers, and not decoded unless the signature holds."""

import json
from pathlib import Path
from typing import Any

import pytest

from dispatcher.backends.base import Write
from dispatcher.exceptions import DecodeError, SecurityError
from dispatcher.security import Signer
from tests.unit.bench import Bench

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
PICKLED = {"accept_content": ["json"], "result_serializer": "pickle", "result_accept_content": ["json", "pickle"]}


class Trap:
    """Sets a mark when it is unpickled."""

    sprung: list[int] = []  # noqa: RUF012 - shared on purpose: unpickling reaches it by the class

    def __reduce__(self) -> Any:
        return Trap.sprung.append, (1,)


@pytest.fixture(autouse=True)
def _no_trap_sprung() -> None:
    Trap.sprung.clear()


def bench(**settings: Any) -> Bench:
    """Make a bench whose results are pickled."""
    return Bench(**{**PICKLED, "signing_keys": {"k1": OLD}, **settings})


def keep(there: Bench, task_id: str, data: str) -> None:
    """Overwrite a record, as somebody does who can write to the table."""
    write = Write(task_id, "SUCCESS", gen=7, attempt=0, retries=0, final=True, token="x", expires_at=4e9, data=data)
    assert there.app.backend.write([write]) == [None]


def pickled(there: Bench, value: Any) -> tuple[str, dict[str, Any]]:
    """Run a task that returns the value; return its id and what its record keeps."""
    result = there.app.task(name="give")(lambda: value).delay()
    there.work()
    return result.id, json.loads(there.record(result.id).data)


def test_a_signed_result_is_read() -> None:
    """Also after a rotation, as long as the old key is known; then it is refused."""
    there = bench()
    task_id, data = pickled(there, {1, 2})
    assert data["packed"]["sig"].startswith("k1:")
    assert there.result(task_id).get() == {1, 2}
    for keys, readable in (({"k2": NEW, "k1": OLD}, True), ({"k2": NEW}, False)):
        reader = bench(broker=there.app.conf.broker_url, backend=there.app.conf.result_backend, signing_keys=keys)
        if readable:
            assert reader.result(task_id).get() == {1, 2}
        else:
            with pytest.raises(SecurityError, match="a key that is not known"):
                reader.result(task_id).get()


@pytest.mark.parametrize("damage", ["unsigned", "altered", "of another task", "of another key", "no text"])
def test_a_result_that_is_not_ours_is_not_unpickled(damage: str) -> None:
    """Whoever can write to the table cannot run code in those who read it."""
    there = bench()
    other, data = pickled(there, Trap())
    task_id = other if damage != "of another task" else "another"
    packed = data["packed"]
    if damage == "unsigned":
        del packed["sig"]
    elif damage == "altered":
        packed["data"] = packed["data"].replace("A", "B", 1)
    elif damage == "of another key":
        content = f"pickle\0\0{packed['data']}"
        packed["sig"] = Signer({"k1": NEW}).seal_result(task_id, content)
    elif damage == "no text":
        packed["sig"] = {"a": 1}
    Trap.sprung.clear()
    keep(there, task_id, json.dumps(data))
    with pytest.raises(SecurityError, match=f"the result of task {task_id}"):
        there.result(task_id).get()
    assert Trap.sprung == []


def test_a_large_result_is_signed_in_the_payload_store(tmp_path: Path) -> None:
    """The reference in the record is no way around it."""
    there = bench(payload_bucket=tmp_path.as_uri(), payload_threshold=1_024)
    task_id, _ = pickled(there, ["x" * 5_000, Trap()])
    assert there.result(task_id).get()[0] == "x" * 5_000
    Trap.sprung.clear()
    stored = json.loads(next(tmp_path.iterdir()).read_bytes())
    del stored["packed"]["sig"]
    content = json.dumps(stored).encode()
    store = there.app.wire.payloads
    assert store is not None
    reference = store.reference({"enc": "json"}, content)
    store.put([(reference, content)])
    keep(there, task_id, json.dumps({"packed": reference}))
    with pytest.raises(SecurityError, match="is not signed"):
        there.result(task_id).get()
    assert Trap.sprung == []


def test_results_that_can_do_no_harm_are_not_signed() -> None:
    """JSON and msgpack are read as they are, signing keys or not."""
    there = Bench(signing_keys={"k1": OLD}, result_serializer="msgpack")
    task_id, data = pickled(there, {"a": b"1"})
    assert "sig" not in data["packed"]
    assert there.result(task_id).get() == {"a": b"1"}


@pytest.mark.parametrize("data", ["[]", "5", '"x"', '{"packed":5}', '{"packed":"reference"}', '{"packed":null}'])
def test_a_record_of_another_shape_is_an_error_of_decoding(data: str) -> None:
    """Not one of Python's own."""
    there = Bench()
    keep(there, "some", data)
    with pytest.raises(DecodeError, match="not what a worker writes"):
        there.result("some").get()
