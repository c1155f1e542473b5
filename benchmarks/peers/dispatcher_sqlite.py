"""The library of this repository on an SQLite file."""

from __future__ import annotations

import sys
from typing import ClassVar, Final

from benchmarks import work
from benchmarks.peers.base import CALL_TIMEOUT, SyncPeer
from benchmarks.work import arguments
from dispatcher import Dispatcher

URL: Final = f"sqlite:///{work.SQLITE_FILE}"
OPTIONS: Final = {"synchronous": work.SQLITE_SYNCHRONOUS}

app = Dispatcher(
    "bench",
    broker=URL,
    backend=URL,
    broker_transport_options=OPTIONS,
    result_backend_transport_options=OPTIONS,
    task_ignore_result=not work.RESULTS,
)
tasks = {name: app.task(name=f"tasks.{name}")(function) for name, function in work.WORK.items()}
add = app.task(name="tasks.add")(work.add)


class DispatcherSQLite(SyncPeer):
    """Dispatcher on a file, at its defaults but for the results and how often the disk is synced."""

    name: ClassVar[str] = "dispatcher_sqlite"
    packages: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[str] = (
        f"prefork; WAL, synchronous={work.SQLITE_SYNCHRONOUS} (normal is the default); results off unless read, then "
        "in the same file"
    )
    on_kill: ClassVar[str] = "run again when their lease ends"

    def workers(self, processes: int, concurrency: int) -> list[list[str]]:
        """Return one prefork worker."""
        pool = ["--pool", "prefork", "--concurrency", str(processes), "--loglevel", "WARNING"]
        return [[sys.executable, "-m", "dispatcher", "-A", "benchmarks.peers.dispatcher_sqlite:app", "worker", *pool]]

    def send(self) -> None:
        """Send one no-op."""
        tasks["tick"].delay()

    def send_work(self, work: str) -> None:
        """Send one task of a kind of work, with its arguments."""
        tasks[work].delay(*arguments(work))

    def send_many(self, count: int) -> None:
        """Send no-ops in one call."""
        app.send_many([tasks["tick"].s() for _ in range(count)])

    def call(self) -> int:
        """Send an addition and return its result."""
        result: int = add.delay(1, 2).get(timeout=CALL_TIMEOUT)
        return result

    def send_addition(self) -> None:
        """Refuse: sizes are compared on Redis."""
        raise NotImplementedError("no row asks for this")


PEER: Final = DispatcherSQLite()
