"""Sending calls of unique tasks: who is sent, and what the others are answered with."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from dispatcher.backends import locks
from dispatcher.backends.base import Write
from dispatcher.backends.locks import Lock
from dispatcher.backends.memory import MemoryBackend
from dispatcher.brokers.base import Outgoing
from dispatcher.canvas import chain, chord
from dispatcher.exceptions import (
    ImproperlyConfigured,
    OperationalError,
    Reject,
    SendError,
    TaskRevokedError,
    UnsupportedOption,
)
from tests.unit.bench import Bench


class UniqueBench(Bench):
    """A bench with a unique task ``t`` that returns its argument, or raises it."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.ran: list[Any] = []
        self.fail: BaseException | None = None
        self.meanwhile: Callable[[], Any] | None = None

        def run(self_: Any, x: Any = None) -> Any:
            self.ran.append(self_.request.id)
            meanwhile, self.meanwhile = self.meanwhile, None
            if meanwhile is not None:
                meanwhile()
            if self.fail is not None:
                raise self.fail
            return x

        given = {"unique": True, "max_retries": 0, **options}
        self.task: Any = self.app.task(name="t", bind=True, **given)(run)
        self.app.finalize()

    def lock(self, *args: Any) -> Lock:
        """Read the lock of a call."""
        return locks.read(self.app.backend, self.task._uniqueness.key_of(args, {}))


def test_a_call_stands_for_its_duplicates() -> None:
    """One message, one run, one result for all of them; ``duplicate`` says which were not sent."""
    bench = UniqueBench()
    results = [bench.task.delay(1), bench.task.delay(x=1), bench.task.apply_async((1,), task_id="mine")]
    assert {result.id for result in results} == {results[0].id}
    assert [result.duplicate for result in results] == [False, True, True]
    assert bench.left() == 1
    bench.work()
    assert [result.get(timeout=0) for result in results] == [1, 1, 1]
    assert bench.ran == [results[0].id]


def test_other_arguments_are_other_calls() -> None:
    """Keys do not disturb each other."""
    bench = UniqueBench()
    assert len({bench.task.delay(n).id for n in range(5)}) == 5
    assert len(bench.work()) == 5


def test_the_next_call_after_the_outcome_is_sent() -> None:
    """Success ends the claim, and the lock is left free."""
    bench = UniqueBench()
    first = bench.task.delay(1)
    bench.work()
    second = bench.task.delay(1)
    assert (second.id != first.id, second.duplicate) == (True, False)
    bench.work()
    assert not bench.lock(1).is_claimed(bench.clock.time())


@pytest.mark.parametrize("error", [KeyError("x"), Reject("no")])
def test_a_failure_ends_the_claim_and_is_seen_by_all(error: Exception) -> None:
    """Duplicates raise what the task raised; the next call is sent."""
    bench = UniqueBench()
    results = [bench.task.delay(1) for _ in range(2)]
    bench.fail = error
    bench.work()
    for result in results:
        with pytest.raises(type(error)):
            result.get(timeout=0)
    assert not bench.task.delay(1).duplicate


def test_the_claim_lasts_through_retries() -> None:
    """A retry of ten hours later is still the task that stands for the others."""
    bench = UniqueBench(autoretry_for=(KeyError,), max_retries=3, default_retry_delay=36_000, unique_for=60)
    first = bench.task.delay(1)
    bench.fail = KeyError("x")
    for _ in range(3):
        bench.step()
        bench.clock.advance(35_000)
        assert bench.task.delay(1).id == first.id
        bench.clock.advance(1_000)
    bench.fail = None
    bench.step()
    assert first.get(timeout=0) == 1


def test_a_revoked_task_stands_for_nobody() -> None:
    """The next call is sent at once, though the revoked message is still on its queue."""
    bench = UniqueBench()
    first = bench.task.apply_async((1,), countdown=3600)
    first.revoke()
    second = bench.task.delay(1)
    assert second.id != first.id
    bench.work()
    assert second.get(timeout=0) == 1
    with pytest.raises(TaskRevokedError):
        first.get(timeout=0)
    assert bench.ran == [second.id]


def test_an_expired_task_stands_for_nobody() -> None:
    """Its claim ends when it expires."""
    bench = UniqueBench()
    first = bench.task.apply_async((1,), expires=10)
    assert bench.task.delay(1).id == first.id
    bench.clock.advance(11)
    second = bench.task.delay(1)
    assert second.id != first.id
    bench.work()
    assert bench.ran == [second.id]


def test_a_claim_that_nothing_is_heard_of_ends() -> None:
    """After ``unique_for`` seconds, from the ETA on, another task may stand for the key: its message may be lost."""
    bench = UniqueBench(unique_for=100)
    first = bench.task.apply_async((1,), countdown=50)
    bench.app.broker.purge("default")
    bench.clock.advance(149)
    assert bench.task.delay(1).id == first.id
    bench.clock.advance(2)
    assert bench.task.delay(1).id != first.id


