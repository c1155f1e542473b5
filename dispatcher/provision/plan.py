"""The plan: what an app needs in AWS, as a pure function of the app.

Every number that follows from a rule is worked out here; what the resources look like is `resources`' concern.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dispatcher.beat.entries import Entry, entries
from dispatcher.brokers.sqs_queues import MAX_RECEIVE_COUNT, Queues
from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.provision import settings
from dispatcher.provision.eventbridge import Untranslatable, translate
from dispatcher.provision.settings import RUNTIMES, FunctionSettings, Infrastructure, Vpc
from dispatcher.quotas import (
    LAMBDA_MAX_TIMEOUT,
    LAMBDA_VISIBILITY_FACTOR,
    SQS_DEFAULT_RETENTION,
    SQS_MAX_BATCH,
    SQS_MAX_RETENTION,
)
from dispatcher.routing import Routes
from dispatcher.task_options import rate_of

#: The timeout of a function none of whose tasks says how long it may take.
DEFAULT_TIMEOUT: Final = 60
#: The share of its retention that a message's receives may take, each as long as the visibility timeout. What is left
#: is for its delay and its wait, so that a message is moved to the lost queue well before its queue would delete it.
TRANSPORT_SHARE: Final = 0.625
#: SQS keeps the time a message was first sent at when it moves it, so each queue keeps longer than the one before.
RETENTION: Final = SQS_DEFAULT_RETENTION
LOST_RETENTION: Final = (SQS_DEFAULT_RETENTION + SQS_MAX_RETENTION) // 2
DEAD_RETENTION: Final = SQS_MAX_RETENTION
#: Of so many queues functions are told the URLs; of more they ask SQS by name, since their variables have 4 KB.
TOLD_QUEUES: Final = 5
#: The timeout of the function that decides on lost messages: a batch is some calls to AWS, and the rest is for an app
#: whose import takes long, or for ever.
READER_TIMEOUT: Final = 120
_DAY: Final = 86_400
_LIMITS: Final = ("time_limit", "soft_time_limit")
#: How many days a payload must outlive its message's way through queue, lost queue, dead letters and lost queue again.
_SPARE_DAYS: Final = 7


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """A task: where it goes, and what of it costs. Limits are seconds, ``rate_limit`` is starts a second."""

    name: str
    queue: str
    time_limit: float | None = None
    soft_time_limit: float | None = None
    rate_limit: float | None = None
    ignore_result: bool = False
    revocable: bool = True
    unique: bool = False
    #: Whether each start is recorded before the run, not only those of redelivered messages.
    counts_starts: bool = False

    @property
    def lean(self) -> bool:
        """Whether a run that succeeds at its first delivery leaves no record."""
        return self.ignore_result and not self.revocable and not self.unique

    @property
    def limit(self) -> float | None:
        """How long a run may go on, as far as the task says."""
        return self.soft_time_limit if self.time_limit is None else self.time_limit


@dataclass(frozen=True, slots=True)
class PlannedFunction:
    """The function that runs a queue's tasks; ``timeout_reason`` and ``batch_reason`` say where the numbers come from.

    ``memory`` in MiB; ``timeout`` and ``batching_window`` in seconds. With ``schedules`` its tasks may change entries
    of the beat.
    """

    memory: int
    timeout: int
    architecture: str
    runtime: str
    maximum_concurrency: int
    batch_size: int
    batching_window: int
    environment: Mapping[str, str]
    layers: tuple[str, ...]
    image: str | None
    vpc: Vpc | None
    log_days: int
    timeout_reason: str
    batch_reason: str
    schedules: bool = False


@dataclass(frozen=True, slots=True)
class PlannedQueue:
    """A queue with its lost and its dead-letter queue. Without a function, workers that somebody else runs read it.

    All times are seconds.
    """

    name: str
    tasks: tuple[str, ...]
    function: PlannedFunction | None
    visibility_timeout: int
    max_receive_count: int
    retention: int = RETENTION
    lost_retention: int = LOST_RETENTION
    dead_retention: int = DEAD_RETENTION

    @property
    def fifo(self) -> bool:
        """Whether it is a FIFO queue."""
        return self.name.endswith(".fifo")

    @property
    def lost(self) -> str:
        """The queue that SQS moves messages to which it gives up."""
        return Queues.lost(self.name)

    @property
    def dead(self) -> str:
        """The queue of the dead letters."""
        return Queues.dead(self.name)


@dataclass(frozen=True, slots=True)
class PlannedSchedule:
    """What fires an entry of the beat schedule: an EventBridge rule, or a schedule of EventBridge Scheduler.

    ``expression`` is ``rate(…)`` or ``cron(…)`` in ``timezone`` (`None`: UTC, the only one a rule knows). Where it is
    not ``exact`` it fires more often than the entry is due, and the worker decides. ``every`` is the seconds between
    the runs of an entry that one firing a minute fans out to. ``reason`` says why it is not exact. ``group`` is the
    message group of its firings, on a FIFO queue.
    """

    entry: str
    task: str
    queue: str
    kind: str
    expression: str
    timezone: str | None = None
    exact: bool = True
    every: float | None = None
    reason: str = ""
    enabled: bool = True
    group: str | None = None


@dataclass(frozen=True, slots=True)
class PlannedBucket:
    """Where large payloads go. ``days`` is how long they are kept; `None` for a bucket that exists already."""

    name: str | None
    prefix: str = ""
    days: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that an app needs in AWS. ``app`` is how functions find it: ``module:attribute``. ``code`` is the
    directory that `sam build` packs, ``build`` how.

    Resources are named after their stack; a plan for a ``stage`` names them ``<name>-<stage>-…``. ``notes`` are
    sentences for whoever reads the plan. ``reader`` is the function that decides on lost messages. With the
    ``scheduler``, tasks are delayed beyond 15 minutes by EventBridge Scheduler.
    """

    app: str
    name: str
    stage: str | None
    tasks: tuple[PlannedTask, ...]
    queues: tuple[PlannedQueue, ...]
    reader: PlannedFunction
    schedules: tuple[PlannedSchedule, ...] = ()
    bucket: PlannedBucket | None = None
    code: str = "."
    build: str = "package"
    kms_key: str | None = None
    producers: tuple[str, ...] = ()
    scheduler: bool = False
    record_retention: int = LOST_RETENTION
    notes: tuple[str, ...] = ()

    @property
    def prefix(self) -> str | None:
        """What the names of queues begin with; `None` for the name of the stack, which is known when it is deployed."""
        return None if self.stage is None else f"{self.name}-{self.stage}-"

    @property
    def asks_by_name(self) -> bool:
        """Whether functions ask SQS for the URLs of queues other than their own."""
        return len(self.queues) > TOLD_QUEUES

    @property
    def longest_timeout(self) -> int:
        """How long the longest run can go on: the greatest timeout of the functions."""
        return max((queue.function.timeout for queue in self.queues if queue.function), default=LAMBDA_MAX_TIMEOUT)

    def queue(self, name: str) -> PlannedQueue:
        """Return a queue by its name; raises `KeyError`."""
        for queue in self.queues:
            if queue.name == name:
                return queue
        raise KeyError(name)


