"""ResultSet and GroupResult: handles on several tasks, read in batches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dispatcher import states
from dispatcher.async_result import AsyncResult, register_group, result_from_tuple
from dispatcher.backends.base import TaskRecord
from dispatcher.exceptions import TimeoutError
from dispatcher.result_families import forget_tree, members_of
from dispatcher.result_reading import ResultReader, assert_will_not_block
from dispatcher.state import get_current_app

if TYPE_CHECKING:
    from typing_extensions import TypeVar as _TypeVar

    R = _TypeVar("R", default=Any)
else:
    R = TypeVar("R")

#: Seconds between the first two looks at results that are waited for, and by how much the pauses grow.
_FIRST_PAUSE = 0.005
_GROWTH = 1.5


class ResultSet(Generic[R]):
    """Several results; reading their states costs one batch read for all that are not known to be finished."""

    def __init__(
        self,
        results: Iterable[AsyncResult[R] | ResultSet[R]],
        app: ResultReader | None = None,
        ready_barrier: Any = None,
        **kwargs: Any,
    ) -> None:
        self._app = app
        self.results: list[Any] = list(results)
        self._callbacks: list[Callable[[Any], Any]] = []

    @property
    def app(self) -> ResultReader:
        """The app these results belong to."""
        if self._app is None:
            self._app = self.results[0].app if self.results else get_current_app()
        return self._app

    @property
    def backend(self) -> Any:
        """The place where the records are."""
        return self.app.backend

    # -- members

    def add(self, result: Any) -> None:
        """Add a result, unless it is there."""
        if result not in self.results:
            self.results.append(result)

    def remove(self, result: Any) -> None:
        """Remove a result, or the one of this id; raises `KeyError` if it is not there."""
        try:
            self.results.remove(result)
        except ValueError:
            raise KeyError(result) from None

    def discard(self, result: Any) -> None:
        """Remove a result if it is there."""
        if result in self.results:
            self.results.remove(result)

    def update(self, results: Iterable[Any]) -> None:
        """Add results that are not there."""
        for result in results:
            self.add(result)

    def clear(self) -> None:
        """Remove all."""
        self.results = []

    def _leaves(self) -> Iterator[AsyncResult[R]]:
        return members_of(self)

    def _refresh(self) -> list[AsyncResult[R]]:
        """Read what is not known to be finished, in one batch; return all single results."""
        unknown = self._unknown()
        return self._learn(unknown, self.backend.read([result.id for result in unknown]) if unknown else {})

    def _unknown(self) -> list[AsyncResult[R]]:
        return [result for result in self._leaves() if result._final is None and not result.ignored]

    def _learn(self, unknown: list[AsyncResult[R]], records: dict[str, TaskRecord]) -> list[AsyncResult[R]]:
        for result in unknown:
            result._keep(records.get(result.id) or TaskRecord(result.id, states.PENDING))
        leaves = list(self._leaves())
        self._call_back(leaves)
        return leaves

    def _call_back(self, leaves: list[AsyncResult[R]]) -> None:
        if self._callbacks and all(result._final is not None for result in leaves):
            while self._callbacks:  # each once, whichever threads come here
                try:
                    callback = self._callbacks.pop(0)
                except IndexError:
                    return
                callback(self)

    # -- state

    def _states(self) -> list[str]:
        return [result._final[0].status if result._final is not None else states.PENDING for result in self._refresh()]

    def successful(self) -> bool:
        """Say whether every task returned."""
        return all(state == states.SUCCESS for state in self._states())

    def failed(self) -> bool:
        """Say whether a task failed."""
        return any(state == states.FAILURE for state in self._states())

    def waiting(self) -> bool:
        """Say whether a task is not finished."""
        return any(result._final is None for result in self._refresh())

    def ready(self) -> bool:
        """Say whether every task is finished."""
        return not self.waiting()

    def completed_count(self) -> int:
        """Count the tasks that returned."""
        return sum(state == states.SUCCESS for state in self._states())

    def maybe_throw(self, callback: Callable[[str, Any], Any] | None = None, propagate: bool = True) -> None:
        """Raise the exception of the first task that failed."""
        for result in self._refresh():
            result.maybe_throw(propagate=propagate, callback=callback)

    maybe_reraise = maybe_throw

    # -- waiting

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> list[R]:
        """Wait for all and return their values in order; raise the first exception unless ``propagate=False``.

        ``timeout`` (seconds) is for all together, ``interval`` the longest pause between reads. A failure is raised as
        soon as it is known, whatever the others do. ``on_message(meta)`` and ``callback(id, value)`` are called for
        each task once it is known to be finished; with a callback the list is empty, as in Celery. Raises
        `TimeoutError`, and `RuntimeError` inside a task unless ``disable_sync_subtasks=False``.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        for result in self._finishing(timeout, interval, on_interval):
            result._deliver(propagate, callback, on_message)
        return self._values() if callback is None else []

    join = get
    join_native = get

    def iterate(
        self, timeout: float | None = None, propagate: bool = True, interval: float = 0.5
    ) -> Generator[R, None, None]:
        """Yield values as tasks finish, those that are finished already in their order; raises as `get`."""
        for result in self._finishing(timeout, interval):
            yield result._deliver(propagate, None, None)

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Generator[tuple[str, dict[str, Any]], None, None]:
        """Yield pairs of id and meta as tasks finish; raises `TimeoutError`. ``no_ack`` has no effect."""
        for result in self._finishing(timeout, interval, on_interval):
            meta = result._get_task_meta()
            if on_message is not None:
                on_message(meta)
            yield result.id, meta

    def _values(self) -> list[R]:
        return [None if result.ignored else result.result for result in self._leaves()]  # type: ignore[misc]

    def _finishing(
        self, timeout: float | None, interval: float, on_interval: Callable[[], Any] | None = None
    ) -> Iterator[AsyncResult[R]]:
        """Yield the single results that keep something as they finish, each once."""
        clock = self.backend.clock
        deadline = None if timeout is None else clock.monotonic() + timeout
        seen: set[str] = set()
        pause = min(_FIRST_PAUSE, interval)
        while True:
            leaves = self._refresh()
            known = len(seen)
            yield from _fresh(leaves, seen)
            unknown = [result for result in leaves if result._final is None and not result.ignored]
            if not unknown:
                return
            if on_interval is not None:
                on_interval()
            left = None if deadline is None else deadline - clock.monotonic()
            if left is not None and left <= 0:
                if len(seen) > known:
                    continue  # whoever took these may have taken their time
                raise _timed_out(unknown, leaves, timeout)
            self._pause(unknown[-1].id, pause if left is None else min(pause, left))
            pause = min(pause * _GROWTH, interval)

    def _pause(self, task_id: str, seconds: float) -> None:
        """Wait a little; where the store tells of ends, only until this task's, the last of those that are missing."""
        if not self.backend.tells_of_ends:
            self.backend.clock.sleep(seconds)
            return
        try:
            self.backend.wait(task_id, seconds)
        except TimeoutError:
            pass

    async def aget(self, timeout: float | None = None, propagate: bool = True, interval: float = 0.5) -> list[R]:
        """Wait like `get` without blocking the event loop; stores are asked in threads of their own."""
        async for result in self._afinishing(timeout, interval):
            result._deliver(propagate, None, None)
        return self._values()

    def __await__(self) -> Generator[Any, None, list[R]]:
        return self.aget().__await__()

    def __aiter__(self) -> AsyncIterator[AsyncResult[R]]:
        """Yield the single results as they finish: ``async for result in results: result.get()``."""
        return self._afinishing(None, 0.5)

    async def _afinishing(self, timeout: float | None, interval: float) -> AsyncIterator[AsyncResult[R]]:
        import asyncio

        now = asyncio.get_running_loop().time
        deadline = None if timeout is None else now() + timeout
        seen: set[str] = set()
        pause = min(_FIRST_PAUSE, interval)
        while True:
            unknown = self._unknown()
            records = await asyncio.to_thread(self.backend.read, [result.id for result in unknown])
            leaves = self._learn(unknown, records)
            for result in _fresh(leaves, seen):
                await asyncio.to_thread(result._read_all)  # what is in a payload store
                yield result
            unknown = self._unknown()
            if not unknown:
                return
            left = None if deadline is None else deadline - now()
            if left is not None and left <= 0:
                raise _timed_out(unknown, leaves, timeout)
            await asyncio.sleep(pause if left is None else min(pause, left))
            pause = min(pause * _GROWTH, interval)

    def then(self, callback: Callable[[Any], Any], on_error: Any = None, weak: bool = False) -> Any:
        """Call back with this set once all its tasks are known to be finished."""
        self._callbacks.append(callback)
        self._call_back(list(self._leaves()))
        return self

    # -- changing

    def forget(self) -> None:
        """Remove the records of all tasks and of what came before them, in batches."""
        forget_tree(self)

    def revoke(self, **kwargs: Any) -> None:
        """Revoke all tasks."""
        for result in self._leaves():
            result.revoke(**kwargs)

    # -- as a sequence

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: Any) -> Any:
        return self.results[index]

    def __eq__(self, other: object) -> bool:
        return self.results == other.results if isinstance(other, ResultSet) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(str(result) for result in self.results)}]>"

    @property
    def supports_native_join(self) -> bool:
        """Whether reads are batched: always."""
        return True


