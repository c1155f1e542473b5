"""ResultSet and GroupResult: handles on several tasks, read in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from dispatcher import states
from dispatcher.async_result import AsyncResult, register_group, result_from_tuple
from dispatcher.backends.base import TaskRecord
from dispatcher.exceptions import TimeoutError
from dispatcher.result_reading import ResultReader, assert_will_not_block
from dispatcher.state import get_current_app


class ResultSet:
    """Several results; reading their states costs one batch read for all that are not known to be finished."""

    def __init__(
        self, results: Iterable[Any], app: ResultReader | None = None, ready_barrier: Any = None, **kwargs: Any
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

    def _leaves(self) -> Iterator[AsyncResult[Any]]:
        for result in self.results:
            if isinstance(result, ResultSet):
                yield from result._leaves()
            else:
                yield result

    def _refresh(self) -> list[AsyncResult[Any]]:
        """Read what is not known to be finished, in one batch; return all single results."""
        leaves = list(self._leaves())
        unknown = [result for result in leaves if result._final is None and not result.ignored]
        records = self.backend.read([result.id for result in unknown]) if unknown else {}
        for result in unknown:
            result._keep(records.get(result.id) or TaskRecord(result.id, states.PENDING))
        self._call_back(leaves)
        return leaves

    def _call_back(self, leaves: list[AsyncResult[Any]]) -> None:
        if self._callbacks and all(result._final is not None for result in leaves):
            waiting, self._callbacks = self._callbacks, []
            for callback in waiting:
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
    ) -> list[Any]:
        """Wait for all and return their values in order; raise the first exception unless ``propagate=False``.

        ``timeout`` (seconds) is for all together, ``interval`` the longest pause between reads. A failure is raised as
        soon as it is known, whatever the others do. Raises `TimeoutError`.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        clock = self.backend.clock
        deadline = None if timeout is None else clock.monotonic() + timeout
        pause = min(0.005, interval)
        while True:
            leaves = self._refresh()
            if propagate:
                for result in leaves:
                    if result._final is not None:
                        result.maybe_throw()
            if all(result._final is not None or result.ignored for result in leaves):
                break
            if on_interval is not None:
                on_interval()
            left = None if deadline is None else deadline - clock.monotonic()
            if left is not None and left <= 0:
                missing = sum(result._final is None for result in leaves)
                raise TimeoutError(f"{missing} of {len(leaves)} tasks had no result after {timeout:g} s")
            clock.sleep(pause if left is None else min(pause, left))
            pause = min(pause * 1.5, interval)
        values = [result._deliver(propagate, callback, on_message) if not result.ignored else None for result in leaves]
        return [] if callback is not None else values

    join = get
    join_native = get

    def iter_native(
        self, timeout: float | None = None, interval: float = 0.5, **kwargs: Any
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield pairs of id and meta as tasks finish."""
        clock = self.backend.clock
        deadline = None if timeout is None else clock.monotonic() + timeout
        seen: set[str] = set()
        pause = min(0.005, interval)
        while True:
            leaves = self._refresh()
            fresh = [result for result in leaves if result._final is not None and result.id not in seen]
            for result in fresh:
                seen.add(result.id)
                yield result.id, result._get_task_meta()
            if len(seen) == len({result.id for result in leaves}):
                return
            if deadline is not None and clock.monotonic() >= deadline:
                raise TimeoutError(
                    f"{len(leaves) - len(seen)} of {len(leaves)} tasks had no result after {timeout:g} s"
                )
            clock.sleep(pause)
            pause = min(pause * 1.5, interval)

    def then(self, callback: Callable[[Any], Any], on_error: Any = None, weak: bool = False) -> Any:
        """Call back with this set once all its tasks are known to be finished."""
        self._callbacks.append(callback)
        self._call_back(list(self._leaves()))
        return self

    # -- changing

    def forget(self) -> None:
        """Remove the records of all tasks."""
        ids = [result.id for result in self._leaves()]
        self.backend.forget(ids)
        for result in self._leaves():
            result._final = None

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


class GroupResult(ResultSet):
    """The results of a group; ``parent`` is the result of what came before it."""

    def __init__(
        self,
        id: str | None = None,
        results: Iterable[Any] | None = None,
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

    def save(self, backend: Any = None) -> GroupResult:
        """Keep which results these are, so that `restore` finds them by the group's id."""
        self.app.record_state(_saved(self.id), "SAVED", self.as_tuple())
        return self

    def delete(self, backend: Any = None) -> None:
        """Remove what `save` kept."""
        self.backend.forget([_saved(self.id)])

    @classmethod
    def restore(cls, id: str, backend: Any = None, app: ResultReader | None = None) -> GroupResult | None:
        """Return the group result that was saved under this id; `None` if there is none."""
        reader: ResultReader = app if app is not None else get_current_app()
        record = reader.backend.read([_saved(id)]).get(_saved(id))
        if record is None:
            return None
        found: GroupResult = result_from_tuple(reader.read_meta(record).complete().result, reader)
        return found

    def as_tuple(self) -> tuple[Any, Any]:
        """Return nested tuples that `result_from_tuple` turns back into results."""
        return (self.id, self.parent.as_tuple() if self.parent is not None else None), [
            result.as_tuple() for result in self.results
        ]

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


def _saved(group_id: str) -> str:
    return f"group/{group_id}"


register_group(GroupResult)
