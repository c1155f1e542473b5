"""Any delay on memory, SQLite and Redis: once, at its second. Those on SQS: tests/fault/test_long_delays.py."""

import random
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from dispatcher.brokers.base import Delivery
from dispatcher.clock import ManualClock
from dispatcher.execution.executor import Executor
from tests.emulation.redis_server import RedisServer
from tests.unit.bench import Bench

#: How often the Redis broker looks for what is due, in seconds.
LOOK = 0.3
YEAR = 365 * 86_400.0


class OffsetClock:
    """The machine's clock, moved by some seconds."""

    def __init__(self) -> None:
        self.offset = 0.0

    def time(self) -> float:
        """Return what it shows."""
        return time.time() + self.offset

    def monotonic(self) -> float:
        """Return the machine's own, which nothing moves."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let real time pass."""
        time.sleep(seconds)


class World:
    """A broker with its backend, the time there, and workers that are made anew at will."""

    #: seconds until a receive has looked for what is due
    wait = 0.0
    #: by how much real time may pass between two lines of a test, which moves no clock by hand
    slack = 0.0

    def __init__(self, url: str, move: Callable[[float], None], clock: Any) -> None:
        self.url, self.move, self.clock = url, move, clock
        self.ran: list[tuple[float, float]] = []
        self.queue = f"delays-{uuid.uuid4().hex[:8]}"
        self.restart()

    def restart(self) -> None:
        """Let another process go on."""
        self.bench = Bench(
            self.clock, broker=self.url, backend=self.url, broker_visibility_timeout=1.0, task_default_queue=self.queue
        )

        @self.bench.app.task(name="note")
        def note(due: float) -> None:
            self.ran.append((due, self.clock.time()))

        self.note = note

    def work(self, executor: Executor, due: bool = False) -> list[Delivery]:
        """Take what there is, or is due any moment, twice: by a worker, and by one that has lost its lease unawares."""
        taken: list[Delivery] = []
        while deliveries := self.bench.app.broker.receive(
            [self.queue], 10, self.wait if taken or not due else self.wait + self.slack
        ):
            executor.process(deliveries)
            executor.process(deliveries)
            taken += deliveries
        return taken


@pytest.fixture(params=["memory", "sqlite", "redis"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Each broker; on Redis, whose server has a clock of its own, what is delayed moves instead of the clock."""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        clock, client = OffsetClock(), redis.Redis.from_url(server.url)

        def move(seconds: float) -> None:
            clock.offset += seconds
            for key in client.scan_iter(f"*{world.queue}*:delayed"):
                for member in client.zrange(key, 0, -1):
                    client.zincrby(key, -seconds * 1000, member)

        world = World(server.url, move, clock)
        world.wait, world.slack = LOOK, 20.0
    else:
        manual = ManualClock()
        place = f"/{tmp_path}/delays.db" if request.param == "sqlite" else str(uuid.uuid4())
        world = World(f"{request.param}://{place}", manual.advance, manual)
    yield world
    world.bench.app.close()


def test_any_delay_runs_once_and_on_time(world: World) -> None:
    """Delays from a second to a year: nothing a moment before, each at its time, at its first receipt, and no more."""
    rng = random.Random(7)
    delays = [1.0, 901.0, 43_201.0, YEAR, *(round(10 ** rng.uniform(0, 7.49), 2) for _ in range(4))]
    begin = world.clock.time()
    for delay in delays:
        world.note.apply_async((begin + delay,), countdown=delay)
    counts = world.bench.app.broker.counts(world.queue)
    assert (counts.delayed, counts.ready, counts.in_flight) == (len(delays), 0, 0)
    for number, due in enumerate(sorted(begin + delay for delay in delays)):
        if number % 4 == 3:
            world.bench.app.close()
            world.restart()
        executor = world.bench.executor()
        before = len(world.ran)
        if (early := due - 0.9 - world.slack) > world.clock.time():
            world.move(early - world.clock.time())
            assert world.work(executor) == [], "early"
        world.move(max(0.0, due + 0.01 - world.clock.time()))
        assert [delivery.receive_count for delivery in world.work(executor, due=True)] == [1]
        assert world.ran[before:] == [(due, pytest.approx(due, abs=1.0 + world.slack))]
        assert world.ran[-1][1] >= due
        executor.close()
    counts = world.bench.app.broker.counts(world.queue)
    assert (counts.delayed, counts.ready, counts.in_flight) == (0, 0, 0)


@pytest.mark.parametrize("world", ["redis"], indirect=True)
def test_the_server_keeps_when_a_delay_ends(world: World, redis_server: RedisServer) -> None:
    """What it moves on by its own clock is due a delay after it was sent, to some milliseconds."""
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
        for delay in (0.5, 1.0, 59.75, 901.0, 43_201.0, YEAR):
            before = seconds_of(client)
            world.note.apply_async((0.0,), countdown=delay)
            after = seconds_of(client)
            [key] = client.scan_iter(f"*{world.queue}*:delayed")
            [(_, due)] = client.zrange(key, 0, -1, withscores=True)
            assert before + delay - 0.002 <= due / 1000 <= after + delay + 0.002
            client.delete(key)


def seconds_of(client: "redis.Redis[str]") -> float:
    """Return what the server's clock shows."""
    seconds, micros = client.time()
    return seconds + micros / 1e6


def test_a_worker_whose_clock_is_behind_waits(world: World) -> None:
    """What the broker hands out is compared with the worker's clock once more: late by the difference, never early."""
    begin = world.clock.time()
    world.note.apply_async((begin + 3600,), countdown=3600)
    world.move(3601)
    back = 100.0
    if isinstance(world.clock, ManualClock):
        taken = world.bench.app.broker.receive([world.queue], 10, 0.0)
        world.clock._now -= back
        world.bench.executor().process(taken)
    else:
        world.clock.offset -= back
        world.work(world.bench.executor(), due=True)
    assert world.ran == []
    world.move(back + 1)
    world.work(world.bench.executor(), due=True)
    [(due, at)] = world.ran
    assert at >= due


def test_revoked_while_it_waits(world: World) -> None:
    """The flag outlives a wait of a year, whoever set it."""
    by_result = world.note.apply_async((0.0,), countdown=YEAR)
    by_id = world.note.apply_async((0.0,), countdown=YEAR)
    by_result.revoke()
    world.bench.app.control.revoke(by_id.id)
    assert by_result.state == "REVOKED"
    world.move(YEAR + 1)
    world.work(world.bench.executor(), due=True)
    assert (world.ran, by_id.state) == ([], "REVOKED")
