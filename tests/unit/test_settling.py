"""Steps 6 and 7: what follows an outcome, and what becomes of the message."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from dispatcher import signals
from dispatcher.backends.memory import MemoryBackend
from dispatcher.brokers.base import Outgoing, Settlement
from dispatcher.brokers.memory import MemoryBroker
from dispatcher.consumer.loop import BrokerTransport
from dispatcher.exceptions import OperationalError
from dispatcher.execution import recording
from dispatcher.execution.settling import derived_id
from dispatcher.message import UnsupportedMessage, decode, encode
from tests.unit.bench import FOR_EVER, Bench


def test_derived_ids_are_fixed_for_ever() -> None:
    """The id of a continuation depends on the task and the position alone, and never changes between releases."""
    assert derived_id("d8f1c1f0-2b1e-4b8e-9c55-0a4cfe1d2a11", "link/0") == "c9d62916-835c-578f-b42e-03bebc28ca24"
    assert derived_id("a", "link/0") != derived_id("a", "link/1") != derived_id("b", "link/0")


def test_continuations_know_where_they_come_from() -> None:
    """Callbacks are children in lineage and depth; an id of their own is kept."""
    bench = Bench()
    seen: list[Any] = []

    @bench.app.task(name="first", bind=True)
    def first(self: Any) -> int:
        return 1

    @bench.app.task(name="after", bind=True)
    def after(self: Any, value: int) -> None:
        request = self.request
        seen.append((request.id, request.parent_id, request.root_id, request.depth))

    result = first.apply_async(link=[after.s(), after.s().set(task_id="mine")])
    bench.work()
    assert seen == [(derived_id(result.id, "link/0"), result.id, result.id, 1), ("mine", result.id, result.id, 1)]


def test_endless_loop_over_callbacks_ends_at_the_depth_limit() -> None:
    """Tasks that send each other through links are counted like those that send each other directly."""
    bench = Bench(task_max_depth=20)
    runs: list[int] = []

    @bench.app.task(name="ping")
    def ping(*args: Any) -> None:
        runs.append(1)
        pong.apply_async(link=ping.s())

    @bench.app.task(name="pong")
    def pong() -> None: ...

    ping.delay()
    bench.work()
    assert len(runs) <= 11
    assert any("task_max_depth=20" in letter.reason["exception"] for letter in bench.dead())


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ({"task": "note", "args": 5}, "TypeError"),
        ({"task": "note", "options": {"bogus": 1}}, "no option 'bogus'"),
        ({"task": "note", "options": {"exchange": "x"}}, "AMQP"),
        ({"task": "note", "options": {"priority": 77}}, "priority=77"),
        ({"task": "note", "options": {"queue": 5}}, "queue must be"),
    ],
)
def test_callback_that_can_never_be_sent_is_buried_with_the_reason(link: Any, words: str) -> None:
    """The task keeps its success, its neighbours theirs, and the message waits among the dead as it was."""
    bench = Bench()
    bench.app.task(name="note")(lambda *args: None)
    task = bench.app.task(name="work")(lambda x: x)
    broken, fine = task.apply_async((1,), link=link), task.delay(2)
    bench.work()
    assert (broken.get(), fine.get()) == (1, 2)
    [letter] = bench.dead()
    assert letter.reason["reason"] == "uncontinued"
    assert words in letter.reason["exception"]
    assert decode(letter.body).gen == 0


def test_buried_message_sends_its_callbacks_when_it_is_brought_back() -> None:
    """Brought back after the mistake was mended, the message runs no code and sends what was due."""
    bench = Bench(task_create_missing_queues=False, task_queues={"default": {}})
    notes: list[Any] = []
    runs: list[int] = []
    note = bench.app.task(name="note")(notes.append)
    work = bench.app.task(name="work")(lambda: runs.append(1) or "value")  # type: ignore[func-returns-value]
    result = work.apply_async(link=note.s().set(queue="later"))
    bench.work()
    [letter] = bench.dead()
    bench.app._sender._routes._create_missing = True  # type: ignore[union-attr]
    bench.app.broker.send([Outgoing("default", letter.body, result.id)])
    bench.work("default", "later")
    assert (notes, runs) == (["value"], [1])


class HalfBroker(MemoryBroker):
    """A memory broker that takes only some of what it is sent."""

    refuses = ""

    def _send(self, messages: Sequence[Outgoing]) -> Mapping[str, str]:
        taken = [message for message in messages if not (self.refuses and self.refuses in message.body)]
        super()._send(taken)
        return {message.id: "refused" for message in messages if message not in taken}


def test_half_sent_callbacks_are_completed_without_repetition() -> None:
    """Where one of several callbacks is not accepted the message goes back; those sent before run once."""
    bench = Bench()
    notes: list[Any] = []
    note = bench.app.task(name="note")(lambda value, tag: notes.append(tag))
    work = bench.app.task(name="work")(lambda: 1)
    broker = bench.app._broker = HalfBroker(bench.app.conf.broker_url, {}, bench.clock)
    work.apply_async(link=[note.s("a"), note.s("b"), note.s("c")])
    broker.refuses = '[1,"b"]'
    bench.step()
    broker.refuses = ""
    bench.work()
    assert sorted(notes) == ["a", "b", "c"]


def test_dead_letter_runs_when_it_is_brought_back() -> None:
    """A failed task's dead letter is a new generation without count, eta and expiry."""
    bench = Bench()
    fails = [True]

    @bench.app.task(name="mended")
    def mended() -> str:
        if fails:
            raise ValueError("broken")
        return "fine"

    result = mended.apply_async(expires=100, countdown=1, retries=2)
    bench.work()
    [letter] = bench.dead()
    assert letter.reason["reason"] == "failed"
    assert letter.reason["exception"] == "ValueError: broken"
    assert "ValueError: broken" in letter.reason["traceback"]
    message = decode(letter.body)
    assert (message.gen, message.retries, message.eta, message.expires) == (1, 0, None, None)
    fails.clear()
    bench.clock.advance(10_000)
    bench.app.broker.send([Outgoing("default", letter.body, result.id)])
    bench.work()
    assert bench.result(result.id).get() == "fine"