def plan(
    app: Any, *, spec: str | None = None, stage: str | None = None, functions: Mapping[str, Any] | None = None
) -> Plan:
    """Return what an app needs.

    ``spec`` is how it is found (``module:attribute``); left out it is the module the app is named after. ``functions``
    has settings of ``infra`` for every function, which win over what the app says. Raises
    `ImproperlyConfigured` for what cannot work in Lambda, naming task and reason.
    """
    found = spec or app.main
    if not found:
        raise ImproperlyConfigured(
            "the app has no name to be found by; give it one, Dispatcher('shop'), or name it by -A"
        )
    app.finalize()
    conf = app.conf
    wanted = settings.read(conf.infra, stage, functions)
    routes = Routes.of(conf)
    tasks = tuple(_task(task, routes, conf.worker_disable_rate_limits) for _, task in sorted(app.tasks.items()))
    fired = entries(app)
    names = _queue_names({*(task.queue for task in tasks), *(entry.queue for entry in fired.values())}, conf, wanted)
    runs = [*tasks, *_fired(fired.values(), tasks)]
    queues = tuple(_queue(name, [task for task in runs if task.queue == name], wanted, conf) for name in names)
    name = wanted.name or _name(app, spec)
    return Plan(
        app=found,
        name=name,
        stage=stage,
        tasks=tasks,
        queues=queues,
        reader=_reader(wanted.defaults),
        schedules=tuple(_schedule(entry) for _, entry in sorted(fired.items())),
        bucket=_bucket(conf.payload_bucket, wanted.payload_days),
        code=wanted.code,
        build=wanted.build,
        scheduler=wanted.scheduler,
        kms_key=wanted.kms_key,
        producers=wanted.producers,
        record_retention=max(LOST_RETENTION, math.ceil(conf.record_retention)),
        notes=tuple(_notes(conf, queues, wanted, bool(fired))),
    )


def _name(app: Any, spec: str | None) -> str:
    name = re.sub(r"[^A-Za-z0-9]+", "-", str(app.main or "") or (spec or "").partition(":")[0]).strip("-")
    if not name:
        raise ImproperlyConfigured("the app has no name to call its resources by; give it one: Dispatcher('shop')")
    return name


