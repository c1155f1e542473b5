"""What is current: the app, and the task that runs in this thread or coroutine."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import Any, Protocol

from dispatcher.exceptions import ImproperlyConfigured

_current_app: Any = None
#: Called with every app when it is finalized, so that shared tasks join apps that are made later.
_on_app_finalizers: list[Callable[[Any], None]] = []


class Frame(Protocol):
    """One running task and its request; frames nest when a task calls another directly."""

    parent: Frame | None

    @property
    def task(self) -> Any:
        """The task."""
        ...

    @property
    def request(self) -> Any:
        """Its request."""
        ...


class _Call:
    """The frame of a task that is called as the function it is."""

    __slots__ = ("parent", "request", "task")

    def __init__(self, task: Any, request: Any) -> None:
        self.task = task
        self.request = request
        self.parent: Frame | None = None


#: The innermost running task's frame.
frames: ContextVar[Frame | None] = ContextVar("dispatcher_frame", default=None)


def current_frame() -> Frame | None:
    """Return the innermost running task's frame."""
    return frames.get()


def enter(frame: Frame) -> Token[Frame | None]:
    """Make a frame current; pass the token to `pop_frame`."""
    frame.parent = frames.get()
    return frames.set(frame)


def push_frame(task: Any, request: Any) -> Token[Frame | None]:
    """Make a task current; pass the token to `pop_frame`."""
    return enter(_Call(task, request))


def pop_frame(token: Token[Frame | None]) -> None:
    """Make what was current before current again."""
    frames.reset(token)


def set_frame(frame: Frame | None) -> None:
    """Put back a frame found by `current_frame`, for `Task.pop_request`."""
    frames.set(frame)


def request_of(task: Any) -> Any:
    """Return the innermost request of this task, `None` when it is not running."""
    frame = frames.get()
    while frame is not None:
        if frame.task is task:
            return frame.request
        frame = frame.parent
    return None


def set_current_app(app: Any) -> None:
    """Make an app the one that shared tasks, signatures and results without an app use."""
    global _current_app
    _current_app = app


def has_current_app() -> bool:
    """Say whether an app has been made."""
    return _current_app is not None


def get_current_app() -> Any:
    """Return the current app.

    Raises `ImproperlyConfigured` when no app has been made.
    """
    if _current_app is None:
        raise ImproperlyConfigured(
            "there is no app yet: create one with `app = Dispatcher('name')` and import its module before "
            "shared tasks are called"
        )
    return _current_app


def connect_on_app_finalize(callback: Callable[[Any], None]) -> Callable[[Any], None]:
    """Call back with every app that is finalized from now on."""
    _on_app_finalizers.append(callback)
    return callback


def announce_app_finalized(app: Any) -> None:
    """Let shared tasks join the app."""
    for callback in _on_app_finalizers:
        callback(app)


class Proxy:
    """Stands for whatever a function returns at the moment it is used."""

    __slots__ = ("_Proxy__find", "__dict__")

    def __init__(self, find: Callable[[], Any], **fixed: Any) -> None:
        object.__setattr__(self, "_Proxy__find", find)
        self.__dict__.update(fixed)

    def _get_current_object(self) -> Any:
        """Return the object behind the proxy."""
        return object.__getattribute__(self, "_Proxy__find")()

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._get_current_object())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._get_current_object(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._get_current_object(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._get_current_object(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._get_current_object()(*args, **kwargs)

    def __bool__(self) -> bool:
        return bool(self._get_current_object())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Proxy):
            other = other._get_current_object()
        return bool(self._get_current_object() == other)

    def __hash__(self) -> int:
        return hash(self._get_current_object())

    def __repr__(self) -> str:
        return repr(self._get_current_object())

    def __or__(self, other: Any) -> Any:
        return self._get_current_object() | other

    def __reduce__(self) -> Any:
        return self._get_current_object().__reduce__()


def _running_task() -> Any:
    frame = frames.get()
    return frame.task if frame is not None else None


#: The current app; an error says so while there is none.
current_app: Any = Proxy(get_current_app)
#: The task that is running here, else a false proxy of `None`.
current_task: Any = Proxy(_running_task)
