"""Leases, brokers that go away, and times that must be kept, with real workers."""

from __future__ import annotations

import datetime
import itertools
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from dispatcher.exceptions import NotRegistered, TaskRevokedError, WorkerLostError
from tests.emulation.redis_server import RedisServer
from tests.fault.fleet import PATIENCE, Fleet, Watch, until

DURABLE = {"appendonly": "yes", "appendfsync": "always"}
#: So that a server that hangs is noticed while the test still runs.
IMPATIENT = {"socket_timeout": 1.0, "max_retries": 1}


@pytest.fixture
def server(redis_executable: str) -> Iterator[RedisServer]:
    """A durable Redis of the test's own, to be killed and paused."""
    with RedisServer(redis_executable, options=DURABLE) as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet on each broker that several processes of one machine share."""
    if request.param == "redis":
        url = request.getfixturevalue("server").url
    else:
        url = f"sqlite:///{tmp_path / 'store.db'}"
    with Fleet(tmp_path, url) as fleet:
        yield fleet


@pytest.fixture
def redis_fleet(server: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet on the test's own Redis, that notices soon when it hangs."""
    with Fleet(
        tmp_path, server.url, broker_transport_options=IMPATIENT, result_backend_transport_options=IMPATIENT
    ) as fleet:
        yield fleet


# Leases


def test_a_run_longer_than_its_lease_is_not_repeated(fleet: Fleet) -> None:
    """In every pool the heartbeat keeps a running task leased, although idle workers wait for a message."""
    for pool in ("prefork", "threads", "asyncio"):
        fleet.start(pool, 2, prefetch=1, broker_visibility_timeout=1.0).ready()
    fleet.start("solo", prefetch=1, broker_visibility_timeout=1.0).ready()
    ids = [fleet.send("nap" if number % 3 == 0 else "work", number, 2.5) for number in range(6)]
    assert [fleet.get(task_id) for task_id in ids] == list(range(6))
    fleet.drained()
    assert [fleet.starts(task_id) for task_id in ids] == [1] * 6


def test_a_call_that_holds_the_gil_does_not_lose_the_lease(fleet: Fleet) -> None:
    """A C call that stops every thread of the process for half a lease costs no delivery, its own included."""
    fleet.start("threads", 2, prefetch=1)
    ids = [fleet.send("work", 1, 2.5), fleet.send("hold_gil", 1.0)]
    for task_id in ids:
        fleet.started(task_id)
    fleet.start("solo", prefetch=1)
    for task_id in ids:
        fleet.get(task_id)
    fleet.drained()
    assert [fleet.starts(task_id) for task_id in ids] == [1, 1]


def test_what_waits_behind_a_slow_run_is_given_back(fleet: Fleet) -> None:
    """Messages taken in advance go to another worker while the run before them goes on."""
    slow = fleet.send("work", "slow", 100.0)
    ids = [fleet.send("work", number) for number in range(5)]
    fleet.start("prefork", 1, prefetch=8, broker_visibility_timeout=600.0)
    fleet.started(slow)
    fleet.start("solo", broker_visibility_timeout=600.0)
    assert [fleet.get(task_id) for task_id in ids] == list(range(5))
    assert not fleet.effects.read("end", slow)


def test_a_worker_that_stood_still_starts_nothing_that_others_did(fleet: Fleet) -> None:
    """After a pause longer than the lease, what was taken in advance is left to those who have it now."""
    ids = [fleet.send("work", number, 0.2) for number in range(6)]
    frozen = fleet.start("solo", prefetch=8)
    fleet.started(ids[0])
    frozen.signal(signal.SIGSTOP)
    other = fleet.start("solo")
    assert [fleet.get(task_id) for task_id in ids[1:]] == [1, 2, 3, 4, 5]
    frozen.signal(signal.SIGCONT)
    assert fleet.get(ids[0]) == 0
    fleet.drained()
    for worker in (frozen, other):
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    # Only what ran when the worker stopped may have run twice.
    assert [fleet.starts(task_id) for task_id in ids[1:]] == [1] * 5


# Brokers and backends that go away


def check(fleet: Fleet, ids: list[str], watch: Watch) -> None:
    """All are done, right and final, and nothing was started after it was seen done."""
    until(watch.look, lambda: f"the end of all tasks\n{fleet.logs()}")
    assert [fleet.get(task_id) for task_id in ids] == list(range(len(ids)))
    fleet.drained()
    watch.look()
    assert not watch.regressed
    late = [line for line in fleet.effects.read("start") if line["at"] > watch.seen_final[line["id"]]]
    assert not late