def test_failures_can_be_left_out_of_the_dead_letters() -> None:
    """``dead_letter_failures=False`` only records failures."""
    bench = Bench(dead_letter_failures=False)
    result = bench.app.task(name="fails")(lambda: 1 / 0).delay()
    bench.work()
    assert (result.state, bench.dead(), bench.left()) == ("FAILURE", [], 0)


def test_error_callbacks_of_both_styles_survive_a_repetition() -> None:
    """Error callbacks are sent again with the same error after a broker's absence."""
    bench = Bench()
    calls: list[Any] = []
    bench.app.task(name="new")(lambda request, exc, traceback: calls.append((request.task, repr(exc))))
    bench.app.task(name="old")(lambda task_id: calls.append(task_id))
    fails = bench.app.task(name="fails")(lambda: 1 / 0)

    class Away(MemoryBroker):
        away = False

        def _send(self, messages: Sequence[Outgoing]) -> Mapping[str, str]:
            if self.away:
                raise OperationalError("away")
            return super()._send(messages)

    broker = bench.app._broker = Away(bench.app.conf.broker_url, {}, bench.clock)
    result = fails.apply_async(link_error=[{"task": "new"}, {"task": "old"}])
    broker.away = True
    bench.step()
    assert bench.left() == 1
    broker.away = False
    bench.work()
    assert calls == [("fails", "ZeroDivisionError('division by zero')"), result.id]


def test_a_task_that_fails_again_after_a_redrive_tells_so_again() -> None:
    """Each generation that fails has its own error callbacks; a duplicate of either sends none twice."""
    bench = Bench()
    told: list[Any] = []
    bench.app.task(name="told")(lambda task_id: told.append(task_id))
    result = bench.app.task(name="fails")(lambda: 1 / 0).apply_async(link_error={"task": "told"})
    first = bench.receive()[0].body
    bench.clock.advance(FOR_EVER)
    for failures in (1, 2, 3):
        bench.work()
        assert told == [result.id] * failures
        [newest, *_] = sorted(bench.dead(), key=lambda letter: decode(letter.body).gen, reverse=True)
        bench.app.broker.send([Outgoing("default", newest.body, result.id)] * 2)
        bench.app.broker.send([Outgoing("default", first, result.id)])


