"""AsyncResult: a handle on a task that was sent."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dispatcher import states
from dispatcher.backends.base import ResultBackend, TaskRecord
from dispatcher.backends.meta import ResultMeta
from dispatcher.exceptions import (
    IncompleteStream,
    Reject,
    TimeoutError,
    UnsupportedOption,
)
from dispatcher.result_families import forget_tree, raise_for_parents
from dispatcher.result_reading import ResultReader, assert_will_not_block, raisable, value_of
from dispatcher.state import get_current_app
from dispatcher.utils.graph import DependencyGraph

if TYPE_CHECKING:
    from typing_extensions import TypeVar as _TypeVar

    R = _TypeVar("R", default=Any)
else:
    R = TypeVar("R")


class AsyncResult(Generic[R]):
    """A handle on a task by its id; reading it asks the result backend unless the task is known to be finished."""

    TimeoutError = TimeoutError
    #: whether a record is kept of it
    _stored = True
    _final: tuple[TaskRecord, ResultMeta] | None = None
    _ignored = False
    #: when the task is due, in epoch seconds, where the call that returned this object said so
    eta: float | None = None
    #: whether the call of a unique task was not sent, because the task of this id stands for it
    duplicate = False

    def __init__(
        self,
        id: str,
        backend: ResultBackend | None = None,
        task_name: str | None = None,
        app: ResultReader | None = None,
        parent: Any = None,
    ) -> None:
        if id is None:
            raise ValueError("AsyncResult needs a task id, not None")
        self.id = id
        self._app = app
        self._backend = backend
        self._task_name = task_name
        self.parent: Any = parent
        self.on_ready: list[Callable[[AsyncResult[Any]], Any]] = []

    # -- where to look

    @property
    def app(self) -> ResultReader:
        """The app this result belongs to."""
        if self._app is None:
            self._app = get_current_app()
        return self._app

    @property
    def backend(self) -> ResultBackend:
        """The place where the record is."""
        return self._backend if self._backend is not None else self.app.backend

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.id

    def _read(self) -> tuple[TaskRecord, ResultMeta]:
        if self._final is None:
            record = self.backend.read([self.id]).get(self.id)
            return self._keep(record or TaskRecord(self.id, states.PENDING))
        return self._final

    def _keep(self, record: TaskRecord) -> tuple[TaskRecord, ResultMeta]:
        meta = self.app.read_meta(record)
        if meta.visible_until is not None and meta.visible_until < self.app.now_seconds():
            record, meta = TaskRecord(self.id, states.PENDING), ResultMeta()
        if record.final:
            self._final = record, meta
            self._call_back()
        return record, meta

    def _call_back(self) -> None:
        """Call each callback once, whichever threads come here."""
        while self.on_ready:
            try:
                callback = self.on_ready.pop(0)
            except IndexError:
                return
            callback(self)

    def _read_all(self) -> ResultMeta:
        """Return what the record keeps, with what is in the payload store."""
        return self._read()[1].complete()

    # -- state

    @property
    def state(self) -> str:
        """The task's state; PENDING also means that nothing is known of it."""
        return self._read()[0].status

    status = state

    @property
    def result(self) -> Any:
        """The return value, the exception of a failed task, or the meta of a custom state."""
        return value_of(*self._read())

    info = result

    @property
    def traceback(self) -> str | None:
        """The traceback of a failed task, as text."""
        return self._read_all().traceback

    def ready(self) -> bool:
        """Say whether the task is finished."""
        return self._read()[0].final

    def successful(self) -> bool:
        """Say whether the task returned."""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Say whether the task failed."""
        return self.state == states.FAILURE

    @property
    def ignored(self) -> bool:
        """Whether the sender knows that no result will be kept."""
        return self._ignored

    @ignored.setter
    def ignored(self, value: bool) -> None:
        self._ignored = value

    def exists(self) -> bool:
        """Say whether the backend knows the task."""
        return self.id in self.backend.read([self.id])

    # -- waiting

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float | None = None,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], Any] | None = None,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
        EXCEPTION_STATES: frozenset[str] = states.EXCEPTION_STATES,  # noqa: N803 - Celery's names
        PROPAGATE_STATES: frozenset[str] = states.PROPAGATE_STATES,  # noqa: N803
    ) -> R:
        """Wait until the task is finished and return its value; raise its exception unless ``propagate=False``.

        ``timeout`` and ``interval`` (the longest pause between polls) are in seconds. ``callback(id, value)`` and
        ``on_message(meta)`` see the value; ``on_interval()`` is called between polls. ``no_ack`` is Celery's and has no
        effect. Where the sender knows that no result is kept, returns `None` at once. Raises `TimeoutError`, and
        `RuntimeError` inside a task unless ``disable_sync_subtasks=False``.
        """
        if self._ignored:
            return None  # type: ignore[return-value]
        if disable_sync_subtasks:
            assert_will_not_block()
        if self._final is None and propagate and follow_parents and self.parent is not None:
            raise_for_parents(self)
        if self._final is None:
            self._keep(self.backend.wait(self.id, timeout, interval, on_interval))
        if self._final is None:  # finished, but past its result_expires
            raise TimeoutError(f"the result of task {self.id} has expired")
        return self._deliver(propagate, callback, on_message)

    wait = get

    async def aget(self, timeout: float | None = None, propagate: bool = True, interval: float | None = None) -> R:
        """Wait like `get` without blocking the event loop.

        The wait runs in a thread of its own, in slices, so that cancelling this coroutine ends it within half a second.
        """
        import asyncio

        if self._ignored:
            return None  # type: ignore[return-value]
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        while self._final is None:
            left = None if deadline is None else deadline - asyncio.get_running_loop().time()
            if left is not None and left <= 0:
                raise TimeoutError(f"task {self.id} had no result after {timeout:g} s")
            piece = 0.5 if left is None else min(0.5, left)
            try:
                record = await asyncio.to_thread(self.backend.wait, self.id, piece, interval)
            except TimeoutError:
                continue
            self._keep(record)
            if self._final is None:
                raise TimeoutError(f"the result of task {self.id} has expired")
        return self._deliver(propagate, None, None)

    def __await__(self) -> Any:
        return self.aget().__await__()

    def _deliver(self, propagate: bool, callback: Any, on_message: Any) -> R:
        if on_message is not None:
            on_message(self._get_task_meta())
        if propagate:
            self.maybe_throw()
        value = self.result
        if callback is not None:
            callback(self.id, value)
        return value  # type: ignore[no-any-return]

    def then(
        self, callback: Callable[[AsyncResult[Any]], Any], on_error: Any = None, weak: bool = False
    ) -> AsyncResult[R]:
        """Call back with this result once it is known to be finished: now, or when it is next read or waited for."""
        if on_error is not None or weak:
            raise TypeError("then() takes a callback alone: on_error and weak have no effect in Celery either")
        self.on_ready.append(callback)
        if self._final is not None or self.ready():
            self._call_back()
        return self

    def throw(self, *args: Any, **kwargs: Any) -> None:
        """Raise the task's exception."""
        self.maybe_throw()

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], Any] | None = None) -> Any:
        """Raise the task's exception if it failed or was revoked; return the value otherwise."""
        record, meta = self._read()
        value = value_of(record, meta)
        if propagate and (record.status in states.PROPAGATE_STATES or isinstance(value, Reject)):
            raise raisable(value)
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    # -- changing

    def forget(self) -> None:
        """Remove the records of the task and of all that came before it, in batches."""
        forget_tree(self)

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | int | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Flag the task so that no worker starts it any more; with ``terminate`` its run is ended as well.

        It is REVOKED at once where it waits for a retry, or for an ETA that this object knows because its call returned
        it; else when its message is next delivered. A run goes on and keeps its outcome, unless ``terminate`` ends it:
        within some four seconds a prefork worker kills the child, by ``signal`` (``SIGTERM``, the default, or
        ``SIGKILL``), and an asyncio worker cancels the coroutine; others cannot. Raises `UnsupportedOption` for another
        signal, and for ``connection``, ``wait`` and ``timeout``, as no worker is there to answer: use `get`.
        """
        for name, value in (("connection", connection), ("wait", wait), ("timeout", timeout)):
            if value:
                raise UnsupportedOption(
                    f"{name}={value!r} cannot work: a revocation is a mark in the result backend, and no worker "
                    "answers; wait for the task's end by get()"
                )
        self.app.revoke_tasks([self.id], terminate, signal, {} if self.eta is None else {self.id: self.eta})

    # -- details

    @property
    def children(self) -> list[Any] | None:
        """The results of the tasks this one sent while it ran."""
        children = self._read_all().children
        return None if children is None else [result_from_tuple(child, self._app) for child in children]

    @property
    def date_done(self) -> datetime.datetime | None:
        """When the task finished, in UTC."""
        done = self._read()[1].date_done
        return None if done is None else datetime.datetime.fromtimestamp(done, datetime.UTC)

    @property
    def retries(self) -> int | None:
        """How often the task was retried."""
        return self._read()[0].retries

    @property
    def name(self) -> str | None:
        """The task's name; from the record, else as known here."""
        return self._read()[1].name or self._task_name

    @property
    def task_name(self) -> str | None:
        """The task's name as known here."""
        return self._task_name

    @property
    def args(self) -> Any:
        """The arguments; with ``result_extended``."""
        return self._read_all().args

    @property
    def kwargs(self) -> Any:
        """The keyword arguments; with ``result_extended``."""
        return self._read_all().kwargs

    @property
    def worker(self) -> str | None:
        """Which worker finished the task; with ``result_extended``."""
        return self._read()[1].worker

    @property
    def queue(self) -> str | None:
        """The queue the task came from; with ``result_extended``."""
        return self._read()[1].queue

    def _get_task_meta(self) -> dict[str, Any]:
        record, meta = self._read()[0], self._read_all()
        done = self.date_done
        return {
            "task_id": self.id,
            "status": record.status,
            "result": value_of(record, meta),
            "traceback": meta.traceback,
            "children": meta.children,
            "date_done": None if done is None else done.isoformat(),
            "group_id": meta.group_id,
            "parent_id": meta.parent_id,
            "name": meta.name,
            "args": meta.args,
            "kwargs": meta.kwargs,
            "worker": meta.worker,
            "retries": record.retries,
            "queue": meta.queue,
        }

    # -- relatives

    def get_leaf(self) -> Any:
        """Return the value of the last result of the tree."""
        values = [value for _, value in self.collect()]
        return values[-1]

    def collect(self, intermediate: bool = False, **kwargs: Any) -> Iterator[tuple[Any, Any]]:
        """Yield this result and its descendants with their values, waiting for each."""
        for _, result in self.iterdeps(intermediate=intermediate):
            yield result, result.get(**kwargs)

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
        """Yield pairs of parent and result over the tree below; raise `IncompleteStream` if it is still growing."""
        stack: list[tuple[Any, Any]] = [(None, self)]
        seen: set[str] = set()
        while stack:
            parent, node = stack.pop(0)
            if node.id in seen:
                continue
            seen.add(node.id)
            yield parent, node
            if node.ready():
                stack.extend((node, child) for child in node.children or [])
            elif not intermediate:
                raise IncompleteStream(f"task {node.id} is not finished")

    def build_graph(self, intermediate: bool = False, formatter: Any = None) -> DependencyGraph:
        """Return the tree below as a dependency graph."""
        graph = DependencyGraph(formatter)
        for parent, node in self.iterdeps(intermediate=intermediate):
            graph.add_arc(node)
            if parent is not None:
                graph.add_edge(parent, node)
        return graph

    @property
    def graph(self) -> DependencyGraph:
        """The tree below; raises `IncompleteStream` if it is still growing."""
        return self.build_graph()

    def as_tuple(self) -> tuple[Any, Any]:
        """Return nested tuples that `result_from_tuple` turns back into results."""
        return (self.id, self.parent.as_tuple() if self.parent is not None else None), None

    def __json__(self) -> tuple[Any, Any]:
        return self.as_tuple()

    def as_list(self) -> list[str]:
        """Return the ids of this result and its parents."""
        return [self.id, *(self.parent.as_list() if self.parent is not None else ())]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return other.id == self.id
        return other == self.id if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __copy__(self) -> AsyncResult[R]:
        return type(self)(self.id, self._backend, self._task_name, self._app, self.parent)

    def __reduce__(self) -> Any:
        return result_from_tuple, (self.as_tuple(),)


_groups: list[Any] = []


def register_group(group_class: Any) -> None:
    """Have `result_from_tuple` make groups of this class, which this module cannot import."""
    _groups.append(group_class)


def result_from_tuple(value: Any, app: ResultReader | None = None) -> Any:
    """Rebuild a result from its ``as_tuple()``, also after it went through JSON."""
    if isinstance(value, AsyncResult) or (_groups and isinstance(value, _groups[0])):
        return value
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"not a result in tuple form: {value!r}")
    head, members = value
    task_id, parent = head if isinstance(head, list | tuple) else (head, None)
    before = result_from_tuple(parent, app) if parent else None
    if members is not None:
        return _groups[0](task_id, [result_from_tuple(member, app) for member in members], parent=before, app=app)
    return AsyncResult(task_id, app=app, parent=before)