def _task(task: Any, routes: Routes, unlimited: bool) -> PlannedTask:
    """Return a task as it is sent by a call that says nothing about its queue."""
    route = routes.route(task.name, (), {}, {}, task)
    rate = None if unlimited else rate_of(task)
    return PlannedTask(
        name=task.name,
        queue=routes.home(task),
        # As in a message: what a route says wins over the task.
        time_limit=route.get("time_limit") or task.time_limit,
        soft_time_limit=route.get("soft_time_limit") or task.soft_time_limit,
        rate_limit=None if rate is None else 1 / rate.interval,
        ignore_result=bool(task.ignore_result),
        revocable=bool(task.revocable),
        unique=bool(task.unique),
        counts_starts=bool(task.track_started) or task.acks_late is False,
    )


def _fired(fired: Iterable[Entry], tasks: Iterable[PlannedTask]) -> Iterable[PlannedTask]:
    """Yield the tasks of entries as these send them: to a queue and with limits of their own."""
    known = {task.name: task for task in tasks}
    for entry in fired:
        limits = {name: entry.options[name] for name in _LIMITS if entry.options.get(name) is not None}
        yield dataclasses.replace(known[entry.task], queue=entry.queue, **limits)


def _schedule(entry: Entry) -> PlannedSchedule:
    try:
        found = translate(entry.schedule, entry.timezone)
    except Untranslatable as error:
        raise Untranslatable(f"the entry {entry.name!r} of the beat: {error.reason}") from error
    return PlannedSchedule(
        entry=entry.name,
        task=entry.task,
        queue=entry.queue,
        kind=found.kind,
        expression=found.expression,
        timezone=found.timezone,
        exact=found.exact,
        every=found.every,
        reason=found.reason,
        enabled=entry.enabled,
        group=(entry.group_id or entry.own_group) if entry.queue.endswith(".fifo") else None,
    )


def _queue_names(used: set[str], conf: Any, wanted: Infrastructure) -> list[str]:
    """Return the queues that are sent to and those that are declared; the default queue if there is no other."""
    used = used | set(conf.task_queues or ())
    for name in wanted.queues:
        if name not in used:
            raise ImproperlyConfigured(
                f"infra['queues'] has {name!r}, but no task goes there and task_queues does not declare it; "
                f"there are {', '.join(sorted(used)) or 'no queues'}"
            )
    first = conf.task_default_queue
    used = used or {first}
    return sorted(used, key=lambda name: (name != first, name))


def _queue(name: str, tasks: list[PlannedTask], wanted: Infrastructure, conf: Any) -> PlannedQueue:
    given = wanted.function(name)
    names = tuple(dict.fromkeys(task.name for task in tasks))
    if given is None:
        visibility = math.ceil(conf.broker_visibility_timeout)
        return PlannedQueue(name, names, None, visibility, _receives(visibility))
    function = _function(name, tasks, given, conf)
    visibility = LAMBDA_VISIBILITY_FACTOR * function.timeout + function.batching_window
    return PlannedQueue(name, names, function, visibility, _receives(visibility))


def _receives(visibility: int) -> int:
    """Return the transport budget of a queue: receives, each of which may last the visibility timeout."""
    return min(MAX_RECEIVE_COUNT, int(TRANSPORT_SHARE * RETENTION / visibility))


def _function(name: str, tasks: list[PlannedTask], given: FunctionSettings, conf: Any) -> PlannedFunction:
    if name.endswith(".fifo") and (given.batching_window or (given.batch_size or 0) > SQS_MAX_BATCH):
        raise ImproperlyConfigured(
            f"queue {name}: a FIFO queue takes no batching_window, and batches of {SQS_MAX_BATCH} at most"
        )
    margins = conf.cleanup_margin + conf.settle_margin
    longest = max((task for task in tasks if task.limit), key=lambda task: task.limit or 0, default=None)
    timeout, reason = _timeout(name, longest, given.timeout, margins)
    batch, why = given.batch_size, "As configured."
    if batch is None:
        batch, why = SQS_MAX_BATCH, "Ten messages are one receive. Tasks of a batch run one after the other."
        if longest is not None and longest.limit and longest.limit > DEFAULT_TIMEOUT:
            batch = max(1, int((timeout - margins) / longest.limit))
            why = f"As many runs of {longest.name}, {longest.limit:g} s each, as fit the function's timeout."
    return _made(
        given,
        timeout=timeout,
        maximum_concurrency=given.maximum_concurrency,
        batch_size=batch,
        batching_window=given.batching_window,
        timeout_reason=reason,
        batch_reason=why,
        schedules=given.schedules,
    )


