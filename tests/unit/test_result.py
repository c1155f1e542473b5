"""Results: waiting, reading, and what is shown of odd records."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher.backends.base import Write
from dispatcher.backends.meta import ResultMeta
from dispatcher.clock import SYSTEM
from dispatcher.exceptions import IncompleteStream, Reject, TaskError, TaskRevokedError, TimeoutError
from dispatcher.result import AsyncResult, EagerResult, denied_join_result, result_from_tuple
from tests.unit.bench import Bench, Globals


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    """Keep apps of one test from the next."""
    with Globals():
        yield


def test_result_needs_an_id_and_an_app() -> None:
    """`None` is no id."""
    with pytest.raises(ValueError, match="needs a task id, not None"):
        AsyncResult(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", [0, 0.01, 5])
def test_wait_ends_by_the_clock(timeout: float) -> None:
    """`get` gives up after its timeout, naming the task."""
    bench = Bench()
    begin = bench.clock.time()
    with pytest.raises(TimeoutError, match="task nothing had no result after"):
        bench.result("nothing").get(timeout=timeout, interval=0.5)
    assert bench.clock.time() - begin == pytest.approx(timeout, abs=0.01)


def test_wait_asks_between_polls() -> None:
    """``on_interval`` is called while nothing is known yet."""
    bench = Bench()
    result = bench.app.task(name="t")(lambda: 1).delay()
    calls: list[int] = []

    def between() -> None:
        calls.append(1)
        if len(calls) == 3:
            bench.step()

    assert result.get(timeout=60, on_interval=between) == 1
    assert len(calls) == 3


def test_waiting_thread_is_woken() -> None:
    """A thread that waits gets the value another thread's worker records."""
    bench = Bench(clock=SYSTEM)
    result = bench.app.task(name="t")(lambda: "value").delay()
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(result.get(timeout=30)))
    thread.start()
    bench.step()
    thread.join()
    assert found == ["value"]


def test_coroutines_wait_without_blocking_the_loop() -> None:
    """`aget` and ``await result`` let the event loop go on, and raise what the task raised."""
    bench = Bench(clock=SYSTEM)
    good = bench.app.task(name="good")(lambda: 1).delay()
    bad = bench.app.task(name="bad")(lambda: 1 / 0).delay()

    async def main() -> list[Any]:
        waiting = asyncio.gather(good.aget(timeout=30), bad.aget(timeout=30, propagate=False), good)
        await asyncio.sleep(0)
        await asyncio.to_thread(bench.step)
        return [*await waiting, await bad.aget(propagate=False)]

    value, error, again, same = asyncio.run(main())
    assert (value, again, type(error), type(same)) == (1, 1, ZeroDivisionError, ZeroDivisionError)

    async def too_long() -> None:
        await bench.result("nothing").aget(timeout=0.01)

    with pytest.raises(TimeoutError, match="nothing had no result"):
        asyncio.run(too_long())


def _finish(bench: Bench, status: str, data: str = "", final: bool = True) -> AsyncResult[Any]:
    bench.app.finalize()
    bench.app.backend.write([Write("a", status, 0, 0, 0, final, "t", 4e9, data=data)])
    return bench.result("a")


@pytest.mark.parametrize(
    ("status", "data", "error", "words"),
    [
        ("REVOKED", "", TaskRevokedError, "revoked"),
        ("FAILURE", "", TaskError, "the task failed: None"),
        ("FAILURE", '{"result":"text"}', TaskError, "the task failed: 'text'"),
        ("FAILURE", '{"result":{"exc_type":"KeyError","exc_message":["k"]}}', KeyError, "k"),
        ("FAILURE", '{"result":{"exc_type":"Odd","exc_module":"m","exc_message":"x"}}', Exception, "m.Odd: x"),
        ("FAILURE", '{"error":{"type":"SystemExit","module":"builtins","args":[1]}}', TaskError, "SystemExit"),
        ("REJECTED", '{"error":{"type":"Reject","module":"dispatcher.exceptions","args":["r",false]}}', Reject, "r"),
    ],
)
def test_failures_of_any_form_raise(status: str, data: str, error: type[Exception], words: str) -> None:
    """`get` raises for every failed state, never an exit of the caller's process, and never hangs."""
    result = _finish(Bench(), status, data)
    assert result.ready()
    with pytest.raises(error, match=words):
        result.get(timeout=1)
    result.get(propagate=False)


