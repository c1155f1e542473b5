"""What the harness asks of a library under test, and the loops that are timed, the same for all."""

from __future__ import annotations

import asyncio
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

from benchmarks.work import arguments

#: Calls before the clock starts: connections open, scripts loaded, caches filled.
WARM_UP: Final = 50
#: Tasks of one bulk.
BULK: Final = 1000
#: Seconds to wait for one result.
CALL_TIMEOUT: Final = 10
#: Seconds to wait for a chord.
CHORD_TIMEOUT: Final = 60


class Peer(ABC):
    """A library under test. Times are seconds."""

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    #: What was set for throughput, and what a worker killed with SIGKILL does to the tasks in its hands.
    settings: ClassVar[str]
    on_kill: ClassVar[str]

    @abstractmethod
    def workers(self, processes: int, concurrency: int) -> list[list[str]]:
        """Return the command lines that together run so many processes with so many tasks at once in each.

        With a concurrency of 0 it is one task where tasks block, and the library's default where they don't.
        """

    def variables(self, concurrency: int) -> dict[str, str]:
        """Return environment variables the workers need."""
        return {}

    @abstractmethod
    def fill(self, count: int, work: str = "tick") -> None:
        """Send so many tasks of one kind of work as fast as the library can."""

    @abstractmethod
    def send_in_turns(self, counts: Iterable[int]) -> Iterator[list[float]]:
        """Send no-ops one after the other, so many in each turn; yield how long each turn took, alone in a list."""

    @abstractmethod
    def call_in_turns(self, counts: Iterable[int]) -> Iterator[list[float]]:
        """Call tasks one after the other, so many in each turn; yield how long its calls took.

        A call lasts from sending an addition to holding its result.
        """

    def time_bulks(self, count: int) -> list[float]:
        """Return how long each of so many calls of the library's own bulk call took, `BULK` no-ops at once."""
        raise NotImplementedError(f"{self.name} has no bulk call")

    def time_groups(self, count: int) -> list[float]:
        """Return how long each of so many calls took that send a group of `BULK` members."""
        raise NotImplementedError(f"{self.name} has no groups here")

    def time_chord(self, size: int) -> float:
        """Return how long a chord of this size takes, from sending it to holding the sum of its members."""
        raise NotImplementedError(f"{self.name} has no chords here")

    def send_addition(self) -> None:
        """Send the task ``tasks.add`` with the arguments 1 and 2."""
        raise NotImplementedError(f"{self.name}: sizes are compared on Redis")


class SyncPeer(Peer):
    """A library with a blocking API."""

    @abstractmethod
    def send(self) -> None:
        """Send one no-op."""

    @abstractmethod
    def send_work(self, work: str) -> None:
        """Send one task of a kind of work, with its arguments."""

    def send_many(self, count: int) -> None:
        """Send so many no-ops: one by one, unless the library has a bulk call."""
        for _ in range(count):
            self.send()

    def call(self) -> int:
        """Send an addition and return its result."""
        raise NotImplementedError(f"{self.name} has no results here")

    def send_group(self, size: int) -> None:
        """Send a group of additions."""
        raise NotImplementedError(f"{self.name} has no groups here")

    def sum_chord(self, size: int) -> int:
        """Send a chord of additions and return the sum that its body made of their results."""
        raise NotImplementedError(f"{self.name} has no chords here")

    def fill(self, count: int, work: str = "tick") -> None:
        """Send so many tasks of one kind of work as fast as the library can."""
        if work != "tick":
            for _ in range(count):
                self.send_work(work)
            return
        for start in range(0, count, BULK):
            self.send_many(min(BULK, count - start))

    def send_in_turns(self, counts: Iterable[int]) -> Iterator[list[float]]:
        """Send no-ops one after the other, so many in each turn; yield how long each turn took, alone in a list."""
        for count in counts:
            started = time.perf_counter()
            for _ in range(count):
                self.send()
            yield [time.perf_counter() - started]

    def call_in_turns(self, counts: Iterable[int]) -> Iterator[list[float]]:
        """Call tasks one after the other, so many in each turn; yield how long its calls took."""
        for count in counts:
            yield _times(lambda: check_sum(self.call()), warm_up=0, count=count)

    def time_bulks(self, count: int) -> list[float]:
        """Return how long each of so many calls of the library's own bulk call took, `BULK` no-ops at once."""
        return _times(lambda: self.send_many(BULK), warm_up=1, count=count)

    def time_groups(self, count: int) -> list[float]:
        """Return how long each of so many calls took that send a group of `BULK` members."""
        return _times(lambda: self.send_group(BULK), warm_up=1, count=count)

    def time_chord(self, size: int) -> float:
        """Return how long a chord of this size takes, from sending it to holding the sum of its members."""
        started = time.perf_counter()
        found = self.sum_chord(size)
        elapsed = time.perf_counter() - started
        if found != size * (size + 1) // 2:
            raise SystemExit(f"error: the sum of {size} members came back as {found!r}")
        return elapsed


