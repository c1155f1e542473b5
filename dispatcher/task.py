"""Task: a registered function, its options, and the ways to call it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, TypeVar

from dispatcher import state
from dispatcher.exceptions import (
    ImproperlyConfigured,
    MaxRetriesExceededError,
    OperationalError,
    Retry,
    UnsupportedOption,
)
from dispatcher.rates import Rate
from dispatcher.request import Context, idle_request
from dispatcher.result import AsyncResult, EagerResult
from dispatcher.retry import RetryPolicy
from dispatcher.sensitive import Marks, both, marks_of, masked
from dispatcher.task_options import (
    FROM_CONFIG,
    HOOKS,
    NOT_YET,
    SEND_OPTIONS,
    SETTLED,
    Absent,
    TaskOwner,
    call_checker,
    check_options,
    rate_of,
    settled_rate,
)
from dispatcher.task_signatures import Signatures
from dispatcher.unique import Uniqueness, uniqueness_of
from dispatcher.utils.forks import OuterLock

if TYPE_CHECKING:
    from typing_extensions import ParamSpec as _ParamSpec
    from typing_extensions import TypeVar as _TypeVar

    P = _ParamSpec("P", default=...)
    R = _TypeVar("R", default=Any)
else:
    P = ParamSpec("P")
    R = TypeVar("R")

#: Held while options are settled, so that an option that another thread sets meanwhile is settled after them.
_SETTLING = OuterLock()


class Task(Signatures, Generic[P, R]):
    """A task; subclass it and set class attributes for options shared by several, as with Celery.

    Durations are seconds. What a subclass or the decorator does not set comes from the configuration.
    """

    name: str = None  # type: ignore[assignment]
    abstract: ClassVar[bool] = True
    #: whether a call's arguments are checked against the function's parameters before it is sent
    typing: bool | None = None
    #: `None` retries for ever
    max_retries: int | None = 3
    default_retry_delay: float = 180
    autoretry_for: tuple[type[BaseException], ...] = ()
    dont_autoretry_for: tuple[type[BaseException], ...] = ()
    retry_kwargs: Mapping[str, Any] = {}
    #: `True` for 1 s · 2^retries, a number for another factor
    retry_backoff: bool | float = False
    retry_backoff_max: float = 600
    retry_jitter: bool = True
    #: expected exceptions: reported as failures, logged without alarm, not copied to the dead letters
    throws: tuple[type[BaseException], ...] = ()
    #: starts per second, or text such as "100/m"; 0 is no limit
    rate_limit: str | float | None = None
    #: "global" holds for all workers and functions together, "worker" for each local worker, as in Celery
    rate_limit_scope: str | None = None
    ignore_result: bool | None = None
    store_errors_even_if_ignored: bool | None = None
    trail: bool = True
    send_events: bool = False
    serializer: str | None = None
    compression: str | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    track_started: bool | None = None
    #: unset and true: settle after the run; false: before it, so that a crash loses the run
    acks_late: bool | None = None
    acks_on_failure_or_timeout: bool | None = None
    acks_on_failure: bool | None = None
    acks_on_timeout: bool | None = None
    reject_on_worker_lost: bool | None = None
    expires: Any = None
    priority: int | None = None
    queue: str | None = None
    resultrepr_maxsize: int = 1024
    #: parameters whose values no text may show; ``"return"``: the result, ``"raise"``: exceptions' texts; `True`: all
    sensitive: bool | str | Sequence[str] = ()
    #: true, or a function that takes the task's arguments and returns a text: calls with equal ones are one task's work
    unique: bool | Callable[..., str] = False
    #: ``queued`` (default), ``waiting``, ``running`` or ``period``: how long a call stands for the others
    unique_scope: str | None = None
    #: the seconds of a period; otherwise how long a call stands for others at most, where nothing is heard of it
    unique_for: float | None = None
    #: false with ``ignore_result``: a lean task, which promises at least once only and costs no record
    revocable: bool | None = None

    _app: TaskOwner | None = None
    _check_call: Callable[..., Any] | None = None
    _send_options: dict[str, Any] = {}  # noqa: RUF012 - replaced when bound
    _lean: bool = False
    _sensitive: Marks | None = None
    _rate: Rate | None = None
    _uniqueness: Uniqueness | None = None
    _is_async: bool = False
    _hooks: frozenset[str] = frozenset()
    _has_own_call: bool = False
    _from_config: frozenset[str] = frozenset()
    _settled: bool = False
    retry_policy: RetryPolicy

    MaxRetriesExceededError = MaxRetriesExceededError
    OperationalError = OperationalError

    # -- registration

    def bind(self, app: TaskOwner) -> Task[P, R]:
        """Make the task one of the app's; called by the app, once."""
        self._app = app
        self._is_async = inspect.iscoroutinefunction(self.run)
        self._has_own_call = type(self).__call__ is not Task.__call__
        self._hooks = self._find_hooks()
        self._sensitive = marks_of(self.sensitive, self.run, self.name)
        rate_of(self)
        self.on_bound(app)
        return self

    def settle_options(self) -> None:
        """Fill options left unset from the configuration, and check them; called when the app is finalized.

        Raises `ImproperlyConfigured` for an option of the wrong type, naming it, `UnsupportedOption` for one that
        cannot work.
        """
        with _SETTLING:
            self._settle_options()

    def _settle_options(self) -> None:
        conf = self._owner.conf
        self._send_options = {name: value for name in SEND_OPTIONS if (value := getattr(self, name, None)) is not None}
        self._from_config = frozenset(option for option in FROM_CONFIG if getattr(self, option, None) is None)
        for option in self._from_config:
            setattr(self, option, getattr(conf, FROM_CONFIG[option]))
        check_options(self)
        if self.send_events:
            conf.warn_once("send_events", f"send_events=True of {self.name} has no effect: there are no events here")
        try:
            self.retry_policy = RetryPolicy.from_options(
                autoretry_for=self.autoretry_for, dont_autoretry_for=self.dont_autoretry_for,
                max_retries=self.max_retries, default_retry_delay=self.default_retry_delay,
                retry_kwargs=self.retry_kwargs, retry_backoff=self.retry_backoff,
                retry_backoff_max=self.retry_backoff_max, retry_jitter=self.retry_jitter,
            )  # fmt: skip
        except (ImproperlyConfigured, UnsupportedOption) as error:
            raise type(error)(f"task {self.name}: {error}") from error
        typing = self.typing if self.typing is not None else self._owner.strict_typing
        self._check_call = call_checker(self.run, self.name) if typing else None
        self._hooks = self._find_hooks()  # annotations may have added some
        self._sensitive = marks_of(self.sensitive, self.run, self.name)
        self._rate = settled_rate(self, conf)
        self._uniqueness = uniqueness_of(self, conf)
        # A run that waits for its slot finds it in its record, and others are answered with a unique task's outcome.
        kept = self.track_started or self._rate is not None or self._uniqueness is not None
        self._lean = bool(self.ignore_result) and self.revocable is False and not kept
        self._settled = True

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; an option that is set after the app was finalized holds from the next call or run on.

        Raises what `settle_options` does; the options are as they were then.
        """
        if name not in SETTLED:
            object.__setattr__(self, name, value)
            return
        with _SETTLING:
            if not self._settled:
                object.__setattr__(self, name, value)
                return
            # Settled on a copy: whoever runs or sends the task meanwhile finds it as it was, or as it will be.
            before = dict(self.__dict__)
            copy = object.__new__(type(self))
            copy.__dict__.update({**before, **dict.fromkeys(self._from_config), "_settled": False})
            setattr(copy, name, value)
            copy.settle_options()
            self.__dict__.update({key: new for key, new in copy.__dict__.items() if before.get(key, before) is not new})

    def _find_hooks(self) -> frozenset[str]:
        own = type(self)
        return frozenset(name for name in HOOKS if getattr(own, name) is not getattr(Task, name) or name in vars(self))

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """Called when the task joins an app; override to set it up."""

    @property
    def _owner(self) -> TaskOwner:
        if self._app is None:
            raise ImproperlyConfigured(
                f"the task {self.name or type(self).__name__} belongs to no app; "
                "use @app.task or app.register_task(task)"
            )
        return self._app

    @property
    def app(self) -> Any:
        """The app the task belongs to."""
        return self._app if self._app is not None else state.get_current_app()

    @property
    def backend(self) -> Any:
        """The app's result backend."""
        return self.app.backend

    # -- running

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Do the work; the decorated function, or a subclass' method."""
        raise NotImplementedError(f"task {self.name or type(self).__name__} must define run()")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the task here as the function it is, without messages or records."""
        request = state.request_of(self)
        if request is not None and request.__dict__.pop("_fresh", False):
            # A subclass' __call__ that the executor called has come here by super().
            return self.run(*args, **kwargs)
        token = state.push_frame(self, Context(None, args=list(args), kwargs=dict(kwargs), called_directly=True))
        try:
            return self.run(*args, **kwargs)
        finally:
            state.pop_frame(token)

    @property
    def request(self) -> Context:
        """What is known of the message that is being run."""
        found = state.request_of(self)
        return found if found is not None else idle_request()

    def push_request(self, *args: Any, **kwargs: Any) -> None:
        """Pretend to run with this request, for tests; undo with `pop_request`."""
        fields = dict(*args, **kwargs)
        fields.setdefault("called_directly", False)
        state.push_frame(self, Context(None, **fields))

    def pop_request(self) -> None:
        """Undo `push_request`."""
        frame = state.current_frame()
        if frame is None or frame.task is not self:
            raise RuntimeError(f"no request of {self.name} is on top")
        state.set_frame(frame.parent)

    # -- calling

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send a message that asks for a run with these arguments.

        Raises `TypeError` for arguments the function cannot take, `OperationalError` when the broker is out of reach.
        """
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """Send a message with options: ``countdown``, ``eta``, ``expires``, ``queue``, ``priority`` …

        Raises `TypeError` for arguments the function cannot take, `ValueError` for a soft limit over the hard one,
        `UnsupportedOption` for an option that cannot work here, `OperationalError` when the broker is out of reach.
        """
        args = () if args is None else args
        kwargs = {} if kwargs is None else kwargs
        if shadow is None and "shadow_name" in self._hooks:
            shadow = self.shadow_name(args, kwargs, options)
        owner = self._app if self._app is not None else self._owner
        if options or task_id or link or link_error or shadow or producer:
            given = {"task_id": task_id, "producer": producer, "link": link, "link_error": link_error, "shadow": shadow}
            options.update((name, value) for name, value in given.items() if value is not None)
        return owner.send_call(self, args, kwargs, options)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        link: Any = None,
        link_error: Any = None,
        task_id: str | None = None,
        retries: int = 0,
        throw: bool | None = None,
        logfile: Any = None,
        loglevel: Any = None,
        headers: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> EagerResult[R]:
        """Run the task in this process as a worker would, retries at once; raise its error with ``throw=True``."""
        options.update(
            (name, value)
            for name, value in {
                "link": link, "link_error": link_error, "task_id": task_id, "retries": retries or None, "throw": throw,
                "headers": headers,
            }.items()
            if value is not None
        )  # fmt: skip
        return self._owner.run_eagerly(self, args or (), kwargs or {}, options)

    def release_lock(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> bool:
        """Let the next such call of a unique task be sent, after a purge, say; return whether another stood for it."""
        return self._owner.release_unique(self, args, kwargs or {})

    def check_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise `TypeError` for arguments that the function cannot take."""
        check = self._check_call
        if check is not None:
            check(*args, **kwargs)

    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: Any = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Ask for another run of this task; raises `Retry`, so nothing after it runs.

        Out of retries it raises ``exc``, or `MaxRetriesExceededError` where there is none. With ``throw=False`` the
        `Retry` is returned and takes effect when the function ends. Called outside of a run it raises ``exc``, or
        `Retry` where there is none.
        """
        import sys

        request = self.request
        error = exc if exc is not None else sys.exc_info()[1]
        if request.called_directly:
            raise Retry("Task can be retried") if exc is None else exc
        limit = self.max_retries if max_retries is None else max_retries
        if limit is not None and request.retries >= limit:
            # The limit of this call also holds for automatic retries of what is raised now, as in Celery.
            request.update(_retry_limit=max_retries)
            if exc is not None:
                raise exc
            args, kwargs = masked(request.args, request.kwargs, both(self._sensitive, request.sensitive))
            raise MaxRetriesExceededError(
                f"Can't retry {self.name}[{request.id}] args:{args!r} kwargs:{kwargs!r}",
                task_args=request.args,
                task_kwargs=request.kwargs,
            )
        when = eta if eta is not None else self.default_retry_delay if countdown is None else countdown
        changes = dict(options)
        if args is not None:
            changes["args"] = args
        if kwargs is not None:
            changes["kwargs"] = kwargs
        ret = Retry(exc=error, when=when, is_eager=request.is_eager, sig=changes or None)
        if throw:
            raise ret from error
        request.update(_pending_retry=ret)
        return ret

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **kwargs: Any
    ) -> None:
        """Record a state of the task's own, such as ``PROGRESS``, with ``meta`` as what `AsyncResult.info` shows."""
        if kwargs:
            raise UnsupportedOption(f"update_state() has no option {', '.join(sorted(kwargs))}")
        request = self.request
        task_id = task_id or request.id
        if task_id is None:
            raise ValueError("update_state() outside of a run needs the task_id of the task whose state it is")
        self._owner.record_state(task_id, state or "PENDING", meta, request)

    def send_event(self, type_: str, **fields: Any) -> None:
        """Raise `UnsupportedOption`: there is no event bus in this release."""
        raise UnsupportedOption(
            f"send_event({type_!r}) cannot work: there are no events in this release; "
            "record progress with update_state(), or log it"
        )

    def add_trail(self, result: AsyncResult[Any]) -> AsyncResult[Any]:
        """Note a result as a child of the running task."""
        if self.trail:
            self.request.children.append(result)
        return result

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AsyncResult[R]:  # noqa: N802 - Celery's name
        """Return a handle on a task of this kind by its id."""
        return AsyncResult(task_id, task_name=self.name, app=self.app, **kwargs)

    # -- hooks

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Called in the worker before the run."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Called in the worker when the run returned."""

    def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called in the worker when the task is to be retried."""

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called in the worker when the task failed for good."""

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called in the worker when the task succeeded or failed for good; ``einfo`` is `None` after a success."""

    def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str | None:
        """Return another name for logs, or `None`."""
        return None

    @property
    def __name__(self) -> str:
        """The name of the function, or of the class."""
        return type(self).__name__  # type: ignore[return-value] # the class has one of its own

    def __repr__(self) -> str:
        return f"<@task: {self.name}>"

    def __reduce__(self) -> Any:
        return _task_by_name, (self.name,)


for _name, _instead in NOT_YET.items():
    setattr(Task, _name, Absent(_name, _instead))


def _task_by_name(name: str) -> Any:
    return state.get_current_app().tasks[name]