def test_a_lock_is_released_by_hand() -> None:
    """For messages that were purged: the next call is sent; with nothing to release it says so."""
    bench = UniqueBench()
    first = bench.task.delay(1)
    bench.app.broker.purge("default")
    assert bench.task.release_lock((1,)) is True
    assert bench.task.release_lock(kwargs={"x": 1}) is False
    assert bench.task.delay(1).id != first.id
    plain = bench.app.task(name="plain")(lambda: 1)
    with pytest.raises(ImproperlyConfigured, match="task plain is not unique"):
        plain.release_lock()


def test_a_period_outlasts_the_outcome() -> None:
    """Duplicates are answered with the result until the period is over, from the call on."""
    bench = UniqueBench(unique_scope="period", unique_for=100)
    first = bench.task.delay(1)
    bench.work()
    bench.clock.advance(99)
    again = bench.task.delay(1)
    assert (again.id, again.duplicate, again.get(timeout=0)) == (first.id, True, 1)
    bench.clock.advance(2)
    assert bench.task.delay(1).id != first.id


def test_a_failure_ends_a_period() -> None:
    """What failed was not done, so the next call is sent."""
    bench = UniqueBench(unique_scope="period", unique_for=100)
    first = bench.task.delay(1)
    bench.fail = KeyError("x")
    bench.work()
    assert bench.task.delay(1).id != first.id


def test_while_waiting_ends_with_the_start() -> None:
    """A call during the run is sent: what the run has read already may have changed. One behind it waits for both."""
    bench = UniqueBench(unique_scope="waiting")
    later: list[Any] = []
    first = bench.task.delay(1)
    assert bench.task.delay(1).id == first.id
    bench.meanwhile = lambda: later.extend([bench.task.delay(1), bench.task.delay(1)])
    bench.step()
    assert [result.id == first.id for result in later] == [False, False]
    assert later[0].id == later[1].id
    bench.work()
    assert bench.ran == [first.id, later[0].id]


def test_while_running_every_call_is_sent() -> None:
    """That scope keeps runs apart, not calls."""
    bench = UniqueBench(unique_scope="running")
    results = [bench.task.delay(1) for _ in range(3)]
    assert len({result.id for result in results}) == 3
    bench.work()
    assert [result.get(timeout=0) for result in results] == [1, 1, 1]


def test_batches_of_calls() -> None:
    """Duplicates inside one batch and of earlier calls are not sent."""
    bench = UniqueBench()
    first = bench.task.delay(0)
    results = bench.app.send_many([bench.task.s(n % 3) for n in range(9)])
    assert [result.id for result in results] == [result.id for result in results[:3]] * 3
    assert results[0].id == first.id
    assert bench.left() == 3
    assert bench.app.send_many([]) == []


def test_calls_by_name_are_unique_too() -> None:
    """``send_task`` of a task that this app knows claims as well."""
    bench = UniqueBench()
    assert bench.app.send_task("t", (1,)).id == bench.task.delay(1).id


def test_callbacks_are_sent_and_take_turns() -> None:
    """Somebody may wait for a link's own result, so it is not answered by another task; it runs beside none."""
    bench = UniqueBench()
    add = bench.app.task(name="add")(lambda x: x)
    waiting = bench.task.apply_async((5,), countdown=60)
    add.apply_async((5,), link=bench.task.s().set(task_id="linked"))
    bench.step()
    bench.step()
    assert bench.result("linked").get(timeout=0) == 5
    bench.work()
    assert waiting.get(timeout=0) == 5
    assert bench.ran == ["linked", waiting.id]


def test_members_of_canvases_are_sent_and_take_turns() -> None:
    """A group of one and the same call, with a chain behind it, runs to its end."""
    bench = UniqueBench()
    total = bench.app.task(name="total")(sum)
    result = chord([bench.task.s(3), bench.task.s(3)], app=bench.app)(chain(total.s(), bench.task.s(), app=bench.app))
    bench.work()
    assert result.get(timeout=0) == 6
    assert len(bench.ran) == 3


@pytest.mark.parametrize("unique", [True, lambda results: str(sum(results))])
def test_a_unique_body_is_known_by_the_results_it_gets(unique: Any) -> None:
    """Whoever sends it does not have them: its key is told by the worker, once it has read them."""
    bench = UniqueBench()
    seen: list[Any] = []

    @bench.app.task(name="body", bind=True, unique=unique)
    def body(self: Any, results: list[int]) -> int:
        seen.append(locks.read(bench.app.backend, self._uniqueness.key_of([results], {})).running)
        return sum(results)

    results = [chord([bench.task.s(1), bench.task.s(n)], app=bench.app)(body.s()) for n in (2, 2, 3)]
    bench.work()
    assert [result.get(timeout=0) for result in results] == [3, 3, 4]
    assert sorted(seen) == sorted(result.id for result in results)