def test_redis_killed_and_restarted(redis_fleet: Fleet, server: RedisServer) -> None:
    """Workers of every pool wait for a killed server and go on; with appendfsync always nothing is lost."""
    fleet = redis_fleet
    ids = [fleet.send("work", number, 0.02) for number in range(150)]
    watch = Watch(fleet, ids)
    for pool in ("prefork", "threads", "asyncio"):
        fleet.start(pool, 2)
    for share in (0.2, 0.6):
        until(lambda: watch.look() or len(watch.seen_final) > share * len(ids), "some progress")  # noqa: B023
        server.kill()
        server.start()
    check(fleet, ids, watch)
    assert all(worker.process.poll() is None for worker in fleet.workers)


def test_redis_that_hangs(redis_fleet: Fleet, server: RedisServer) -> None:
    """A server that does not answer for longer than a lease costs at most repeated runs."""
    fleet = redis_fleet
    ids = [fleet.send("work", number, 0.02) for number in range(150)]
    watch = Watch(fleet, ids)
    for pool in ("prefork", "threads", "asyncio"):
        fleet.start(pool, 2)
    until(lambda: watch.look() or len(watch.seen_final) > 20, "some progress")
    server.pause()
    time.sleep(3.0)  # the hang itself
    server.resume()
    check(fleet, ids, watch)


@pytest.mark.parametrize(
    ("begin", "end", "noticed"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "out of memory"),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "read-only replica"),
    ],
    ids=["out of memory", "read-only"],
)
def test_redis_that_refuses_to_write(
    redis_fleet: Fleet, server: RedisServer, begin: tuple[str, ...], end: tuple[str, ...], noticed: str
) -> None:
    """Results that a full or demoted server does not take are handed back or come again; nothing is lost."""
    fleet = redis_fleet
    ids = [fleet.send("work", number, 0.02) for number in range(100)]
    watch = Watch(fleet, ids)
    for pool in ("prefork", "asyncio"):
        fleet.start(pool, 2)
    until(lambda: watch.look() or len(watch.seen_final) > 10, "some progress")
    with redis.Redis(port=server.port) as operator:
        operator.execute_command(*begin)
        until(lambda: noticed in fleet.logs(), lambda: f"{noticed}\n{fleet.logs()}")
        operator.execute_command(*end)
    check(fleet, ids, watch)
    assert all(worker.process.poll() is None for worker in fleet.workers)


def test_a_worker_that_starts_before_its_redis(redis_fleet: Fleet, server: RedisServer) -> None:
    """It waits, says so, and begins once the server is there."""
    server.kill()
    worker = redis_fleet.start("prefork", 1)
    until(lambda: "out of reach" in worker.log() or worker.process.poll() is not None, "a word of the outage")
    server.start()
    assert redis_fleet.get(redis_fleet.send("work", 1)) == 1, worker.log()


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio", "solo"])
def test_a_shutdown_while_redis_is_away(redis_fleet: Fleet, server: RedisServer, pool: str) -> None:
    """On SIGTERM a worker without its server ends well; what it could not record runs again."""
    fleet = redis_fleet
    task_id = fleet.send("work", 1, 1.0)
    worker = fleet.start(pool, 1)
    fleet.started(task_id)
    server.kill()
    until(lambda: fleet.effects.read("end", task_id), "the end of the run")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0, worker.log()
    server.start()
    fleet.start("solo")
    assert fleet.get(task_id) == 1
    assert fleet.starts(task_id) == 2
    fleet.drained()


def test_a_result_backend_that_is_away(server: RedisServer, tmp_path: Path) -> None:
    """What cannot be recorded is handed back, never acknowledged, and done once the backend is there again."""
    with Fleet(
        tmp_path, f"sqlite:///{tmp_path / 'store.db'}", result_backend=server.url,
        result_backend_transport_options=IMPATIENT,
    ) as fleet:  # fmt: skip
        ids = [fleet.send("work", number, 0.5) for number in range(4)]
        for pool in ("prefork", "threads", "asyncio"):
            fleet.start(pool, 1, prefetch=2)
        until(lambda: len(fleet.effects.read("start")) >= 2, "the starts of two runs")
        server.kill()
        until(lambda: "go back" in fleet.logs(), "the hand-backs")
        server.start()
        check(fleet, ids, Watch(fleet, ids))


