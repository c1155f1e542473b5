"""What an execution environment keeps between invocations: the app, its connections, the executor."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from dispatcher.app import Dispatcher
from dispatcher.brokers.sqs import SQSBroker
from dispatcher.config import app_name, queue_urls
from dispatcher.exceptions import ImproperlyConfigured, UnsupportedOption
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from dispatcher.execution.limits import ThreadLimits
from dispatcher.execution.run import Run
from dispatcher.lambda_runtime import bootstrap, deadline, events, logs
from dispatcher.lambda_runtime.alarm import BatchAlarm
from dispatcher.lambda_runtime.guard import fork_guard
from dispatcher.lambda_runtime.metrics import Metrics
from dispatcher.lambda_runtime.progress import Batch, Progress
from dispatcher.lambda_runtime.rescue import Cause, rescue
from dispatcher.lambda_runtime.sources import Sources, names_of
from dispatcher.lambda_runtime.transport import LambdaTransport, Response
from dispatcher.lambda_runtime.watchdog import SharedProgress, Watchdog
from dispatcher.loading import find_app
from dispatcher.routing import Routes

logger = logging.getLogger("dispatcher.worker")


def app_of_environment() -> Dispatcher:
    """Return the app that ``DISPATCHER_APP`` names.

    Raises `ImproperlyConfigured` where it names none, and whatever the app's module raises.
    """
    spec = app_name()
    if spec is None:
        raise ImproperlyConfigured("DISPATCHER_APP must name the app, such as DISPATCHER_APP=shop.tasks:app")
    return find_app(spec)


class LambdaEnvironment:
    """An app ready to run batches.

    Making one connects to nothing, but makes what the first batch needs: tasks imported and checked, clients of SQS and
    the result backend, handlers of signals and logs. Raises `ImproperlyConfigured` or `UnsupportedOption` for an app
    that cannot run here.
    """

    def __init__(self, app: Dispatcher) -> None:
        self.app = app
        logs.set_up(app.conf)
        app.import_default_modules()
        app.finalize(auto=True)
        _refuse_worker_rates(app)
        broker = app.broker
        if not isinstance(broker, SQSBroker):
            raise ImproperlyConfigured(
                f"a Lambda worker gets its messages from SQS, but broker_url is {broker.describe()}://; set "
                "DISPATCHER_BROKER_URL=sqs://"
            )
        broker.open()
        app.backend.open()
        names = names_of(app)

        def local_name(sqs_name: str) -> str:
            return broker.local_name(sqs_name, names)

        self._broker = broker
        self._sources = Sources(names, app.conf.queue_url_for, queue_urls(), local_name)
        service = app.main or bootstrap.function().name
        logs.invocation.service = service
        self._metrics = Metrics(app.conf.metrics_namespace, service) if app.conf.metrics_namespace else None
        self._alarm = _alarm()
        self._env = Environment(
            app=app,
            backend=app.backend,
            transport=LambdaTransport(broker, app.clock),
            limits=self._alarm or ThreadLimits(),
            clock=app.clock,
            hostname=bootstrap.function().log_stream or bootstrap.function().name,
        )
        self._executor = Executor(self._env, concurrency=app.conf.lambda_concurrency)
        if any(task._is_async for task in app.tasks.values()):
            _ = self._executor.loop  # the first batch will need it
        self._margins = (app.conf.cleanup_margin, app.conf.settle_margin)
        self._checked = False
        self._progress: Progress | None = None

    def guard(self, *, early: bool) -> None:
        """Have somebody watch over the batches to come, as ``lambda_guard`` says; may go on in a forked process.

        ``early`` says that no AWS client was used yet.
        """
        kind = self.app.conf.lambda_guard
        if kind == "none":
            return
        keeps_values = self.app.conf.result_serializer == "json"
        progress: Progress | None = None
        if kind == "process":
            try:
                progress = Progress(keeps_values=keeps_values)
                fork_guard(progress, self._rescue, early=early)
            except OSError as error:
                logger.warning(
                    "there is no guard process, since this system does not fork: %s; a thread keeps hard limits "
                    "instead, but not of code that holds the interpreter's lock", error,
                )  # fmt: skip
                progress = None
        if progress is None:
            progress = shared = SharedProgress(keeps_values=keeps_values)
            Watchdog(shared, self._rescue).start()
        self._progress = self._env.watch = progress
        self._env.limits.keeps_hard = True

    def _rescue(self, batch: Batch, cause: Cause) -> None:
        logs.invocation.begin(SimpleNamespace(aws_request_id=batch.invocation))
        logger.error("%s: the guard settles the batch", cause.value)
        rescue(self.app, self._broker, batch, cause, self._env.hostname)

    @property
    def settle_margin(self) -> float:
        """How long before the function's timeout tasks must have ended, in seconds, so that they can be settled."""
        return self._margins[1]

    def run(self, records: Sequence[events.Record], context: Any, arrived: float, seconds: float | None) -> Response:
        """Run the messages of a batch that arrived at ``arrived``, in epoch seconds; never raises.

        The invocation ends in ``seconds``, where that is known.
        """
        deliveries = events.deliveries_of(records, self._sources.queue_of, arrived)
        progress = self._progress
        transport = LambdaTransport(self._broker, self.app.clock, progress.settled if progress is not None else None)
        runs: list[Run] = []
        try:
            if progress is not None:
                request_id = getattr(context, "aws_request_id", "")
                progress.begin(deliveries, seconds, deadline.margin(seconds, self._margins[1]), str(request_id))
            if not self._checked and seconds is not None:
                self._check_limits(deliveries[0].queue, seconds)
            self._env.transport = transport
            ends = deadline.end_of_tasks(seconds, self._margins)
            self._env.time_left = None if seconds is None else deadline.until(ends)
            if self._alarm is not None:
                self._alarm.begin_batch(ends)
            runs = self._executor.process(deliveries)
            if self._metrics is not None:
                self._metrics.write(deliveries[0].queue, runs, arrived)
        except BaseException as error:
            logger.critical("an internal error; what is not settled of the batch goes back", exc_info=error)
        if self._alarm is not None:
            self._alarm.end_batch()
        if progress is not None:
            progress.end()
        return transport.response(deliveries)

    def close(self) -> None:
        """Close the event loop and the connections."""
        self._executor.close()
        self.app.close()

    def _check_limits(self, queue: str, timeout: float) -> None:
        """Complain of limits of the queue's tasks that the function cannot keep; its timeout and its queue show now."""
        self._checked = True
        routes = Routes.of(self.app.conf)
        here = [task for task in self.app.tasks.values() if _may_come_from(queue, task, routes)]
        for complaint in deadline.check_limits(here, timeout + 1):
            logger.error("%s; until then it gets the soft limit of the function", complaint)


def _may_come_from(queue: str, task: Any, routes: Routes) -> bool:
    try:
        return routes.home(task) == queue
    except Exception:  # noqa: BLE001 a router of the user's, asked without arguments: its task may go anywhere
        return True


def _refuse_worker_rates(app: Dispatcher) -> None:
    for task in app.tasks.values():
        if task._rate is not None and task.rate_limit_scope == "worker":
            raise UnsupportedOption(
                f"task {task.name}: rate_limit_scope='worker' cannot work in Lambda, where each environment would be a "
                'worker; use rate_limit_scope="global", or give the tasks of local workers an app of their own'
            )


def _alarm() -> BatchAlarm | None:
    """Return the alarm that keeps soft limits in the main thread, where Lambda's runtime calls handlers."""
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
        alarm = BatchAlarm()
        alarm.install()
        return alarm
    logger.warning("this is not the main thread: soft limits interrupt Python code, but no call that blocks")
    return None