def test_a_step_whose_key_cannot_be_told_fails_and_says_so() -> None:
    """What the step before returned is not what its key function takes: nobody waits for it for ever."""
    bench = UniqueBench()
    ship = bench.app.task(name="ship", unique=lambda order: order["customer"])(lambda order: order)
    result = chain(bench.task.s({"total": 3}), ship.s(), bench.task.s(), app=bench.app)()
    bench.work()
    with pytest.raises(ImproperlyConfigured, match="'customer'"):
        result.parent.get(timeout=0)
    assert result.state == "FAILURE"
    with pytest.raises(ImproperlyConfigured, match="'customer'"):
        chain(ship.s({}), bench.task.s(), app=bench.app)()


def test_a_producer_that_died_before_it_sent_blocks_nobody() -> None:
    """Whoever calls next sends the message under the id that was claimed; a producer that is alive is waited for."""
    bench = UniqueBench()
    key = bench.task._uniqueness.key_of((1,), {})
    lock, now = Lock(key), bench.clock.time()
    assert locks.swap(bench.app.backend, lock, lock.with_claim("dead", now + 1000, now), now) is None
    result = bench.task.delay(1)
    assert (result.id, bench.left()) == ("dead", 1)
    assert 1.0 <= bench.clock.time() - now <= 2.0
    assert bench.task.delay(1).id == "dead"
    bench.work()
    assert (result.get(timeout=0), bench.ran) == (1, ["dead"])


def test_a_producer_that_died_after_it_sent_doubles_nothing() -> None:
    """Its message is sent again under the same id; the second copy finds the outcome, and no claim stays."""
    bench = UniqueBench()
    first = bench.task.delay(1)
    claimed = bench.lock(1)
    assert locks.swap(bench.app.backend, claimed, claimed.changed(bench.clock.time(), sent=False), 0.0) is None
    assert bench.task.delay(1).id == first.id
    assert bench.left() == 2
    bench.work()
    assert bench.ran == [first.id]
    assert not bench.lock(1).is_claimed(bench.clock.time())


def refuse(bench: UniqueBench, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Let the next sends fail."""

    def send(messages: Sequence[Outgoing]) -> None:
        raise error

    monkeypatch.setattr(bench.app.broker, "send", send)


def test_a_send_that_fails_claims_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller gets the error, and the next call is a first one again."""
    bench = UniqueBench()
    with monkeypatch.context() as patch:
        refuse(bench, patch, OperationalError("away"))
        with pytest.raises(OperationalError, match="away"):
            bench.task.delay(1)
    assert not bench.lock(1).is_claimed(bench.clock.time())
    assert not bench.task.delay(1).duplicate


def test_of_a_batch_that_fails_in_part_the_rest_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the calls that were refused may be sent again."""
    bench = UniqueBench()
    sigs = [bench.task.s(n).set(task_id=f"id-{n}") for n in range(2)]
    with monkeypatch.context() as patch:
        refuse(bench, patch, SendError("one", {"id-1": "too large"}))
        with pytest.raises(SendError):
            bench.app.send_many(sigs)
    assert [bench.lock(n).is_claimed(bench.clock.time()) for n in range(2)] == [True, False]


def test_a_key_that_cannot_be_told_sends_nothing() -> None:
    """The error comes before anything of the batch is sent, and claims nothing."""
    bench = UniqueBench(unique=lambda x: x)
    with pytest.raises(ImproperlyConfigured, match="task t was not sent: its unique= function must return a text"):
        bench.app.send_many([bench.task.s("a"), bench.task.s(5)])
    assert bench.left() == 0
    assert not bench.lock("a").is_claimed(bench.clock.time())


class Away(MemoryBackend):
    """A backend that cannot be reached."""

    def _write(self, writes: Sequence[Write]) -> Any:
        raise OperationalError("no route to host")


def test_a_backend_that_is_away_sends_nothing() -> None:
    """Rather than silently not unique, the call fails and says why."""
    bench = UniqueBench()
    bench.app._backend = Away("memory://away", {}, bench.clock)
    with pytest.raises(
        OperationalError, match=r"task t was not sent: it is unique, and memory cannot be asked.*no route"
    ):
        bench.task.delay(1)
    assert bench.left() == 0


def test_the_option_of_a_call_is_refused() -> None:
    """Whether a task is unique is not for one call to say."""
    with pytest.raises(UnsupportedOption, match="unique=False cannot work: whether a task is unique is its own option"):
        UniqueBench().task.apply_async((1,), unique=False)


def test_eager_calls_run() -> None:
    """Without messages there is nothing that could be a duplicate."""
    bench = UniqueBench()
    assert [bench.task.apply((1,)).get() for _ in range(2)] == [1, 1]
    assert bench.left() == 0
