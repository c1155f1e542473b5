"""Workers in processes of their own, the app that sends to them, and what can be seen of both from outside."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from dispatcher.backends.base import TaskRecord
from dispatcher.consumer.worker import Worker
from dispatcher.local import processes
from dispatcher.signals import worker_process_init
from tests.fault.faulty_tasks import Effects, make_app

ROOT = Path(__file__).resolve().parents[2]
#: Longer than anything here takes; pytest's own limit is longer still.
PATIENCE = 120.0
#: Short leases make recovery quick.
LEASE = 2.0


def until(condition: Callable[[], Any], what: str | Callable[[], str], patience: float = PATIENCE) -> Any:
    """Return the first true value of a condition; fail if there is none in time, with ``what`` as it is then."""
    limit = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < limit, f"it never happened: {what if isinstance(what, str) else what()}"
        time.sleep(0.02)
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    return bool(processes.command(pid))


class WorkerProcess:
    """One worker started by a `Fleet`: a process, and its children where the pool has any."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def pid(self) -> int:
        """The worker's own process."""
        return self.process.pid

    def children(self) -> list[int]:
        """The processes that run tasks for it, in the prefork pool."""
        return list(processes.descendants(self.pid))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the worker's own process."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill the worker's own process alone, as a crash would."""
        self.process.kill()
        self.process.wait()

    def wait(self) -> int:
        """Wait for the worker to end; return its exit code."""
        return self.process.wait(PATIENCE)

    def log(self) -> str:
        """What it wrote."""
        return self._log.read_text(errors="replace")

    def ready(self) -> Self:
        """Wait until it is ready."""
        until(lambda: " ready: " in self.log() or self.process.poll() is not None, lambda: f"ready\n{self.log()}")
        assert self.process.poll() is None, self.log()
        return self

    def close(self) -> None:
        """Kill what is left of it."""
        processes.kill(processes.descendants(self.pid))
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


class Fleet:
    """An app on a broker, its effects, and any number of workers; everything is ended when it is closed."""

    def __init__(self, directory: Path, broker: str, **settings: Any) -> None:
        self.directory = directory
        self.broker_url = broker
        self.settings = {"broker_visibility_timeout": LEASE, **settings}
        self.effects = Effects(directory / "effects")
        self.app = make_app(broker, self.effects, **self.settings)
        self.workers: list[WorkerProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.close()
        self.app.close()

    def start(
        self,
        pool: str = "prefork",
        concurrency: int | None = 1,
        prefetch: int | None = None,
        broken_start: bool = False,
        new_release: bool = False,
        largest_file: int | None = None,
        **settings: Any,
    ) -> WorkerProcess:
        """Start a worker; settings are added to the fleet's.

        With ``broken_start`` its children fail; with ``new_release`` it knows one task more; no file it writes grows
        over ``largest_file`` bytes, as on a full disk.
        """
        broker = settings.pop("broker", self.broker_url)
        plan = {
            "broker": broker, "effects": str(self.effects.path), "settings": {**self.settings, **settings},
            "broken_start": broken_start, "new_release": new_release, "largest_file": largest_file,
            "worker": {"pool": pool, "concurrency": concurrency, "prefetch": prefetch},
        }  # fmt: skip
        log = self.directory / f"worker-{len(self.workers)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.fault.fleet", json.dumps(plan)],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        worker = WorkerProcess(process, log)
        self.workers.append(worker)
        return worker

    def send(self, name: str, *args: Any, **options: Any) -> str:
        """Send a task; return its id."""
        result = self.app.tasks[name].apply_async(args, **options)
        return str(result.id)

    def get(self, task_id: str, timeout: float = PATIENCE) -> Any:
        """Return a task's result, or the exception it ended with."""
        return self.app.AsyncResult(task_id).get(timeout=timeout, propagate=False)

    def started(self, task_id: str, times: int = 1) -> list[dict[str, Any]]:
        """Wait until a task was started so often; return its starts."""

        def enough() -> list[dict[str, Any]] | None:
            found = self.effects.read("start", task_id)
            return found if len(found) >= times else None

        found: list[dict[str, Any]] = until(enough, lambda: f"{times} starts of {task_id}\n{self.logs()}")
        return found

    def starts(self, task_id: str) -> int:
        """How often a task was started so far."""
        return len(self.effects.read("start", task_id))

    def drained(self, queue: str = "default") -> None:
        """Wait until a queue holds nothing but dead letters."""
        until(lambda: self.app.broker.counts(queue)[:3] == (0, 0, 0), lambda: f"an empty queue\n{self.logs()}")

    def logs(self) -> str:
        """The ends of the workers' logs."""
        return "\n".join(f"--- {worker.pid}\n{worker.log()[-3000:]}" for worker in self.workers)


class Watch:
    """What an onlooker sees of tasks' records: when each was first seen final, and whether that ever changed."""

    def __init__(self, fleet: Fleet, ids: Iterable[str]) -> None:
        self._fleet = fleet
        self._open = set(ids)
        self._closed: dict[str, tuple[str, str]] = {}
        self.seen_final: dict[str, float] = {}
        self.regressed: list[str] = []

    def look(self) -> bool:
        """Look once; return whether every task is final."""
        records: Mapping[str, TaskRecord] = self._fleet.app.backend.read([*self._open, *self._closed])
        now = time.time()
        for task_id, record in records.items():
            seen = (record.status, record.data)
            if task_id in self._closed:
                if self._closed[task_id] != seen or not record.final:
                    self.regressed.append(f"{task_id}: {self._closed[task_id]} became {seen}")
            elif record.final:
                self._closed[task_id] = seen
                self.seen_final[task_id] = now
                self._open.discard(task_id)
        return not self._open

    @property
    def unfinished(self) -> set[str]:
        """Tasks not seen final so far."""
        return self._open


def _brand_new(value: Any) -> Any:
    return value


def _fail(*_: Any, **__: Any) -> None:
    os._exit(7)


def _main(plan: Mapping[str, Any]) -> int:
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    logging.getLogger("dispatcher.task.outcome").setLevel(logging.WARNING)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if plan["broken_start"]:
        worker_process_init.connect(_fail, weak=False)
    app = make_app(plan["broker"], Effects(Path(plan["effects"])), **plan["settings"])
    if plan["new_release"]:
        app.task(name="brand_new")(_brand_new)
    if plan["largest_file"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (plan["largest_file"],) * 2)
    return Worker(app, **plan["worker"]).start()


if __name__ == "__main__":
    sys.exit(_main(json.loads(sys.argv[1])))
