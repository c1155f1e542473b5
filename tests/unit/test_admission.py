"""Steps 1 and 2: what a message may do is decided by its body and the record, before any code runs."""

import json
import sys
from typing import Any

import pytest

from dispatcher import signals
from dispatcher.backends.base import Write
from dispatcher.brokers.base import Outgoing
from dispatcher.exceptions import ContentDisallowed, NotRegistered, WorkerLostError
from dispatcher.execution.run import Kind
from dispatcher.message import Message, decode, encode
from tests.unit.bench import Bench

ID = "11111111-1111-4111-8111-111111111111"


def _bench(**settings: Any) -> tuple[Bench, list[Any]]:
    bench = Bench(**settings)
    runs: list[Any] = []

    @bench.app.task(name="note", bind=True)
    def note(self: Any, x: int = 0) -> int:
        runs.append((self.request.gen, self.request.retries, x))
        return x

    return bench, runs


def _put(bench: Bench, message: Message | str, **fields: Any) -> None:
    bench.app.finalize()
    body = message if isinstance(message, str) else encode(message)
    bench.app.broker.send([Outgoing("default", body, "x", **fields)])


def _record(bench: Bench, status: str = "PENDING", **fields: Any) -> None:
    known = {"gen": 0, "attempt": 0, "retries": 0, "final": False, "token": "t", "expires_at": 4e9, **fields}
    assert bench.app.backend.write([Write(ID, status, **known)]) == [None]


@pytest.mark.parametrize(
    ("record", "message", "kind", "ran"),
    [
        (None, {}, Kind.SUCCESS, [(0, 0, 5)]),
        (None, {"gen": 3, "retries": 2}, Kind.SUCCESS, [(3, 2, 5)]),
        ({"gen": 1}, {}, Kind.SUPERSEDED, []),
        ({"gen": 1, "status": "SUCCESS", "final": True}, {}, Kind.SUPERSEDED, []),
        ({"status": "SUCCESS", "final": True}, {}, Kind.REPEATED, []),
        ({"status": "FAILURE", "final": True}, {"gen": 1}, Kind.SUCCESS, [(1, 0, 5)]),
        ({"status": "RETRY", "retries": 2}, {}, Kind.SUCCESS, [(0, 2, 5)]),
        ({"status": "RETRY", "retries": 2}, {"gen": 1, "retries": 1}, Kind.SUCCESS, [(1, 1, 5)]),
        ({"status": "RETRY", "retries": 1}, {"retries": 4}, Kind.SUCCESS, [(0, 4, 5)]),
    ],
)
def test_record_decides_who_may_run(record: Any, message: Any, kind: Kind, ran: Any) -> None:
    """Older generations are dropped, newer ones take over, final ones are repeated; retries come from the record."""
    bench, runs = _bench()
    bench.app.finalize()
    if record:
        _record(bench, **record)
    _put(bench, Message(ID, "note", (5,), **message))
    [run] = bench.step()
    assert run.outcome is not None
    assert run.outcome.kind is kind
    assert runs == ran
    assert bench.left() == 0


def test_retry_is_not_started_before_its_time() -> None:
    """A message whose record says when the next run is due goes back until then; no attempt is counted."""
    bench, runs = _bench()
    bench.app.finalize()
    now = bench.clock.time()
    _record(bench, "RETRY", retries=1, not_before=now + 30, attempt=0)
    _put(bench, Message(ID, "note"))
    [run] = bench.step()
    assert run.settlement is not None
    assert (run.settlement.action, run.settlement.delay) == ("release", 30)
    bench.work()
    assert runs == [(0, 1, 0)]
    assert bench.clock.time() == now + 30


def test_eta_is_kept_by_who_receives_too_early() -> None:
    """A broker that cannot delay that long delivers early; the message goes back until it is due."""
    bench, runs = _bench()
    now = bench.clock.time()
    _put(bench, Message(ID, "note", eta=now + 5000.5))
    [run] = bench.step()
    assert run.settlement is not None
    assert run.settlement.delay == 5000.5
    assert not runs
    bench.work()
    assert len(runs) == 1
    assert bench.clock.time() == now + 5000.5


