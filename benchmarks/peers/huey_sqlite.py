"""Huey on an SQLite file."""

from __future__ import annotations

from typing import ClassVar, Final

from huey import SqliteHuey

from benchmarks import work
from benchmarks.peers.base import CALL_TIMEOUT, SyncPeer, script
from benchmarks.work import arguments

#: Seconds between two looks of a consumer, and of who waits for a result.
LOOK: Final = 0.001

huey = SqliteHuey("bench", filename=work.SQLITE_FILE, fsync=True, timeout=30, results=work.RESULTS)
tasks = {name: huey.task(name=f"tasks.{name}")(function) for name, function in work.WORK.items()}
add = huey.task(name="tasks.add")(work.add)


class HueySQLite(SyncPeer):
    """Huey with process workers on a file."""

    name: ClassVar[str] = "huey_sqlite"
    packages: ClassVar[tuple[str, ...]] = ("huey",)
    settings: ClassVar[str] = (
        f"process workers; WAL (default), fsync=True, which is synchronous=FULL and SQLite's default; looks every "
        f"{LOOK * 1e3:g} ms for tasks and results (by default 100 ms and growing); no periodic tasks, quiet"
    )
    on_kill: ClassVar[str] = "lost (popped before they run)"

    def workers(self, processes: int, concurrency: int) -> list[list[str]]:
        """Return one consumer with its worker processes."""
        looks = ["--delay", str(LOOK), "--max-delay", str(LOOK)]
        options = ["--workers", str(processes), "--worker-type", "process", "--no-periodic", "--quiet", *looks]
        return [[script("huey_consumer"), "benchmarks.peers.huey_sqlite.huey", *options]]

    def send(self) -> None:
        """Send one no-op."""
        tasks["tick"]()

    def send_work(self, work: str) -> None:
        """Send one task of a kind of work, with its arguments."""
        tasks[work](*arguments(work))

    def call(self) -> int:
        """Send an addition and return its result."""
        result: int = add(1, 2).get(blocking=True, timeout=CALL_TIMEOUT, max_delay=LOOK)
        return result


PEER: Final = HueySQLite()