def test_success_after_a_redrive_sends_its_callbacks_once() -> None:
    """Callbacks take effect once in a task's life, whichever generation succeeded, and however often."""
    bench = Bench()
    notes: list[Any] = []
    fails = [True]
    note = bench.app.task(name="note")(notes.append)
    work = bench.app.task(name="work")(lambda: 1 / 0 if fails else "fine")
    result = work.apply_async(link=note.s())
    bench.work()
    fails.clear()
    [letter] = bench.dead()
    for gen in (1, 1, 5):
        body = encode(decode(letter.body).replace(gen=gen))
        bench.app.broker.send([Outgoing("default", body, result.id)])
        bench.work()
    assert (result.get(), notes) == ("fine", ["fine"])


def test_a_revocation_is_told_of_once_it_is_recorded() -> None:
    """``task_revoked`` is not sent for what cannot be written, nor for what another delivery has decided."""
    bench = Bench()
    told: list[str] = []

    def note(sender: Any, request: Any, **more: Any) -> None:
        told.append(bench.record(request.id).status)

    class Deaf(MemoryBackend):
        def _write(self, writes: Any) -> Any:
            raise OperationalError("no")

    task = bench.app.task(name="unwanted")(lambda: 1)
    signals.task_revoked.connect(note, sender=task)
    result = task.delay()
    result.revoke()
    executor = bench.executor()
    backend, executor.env.backend = executor.env.backend, Deaf(bench.app.conf.result_backend, {}, bench.clock)
    runs = executor.prepare(bench.receive())
    executor.finish(runs)
    assert told == []
    executor.env.backend = backend
    bench.work()
    assert told == ["REVOKED"]


class Doubling(BrokerTransport):
    """A transport whose broker delivers a message twice at a time, as SQS does now and then."""

    @property
    def doubles(self) -> bool:
        return True


def test_a_failure_is_buried_though_its_decider_died() -> None:
    """Of two deliveries of one message one records the failure and dies; the other removes nothing."""
    bench = Bench()
    bench.app.task(name="fails")(lambda: 1 / 0).delay()
    transport = Doubling(bench.app.broker)
    executor = bench.executor(transport=transport)
    [delivery] = bench.receive()
    [decider] = executor.prepare([delivery])
    executor.execute(decider)
    recording.record(executor.env, [decider])  # and here it dies
    [double] = executor.process([delivery])
    assert double.settlement is not None
    assert (double.settlement.action, double.settlement.delay) == ("release", 900)
    executor.close()
    bench.work(transport=transport)
    assert [letter.reason["exception"] for letter in bench.dead()] == ["ZeroDivisionError: division by zero"]


def test_a_task_given_up_by_an_older_release_goes_on_in_a_newer_one() -> None:
    """A body that an older release cannot read ends a task that a newer one has begun; brought back, it is run."""
    bench = Bench(unknown_grace=0)
    told: list[Any] = []

    @bench.app.task(name="again", bind=True, max_retries=5)
    def again(self: Any) -> int:
        told.append((self.request.gen, self.request.retries))
        if self.request.retries < 2:
            self.retry(countdown=10)
        return int(self.request.retries)

    result = again.delay()
    bench.step()
    [delivery] = bench.receive(wait=100)
    newer = delivery.body.replace('"v":1', '"v":2')  # type: ignore[arg-type]
    bench.app.broker.settle([Settlement(delivery, "ack")])
    bench.app.broker.send([Outgoing("default", newer, result.id)])
    bench.work()
    with pytest.raises(UnsupportedMessage, match="wire version 2 is not known here"):
        result.get()
    [letter] = bench.dead()
    assert (letter.reason["reason"], letter.body) == ("undecodable", newer)
    bench.app.broker.send([Outgoing("default", letter.body.replace('"v":2', '"v":1'), result.id)] * 2)
    bench.work()
    assert (bench.result(result.id).get(), bench.record(result.id).gen) == (2, 1)
    assert told == [(0, 0), (1, 0), (1, 1), (1, 2)]


def test_a_foreign_body_does_not_end_a_task() -> None:
    """A body that is no message, or of another generation, is buried; the task whose id it names goes on."""
    bench = Bench(unknown_grace=0)
    task = bench.app.task(name="later", bind=True)(lambda self: self.request.retries or self.retry(countdown=10))
    result = task.delay()
    bench.step()
    for body in (f'{{"v":1,"id":"{result.id}"}}', f'{{"v":2,"id":"{result.id}","task":"later","gen":3}}'):
        bench.app.broker.send([Outgoing("default", body, result.id)])
    bench.work()
    assert (result.get(), len(bench.dead())) == (1, 2)
