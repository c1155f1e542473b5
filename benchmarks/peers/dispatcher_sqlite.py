"""The library of this repository on an SQLite file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from benchmarks import work
from benchmarks.peers.base import DelayPeer
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


class DispatcherSQLite(DelayPeer):
    """Dispatcher on a file, at its defaults but for the results and how often the disk is synced."""

    name: ClassVar[str] = "dispatcher_sqlite"
    tasks: ClassVar[Mapping[str, Any]] = tasks
    tick, add = tasks["tick"], add
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

    def send_many(self, count: int) -> None:
        """Send no-ops in one call."""
        app.send_many([tasks["tick"].s() for _ in range(count)])


PEER: Final = DispatcherSQLite()