class DelayPeer(SyncPeer):
    """A library whose tasks are sent as Celery's are."""

    #: the library's tasks by kind of work, the no-op among them, and ``tasks.add`` where results are read
    tasks: ClassVar[Mapping[str, Any]]
    tick: Any
    add: Any

    def send(self) -> None:
        """Send one no-op."""
        self.tick.delay()

    def send_work(self, work: str) -> None:
        """Send one task of a kind of work, with its arguments."""
        self.tasks[work].delay(*arguments(work))

    def call(self) -> int:
        """Send an addition and return its result."""
        result: int = self.add.delay(1, 2).get(timeout=CALL_TIMEOUT)
        return result

    def send_addition(self) -> None:
        """Send the addition."""
        self.add.delay(1, 2)


class CanvasPeer(DelayPeer):
    """The part of a library with Celery's canvas."""

    #: ``tasks.total``, the library's group and its chord
    total: Any
    group: Any
    chord: Any

    def send_group(self, size: int) -> None:
        """Send a group of additions."""
        self.group(self.add.s(n, 1) for n in range(size)).apply_async()

    def sum_chord(self, size: int) -> int:
        """Send a chord of additions and return the sum that its body made of their results."""
        members = (self.add.s(n, 1) for n in range(size))
        found: int = self.chord(members, self.total.s()).apply_async().get(timeout=CHORD_TIMEOUT)
        return found


class AsyncPeer(Peer):
    """A library whose API must be awaited; the event loop starts before the clock."""

    @abstractmethod
    async def open(self) -> None:
        """Connect."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""

    @abstractmethod
    async def send(self) -> None:
        """Send one no-op."""

    @abstractmethod
    async def send_work(self, work: str) -> None:
        """Send one task of a kind of work, with its arguments."""

    @abstractmethod
    async def call(self) -> int:
        """Send an addition and return its result."""

    @abstractmethod
    async def add(self) -> None:
        """Send the task ``tasks.add`` with the arguments 1 and 2."""

    def fill(self, count: int, work: str = "tick") -> None:
        """Send so many tasks of one kind of work as fast as the library can."""
        asyncio.run(self._fill_loop(count, work))

    def send_in_turns(self, counts: Iterable[int]) -> Iterator[list[float]]:
        """Send no-ops one after the other, so many in each turn; yield how long each turn took, alone in a list."""
        return self._in_turns(self._send_loop, counts)

    def call_in_turns(self, counts: Iterable[int]) -> Iterator[list[float]]:
        """Call tasks one after the other, so many in each turn; yield how long its calls took."""
        return self._in_turns(self._call_loop, counts)

    def send_addition(self) -> None:
        """Send the task ``tasks.add`` with the arguments 1 and 2."""
        asyncio.run(self._send_addition())

    def _in_turns(
        self, loop: Callable[[int], Coroutine[Any, Any, list[float]]], counts: Iterable[int]
    ) -> Iterator[list[float]]:
        with asyncio.Runner() as runner:
            runner.run(self.open())
            for count in counts:
                yield runner.run(loop(count))
            runner.run(self.close())

    async def _send_loop(self, count: int) -> list[float]:
        started = time.perf_counter()
        for _ in range(count):
            await self.send()
        return [time.perf_counter() - started]

    async def _fill_loop(self, count: int, work: str) -> None:
        await self.open()
        for _ in range(count):
            await self.send_work(work)
        await self.close()

    async def _call_loop(self, count: int) -> list[float]:
        times = []
        for _ in range(count):
            started = time.perf_counter()
            check_sum(await self.call())
            times.append(time.perf_counter() - started)
        return times

    async def _send_addition(self) -> None:
        await self.open()
        await self.add()
        await self.close()


def _times(action: Callable[[], None], warm_up: int, count: int) -> list[float]:
    """Return how long each of so many actions took, after some that are not counted."""
    times = []
    for _ in range(warm_up + count):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return times[warm_up:]


def script(name: str) -> str:
    """Return the path of a console script of this environment."""
    return str(Path(sys.executable).with_name(name))


def check_sum(result: object) -> None:
    """Refuse to time a library that returns wrong results."""
    if result != 3:
        raise SystemExit(f"error: 1 + 2 came back as {result!r}")