class GroupResult(ResultSet[R]):
    """The results of a group; ``parent`` is the result of what came before it."""

    def __init__(
        self,
        id: str | None = None,
        results: Iterable[AsyncResult[R] | ResultSet[R]] | None = None,
        parent: Any = None,
        app: ResultReader | None = None,
        **kwargs: Any,
    ) -> None:
        if id is None:
            raise ValueError("GroupResult needs a group id, not None")
        super().__init__(results or (), app)
        self.id = id
        self.parent = parent

    @property
    def children(self) -> list[Any]:
        """The results of the members."""
        return self.results

    def save(self, backend: Any = None) -> GroupResult[R]:
        """Keep which results these are, so that `restore` finds them by the group's id."""
        self.app.record_state(saved_id(self.id), "SAVED", self.as_tuple())
        return self

    def delete(self, backend: Any = None) -> None:
        """Remove what `save` kept."""
        self.backend.forget([saved_id(self.id)])

    @classmethod
    def restore(cls, id: str, backend: Any = None, app: ResultReader | None = None) -> GroupResult[Any] | None:
        """Return the group result that was saved under this id; `None` if there is none."""
        reader: ResultReader = app if app is not None else get_current_app()
        record = reader.backend.read([saved_id(id)]).get(saved_id(id))
        if record is None:
            return None
        found: GroupResult[Any] = result_from_tuple(reader.read_meta(record).complete().result, reader)
        return found

    def as_tuple(self) -> tuple[Any, Any]:
        """Return nested tuples that `result_from_tuple` turns back into results."""
        return (self.id, self.parent.as_tuple() if self.parent is not None else None), [
            result.as_tuple() for result in self.results
        ]

    def __json__(self) -> tuple[Any, Any]:
        return self.as_tuple()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return (self.id, self.results, self.parent) == (other.id, other.results, other.parent)
        return other == self.id if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self.id)

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<GroupResult: {self.id} [{', '.join(str(result) for result in self.results)}]>"

    def __reduce__(self) -> Any:
        return result_from_tuple, (self.as_tuple(),)


def _fresh(leaves: Iterable[AsyncResult[R]], seen: set[str]) -> Iterator[AsyncResult[R]]:
    """Yield the finished results that were not seen, noting them."""
    for result in leaves:
        if result._final is not None and result.id not in seen:
            seen.add(result.id)
            yield result


def _timed_out(unknown: list[Any], leaves: list[Any], timeout: float | None) -> TimeoutError:
    return TimeoutError(f"{len(unknown)} of {len(leaves)} tasks had no result after {timeout:g} s")


def saved_id(group_id: str) -> str:
    """Return the id of the record that `GroupResult.save` writes."""
    return f"group/{group_id}"


register_group(GroupResult)