def test_a_locked_sqlite_file(tmp_path: Path) -> None:
    """A file that another process keeps locked for longer than a lease costs nothing but time."""
    path = tmp_path / "store.db"
    options = {"timeout": 0.3}
    with Fleet(
        tmp_path, f"sqlite:///{path}", broker_transport_options=options, result_backend_transport_options=options
    ) as fleet:
        ids = [fleet.send("work", number, 0.02) for number in range(100)]
        watch = Watch(fleet, ids)
        for pool in ("prefork", "threads", "asyncio"):
            fleet.start(pool, 2)
        until(lambda: watch.look() or len(watch.seen_final) > 10, "some progress")
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        until(lambda: "stayed locked" in fleet.logs(), "the lock to be noticed")
        time.sleep(2.5)  # longer than a lease
        connection.execute("ROLLBACK")
        connection.close()
        check(fleet, ids, watch)


def test_a_full_disk(tmp_path: Path) -> None:
    """A worker that cannot write to its file waits; nothing is lost, and a worker that can write does the work."""
    with Fleet(tmp_path, f"sqlite:///{tmp_path / 'store.db'}") as fleet:
        ids = [fleet.send("work", number) for number in range(20)]
        poor = fleet.start("prefork", 1, largest_file=16_384)
        until(lambda: poor.log().count("out of reach") > 1, lambda: f"the full disk to be noticed\n{poor.log()}")
        assert poor.process.poll() is None
        fleet.start("solo")
        check(fleet, ids, Watch(fleet, ids))


# Times and refusals


def test_a_task_that_runs_once_is_lost_with_its_worker(fleet: Fleet) -> None:
    """With acks_late=False a run whose worker is killed is not repeated and fails; a retry it asks for is kept."""
    lost = fleet.send("early", "lost", 60.0)
    victim = fleet.start("solo", prefetch=1)
    fleet.started(lost)
    victim.kill()
    retried = fleet.send("early", "retried", 0.0, 2)
    fleet.start("solo")
    assert fleet.get(retried) == "retried"
    assert isinstance(fleet.get(lost), WorkerLostError)
    fleet.drained()
    assert fleet.starts(lost) == 1
    assert fleet.starts(retried) == 3


def test_a_rolling_deploy(fleet: Fleet) -> None:
    """An old worker leaves a task it does not know to a new one; after the grace it is dead, with the reason."""
    older = fleet.start("solo", unknown_grace=600.0)
    sent = fleet.app.send_task("brand_new", (1,))
    until(lambda: "handing back" in fleet.logs(), "the hand-back")
    newer = fleet.start("threads", 8, new_release=True).ready()
    older.signal(signal.SIGTERM)  # else it may get the message again, and each time hands it back for longer
    assert sent.get(timeout=PATIENCE) == 1
    newer.signal(signal.SIGTERM)
    assert newer.wait() == 0
    for worker in fleet.workers:
        worker.close()
    fleet.start("solo", unknown_grace=0.5)
    unknown = fleet.app.send_task("brand_new", (2,))
    assert isinstance(fleet.get(unknown.id), NotRegistered)
    fleet.drained()
    assert fleet.app.broker.dead_letters("default")[0].reason["task_id"] == unknown.id


def test_nothing_runs_early_late_or_unwanted(fleet: Fleet) -> None:
    """ETAs and countdowns are never early; expired and revoked tasks do not run, delayed ones included."""
    eta = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1.2)
    sent = time.time()
    late = fleet.send("work", "late", eta=eta)
    delayed = [fleet.send("work", number, countdown=1.0 + number / 10) for number in range(4)]
    retried = fleet.send("flaky", "retried", 2)
    unwanted = [fleet.send("work", 1), fleet.send("work", 2, countdown=0.8)]
    fleet.app.revoke_tasks(unwanted)
    unwanted.append(fleet.send("work", 3, expires=0.2))
    unwanted.append(fleet.send("work", 4, countdown=0.6, expires=0.3))
    until(lambda: time.time() > sent + 0.3, "the expiry")
    for pool in ("prefork", "asyncio"):
        fleet.start(pool, 2)
    for task_id in unwanted:
        assert isinstance(fleet.get(task_id), TaskRevokedError)
    assert fleet.get(late) == "late"
    assert fleet.started(late)[0]["at"] >= eta.timestamp()
    for number, task_id in enumerate(delayed):
        assert fleet.get(task_id) == number
        assert fleet.started(task_id)[0]["at"] >= sent + 1.0 + number / 10
    assert fleet.get(retried) == "retried"
    times = [line["at"] for line in fleet.effects.read("start", retried)]
    assert all(after - before >= 0.05 for before, after in itertools.pairwise(times))
    fleet.drained()
    assert [fleet.starts(task_id) for task_id in unwanted] == [0] * 4