def _made(given: FunctionSettings, **own: Any) -> PlannedFunction:
    """Return a function as the settings have it, with what is its own."""
    kept = ("memory", "architecture", "runtime", "environment", "layers", "image", "vpc", "log_days")
    return PlannedFunction(**{**{name: getattr(given, name) for name in kept}, **own})


def _timeout(name: str, longest: PlannedTask | None, given: int | None, margins: float) -> tuple[int, str]:
    """Return a function's timeout and where it comes from; refuse limits that no timeout keeps."""
    limit = 0.0 if longest is None or longest.limit is None else longest.limit
    if longest is not None and limit > LAMBDA_MAX_TIMEOUT:
        raise ImproperlyConfigured(
            f"task {longest.name} may run for {limit:g} s, but Lambda ends every function after "
            f"{LAMBDA_MAX_TIMEOUT} s; give it a lower time limit, split it, or let workers of your own run it: "
            f"infra={{'queues': {{{name!r}: {{'function': False}}}}}} and `dispatcher worker -Q {name}`"
        )
    if given is not None:
        if longest is not None and limit > given:
            raise ImproperlyConfigured(
                f"task {longest.name} may run for {limit:g} s, but the function of queue {name} has a timeout of "
                f"{given} s; raise the timeout, lower the time limit, or route the task to another queue"
            )
        return given, "As configured."
    needed = math.ceil(limit + margins) if limit else 0
    if longest is None or needed <= DEFAULT_TIMEOUT:
        return DEFAULT_TIMEOUT, "No task of the queue says that it takes longer."
    return min(
        needed, LAMBDA_MAX_TIMEOUT
    ), f"{longest.name} may run for {limit:g} s, and {margins:g} s are for cleaning up and settling."


def _reader(defaults: FunctionSettings) -> PlannedFunction:
    """Return the function that decides on lost messages."""
    return _made(
        defaults,
        memory=max(defaults.memory, 512),
        timeout=READER_TIMEOUT,
        maximum_concurrency=2,
        batch_size=SQS_MAX_BATCH,
        batching_window=0,
        timeout_reason="A batch is some calls to AWS; most of this is for an app whose import takes long, or for ever.",
        batch_reason="Ten messages are one receive.",
    )


def _bucket(url: str | None, days: int | None) -> PlannedBucket | None:
    if url is None and days is None:
        return None
    least = (RETENTION + LOST_RETENTION + DEAD_RETENTION) // _DAY + _SPARE_DAYS
    if days is not None and days < least:
        raise ImproperlyConfigured(
            f"infra['payload_days'] is {days}, but a message can need its payload for {least} days: "
            f"{RETENTION // _DAY} in its queue, up to {LOST_RETENTION // _DAY} in the lost queue, "
            f"{DEAD_RETENTION // _DAY} among the dead letters, and {_SPARE_DAYS} for delays"
        )
    if url is None:
        return PlannedBucket(None, days=days)
    if not url.startswith("s3://"):
        raise ImproperlyConfigured(f"payload_bucket is {url}, which no function in Lambda can reach; use an S3 bucket")
    name, _, prefix = url.removeprefix("s3://").partition("?")[0].partition("/")
    return PlannedBucket(name, prefix.strip("/"), days)


def _notes(conf: Any, queues: tuple[PlannedQueue, ...], wanted: Infrastructure, fires: bool) -> Iterable[str]:
    routers = conf.task_routes if isinstance(conf.task_routes, tuple) else (conf.task_routes,)
    if any(callable(router) or hasattr(router, "route_for_task") for router in routers if router is not None):
        yield (
            "a router is a function: it was asked for each task without arguments; declare queues that depend on "
            "arguments in task_queues"
        )
    for key, scheme in (("broker_url", "sqs"), ("result_backend", "dynamodb")):
        own = str(conf[key] or scheme).partition(":")[0]  # no more of it: there may be a password in the URL
        if own != scheme:
            told = f"functions are told {scheme}:// by their environment, which wins"
            yield f"{key} is one of {own} here; {told}; producers must be too, by DISPATCHER_{key.upper()}"
    for queue in queues:
        if queue.function is None:
            yield f"no function reads {queue.name}: run `dispatcher worker -Q {queue.name}` for it"
    kinds = {queue.function.runtime for queue in queues if queue.function is not None and queue.function.image is None}
    for kind in sorted(kinds - RUNTIMES):
        yield f"{kind} is newer than the runtimes of Lambda known here, up to {max(RUNTIMES)}: make sure that it is one"
    users = [*(["events.amazonaws.com"] if fires else []), *wanted.producers]
    if wanted.kms_key is not None and users:
        yield f"the policy of the key {wanted.kms_key} must let {', '.join(users)} use it (Decrypt, GenerateDataKey)"