def test_growing_tree_is_incomplete() -> None:
    """Descendants of a task that is not finished are not known yet, unless one asks for what there is."""
    bench = Bench()
    child = bench.app.task(name="child")(lambda: 1)

    @bench.app.task(name="parent")
    def parent() -> None:
        child.delay()

    result = parent.delay()
    bench.step()
    with pytest.raises(IncompleteStream, match="is not finished"):
        list(result.iterdeps())
    assert len(list(result.iterdeps(intermediate=True))) == 2
    bench.work()
    graph = result.graph
    assert [str(node) for node in graph] == [result.id, (result.children or [None])[0].id]
    assert f'"{result.id}" -> ' in graph.to_dot()


def test_parents_raise_first() -> None:
    """``follow_parents`` raises a parent's failure instead of waiting for its child."""
    bench = Bench()
    failed = bench.app.task(name="bad")(lambda: 1 / 0).delay()
    bench.work()
    child = AsyncResult("child", app=bench.app, parent=failed)
    with pytest.raises(ZeroDivisionError):
        child.get(timeout=1)
    assert child.as_list() == ["child", failed.id]
    assert result_from_tuple(child.as_tuple(), bench.app).parent == failed
    with pytest.raises(ValueError, match="not a result in tuple form"):
        result_from_tuple(5)


def test_callbacks_wait_for_the_end() -> None:
    """`then` calls back once the result is known to be finished."""
    bench = Bench()
    result = bench.app.task(name="t")(lambda: 1).delay()
    seen: list[Any] = []
    result.then(seen.append)
    assert not seen
    bench.work()
    assert result.ready()
    assert seen == [result]


def test_eager_results_answer_like_others() -> None:
    """`EagerResult` has the state, value and traceback, and waits for nothing."""
    result = EagerResult("id", ValueError("x"), "FAILURE", "trace", "t")
    assert (result.id, result.state, result.name, result.traceback, result.ready(), result.exists()) == (
        "id", "FAILURE", "t", "trace", True, True
    )  # fmt: skip
    with pytest.raises(ValueError, match="x"):
        result.get()
    assert repr(result.get(propagate=False)) == "ValueError('x')"
    result.forget()
    result.revoke()
    assert (result.state, repr(result)) == ("REVOKED", "<EagerResult: id>")


def test_joining_can_be_denied_again() -> None:
    """`denied_join_result` inside `allow_join_result` restores the rule."""
    from dispatcher.result import allow_join_result

    bench = Bench()
    done = bench.app.task(name="one")(lambda: 1).delay()
    bench.work()

    @bench.app.task(name="waits")
    def waits() -> int:
        with allow_join_result(), denied_join_result():
            return int(AsyncResult(done.id).get())

    result = waits.delay()
    bench.work()
    assert isinstance(result.result, RuntimeError)


def test_a_callback_that_is_added_as_the_end_is_learnt_is_called() -> None:
    """One thread learns of the end while another asks to be called back: it is, once."""
    bench = Bench()
    result = bench.result("t")
    end = Write("t", "SUCCESS", 0, 0, 0, final=True, token="", expires_at=bench.clock.time() + 60, data="{}")
    called: list[Any] = []

    class Late(list[Any]):
        def append(self, callback: Any) -> None:
            bench.app.backend.write([end])
            assert result.ready()  # asked by the other thread, in between
            super().append(callback)

    result.on_ready = Late()
    result.then(called.append)
    result.then(called.append)
    assert called == [result, result]


def test_a_result_in_a_payload_store_is_fetched_by_several_threads() -> None:
    """One is done with it while another is about to fetch it too."""

    class Shared(ResultMeta):
        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if name == "source":
                self.source = None  # by the other thread
            return value

    meta = Shared(payload={"ref": "file:///x"}, source=lambda reference: ResultMeta(result=5))
    assert meta.complete().result == 5
