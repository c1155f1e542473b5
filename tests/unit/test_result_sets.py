"""Sets of results: what they cost to read, how they are waited for, and what is told while they are."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from dispatcher import ResultSet, chain, chord, group
from dispatcher.backends.base import TaskRecord
from dispatcher.exceptions import ChordError, TimeoutError
from tests.unit.bench import Bench, Globals


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    """Keep apps of one test from the next."""
    with Globals():
        yield


class Counted(Bench):
    """A bench with tasks, which counts the reads of its backend."""

    def __init__(self) -> None:
        super().__init__()
        self.add = self.app.task(name="add")(lambda *numbers: sum(numbers))
        self.total = self.app.task(name="total")(sum)
        self.fail = self.app.task(name="fail")(self._fail)
        self.reads: list[int] = []
        self.forgotten: list[int] = []
        read, forget = self.app.backend.read, self.app.backend.forget
        self.app.backend.read = lambda ids: self._counted(read, ids)
        self.app.backend.forget = lambda ids: (self.forgotten.append(len(ids)), forget(ids))

    @staticmethod
    def _fail(*args: Any) -> None:
        raise ValueError("no")

    def _counted(self, read: Any, ids: Sequence[str]) -> dict[str, TaskRecord]:
        self.reads.append(len(ids))
        found: dict[str, TaskRecord] = read(ids)
        return found


@pytest.fixture
def bench() -> Counted:
    """A bench."""
    return Counted()


def test_a_group_is_read_in_one_call_and_only_what_is_not_known(bench: Counted) -> None:
    """However many members: one batch for all, then none for those that are known to be finished."""
    result = group(bench.add.s(n) for n in range(40)).apply_async()
    assert not result.ready()
    bench.step()
    bench.reads.clear()
    assert result.completed_count() == 10
    assert result.waiting()
    assert bench.reads == [40, 30]
    bench.work()
    bench.reads.clear()
    assert result.get(timeout=0) == list(range(40))
    assert result.get(timeout=0) == list(range(40))
    assert bench.reads == [30]


def test_callbacks_are_called_as_tasks_finish(bench: Counted) -> None:
    """``on_message`` and ``callback`` see each task once, also before the others are finished; no list then."""
    result = group(bench.add.s(n) for n in range(12)).apply_async()
    bench.step()
    seen: list[Any] = []
    told: list[Any] = []
    with pytest.raises(TimeoutError, match=r"2 of 12 tasks had no result after 0 s"):
        result.get(timeout=0, callback=lambda task_id, value: seen.append(value))
    assert seen == list(range(10))
    bench.work()
    assert result.get(timeout=0, callback=lambda task_id, value: seen.append(value), on_message=told.append) == []
    assert seen[10:] == list(range(12))
    assert [meta["result"] for meta in told] == list(range(12))
    assert [meta["status"] for _, meta in result.iter_native(timeout=0, on_message=told.append)] == ["SUCCESS"] * 12
    assert len(told) == 24


def test_values_are_iterated_as_they_come(bench: Counted) -> None:
    """``iterate`` yields what is there, waits for the rest, and raises the error of a failed task."""
    results = ResultSet(bench.app.send_many([bench.add.s(n) for n in range(11)]))
    bench.step()
    values = results.iterate(timeout=0)
    assert [next(values) for _ in range(10)] == list(range(10))
    bench.work()
    assert list(values) == [10]
    failing = ResultSet([bench.fail.delay(), bench.add.delay(1)])
    bench.work()
    with pytest.raises(ValueError, match="no"):
        list(failing.iterate(timeout=0))
    assert list(failing.iterate(timeout=0, propagate=False))[1] == 1


def test_a_group_is_awaited(bench: Counted) -> None:
    """``await`` and ``aget`` give the list of values, ``async for`` single results as they finish."""
    result = group(bench.add.s(1), group(bench.add.s(2), bench.add.s(3))).apply_async()

    async def use() -> list[Any]:
        with pytest.raises(TimeoutError, match="3 of 3 tasks"):
            await result.aget(timeout=0)
        working = asyncio.create_task(asyncio.to_thread(bench.work))
        found = {each.id: each.get() async for each in result}
        await working
        return [list(found.values()), await result, await result.aget()]

    values = asyncio.run(use())
    assert [sorted(values[0]), *values[1:]] == [[1, 2, 3]] * 3
    failing = group(bench.add.s(1), bench.fail.s()).apply_async()
    bench.work()

    async def fail() -> Any:
        return await failing

    with pytest.raises(ValueError, match="no"):
        asyncio.run(fail())
    assert asyncio.run(failing.aget(propagate=False))[0] == 1


def test_awaiting_asks_the_store_in_other_threads(bench: Counted) -> None:
    """The event loop's thread never reads."""
    result = group(bench.add.s(n) for n in range(3)).apply_async()
    bench.work()
    threads: set[int] = set()
    read = bench.app.backend.read
    bench.app.backend.read = lambda ids: (threads.add(threading.get_ident()), read(ids))[1]
    assert asyncio.run(result.aget()) == [0, 1, 2]
    assert threads
    assert threading.get_ident() not in threads


def test_a_chain_s_get_reads_its_parents_in_one_batch(bench: Counted) -> None:
    """A step that waits raises what failed before it; one that is finished speaks for itself."""
    result = chain(*[bench.add.s(1)] * 3, bench.fail.s(), *[bench.add.s(1)] * 3).apply_async()
    bench.reads.clear()
    with pytest.raises(TimeoutError):
        result.get(timeout=0)
    assert bench.reads == [7, 1]
    bench.work()
    with pytest.raises(ValueError, match="no"):
        result.get(timeout=0)
    bench.app.backend.forget([result.id])
    again = bench.app.AsyncResult(result.id, parent=result.parent)
    with pytest.raises(ValueError, match="no"):
        again.get(timeout=0)


def test_a_chord_s_get_raises_chord_error_whenever_it_is_asked(bench: Counted) -> None:
    """The same error before the body's failure is known and after it."""
    result = chord([bench.add.s(1), bench.fail.s()], bench.total.s()).apply_async()
    bench.work()
    told = str(bench.app.AsyncResult(result.id).get(timeout=0, propagate=False))
    for _ in range(2):
        with pytest.raises(ChordError) as raised:
            result.get(timeout=0)
        assert str(raised.value) == told
        result._final = None
        bench.app.backend.forget([result.id])


def test_forget_removes_the_whole_tree_in_one_call(bench: Counted) -> None:
    """What came before a result goes with it: parents, groups, and the chains that their members are."""
    canvas = bench.add.s(1) | group(bench.add.s(2), bench.add.s(3) | bench.add.s(4)) | bench.total.s()
    result = canvas.apply_async()
    bench.work()
    ids = [result.id, *(each.id for each in result.parent), result.parent[1].parent.id, result.parent.parent.id]
    assert all(bench.record(task_id) for task_id in ids)
    result.forget()
    assert bench.forgotten == [5]
    assert not any(bench.record(task_id) for task_id in ids)
    assert not result.parent[0].exists()
    assert result.state == "PENDING"