def test_expired_message_is_revoked() -> None:
    """What comes after its time is REVOKED without a run; a moment earlier it runs."""
    bench, runs = _bench()
    now = bench.clock.time()
    _put(bench, Message(ID, "note", expires=now))
    bench.work()
    assert (bench.result(ID).state, str(bench.result(ID).result), runs) == ("REVOKED", "expired", [])
    _put(bench, Message("other", "note", expires=now + 0.001))
    bench.work()
    assert len(runs) == 1


def test_revoked_message_never_runs_again() -> None:
    """The flag counts for every generation, also when it is set between two retries."""
    bench, runs = _bench()
    bench.app.finalize()
    _record(bench, "RETRY", retries=1)
    bench.result(ID).revoke()
    _put(bench, Message(ID, "note"))
    bench.work()
    assert (bench.result(ID).state, runs) == ("REVOKED", [])


def test_running_task_keeps_its_success() -> None:
    """Revoking a task that runs does not change its outcome."""
    bench = Bench()

    @bench.app.task(bind=True, name="revokes itself")
    def selfish(self: Any) -> str:
        self.AsyncResult(self.request.id).revoke()
        return "done"

    result = selfish.delay()
    bench.work()
    assert result.get() == "done"


@pytest.mark.parametrize("body", [f'{{"v":2,"id":"{ID}","task":"note"}}', encode(Message(ID, "elsewhere"))])
def test_what_a_newer_worker_may_know_is_handed_back_for_a_grace(body: str) -> None:
    """Unknown versions and task names wait ``unknown_grace`` seconds for another release, then they are dead."""
    bench, _ = _bench(unknown_grace=100)
    begin = bench.clock.time()
    _put(bench, body)
    runs = bench.work()
    assert {run.outcome.kind for run in runs[:-1] if run.outcome} == {Kind.HANDED_BACK}
    assert 100 <= bench.clock.time() - begin <= 170
    assert [letter.reason["reason"] for letter in bench.dead()] == ["undecodable"]
    assert bench.result(ID).state == "FAILURE"


def test_worker_that_knows_the_task_in_time_runs_it() -> None:
    """Within the grace a newer worker takes over, and nothing is recorded before."""
    bench, _ = _bench(unknown_grace=100)
    _put(bench, Message(ID, "later"))
    bench.step()
    assert bench.record(ID) is None
    bench.app.task(name="later")(lambda: "new")
    bench.work()
    assert bench.result(ID).get() == "new"


def test_unknown_task_s_dead_letter_can_be_brought_back() -> None:
    """The dead letter of an unknown task is of the next generation, so that it runs once the task is known."""
    bench, _ = _bench(unknown_grace=0)
    _put(bench, Message(ID, "later", (1,), link_error=({"task": "note"},)))
    bench.work()
    with pytest.raises(NotRegistered, match="no task named 'later' is registered here; this worker knows"):
        bench.result(ID).get()
    [letter] = bench.dead()
    assert decode(letter.body).gen == 1
    bench.app.task(name="later")(lambda x: x)
    _put(bench, letter.body)
    bench.work()
    assert bench.result(ID).get() == 1


@pytest.mark.parametrize(
    "name", ["os.system", "tests.unit.never.imported", "__import__", "note.__class__", "", "note\0"]
)
def test_a_message_names_no_code(name: str) -> None:
    """Only what is registered under exactly that name runs; nothing is imported for a message or its callbacks."""
    bench, runs = _bench(unknown_grace=0)
    body = encode(Message(ID, "note")).replace('"note"', json.dumps(name))
    link = {"task": name or "x", "subtask_type": "os.system", "args": ["true"]}
    _put(bench, body)
    _put(bench, Message("2", "note", link=(link,)))
    before = set(sys.modules)
    bench.work()
    assert set(sys.modules) == before
    assert runs == [(0, 0, 0)]
    assert {letter.reason["reason"] for letter in bench.dead()} <= {"undecodable", "uncontinued"}


