"""What waits for a task outlives long retries of it: joins, and the results that are read with its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher import chain, chord, group
from tests.unit.bench import Bench, Globals

DAY = 86_400.0


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    """Keep apps of one test from the next."""
    with Globals():
        yield


class Slow(Bench):
    """A bench with tasks that end at once and some that are retried for long; it counts calls of the backend."""

    def __init__(self, waits: list[float], monkeypatch: pytest.MonkeyPatch, url: str = "", **settings: Any) -> None:
        super().__init__(**({"backend": url} if url else {}), **settings)
        self.one = self.app.task(name="one")(lambda *_: 1)
        self.total = self.app.task(name="total", bind=True)(self._total)
        self.adding = self.app.task(name="adding", bind=True)(self._adding)

        @self.app.task(name="slow", bind=True, max_retries=None)
        def slow(task: Any, *_: Any) -> int:
            if task.request.retries < len(waits):
                raise task.retry(countdown=waits[task.request.retries])
            return 1

        self.slow, self.calls = slow, Counter[str]()
        self.app.finalize()
        backend: Any = self.app.backend
        for name in ("_read", "read_joins", "prolong", "prolong_join"):
            monkeypatch.setattr(backend, name, self._counted(name, getattr(backend, name)))

    def _counted(self, name: str, method: Any) -> Any:
        def counted(*args: Any) -> Any:
            self.calls[name] += 1
            return method(*args)

        return counted

    @staticmethod
    def _total(task: Any, numbers: list[int]) -> int:
        if task.request.retries == 0 and sum(numbers) > 100:
            raise task.retry(countdown=30 * DAY)
        return sum(numbers)

    @staticmethod
    def _adding(task: Any) -> int:
        task.add_to_chord(task.app.signature("one"))
        return 1


WAITS = [[30 * DAY], [3600.0] * 200, [3 * DAY] * 5, [60.0] * 31 + [5 * DAY]]


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
@pytest.mark.parametrize("waits", WAITS, ids=["once", "often", "again", "at last"])
def test_a_member_may_be_retried_for_longer_than_records_live(
    waits: list[float], url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Members that ended long before, and while it waits, still count, those of groups around it and added ones too."""
    bench = Slow(waits, monkeypatch, f"sqlite:///{tmp_path}/results.db" if url == "sqlite" else url)
    inner = chord([bench.one.s(), bench.slow.s()], chain(bench.one.s(), group(bench.one.s(), bench.one.s())))
    late = bench.one.s().set(countdown=600)
    result = chord([bench.one.s(), late, bench.adding.s(), chain(bench.one.s(), inner)], bench.total.s()).apply_async()
    begin = bench.clock.time()
    bench.work(limit=2000)
    assert bench.clock.time() - begin >= sum(waits)
    assert result.get(timeout=0) == 6


def test_a_body_may_be_retried_for_longer_than_records_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """The results that it was given are read again with each of its runs."""
    bench = Slow([], monkeypatch)
    result = chord([bench.one.s() for _ in range(150)], bench.total.s()).apply_async()
    bench.work(limit=2000)
    assert result.get(timeout=0) == 150


def test_retries_that_are_soon_cost_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a wait of hours does; and of many members that wait alike, only the first pays for the others."""
    bench = Slow([600.0] * 5, monkeypatch)
    chord([bench.slow.s() for _ in range(10)], bench.total.s()).apply_async()
    bench.work(limit=2000)
    assert not bench.calls.keys() & {"read_joins", "prolong", "prolong_join"}
    bench = Slow([DAY], monkeypatch)
    chord([bench.slow.s() for _ in range(100)], bench.total.s()).apply_async()
    bench.work(limit=2000)
    assert {name: bench.calls[name] for name in ("read_joins", "prolong", "prolong_join")} == {
        "read_joins": 100, "prolong": 1, "prolong_join": 2,
    }  # fmt: skip


def test_waits_for_a_rate_limit_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot may be days away."""
    bench = Slow([], monkeypatch)
    rare = bench.app.task(name="rare", rate_limit="1/h", rate_limit_scope="global")(lambda: 1)
    result = chord([rare.s() for _ in range(150)], bench.total.s()).apply_async()
    bench.work(limit=2000)
    assert result.get(timeout=0) == 150
