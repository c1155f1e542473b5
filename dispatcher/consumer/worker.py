"""Worker: one local worker process tree, with its options checked, its signals handled and its logs set up."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

from dispatcher import signals
from dispatcher.consumer.embedded import embedded_beat
from dispatcher.consumer.loop import ConsumerLoop
from dispatcher.consumer.names import node_name
from dispatcher.consumer.pools import AsyncioPool, Pool, SoloPool
from dispatcher.consumer.prefork import PreforkPool
from dispatcher.consumer.rates import rates_of
from dispatcher.consumer.terminations import Terminate
from dispatcher.consumer.threads import ThreadPool
from dispatcher.exceptions import ImproperlyConfigured, UnsupportedOption
from dispatcher.execution.run import ShutdownNow

logger = logging.getLogger("dispatcher.worker")

#: pool → whether it keeps soft limits, hard limits, replaces worn-out children, runs several tasks at once
POOLS = {
    "prefork": (True, True, True, True),
    "solo": (True, False, False, False),
    "threads": (False, False, False, True),
    "asyncio": (False, False, False, True),
}
_WHY_SOFT = {
    "threads": "a thread can be interrupted in Python code, but not in a call that blocks",
    "asyncio": "a coroutine can be interrupted where it awaits, and a plain function's thread not at all",
}
_WHY_HARD = "nothing outside this process is there to end it"
#: A second signal this soon is the first once more, in seconds: some supervisors signal a process and its group.
_SAME_SIGNAL = 0.1
_DEFAULT_CONCURRENCY = {"threads": 10, "asyncio": 100}


class Worker:
    """A local worker for an app; `start` runs it until a signal ends it.

    Options left `None` come from the configuration. ``set_up_logging`` is called with the worker's name once the app's
    modules are imported, so that their receivers of the logging signals are there. ``beat`` fires the app's periodic
    tasks as well. Raises `UnsupportedOption` for what
    the pool cannot do, naming the option, the reason and the alternative.
    """

    def __init__(
        self,
        app: Any,
        *,
        pool: str | None = None,
        concurrency: int | None = None,
        queues: Sequence[str] | None = None,
        hostname: str | None = None,
        prefetch: int | None = None,
        max_tasks_per_child: int | None = None,
        max_memory_per_child: int | None = None,
        handle_signals: bool = True,
        beat: bool = False,
        set_up_logging: Callable[[str], None] | None = None,
    ) -> None:
        app.conf.override(
            worker_pool=pool, worker_concurrency=concurrency, worker_prefetch_multiplier=prefetch,
            worker_max_tasks_per_child=max_tasks_per_child, worker_max_memory_per_child=max_memory_per_child,
        )  # fmt: skip
        self.app = app
        conf = app.conf
        self.pool_name: str = conf.worker_pool
        self.hostname = node_name(hostname or conf.worker_hostname)
        self.handle_signals = handle_signals
        signals.celeryd_init.send(self.hostname, instance=self, conf=conf, options={})
        app.import_default_modules()
        if set_up_logging is not None:
            set_up_logging(self.hostname)
        app.finalize()
        self.queues = self._chosen_queues(queues)
        keeps_soft, keeps_hard, replaces, parallel = POOLS[self.pool_name]
        default = _DEFAULT_CONCURRENCY.get(self.pool_name, os.cpu_count() or 1) if parallel else 1
        self.concurrency: int = conf.worker_concurrency or default
        self._rates = rates_of(app.tasks.values(), app.clock, prefork=self.pool_name == "prefork")
        self._check_pool(replaces, parallel)
        self._check_limits(keeps_soft, keeps_hard)
        self._stopping = False
        self._stop_asked_at: float | None = None
        self._pool: Pool | None = None
        self._check_shared()
        self._beat = embedded_beat(app, self.pool_name == "prefork") if beat else None
        signals.celeryd_after_setup.send(self.hostname, instance=self, conf=conf)
        signals.worker_init.send(self)

    def start(self) -> int:
        """Run until stopped by a signal; return the exit code."""
        self._pool = pool = self._make_pool()
        if self.handle_signals:
            self._install_signals()
        logger.info(
            "%s ready: %s ×%d on %s, queues %s, %d tasks", self.hostname, self.pool_name, self.concurrency,
            self.app.broker.describe(), ", ".join(self.queues), len(self.app.tasks),
        )  # fmt: skip
        signals.worker_ready.send(self)
        if self._beat is not None:
            self._beat.start()
        if self._stopping:  # before there was a pool to tell
            pool.stop()
        try:
            return pool.run()
        except ShutdownNow:  # as the pool was about to end by itself
            return 0
        finally:
            self._pool = None  # it has ended: there is nothing more to hand back, whatever is signalled
            if self._beat is not None:
                self._beat.stop()
            signals.worker_shutdown.send(self)
            self.app.close()
            logger.info("%s stopped", self.hostname)

    def stop(self) -> None:
        """Begin a warm shutdown: what runs is finished, the rest goes back. One that is yet to start ends at once."""
        self._stopping = True
        if self._pool is not None:
            self._pool.stop()

    # -- checks

    def _chosen_queues(self, queues: Sequence[str] | None) -> list[str]:
        declared = list(self.app.conf.task_queues or {})
        queues = queues or self.app.conf.worker_queues
        if queues:
            unknown = [name for name in queues if declared and name not in declared]
            if unknown and not self.app.conf.task_create_missing_queues:
                raise ImproperlyConfigured(
                    f"queue {', '.join(unknown)} is not in task_queues ({', '.join(declared)}), and "
                    "task_create_missing_queues is off"
                )
            return list(dict.fromkeys(queues))
        return declared or [self.app.conf.task_default_queue]

    def _check_pool(self, replaces: bool, parallel: bool) -> None:
        conf = self.app.conf
        if self.concurrency > 1 and not parallel:
            raise UnsupportedOption(
                f"concurrency={self.concurrency} cannot work: the {self.pool_name} pool runs one task at a time; "
                "use --pool=prefork or --pool=threads"
            )
        for option in ("worker_max_tasks_per_child", "worker_max_memory_per_child"):
            if getattr(conf, option) is not None and not replaces:
                raise UnsupportedOption(
                    f"{option}={getattr(conf, option)} cannot work: the {self.pool_name} pool has no child processes "
                    "to replace; use --pool=prefork"
                )

    def _check_limits(self, keeps_soft: bool, keeps_hard: bool) -> None:
        unkept = []
        for task in self.app.tasks.values():
            if (
                task.soft_time_limit is not None
                and not keeps_soft
                and not (self.pool_name == "asyncio" and task._is_async)
            ):
                unkept.append((task.name, f"soft_time_limit={task.soft_time_limit:g}", _WHY_SOFT[self.pool_name]))
            if task.time_limit is not None and not keeps_hard and not (self.pool_name == "asyncio" and task._is_async):
                unkept.append((task.name, f"time_limit={task.time_limit:g}", _WHY_HARD))
        if not unkept:
            return
        lines = "".join(f"\n  {name}: {option} – {reason}" for name, option, reason in unkept)
        if self.app.conf.worker_allow_unkept_limits:
            logger.warning(
                "the %s pool cannot keep these limits, as allowed by worker_allow_unkept_limits:%s",
                self.pool_name,
                lines,
            )
            return
        raise UnsupportedOption(
            f"the {self.pool_name} pool cannot keep the time limits of these tasks:{lines}\n"
            "use --pool=prefork, remove the limits, or start with --allow-unkept-limits to run without them"
        )

    def _check_shared(self) -> None:
        if self.pool_name == "prefork" and not (self.app.broker.features.shared and self.app.backend.shared):
            raise UnsupportedOption(
                f"the prefork pool cannot work on {self.app.broker.describe()}://, which only one process sees; "
                "use --pool=solo or --pool=threads, or another broker"
            )
        self.app.close()  # what the checks opened must not be shared across a fork

    # -- running

    def _make_pool(self) -> Pool:
        if self.pool_name == "prefork":
            beside = self._beat.look if self._beat is not None else None
            return PreforkPool(self.app, self.concurrency, self._make_loop, self.hostname, beside)
        if self.pool_name == "threads":
            return ThreadPool(self._make_loop, self.concurrency)
        if self.pool_name == "asyncio":
            return AsyncioPool(self._make_loop, self.concurrency)
        return SoloPool(self._make_loop)

    def _make_loop(
        self,
        limits: Any,
        number: int,
        on_tick: Callable[[], None] | None = None,
        terminate: Terminate | None = None,
    ) -> ConsumerLoop:
        conf = self.app.conf
        most = conf.worker_max_memory_per_child
        return ConsumerLoop(
            self.app,
            self.queues,
            limits,
            hostname=self.hostname,
            prefetch=conf.worker_prefetch_multiplier,
            max_tasks=conf.worker_max_tasks_per_child,
            over_memory=(lambda: resident_kib() > most) if most is not None else None,
            on_tick=on_tick,
            terminate=terminate,
            worker_rates=self._rates,
            reads_lost=number == 0,
        )

    def _install_signals(self) -> None:
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGQUIT, self._on_cold_signal)

    def _on_signal(self, signum: int, frame: Any) -> None:
        now = time.monotonic()
        if self._stop_asked_at is not None:
            if now - self._stop_asked_at > _SAME_SIGNAL:
                self._on_cold_signal(signum, frame)
            return
        self._stop_asked_at = now
        how = signal.Signals(signum).name
        logger.info("%s: warm shutdown, finishing what runs (once more: cold shutdown)", how)
        signals.worker_shutting_down.send(self.hostname, sig=how, how="Warm", exitcode=0)
        self.stop()

    def _on_cold_signal(self, signum: int, frame: Any) -> None:
        how = signal.Signals(signum).name
        logger.warning("%s: cold shutdown, handing back what is not finished", how)
        signals.worker_shutting_down.send(self.hostname, sig=how, how="Cold", exitcode=0)
        if self._pool is not None:
            self._pool.terminate()


def resident_kib() -> int:
    """Return this process' resident size in KiB."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    except OSError:
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak // 1024 if sys.platform == "darwin" else peak
