"""Where broker and backend are one SQLite file, an outcome and the end of its message are one commit."""

from __future__ import annotations

import contextlib
import gc
import itertools
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from dispatcher import Dispatcher, sqlite_store
from dispatcher.backends.base import Write
from dispatcher.backends.sqlite import SQLiteBackend
from dispatcher.brokers.base import Outgoing, Settlement
from dispatcher.brokers.sqlite import SQLiteBroker
from dispatcher.clock import SYSTEM
from dispatcher.consumer.loop import ConsumerLoop
from dispatcher.exceptions import OperationalError
from dispatcher.execution import acknowledging
from dispatcher.execution.limits import NoLimits
from dispatcher.execution.run import ShutdownNow

FULL = {"synchronous": "full"}


class PowerFailure(BaseException):
    """Nothing that follows takes place."""


class Cut(SQLiteBroker):
    """A broker whose machine may lose its power before it settles, in the middle of a transaction."""

    look: Callable[[], Any] | None = None
    seen: Any = None

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Settle, or look at what is on the disk and do no more."""
        if self.look is not None:
            self.seen = self.seen or self.look()
            raise PowerFailure
        super().settle(settlements)


class World:
    """An app on a file, and what is in copies of it as another machine would find them."""

    def __init__(self, folder: Path, backend: str = "tasks.db", options: Mapping[str, Any] = FULL) -> None:
        self.folder = folder
        self.url, self.backend_url = f"sqlite:///{folder}/tasks.db", f"sqlite:///{folder}/{backend}"
        self.app = Dispatcher(
            "joint", broker=self.url, backend=self.backend_url, set_as_current=False,
            broker_transport_options=options, result_backend_transport_options=options,
        )  # fmt: skip
        self.broker = self.app._broker = Cut(self.url, options)
        self.ran: list[str] = []

        @self.app.task(name="add", bind=True)
        def add(task: Any, x: int, y: int) -> int:
            self.ran.append(task.request.id)
            return x + y

        self.app.finalize()

    def process(self) -> None:
        """Take what is there through a consumer."""
        loop = ConsumerLoop(self.app, ["default"], NoLimits(), hostname="here")
        loop._process(self.broker.receive(["default"], 10))
        loop._settle_owed()

    def after_power_failure(self) -> tuple[int, list[str]]:
        """Return how many messages and which final records there are in the file as it is on the disk now."""
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for name in ("tasks.db", "tasks.db-wal"):  # the index beside them is of the memory
            shutil.copy(self.folder / name, copy / name)
        broker, backend = SQLiteBroker(f"sqlite:///{copy}/tasks.db"), SQLiteBackend(f"sqlite:///{copy}/tasks.db")
        found = backend.read(self.sent)
        counts = broker.counts("default")
        broker.close()
        return sum(counts[:3]), [task_id for task_id, record in found.items() if record.final]

    def send(self, **options: Any) -> str:
        """Send one addition; return its id."""
        task_id = str(self.app.tasks["add"].apply_async((1, 2), **options).id)
        self.sent = [task_id]
        return task_id

    def close(self) -> None:
        """Close the files."""
        self.broker.close()
        self.app.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A new file."""
    made = World(tmp_path)
    yield made
    made.close()


def test_an_outcome_and_its_message_are_one_commit_that_waits_for_the_disk(world: World) -> None:
    """A process that is killed, or a machine without power, leaves the message or the outcome, never both."""
    task_id = world.send()
    store = sqlite_store.open_store(world.url, FULL)
    deliveries = world.broker.receive(["default"], 10)
    assert store.read("PRAGMA synchronous") == [(1,)]
    loop = ConsumerLoop(world.app, ["default"], NoLimits(), hostname="here")
    commits, _ = store.version()
    loop._process(deliveries)
    assert store.version()[0] == commits + 1
    assert store.read("PRAGMA synchronous") == [(2,)]
    assert world.after_power_failure() == (0, [task_id])


def test_without_its_commit_neither_is_there(world: World) -> None:
    """A machine that loses its power between the record and the commit finds the message, and no outcome."""
    task_id = world.send()
    world.broker.look = world.after_power_failure
    with pytest.raises(PowerFailure):
        world.process()
    assert world.broker.seen == (1, [])
    world.broker.look = None
    [delivery] = _expired(world)
    loop = ConsumerLoop(world.app, ["default"], NoLimits(), hostname="here")
    loop._process([delivery])
    loop._settle_owed()
    assert world.ran == [task_id, task_id]
    assert world.after_power_failure() == (0, [task_id])


