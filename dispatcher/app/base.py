"""Dispatcher: the app. It holds the tasks and the configuration, and sends."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from dispatcher import connections, registry, state
from dispatcher.app import discovery
from dispatcher.app.changes import Changes
from dispatcher.app.foreign import NOT_YET, refuse_foreign
from dispatcher.app.periodic import Periodic
from dispatcher.app.wire import Wire
from dispatcher.app.workflows import Workflows
from dispatcher.backends.base import TaskRecord
from dispatcher.backends.meta import ResultMeta
from dispatcher.brokers.base import Broker, Delivery
from dispatcher.call_options import positional
from dispatcher.canvas.signature import Signature, maybe_signature
from dispatcher.claims import Claims
from dispatcher.clock import SYSTEM, Clock, zone_of
from dispatcher.config import Config
from dispatcher.config.environment import in_django_project
from dispatcher.decorators import BoundDecorator, Decorator
from dispatcher.exceptions import AlwaysEagerIgnored
from dispatcher.message import Message
from dispatcher.packing import Call
from dispatcher.result import AsyncResult, EagerResult
from dispatcher.routing import Routes, import_routers
from dispatcher.sending import Sender
from dispatcher.signals import Signal, import_modules
from dispatcher.task import Task
from dispatcher.utils import uuid, uuids
from dispatcher.utils.forks import OuterLock

if TYPE_CHECKING:
    from dispatcher.backends.base import ResultBackend

P = ParamSpec("P")
R = TypeVar("R")
AnyTask = Task[Any, Any]


class Dispatcher(Workflows, Changes, Periodic):
    """An app: tasks are registered with it, and it knows the broker and the result backend.

    Takes Celery's keywords; further ones are settings. Nothing is connected until something is sent or read.
    Raises `ImproperlyConfigured` for settings that cannot work.
    """

    task_cls: type[AnyTask] = Task

    def __init__(
        self,
        main: str | None = None,
        *,
        broker: str | None = None,
        backend: str | None = None,
        include: str | Sequence[str] | None = None,
        changes: Mapping[str, Any] | None = None,
        config_source: Any = None,
        namespace: str | None = None,
        set_as_current: bool = True,
        task_cls: type[AnyTask] | str | None = None,
        tasks: Mapping[str, AnyTask] | None = None,
        autofinalize: bool = True,
        strict_typing: bool = True,
        clock: Clock = SYSTEM,
        **settings: Any,
    ) -> None:
        refuse_foreign(settings)
        self.main = main
        self.clock = clock
        self.conf = Config({**(changes or {}), **settings})
        self.strict_typing = strict_typing
        self.autofinalize = autofinalize
        self._tasks = registry.TaskRegistry(tasks or {})
        self._finalized = False
        #: the threads that finalize it now, and that import what that needs
        self._finalizing: int | None = None
        self._importing: int | None = None
        self._lock = OuterLock()
        self._import_lock = OuterLock()
        self._broker: Broker | None = None
        self._backend: ResultBackend | None = None
        self._sender: Sender | None = None
        self._claims: Claims | None = None
        self._wire: Wire | None = None
        self._autodiscoveries: list[discovery.Autodiscovery] = []
        self.on_configure = Signal("app.on_configure")
        self.on_after_configure = Signal("app.on_after_configure")
        self.on_after_finalize = Signal("app.on_after_finalize")
        self.on_after_fork = Signal("app.on_after_fork")
        if task_cls is not None:
            self.task_cls = discovery.load(task_cls) if isinstance(task_cls, str) else task_cls
        given = {
            "broker_url": broker, "result_backend": backend,
            "include": (include,) if isinstance(include, str) else include,
        }  # fmt: skip
        self.conf.update({key: value for key, value in given.items() if value is not None})
        if config_source is not None:
            self.config_from_object(config_source, namespace=namespace)
        if set_as_current:
            self.set_current()

    # -- configuration

    def config_from_object(
        self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> None:
        """Read settings from a module, its name, an object or a dict; ``namespace`` picks Django's ``CELERY_*``."""
        self.conf.load_object(obj, silent=silent, namespace=namespace)

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> bool:
        """Read settings from the module that an environment variable names."""
        return self.conf.load_envvar(variable_name, silent=silent)

    def add_defaults(self, fun: Any) -> None:
        """Set defaults, from a mapping or a function that returns one."""
        self.conf.add_defaults(fun)

    def set_current(self) -> None:
        """Make this the current app."""
        state.set_current_app(self)

    set_default = set_current

    # -- tasks

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, *, bind: Literal[True], **options: Any) -> BoundDecorator: ...
    @overload
    def task(self, *, bind: bool = False, **options: Any) -> Decorator: ...

    def task(self, *args: Any, **options: Any) -> Any:
        """Turn a function into a task, bare or with options; see `Task` for them.

        Registering a name twice returns the first task. Raises `ImproperlyConfigured` for a misspelt option.
        """
        if len(args) > 1 or (args and not callable(args[0])):
            raise TypeError("@app.task takes one function, or options by name: @app.task(bind=True)")
        shared = options.pop("shared", True)
        del shared  # Celery registers the task with every app by it; here shared_task does that
        options.pop("lazy", None)
        wrap = options.pop("filter", None)

        def decorate(function: Any) -> Any:
            task = self._register_function(function, dict(options))
            return wrap(task) if wrap is not None else task

        return decorate(args[0]) if args else decorate

    def _register_function(self, function: Any, options: dict[str, Any]) -> AnyTask:
        if isinstance(function, Task):
            raise TypeError(f"{function.name} is a task already")
        name = options.pop("name", None) or self.gen_task_name(function.__name__, function.__module__)
        if name in self._tasks:
            return self._tasks[name]
        base: type[AnyTask] = options.pop("base", None) or self.task_cls
        bind = options.pop("bind", False)
        task: AnyTask = self.register_task(registry.make_task(function, name, base, bind, options))
        return task

    def gen_task_name(self, name: str, module: str) -> str:
        """Return the name of a function's task that is given none; override it for a scheme of your own."""
        return registry.full_name(name, module, self.main)

    def register_task(self, task: Any, **options: Any) -> Any:
        """Register a task of a class of one's own: an instance, or the class itself."""
        instance = task() if isinstance(task, type) else task
        for key, value in options.items():
            setattr(instance, key, value)
        if not instance.name:
            cls = type(instance)
            module = self.main if cls.__module__ == "__main__" and self.main else cls.__module__
            instance.name = f"{module}.{cls.__name__}"
        with self._lock:
            if instance.name in self._tasks:
                return self._tasks[instance.name]
            instance.bind(self)
            registry.annotate(instance, self.conf.task_annotations)
            if self._finalized:
                instance.settle_options()  # before others find it, who would do without its options
            self._tasks[instance.name] = instance
        return instance

    @property
    def tasks(self) -> registry.TaskRegistry:
        """The registered tasks by name, shared ones included."""
        if self.autofinalize:
            self.finalize(auto=True)
        return self._tasks

    @property
    def Task(self) -> type[AnyTask]:  # noqa: N802 - Celery's name
        """The base class of this app's tasks, for ``class MyTask(app.Task)``."""
        return self.task_cls

    def autodiscover_tasks(self, packages: Any = None, related_name: str | None = "tasks", force: bool = False) -> None:
        """Import the module ``related_name`` of each package, when a worker starts or with ``force`` now.

        Without packages, those of Django's ``INSTALLED_APPS``. A package without such a module is passed over.
        """
        autodiscovery = discovery.Autodiscovery(packages, related_name)
        if force:
            autodiscovery.run()
        else:
            self._autodiscoveries.append(autodiscovery)

    def import_default_modules(self) -> None:
        """Import ``imports``, ``include`` and what `autodiscover_tasks` asked for; a worker does this at its start.

        Where ``DJANGO_SETTINGS_MODULE`` names settings, Django is set up before.
        """
        import_modules.send(self)
        if in_django_project():
            from dispatcher.app import django  # only where it is asked for

            django.set_up()
        for name in (*self.conf.imports, *self.conf.include):
            importlib.import_module(name)
        autodiscoveries, self._autodiscoveries = self._autodiscoveries, []
        try:
            for autodiscovery in autodiscoveries:
                autodiscovery.run()
        except BaseException:
            self._autodiscoveries[:0] = autodiscoveries  # a function of Lambda tries again with the next batch
            raise

    def finalize(self, auto: bool = False) -> None:
        """Freeze the configuration, let shared tasks join, and check every task's options.

        Happens by itself when the first task is sent or run. Raises `ImproperlyConfigured` and `UnsupportedOption`,
        naming the task.
        """
        thread = threading.get_ident()
        if self._finalized or thread in (self._finalizing, self._importing):
            return
        # Not under the lock, which a module takes that another thread imports just now and that registers a task.
        with self._import_lock:
            self._importing = thread
            try:
                import_routers(self.conf.task_routes)
            finally:
                self._importing = None
        with self._lock:
            # Another thread was faster, or a receiver of the signals below asks for the tasks.
            if self.finalized:
                return
            self._finalizing = thread
            try:
                self.on_configure.send(self)
                self.on_after_configure.send(self, source=self.conf)
                state.announce_app_finalized(self)
                self.conf.freeze()
                self._set_up()
                self._add_built_in_tasks()
                for task in list(self._tasks.values()):
                    registry.annotate(task, self.conf.task_annotations)
                    task.settle_options()
                self._finalized = True
            finally:
                self._finalizing = None
        self.on_after_finalize.send(self)

    @property
    def finalized(self) -> bool:
        """Whether the configuration is fixed."""
        return self._finalized

    def _set_up(self) -> None:
        conf = self.conf
        self._wire = wire = Wire(conf, self.clock)
        routes = Routes.of(conf)
        seal = wire.seal if wire.signs else None
        self._sender = Sender(conf, lambda: self.broker, routes, self.clock, seal, lambda: wire.payloads)
        self._claims = Claims(self._sender, lambda: self.backend, self.clock, self._tasks)

    # -- connections

    @property
    def broker(self) -> Broker:
        """The broker; connected when first used."""
        if self._broker is None:
            with self._lock:
                if self._broker is None:
                    self._broker = connections.broker_of(self.conf, self.main, self.clock)
        return self._broker

    @property
    def backend(self) -> ResultBackend:
        """The result backend; connected when first used."""
        if self._backend is None:
            with self._lock:
                if self._backend is None:
                    self._backend = connections.backend_of(self.conf, self.main, self.clock)
        return self._backend

    def close(self) -> None:
        """Close connections; they open again when needed."""
        for connection in (self._broker, self._backend, self._wire):
            if connection is not None:
                connection.close()

    def __enter__(self) -> Dispatcher:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()

    # -- sending

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        result_cls: Any = None,
        **options: Any,
    ) -> AsyncResult[Any]:
        """Send a call to a task by its name, which this process need not know; options as `Task.apply_async`."""
        if self.conf.task_always_eager:
            import warnings

            warnings.warn(AlwaysEagerIgnored("send_task() always sends, also with task_always_eager"), stacklevel=2)
        self.finalize(auto=True)
        return self._send(name, args or (), kwargs or {}, options, None, result_cls)

    def send_call(
        self, task: AnyTask, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> AsyncResult[Any]:
        """Send a call to a task; `Task.apply_async` comes here."""
        if not self._finalized:
            self.finalize(auto=True)
        args = positional(args)
        if task._check_call is not None:
            task._check_call(*args, **kwargs)
        if self.conf.task_always_eager:
            return self._adopted(self.run_eagerly(task, args, kwargs, options, by_value=True), options)
        return self._send(task.name, args, kwargs, options, task)

    def _send(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        task: AnyTask | None,
        result_cls: Any = None,
    ) -> AsyncResult[Any]:
        assert self._sender is not None and self._claims is not None
        call = self._sender.build(name, args, kwargs, options, task)
        [call] = self._claims.send([call], options.get("retry"), options.get("retry_policy"))
        return self._result_of(call, options, task, result_cls)

    def _result_of(
        self, call: Call, options: Mapping[str, Any], task: AnyTask | None, result_cls: Any = None
    ) -> AsyncResult[Any]:
        message, _, _, duplicate = call
        result: AsyncResult[Any] = (result_cls or AsyncResult)(message.id, task_name=message.task, app=self)
        if duplicate:
            result.duplicate = True
        elif message.eta is not None:
            result.eta = message.eta
        ignored = message.ignore_result
        if ignored or (ignored is None and task is not None and task.ignore_result):
            result.ignored = True
        return self._adopted(result, options)

    def send_many(self, signatures: Iterable[Any]) -> list[AsyncResult[Any]]:
        """Send many calls with as few round trips as the broker allows; return their results in order.

        All are checked before the first is sent; with ``task_always_eager`` they run here instead. Raises `SendError`
        whose ``failures`` name the ids not accepted.
        """
        self.finalize(auto=True)
        assert self._sender is not None and self._claims is not None
        calls = [maybe_signature(item, self) for item in signatures]
        if self.conf.task_always_eager:
            return [sig.apply_async() for sig in calls]
        built: list[tuple[Call, Signature, AnyTask | None]] = []
        for sig, new_id in zip(calls, uuids(len(calls)), strict=True):
            name, args, kwargs = sig["task"], sig["args"], sig["kwargs"]
            task = self._tasks.get(name)
            if task is not None and task._check_call is not None:
                task._check_call(*args, **kwargs)
            call = self._sender.build(name, args, kwargs, sig["options"], task, new_id=new_id)
            built.append((call, sig, task))
        sent = self._claims.send([call for call, _, _ in built])
        return [self._result_of(call, sig["options"], task) for call, (_, sig, task) in zip(sent, built, strict=True)]

    def run_eagerly(
        self,
        task: AnyTask,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        by_value: bool = False,
        chord: Mapping[str, Any] | None = None,
    ) -> EagerResult[Any]:
        """Run a call in this process through the executor; `Task.apply` comes here, canvases say its place in one."""
        from dispatcher.eager import run_eagerly

        self.finalize(auto=True)
        assert self._sender is not None
        return run_eagerly(self, self._sender, task, args, kwargs, options, by_value, chord)

    # -- what the executor asks

    @property
    def wire(self) -> Wire:
        """The settings under which messages and results are read and written."""
        self.finalize(auto=True)
        assert self._wire is not None
        return self._wire

    @property
    def read_message(self) -> Callable[[Delivery], Message]:
        """Verifies and decodes a body, arguments included; raises `SecurityError` or `DecodeError`."""
        return self.wire.read_message

    def load_arguments(self, message: Message) -> Message:
        """Fetch arguments from the payload store; raises `DecodeError` or `OperationalError`."""
        return self.wire.load_arguments(message)

    def write_meta(self, meta: ResultMeta, backend: ResultBackend, what: str, task_id: str) -> str:
        """Encode a record's data, or store them where they are too large for it; ``what`` names them for people."""
        return self.wire.write_meta(meta, backend, what, task_id)

    def write_result(self, value: Any, rest: str, backend: ResultBackend) -> str | None:
        """Encode a record's data of a result and the ``rest``; `None` where it takes `write_meta`."""
        return self.wire.write_result(value, rest, backend)

    def read_meta(self, record: TaskRecord) -> ResultMeta:
        """Decode what a record keeps besides its columns."""
        return self.wire.read_meta(record)

    def sealed_body(self, message: Message, queue: str) -> str:
        """Return the signed wire form of a message for a queue."""
        return self.wire.sealed_body(message, queue)

    # -- results and signatures

    def AsyncResult(self, task_id: str, backend: Any = None, task_name: str | None = None, **kwargs: Any) -> Any:  # noqa: N802
        """Return a handle on a task by its id."""
        return AsyncResult(task_id, backend=backend, task_name=task_name, app=self, **kwargs)

    def signature(self, *args: Any, **kwargs: Any) -> Signature:
        """Return a signature that this app sends."""
        kwargs["app"] = self
        return Signature(*args, **kwargs)

    # -- time and names

    def now(self) -> datetime:
        """Return the time, in the configured zone."""
        return datetime.fromtimestamp(self.clock.time(), zone_of(self.conf.timezone))

    def now_seconds(self) -> float:
        """Return the time in epoch seconds."""
        return self.clock.time()

    def uuid(self) -> str:
        """Return a new task id."""
        return uuid()

    @property
    def current_task(self) -> Any:
        """The task that runs here, or `None`."""
        frame = state.current_frame()
        return frame.task if frame is not None else None

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in NOT_YET:
                raise AttributeError(f"app.{name} is not available in this release; {NOT_YET[name]}")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"<Dispatcher {self.main or '__main__'} at {id(self):#x}>"

    def __reduce__(self) -> Any:
        raise TypeError("an app cannot be pickled; import it by name in the other process")