def test_arguments_that_may_not_be_read_fail_the_task() -> None:
    """A serializer outside ``accept_content`` is a dead letter, and who waits for the task learns why."""
    bench, _ = _bench(accept_content=["json"])
    message = Message(ID, "note", gen=2, packed={"enc": "msgpack", "data": "kpGAgA=="}, link_error=({"task": "note"},))
    _put(bench, message)
    bench.work()
    with pytest.raises(ContentDisallowed, match="'msgpack' is not accepted here"):
        bench.result(ID).get()
    assert bench.record(ID).gen == 2
    [letter] = bench.dead()
    assert decode(letter.body) == message.replace(gen=3)


def test_bad_arguments_fail_before_the_run() -> None:
    """Arguments the function cannot take are its failure, logged and told like one."""
    bench, runs = _bench()
    told: list[Any] = []

    def failed(sender: Any = None, exception: Any = None, **kwargs: Any) -> None:
        told.append((sender.name, str(exception)))

    signals.task_failure.connect(failed)
    try:
        _put(bench, Message(ID, "note", (1, 2, 3)))
        bench.work()
    finally:
        signals.task_failure.disconnect(failed)
    words = "note() takes from 0 to 1 positional arguments but 3 were given"
    assert told == [("note", words)]
    assert (str(bench.result(ID).result), runs) == (words, [])


def test_body_that_names_no_task_is_buried_alone() -> None:
    """A body that is no message at all goes to the dead letters as it is; its neighbours run."""
    bench, runs = _bench()
    for body in ("nonsense", "[" * 1000, f'{{"v":1,"id":"{ID}","task":"note","eta":"x"}}'):
        _put(bench, body)
    _put(bench, Message("fine", "note"))
    bench.work()
    assert len(runs) == 1
    assert [letter.body[:8] for letter in bench.dead()] == ['{"v":1,"', "[[[[[[[[", "nonsense"]
    assert "'eta' must be a number of seconds" in str(bench.result(ID).result)


def test_unreadable_duplicate_of_a_finished_task_is_buried_without_harm() -> None:
    """A damaged body with the id of a finished task changes nothing but the dead letters."""
    bench, _ = _bench()
    _put(bench, Message(ID, "note", (5,)))
    bench.work()
    _put(bench, f'{{"v":1,"id":"{ID}","task":"note","args":{{}}}}')
    bench.work()
    assert bench.result(ID).get() == 5
    assert len(bench.dead()) == 1


def test_crashes_are_counted_up_to_a_limit() -> None:
    """A start without an outcome counts; at ``max_worker_losses`` the task fails instead of running."""
    bench, runs = _bench(max_worker_losses=2)
    _put(bench, Message(ID, "note"))
    executor = bench.executor()
    for crash in range(3):
        [run] = executor.prepare(bench.receive(wait=1e6))
        assert run.outcome is None
        assert executor._begin(run)
        record = bench.record(ID)
        assert (record.starts if record else 0) == crash
        executor.close()
        bench.clock.advance(3600)
    bench.work()
    assert runs == []
    with pytest.raises(WorkerLostError, match=r"died 2 times while it ran note"):
        bench.result(ID).get()
    assert [letter.reason["reason"] for letter in bench.dead()] == ["failed"]


def test_same_message_twice_in_a_batch_runs_once() -> None:
    """The second copy waits for what the first decides."""
    bench, runs = _bench()
    for _ in range(3):
        _put(bench, Message(ID, "note"))
    kinds = [run.outcome.kind for run in bench.step() if run.outcome]
    assert kinds == [Kind.SUCCESS, Kind.HANDED_BACK, Kind.HANDED_BACK]
    bench.work()
    assert len(runs) == 1


def test_message_of_a_newer_release_runs_when_it_is_brought_back() -> None:
    """What this release buried unread is FAILURE for who waits, and still runs where it can be read."""
    bench, runs = _bench(unknown_grace=0)
    _put(bench, f'{{"v":1,"id":"{ID}","task":"note","args":[7],"critical":["tenancy"],"tenancy":1}}')
    bench.work()
    assert bench.result(ID).state == "FAILURE"
    [letter] = bench.dead()
    assert '"tenancy":1' in letter.body
    _put(bench, letter.body.replace(',"critical":["tenancy"]', ""))
    bench.work()
    assert (runs, bench.result(ID).get()) == ([(0, 0, 7)], 7)
