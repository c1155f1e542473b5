"""EagerResult: the result of a task that ran at once, in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from dispatcher import states
from dispatcher.async_result import AsyncResult
from dispatcher.backends.base import TaskRecord
from dispatcher.backends.meta import ResultMeta
from dispatcher.result_reading import assert_will_not_block

if TYPE_CHECKING:
    from typing_extensions import TypeVar as _TypeVar

    R = _TypeVar("R", default=Any)
else:
    R = TypeVar("R")


class EagerResult(AsyncResult[R]):
    """The result of a task that ran in this process, by `Task.apply` or ``task_always_eager``."""

    _stored = False

    def __init__(
        self,
        id: str,
        ret_value: Any,
        state: str,
        traceback: str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(id, task_name=name)
        error = ret_value if state in states.EXCEPTION_STATES and isinstance(ret_value, BaseException) else None
        meta = ResultMeta(result=None if error else ret_value, error=error, traceback=traceback, name=name)
        self._final = TaskRecord(id, state, final=True), meta
        #: signatures that the task added to its chord, and the results of what they came to
        self._added: Sequence[Mapping[str, Any]] | None = None
        self._behind: list[AsyncResult[Any]] = []
        self._offspring: list[Any] = []

    @property
    def supports_native_join(self) -> bool:
        """Whether groups may read it natively: never."""
        return False

    @property
    def children(self) -> list[Any] | None:
        """The results of what it sent, of its callbacks, and of what follows it in a canvas."""
        return self._offspring

    def ready(self) -> bool:
        """Return true: it ran."""
        return True

    def exists(self) -> bool:
        """Return true: it is held here."""
        return True

    def get(  # type: ignore[override]
        self,
        timeout: float | None = None,
        propagate: bool = True,
        disable_sync_subtasks: bool = True,
        **kwargs: Any,
    ) -> R:
        """Return the value at once, or raise the exception."""
        if disable_sync_subtasks:
            assert_will_not_block()
        return self._deliver(propagate, kwargs.get("callback"), kwargs.get("on_message"))

    wait = get  # type: ignore[assignment]

    async def aget(self, timeout: float | None = None, propagate: bool = True, interval: float | None = None) -> R:
        """Return the value at once, or raise the exception."""
        return self._deliver(propagate, None, None)

    def forget(self) -> None:
        """Do nothing: nothing was stored."""

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """Mark it as revoked here; the run is over."""
        assert self._final is not None
        self._final = TaskRecord(self.id, states.REVOKED, final=True), ResultMeta()

    def __reduce__(self) -> Any:
        record, meta = self._read()
        return EagerResult, (self.id, meta.error or meta.result, record.status, meta.traceback, self._task_name)

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"