def _expired(world: World) -> Any:
    """Receive what is leased, as if its lease had ended."""
    store = sqlite_store.open_store(world.url, FULL)
    store.write(lambda connection: connection.execute("UPDATE messages SET state = 0, rank = 0"))
    return world.broker.receive(["default"], 10)


def test_what_something_follows_keeps_its_message_until_that_is_sent(world: World) -> None:
    """The power may fail between the outcome and the callback: the message is there to send it."""
    task_id = world.send(link=world.app.tasks["add"].s(3))
    world.broker.look = world.after_power_failure
    with pytest.raises(PowerFailure):
        world.process()
    assert world.broker.seen == (2, [task_id])  # the callback's, and its own, which would send that again


def test_files_of_their_own_are_committed_each(tmp_path: Path) -> None:
    """A broker and a backend in two files, or with two durabilities, are two stores."""
    world = World(tmp_path, backend="records.db")
    assert world.broker.together(world.app.backend.store) is None
    assert world.broker.together(SQLiteBackend(world.url, {"synchronous": "normal"}).store) is None
    task_id = world.send()
    world.process()
    assert world.app.backend.read([task_id])[task_id].final
    assert world.broker.counts("default").in_flight == 0
    world.close()


def test_an_error_in_a_transaction_undoes_all_of_it(tmp_path: Path) -> None:
    """Writes of one transaction take effect together; the connection is good afterwards."""
    url = f"sqlite:///{tmp_path}/tasks.db"
    broker, backend = SQLiteBroker(url), SQLiteBackend(url)
    write = Write("1", "SUCCESS", 0, 0, 0, True, "run", SYSTEM.time() + 60)

    def work() -> None:
        broker.send([Outgoing("default", "body", "1")])
        backend.write([write])
        backend.store.write(lambda connection: connection.execute("DELETE FROM missing"))

    with pytest.raises(OperationalError, match="no such table"):
        backend.store.transaction(work)
    assert backend.read(["1"]) == {}
    assert broker.counts("default").ready == 0
    assert backend.write([write]) == [None]
    broker.close()


class Strike:
    """Raises `ShutdownNow`, as a signal's handler does, at the n-th line that runs under a function, in some files."""

    _files = ("acknowledging.py", "sqlite.py", "sqlite_store.py", "contextlib.py")

    def __init__(self, function: Any, at: int) -> None:
        self._code = function.__code__
        self._left = at
        self._inside = False
        self.struck = False

    def __enter__(self) -> Strike:
        gc.disable()  # a store of another test that is closed meanwhile is none of ours
        sys.settrace(self._call)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.settrace(None)
        gc.enable()

    def _call(self, frame: FrameType, event: str, arg: object) -> Any:
        outermost = frame.f_code is self._code
        self._inside = self._inside or outermost
        if not self._inside or Path(frame.f_code.co_filename).name not in self._files:
            return None
        seen: set[int] = set()

        def line(frame: FrameType, event: str, arg: object) -> Any:
            if event == "return" and outermost:
                self._inside = False
            # A block that is left comes to its ``with`` again, where no signal can strike before its ``__exit__``.
            if event == "line" and frame.f_lineno not in seen:
                seen.add(frame.f_lineno)
                if not self._left:
                    self.struck = True
                    raise ShutdownNow
                self._left -= 1
            return line

        return line


def test_a_cold_shutdown_at_any_line_loses_no_outcome(tmp_path: Path) -> None:
    """What was decided is recorded before the worker ends, and its message is gone, wherever the signal strikes."""
    world = World(tmp_path, options={})
    for at in itertools.count():
        task_id = world.send()
        loop = ConsumerLoop(world.app, ["default"], NoLimits(), hostname="here")
        deliveries = world.broker.receive(["default"], 10)
        with contextlib.suppress(ShutdownNow), Strike(acknowledging.write_outcomes, at) as strike:
            loop._process(deliveries)
        assert sum(world.broker.counts("default")[:3]) == 0, at
        assert world.app.backend.read([task_id])[task_id].final, at
        if not strike.struck:
            break
    assert at > 50
    world.close()
